//! `--set path=value`: the same recipe with some values replaced.
//!
//! A replaced value is read and checked like a written one; its place is on the command line.

use super::Grammar;
use super::kinds::{Block, Kind};
use super::tree::{self, Name, Node, YamlValue};
use crate::diag::{Diagnostic, Origin, Span, code_list};

/// Prefix of each override in the text that faults point into.
const FLAG: &str = "--set ";

/// Overrides as text, one per line.
pub(super) fn command_line(overrides: &[String]) -> String {
    let lines = overrides
        .iter()
        .map(|one| format!("{FLAG}{}\n", one.replace('\n', " ")));
    lines.collect()
}

/// Replaces values in order; returns the faults of the arguments themselves.
pub(super) fn apply(root: &mut Node, overrides: &[String], grammar: &Grammar) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut line_start = 0;
    for line in command_line(overrides).lines() {
        let text = line.strip_prefix(FLAG).unwrap_or(line);
        if let Err(fault) = set(root, text, line_start + FLAG.len(), grammar) {
            faults.push(fault);
        }
        line_start += line.len() + 1;
    }
    faults
}

fn set(root: &mut Node, text: &str, offset: usize, grammar: &Grammar) -> Result<(), Diagnostic> {
    let Some((path, value)) = text.split_once('=').filter(|(path, _)| !path.is_empty()) else {
        let message = format!("`--set {text}` is not of the form `path=value`");
        return Err(Diagnostic::new("recipe/bad-override", message)
            .primary(&at(offset, text), "")
            .help(format!(
                "write, for example, `--set {}`",
                grammar.override_example
            )));
    };
    let value = tree::parse(value, Origin::CommandLine, offset + path.len() + 1)?;
    let mut names = Vec::new();
    let mut start = offset;
    for part in path.split('.') {
        names.push(Name {
            span: at(start, part),
            text: part.to_owned(),
        });
        start += part.len() + 1;
    }
    if let Some((first, rest)) = names.split_first()
        && let Some((list, of)) = list_of(grammar.root, &first.text)
    {
        return in_entries(root, (list, of), (first, rest), &value);
    }
    replace(root, &names, &value)
}

/// List of a recipe whose entries may be this variant, and the table of its entries.
fn list_of(root: &'static Block, variant: &str) -> Option<(&'static str, &'static Block)> {
    root.iter().find_map(|key| match key.kind {
        Kind::List(Kind::Choice(of), ..) if of.names().any(|name| name == variant) => {
            Some((key.name, *of))
        }
        _ => None,
    })
}

/// Applies an override to every entry of the list that is the named variant.
fn in_entries(
    root: &mut Node,
    (list, of): (&str, &Block),
    (variant, rest): (&Name, &[Name]),
    value: &Node,
) -> Result<(), Diagnostic> {
    let mut num_found = 0;
    for item in entries_of(root, list) {
        let YamlValue::Map(entries) = &mut item.value else {
            continue;
        };
        for (_, node) in entries
            .iter_mut()
            .filter(|(name, _)| name.text == variant.text)
        {
            replace(node, rest, value)?;
            num_found += 1;
        }
    }
    if num_found > 0 {
        return Ok(());
    }
    let message = format!("the recipe has no `{}` {}", variant.text, of.name);
    let mut kinds: Vec<&str> = Vec::new();
    for item in entries_of(root, list) {
        if let YamlValue::Map(entries) = &item.value {
            kinds.extend(entries.iter().map(|(name, _)| name.text.as_str()));
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    let id = format!("recipe/no-such-{}", of.name);
    Err(Diagnostic::new(&id, message)
        .primary(&variant.span, format!("{list}: {}", code_list(kinds))))
}

fn entries_of<'a>(root: &'a mut Node, list: &str) -> &'a mut [Node] {
    if let YamlValue::Map(entries) = &mut root.value
        && let Some((_, items)) = entries.iter_mut().find(|(name, _)| name.text == list)
        && let YamlValue::List(items) = &mut items.value
    {
        return items;
    }
    &mut []
}

/// Walks to a value and replaces it; missing maps on the way are made, but entries of lists must exist.
fn replace(node: &mut Node, names: &[Name], value: &Node) -> Result<(), Diagnostic> {
    let Some((name, rest)) = names.split_first() else {
        *node = value.clone();
        return Ok(());
    };
    if let YamlValue::List(items) = &mut node.value {
        let num_items = items.len();
        let index = name.text.parse::<usize>().ok();
        let Some(item) = index.and_then(|index| items.get_mut(index)) else {
            let message = format!("`{}` is not an entry of this list", name.text);
            return Err(Diagnostic::new("recipe/no-such-entry", message)
                .primary(&name.span, format!("it has {num_items}, counted from 0")));
        };
        return replace(item, rest, value);
    }
    if !matches!(node.value, YamlValue::Map(_)) {
        node.value = YamlValue::Map(Vec::new());
    }
    let YamlValue::Map(entries) = &mut node.value else {
        return Ok(()); // it was made a map above
    };
    let found = entries
        .iter()
        .position(|(known, _)| known.text == name.text);
    let index = found.unwrap_or_else(|| {
        let empty = Node {
            span: name.span.clone(),
            value: YamlValue::Null,
        };
        entries.push((name.clone(), empty));
        entries.len() - 1
    });
    match entries.get_mut(index) {
        Some((known, node)) => {
            if rest.is_empty() {
                known.span = name.span.clone();
            }
            replace(node, rest, value)
        }
        None => Ok(()), // the index was found or made above
    }
}

fn at(start: usize, text: &str) -> Span {
    Span {
        origin: Origin::CommandLine,
        range: start..start + text.len(),
    }
}
