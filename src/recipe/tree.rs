//! YAML text as a tree in which every key and value knows its place in bytes.
//!
//! A serde struct stops at its first fault; a tree can be searched for all of them.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned};

use crate::diag::{Diagnostic, Origin, Span};

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: YamlValue,
}

/// Value of YAML.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum YamlValue {
    Null,
    Bool(bool),
    /// `i128` holds every `i64` and every `u64`.
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// Keys and values in the order written, repeated keys included.
    Map(Vec<(Name, Node)>),
}

/// A key and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Name {
    pub(super) span: Span,
    pub(super) text: String,
}

/// Reads a text whose first byte is byte `offset` of `origin`.
///
/// Limits (depth, nodes, alias expansion) are far above any recipe and far below what would do harm.
pub(super) fn parse(text: &str, origin: Origin, offset: usize) -> Result<Node, Diagnostic> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 32, max_nodes: 20_000, max_documents: 1 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    };
    let place = |location: Location| Span {
        origin,
        range: shift(bytes(location), offset),
    };
    match serde_saphyr::from_str_with_options::<Raw>(text, options) {
        Ok(raw) => Ok(raw.place(&place)),
        Err(error) => {
            let location = error.location().unwrap_or(Location::UNKNOWN);
            let span = Span {
                origin,
                range: shift(character(text, location), offset),
            };
            let message = error.without_snippet().to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            let fault = Diagnostic::new(
                "recipe/syntax",
                "the text is not YAML that a recipe can use",
            )
            .primary(&span, reason);
            Err(if reason.contains("mapping") {
                fault.help("check the indentation: the line may have joined the one above it")
            } else {
                fault
            })
        }
    }
}

impl Node {
    /// Span of the value at a path of keys and list indices.
    pub(super) fn find(&self, path: &str) -> Option<Span> {
        let mut node = self;
        let mut span = &self.span;
        for part in path.split('.') {
            node = match &node.value {
                YamlValue::Map(entries) => {
                    let (name, value) = entries.iter().find(|(name, _)| name.text == part)?;
                    span = &name.span;
                    value
                }
                YamlValue::List(items) => items.get(part.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        let is_line = !matches!(
            node.value,
            YamlValue::Null | YamlValue::List(_) | YamlValue::Map(_)
        );
        Some(if is_line { &node.span } else { span }.clone())
    }
}

/// A tree whose places are still the parser's.
struct Raw {
    location: Location,
    value: RawValue,
}

enum RawValue {
    Scalar(YamlValue),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl Raw {
    fn place(self, place: &impl Fn(Location) -> Span) -> Node {
        let value = match self.value {
            RawValue::Scalar(value) => value,
            RawValue::List(items) => {
                YamlValue::List(items.into_iter().map(|item| item.place(place)).collect())
            }
            RawValue::Map(entries) => {
                let entries = entries.into_iter().map(|(key, value)| {
                    let name = Name {
                        span: place(key.defined),
                        text: key.value,
                    };
                    (name, value.place(place))
                });
                YamlValue::Map(entries.collect())
            }
        };
        Node {
            span: place(self.location),
            value,
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<RawValue>::deserialize(deserializer)?;
        Ok(Self {
            location: spanned.defined,
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(YamlValue::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(YamlValue::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(YamlValue::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(YamlValue::Integer(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(YamlValue::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(YamlValue::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Map(entries))
    }
}

fn bytes(location: Location) -> Range<usize> {
    let span = location.span();
    let number = |bytes: Option<u64>| bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let start = number(span.byte_offset()).unwrap_or(0);
    start..start + number(span.byte_len()).unwrap_or(0)
}

/// Range of the character at a line and column: the parser's own errors have no bytes.
fn character(text: &str, location: Location) -> Range<usize> {
    let number = |count: u64| usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
    let lines = text.split_inclusive('\n').take(number(location.line()));
    let line_start: usize = lines.map(str::len).sum();
    let rest = text.get(line_start..).unwrap_or_default();
    let mut chars = rest.char_indices().skip(number(location.column()));
    let start = line_start + chars.next().map_or(0, |(at, _)| at);
    start..start + 1
}

fn shift(range: Range<usize>, offset: usize) -> Range<usize> {
    range.start + offset..range.end + offset
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn leaves<'a>(node: &'a Node, text: &'a str, out: &mut Vec<(&'a str, &'a YamlValue)>) {
        match &node.value {
            YamlValue::List(items) => items.iter().for_each(|item| leaves(item, text, out)),
            YamlValue::Map(entries) => {
                for (name, value) in entries {
                    assert_eq!(&text[name.span.range.clone()], name.text);
                    leaves(value, text, out);
                }
            }
            value => out.push((&text[node.span.range.clone()], value)),
        }
    }

    #[test]
    fn every_key_and_value_knows_its_bytes() {
        let text = "é: 1 # ä\nlist:\n  - a: -2.5\n    b: \"600k\"\n  - {c: true, d: [x, 1e-3]}\nnull_: \nbig: 18446744073709551615\n";
        let tree = parse(text, Origin::Recipe, 0).unwrap();
        let mut found = Vec::new();
        leaves(&tree, text, &mut found);
        let want = [
            ("1", YamlValue::Integer(1)),
            ("-2.5", YamlValue::Float(-2.5)),
            ("\"600k\"", YamlValue::Text("600k".into())),
            ("true", YamlValue::Bool(true)),
            ("x", YamlValue::Text("x".into())),
            ("1e-3", YamlValue::Float(1e-3)),
            ("", YamlValue::Null),
            ("18446744073709551615", YamlValue::Integer(u64::MAX.into())),
        ];
        assert_eq!(found.len(), want.len());
        for (got, want) in found.iter().zip(&want) {
            assert_eq!((got.0, got.1), (want.0, &want.1));
        }
    }

    #[test]
    fn repeated_keys_are_all_there() {
        let tree = parse("a: 1\na: 2\n", Origin::Recipe, 0).unwrap();
        let YamlValue::Map(entries) = tree.value else {
            panic!("a map")
        };
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn an_offset_moves_every_span() {
        let node = parse("[1, {a: 2}]", Origin::CommandLine, 10).unwrap();
        let YamlValue::List(items) = node.value else {
            panic!("a list")
        };
        assert_eq!(items[0].span.range, 11..12);
        let YamlValue::Map(entries) = &items[1].value else {
            panic!("a map")
        };
        assert_eq!(
            (
                entries[0].0.span.range.clone(),
                entries[0].1.span.range.clone()
            ),
            (15..16, 18..19)
        );
    }

    #[test]
    fn bombs_and_broken_text_are_refused_with_a_place() {
        let deep = "[".repeat(200);
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 0..9 {
            let uses = vec![format!("*a{i}"); 7].join(",");
            let _ = writeln!(bomb, "a{0}: &a{0} [{uses}]", i + 1);
        }
        let cases = [
            (deep.as_str(), 199, "unclosed bracket"),
            (bomb.as_str(), 165, "alias replay limit exceeded"),
            ("é: [1\nb: 2\n", 8, "illegal placement"),
            ("a: 1\n---\nb: 2\n", 5, "documents"),
            ("a: *b\n", 3, "unknown anchor"),
        ];
        for (text, start, reason) in cases {
            let fault = parse(text, Origin::Recipe, 0).unwrap_err();
            assert_eq!(fault.id, "recipe/syntax");
            let [label] = fault.labels.as_slice() else {
                panic!("one label")
            };
            assert!(label.text.contains(reason), "{}", label.text);
            assert_eq!(label.span.range.start, start, "{reason}");
        }
    }
}
