//! Golden folders, and functions that damage them.

mod containers;
mod files;
mod finite;
mod gguf;
mod misnamed;
mod other_writers;
mod packed;
mod zeros;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::model::parameter_specs;

const PLAIN: [&str; 14] = [
    "hf-gemma",
    "hf-gemma2",
    "hf-gemma3",
    "hf-llama",
    "hf-llama-256",
    "hf-llama-sharded",
    "hf-llama3-rope",
    "hf-mistral",
    "hf-olmo2",
    "hf-phi3",
    "hf-qwen2-tied",
    "hf-qwen3-tied",
    "hf-smollm2-tied",
    "hf-smollm3",
];
const PACKED: [&str; 13] = [
    "ct-fp8-dynamic",
    "ct-mixed-w4-w8a8",
    "ct-w3a16-g32-sym",
    "ct-w4a16-g128-asym",
    "ct-w4a16-g128-sym",
    "ct-w4a16-g32-asym",
    "ct-w4a8-int",
    "ct-w8a16-g32-asym",
    "ct-w8a8-int8",
    "ct-w4a16-g32-sym",
    "ct-w4a16-g32-sym-tied",
    "ct-w4a16-channel-sym",
    "ct-w8a16-g32-sym",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A copy of a golden folder that a test may damage.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    dir
}

#[expect(clippy::disallowed_methods, reason = "the test damages files")]
fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap_or_default();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = read_json(path).unwrap();
    change(&mut value);
    damage(path, |bytes| *bytes = serde_json::to_vec(&value).unwrap());
}

/// A safetensors file with this header and this many bytes of data.
fn write_raw(path: &Path, header: &str, num_data_bytes: usize) {
    damage(path, |bytes| {
        *bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + num_data_bytes, 0);
    });
}

fn refusal(dir: &Path) -> String {
    Checkpoint::open(dir).unwrap_err().to_string()
}

#[test]
fn of_a_model_with_images_the_decoder_is_read() {
    let original = Checkpoint::open(&golden("hf-gemma3")).unwrap();
    for prefix in ["language_model.model.", "model.language_model."] {
        let dir = copy("hf-gemma3");
        edit_json(&dir.path().join("config.json"), |json| {
            let text = json.take();
            *json =
                json!({ "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text });
        });
        let file = dir.path().join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> = tensors
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                (
                    format!("{prefix}{}", name.strip_prefix("model.").unwrap()),
                    view,
                )
            })
            .collect();
        let vision = tensors.tensor("model.norm.weight").unwrap();
        for name in [
            "vision_tower.encoder.layers.0.layer_norm1.bias",
            "model.vision_tower.post_layernorm.weight",
        ] {
            all.push((name.to_owned(), vision.clone()));
        }
        let bytes = ::safetensors::serialize(all, None).unwrap();
        damage(&file, |old| *old = bytes);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.config(), original.config());
        for spec in parameter_specs(original.config()) {
            assert_eq!(
                checkpoint.values(&spec).unwrap(),
                original.values(&spec).unwrap()
            );
        }
        assert_eq!(checkpoint.content_hash(), original.content_hash());
    }
}

#[test]
fn a_folder_with_nothing_but_a_gguf_file_names_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(
        golden("gguf-q4_k_m/model.gguf"),
        dir.path().join("small.gguf"),
    )
    .unwrap();
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("has no `config.json`"), "{message}");
    assert!(message.ends_with("small.gguf`"), "{message}");
}
