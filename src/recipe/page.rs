//! A table of keys as a Markdown page, for readers.

use std::fmt::Write as _;

use super::kinds::{Block, Fallback, Kind};
use super::values;

/// Every key with its type, default and meaning, block after block.
pub fn page(root: &'static Block) -> String {
    let mut out = String::new();
    section(&Kind::Block(root), "", &mut Vec::new(), &mut out);
    out
}

/// One block as a table, then the blocks it holds.
fn section(kind: &Kind, path: &str, seen: &mut Vec<*const Block>, out: &mut String) {
    let (block, is_choice) = match kind {
        Kind::List(of, ..) => return section(of, path, seen, out),
        Kind::Block(block) | Kind::Short(block) | Kind::Moving(_, block) => (*block, false),
        Kind::Choice(block) => (*block, true),
        _ => return,
    };
    if seen.iter().any(|&known| std::ptr::eq(known, block)) {
        return;
    }
    seen.push(block);
    let title = if path.is_empty() { "The recipe" } else { path };
    let _ = write!(out, "\n## {title}\n\n{}\n\n", block.about);
    out.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in block.iter() {
        let default = match key.default {
            Fallback::Required if is_choice => "one of these".to_owned(),
            Fallback::Required => "required".to_owned(),
            Fallback::Value(text) => format!("`{text}`"),
            Fallback::Rule(rule) => rule.to_owned(),
        };
        let phrase = values::phrase(&key.kind);
        let _ = writeln!(
            out,
            "| `{}` | {phrase} | {default} | {} |",
            key.name, key.about
        );
    }
    for key in block.iter() {
        let path = if path.is_empty() {
            format!("`{}`", key.name)
        } else {
            format!("{}.{}`", path.trim_end_matches('`'), key.name)
        };
        section(&key.kind, &path, seen, out);
    }
}
