//! The recipe file as checked fields: values of the right type and range, and where they were written.

use std::path::PathBuf;

use super::kinds::{Block, Key};
use super::value::Value;
use super::words::Word;
use crate::diag::Span;

/// All blocks of a recipe, by number; the first is the recipe itself.
#[derive(Debug, Default)]
pub(super) struct Blocks(pub(super) Vec<Filled>);

/// A block as written, completed with the defaults of its table.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) block: &'static Block,
    /// Number of the enclosing block.
    pub(super) outer: Option<usize>,
    /// Span of its key; `None` for the recipe itself and for defaults.
    pub(super) holder: Option<Span>,
    pub(super) entries: Vec<Entry>,
    /// True if a written key was not understood.
    pub(super) has_unknown: bool,
}

/// A key and its value.
#[derive(Debug)]
pub struct Entry {
    /// The key's row in the table.
    pub key: &'static Key,
    /// Span of the key; `None` for a default.
    pub(super) name: Option<Span>,
    /// The value.
    pub item: Item,
}

/// A value, or `None` if it was faulty and has been reported.
#[derive(Debug)]
pub struct Item {
    /// Span of the value; `None` for a default.
    pub span: Option<Span>,
    /// The checked value.
    pub value: Option<Checked>,
}

/// A value of the type and range that the table asks for.
#[derive(Debug)]
pub enum Checked {
    /// `true` or `false`.
    Switch(bool),
    /// A whole number.
    Integer(u64),
    /// A number.
    Number(f64),
    /// A name or a word.
    Text(String),
    /// An absolute path.
    Path(PathBuf),
    /// A list.
    List(Vec<Item>),
    /// A block, by its number; a choice has only the variant that was written.
    Block(usize),
    /// The word for no value.
    Off,
    /// A variant without keys.
    Unit,
}

/// Keys of one block, with access to those of the recipe around it.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    blocks: &'a Blocks,
    filled: &'a Filled,
}

impl<'a> Fields<'a> {
    /// The recipe itself.
    pub(super) fn of(blocks: &'a Blocks) -> Option<Self> {
        let filled = blocks.0.first()?;
        Some(Self { blocks, filled })
    }

    /// Value of a key, either written or the table's default.
    pub fn get<T: Value>(self, name: &str) -> Option<T> {
        match self.item(name) {
            Some(item) => T::read(item, self),
            None => T::absent(),
        }
    }

    /// Value of a key that the block may lack.
    pub fn get_or_default<T: Value + Default>(self, name: &str) -> Option<T> {
        if self.knows(name) {
            self.get(name)
        } else {
            Some(T::default())
        }
    }

    /// Entries of a list; none if the list is missing.
    pub fn items(self, name: &str) -> &'a [Item] {
        match self.item(name).map(|item| &item.value) {
            Some(Some(Checked::List(items))) => items,
            _ => &[],
        }
    }

    /// Entries of a list that are blocks.
    pub fn blocks(self, name: &str) -> impl Iterator<Item = Self> {
        let items = self.items(name).iter();
        items.filter_map(move |item| self.inside(item))
    }

    /// Block or choice behind a key.
    pub fn block(self, name: &str) -> Option<Self> {
        self.inside(self.item(name)?)
    }

    /// Block that a value holds.
    pub fn inside(self, item: &Item) -> Option<Self> {
        match item.value {
            Some(Checked::Block(place)) => self.at(place),
            _ => None,
        }
    }

    /// The whole recipe.
    #[must_use]
    pub fn root(self) -> Self {
        self.at(0).unwrap_or(self)
    }

    /// This block, or the nearest one around it, whose table has the key.
    pub fn nearest(self, name: &str) -> Option<Self> {
        if self.knows(name) {
            return Some(self);
        }
        self.at(self.filled.outer?)?.nearest(name)
    }

    /// True if the user wrote this key, correctly or not.
    pub fn is_written(self, name: &str) -> bool {
        let mut entries = self.entries().iter();
        entries.any(|entry| entry.key.name == name && entry.name.is_some())
    }

    /// True if a written key was not understood.
    pub fn has_unknown(self) -> bool {
        self.filled.has_unknown
    }

    /// Span that messages about a key show: its value, or the block if the key is not written.
    pub fn span(self, name: &str) -> Option<&'a Span> {
        let written = self.item(name).and_then(|item| item.span.as_ref());
        written.or(self.holder())
    }

    /// Span of the block's own key.
    pub fn holder(self) -> Option<&'a Span> {
        self.filled.holder.as_ref()
    }

    /// Variant of a choice, and its value.
    pub fn variant<T: Word>(self) -> Option<(T, &'a Item)> {
        let entry = self
            .entries()
            .first()
            .filter(|entry| entry.key.is_variant())?;
        Some((T::of(entry.key.name)?, &entry.item))
    }

    /// Every key with its value.
    pub fn entries(self) -> &'a [Entry] {
        &self.filled.entries
    }

    fn at(self, place: usize) -> Option<Self> {
        let filled = self.blocks.0.get(place)?;
        Some(Self { filled, ..self })
    }

    /// True if its table has the key.
    pub fn knows(self, name: &str) -> bool {
        self.filled.block.names().any(|known| known == name)
    }

    fn item(self, name: &str) -> Option<&'a Item> {
        let table = self.filled.block.name;
        debug_assert!(
            self.knows(name),
            "`{name}` is not in the table of `{table}`"
        );
        let entry = self.entries().iter().find(|entry| entry.key.name == name)?;
        Some(&entry.item)
    }
}
