//! Tokens that stand for no text: what a tokenizer puts before one, and what ends it.

use serde_json::{Value, json};
use tokenizers::tokenizer::{Encoding, PostProcessor, Token};

/// The end-of-text token of tokenizers trained here.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

/// Names of an end-of-text token, likeliest separator of documents first: GPT-2, SmolLM2 and Qwen; Llama 3;
/// Llama 2 and Mistral; Gemma; chat models that have no other.
pub(super) const END_OF_TEXT_NAMES: [&str; 5] = [
    END_OF_TEXT,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
];

/// The token that a tokenizer puts before a text.
///
/// `add_bos_token` of `tokenizer_config.json` decides, as in `transformers`; without it, what the post-processor of
/// `tokenizer.json` does.
pub(super) fn beginning_of_text(
    inner: &tokenizers::Tokenizer,
    config: Option<&[u8]>,
) -> tokenizers::Result<Option<u32>> {
    let config: Value = config
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    match config.get("add_bos_token").and_then(Value::as_bool) {
        Some(false) => Ok(None),
        Some(true) => {
            let bos = config.get("bos_token");
            let bos = bos.and_then(|bos| bos.get("content").unwrap_or(bos).as_str());
            Ok(bos.and_then(|bos| inner.token_to_id(bos)))
        }
        None => put_before(inner),
    }
}

/// What the post-processor puts before a text of one token.
fn put_before(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Option<u32>> {
    const TEXT: u32 = u32::MAX; // the id of no token
    let Some(processor) = inner.get_post_processor() else {
        return Ok(None);
    };
    let text = Encoding::from_tokens(vec![Token::new(TEXT, "text".into(), (0, 4))], 0);
    let whole = processor.process(text, None, true)?;
    let first = whole.get_ids().first().copied();
    Ok(first.filter(|&id| inner.id_to_token(id).is_some()))
}

/// The first of the usual names, sought among special tokens before others: Gemma has a `</s>` that is HTML.
pub(super) fn end_of_text(inner: &tokenizers::Tokenizer) -> Option<u32> {
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let is_special = |id: &u32| added.get(id).is_some_and(|token| token.special);
    let ids = || {
        let names = END_OF_TEXT_NAMES.iter();
        names.filter_map(|name| inner.token_to_id(name))
    };
    ids().find(is_special).or(ids().next())
}

/// What `transformers` needs to load a `tokenizer.json`.
pub(super) fn default_config(inner: &tokenizers::Tokenizer, end_of_text: Option<u32>) -> Vec<u8> {
    let eos_token = end_of_text.and_then(|id| inner.id_to_token(id));
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos_token,
        "clean_up_tokenization_spaces": false,
    });
    format!("{config:#}\n").into_bytes()
}
