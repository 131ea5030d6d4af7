//! Tags of a template and their tokens, as jinja2 cuts them.

use std::ops::Range;

/// Words before `[`, `.` or a text that are not a value.
const KEYWORDS: [&str; 12] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "for",
    "recursive",
    "set",
    "print",
];

/// LexemeKind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LexemeKind {
    Name,
    Number,
    Text,
    Operator,
}

/// Word of a tag, with its place in the source.
#[derive(Debug, Clone)]
pub(super) struct Token<'s> {
    pub kind: LexemeKind,
    pub text: &'s str,
    pub range: Range<usize>,
}

impl Token<'_> {
    /// Tells whether this is an operator or a bracket.
    pub(super) fn is(&self, operator: &str) -> bool {
        self.kind == LexemeKind::Operator && self.text == operator
    }

    /// Tells whether `.`, `[` and `%` behind this token work on a value.
    pub(super) fn ends_value(&self) -> bool {
        match self.kind {
            LexemeKind::Name => !KEYWORDS.contains(&self.text),
            LexemeKind::Number | LexemeKind::Text => true,
            LexemeKind::Operator => matches!(self.text, ")" | "]" | "}"),
        }
    }
}

/// Place of the next `{{`, `{%` or `{#`, and its second character.
pub(super) fn next_opening(source: &str, from: usize) -> Option<(usize, char)> {
    let bytes = source.as_bytes();
    let mut at = from;
    loop {
        at += source.get(at..)?.find('{')?;
        match bytes.get(at + 1) {
            Some(b'{') => return Some((at, '{')),
            Some(b'%') => return Some((at, '%')),
            Some(b'#') => return Some((at, '#')),
            _ => at += 1,
        }
    }
}

/// Length of a tag `{% name %}` at the beginning of a text.
fn bare_tag(text: &str, name: &str) -> Option<usize> {
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let inner = inner
        .trim_ascii_start()
        .strip_prefix(name)?
        .trim_ascii_start();
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    Some(text.len() - inner.strip_prefix("%}")?.len())
}

/// Range of the first tag of a raw block that begins at `start`, and the end of the block.
pub(super) fn raw_block(source: &str, start: usize) -> Option<(Range<usize>, usize)> {
    let begin = start..start + bare_tag(&source[start..], "raw")?;
    let mut at = begin.end;
    loop {
        at += source[at..].find("{%")?;
        if let Some(length) = bare_tag(&source[at..], "endraw") {
            return Some((begin, at + length));
        }
        at += 2;
    }
}

/// Tokens of a tag from behind its opening, and where the tag ends.
pub(super) fn tokens_of<'s>(
    source: &'s str,
    from: usize,
    closing: &str,
) -> Option<(Vec<Token<'s>>, usize)> {
    let (mut at, mut depth, mut tokens) = (from, 0_usize, Vec::new());
    at += usize::from(source[at..].starts_with(['-', '+']));
    loop {
        at += source[at..].len() - source[at..].trim_ascii_start().len();
        let rest = &source[at..];
        if depth == 0 {
            let unsigned = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if unsigned.starts_with(closing) {
                return Some((tokens, source.len() - unsigned.len() + closing.len()));
            }
        }
        let first = rest.chars().next()?;
        let is_name = |letter: char| letter == '_' || letter.is_alphanumeric();
        let (kind, length) = match first {
            '\'' | '"' => (LexemeKind::Text, text_length(rest, first)?),
            '0'..='9' => (
                LexemeKind::Number,
                rest.find(|letter: char| !is_name(letter))
                    .unwrap_or(rest.len()),
            ),
            _ if is_name(first) => (
                LexemeKind::Name,
                rest.find(|letter: char| !is_name(letter))
                    .unwrap_or(rest.len()),
            ),
            _ => (LexemeKind::Operator, first.len_utf8()),
        };
        match first {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        tokens.push(Token {
            kind,
            text: &rest[..length],
            range: at..at + length,
        });
        at += length;
    }
}

/// Length of a literal with its quotes.
fn text_length(rest: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Index behind the bracket that closes the one at `at`.
pub(super) fn bracket_end(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (idx, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (idx > at).then_some(idx + 1);
        }
    }
    None
}
