//! The tokenizer in a file: its keys, and the check that it gives the student's ids.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::GgufModel;
use crate::data::{TokenRows, Tokenizer, chat_templates};
use crate::formats::WriteError;
use crate::gguf::NewValue;
use crate::gguf::tokenizer::{Ends, TokenizerSource, tokenizer_metadata};
use crate::progress;

/// Keys and values of the tokenizer. Logs a note for each fact that a file cannot hold.
pub(super) fn keys(model: &GgufModel<'_>) -> Result<Vec<(String, NewValue)>, WriteError> {
    let [(name, bytes), (_, config_bytes)] = model.tokenizer.files();
    let json: Value = serde_json::from_slice(bytes).map_err(|source| WriteError::Json {
        path: PathBuf::from(name),
        source,
    })?;
    let config: Value = serde_json::from_slice(config_bytes).unwrap_or_default();
    let templates = chat_templates(&config, model.template_dir)?;
    let begins = model.tokenizer.beginning_of_text();
    let (ends, adds_eos) = ends(model);
    let metadata = tokenizer_metadata(TokenizerSource {
        tokenizer: &json,
        num_rows: model.config.vocab_size,
        bos: begins.or(model.config.bos_token_id),
        adds_bos: begins.is_some(),
        adds_eos,
        eos: &ends,
        padding: model.config.pad_token_id,
        chat_templates: &templates,
    })?;
    log_lost_tokens(model.tokenizer, &ends, adds_eos);
    Ok(metadata)
}

/// Tokens that end a text, and whether the first of them is appended to each text: llama.cpp can append no other. An id
/// without a token ends nothing.
fn ends(model: &GgufModel<'_>) -> (Vec<u32>, bool) {
    let mut ends = model.config.eos_token_ids.clone();
    ends.retain(|&id| (id as usize) < model.config.vocab_size);
    let after = model.tokenizer.after_text();
    let place = ends.iter().position(|&id| Some(id) == after);
    if let Some(place) = place {
        ends[..=place].rotate_right(1);
    }
    (ends, place.is_some())
}

fn log_lost_tokens(tokenizer: &Tokenizer, ends: &[u32], adds_eos: bool) {
    let named = |id: u32| tokenizer.token(id).unwrap_or_else(|| id.to_string());
    if let Some(id) = tokenizer.after_text().filter(|_| !adds_eos) {
        progress::log(&format!(
            "note: a GGUF file cannot say that the tokenizer appends `{}` to a text, because the model has no such end-of-text token",
            named(id)
        ));
    }
    let texts: Vec<Option<String>> = ends.iter().map(|&id| tokenizer.token(id)).collect();
    let text = |id: u32| {
        let place = ends.iter().position(|&end| end == id)?;
        texts[place].as_deref()
    };
    let left = Ends::of(ends, text).left;
    if !left.is_empty() {
        let left: Vec<String> = left
            .into_iter()
            .map(|id| format!("`{}`", named(id)))
            .collect();
        progress::log(&format!(
            "note: a GGUF file has no key for more than three end-of-text tokens: llama.cpp will not stop at {}",
            left.join(", ")
        ));
    }
}

/// Rows of validation text that both tokenizers read.
const NUM_ROWS: usize = 8;

/// Number of ids shown from the first difference on.
const MAX_SHOWN_IDS: usize = 8;

/// Text that distinguishes rules of splitting: digits, capitals, marks, white space, other scripts.
const PROBE: &str = "I've 12345 apples, we'LL  share\n\n\tthem: x=y+1.5e-3;\r\n Ünïcode ｆｕｌｌ 日本語 한국어 नमस्ते 😀👩‍👩‍👧 don't.  \n";

/// Checks that the tokenizer in the file gives the student's ids, on validation text and a probe.
pub fn check_tokenizer(
    path: &Path,
    tokenizer: &Tokenizer,
    rows: &TokenRows,
) -> Result<(), WriteError> {
    let carried = Tokenizer::open(path)?;
    let decoded = (0..rows.num_rows().min(NUM_ROWS))
        .map(|row_idx| tokenizer.decode(rows.inputs(row_idx).tokens()));
    let mut texts = decoded.collect::<Result<Vec<_>, _>>()?;
    texts.push(PROBE.to_owned());
    for text in texts {
        let (got, want) = (carried.encode(&text)?, tokenizer.encode(&text)?);
        if let Some(first) = first_difference(&got, &want) {
            let some = |ids: &[u32]| -> Vec<u32> {
                let ids = ids.iter().skip(first).take(MAX_SHOWN_IDS);
                ids.copied().collect()
            };
            let (got, want) = (some(&got), some(&want));
            let text = tokenizer.decode(&want)?;
            return Err(WriteError::OtherIds { text, got, want });
        }
    }
    Ok(())
}

fn first_difference(got: &[u32], want: &[u32]) -> Option<usize> {
    let longest = got.len().max(want.len());
    (0..longest).find(|&place| got.get(place) != want.get(place))
}
