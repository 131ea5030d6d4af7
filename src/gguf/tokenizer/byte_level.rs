//! Byte-level BPE, used by GPT-2, Llama 3, Qwen and SmolLM.

use serde_json::{Value, json};

use super::super::{GgufError, GgufFile};
use super::{FileTokens, TokenizerParts};

pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// Splits of Llama 3: words with the preceding character, up to three digits, runs of other characters.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Splits like `LLAMA3`, but each digit is separate.
pub const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Splits of Mistral's Tekken: a capital letter begins a word.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Rule of llama.cpp for files that name none: splits that are applied one after another.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// A family's rule for splitting text into words.
struct Rule {
    /// Names of the rule in llama.cpp.
    names: &'static [&'static str],
    normalizer: Option<&'static str>,
    /// Splits before the bytes are mapped to characters.
    splits: Splits,
    /// True if a word that is a token is kept whole, without applying merges.
    ignores_merges: bool,
    adds_bos: bool,
}

enum Splits {
    /// GPT-2's split, which the byte-level step includes.
    Gpt2,
    /// Each digit separately, then GPT-2's split.
    DigitsThenGpt2,
    /// These regular expressions, in order.
    Regexes(&'static [&'static str]),
}

/// Names and rules, checked against `llm_tokenizer_bpe` of llama.cpp and the families' own `tokenizer.json`.
const RULES: [Rule; 6] = [
    Rule {
        names: &["gpt-2", "phi-2"],
        normalizer: None,
        splits: Splits::Gpt2,
        ignores_merges: false,
        adds_bos: false,
    },
    Rule {
        names: &["smollm", "starcoder"],
        normalizer: None,
        splits: Splits::DigitsThenGpt2,
        ignores_merges: false,
        adds_bos: false,
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        normalizer: None,
        splits: Splits::Regexes(&[LLAMA3]),
        ignores_merges: true,
        adds_bos: true,
    },
    Rule {
        names: &["qwen2"],
        normalizer: Some("NFC"),
        splits: Splits::Regexes(&[QWEN2]),
        ignores_merges: false,
        adds_bos: false,
    },
    Rule {
        names: &["tekken"],
        normalizer: None,
        splits: Splits::Regexes(&[TEKKEN]),
        ignores_merges: true,
        adds_bos: true,
    },
    Rule {
        names: &["default"],
        normalizer: None,
        splits: Splits::Regexes(&DEFAULT),
        ignores_merges: false,
        adds_bos: false,
    },
];

pub(super) fn parts(file: &GgufFile, vocabulary: &FileTokens) -> Result<TokenizerParts, GgufError> {
    let rule = rule(file)?;
    let merges = file.texts(MERGES)?;
    let merges = file.required(MERGES, merges)?;
    let pairs = merges.iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok([left, right]),
        _ => {
            let want = format!("pairs separated by one space, but one is `{merge}`");
            Err(file.wrong_value(MERGES, want))
        }
    });
    let pairs: Vec<[&str; 2]> = pairs.collect::<Result<_, _>>()?;
    Ok(TokenizerParts {
        normalizer: rule
            .normalizer
            .map_or(Value::Null, |name| json!({ "type": name })),
        pre_tokenizer: pre_tokenizer(&rule.splits),
        decoder: byte_level(true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rule.ignores_merges,
            "vocab": vocabulary.ids(file)?,
            "merges": pairs,
        }),
        adds_bos: rule.adds_bos,
    })
}

fn rule(file: &GgufFile) -> Result<&'static Rule, GgufError> {
    let name = file.text(PRE)?;
    let found = name.and_then(|name| RULES.iter().find(|rule| rule.names.contains(&name)));
    found.ok_or_else(|| {
        let want = format!("a rule that alambic knows (`{}`)", names().join("`, `"));
        file.wrong_value(PRE, want)
    })
}

/// Name of the rule by which a `tokenizer.json` splits text, if llama.cpp has one.
pub(super) fn name_of(json: &Value) -> Option<&'static str> {
    let found = (
        normalizer_name(&json["normalizer"])?,
        steps(&json["pre_tokenizer"])?,
    );
    let same = |rule: &&Rule| {
        let ours = steps(&pre_tokenizer(&rule.splits)).expect("our own steps are known");
        (rule.normalizer.unwrap_or_default(), ours) == found
            && rule.ignores_merges
                == (json.pointer("/model/ignore_merges") == Some(&Value::Bool(true)))
    };
    RULES.iter().find(same)?.names.first().copied()
}

/// Names of all rules.
pub(super) fn names() -> Vec<&'static str> {
    RULES.iter().flat_map(|rule| rule.names).copied().collect()
}

/// Name of the only normalizer; empty for none.
fn normalizer_name(normalizer: &Value) -> Option<&str> {
    match normalizer["type"].as_str() {
        None => Some(""),
        Some("Sequence") => match normalizer["normalizers"].as_array()?.as_slice() {
            [] => Some(""),
            [one] => normalizer_name(one),
            _ => None,
        },
        name => name,
    }
}

/// Steps that split text, one string each, without keys that do not affect the cuts.
fn steps(pre_tokenizer: &Value) -> Option<Vec<String>> {
    match pre_tokenizer["type"].as_str()? {
        "Sequence" => {
            let steps_of = pre_tokenizer["pretokenizers"].as_array()?.iter().map(steps);
            Some(steps_of.collect::<Option<Vec<_>>>()?.concat())
        }
        "Digits" => Some(vec![format!(
            "digits {}",
            pre_tokenizer["individual_digits"]
        )]),
        "Split" => Some(vec![format!(
            "split {} {} {}",
            pre_tokenizer.pointer("/pattern/Regex")?.as_str()?,
            pre_tokenizer["behavior"],
            pre_tokenizer["invert"]
        )]),
        "ByteLevel" => Some(vec![format!(
            "bytes {} {}",
            pre_tokenizer["add_prefix_space"],
            pre_tokenizer
                .get("use_regex")
                .is_none_or(|regex| regex == true)
        )]),
        _ => None,
    }
}

fn pre_tokenizer(splits: &Splits) -> Value {
    let mut steps = match splits {
        Splits::Gpt2 => return byte_level(true),
        Splits::DigitsThenGpt2 => vec![json!({ "type": "Digits", "individual_digits": true })],
        Splits::Regexes(regexes) => {
            let split = |regex: &&str| {
                json!({
                    "type": "Split",
                    "pattern": { "Regex": regex },
                    "behavior": "Isolated",
                    "invert": false,
                })
            };
            regexes.iter().map(split).collect()
        }
    };
    steps.push(byte_level(matches!(splits, Splits::DigitsThenGpt2)));
    json!({ "type": "Sequence", "pretokenizers": steps })
}

fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}
