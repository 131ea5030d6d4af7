use std::process::Command;

use proptest::prelude::*;

use super::*;

fn scalar(step: u64, tag: &str, number: f32) -> Event {
    Event {
        wall_time: 1_700_000_000.25,
        step,
        values: vec![(tag.to_owned(), SummaryValue::Scalar(number))],
        ..Event::default()
    }
}

fn written(path: &Path, events: &[Event]) {
    let mut writer = EventWriter::open(path, 1_700_000_000.0).unwrap();
    for event in events {
        writer.write(event).unwrap();
    }
    writer.sync().unwrap();
}

fn steps(path: &Path) -> Vec<u64> {
    let events = read_events(path).unwrap();
    events
        .iter()
        .filter(|event| !event.values.is_empty())
        .map(|event| event.step)
        .collect()
}

#[test]
fn a_record_has_the_bytes_that_tensorflow_writes() {
    // From tensorboard 2.21: RecordWriter.write(Event(wall_time=1.5, step=300,
    // summary=Summary(value=[Value(tag="a", simple_value=0.25)])).SerializeToString()).
    let event = Event {
        wall_time: 1.5,
        ..scalar(300, "a", 0.25)
    };
    let got: Vec<String> = record(&event)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let want = concat!(
        "1800000000000000a37f4b2209000000000000f83f",
        "10ac022a0a0a080a0161150000803eb4fa9511"
    );
    assert_eq!(got.concat(), want);
}

#[test]
fn a_file_begins_with_its_version_once_and_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.out.tfevents.1");
    let events = [scalar(1, "train/loss", 2.5), scalar(2, "train/loss", -0.0)];
    written(&path, &events[..1]);
    written(&path, &events[1..]);
    let [first, second] = events;
    let want = [first_event(1_700_000_000.0), first, second];
    assert_eq!(read_events(&path).unwrap(), want);
}

#[test]
fn a_file_cut_anywhere_gives_the_whole_records_before_the_cut() {
    let events = [scalar(1, "a", 1.0), scalar(2, "b", 2.0)];
    let bytes: Vec<u8> = events.iter().flat_map(record).collect();
    let first_len = record(&events[0]).len();
    for cut in 0..=bytes.len() {
        let want = usize::from(cut >= first_len) + usize::from(cut == bytes.len());
        assert_eq!(
            parse_records(&bytes[..cut]).unwrap(),
            events[..want],
            "cut at {cut}"
        );
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_its_record_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.out.tfevents.1");
    let bytes: Vec<u8> = [scalar(1, "a", 1.0), scalar(2, "b", 2.0)]
        .iter()
        .flat_map(record)
        .collect();
    for position in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[position] ^= 0x10;
        assert!(parse_records(&bytes).is_err(), "byte {position}");
    }
    let mut bytes = bytes;
    let second = bytes.len() / 2;
    bytes[second + HEADER_BYTES + 3] ^= 1;
    write_atomically(&path, |out| out.write_all(&bytes)).unwrap();
    let error = read_events(&path).unwrap_err().to_string();
    assert!(
        error.contains(
            "events.out.tfevents.1: the record at byte 39 is damaged: its message has checksum"
        ),
        "{error}"
    );
}

#[test]
fn keeping_drops_later_steps_and_a_torn_end_and_an_empty_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.out.tfevents.1");
    let events = [1, 2, 3].map(|step| scalar(step, "train/loss", 1.0));
    written(&path, &events);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(&record(&scalar(2, "torn", 1.0))[..20]);
    write_atomically(&path, |out| out.write_all(&bytes)).unwrap();

    keep_until(&path, 2).unwrap();
    assert_eq!(steps(&path), [1, 2]);
    written(&path, &[scalar(3, "train/loss", 0.5)]);
    assert_eq!(
        steps(&path),
        [1, 2, 3],
        "what is appended after mending is read"
    );
    keep_until(&path, 0).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_message_that_is_no_event_is_refused_with_its_field() {
    let fault = |message: &[u8]| proto::decode(message).unwrap_err().to_string();
    assert_eq!(fault(&[0x09, 1, 2]), "field 1 reaches past the end");
    assert_eq!(fault(&[0x80]), "field 0 reaches past the end");
    assert_eq!(fault(&[0x08, 1]), "field 1 has wire type 0");
    assert_eq!(fault(&[0x1b]), "field 3 has wire type 3");
    assert_eq!(fault(&[0x1a, 2, 0xff, 0xfe]), "field 3 is not UTF-8");
    assert_eq!(
        fault(&[0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        "field 5 reaches past the end"
    );
    let uneven = [0x2a, 7, 0x0a, 5, 0x2a, 3, 0x32, 1, 0];
    assert_eq!(fault(&uneven), "field 6 has 1 bytes, not a multiple of 8");
}

#[test]
fn fields_of_other_writers_are_skipped() {
    let mut message = proto::encode(&scalar(7, "a", 1.0));
    message.extend([0x3a, 2, 8, 1]); // session_log: { status: START }
    assert_eq!(proto::decode(&message).unwrap(), scalar(7, "a", 1.0));
}

fn value() -> impl Strategy<Value = SummaryValue> {
    let numbers = proptest::collection::vec(-1e6f32..1e6, 1..50);
    prop_oneof![
        (-1e30f32..1e30).prop_map(SummaryValue::Scalar),
        numbers.prop_map(|numbers| SummaryValue::Histogram(Histogram::of(&numbers).unwrap())),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        wall_time in 0.0..1e10,
        step: u64,
        values in proptest::collection::vec((".{0,20}", value()), 0..4),
    ) {
        let event = Event { wall_time, step, file_version: None, values };
        prop_assert_eq!(parse_records(&record(&event)).unwrap(), [event]);
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>) {
        let _ = proto::decode(&bytes);
        let _ = parse_records(&bytes);
    }
}

/// Prints the scalars and histograms of the file named in its first argument as JSON.
const READ_WITH_TENSORBOARD: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
log = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "histograms": 0})
log.Reload()
scalars = {tag: [[e.step, e.value] for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
histograms = {tag: [[e.step, e.histogram_value.num, e.histogram_value.bucket_limit, e.histogram_value.bucket]
                    for e in log.Histograms(tag)] for tag in log.Tags()["histograms"]}
print(json.dumps([scalars, histograms]))
"#;

#[test]
fn tensorboard_reads_the_same_numbers() {
    let found = Command::new("python3")
        .args(["-c", "import tensorboard"])
        .output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 has no package `tensorboard` (`pip install tensorboard`)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.out.tfevents.0000000000.alambic");
    let mut event = scalar(4, "train/loss", 2.5);
    let histogram = Histogram::of(&[1.0, 1.0, 4.0]).unwrap();
    event.values.push((
        "weights".to_owned(),
        SummaryValue::Histogram(histogram.clone()),
    ));
    written(&path, &[event, scalar(8, "train/loss", 1.25)]);

    let output = Command::new("python3")
        .args(["-c", READ_WITH_TENSORBOARD])
        .arg(&path)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let got: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let want = serde_json::json!([
        {"train/loss": [[4, 2.5], [8, 1.25]]},
        {"weights": [[4, 3.0, histogram.bucket_limits, histogram.buckets]]},
    ]);
    assert_eq!(got, want, "{stderr}");
}
