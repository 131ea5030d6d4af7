use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::formats::{ExportDtype, Format, TensorFiles, WriteError, tests};
use crate::model::{DecoderConfig, ParameterSpec, Schemes, parameter_specs};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn write(
    dir: &Path,
    config: &DecoderConfig,
    dtype: ExportDtype,
    weight: impl FnMut(&ParameterSpec) -> Vec<f32>,
) -> Result<(), WriteError> {
    let (format, none) = (Format::HuggingFace, Schemes::new());
    tests::write((format, &none), dir, config, dtype, weight, |_, _| {
        unreachable!("nothing is on a grid")
    })
}

/// Writes the weights of a golden folder.
fn export(name: &str, dir: &Path, dtype: ExportDtype) -> DecoderConfig {
    let source = Checkpoint::open(&golden(name)).unwrap();
    let config = source.config().clone();
    write(dir, &config, dtype, |spec| source.values(spec).unwrap()).unwrap();
    write_generation(dir, &config, source.generation()).unwrap();
    config
}

#[test]
fn bf16_exports_of_golden_folders_equal_them_byte_for_byte() {
    for name in [
        "hf-gemma",
        "hf-gemma2",
        "hf-gemma3",
        "hf-llama",
        "hf-llama-256",
        "hf-llama3-rope",
        "hf-mistral",
        "hf-olmo2",
        "hf-phi3",
        "hf-qwen2-tied",
        "hf-qwen3-tied",
        "hf-smollm2-tied",
        "hf-smollm3",
    ] {
        let dir = tempfile::tempdir().unwrap();
        export(name, dir.path(), ExportDtype::Bf16);
        let got = fs::read(dir.path().join("model.safetensors")).unwrap();
        let want = fs::read(golden(name).join("model.safetensors")).unwrap();
        assert!(
            got == want,
            "{name}: {} and {} bytes",
            got.len(),
            want.len()
        );
    }
}

#[test]
fn a_written_config_says_what_the_reference_config_says() {
    for name in ["hf-llama", "hf-llama3-rope", "hf-smollm2-tied"] {
        let dir = tempfile::tempdir().unwrap();
        export(name, dir.path(), ExportDtype::Bf16);
        for file in ["config.json", "generation_config.json"] {
            let read = |dir: &Path| -> Value {
                serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap()
            };
            let got = read(dir.path());
            let want = read(&golden(name));
            let mut num_compared = 0;
            for (key, value) in want.as_object().unwrap() {
                if key != "transformers_version" {
                    assert_eq!(got[key], *value, "{name}/{file}: {key}");
                    num_compared += 1;
                }
            }
            assert!(num_compared >= 3, "{name}/{file}");
        }
    }
}

#[test]
fn an_f32_export_gives_back_the_same_bits_and_config() {
    let dir = tempfile::tempdir().unwrap();
    let config = export("ct-w8a16-g32-sym", dir.path(), ExportDtype::F32);
    let source = Checkpoint::open(&golden("ct-w8a16-g32-sym")).unwrap();
    let read_back = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(read_back.config(), &config);
    assert!(read_back.schemes().is_empty());
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for spec in parameter_specs(&config) {
        let want = bits(source.values(&spec).unwrap());
        let got = bits(read_back.values(&spec).unwrap());
        assert!(got == want, "{}", spec.name);
    }
}

#[test]
fn bf16_rounds_to_the_nearest_and_ties_to_even() {
    let dir = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&golden("hf-llama")).unwrap();
    // Just under, at and just over half a unit in the last place, above an even and an odd value.
    let given = [0x3F80_7FFF, 0x3F80_8000, 0x3F80_8001, 0x3F81_8000];
    let want = [0x3F80_0000, 0x3F80_0000, 0x3F81_0000, 0x3F82_0000];
    write(dir.path(), source.config(), ExportDtype::Bf16, |spec| {
        let bits = given.iter().cycle().take(spec.num_elements());
        bits.map(|&bits| f32::from_bits(bits)).collect()
    })
    .unwrap();
    let files = TensorFiles::open(dir.path()).unwrap();
    let got = files.f32s("model.norm.weight", &[128]).unwrap();
    assert_eq!(got[..4], want.map(f32::from_bits));
}

#[test]
fn weights_that_would_load_as_noise_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let refusal = |dtype, name: &str, change: fn(&mut Vec<f32>)| {
        write(dir.path(), &config, dtype, |spec| {
            let mut weight = vec![0.5; spec.num_elements()];
            if spec.name == name {
                change(&mut weight);
            }
            weight
        })
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        refusal(ExportDtype::F32, "model.norm.weight", |weight| weight[3] =
            f32::NAN),
        "element 3 of `model.norm.weight` is NaN, which float32 does not hold as a finite number"
    );
    let message = refusal(ExportDtype::Bf16, "lm_head.weight", |weight| {
        weight[0] = f32::MAX;
    });
    assert!(
        message.starts_with("element 0 of `lm_head.weight` is 34028"),
        "{message}"
    );
    assert_eq!(
        refusal(ExportDtype::F32, "model.norm.weight", |weight| weight
            .truncate(5)),
        "`model.norm.weight` has 128 elements, but 5 were given"
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn tokenizer_files_are_copied_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden("hf-llama");
    let config = Checkpoint::open(&source).unwrap().config().clone();
    write_tokenizer(dir.path(), &config, &source).unwrap();
    let names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ];
    for name in names {
        let got = fs::read(dir.path().join(name)).unwrap();
        assert!(got == fs::read(source.join(name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len());
}

#[test]
fn a_bare_tokenizer_gets_a_config_that_names_its_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden("hf-llama");
    let config = Checkpoint::open(&source).unwrap().config().clone();
    write_tokenizer(dir.path(), &config, &source.join("tokenizer.json")).unwrap();
    let text = fs::read(dir.path().join("tokenizer_config.json")).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        json,
        json!({
            "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
            "model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast",
        })
    );
}

#[test]
fn a_source_without_a_tokenizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let error = write_tokenizer(dir.path(), &config, empty.path()).unwrap_err();
    assert!(
        error.to_string().ends_with("has no `tokenizer.json`"),
        "{error}"
    );
}

/// A folder with the tokenizer of a golden folder and one more file.
fn with_file(name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("hf-llama").join(name), dir.path().join(name)).unwrap();
    }
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    crate::files::write_atomically(&path, |out| out.write_all(bytes)).unwrap();
    dir
}

#[test]
fn files_of_a_tokenizer_that_nobody_can_open_are_refused_by_name() {
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    for (name, bytes, why) in [
        ("tokenizer_config.json", &b"{"[..], "not JSON"),
        ("special_tokens_map.json", b"\xFF\xFE{}", "not JSON"),
        ("chat_template.json", b"{{ messages }}", "not JSON"),
        (
            "chat_template.jinja",
            b"{{ messages }}\xFF",
            "not UTF-8 at byte 14",
        ),
        (
            "additional_chat_templates/tool.jinja",
            b"\xC3",
            "not UTF-8 at byte 0",
        ),
    ] {
        let (source, dir) = (with_file(name, bytes), tempfile::tempdir().unwrap());
        let error = write_tokenizer(dir.path(), &config, source.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(name) && message.contains(why), "{message}");
    }
    let source = with_file("tokenizer.model", b"\xFF\x00");
    write_tokenizer(tempfile::tempdir().unwrap().path(), &config, source.path()).unwrap();
}

#[test]
fn code_that_a_tokenizer_names_is_left_out_with_a_note() {
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let text = fs::read(golden("hf-llama").join("tokenizer_config.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&text).unwrap();
    let want = json.clone();
    json["auto_map"] = json!({ "AutoTokenizer": ["somebody/else--tokenizer.Mine", null] });
    let source = with_file("tokenizer_config.json", &serde_json::to_vec(&json).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let note = write_tokenizer(dir.path(), &config, source.path())
        .unwrap()
        .unwrap();
    assert!(
        note.contains("`auto_map`") && note.contains("Python code"),
        "{note}"
    );
    let text = fs::read(dir.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), want);
}
