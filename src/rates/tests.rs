//! Speeds that are known, and those that are not; the file that holds them.

use super::*;

fn speed(kind: WorkKind, parameters: u64, per_sec: f64) -> Speed {
    Speed {
        kind,
        parameters,
        per_sec,
        secs: 10.0,
    }
}

fn work(kind: WorkKind, parameters: u64) -> Work {
    Work {
        kind,
        parameters,
        amount: 1e12,
    }
}

fn rates(measured: &[Speed]) -> Rates {
    Rates {
        measured: measured.to_vec(),
        cores: 2,
    }
}

fn machine() -> Machine {
    Machine::here("1.2.3", "flex")
}

#[test]
fn a_speed_that_was_measured_gives_one_time_and_an_unknown_one_a_range() {
    let train = work(WorkKind::Train, 1 << 20);
    let unknown = Rates::unknown(2).secs(&train);
    assert!(!unknown.is_known());
    assert!((unknown.most / unknown.least - UNKNOWN * UNKNOWN).abs() < 1e-9);
    let known = rates(&[speed(WorkKind::Train, 1 << 20, 1e11)]);
    let time = known.secs(&train);
    assert!(
        time.is_known() && (time.likely - 10.0).abs() < 1e-9,
        "{time:?}"
    );
    assert_eq!(time.to_string(), "10 s");
    // Another kind is as much faster than assumed as the measured one, but remains a range.
    let other = known.secs(&work(WorkKind::Evaluate, 1 << 20));
    assert!(!other.is_known());
    let faster = 1e11 / known.assumed(WorkKind::Train, 1 << 20);
    let want = 1e12 / known.assumed(WorkKind::Evaluate, 1 << 20) / faster;
    assert!((other.likely - want).abs() < 1e-9, "{other:?}, {want}");
    let most = Secs {
        likely: 60.0,
        least: 24.0,
        most: 150.0,
    };
    assert_eq!(most.to_string(), "24 s to 2 min 30 s");
}

#[test]
fn between_two_measured_sizes_the_speed_goes_evenly_from_one_to_the_other() {
    let assumed = |parameters| rates(&[]).assumed(WorkKind::Train, parameters);
    let (small, large) = (1 << 20, 1 << 26);
    let known = rates(&[
        speed(WorkKind::Train, large, 4.0 * assumed(large)),
        speed(WorkKind::Train, small, assumed(small)),
    ]);
    for (parameters, ratio) in [
        (1, 1.0),
        (small, 1.0),
        (1 << 23, 2.0),
        (large, 4.0),
        (1 << 40, 4.0),
    ] {
        let secs = known.secs(&work(WorkKind::Train, parameters)).likely;
        let want = 1e12 / (ratio * assumed(parameters));
        assert!(
            (secs / want - 1.0).abs() < 1e-9,
            "{parameters}: {secs}, {want}"
        );
    }
}

#[test]
fn speeds_are_added_to_those_of_earlier_runs_and_a_damaged_file_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alambic/rates-0.json");
    let machine = machine();
    add(&path, &machine, vec![speed(WorkKind::Train, 1000, 1e10)]).unwrap();
    add(
        &path,
        &machine,
        vec![
            speed(WorkKind::Train, 1001, 4e10),
            speed(WorkKind::Store, 1, 1e8),
        ],
    )
    .unwrap();
    let measured = stored(&path, &machine).unwrap();
    assert_eq!(measured.len(), 2, "{measured:?}");
    // Five seconds at 1e10, ten at 4e10.
    let want = 1e10 * 4.0_f64.powf(2.0 / 3.0);
    assert!(
        (measured[0].per_sec / want - 1.0).abs() < 1e-9,
        "{measured:?}"
    );

    let other = Machine {
        cores: 1000,
        ..machine.clone()
    };
    assert!(stored(&path, &other).is_err());
    let whole = files::read_to_string(&path).unwrap();
    let damaged = [
        "{".to_owned(),
        whole.replace("\"per_sec\": 1", "\"per_sec\": -1"),
        whole.replace("\"secs\": 10.0", "\"secs\": 1e999"),
        whole.replace("\"store\"", "\"sleep\""),
        " ".repeat(2 << 20),
    ];
    for text in damaged {
        files::write_atomically(&path, |out| out.write_all(text.as_bytes())).unwrap();
        assert!(
            stored(&path, &machine).is_err(),
            "{}",
            &text[..text.len().min(300)]
        );
        add(&path, &machine, vec![speed(WorkKind::Train, 1000, 1e10)]).unwrap();
        assert_eq!(stored(&path, &machine).unwrap().len(), 1);
    }
}

#[test]
fn files_of_many_other_machines_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    for version in 0..12 {
        let machine = Machine::here(&version.to_string(), "flex");
        let path = dir.path().join(format!("{PREFIX}{version}.json"));
        add(&path, &machine, vec![speed(WorkKind::Train, 1000, 1e10)]).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MOST_FILES + 1);
}
