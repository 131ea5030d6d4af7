//! Zeros of GPTQ files of both versions, under either name.

use ::safetensors::tensor::TensorView;

use super::containers::{edit_tensor, expected, num_equal, weights};
use super::*;

const SYMMETRIC: [(&str, u32); 2] = [("gptq-4bit-g32-sym", 4), ("gptq-8bit-g32-sym", 8)];
const ASYMMETRIC: &str = "gptq-4bit-g32-asym";

/// Modules of a folder that have zeros.
fn modules(dir: &Path) -> Vec<String> {
    let files = TensorFiles::open(dir).unwrap();
    let names = files
        .names()
        .filter_map(|name| name.strip_suffix(".qzeros"));
    names.map(str::to_owned).collect()
}

/// Changes every word of the zeros of a folder.
fn edit_zeros(dir: &Path, mut change: impl FnMut(u32) -> u32) {
    let modules = modules(dir);
    assert_eq!(modules.len(), 14);
    for module in modules {
        edit_tensor(dir, &format!("{module}.qzeros"), |bytes| {
            let (words, _) = bytes.as_chunks_mut::<4>();
            for word in words {
                *word = change(u32::from_le_bytes(*word)).to_le_bytes();
            }
        });
    }
}

/// Names a version in the config; `null` names none.
fn name_version(dir: &Path, version: Value) {
    edit_json(&dir.join("config.json"), |config| {
        config["quantization_config"]["format"] = Value::Null;
        config["quantization_config"]["checkpoint_format"] = version;
    });
}

#[test]
fn symmetric_zeros_are_read_as_they_are_stored_whichever_version_is_named() {
    for (folder, bits) in SYMMETRIC {
        let middle = (u32::MAX / ((1 << bits) - 1)) << (bits - 1);
        for (stored, added) in [("gptq", 0), ("gptq_v2", u32::MAX / ((1 << bits) - 1))] {
            for named in [json!("gptq"), json!("gptq_v2"), Value::Null] {
                let dir = copy(folder);
                edit_zeros(dir.path(), |word| {
                    let word = word.wrapping_add(added);
                    assert_eq!(word == middle, stored == "gptq_v2");
                    word
                });
                name_version(dir.path(), named.clone());
                assert_eq!(num_equal(dir.path(), &expected(folder)), 21, "{folder}");
                let notes = Checkpoint::open(dir.path()).unwrap().notes();
                if named == stored || (named.is_null() && stored == "gptq") {
                    assert_eq!(notes, Vec::<String>::new());
                    continue;
                }
                let other = if stored == "gptq" { "gptq_v2" } else { "gptq" };
                let want = format!("means `{other}`, but the zeros are stored as in `{stored}`");
                assert!(notes.len() == 1 && notes[0].contains(&want), "{notes:?}");
                let path = dir.path().display().to_string();
                assert!(notes[0].contains(&path), "{notes:?}");
            }
        }
    }
}

#[test]
fn zeros_that_contradict_a_symmetric_config_are_refused_by_name() {
    let dir = copy("gptq-4bit-g32-sym");
    let modules = modules(dir.path());
    let (first, last) = (&modules[0], &modules[13]);
    let refusal_with = |module: &str, change: &dyn Fn(&mut [u8])| {
        let dir = copy("gptq-4bit-g32-sym");
        edit_tensor(dir.path(), &format!("{module}.qzeros"), change);
        refusal(dir.path())
    };
    let want = |module: &str, found: &str| {
        format!(
            "`{module}.qzeros` holds zeros of {found}, but `\"sym\": true` says that every zero of the model is 8, stored \
             as 8 or, in the first version of the format, as 7: write `\"sym\": false` in `config.json` if the zeros are right"
        )
    };
    let message = refusal_with(last, &|bytes| bytes[9] = 0x79);
    assert_eq!(message, want(last, "7 and 9"));
    let message = refusal_with(first, &|bytes| bytes[4..8].fill(0x87));
    assert_eq!(message, want(first, "7 and 8"));
    let message = refusal_with(last, &|bytes| bytes.fill(0x88));
    let found = format!("8, `{first}.qzeros` of 7");
    assert_eq!(message, want(last, &found));
    // If any zero is allowed, these are read.
    edit_tensor(dir.path(), &format!("{last}.qzeros"), |bytes| {
        bytes[9] = 0x79;
    });
    edit_json(&dir.path().join("config.json"), |config| {
        config["quantization_config"]["sym"] = json!(false);
    });
    Checkpoint::open(dir.path()).unwrap();
}

#[test]
fn zeros_of_0_in_the_first_version_of_gptq_borrow_from_their_neighbours() {
    let (second, first) = (copy(ASYMMETRIC), copy(ASYMMETRIC));
    let mut state = 1_u32;
    let mut num_zeros = 0;
    let mut zeros = |word: u32| {
        let mut word = word.wrapping_add(0x1111_1111);
        for place in 0..8 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if state >> 28 < 2 {
                word &= !(15 << (4 * place));
                num_zeros += 1;
            }
        }
        word
    };
    let mut all = Vec::new();
    edit_zeros(second.path(), |word| {
        all.push(zeros(word));
        *all.last().unwrap()
    });
    assert!(num_zeros > 500, "{num_zeros}");
    let mut stored = all.iter().map(|word| word.wrapping_sub(0x1111_1111));
    edit_zeros(first.path(), |_| stored.next().unwrap());
    name_version(second.path(), json!("gptq_v2"));
    name_version(first.path(), json!("gptq"));
    assert_eq!(weights(first.path()), weights(second.path()));
    assert_ne!(weights(first.path()), weights(&golden(ASYMMETRIC)));
}

/// A folder of other bits; its codes and zeros are the first words of the folder of 4 bits, as many as it needs.
fn with_bits(folder: &str, bits: u32) -> tempfile::TempDir {
    let dir = copy(folder);
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut packed = Vec::new();
    for (name, view) in tensors.tensors() {
        let mut shape = view.shape().to_vec();
        let axis = match name.rsplit_once('.') {
            Some((_, "qweight")) => 0,
            Some((_, "qzeros")) => 1,
            _ => usize::MAX,
        };
        let mut bytes = view.data().to_vec();
        if let Some(words) = shape.get_mut(axis) {
            *words = *words * bits as usize / 4;
            let words: usize = shape.iter().product();
            bytes = bytes.into_iter().cycle().take(4 * words).collect();
        }
        packed.push((name, view.dtype(), shape, bytes));
    }
    let views = packed.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let bytes = ::safetensors::serialize(views, None).unwrap();
    damage(&file, |old| *old = bytes);
    edit_json(&dir.path().join("config.json"), |config| {
        config["quantization_config"]["bits"] = json!(bits);
    });
    dir
}

#[test]
fn zeros_of_every_width_are_added_to_in_whole_words() {
    for (bits, ones) in [(2, 0x5555_5555_u32), (4, 0x1111_1111), (8, 0x0101_0101)] {
        let (second, first) = (with_bits(ASYMMETRIC, bits), with_bits(ASYMMETRIC, bits));
        // Some codes of 0 in every word: 1 is subtracted from them, too.
        let zeros = |word: u32| word & 0x00F0_F30F;
        edit_zeros(second.path(), zeros);
        edit_zeros(first.path(), |word| zeros(word).wrapping_sub(ones));
        name_version(second.path(), json!("gptq_v2"));
        name_version(first.path(), json!("gptq"));
        let (first, second) = (weights(first.path()), weights(second.path()));
        assert_eq!(first, second, "{bits} bits");
        let files = with_bits(ASYMMETRIC, bits);
        assert_ne!(first, weights(files.path()), "{bits} bits");
    }
}

#[test]
fn zeros_of_2_bits_tell_their_version_too() {
    let folder = "gptq-4bit-g32-sym";
    let (first, second) = (with_bits(folder, 2), with_bits(folder, 2));
    edit_zeros(first.path(), |_| 0x5555_5555);
    edit_zeros(second.path(), |_| 0xAAAA_AAAA);
    assert_eq!(weights(first.path()), weights(second.path()));
}
