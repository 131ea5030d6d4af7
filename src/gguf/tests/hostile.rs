//! Files that are truncated, have flipped bits, or contain false claims.

use super::super::draft::array;
use super::*;

/// Reads everything in a file; must end for any contents.
fn read_all(bytes: &[u8]) -> Result<(), GgufError> {
    let file = opened(bytes)?;
    let _ = tokenizer::tokenizer_files(&file);
    for key in file.metadata.keys() {
        let _ = (
            file.texts(key),
            file.unsigneds(key),
            file.flags(key),
            file.floats(key),
        );
    }
    let names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let values = file.f32s(&name)?;
        assert!(
            values.len() <= 32 * bytes.len(),
            "{} values out of {} bytes",
            values.len(),
            bytes.len()
        );
    }
    file.content_hash();
    Ok(())
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let bytes = sound().bytes();
    let end = bytes.len() - 16; // the last tensor fills half of its 32 bytes
    assert!(read_all(&bytes[..end]).is_ok());
    for len in 0..end {
        let error = read_all(&bytes[..len]).expect_err("a tensor is missing");
        assert!(error.to_string().contains("model.gguf"), "{error}");
    }
}

#[test]
fn any_flipped_byte_is_refused_or_read_without_harm() {
    let bytes = sound().bytes();
    let mut num_refused = 0;
    for at in 0..bytes.len() {
        for mask in [0x01, 0x20, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] ^= mask;
            num_refused += usize::from(read_all(&flipped).is_err());
        }
    }
    assert!(
        num_refused > bytes.len(),
        "{num_refused} of {} refused",
        4 * bytes.len()
    );
}

#[test]
fn a_flipped_vocabulary_is_refused_or_read_without_harm() {
    for name in ["bpe-llama3", "spm-llama"] {
        let bytes = std::fs::read(golden(&format!("gguf/{name}.gguf"))).unwrap();
        read_all(&bytes).unwrap();
        for at in (0..bytes.len()).step_by(29) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let _ = read_all(&flipped);
        }
    }
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_reserved() {
    let bytes = sound().bytes();
    for at in [8, 16] {
        for count in [u64::MAX, 1 << 60, 1 << 40, 1000] {
            let mut huge = bytes.clone();
            huge[at..at + 8].copy_from_slice(&count.to_le_bytes());
            assert!(read_all(&huge).is_err(), "{count} at byte {at}");
        }
    }
    for (kind, len) in [
        (0, u64::MAX),
        (8, 1 << 61),
        (10, 1 << 61),
        (7, 1 << 40),
        (8, 200),
    ] {
        let mut draft = sound();
        draft.raw("a.huge", array(kind, len, &[0; 16]));
        let told = refusal(&draft);
        assert!(told.starts_with("the array `a.huge` at byte"), "{told}");
    }
    let mut draft = sound();
    draft.raw(
        "a.long",
        [&8_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat(),
    );
    let told = refusal(&draft);
    assert!(told.starts_with("the value of `a.long` at byte"), "{told}");
    assert!(told.contains("takes 18446744073709551615 bytes"), "{told}");
}

#[test]
fn headers_that_are_no_header_are_told_apart() {
    let of = |change: fn(&mut Vec<u8>)| {
        let mut bytes = sound().bytes();
        change(&mut bytes);
        match opened(&bytes) {
            Err(GgufError::Content { source, .. }) => source.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        of(|bytes| bytes[0] = b'X'),
        "not a GGUF file: it does not begin with `GGUF`"
    );
    assert_eq!(
        of(Vec::clear),
        "not a GGUF file: it does not begin with `GGUF`"
    );
    assert!(of(|bytes| bytes[4..8].reverse()).starts_with("a big-endian GGUF file"));
    assert_eq!(
        of(|bytes| bytes[4] = 1),
        "GGUF version 1; alambic reads versions 2 and 3"
    );
    assert_eq!(
        of(|bytes| bytes[4] = 9),
        "GGUF version 9; alambic reads versions 2 and 3"
    );
}

#[test]
fn keys_that_lie_are_refused() {
    let told = |key: &str, value: Vec<u8>| {
        let mut draft = sound();
        draft.raw(key, value);
        refusal(&draft)
    };
    assert_eq!(
        told("k", vec![13, 0, 0, 0]),
        "`k` has value type 13, which GGUF does not define"
    );
    assert_eq!(
        told("k", array(9, 1, &[0; 32])),
        "`k` is an array of arrays, which no known key has"
    );
    assert_eq!(
        told("k", vec![7, 0, 0, 0, 2]),
        "`k` holds 2 but must be 0 or 1, as a bool"
    );
    assert_eq!(
        told("k", array(7, 2, &[1, 3])),
        "`k` holds 3 but must be 0 or 1, as a bool"
    );
    let bad_text = [&8_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[0xff]].concat();
    assert!(told("k", bad_text).ends_with("is not UTF-8"));
    let bad_entry = array(8, 1, &[&1_u64.to_le_bytes()[..], &[0xc0]].concat());
    assert!(told("k", bad_entry).ends_with("is not UTF-8"));
    for alignment in [0, 3, 48] {
        let value = [&4_u32.to_le_bytes()[..], &u32::to_le_bytes(alignment)].concat();
        let want = format!("`general.alignment` must be a power of two, but is {alignment}");
        assert_eq!(told("general.alignment", value), want);
    }
    let mut draft = sound();
    draft.keys.push(draft.keys[1].clone());
    assert_eq!(refusal(&draft), "the key `a.count` occurs twice");
}

#[test]
fn tensors_that_lie_are_refused() {
    let told = |change: &dyn Fn(&mut Draft)| {
        let mut draft = sound();
        change(&mut draft);
        refusal(&draft)
    };
    let dims = |dims: &[u64]| {
        let dims = dims.to_vec();
        told(&|draft| draft.tensors[0].dims.clone_from(&dims))
    };
    assert!(dims(&[]).starts_with("`first` has 0 dimensions"));
    assert!(dims(&[1; 5]).starts_with("`first` has 5 dimensions"));
    for wrong in [
        &[0, 3][..],
        &[u64::MAX, 2],
        &[1 << 32, 1 << 32],
        &[1 << 62, 2, 2, 2],
    ] {
        assert!(
            dims(wrong).contains("has no elements or more than a file can hold"),
            "{wrong:?}"
        );
    }
    assert!(dims(&[1 << 40]).contains("takes 4398046511104 bytes at offset 0"));
    let kind = |kind: u32| told(&|draft| draft.tensors[0].kind = kind);
    assert!(kind(10).starts_with("`first` is stored as Q2_K; alambic reads F32, F16, BF16, Q4_0"));
    assert!(kind(39).starts_with("`first` is stored as MXFP4"));
    assert!(kind(4).starts_with("`first` is stored as type 4"));
    assert_eq!(
        kind(8),
        "the rows of `first` have 3 elements, which do not fill whole Q8_0 blocks of 32"
    );
    let offset = |offset: u64| told(&|draft| draft.tensors[0].offset = Some(offset));
    assert_eq!(
        offset(4),
        "`first` is at offset 4 of the data, which is not a multiple of 32"
    );
    for outside in [64, 1 << 40, u64::MAX - 31] {
        assert!(offset(outside).contains("but the file holds"), "{outside}");
    }
    assert_eq!(offset(32), "`first` and `second` overlap");
    let twice = told(&|draft| draft.tensors[1].name = "first".to_owned());
    assert_eq!(twice, "the tensor `first` occurs twice");
}

#[test]
fn a_type_that_was_made_smaller_leaves_a_gap_and_is_refused() {
    // F32 in the file, F16 by the directory: half of the bytes belong to nobody. So it is with the last tensor.
    let told = |change: &dyn Fn(&mut Draft)| {
        let mut draft = sound();
        draft.tensor("first", &[6, 8], &[1.0; 48]);
        draft.tensor("last", &[6, 8], &[1.0; 48]);
        change(&mut draft);
        refusal(&draft)
    };
    let names = |draft: &Draft| -> Vec<String> {
        draft
            .tensors
            .iter()
            .map(|tensor| tensor.name.clone())
            .collect()
    };
    let mut whole = sound();
    whole
        .tensor("first", &[6, 8], &[1.0; 48])
        .tensor("last", &[6, 8], &[1.0; 48]);
    assert_eq!(names(&whole), ["second", "first", "last"]);
    opened(&whole.bytes()).unwrap();
    assert_eq!(
        told(&|draft| draft.tensors[1].kind = 1),
        "`first` (F16 [6, 8]) ends at byte 128 of the data, and `last` follows at byte 224: there is a gap, so the \
         directory is not that of the data"
    );
    let message = told(&|draft| draft.tensors[2].kind = 1);
    let want = "`last` (F16 [6, 8]) ends at byte 320 of the data, and the end of the file follows at byte 416";
    assert!(message.starts_with(want), "{message}");
    // A smaller shape does the same, and so does a first tensor that is not at the beginning.
    let message = told(&|draft| draft.tensors[1].dims[1] = 1);
    assert!(message.contains("there is a gap"), "{message}");
    let mut late = sound();
    late.tensors.remove(0);
    late.tensors[0].offset = Some(32);
    late.tensors[0].data = vec![0; 64];
    assert!(
        refusal(&late).starts_with(
            "the directory ends at byte 0 of the data, and `second` follows at byte 32"
        )
    );
}
