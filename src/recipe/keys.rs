//! How the table of keys is written: `recipe_keys.rs` and the other `*_keys.rs` hold its entries.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// Keys that stand together under one name.
#[derive(Debug)]
pub(super) struct Block {
    /// The key that holds it, or the noun for one of its variants if it is a choice.
    pub(super) name: &'static str,
    /// What it is for.
    pub(super) about: &'static str,
    /// Its keys; two groups where a block shares keys with another.
    pub(super) keys: &'static [&'static [Key]],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Fallback,
    /// Its meaning with its unit: lower case, no full stop.
    pub(super) about: &'static str,
}

/// What holds if a key is not written.
#[derive(Debug)]
pub(super) enum Fallback {
    /// It must be written.
    Required,
    /// This value, as one would write it.
    Value(&'static str),
    /// What the sentence says.
    Rule(&'static str),
}

/// What may stand behind a key.
#[derive(Debug)]
pub(super) enum Kind {
    /// Name of a folder.
    Name,
    /// `true` or `false`.
    Switch,
    /// A whole number, both ends included.
    Integer(u64, u64),
    /// One of a few whole numbers.
    IntegerOf(&'static [u64]),
    /// A whole number, or a word in its place.
    IntegerOr(u64, u64, &'static str),
    /// A count of at least this, which may be written `600k` or `1.5M`.
    Tokens(u64),
    /// Bytes, which may be written `500M` or `5G`.
    Bytes(u64),
    /// A number.
    Number(Bound<f64>, Bound<f64>),
    /// A number (the kind), or keys that say how it moves or is found.
    Moving(&'static Self, &'static Block),
    /// At least two steps, or a share of the steps of a pass.
    StepsOrShare,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// A path; see [`PathKind`].
    Path(PathKind),
    /// A list of at least and at most so many.
    List(&'static Self, usize, usize),
    /// Further keys.
    Block(&'static Block),
    /// Further keys, or the value of the first of them alone.
    Short(&'static Block),
    /// Exactly one of these keys; those of kind [`Kind::Unit`] are written as a bare word.
    Choice(&'static Block),
    /// A variant without keys.
    Unit,
}

/// What must be there before a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKind {
    File,
    FileOrFolder,
    /// A model folder or a `.gguf` file.
    Checkpoint,
    /// A folder that the run makes.
    Output,
}

impl Block {
    pub(super) fn iter(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().copied().flatten()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.iter().map(|key| key.name)
    }
}

pub(super) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Key {
    let default = Fallback::Required;
    Key {
        name,
        kind,
        default,
        about,
    }
}

pub(super) const fn or(
    name: &'static str,
    kind: Kind,
    value: &'static str,
    about: &'static str,
) -> Key {
    let default = Fallback::Value(value);
    Key {
        name,
        kind,
        default,
        about,
    }
}

pub(super) const fn rule(
    name: &'static str,
    kind: Kind,
    rule: &'static str,
    about: &'static str,
) -> Key {
    let default = Fallback::Rule(rule);
    Key {
        name,
        kind,
        default,
        about,
    }
}

/// Largest count of tokens: below it, no product of two sizes of a plan overflows 64 bits.
pub(super) const MAX_TOKENS: u64 = 1_000_000_000_000;
pub(super) const MAX_BYTES: u64 = 1_000_000_000_000_000;
pub(super) const MAX_STEPS: u64 = 1_000_000_000;
pub(super) const MAX_SIZE: u64 = 1 << 20; // widths, lengths and batches; real ones are a tenth of it
pub(super) const SHARE_ABOVE_0: Kind = Kind::Number(Excluded(0.0), Included(1.0));
pub(super) const ABOVE_0: Kind = Kind::Number(Excluded(0.0), Unbounded);
pub(super) const FROM_0: Kind = Kind::Number(Included(0.0), Unbounded);
pub(super) const TEMPERATURE: Kind = Kind::Number(Excluded(0.0), Included(100.0));
