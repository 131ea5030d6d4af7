//! Kinds of keys: the entries of a table of keys, and the values that each accepts.

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::path::Path;

use super::meant::Spelling;

/// Keys that belong together under one name.
#[derive(Debug)]
pub struct Block {
    /// Key that holds the block, or the noun for one of its variants if it is a choice.
    pub name: &'static str,
    /// Purpose of the block.
    pub about: &'static str,
    /// Its keys.
    pub rows: &'static [Row],
}

/// An entry of a table: a key, or keys that several tables share.
#[derive(Debug)]
pub enum Row {
    /// One key.
    Key(Key),
    /// Keys that other tables share.
    Group(&'static [Self]),
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Name, as it is written.
    pub name: &'static str,
    /// Names of the same thing in other programs.
    pub also: &'static [&'static str],
    /// Values that it accepts.
    pub kind: Kind,
    /// Default.
    pub default: Fallback,
    /// Its meaning with its unit: lower case, no full stop.
    pub about: &'static str,
}

/// Value of a key that is not written.
#[derive(Debug)]
pub enum Fallback {
    /// A required key.
    Required,
    /// This value, as one would write it.
    Value(&'static str),
    /// A rule, described in words.
    Rule(&'static str),
}

/// Values that a key accepts.
#[derive(Debug)]
pub enum Kind {
    /// Name of a folder.
    Name,
    /// A text that is not blank.
    Text,
    /// `true` or `false`.
    Switch,
    /// A whole number, both ends included.
    Integer(u64, u64),
    /// One of a few whole numbers.
    IntegerOf(&'static [u64]),
    /// A value of this kind, or a word for no value.
    Or(&'static Self, Spelling),
    /// A count of at least this, which may be written `600k` or `1.5M`.
    Tokens(u64),
    /// Bytes, which may be written `500M` or `5G`.
    Bytes(u64),
    /// A number.
    Number(Bound<f64>, Bound<f64>),
    /// A number (the kind), or keys that describe how it moves or is found.
    Moving(&'static Self, &'static Block),
    /// At least two steps, or a share of the steps of a pass.
    StepsOrShare,
    /// One of a few words.
    Word(&'static [Spelling]),
    /// A path; see [`PathKind`].
    Path(PathKind),
    /// A list of at least this many and at most that many entries.
    List(&'static Self, usize, usize),
    /// Further keys.
    Block(&'static Block),
    /// Further keys, or the value of the first of them alone.
    Short(&'static Block),
    /// Exactly one of these keys that have no default, its variants; those of kind [`Kind::Unit`] are written as a bare word. Keys with a
    /// default may stand beside it.
    Choice(&'static Block),
    /// A variant without keys.
    Unit,
}

/// Requirement on a path before a run.
#[derive(Debug, Clone, Copy)]
pub enum PathKind {
    /// A file.
    File,
    /// A file or a folder, or data of a hub by their id.
    FileOrFolder,
    /// A file of a tokenizer, or a model of a hub by its id.
    Tokenizer,
    /// A file if the path's name says so, or else a folder; or a model of a hub by its id.
    Either {
        /// True for the path of a file, whether or not anything is there.
        is_file: fn(&Path) -> bool,
        /// Both nouns, for the message about a path where neither is found.
        nouns: &'static str,
        /// Both, each with its article.
        phrase: &'static str,
    },
    /// A folder that the run makes.
    Output,
}

impl PathKind {
    /// True if an id of a hub may stand in the place of a path.
    pub(super) fn takes_ids(self) -> bool {
        match self {
            Self::FileOrFolder | Self::Tokenizer | Self::Either { .. } => true,
            Self::File | Self::Output => false,
        }
    }
}

impl Key {
    /// Its name, with those in other programs.
    pub fn spelling(&self) -> Spelling {
        Spelling {
            word: self.name,
            also: self.also,
        }
    }

    /// True if it is a variant, in the table of a choice.
    pub fn is_variant(&self) -> bool {
        matches!(self.default, Fallback::Required)
    }
}

impl Block {
    /// All keys, including those of groups.
    pub fn iter(&self) -> impl Iterator<Item = &'static Key> {
        keys_of(self.rows).into_iter()
    }

    /// Variants of a choice.
    pub fn variants(&self) -> impl Iterator<Item = &'static Key> {
        self.iter().filter(|key| key.is_variant())
    }

    /// Names of all keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.iter().map(|key| key.name)
    }
}

impl Kind {
    /// True for lists of paths or words that may be written as their only entry.
    pub(super) fn takes_one(&self) -> bool {
        match self {
            Self::List(of, min, max) => {
                let is_one = match of {
                    Self::Short(block) => block.iter().next().map(|key| &key.kind),
                    _ => Some(*of),
                };
                let is_one = is_one.is_some_and(|of| matches!(of, Self::Path(_) | Self::Word(_)));
                *min <= 1 && *max > 0 && is_one
            }
            _ => false,
        }
    }
}

/// Keys of a part of a table.
pub fn keys_of(rows: &'static [Row]) -> Vec<&'static Key> {
    let mut keys = Vec::new();
    for row in rows {
        match row {
            Row::Key(key) => keys.push(key),
            Row::Group(rows) => keys.extend(keys_of(rows)),
        }
    }
    keys
}

/// A key that must be written.
pub const fn required(name: &'static str, kind: Kind, about: &'static str) -> Row {
    row(name, kind, Fallback::Required, about)
}

/// A key with a default, as one would write it.
pub const fn or(name: &'static str, value: &'static str, kind: Kind, about: &'static str) -> Row {
    row(name, kind, Fallback::Value(value), about)
}

/// A key whose default is a rule, described in words.
pub const fn rule(name: &'static str, rule: &'static str, kind: Kind, about: &'static str) -> Row {
    row(name, kind, Fallback::Rule(rule), about)
}

/// The row, with names of its key in other programs.
pub const fn also(row: Row, names: &'static [&'static str]) -> Row {
    match row {
        Row::Key(key) => Row::Key(Key { also: names, ..key }),
        group @ Row::Group(_) => group,
    }
}

const fn row(name: &'static str, kind: Kind, default: Fallback, about: &'static str) -> Row {
    Row::Key(Key {
        name,
        also: &[],
        kind,
        default,
        about,
    })
}

/// Largest count of tokens: below it, no product of two sizes of a plan overflows 64 bits.
pub const MAX_TOKENS: u64 = 1_000_000_000_000;
/// Largest number of bytes.
pub const MAX_BYTES: u64 = 1_000_000_000_000_000;
/// Largest number of steps.
pub const MAX_STEPS: u64 = 1_000_000_000;
/// Largest width, length or batch; real ones are a tenth of it.
pub const MAX_SIZE: u64 = 1 << 20;
/// A share, above 0 and at most 1.
pub const SHARE_ABOVE_0: Kind = Kind::Number(Excluded(0.0), Included(1.0));
/// A positive number.
pub const ABOVE_0: Kind = Kind::Number(Excluded(0.0), Unbounded);
/// A number that is not negative.
pub const FROM_0: Kind = Kind::Number(Included(0.0), Unbounded);
/// A temperature of probabilities.
pub const TEMPERATURE: Kind = Kind::Number(Excluded(0.0), Included(100.0));
