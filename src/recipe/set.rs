//! `--set path=value`: the same recipe with some values replaced.
//!
//! A replaced value is read and checked like a written one; its place is on the command line.

use super::tree::{self, Name, Node, Value};
use crate::diag::{Diagnostic, Origin, Span, code_list};

/// What stands before each override in the text that faults point into.
const FLAG: &str = "--set ";

/// The overrides as text, one a line.
pub(super) fn command_line(overrides: &[String]) -> String {
    let lines = overrides
        .iter()
        .map(|one| format!("{FLAG}{}\n", one.replace('\n', " ")));
    lines.collect()
}

/// Replaces values in order; gives the faults of the arguments themselves.
pub(super) fn apply(root: &mut Node, overrides: &[String]) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut line_start = 0;
    for line in command_line(overrides).lines() {
        let text = line.strip_prefix(FLAG).unwrap_or(line);
        if let Err(fault) = set(root, text, line_start + FLAG.len()) {
            faults.push(fault);
        }
        line_start += line.len() + 1;
    }
    faults
}

fn set(root: &mut Node, text: &str, offset: usize) -> Result<(), Diagnostic> {
    let Some((path, value)) = text.split_once('=').filter(|(path, _)| !path.is_empty()) else {
        let message = format!("`--set {text}` is not of the form `path=value`");
        return Err(Diagnostic::new("recipe/bad-override", message)
            .primary(&at(offset, text), "")
            .help("write, for example, `--set distill.steps=200`"));
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
    match names.split_first() {
        Some((pass, rest))
            if ["distill", "prune", "shrink", "quantize"].contains(&pass.text.as_str()) =>
        {
            in_passes(root, pass, rest, &value)
        }
        _ => replace(root, &names, &value),
    }
}

/// A bare pass name stands for every pass of that kind.
fn in_passes(root: &mut Node, pass: &Name, rest: &[Name], value: &Node) -> Result<(), Diagnostic> {
    let mut num_found = 0;
    for item in passes_of(root) {
        let Value::Map(entries) = &mut item.value else {
            continue;
        };
        for (_, node) in entries
            .iter_mut()
            .filter(|(name, _)| name.text == pass.text)
        {
            replace(node, rest, value)?;
            num_found += 1;
        }
    }
    if num_found > 0 {
        return Ok(());
    }
    let message = format!("the recipe has no `{}` pass", pass.text);
    let mut kinds: Vec<&str> = Vec::new();
    for item in passes_of(root) {
        if let Value::Map(entries) = &item.value {
            kinds.extend(entries.iter().map(|(name, _)| name.text.as_str()));
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    Err(Diagnostic::new("recipe/no-such-pass", message)
        .primary(&pass.span, format!("passes: {}", code_list(kinds))))
}

fn passes_of(root: &mut Node) -> &mut [Node] {
    if let Value::Map(entries) = &mut root.value
        && let Some((_, passes)) = entries.iter_mut().find(|(name, _)| name.text == "passes")
        && let Value::List(items) = &mut passes.value
    {
        return items;
    }
    &mut []
}

/// Walks to a value and replaces it; maps on the way are made, entries of lists must be there.
fn replace(node: &mut Node, names: &[Name], value: &Node) -> Result<(), Diagnostic> {
    let Some((name, rest)) = names.split_first() else {
        *node = value.clone();
        return Ok(());
    };
    if let Value::List(items) = &mut node.value {
        let num_items = items.len();
        let index = name.text.parse::<usize>().ok();
        let Some(item) = index.and_then(|index| items.get_mut(index)) else {
            let message = format!("`{}` is not an entry of this list", name.text);
            return Err(Diagnostic::new("recipe/no-such-entry", message)
                .primary(&name.span, format!("it has {num_items}, counted from 0")));
        };
        return replace(item, rest, value);
    }
    if !matches!(node.value, Value::Map(_)) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else {
        return Ok(()); // it was made a map above
    };
    let found = entries
        .iter()
        .position(|(known, _)| known.text == name.text);
    let index = found.unwrap_or_else(|| {
        let empty = Node {
            span: name.span.clone(),
            value: Value::Null,
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
