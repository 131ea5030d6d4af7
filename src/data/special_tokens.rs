//! Special tokens, which are not text: those that a tokenizer adds before and after a text.

use serde_json::{Value, json};
use tokenizers::tokenizer::{Encoding, PostProcessor, Token};

/// The end-of-text token of tokenizers trained here.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

/// Names of an end-of-text token, most likely separator of documents first: GPT-2, SmolLM2 and Qwen; Llama 3;
/// Llama 2 and Mistral; Gemma; chat models that have no other.
pub(super) const END_OF_TEXT_NAMES: [&str; 5] = [
    END_OF_TEXT,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
];

/// Tokens that a tokenizer adds before and after a text.
///
/// `add_bos_token` and `add_eos_token` of `tokenizer_config.json` decide, as in `transformers` 4 and llama.cpp's
/// converter; without them, the post-processor of `tokenizer.json` does.
pub(super) fn round_text(
    inner: &tokenizers::Tokenizer,
    config: Option<&[u8]>,
) -> tokenizers::Result<[Option<u32>; 2]> {
    let config: Value = config
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    let put = put_round(inner)?;
    let found = |name: &str, put: Option<u32>| match config[format!("add_{name}_token")].as_bool() {
        Some(false) => None,
        Some(true) => {
            let token = &config[format!("{name}_token")];
            let token = token.get("content").unwrap_or(token).as_str();
            token.and_then(|token| inner.token_to_id(token))
        }
        None => put,
    };
    Ok([found("bos", put[0]), found("eos", put[1])])
}

/// Tokens that the post-processor adds before and after a text of one token.
fn put_round(inner: &tokenizers::Tokenizer) -> tokenizers::Result<[Option<u32>; 2]> {
    const TEXT: u32 = u32::MAX; // the id of no token
    let Some(processor) = inner.get_post_processor() else {
        return Ok([None; 2]);
    };
    let text = Encoding::from_tokens(vec![Token::new(TEXT, "text".into(), (0, 4))], 0);
    let whole = processor.process(text, None, true)?;
    let (first, last) = (whole.get_ids().first(), whole.get_ids().last());
    Ok([first, last].map(|id| {
        let id = id.copied();
        id.filter(|&id| inner.id_to_token(id).is_some())
    }))
}

/// First of the usual names that exists, preferring special tokens: Gemma has a `</s>` that is HTML.
pub(super) fn end_of_text(inner: &tokenizers::Tokenizer) -> Option<u32> {
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let is_special = |id: &u32| added.get(id).is_some_and(|token| token.special);
    let ids = || {
        let names = END_OF_TEXT_NAMES.iter();
        names.filter_map(|name| inner.token_to_id(name))
    };
    ids().find(is_special).or(ids().next())
}

/// Minimal `tokenizer_config.json` with which `transformers` loads a `tokenizer.json`.
pub(super) fn default_config(inner: &tokenizers::Tokenizer, end_of_text: Option<u32>) -> Vec<u8> {
    let eos_token = end_of_text.and_then(|id| inner.id_to_token(id));
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos_token,
        "clean_up_tokenization_spaces": false,
    });
    format!("{config:#}\n").into_bytes()
}
