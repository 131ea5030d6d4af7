//! Facts about a model.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Map, Value, json};

use super::InspectError;
use crate::checkpoint::Checkpoint;
use crate::data::{Tokenizer, chat_templates, tokenizer_dir};
use crate::model::{num_parameters, parameter_specs};
use crate::opened::StoredModel;

/// Special tokens that are listed by name; the others are only counted.
const NUM_NAMED: usize = 16;

/// Facts about a model, its tokenizer and its chat template.
pub(super) fn facts(model: &StoredModel) -> Result<Value, InspectError> {
    let config = model.config();
    let mut schemes: BTreeMap<String, usize> = BTreeMap::new();
    for scheme in model.schemes().values() {
        *schemes.entry(scheme.to_string()).or_insert(0) += 1;
    }
    let quantization = (!schemes.is_empty()).then_some(schemes);
    let mut facts = json!({
        "kind": "checkpoint",
        "parameters": num_parameters(config),
        "weights_bytes": model.num_bytes()?,
    });
    if let Some(checkpoint) = model.checkpoint() {
        facts["tensors"] = json!(checkpoint.num_tensors());
        facts["quantization"] = json!(quantization);
        facts["types"] = types(checkpoint);
        facts["content_blake3"] = json!(checkpoint.content_hash());
    } else {
        facts["quantization"] = json!(quantization);
    }
    if let Some(header) = model.student_header() {
        let layers = config.num_hidden_layers;
        facts["pruned_matrices"] = json!(header.num_masked);
        facts["own_layers"] = json!(layers / header.layer_repeats);
    }
    facts["tokenizer"] = match model.tokenizer() {
        Ok(tokenizer) => tokenizer_facts(&tokenizer, model),
        Err(error) => json!({ "error": error.to_string() }),
    };
    facts["chat_template"] = template(model)?;
    facts["config"] = json!(config);
    let notes = model.notes();
    if !notes.is_empty() {
        facts["notes"] = json!(notes);
    }
    Ok(facts)
}

/// Number of tensors of each part by the type that they are stored as.
fn types(checkpoint: &Checkpoint) -> Value {
    let mut parts: Map<String, Value> = Map::new();
    let stored: BTreeMap<_, _> = checkpoint.stored_types().into_iter().collect();
    for spec in parameter_specs(checkpoint.config()) {
        let Some(kind) = stored.get(&spec.id) else {
            continue;
        };
        let part = parts
            .entry(spec.id.part.word())
            .or_insert_with(|| json!({}));
        let count = part[kind].as_u64().unwrap_or_default();
        part[kind] = json!(count + 1);
    }
    Value::Object(parts)
}

fn tokenizer_facts(tokenizer: &Tokenizer, model: &StoredModel) -> Value {
    let named = |id: u32| {
        let token = tokenizer.token(id).unwrap_or_default();
        format!("{token} ({id})")
    };
    let specials = tokenizer.special_tokens();
    let ends = model.config().eos_token_ids.iter().copied();
    json!({
        "kind": tokenizer.kind(),
        "tokens": tokenizer.vocab_size(),
        "special_tokens": specials.len(),
        "special": specials.into_iter().take(NUM_NAMED).map(named).collect::<Vec<_>>(),
        "begins_with": tokenizer.beginning_of_text().map(named),
        "separates_with": tokenizer.end_of_text().map(named),
        "ends_with": ends.map(named).collect::<Vec<_>>(),
    })
}

/// The chat templates of a model with their bytes, and where the default one is.
fn template(model: &StoredModel) -> Result<Value, InspectError> {
    let Ok(tokenizer) = model.tokenizer() else {
        return Ok(Value::Null);
    };
    let [_, (name, config)] = tokenizer.files();
    let config: Value = serde_json::from_slice(config).map_err(io::Error::other)?;
    let dir = tokenizer_dir(model.path());
    let inline = chat_templates(&config, None)?;
    let all = chat_templates(&config, dir.as_deref())?;
    let Some((_, first)) = all.first() else {
        return Ok(json!({ "present": false }));
    };
    let place = match (model.gguf(), inline.iter().any(|(_, text)| text == first)) {
        (Some(_), _) => "key `tokenizer.chat_template` of the file".to_owned(),
        (None, true) => name.to_owned(),
        (None, false) => "a file beside the tokenizer".to_owned(),
    };
    let bytes: Map<String, Value> = all
        .iter()
        .map(|(name, text)| (name.clone(), json!(text.len())))
        .collect();
    Ok(json!({ "present": true, "where": place, "text_bytes": bytes }))
}
