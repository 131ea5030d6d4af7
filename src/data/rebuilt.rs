//! Tokenizers of which `transformers` 5 uses only tokens and merges, and rebuilds the rest.
//!
//! Some of its classes have a normalizer, a pre-tokenizer and a decoder of their own. `AutoTokenizer` gives a folder
//! such a class by its `tokenizer_class` or, without one, by the `model_type` of its model. Where the `tokenizer.json`
//! has other parts, the ids differ, without a warning, from the ids that the model was trained on. Observed in version
//! 5.23.0 for every class and family named here; versions before 5 load the file's contents.

use std::path::Path;

use serde_json::{Value, json};

use super::{Tokenizer, tokenizer_dir};
use crate::gguf::tokenizer::QWEN2;

/// Class that loads a file unchanged, in `transformers` 4 and 5; for all models except `qwen2`.
pub const UNCHANGED_CLASS: &str = "PreTrainedTokenizerFast";

/// Families whose tokenizers are always rebuilt, even with a `tokenizer_class`.
const ALWAYS: [(&str, &str); 1] = [("qwen2", "Qwen2Tokenizer")];

/// Families whose tokenizers are rebuilt if there is no `tokenizer_class`.
const BY_DEFAULT: [(&str, &str); 5] = [
    ("gemma", "GemmaTokenizer"),
    ("gemma2", "GemmaTokenizer"),
    ("gemma3", "GemmaTokenizer"),
    ("gemma3_text", "GemmaTokenizer"),
    ("qwen3", "Qwen2Tokenizer"),
];

/// Families whose tokenizers are always loaded unchanged, even with a `tokenizer_class`.
const NEVER: [&str; 3] = ["mistral", "olmo2", "phi3"];

/// Other classes with a constructor of their own; their parts are not compared.
const OTHERS: [&str; 40] = [
    "AlbertTokenizer",
    "BarthezTokenizer",
    "BertTokenizer",
    "BigBirdTokenizer",
    "BlenderbotTokenizer",
    "CLIPTokenizer",
    "CamembertTokenizer",
    "CohereTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "EsmcTokenizer",
    "FunnelTokenizer",
    "HerbertTokenizer",
    "LasrTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MPNetTokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PegasusTokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RobertaTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SplinterTokenizer",
    "T5Tokenizer",
    "Tipsv2Tokenizer",
    "UdopTokenizer",
    "VideoPrismTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
    "XLNetTokenizer",
];

/// A tokenizer that `transformers` 5 builds differently from its `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The class that builds it.
    pub class: String,
    /// Keys of `tokenizer.json` that differ from the class's own parts.
    pub parts: Vec<&'static str>,
    /// True if another `tokenizer_class` would load the file unchanged.
    pub is_fixed_by_class: bool,
}

impl Rebuilt {
    /// Compares `tokenizer_config.json` and `tokenizer.json`, for a model of this `model_type`, with the class's parts;
    /// `None` if the ids are those of the file.
    pub fn of(model_type: &str, config: &Value, tokenizer: &Value) -> Option<Self> {
        let class = class(model_type, config, tokenizer)?;
        let parts = match Built::by(class, config) {
            Some(built) => built.differing(tokenizer),
            None => vec!["normalizer", "pre_tokenizer", "decoder"],
        };
        (!parts.is_empty()).then(|| Self {
            class: class.to_owned(),
            parts,
            is_fixed_by_class: ALWAYS.iter().all(|(family, _)| *family != model_type),
        })
    }

    /// The same check for a tokenizer that was read from a path; `None` for a GGUF file or a file outside a model
    /// folder, which `AutoTokenizer` does not load.
    pub fn of_folder(path: &Path, model_type: &str, tokenizer: &Tokenizer) -> Option<Self> {
        tokenizer_dir(path)?;
        Self::of_tokenizer(model_type, tokenizer)
    }

    /// The same check for a tokenizer that has been read, using its own files.
    pub fn of_tokenizer(model_type: &str, tokenizer: &Tokenizer) -> Option<Self> {
        let [json, config] = tokenizer.files().map(|(_, bytes)| {
            let json: Option<Value> = serde_json::from_slice(bytes).ok();
            json.unwrap_or_default()
        });
        Self::of(model_type, &config, &json)
    }

    /// States the difference in one sentence.
    pub fn note(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|part| format!("`{part}`")).collect();
        format!(
            "transformers 5 loads this tokenizer as `{}` and ignores {} of its `tokenizer.json`, which alambic uses: ids may differ in transformers",
            self.class,
            parts.join(", ")
        )
    }
}

/// Class that rebuilds a tokenizer, if any.
fn class<'a>(model_type: &str, config: &'a Value, tokenizer: &Value) -> Option<&'a str> {
    let of_family = |families: &[(&str, &'static str)]| {
        let mut families = families.iter();
        let found = families.find(|(family, _)| *family == model_type);
        found.map(|(_, class)| *class)
    };
    if let Some(class) = of_family(&ALWAYS) {
        return Some(class);
    }
    if NEVER.contains(&model_type) {
        return None;
    }
    let Some(written) = config.get("tokenizer_class").and_then(Value::as_str) else {
        return of_family(&BY_DEFAULT);
    };
    let class = written.strip_suffix("Fast").unwrap_or(written);
    if class == "LlamaTokenizer" && has_byte_level(tokenizer) {
        return None; // many files of Llama 3 say so, and transformers recognises them
    }
    let builds = Built::by(class, config).is_some() || OTHERS.contains(&class);
    builds.then_some(class)
}

fn has_byte_level(tokenizer: &Value) -> bool {
    let keys = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];
    let mut parts = keys.iter().flat_map(|key| steps(&tokenizer[*key]));
    parts.any(|part| part["type"] == "ByteLevel")
}

/// Parts that a class builds, each as a list of its steps.
struct Built {
    normalizer: Vec<Value>,
    pre_tokenizer: Vec<Value>,
    decoder: Vec<Value>,
    byte_fallback: bool,
}

impl Built {
    fn by(class: &str, config: &Value) -> Option<Self> {
        let prefix = config.get("add_prefix_space").and_then(Value::as_bool);
        let bytes = |normalizer: &[&str], splits: Option<&str>| {
            let split = splits.map(|pattern| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false }));
            let bytes = json!({ "type": "ByteLevel", "add_prefix_space": prefix.unwrap_or(false), "use_regex": splits.is_none() });
            Self {
                normalizer: normalizer
                    .iter()
                    .map(|kind| json!({ "type": kind }))
                    .collect(),
                pre_tokenizer: split.into_iter().chain([bytes]).collect(),
                decoder: vec![json!({ "type": "ByteLevel" })],
                byte_fallback: false,
            }
        };
        let legacy = config.get("legacy").and_then(Value::as_bool);
        Some(match class {
            "GPT2Tokenizer" | "CodeGenTokenizer" => bytes(&[], None),
            "GPTNeoXTokenizer" => bytes(&["NFC"], None),
            "Qwen2Tokenizer" => bytes(&["NFC"], Some(QWEN2)),
            "Qwen3_5Tokenizer" => bytes(&["NFC"], Some(QWEN3_5)),
            "GemmaTokenizer" => Self::of_spaces("never"),
            "LlamaTokenizer" | "CodeLlamaTokenizer" => Self::of_spaces(match prefix {
                Some(false) => "never",
                _ if legacy == Some(true) && class == "LlamaTokenizer" => "always",
                _ => "first",
            }),
            _ => return None,
        })
    }

    /// Parts for SentencePiece's spaces: `▁` for each, and an optional one before the text.
    fn of_spaces(prepends: &str) -> Self {
        let mut decoder = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prepends != "never" {
            decoder.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Self {
            normalizer: Vec::new(),
            pre_tokenizer: vec![spaces(prepends)],
            decoder,
            byte_fallback: true,
        }
    }

    /// Keys of a `tokenizer.json` with other contents.
    fn differing(&self, tokenizer: &Value) -> Vec<&'static str> {
        let (normalizer, pre_tokenizer) = splitting(tokenizer);
        let model = &tokenizer["model"];
        let decoder: Vec<Value> = steps(&tokenizer["decoder"])
            .into_iter()
            .map(decoding)
            .collect();
        let keys = [
            ("normalizer", normalizer == self.normalizer),
            ("pre_tokenizer", pre_tokenizer == self.pre_tokenizer),
            ("decoder", decoder == self.decoder),
            (
                "model.byte_fallback",
                (model["byte_fallback"] == true) == self.byte_fallback,
            ),
            ("model.ignore_merges", model["ignore_merges"] != true),
        ];
        let differing = keys.into_iter().filter(|(_, is_same)| !is_same);
        differing.map(|(key, _)| key).collect()
    }
}

/// Split pattern of Qwen 3.5: marks belong to letters.
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn spaces(prepends: &str) -> Value {
    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": prepends, "split": false })
}

/// Normalizer and pre-tokenizer, without parts that do not affect ids.
fn splitting(tokenizer: &Value) -> (Vec<Value>, Vec<Value>) {
    let normalizer = steps(&tokenizer["normalizer"]);
    let mut pre_tokenizer: Vec<Value> = steps(&tokenizer["pre_tokenizer"])
        .into_iter()
        .map(splitter)
        .collect();
    let prepend = json!({ "type": "Prepend", "prepend": "▁" });
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let prepends = match normalizer.as_slice() {
        [first, then] if *first == prepend && *then == replace => "always",
        [only] if *only == replace => "never",
        _ => return (normalizer, pre_tokenizer),
    };
    // No space remains to split at.
    pre_tokenizer.retain(|step| step["type"] != "Split" || step["pattern"]["String"] != " ");
    if pre_tokenizer.is_empty() {
        return (Vec::new(), vec![spaces(prepends)]);
    }
    (normalizer, pre_tokenizer)
}

/// Steps of a part: none, one, or those of a sequence.
fn steps(part: &Value) -> Vec<Value> {
    if part.is_null() {
        return Vec::new();
    }
    if part["type"] != "Sequence" {
        return vec![part.clone()];
    }
    let lists = ["normalizers", "pretokenizers", "processors", "decoders"];
    let steps_of = |list: &&str| part[*list].as_array();
    let inner = lists.iter().find_map(steps_of).into_iter().flatten();
    inner.flat_map(steps).collect()
}

fn splitter(step: Value) -> Value {
    let flag = |key: &str, default: bool| step[key].as_bool().unwrap_or(default);
    match step["type"].as_str() {
        Some("ByteLevel") => json!({
            "type": "ByteLevel", "add_prefix_space": flag("add_prefix_space", true), "use_regex": flag("use_regex", true),
        }),
        Some("Metaspace") => {
            let older = if flag("add_prefix_space", true) {
                "always"
            } else {
                "never"
            };
            json!({
                "type": "Metaspace", "replacement": step["replacement"],
                "prepend_scheme": step["prepend_scheme"].as_str().unwrap_or(older), "split": flag("split", true),
            })
        }
        _ => step,
    }
}

/// Drops the settings of a byte-level decoder, which have no effect.
fn decoding(step: Value) -> Value {
    if step["type"] == "ByteLevel" {
        json!({ "type": "ByteLevel" })
    } else {
        step
    }
}

#[cfg(test)]
#[path = "rebuilt_tests.rs"]
mod tests;
