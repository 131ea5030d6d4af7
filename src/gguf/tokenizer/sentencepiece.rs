//! SentencePiece BPE with byte fallback, used by Llama 2, Mistral and Gemma.
//!
//! SentencePiece joins the pair of highest score first; the tokenizers library joins pairs in the order of a list.
//! The list is made as in transformers' conversion of such a model (`generate_merges`).

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::{GgufError, GgufFile};
use super::{FileTokens, TokenKind, TokenizerParts, one_per_token};

pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
/// Character for a space inside tokens.
const SPACE: &str = "\u{2581}";
/// Byte token of a tab.
pub(super) const TAB: &str = "<0x09>";

pub(super) fn parts(file: &GgufFile, vocabulary: &FileTokens) -> Result<TokenizerParts, GgufError> {
    let scores = file.floats(SCORES)?;
    let scores = file.required(SCORES, scores)?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(file.wrong_value(SCORES, one_per_token(&vocabulary.tokens)));
    }
    if file.flag("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
        let key = "tokenizer.ggml.remove_extra_whitespaces";
        return Err(file.wrong_value(key, "`false`, as in all models of this kind"));
    }
    let has_bytes = vocabulary.kinds.contains(&TokenKind::Byte);
    let unknown = vocabulary
        .used()
        .find(|(_, _, kind)| *kind == TokenKind::Unknown);
    if unknown.is_none() && !has_bytes {
        return Err(file.wrong_value(UNKNOWN, "set in a vocabulary without byte tokens"));
    }
    let ids = with_tab(vocabulary.ids(file)?);
    let adds_space = file
        .flag("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    let merges = merges(vocabulary, &scores, &ids);
    Ok(TokenizerParts {
        normalizer: normalizer(adds_space),
        pre_tokenizer: Value::Null,
        decoder: decoder(adds_space),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|(_, token, _)| token),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": has_bytes,
            "ignore_merges": false,
            "vocab": ids,
            "merges": merges,
        }),
        adds_bos: true,
    })
}

/// Scores with which llama.cpp joins pairs in the order of the merges: the later the first merge that makes a token,
/// the lower its score. Tokens that no merge makes are never joined, so their score is never used.
#[expect(
    clippy::cast_precision_loss,
    reason = "a vocabulary has fewer than 2^24 merges"
)]
pub(super) fn scores(tokens: &[String], merges: &[[String; 2]]) -> Vec<f32> {
    let mut first = HashMap::new();
    for (place, [left, right]) in merges.iter().enumerate() {
        first.entry(format!("{left}{right}")).or_insert(place);
    }
    let score = |token| first.get(token).map_or(0.0, |&place| -(place as f32) - 1.0);
    tokens.iter().map(score).collect()
}

/// True if a `tokenizer.json` adds a space before each text, in its normalizer or in its pre-tokenizer.
pub(super) fn adds_space(json: &Value) -> bool {
    fn any(part: &Value, is: &impl Fn(&Value) -> bool) -> bool {
        let steps = ["normalizers", "pretokenizers"].map(|key| part[key].as_array());
        is(part)
            || steps
                .into_iter()
                .flatten()
                .flatten()
                .any(|step| any(step, is))
    }
    let prepends = |step: &Value| step["type"] == "Prepend" && step["prepend"] == SPACE;
    let is_metaspace = |step: &Value| {
        step["type"] == "Metaspace" && step["prepend_scheme"].as_str() != Some("never")
    };
    any(&json["normalizer"], &prepends) || any(&json["pre_tokenizer"], &is_metaspace)
}

/// Renames the byte token of a tab to a tab: Gemma has tokens of several tabs but not of one, and merges need it.
fn with_tab(ids: Map<String, Value>) -> Map<String, Value> {
    let has_long = ids
        .keys()
        .any(|token| token.len() > 1 && token.contains('\t'));
    if !has_long || ids.contains_key("\t") {
        return ids;
    }
    let rename = |(token, id)| match token {
        token if token == TAB => ("\t".to_owned(), id),
        token => (token, id),
    };
    ids.into_iter().map(rename).collect()
}

/// All ways to join two tokens into a third, best first: by score of the third, then by length of the first and
/// of the second, longest first, then by the ids of all three.
fn merges<'a>(
    vocabulary: &'a FileTokens,
    scores: &[f64],
    ids: &Map<String, Value>,
) -> Vec<[&'a str; 2]> {
    let id_of = |token: &str| ids.get(token).and_then(Value::as_u64);
    let mut merges = Vec::new();
    for (id, token, kind) in vocabulary.used() {
        if !matches!(kind, TokenKind::Normal | TokenKind::UserDefined) {
            continue; // control, byte and unknown tokens never result from joining text
        }
        let score = scores.get(id).copied().expect("one score per token");
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (id_of(left), id_of(right)) {
                let lengths = Reverse((left.chars().count(), right.chars().count()));
                merges.push((score, lengths, (id, left_id, right_id), [left, right]));
            }
        }
    }
    merges.sort_by(
        |(score, lengths, ids, _), (other_score, other_lengths, other_ids, _)| {
            let by_score = other_score.total_cmp(score);
            by_score.then((lengths, ids).cmp(&(other_lengths, other_ids)))
        },
    );
    merges.into_iter().map(|(.., pair)| pair).collect()
}

/// Normalizer that makes spaces visible; Llama 2 and Mistral put one before each text, Gemma does not.
fn normalizer(adds_space: bool) -> Value {
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    if !adds_space {
        return replace;
    }
    let prepend = json!({ "type": "Prepend", "prepend": SPACE });
    json!({ "type": "Sequence", "normalizers": [prepend, replace] })
}

/// Decoder for the reverse direction; `ByteFallback` does not change tokens that are not bytes.
fn decoder(adds_space: bool) -> Value {
    let replace = json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " });
    let mut steps = vec![
        replace,
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if adds_space {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}
