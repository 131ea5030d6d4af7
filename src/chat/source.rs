//! TemplateSource of a template, changed so that minijinja reads it as jinja2 does.
//!
//! Seven things are read otherwise by the two, and each can be said in a way that both read alike:
//!
//! - Lines may end in `\r\n` or `\r` for jinja2.
//! - `{% raw %}` keeps the newline behind it in jinja2.
//! - `{% generation %}` is a block of transformers. It becomes a scope of its own, with the same dashes.
//! - A dictionary's method wins over a key in `d.items`, and stands in for a missing key in `d['items']`.
//! - `'%s' % value` formats.
//! - A loop over none fails.
//! - `{% filter %}` is a scope of its own.
//!
//! No line moves, so that errors name lines of the original.

use std::ops::Range;

use super::tokens::{LexemeKind, Token, bracket_end, next_opening, raw_block, tokens_of};

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

/// TemplateSource for minijinja.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TemplateSource {
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

impl TemplateSource {
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
        let (before, after) = signs(&source[tag.clone()]);
        let word = if is_block {
            tokens.first().map(|first| first.text)
        } else {
            None
        };
        let mut at = tag.start;
        if word == Some("filter") {
            out.push_str("{%");
            out.push_str(before);
            out.push_str(" with %}{%");
            at += 2 + before.len();
        }
        for (range, text) in edits(tokens, is_block) {
            out.push_str(&source[at..range.start]);
            out.push_str(&text);
            at = range.end;
        }
        if word == Some("endfilter") {
            let end = tag.end - 2 - after.len();
            out.push_str(&source[at..end]);
            out.push_str("%}{% endwith ");
            at = end;
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
        let (before, after) = signs(tag);
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

/// Signs at the two ends of a tag: `-`, `+` or none.
fn signs(tag: &str) -> (&str, &str) {
    let inner = &tag[2..tag.len() - 2];
    let sign = |at: usize| {
        inner
            .get(at..at + 1)
            .filter(|sign| ["-", "+"].contains(sign))
    };
    let last = inner.len().saturating_sub(1);
    (sign(0).unwrap_or_default(), sign(last).unwrap_or_default())
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
        if before.kind == LexemeKind::Text {
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
    let is_word =
        |token: &Token<'_>, word: &str| token.kind == LexemeKind::Name && token.text == word;
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
    let is_method =
        dot.is(".") && name.kind == LexemeKind::Name && DICT_METHODS.contains(&name.text);
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
    let is_method = open.is("[")
        && text.kind == LexemeKind::Text
        && close.is("]")
        && DICT_METHODS.contains(&name);
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
    at = if first.kind == LexemeKind::Operator {
        bracket_end(tokens, at)?
    } else {
        at + 1
    };
    while let Some(token) = tokens
        .get(at)
        .filter(|token| token.kind == LexemeKind::Operator)
    {
        match token.text {
            "." | "|" => at += 2,
            "(" | "[" => at = bracket_end(tokens, at)?,
            _ => break,
        }
    }
    (at <= tokens.len()).then_some(at)
}
