//! The recipe file as checked fields: values of the right type and range, and where they were written.

use std::path::PathBuf;

use super::keys::{Block, Key};
use super::word::Word;
use crate::diag::Span;

/// A block as written, completed with the defaults of the table.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) block: &'static Block,
    /// Its key; `None` for the recipe itself and for defaults.
    pub(super) holder: Option<Span>,
    pub(super) entries: Vec<Entry>,
    /// Whether a key that was written was not understood.
    pub(super) has_unknown: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: &'static Key,
    /// `None` for a default.
    pub(super) name: Option<Span>,
    pub(super) item: Item,
}

/// A value, or `None` where it was faulty and has been reported.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it stands; `None` for a default.
    pub(super) span: Option<Span>,
    pub(super) value: Option<Checked>,
}

/// A value of the type and range that the table asks for.
#[derive(Debug)]
pub(super) enum Checked {
    Switch(bool),
    Integer(u64),
    Number(f64),
    Text(String),
    Path(PathBuf),
    List(Vec<Item>),
    /// Of a choice: the one variant written.
    Block(Fields),
    Unit,
}

impl Fields {
    /// A value, written or by default of the table.
    pub(super) fn get<T: FromChecked>(&self, name: &str) -> Option<T> {
        T::from_checked(self.item(name)?.value.as_ref()?)
    }

    /// The entries of a list; none if it is not there.
    pub(super) fn items(&self, name: &str) -> &[Item] {
        match self.item(name).map(|item| &item.value) {
            Some(Some(Checked::List(items))) => items,
            _ => &[],
        }
    }

    /// A block or a choice.
    pub(super) fn block(&self, name: &str) -> Option<&Self> {
        self.item(name)?.as_block()
    }

    /// Whether the user wrote this key, rightly or wrongly.
    pub(super) fn is_written(&self, name: &str) -> bool {
        let entry = self.entries.iter().find(|entry| entry.key.name == name);
        entry.is_some_and(|entry| entry.name.is_some())
    }

    /// Where to point for a key: at its value, or at the block if it is not written.
    pub(super) fn span(&self, name: &str) -> Option<&Span> {
        let written = self.item(name).and_then(|item| item.span.as_ref());
        written.or(self.holder.as_ref())
    }

    /// Of a choice: the variant and what it holds.
    pub(super) fn variant<T: Word>(&self) -> Option<(T, &Item)> {
        let entry = self.entries.first()?;
        Some((T::of(entry.key.name)?, &entry.item))
    }

    fn item(&self, name: &str) -> Option<&Item> {
        debug_assert!(
            self.block.names().any(|known| known == name),
            "`{name}` is not in the table of `{}`",
            self.block.name
        );
        let entry = self.entries.iter().find(|entry| entry.key.name == name)?;
        Some(&entry.item)
    }
}

impl Item {
    pub(super) fn as_block(&self) -> Option<&Fields> {
        match &self.value {
            Some(Checked::Block(fields)) => Some(fields),
            _ => None,
        }
    }
}

/// A Rust value from a checked one.
pub(super) trait FromChecked: Sized {
    /// `None` if the table says another type.
    fn from_checked(checked: &Checked) -> Option<Self>;
}

macro_rules! from_checked {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {$(
        impl FromChecked for $type {
            fn from_checked(checked: &Checked) -> Option<Self> {
                match checked {
                    $pattern => $value,
                    _ => None,
                }
            }
        }
    )*};
}

from_checked! {
    bool: Checked::Switch(value) => Some(*value);
    u64: Checked::Integer(value) => Some(*value);
    u32: Checked::Integer(value) => Self::try_from(*value).ok();
    usize: Checked::Integer(value) => Self::try_from(*value).ok();
    f64: Checked::Number(value) => Some(*value);
    String: Checked::Text(value) => Some(value.clone());
    PathBuf: Checked::Path(value) => Some(value.clone());
}

impl<T: Word> FromChecked for T {
    fn from_checked(checked: &Checked) -> Option<Self> {
        match checked {
            Checked::Text(word) => Self::of(word),
            _ => None,
        }
    }
}

impl<T: FromChecked> FromChecked for Vec<T> {
    fn from_checked(checked: &Checked) -> Option<Self> {
        match checked {
            Checked::List(items) => items
                .iter()
                .map(|item| T::from_checked(item.value.as_ref()?))
                .collect(),
            _ => None,
        }
    }
}
