//! Bounds of a tokenizer file: what a file of kilobytes may ask of the library, which checks nothing of it.
//!
//! All of it is looked up in the file before the library sees it. The limits are far above every published tokenizer.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::TokenizerError;

/// Largest token id, as in `config.json`: tables have a row for each.
const MAX_ID: u64 = 1 << 24;

/// Times that a text may become longer. A step of compatibility forms makes at most 18 characters of one.
const MAX_GROWTH: f64 = 128.0;

/// Weight of all patterns of the file: 1 for a letter, [`CLASS`] for a class, each as often as it is repeated. GPT-4o's
/// has about 3,000.
const MAX_PATTERNS: f64 = 65_536.0;

/// Weight of a class of characters, in letters: `\p{L}` has about 700 ranges.
const CLASS: f64 = 64.0;

/// Longest letter sequence that one letter becomes in a compatibility form (U+FDFA).
const LONGEST_FORM: f64 = 18.0;

/// Parts of a `tokenizer.json` that are looked at.
#[derive(Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Model,
}

/// An added token.
#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
}

#[derive(Default, Deserialize)]
struct Model {
    #[serde(default)]
    vocab: LargestId,
}

/// Largest id of a vocabulary; one that lists its tokens has as many as it lists.
#[derive(Default)]
struct LargestId(u64);

impl TokenizerFile {
    /// Parses a file; `path` is for messages.
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, TokenizerError> {
        serde_json::from_slice(bytes).map_err(|error| TokenizerError::NotATokenizer {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })
    }

    /// Refuses a file that asks for more than the limits.
    pub(super) fn check(&self, path: &Path) -> Result<(), TokenizerError> {
        let refused = |key: &str, reason: String| TokenizerError::NotATokenizer {
            path: path.to_path_buf(),
            reason: format!("`{key}` {reason}"),
        };
        let largest = self.model.vocab.0;
        if largest > MAX_ID {
            let reason = format!("has the id {largest}, and ids end at {MAX_ID}");
            return Err(refused("model.vocab", reason));
        }
        let mut patterns = 0.0;
        for (key, part) in [
            ("normalizer", &self.normalizer),
            ("pre_tokenizer", &self.pre_tokenizer),
            ("post_processor", &self.post_processor),
            ("decoder", &self.decoder),
        ] {
            check_charsmaps(part).map_err(|reason| refused(key, reason))?;
            let growth = growth(part);
            if growth > MAX_GROWTH {
                let reason = format!(
                    "can make a text {growth:.0} times as long, and the limit is {MAX_GROWTH}"
                );
                return Err(refused(key, reason));
            }
            patterns += weight_of_patterns(part);
            if patterns > MAX_PATTERNS {
                let reason = format!(
                    "has patterns of weight {patterns:.0} ({CLASS} for a class of characters, 1 for a letter, times the \
                     repetitions), and the limit is {MAX_PATTERNS}"
                );
                return Err(refused(key, reason));
            }
        }
        Ok(())
    }
}

/// Times that a step, or all steps of a sequence, can make a text longer, in characters.
fn growth(step: &Value) -> f64 {
    let lists = ["normalizers", "pretokenizers", "decoders", "processors"];
    let steps = lists.iter().find_map(|key| step[*key].as_array());
    if let Some(steps) = steps {
        return steps.iter().map(growth).product();
    }
    let letters = |text: &Value| text.as_str().map_or(0, |text| text.chars().count()) as f64;
    match step["type"].as_str() {
        Some("Replace") => {
            let content = letters(&step["content"]);
            match letters(&step["pattern"]["String"]) {
                0.0 => content + 1.0, // a pattern may match the empty text between two letters
                letters => content / letters,
            }
            .max(1.0)
        }
        Some("Prepend") => 1.0 + letters(&step["prepend"]),
        Some("Precompiled") => LONGEST_FORM,
        Some("ByteLevel") => 4.0, // a letter has up to four bytes, each of which becomes a letter
        Some("TemplateProcessing") => growth_of_template(step),
        _ => 1.0,
    }
}

/// Times that the template of a single text makes one token longer.
fn growth_of_template(step: &Value) -> f64 {
    let pieces = step["single"].as_array().into_iter().flatten();
    let tokens = |piece: &Value| match piece["SpecialToken"]["id"].as_str() {
        Some(id) => {
            let ids = step["special_tokens"][id]["ids"].as_array();
            ids.map_or(1, Vec::len)
        }
        None => 1,
    };
    pieces
        .map(|piece| tokens(piece) as f64)
        .sum::<f64>()
        .max(1.0)
}

/// Refuses a table of SentencePiece whose first number, its length, is beyond its end: the library takes memory for
/// what the number says.
fn check_charsmaps(part: &Value) -> Result<(), String> {
    match part {
        Value::Array(parts) => parts.iter().try_for_each(check_charsmaps),
        Value::Object(entries) => entries.iter().try_for_each(|(key, value)| {
            if key != "precompiled_charsmap" {
                return check_charsmaps(value);
            }
            let map = value.as_str().unwrap_or_default();
            let there = (map.len() / 4 * 3).saturating_sub(size_of::<u32>()) as u64;
            match first_number(map) {
                Some(length) if u64::from(length) > there => Err(format!(
                    "has a `{key}` of {there} bytes that says it has {length}"
                )),
                _ => Ok(()),
            }
        }),
        _ => Ok(()),
    }
}

/// The first number, of four bytes, in a text in base 64; none if it is not in base 64, which the library refuses.
fn first_number(base_64: &str) -> Option<u32> {
    let digit = |letter: u8| {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(u64::from(value))
    };
    let digits = base_64.as_bytes().get(..6)?.iter();
    let bits = digits
        .map(|&letter| digit(letter))
        .try_fold(0, |bits, digit| Some(bits << 6 | digit?))?;
    u32::try_from(bits >> 4).ok().map(u32::swap_bytes) // 36 bits, of which the first 32 are the number
}

/// Weight of all patterns below a part of the file.
fn weight_of_patterns(part: &Value) -> f64 {
    match part {
        Value::Array(parts) => parts.iter().map(weight_of_patterns).sum(),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("Regex", Value::String(pattern)) => weight_of_pattern(pattern),
                ("String", Value::String(pattern)) => pattern.len() as f64,
                _ => weight_of_patterns(value),
            })
            .sum(),
        _ => 0.0,
    }
}

/// Weight of a pattern. Counted repetitions multiply what they repeat, also within one another; the rest of a pattern's
/// rules are left to the library.
fn weight_of_pattern(pattern: &str) -> f64 {
    let mut open = Vec::new(); // weights before the groups that are open
    let (mut sum, mut last) = (0.0, 0.0);
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                let of = letters.next();
                if matches!(of, Some('p' | 'P')) && letters.peek() == Some(&'{') {
                    letters
                        .by_ref()
                        .take_while(|&letter| letter != '}')
                        .for_each(drop);
                }
                sum += last;
                last = CLASS;
            }
            '[' => {
                let mut depth = 1;
                while depth > 0 {
                    match letters.next() {
                        Some('\\') => drop(letters.next()),
                        Some('[') => depth += 1,
                        Some(']') => depth -= 1,
                        Some(_) => {}
                        None => break,
                    }
                }
                sum += last;
                last = CLASS;
            }
            '(' => {
                open.push(sum + last);
                (sum, last) = (0.0, 0.0);
            }
            ')' => {
                last += sum;
                sum = open.pop().unwrap_or(0.0);
            }
            '{' => {
                let inside: String = letters
                    .by_ref()
                    .take_while(|&letter| letter != '}')
                    .collect();
                last *= repetitions(&inside);
            }
            '.' => {
                sum += last;
                last = CLASS;
            }
            _ => {
                sum += last;
                last = 1.0;
            }
        }
    }
    open.iter().sum::<f64>() + sum + last
}

/// Repetitions that `{2}`, `{2,}` or `{2,5}` asks for.
fn repetitions(inside: &str) -> f64 {
    let numbers = inside
        .split(',')
        .filter_map(|number| number.trim().parse::<f64>().ok());
    numbers.fold(1.0, f64::max)
}

impl<'de> Deserialize<'de> for LargestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = LargestId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary, a table or a list of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LargestId, A::Error> {
                let mut largest = 0;
                while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, u64>()? {
                    largest = largest.max(id);
                }
                Ok(LargestId(largest))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LargestId, A::Error> {
                let mut count = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(LargestId(count))
            }
        }
        deserializer.deserialize_any(Ids)
    }
}
