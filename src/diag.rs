//! Faults in a user's input: what is wrong, where, and what to write instead.
//!
//! Handles only text and spans; does not know recipes.

use std::collections::BTreeMap;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// The text that a span is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The recipe file.
    Recipe,
    /// The `--set` arguments, one per line.
    CommandLine,
}

/// A range of bytes in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The text.
    pub origin: Origin,
    /// The bytes.
    pub range: Range<usize>,
}

/// A remark under a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Underlined text.
    pub span: Span,
    /// The remark; may be empty.
    pub text: String,
    /// True for the fault itself (`^^^`), false for something it depends on (`---`).
    pub primary: bool,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stage and kebab-case name, such as `recipe/unknown-key`.
    pub id: String,
    /// The fact, lower case, without a full stop.
    pub message: String,
    /// Locations; empty if the fault is not about a place in the text.
    pub labels: Vec<Label>,
    /// The edit to make.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A fault without a location.
    pub fn new(id: &str, message: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            message: message.into(),
            labels: Vec::new(),
            help: None,
        }
    }

    /// Underlines the fault itself, if it has a location.
    #[must_use]
    pub fn primary<'a>(self, span: impl Into<Option<&'a Span>>, text: impl Into<String>) -> Self {
        self.label(span.into(), text.into(), true)
    }

    /// Underlines something that the fault depends on, if it has a location.
    #[must_use]
    pub fn secondary<'a>(self, span: impl Into<Option<&'a Span>>, text: impl Into<String>) -> Self {
        self.label(span.into(), text.into(), false)
    }

    /// Sets the edit to make.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    fn label(mut self, span: Option<&Span>, text: String, primary: bool) -> Self {
        self.labels.extend(span.cloned().map(|span| Label {
            span,
            text,
            primary,
        }));
        self
    }

    /// Sort key of faults: those without a location come first, then by location.
    fn place(&self) -> Option<(Origin, usize)> {
        let primary = self.labels.iter().find(|label| label.primary);
        let label = primary.or(self.labels.first())?;
        Some((label.span.origin, label.span.range.start))
    }
}

/// The texts that spans point into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The recipe's path as the user gave it.
    pub recipe_name: String,
    /// The recipe's text.
    pub recipe: String,
    /// `--set path=value`, one per line.
    pub command_line: String,
}

/// Sorts faults by their location in the text.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(Diagnostic::place);
}

/// Formats the faults in rustc's style, separated by blank lines.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let blocks: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| renderer.render(&[group(diagnostic, sources)]))
        .collect();
    blocks.join("\n\n")
}

/// The known word that a typing error most likely meant, if any is close.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// A list for a sentence: "`a`, `b`".
pub fn code_list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let mut by_origin: BTreeMap<Origin, Vec<&Label>> = BTreeMap::new();
    for label in &diagnostic.labels {
        by_origin.entry(label.span.origin).or_default().push(label);
    }
    // The text with the fault itself comes first.
    let mut origins: Vec<_> = by_origin.into_iter().collect();
    origins.sort_by_key(|(_, labels)| !labels.iter().any(|label| label.primary));
    Level::ERROR
        .primary_title(&diagnostic.message)
        .id(&diagnostic.id)
        .elements(
            origins
                .into_iter()
                .map(|(origin, labels)| snippet(origin, &labels, sources)),
        )
        .elements(diagnostic.help.iter().map(|help| Level::HELP.message(help)))
}

fn snippet<'a>(
    origin: Origin,
    labels: &[&'a Label],
    sources: &'a Sources,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let (name, text) = match origin {
        Origin::Recipe => (sources.recipe_name.as_str(), sources.recipe.as_str()),
        Origin::CommandLine => ("command line", sources.command_line.as_str()),
    };
    let annotations = labels.iter().map(|label| {
        let kind = if label.primary {
            AnnotationKind::Primary
        } else {
            AnnotationKind::Context
        };
        let annotation = kind.span(first_line(text, &label.span.range));
        if label.text.is_empty() {
            annotation
        } else {
            annotation.label(&label.text)
        }
    });
    Snippet::source(text)
        .path(name)
        .fold(true)
        .annotations(annotations)
}

/// Part of a span on its first line, within the text: one underlined line is enough.
fn first_line(text: &str, range: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(range.start.min(text.len()));
    let end = text.ceil_char_boundary(range.end.clamp(start, text.len()));
    let line = text.get(start..end).unwrap_or_default();
    let line = line.lines().next().unwrap_or_default().trim_end();
    start..start + line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(range: Range<usize>) -> Span {
        Span {
            origin: Origin::Recipe,
            range,
        }
    }

    #[test]
    fn a_fault_is_shown_with_its_line_and_the_line_it_depends_on() {
        let sources = Sources {
            recipe_name: "a.yaml".into(),
            recipe: "size: 384\nx: 1\nother: 2\ny: 3\ngroup: 80\n".into(),
            command_line: String::new(),
        };
        let fault = Diagnostic::new("recipe/uneven", "`group` does not divide `size`")
            .primary(&span(36..38), "384 / 80 leaves 64 over")
            .secondary(&span(6..9), "each row has 384 weights")
            .help("use 32 or 64");
        assert_eq!(
            render(&[fault], &sources, false),
            "\
error[recipe/uneven]: `group` does not divide `size`
 --> a.yaml:5:8
  |
1 | size: 384
  |       --- each row has 384 weights
...
5 | group: 80
  |        ^^ 384 / 80 leaves 64 over
  |
  = help: use 32 or 64"
        );
    }

    #[test]
    fn a_span_outside_the_text_is_clipped_and_not_a_panic() {
        let sources = Sources {
            recipe: "é\nb".into(),
            ..Sources::default()
        };
        for range in [0..1, 1..2, 2..900, 900..1000, 4..4] {
            let fault = Diagnostic::new("a/b", "c").primary(&span(range), "d");
            assert!(render(&[fault], &sources, false).contains("error[a/b]: c"));
        }
        assert_eq!(first_line("ab: 1\ncd", &(4..8)), 4..5);
    }

    #[test]
    fn the_nearest_word_is_suggested_only_if_it_is_near() {
        let known = ["distill", "prune", "quantize"];
        assert_eq!(nearest("destill", known), Some("distill"));
        assert_eq!(nearest("prnue", known), Some("prune"));
        assert_eq!(nearest("export", known), None);
        assert_eq!(nearest("", known), None);
    }
}
