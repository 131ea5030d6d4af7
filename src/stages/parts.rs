//! Inputs of stages as hashes, for their keys.

use serde_json::{Value, json};

use super::inputs::{Inputs, Model};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{ROWS_VERSION, Tokenizer, TokenizerChange, TokenizerPlan};
use crate::files;
use crate::hashes::Hashes;
use crate::opened::{FileHashes, StoredModel, copied_tokenizer};
use crate::plan::Plan;
use crate::student::StudentSource;

/// Hashes of an export's tokenizer files: copied, or made of the tokenizer that was read.
pub(super) fn tokenizer_files(plan: &Plan, inputs: &Inputs) -> FileHashes {
    let (None, Some(tokenizer)) = (
        copied_tokenizer(plan, inputs.kept.as_ref()),
        &inputs.tokenizer,
    ) else {
        return inputs.copied_files.clone();
    };
    let hash =
        |(name, bytes): (&str, &[u8])| (name.to_owned(), blake3::hash(bytes).to_hex().to_string());
    let [tokenizer, config] = tokenizer.files().map(hash);
    match plan.data.tokenizer {
        TokenizerPlan::File(_) => vec![config], // the other is part of the rows' key
        TokenizerPlan::Teacher | TokenizerPlan::Train(_) => vec![tokenizer, config],
    }
}

/// BLAKE3 (hex) of a model: of all that it computes with, wherever it lies.
pub fn model_hash(model: &StoredModel, hashes: &Hashes) -> Result<String, CheckpointError> {
    match (model.checkpoint(), model.student_file()) {
        (Some(checkpoint), _) => checkpoint_hash(checkpoint, hashes),
        (None, file) => Ok(hashes.of_file(&file.expect("a model is one or the other"))?),
    }
}

/// BLAKE3 (hex) of a checkpoint: its tensors, its architecture, and their decoding, since the same tensors decoded otherwise
/// give another model.
fn checkpoint_hash(checkpoint: &Checkpoint, hashes: &Hashes) -> Result<String, CheckpointError> {
    let tensors = tensors_hash(checkpoint, hashes)?;
    let config = checkpoint.config();
    Ok(match checkpoint.quantization_json() {
        None => files::hash_json(&(tensors, config)),
        Some(quantization) => files::hash_json(&(tensors, config, quantization)),
    })
}

fn tensors_hash(checkpoint: &Checkpoint, hashes: &Hashes) -> Result<String, CheckpointError> {
    let before = checkpoint.identities()?;
    // A config decides which tensors of a file belong to the decoder, and under which names.
    let names = files::hash_json(&checkpoint.tensor_names());
    hashes.of(&format!("tensors {names}"), &before, || {
        let hash = checkpoint.content_hash();
        Ok((hash, checkpoint.identities()? == before))
    })
}

/// The text's parts without its limits: one cache serves recipes that want more or less of the same text.
///
/// Limits cut at the end of a row, so that rows are the same under each. Only a limit below one row, which pads it, makes
/// other rows.
pub(super) fn without_limits(mut data_parts: Value, plan: &Plan) -> Value {
    let data = &plan.data;
    for (name, limit) in [
        ("train_tokens", data.train_tokens),
        ("validation_tokens", data.validation_tokens),
    ] {
        let cuts_a_row = limit.filter(|&limit| limit < data.sequence_length as u64);
        if let Some(value) = data_parts.pointer_mut(&format!("/plan/{name}")) {
            *value = json!(cuts_a_row);
        }
    }
    data_parts
}

pub(super) fn student_parts(plan: &Plan, inputs: &Inputs) -> Value {
    let mut parts = source_parts(plan, inputs);
    if !plan.student.changes.is_empty() {
        parts["changes"] = json!([plan.student.changes, inputs.change]);
    }
    parts
}

fn source_parts(plan: &Plan, inputs: &Inputs) -> Value {
    match &plan.student.source {
        StudentSource::Checkpoint(_) => {
            json!({ "checkpoint": inputs.student(plan).map(Model::hash) })
        }
        StudentSource::FromTeacher { .. } => {
            json!({ "plan": plan.student.source, "teacher": inputs.teacher.as_ref().map(Model::hash) })
        }
        StudentSource::Architecture(_) => json!({ "plan": plan.student.source }),
    }
}

pub(super) fn data_parts(plan: &Plan, inputs: &Inputs) -> Value {
    let tokenizer = &inputs.tokenizer;
    let [train, validation] = &inputs.texts;
    let mut parts = json!({
        "plan": plan.data,
        "rows": ROWS_VERSION,
        "train": train,
        "validation": validation,
        "tokenizer": tokenizer.as_ref().map(Tokenizer::hash),
    });
    if tokenizer.is_none() && inputs.change != TokenizerChange::default() {
        parts["tokenizer_change"] = json!(inputs.change);
    }
    // Files beside `tokenizer.json` decide the tokens before a document, and perhaps after it.
    if let Some(begins) = tokenizer.as_ref().and_then(Tokenizer::beginning_of_text) {
        parts["beginning_of_text"] = json!(begins);
    }
    // Templates decide the text of conversations, and ends what is learnt of it.
    if let Some(tokenizer) = tokenizer
        .as_ref()
        .filter(|tokenizer| !tokenizer.templates().is_empty())
    {
        parts["templates"] = json!(files::hash_json(&tokenizer.templates()));
        parts["ends"] = json!(tokenizer.ends(&inputs.ends(plan)));
    }
    if let (Some(tokenizer), Some(teacher)) = (tokenizer, &inputs.teacher)
        && tokenizer.end_of_text().is_none()
    {
        let config = teacher.stored().config();
        parts["end_of_text"] = json!(config.eos_token_ids.first());
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn how_tensors_are_decoded_is_part_of_what_a_model_is() {
        let golden = Path::new("tests/golden/gptq-4bit-g32-asym");
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(golden).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
        let hashes = Hashes::of_this_process(0.0);
        let hash = || checkpoint_hash(&Checkpoint::open(dir.path()).unwrap(), &hashes).unwrap();
        let whole = hash();
        let path = dir.path().join("config.json");
        let text = fs::read_to_string(&path).unwrap();
        let whole_config: Value = serde_json::from_str(&text).unwrap();
        let mut config = whole_config.clone();
        let format = &mut config["quantization_config"]["checkpoint_format"];
        let other = if *format == json!("gptq_v2") {
            "gptq"
        } else {
            "gptq_v2"
        };
        *format = json!(other);
        files::write_json(&path, &config).unwrap();
        assert_ne!(hash(), whole, "zeros are counted from another number");
        files::write_json(&path, &whole_config).unwrap();
        assert_eq!(hash(), whole);
    }

    /// A golden folder whose zeros are changed, and its hash.
    fn hash_with_zeros(folder: &str, change: impl Fn(u32) -> u32) -> (Checkpoint, String) {
        let dir = tempfile::tempdir().unwrap();
        let golden = Path::new("tests/golden").join(folder);
        for name in ["config.json", "model.safetensors"] {
            fs::copy(golden.join(name), dir.path().join(name)).unwrap();
        }
        let file = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let (length, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        for name in metadata.offset_keys() {
            if let Some(info) = metadata.info(&name).filter(|_| name.ends_with(".qzeros")) {
                let (start, end) = info.data_offsets;
                let (words, _) = bytes[8 + length + start..8 + length + end].as_chunks_mut::<4>();
                for word in words {
                    *word = change(u32::from_le_bytes(*word)).to_le_bytes();
                }
            }
        }
        files::write_atomically(&file, |out| out.write_all(&bytes)).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let hash = checkpoint_hash(&checkpoint, &Hashes::of_this_process(0.0)).unwrap();
        (checkpoint, hash)
    }

    #[test]
    fn zeros_that_another_reader_would_take_for_others_are_part_of_what_a_model_is() {
        let (symmetric, asymmetric) = ("gptq-4bit-g32-sym", "gptq-4bit-g32-asym");
        let borrowed = |word: u32| word | 0xF000;
        for (folder, change, is_by_name) in [
            (symmetric, &(|word| word) as &dyn Fn(u32) -> u32, true),
            (symmetric, &|word| word + 0x1111_1111, false),
            (asymmetric, &|word| word, true),
            (asymmetric, &borrowed, false),
        ] {
            let (checkpoint, hash) = hash_with_zeros(folder, change);
            let config = Path::new("tests/golden").join(folder).join("config.json");
            let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
            let quantization = json!({ "quantization_config": config["quantization_config"] });
            let by_name =
                files::hash_json(&(checkpoint.content_hash(), checkpoint.config(), quantization));
            assert_eq!(hash == by_name, is_by_name, "{folder}");
        }
    }
}
