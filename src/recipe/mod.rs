//! The language of recipes: from YAML text to checked values, with the places of faults, and back.
//!
//! It knows kinds of keys but no key: each stage declares its own with `keys!`, as a struct whose rows are also the table from
//! which recipes are read, the JSON Schema is printed and `docs/recipe.md` is written. `tree` reads YAML with places, `set`
//! replaces values, `read` checks each key against the tables, and [`load`] joins these for the owner of the whole table.

#![warn(clippy::indexing_slicing)]

mod fields;
mod keys;
mod kinds;
mod meant;
mod moving;
mod page;
mod read;
mod rules;
mod schema;
mod set;
mod tree;
mod value;
mod values;
mod words;
mod yaml;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use self::fields::{Checked, Entry, Fields, Item};
pub(crate) use self::keys::{choice, keys};
pub use self::kinds::*;
pub use self::meant::Spelling;
use self::meant::block_of;
pub use self::moving::{Ramp, RampShape, Scheduled, Shape, over};
pub use self::page::page;
pub use self::rules::{ascending, distinct, division, unused};
pub use self::schema::schema;
pub use self::value::{Keys, Read, Value, or_word, put, relative, tell, word_of};
pub use self::words::Word;
pub(crate) use self::words::words;
pub use self::yaml::to_yaml;
use crate::diag::{self, Diagnostic, Origin, Sources};
use crate::files;
use crate::missing;

/// Longest recipe that is read, in bytes: a wrong path to a model must not fill the memory.
const MAX_RECIPE_BYTES: u64 = 1 << 20;

/// Keys and rules that a text is read by.
#[derive(Debug)]
pub struct Grammar {
    /// Keys of the whole text.
    pub root: &'static Block,
    /// Rule that reports every contradiction between keys, in no order. It checks only keys that are valid, so that a refused
    /// key is not reported twice.
    pub contradictions: fn(Fields<'_>, &mut Vec<Diagnostic>),
    /// Blocks whose paths may name nothing.
    pub may_be_absent: &'static [&'static str],
    /// Example of an override, shown in the message about a malformed one.
    pub override_example: &'static str,
}

/// All faults of a recipe, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeFaults {
    /// Faults; at least one.
    pub diagnostics: Vec<Diagnostic>,
    /// Texts that the faults point into.
    pub sources: Sources,
}

impl RecipeFaults {
    /// Sorts faults.
    fn of(mut diagnostics: Vec<Diagnostic>, sources: Sources) -> Self {
        diag::sort(&mut diagnostics);
        diagnostics.dedup(); // one override may reach several passes
        Self {
            diagnostics,
            sources,
        }
    }

    /// Message for the user: each fault with its line, then their number.
    pub fn render(&self, color: bool) -> String {
        let num_faults = self.diagnostics.len();
        let plural = if num_faults == 1 { "" } else { "s" };
        format!(
            "{}\n\nerror: {num_faults} fault{plural} in {}; nothing was run",
            diag::render(&self.diagnostics, &self.sources, color),
            self.sources.recipe_name
        )
    }

    /// Joins these faults with others of the same recipe, in the order of its text.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.diagnostics.extend(others.diagnostics);
        Self::of(self.diagnostics, self.sources)
    }
}

impl fmt::Display for RecipeFaults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.render(false))
    }
}

impl std::error::Error for RecipeFaults {}

/// Reads a recipe file, with `path=value` overrides applied; also returns the absolute path of the file.
///
/// Relative paths, those of overrides included, start at the folder of the recipe.
pub fn load<T: Keys>(
    grammar: &Grammar,
    path: &Path,
    overrides: &[String],
) -> Result<(T, PathBuf), RecipeFaults> {
    let (absolute, text) = read_file(path).map_err(|fault| {
        let sources = Sources {
            recipe_name: path.display().to_string(),
            recipe: String::new(),
            command_line: set::command_line(overrides),
        };
        RecipeFaults::of(vec![fault], sources)
    })?;
    let read = understand(grammar, &text, overrides, path)?;
    Ok((read, absolute))
}

/// Reads a text that was made of the arguments of a command, or that will be the recipe file `name`.
///
/// Messages call it `name`, and its relative paths start at the folder of `name`.
pub fn understand<T: Keys>(
    grammar: &Grammar,
    text: &str,
    overrides: &[String],
    name: &Path,
) -> Result<T, RecipeFaults> {
    parse(grammar, text, overrides, folder_of(name)).map_err(|faults| {
        let sources = Sources {
            recipe_name: name.display().to_string(),
            recipe: text.to_owned(),
            command_line: set::command_line(overrides),
        };
        RecipeFaults::of(faults, sources)
    })
}

/// Reads a text whose relative paths start at a folder; or returns its faults, in no order.
pub(crate) fn parse<T: Keys>(
    grammar: &Grammar,
    text: &str,
    overrides: &[String],
    folder: &Path,
) -> Result<T, Vec<Diagnostic>> {
    let mut root = tree::parse(text, Origin::Recipe, 0).map_err(|fault| vec![fault])?;
    let mut faults = set::apply(&mut root, overrides, grammar);
    let (blocks, of_keys) = read::read(grammar, &root, folder);
    faults.extend(of_keys);
    let Some(fields) = Fields::of(&blocks) else {
        return Err(faults);
    };
    (grammar.contradictions)(fields, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(T::read_keys(fields).expect("a recipe without faults has every value"))
}

/// Diagnostic of a fault that was found later, with its key in a recipe file.
///
/// `key` is a path such as `teacher.checkpoint` or `passes.2.quantize.group_size`; `overrides` are those
/// that the recipe was loaded with. If the key is not written or the recipe can no longer be read, the fault
/// is reported without a line.
pub fn fault_at(
    grammar: &Grammar,
    path: &Path,
    overrides: &[String],
    key: &str,
    label: &str,
    fault: Diagnostic,
) -> RecipeFaults {
    let here = std::env::current_dir().unwrap_or_default();
    let shown = path.strip_prefix(here).unwrap_or(path);
    let mut sources = Sources {
        recipe_name: shown.display().to_string(),
        recipe: String::new(),
        command_line: set::command_line(overrides),
    };
    let mut span = None;
    if let Ok((_, text)) = read_file(path)
        && let Ok(mut root) = tree::parse(&text, Origin::Recipe, 0)
    {
        set::apply(&mut root, overrides, grammar);
        span = root.find(key);
        sources.recipe = text;
    }
    RecipeFaults {
        diagnostics: vec![fault.primary(span.as_ref(), label)],
        sources,
    }
}

/// Words that a key may have, such as `["export", "formats"]`; none if the key takes other values, or does not exist.
pub fn words_at(root: &'static Block, path: &[&str]) -> Vec<&'static str> {
    let Some((last, holders)) = path.split_last() else {
        return Vec::new();
    };
    let kind_of = |block: &'static Block, name: &str| {
        let key = block.iter().find(|key| key.name == name)?;
        Some(&key.kind)
    };
    let block = holders
        .iter()
        .try_fold(root, |block, name| kind_of(block, name).and_then(block_of));
    let kind = block.and_then(|block| kind_of(block, last));
    kind.map(words_of).unwrap_or_default()
}

fn words_of(kind: &'static Kind) -> Vec<&'static str> {
    match kind {
        Kind::Word(words) => words.iter().map(|one| one.word).collect(),
        Kind::List(entry, ..) => words_of(entry),
        _ => Vec::new(),
    }
}

/// Folder that a recipe's relative paths start from.
fn folder_of(recipe_path: &Path) -> &Path {
    recipe_path.parent().unwrap_or(Path::new(""))
}

fn read_file(path: &Path) -> Result<(PathBuf, String), Diagnostic> {
    let unreadable = |reason: String| {
        Diagnostic::new("recipe/unreadable", format!("{}: {reason}", path.display()))
    };
    let read = || {
        let mut bytes = Vec::new();
        let file = files::open(path)?;
        file.take(MAX_RECIPE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok((std::path::absolute(path)?, bytes))
    };
    let (absolute, bytes) = read().map_err(|error: std::io::Error| {
        let fault = unreadable(error.to_string());
        match missing::similar(path, Path::new("")) {
            Some(advice) => fault.help(advice),
            None => fault,
        }
    })?;
    if bytes.len() as u64 > MAX_RECIPE_BYTES {
        return Err(unreadable("longer than 1 MiB; not a recipe".to_owned()));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((absolute, text)),
        Err(error) => Err(unreadable(format!(
            "not UTF-8 from byte {} on",
            error.utf8_error().valid_up_to()
        ))),
    }
}
