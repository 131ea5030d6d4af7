//! Single values: their types and ranges, and the messages about wrong ones.

use std::fs;
use std::io;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};

use super::fields::Checked;
use super::kinds::{Fallback, Key, Kind, MAX_BYTES, MAX_STEPS, MAX_TOKENS, PathKind};
use super::meant::{Spelling, meant};
use super::tree::{Node, YamlValue};
use crate::diag::{Diagnostic, Span, code_list};
use crate::hub::HubId;
use crate::missing;
use crate::progress::thousands;

/// Folder of a model that is fetched, not committed.
const FETCHED: &str = "checkpoints/smollm2-135m";

/// A value without keys or entries, if it has the kind's type and range.
pub(super) fn scalar(kind: &Kind, value: &YamlValue) -> Option<Checked> {
    match (kind, value) {
        (Kind::Name, YamlValue::Text(text)) if is_folder_name(text) => {
            Some(Checked::Text(text.clone()))
        }
        (Kind::Text, YamlValue::Text(text)) if !text.trim().is_empty() => {
            Some(Checked::Text(text.clone()))
        }
        (Kind::Switch, YamlValue::Bool(value)) => Some(Checked::Switch(*value)),
        (Kind::IntegerOf(allowed), value) => match integer(value, 0, u64::MAX)? {
            Checked::Integer(value) if allowed.contains(&value) => Some(Checked::Integer(value)),
            _ => None,
        },
        (Kind::Or(_, word), YamlValue::Text(text)) if text == word.word => Some(Checked::Off),
        (Kind::Or(kind, _), value) => scalar(kind, value),
        (Kind::Integer(min, max), value) => integer(value, *min, *max),
        (Kind::Bytes(min), YamlValue::Text(text)) => abbreviated(text, &BYTES)
            .filter(|count| (*min..=MAX_BYTES).contains(count))
            .map(Checked::Integer),
        (Kind::Bytes(min), value) => integer(value, *min, MAX_BYTES),
        (Kind::Tokens(min), YamlValue::Text(text)) => abbreviated(text, &COUNTS)
            .filter(|count| (*min..=MAX_TOKENS).contains(count))
            .map(Checked::Integer),
        (Kind::Tokens(min), value) => integer(value, *min, MAX_TOKENS),
        (Kind::Number(min, max), value) => number(value)
            .filter(|value| is_sound(*value) && (*min, *max).contains(value))
            .map(Checked::Number),
        (Kind::Moving(number, _), value) => scalar(number, value),
        (Kind::StepsOrShare, value) if whole(value).is_some() => integer(value, 2, MAX_STEPS),
        (Kind::StepsOrShare, value) => number(value)
            .filter(|share| *share > 0.0 && *share < 1.0)
            .map(Checked::Number),
        (Kind::Word(words), YamlValue::Text(text)) if words.iter().any(|one| one.word == text) => {
            Some(Checked::Text(text.clone()))
        }
        (Kind::Unit, YamlValue::Null) => Some(Checked::Unit),
        _ => None,
    }
}

/// Start of relative paths.
#[derive(Clone, Copy)]
pub(super) struct Folder<'a> {
    pub(super) path: &'a Path,
    /// True if a path may name nothing.
    pub(super) may_be_absent: bool,
}

/// An existing path, made absolute; relative ones start at `folder`.
///
/// `shown` is the key that messages name.
pub(super) fn path(
    key: &'static Key,
    shown: &str,
    kind: PathKind,
    node: &Node,
    name: &Span,
    folder: Folder<'_>,
) -> Result<PathBuf, Diagnostic> {
    let YamlValue::Text(text) = &node.value else {
        return Err(mismatch(key, &key.kind, node, name));
    };
    if kind.takes_ids()
        && let Some(id) = HubId::recognise(text, folder.path)
    {
        return id.map(|id| id.to_path()).map_err(|why| {
            Diagnostic::new("hub/id", format!("`{shown}` names no id of a hub: {why}"))
                .primary(&node.span, "`hf://` begins an id")
        });
    }
    let path = folder.path.join(text);
    let found = fs::metadata(&path);
    let (is_right, noun) = match kind {
        PathKind::File | PathKind::Tokenizer => {
            (found.as_ref().is_ok_and(fs::Metadata::is_file), "file")
        }
        PathKind::Either { is_file, .. } if is_file(&path) => {
            (found.as_ref().is_ok_and(fs::Metadata::is_file), "file")
        }
        PathKind::Either { nouns, .. } => (found.as_ref().is_ok_and(fs::Metadata::is_dir), nouns),
        PathKind::FileOrFolder => (found.is_ok(), "file or folder"),
        PathKind::Output => (found.as_ref().map_or(true, fs::Metadata::is_dir), "folder"),
    };
    let absolute = std::path::absolute(&path)
        .and_then(|path| resolved(&path))
        .ok()
        .filter(|_| is_right || folder.may_be_absent && is_absent(&found));
    absolute.ok_or_else(|| {
        let label = match &found {
            Ok(_) => format!("`{}` is not a {noun}", path.display()),
            Err(error) => format!("`{}`: {}", path.display(), io_reason(error)),
        };
        let message = format!("`{shown}` names no {noun}");
        let instead = || match kind {
            _ if found.is_ok() => None,
            _ if kind.takes_ids() => missing::place(Path::new(text), folder.path),
            _ => missing::similar(Path::new(text), folder.path),
        };
        let help = if found.is_err() && path.parent().is_some_and(|dir| dir.ends_with(FETCHED)) {
            "run `scripts/fetch_smollm2.sh`, which downloads it".to_owned()
        } else {
            instead().unwrap_or_else(|| "paths are relative to the folder of the recipe".to_owned())
        };
        Diagnostic::new("recipe/no-such-path", message)
            .primary(&node.span, label)
            .help(help)
    })
}

fn is_absent(found: &io::Result<fs::Metadata>) -> bool {
    matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// An absolute path without `..` and links; if the path does not exist yet, this holds for the part that exists. A link to a
/// file keeps its name, which says the format: files of the hub's cache are links to contents without endings.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(found), Some(parent), Some(name)) if found.is_file() => {
            Ok(resolved(parent)?.join(name))
        }
        (Err(_), Some(parent), Some(name)) => Ok(resolved(parent)?.join(name)),
        (found, _, _) => found,
    }
}

/// Fault of a value with the wrong type, range or length.
pub(super) fn mismatch(
    key: &'static Key,
    kind: &'static Kind,
    node: &Node,
    name: &Span,
) -> Diagnostic {
    let is_entry = !std::ptr::eq(kind, &raw const key.kind);
    let subject = if is_entry { "an entry of " } else { "" };
    let (phrase, found) = (phrase(kind), describe(node));
    let message = format!("{subject}`{}` must be {phrase}, but is {found}", key.name);
    let has_type = has_type(kind, &node.value);
    let id = match (has_type, kind) {
        (true, _) => "recipe/out-of-range",
        (false, Kind::Word(_)) => "recipe/unknown-value",
        (false, _) => "recipe/wrong-type",
    };
    let fault = Diagnostic::new(id, message).primary(place(node, name), key.about);
    match help(key, kind, &node.value) {
        Some(text) => fault.help(text),
        None => fault,
    }
}

/// True if a value has the right type, whatever its range.
fn has_type(kind: &Kind, value: &YamlValue) -> bool {
    match (kind, value) {
        (Kind::Or(kind, _), value) => has_type(kind, value),
        (Kind::Number(..) | Kind::Moving(..) | Kind::StepsOrShare, value) => {
            number(value).is_some()
        }
        (Kind::Tokens(_), YamlValue::Text(text)) => abbreviated(text, &COUNTS).is_some(),
        (Kind::Bytes(_), YamlValue::Text(text)) => abbreviated(text, &BYTES).is_some(),
        (Kind::Integer(..) | Kind::IntegerOf(_) | Kind::Tokens(_) | Kind::Bytes(_), value) => {
            whole(value).is_some()
        }
        (Kind::List(..), YamlValue::List(_)) => true,
        _ => false,
    }
}

/// Span to underline for a value: itself, or its key if it has no text of one line.
pub(super) fn place<'a>(node: &'a Node, name: &'a Span) -> &'a Span {
    match node.value {
        YamlValue::Null | YamlValue::List(_) | YamlValue::Map(_) => name,
        _ => &node.span,
    }
}

/// Phrase for what a user wrote.
pub(super) fn describe(node: &Node) -> String {
    match &node.value {
        YamlValue::Null => "empty".to_owned(),
        YamlValue::Bool(value) => format!("`{value}`"),
        YamlValue::Integer(value) => value.to_string(),
        YamlValue::Float(value) => format!("{value:?}"),
        YamlValue::Text(text) => format!("the text `{}`", short(text)),
        YamlValue::List(items) if items.is_empty() => "an empty list".to_owned(),
        YamlValue::List(items) => format!("a list of {}", items.len()),
        YamlValue::Map(_) => "a map".to_owned(),
    }
}

/// A text shortened to fit into a message.
pub(super) fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= 60 && line == text {
        return text.to_owned();
    }
    line.chars().take(57).chain("...".chars()).collect()
}

/// Phrase for what a kind asks for.
pub(super) fn phrase(kind: &Kind) -> String {
    match kind {
        Kind::Text => "a text".to_owned(),
        Kind::Name => "a name of letters, digits, `-`, `_` and `.`".to_owned(),
        Kind::Switch => "`true` or `false`".to_owned(),
        Kind::Integer(min, max) => whole_number(*min, *max),
        Kind::IntegerOf(allowed) => {
            let allowed: Vec<String> = allowed.iter().map(u64::to_string).collect();
            match allowed.split_last() {
                Some((last, [])) => last.clone(),
                Some((last, others)) => format!("{} or {last}", others.join(", ")),
                None => String::new(),
            }
        }
        Kind::Or(kind, word) => format!("{} or `{}`", phrase(kind), word.word),
        Kind::Tokens(min) => {
            format!("a count of at least {min}, such as 4096, `600k` or `1.5M`")
        }
        Kind::Bytes(min) => format!("at least {min} bytes, such as `500M` or `5G`"),
        Kind::Number(min, max) => format!("a number{}", bounds(*min, *max)),
        Kind::Moving(number, block) => {
            format!(
                "{}, or a map of {}",
                phrase(number),
                code_list(block.names())
            )
        }
        Kind::StepsOrShare => {
            "at least 2 steps, or a share of the pass above 0 and below 1".to_owned()
        }
        Kind::Word(words) => format!("one of {}", code_list(words.iter().map(|one| one.word))),
        Kind::Path(PathKind::File) => "a path of a file".to_owned(),
        Kind::Path(PathKind::FileOrFolder) => {
            "a path of a file or folder, or an id of the hub".to_owned()
        }
        Kind::Path(PathKind::Tokenizer) => "a path of a file, or an id of the hub".to_owned(),
        Kind::Path(PathKind::Either { phrase, .. }) => {
            format!("a path of {phrase}, or an id of the hub")
        }
        Kind::Path(PathKind::Output) => "a path of a folder".to_owned(),
        Kind::List(of, min, max) if min == max => format!("a list of {min}, each {}", phrase(of)),
        Kind::List(of, 0, _) => format!("a list, each {}", phrase(of)),
        Kind::List(of, min, _) => format!("a list of at least {min}, each {}", phrase(of)),
        Kind::Block(_) => "a map of keys".to_owned(),
        Kind::Short(block) => {
            let first = block.iter().next().map(|key| phrase(&key.kind));
            let names = code_list(block.names());
            format!("{}, or a map of {names}", first.unwrap_or_default())
        }
        Kind::Choice(block) => {
            format!("one of {}", code_list(block.variants().map(|key| key.name)))
        }
        Kind::Unit => "a bare word, without keys".to_owned(),
    }
}

fn whole_number(min: u64, max: u64) -> String {
    if max == u64::MAX {
        format!("a whole number of at least {min}")
    } else {
        format!("a whole number in {min} ..= {}", thousands(max))
    }
}

fn bounds(min: Bound<f64>, max: Bound<f64>) -> String {
    match (min, max) {
        (Included(min), Included(max)) => format!(" in {min} ..= {max}"),
        (Included(min), Excluded(max)) => format!(" of at least {min} and below {max}"),
        (Excluded(min), Included(max)) => format!(" above {min} and at most {max}"),
        (Excluded(min), Excluded(max)) => format!(" above {min} and below {max}"),
        (Included(min), Unbounded) => format!(" of at least {min}"),
        (Excluded(min), Unbounded) => format!(" above {min}"),
        _ => String::new(),
    }
}

fn help(key: &'static Key, kind: &Kind, value: &YamlValue) -> Option<String> {
    match (kind, value) {
        (_, YamlValue::Null) => Some("write a value, or delete the key".to_owned()),
        (Kind::Word(words), YamlValue::Text(text)) => {
            let word = meant(text, words.iter().copied())?;
            Some(format!("write `{word}`"))
        }
        (Kind::Or(_, word), value) if is_called(value, *word) => {
            Some(format!("write `{}`", word.word))
        }
        (Kind::Moving(number, _), value) if matches!(number, Kind::IntegerOf(_)) => {
            help(key, number, value)
        }
        (Kind::IntegerOf(allowed), YamlValue::Integer(value)) => {
            let below = allowed.iter().rev().find(|&&one| i128::from(one) < *value);
            let above = allowed.iter().find(|&&one| i128::from(one) > *value);
            let near: Vec<String> = below
                .into_iter()
                .chain(above)
                .map(|one| format!("`{one}`"))
                .collect();
            Some(format!("write {}", near.join(" or ")))
        }
        (Kind::Number(..), value) if key.about.contains("share") => {
            let share = number(value)? / 100.0;
            let is_percentage =
                number(value)? > 1.0 && scalar(kind, &YamlValue::Float(share)).is_some();
            is_percentage.then(|| format!("write `{share}` for {} percent", share * 100.0))
        }
        _ => match key.default {
            Fallback::Value(text) if !matches!(key.kind, Kind::List(..)) => {
                Some(format!("the default is `{text}`"))
            }
            _ => None,
        },
    }
}

/// True if a word for no value is called so elsewhere.
fn is_called(value: &YamlValue, word: Spelling) -> bool {
    let text = match value {
        YamlValue::Text(text) => text.clone(),
        YamlValue::Integer(value) => value.to_string(),
        YamlValue::Bool(value) => value.to_string(),
        _ => return false,
    };
    meant(&text, [word]).is_some()
}

/// A whole number, also if it is written as a float: `1e3`.
fn whole(value: &YamlValue) -> Option<i128> {
    /// Above this, a float does not hold every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        YamlValue::Integer(value) => Some(*value),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a whole number that an i128 holds"
        )]
        YamlValue::Float(value) if value.fract() == 0.0 && value.abs() <= EXACT => {
            Some(*value as i128)
        }
        _ => None,
    }
}

fn integer(value: &YamlValue, min: u64, max: u64) -> Option<Checked> {
    let value = u64::try_from(whole(value)?).ok()?;
    (min..=max)
        .contains(&value)
        .then_some(Checked::Integer(value))
}

/// True for finite numbers that are not so small that their digits are lost.
fn is_sound(value: f64) -> bool {
    value.is_finite() && !value.is_subnormal()
}

fn number(value: &YamlValue) -> Option<f64> {
    match value {
        YamlValue::Integer(value) => Some(*value as f64),
        YamlValue::Float(value) => Some(*value),
        _ => None,
    }
}

/// Letters after a count, and the number of zeros that they add.
const COUNTS: [(char, usize); 2] = [('k', 3), ('M', 6)];
const BYTES: [(char, usize); 3] = [('k', 3), ('M', 6), ('G', 9)];

/// Value of `600k` or `1.5M`, exactly: a fraction of a token is refused.
fn abbreviated(text: &str, letters: &[(char, usize)]) -> Option<u64> {
    let mut letters = letters.iter();
    let (digits, zeros) =
        letters.find_map(|&(letter, zeros)| Some((text.strip_suffix(letter)?, zeros)))?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > zeros || !is_plain(whole) || !is_plain(fraction) {
        return None;
    }
    format!("{whole}{fraction:0<zeros$}").parse().ok()
}

/// True if the text is usable as a folder name everywhere, and is never hidden, an option or a parent.
fn is_folder_name(text: &str) -> bool {
    text.len() <= 100
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one))
}

/// Reason of an error without the number that the operating system adds.
fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "not found".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_counts_may_be_abbreviated_but_are_exact() {
        let cases = [
            ("600k", Some(600_000)),
            ("1.5M", Some(1_500_000)),
            ("1.234567M", Some(1_234_567)),
            ("0.5k", Some(500)),
            ("1.2345k", None),
            ("k", None),
            (".5k", None),
            ("-1k", None),
            ("1 k", None),
            ("600K", None),
            ("99999999999999999999k", None),
        ];
        for (text, want) in cases {
            assert_eq!(abbreviated(text, &COUNTS), want, "{text}");
        }
        assert_eq!(abbreviated("1G", &COUNTS), None);
        assert_eq!(abbreviated("1.5G", &BYTES), Some(1_500_000_000));
    }

    #[test]
    fn ranges_hold_at_their_ends() {
        let share = Kind::Number(Excluded(0.0), Included(1.0));
        let accepts = |kind: &Kind, value: YamlValue| scalar(kind, &value).is_some();
        assert!(!accepts(&share, YamlValue::Integer(0)));
        assert!(accepts(&share, YamlValue::Integer(1)));
        assert!(accepts(&share, YamlValue::Float(1e-300)));
        assert!(!accepts(&share, YamlValue::Float(1e-310)));
        assert!(!accepts(&share, YamlValue::Float(1.000_000_1)));
        let open = Kind::Number(Included(0.0), Unbounded);
        assert!(!accepts(&open, YamlValue::Float(f64::NAN)));
        assert!(!accepts(&open, YamlValue::Float(f64::INFINITY)));
        let counted = Kind::Integer(1, u64::MAX);
        assert!(accepts(&counted, YamlValue::Integer(u64::MAX.into())));
        assert!(!accepts(&counted, YamlValue::Integer(-1)));
        assert!(accepts(&counted, YamlValue::Float(2.0)));
        assert!(!accepts(&counted, YamlValue::Float(2.5)));
        assert!(!accepts(&counted, YamlValue::Float(1e300)));
        assert!(!accepts(&Kind::Tokens(1), YamlValue::Text("0k".into())));
        assert!(!accepts(
            &Kind::Tokens(1),
            YamlValue::Text("2000000M".into())
        ));
    }

    #[test]
    fn a_name_is_one_plain_folder() {
        for name in ["a", "smollm2-135m", "a.b_c", "7"] {
            assert!(is_folder_name(name), "{name}");
        }
        for name in ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a b", "é", "a\0"] {
            assert!(!is_folder_name(name), "{name:?}");
        }
    }
}
