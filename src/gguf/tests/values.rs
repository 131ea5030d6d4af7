//! Contents of sound files.

use serde_json::Value as Json;

use super::*;

fn from_hex(text: &Json) -> Vec<u8> {
    let text = text.as_str().unwrap().as_bytes();
    let pairs = text.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

#[test]
fn blocks_of_every_type_decode_to_the_values_of_the_reference() {
    let text = std::fs::read(golden("gguf/blocks.json")).unwrap();
    let golden: Json = serde_json::from_slice(&text).unwrap();
    let types = golden["types"].as_object().unwrap();
    assert_eq!(types.len(), TensorType::ALL.len());
    for kind in TensorType::ALL {
        let bytes = from_hex(&types[kind.name()]["bytes"]);
        let got: Vec<u8> = kind
            .decode(&bytes)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let want = from_hex(&types[kind.name()]["values"]);
        assert!(
            want.len() >= 256,
            "{}: {} values",
            kind.name(),
            want.len() / 4
        );
        assert_eq!(got, want, "{}", kind.name());
        let (len, num_bytes) = kind.block();
        assert_eq!(
            want.len() / 4 * num_bytes,
            bytes.len() * len,
            "{}",
            kind.name()
        );
    }
}

#[test]
fn keys_and_tensors_are_read_as_written_in_versions_2_and_3() {
    for version in [2, 3] {
        let draft = Draft { version, ..sound() };
        let file = opened(&draft.bytes()).unwrap();
        assert_eq!(file.text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.unsigned("a.count").unwrap(), Some(7));
        assert_eq!(
            file.float("a.eps").unwrap(),
            Some(1e-5),
            "the shortest decimal"
        );
        assert_eq!(file.flag("a.flag").unwrap(), Some(true));
        assert_eq!(
            file.texts("a.texts").unwrap().unwrap(),
            ["one", "zwei", "三"]
        );
        assert_eq!(file.floats("a.floats").unwrap().unwrap(), [0.5, -1.25]);
        assert_eq!(file.unsigned("a.type2").unwrap(), Some(0x0101));
        assert_eq!(
            file.unsigned("a.type10").unwrap(),
            Some(0x0101_0101_0101_0101)
        );
        assert_eq!(file.value("a.type1"), Some(&GgufValue::Integer(1)));
        assert_eq!(file.text("absent").unwrap(), None);
        assert_eq!(file.info("first").unwrap().shape, [2, 3]);
        assert_eq!(file.f32s("first").unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(file.f32s("second").unwrap(), [7.0, 8.0, 9.0, 10.0]);
        assert_eq!(file.num_bytes(), 40);
        assert_eq!(file.tensors().count(), 2);
    }
}

#[test]
fn a_value_of_another_type_is_told_with_both() {
    let file = opened(&sound().bytes()).unwrap();
    let told = |error: GgufError| match error {
        GgufError::Content { source, .. } => source.to_string(),
        GgufError::Io(error) => panic!("{error}"),
    };
    assert_eq!(
        told(file.unsigned("a.eps").unwrap_err()),
        "`a.eps` must be a non-negative integer, but is `0.00001`"
    );
    assert_eq!(
        told(file.unsigneds("a.ints").unwrap_err()),
        "`a.ints` must be an array of non-negative integers, but is an array of 3 values"
    );
    assert_eq!(
        told(file.texts("a.count").unwrap_err()),
        "`a.count` must be an array of texts, but is `7`"
    );
    assert_eq!(
        told(file.required::<u64>("b", None).unwrap_err()),
        "it has no key `b`"
    );
    assert_eq!(
        told(file.f32s("third").unwrap_err()),
        "it has no tensor `third`"
    );
}

#[test]
fn an_alignment_of_the_file_is_followed() {
    let mut draft = Draft {
        alignment: 128,
        ..sound()
    };
    draft.u32("general.alignment", 128);
    let file = opened(&draft.bytes()).unwrap();
    assert_eq!(file.f32s("second").unwrap(), [7.0, 8.0, 9.0, 10.0]);
}

#[test]
fn the_content_hash_sees_tensors_but_neither_places_nor_metadata() {
    let hash = |draft: &Draft| opened(&draft.bytes()).unwrap().content_hash();
    let original = hash(&sound());
    let mut same = sound();
    same.tensors.reverse();
    same.u32("another.key", 1);
    assert_eq!(hash(&same), original);
    let changes: [fn(&mut Draft); 3] = [
        |draft| draft.tensors[0].data[5] ^= 1,
        |draft| draft.tensors[0].name = "renamed".to_owned(),
        |draft| draft.tensors[0].dims = vec![2, 3],
    ];
    for change in changes {
        let mut changed = sound();
        change(&mut changed);
        assert_ne!(hash(&changed), original);
    }
}
