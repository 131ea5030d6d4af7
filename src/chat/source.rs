//! Source of a template, changed so that minijinja reads it as jinja2 does.
//!
//! Six things are read otherwise by the two, and each can be said in a way that both read alike:
//!
//! - Lines may end in `\r\n` or `\r` for jinja2.
//! - `{% raw %}` keeps the newline behind it in jinja2.
//! - `{% generation %}` is a block of transformers. It becomes a scope of its own, with the same dashes.
//! - A dictionary's method wins over a key in `d.items`, and stands in for a missing key in `d['items']`.
//! - `'%s' % value` formats.
//! - A loop over none fails.
//!
//! No line moves, so that errors name lines of the original.

use std::ops::Range;

/// Character that stands where a generation block begins, in the marked rendering. It is not for interchange.
pub(super) const BEGIN: char = '\u{fdd0}';

/// Character that stands where a generation block ends.
pub(super) const END: char = '\u{fdd1}';

/// Method that stands for `value.name` where `name` is a method of dictionaries.
pub(super) const ATTRIBUTE: &str = "_attribute";

/// Method that stands for `value['name']` where `name` is a method of dictionaries.
pub(super) const ITEM: &str = "_item";

/// Method that stands for the operator `%` behind a text.
pub(super) const PERCENT: &str = "_percent";

/// Filter that fails for none, on what a loop goes through.
pub(super) const LOOPED: &str = "_looped";

/// Methods of Python's dictionaries.
pub(super) const DICT_METHODS: [&str; 11] = [
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];

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

/// Source for minijinja.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Text of the template, with generation blocks as plain scopes.
    pub plain: String,
    /// The same with marks around generation blocks, if it has any.
    pub marked: Option<String>,
    /// Generation blocks of the template.
    pub generation: Generation,
}

/// Generation blocks of a template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Generation {
    #[default]
    Absent,
    /// Printed where they stand.
    Printed,
    /// Inside a macro or another block whose text the template can change before it is printed.
    Captured,
}

impl Source {
    /// Reads the source of a template. What cannot be read is left as it is, for the engine to refuse.
    pub(super) fn new(source: &str) -> Self {
        let source = universal_newlines(source);
        let plain = Rewriter::default().rewrite(&source);
        let mut rewriter = Rewriter {
            marks: true,
            ..Rewriter::default()
        };
        let marked = rewriter.rewrite(&source);
        let generation = rewriter.generation;
        let marked = (generation != Generation::Absent).then_some(marked);
        Self {
            plain,
            marked,
            generation,
        }
    }
}

fn universal_newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Number,
    Text,
    Operator,
}

#[derive(Debug, Clone)]
struct Token<'s> {
    kind: Kind,
    text: &'s str,
    range: Range<usize>,
}

impl Token<'_> {
    fn is(&self, operator: &str) -> bool {
        self.kind == Kind::Operator && self.text == operator
    }

    /// Tells whether `.`, `[` and `%` behind this token work on a value.
    fn ends_value(&self) -> bool {
        match self.kind {
            Kind::Name => !KEYWORDS.contains(&self.text),
            Kind::Number | Kind::Text => true,
            Kind::Operator => matches!(self.text, ")" | "]" | "}"),
        }
    }
}

#[derive(Default)]
struct Rewriter {
    marks: bool,
    /// Blocks around the present place whose text is captured.
    captures: usize,
    generation: Generation,
}

impl Rewriter {
    fn rewrite(&mut self, source: &str) -> String {
        let mut out = String::with_capacity(source.len() + source.len() / 8);
        let mut at = 0;
        while let Some((start, opening)) = next_opening(source, at) {
            out.push_str(&source[at..start]);
            if opening == '%'
                && let Some((begin, end)) = raw_block(source, start)
            {
                let has_sign = source[..begin.end - 2].ends_with(['-', '+']);
                out.push_str(&source[start..begin.end - 2]);
                out.push_str(if has_sign { "%}" } else { "+%}" });
                out.push_str(&source[begin.end..end]);
                at = end;
                continue;
            }
            let closing = if opening == '%' { "%}" } else { "}}" };
            let tag = (opening != '#').then(|| tokens_of(source, start + 2, closing));
            if let Some(Some((tokens, end))) = tag {
                self.write_tag(&mut out, source, start..end, &tokens);
                at = end;
                continue;
            }
            let comment = source[start..].find("#}").filter(|_| opening == '#');
            at = comment.map_or(source.len(), |end| start + end + 2);
            out.push_str(&source[start..at]);
        }
        out.push_str(&source[at..]);
        out
    }

    fn write_tag(
        &mut self,
        out: &mut String,
        source: &str,
        tag: Range<usize>,
        tokens: &[Token<'_>],
    ) {
        let is_block = source[tag.start..].starts_with("{%");
        if is_block && let [only] = tokens {
            match only.text {
                "generation" => return self.write_generation(out, &source[tag], "with", BEGIN),
                "endgeneration" => return self.write_generation(out, &source[tag], "endwith", END),
                _ => {}
            }
        }
        if is_block {
            self.follow_captures(tokens);
        }
        let mut at = tag.start;
        for (range, text) in edits(tokens, is_block) {
            out.push_str(&source[at..range.start]);
            out.push_str(&text);
            at = range.end;
        }
        out.push_str(&source[at..tag.end]);
    }

    /// Writes a tag of a generation block. Two scopes are around the block where it has marks: the outer tag has the dash that
    /// looks out of the block's mark, and the inner one the dash that looks away from it.
    fn write_generation(&mut self, out: &mut String, tag: &str, word: &str, mark: char) {
        let is_captured = self.captures > 0 || self.generation == Generation::Captured;
        self.generation = if is_captured {
            Generation::Captured
        } else {
            Generation::Printed
        };
        let sign = |at: Option<u8>| match at {
            Some(b'-') => "-",
            Some(b'+') => "+",
            _ => "",
        };
        let bytes = tag.as_bytes();
        let before = sign(bytes.get(2).copied());
        let after = sign(
            bytes
                .len()
                .checked_sub(3)
                .and_then(|at| bytes.get(at).copied()),
        );
        let lines = "\n".repeat(tag.matches('\n').count());
        let tag = if self.marks {
            format!("{{%{before} {word} %}}{{{{ '{mark}' }}}}{{% {word} {lines}{after}%}}")
        } else {
            format!("{{%{before} {word} {lines}{after}%}}")
        };
        out.push_str(&tag);
    }

    fn follow_captures(&mut self, tokens: &[Token<'_>]) {
        let Some(first) = tokens.first() else { return };
        match first.text {
            "macro" | "call" | "filter" => self.captures += 1,
            "set" if assignment(tokens).is_none() => self.captures += 1,
            "endmacro" | "endcall" | "endfilter" | "endset" => {
                self.captures = self.captures.saturating_sub(1);
            }
            _ => {}
        }
    }
}

/// Place of the next `{{`, `{%` or `{#`, and its second character.
fn next_opening(source: &str, from: usize) -> Option<(usize, char)> {
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
fn raw_block(source: &str, start: usize) -> Option<(Range<usize>, usize)> {
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
fn tokens_of<'s>(source: &'s str, from: usize, closing: &str) -> Option<(Vec<Token<'s>>, usize)> {
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
            '\'' | '"' => (Kind::Text, text_length(rest, first)?),
            '0'..='9' => (
                Kind::Number,
                rest.find(|letter: char| !is_name(letter))
                    .unwrap_or(rest.len()),
            ),
            _ if is_name(first) => (
                Kind::Name,
                rest.find(|letter: char| !is_name(letter))
                    .unwrap_or(rest.len()),
            ),
            _ => (Kind::Operator, first.len_utf8()),
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

/// Index of the `=` outside brackets of a `set` tag.
fn assignment(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0_usize;
    tokens.iter().position(|token| {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && token.is("=")
    })
}

/// Changes of a tag's tokens, in order and apart from each other.
fn edits(tokens: &[Token<'_>], is_block: bool) -> Vec<(Range<usize>, String)> {
    let is_set = is_block && tokens.first().is_some_and(|token| token.text == "set");
    let targets = if is_set {
        assignment(tokens).unwrap_or(0)
    } else {
        0
    };
    let mut edits = Vec::new();
    for at in 1..tokens.len() {
        let Some(before) = tokens.get(at - 1) else {
            break;
        };
        let value_before = before.ends_value() && !(is_block && at == 1);
        if value_before && at >= targets {
            edits.extend(attribute_edit(&tokens[at..]));
            edits.extend(item_edit(&tokens[at..]));
        }
        if before.kind == Kind::Text {
            edits.extend(percent_edits(tokens, at));
        }
    }
    if is_block && tokens.first().is_some_and(|token| token.text == "for") {
        edits.extend(loop_edits(tokens).into_iter().flatten());
    }
    edits.sort_by_key(|(range, _)| range.start);
    edits
}

/// Brackets and a filter round what a loop goes through.
fn loop_edits(tokens: &[Token<'_>]) -> Option<[(Range<usize>, String); 2]> {
    let is_word = |token: &Token<'_>, word: &str| token.kind == Kind::Name && token.text == word;
    let first = tokens.iter().position(|token| is_word(token, "in"))? + 1;
    let mut depth = 0_usize;
    let ends = |token: &Token<'_>| {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && (is_word(token, "if") || is_word(token, "recursive"))
    };
    let behind = tokens
        .iter()
        .skip(first)
        .position(ends)
        .map(|count| first + count);
    let last = tokens
        .get(first..behind.unwrap_or(tokens.len()))?
        .last()?
        .range
        .end;
    let begin = tokens.get(first)?.range.start;
    Some([
        (begin..begin, "(".to_owned()),
        (last..last, format!(")|{LOOPED}")),
    ])
}

/// Change of `.items` that is not called.
fn attribute_edit(tokens: &[Token<'_>]) -> Option<(Range<usize>, String)> {
    let [dot, name, ..] = tokens else { return None };
    let is_call = tokens.get(2).is_some_and(|token| token.is("("));
    let is_method = dot.is(".") && name.kind == Kind::Name && DICT_METHODS.contains(&name.text);
    (is_method && !is_call).then(|| {
        (
            dot.range.start..name.range.end,
            format!(".{ATTRIBUTE}('{}')", name.text),
        )
    })
}

/// Change of `['items']`.
fn item_edit(tokens: &[Token<'_>]) -> Option<(Range<usize>, String)> {
    let [open, text, close, ..] = tokens else {
        return None;
    };
    let name = text.text.trim_matches(['\'', '"']);
    let is_method =
        open.is("[") && text.kind == Kind::Text && close.is("]") && DICT_METHODS.contains(&name);
    is_method.then(|| {
        (
            open.range.start..close.range.end,
            format!(".{ITEM}('{name}')"),
        )
    })
}

/// Changes of `%` at `at`, behind a text, and of the end of its other side.
fn percent_edits(tokens: &[Token<'_>], at: usize) -> Vec<(Range<usize>, String)> {
    let end = tokens
        .get(at)
        .filter(|token| token.is("%"))
        .and_then(|_| operand_end(tokens, at + 1));
    let Some(end) = end else { return Vec::new() };
    let last = tokens[end - 1].range.end;
    vec![
        (tokens[at].range.clone(), format!(".{PERCENT}(")),
        (last..last, ")".to_owned()),
    ]
}

/// Index behind the value that begins at `at`: a sign, a name, literal or bracket, and what follows it up to a weaker operator.
fn operand_end(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut at = at;
    while tokens
        .get(at)
        .is_some_and(|token| token.is("-") || token.is("+"))
    {
        at += 1;
    }
    let first = tokens.get(at)?;
    at = if first.kind == Kind::Operator {
        bracket_end(tokens, at)?
    } else {
        at + 1
    };
    while let Some(token) = tokens.get(at).filter(|token| token.kind == Kind::Operator) {
        match token.text {
            "." | "|" => at += 2,
            "(" | "[" => at = bracket_end(tokens, at)?,
            _ => break,
        }
    }
    (at <= tokens.len()).then_some(at)
}

/// Index behind the bracket that closes the one at `at`.
fn bracket_end(tokens: &[Token<'_>], at: usize) -> Option<usize> {
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
