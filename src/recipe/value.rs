//! Rust values of keys: reading and writing.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, json};

use super::fields::{Checked, Fields, Item};
use super::kinds::Kind;
use super::words::Word;
use crate::hub;

/// Value that was read; `None` if it is faulty or missing, which has already been reported.
pub type Read<T> = Option<T>;

/// Value of a key.
pub trait Value: Sized {
    /// Reads the value; `holder` has the key.
    fn read(item: &Item, holder: Fields<'_>) -> Read<Self>;

    /// Value if the key is missing; `None` if the key is required.
    fn absent() -> Option<Self> {
        None
    }

    /// Writes the value for a recipe whose relative paths start at `folder`; null leaves the key out.
    fn write(&self, folder: &Path) -> serde_json::Value;
}

/// Keys that belong together: a block, or a part of blocks.
pub trait Keys: Sized {
    /// Reads all keys; see [`Value::read`].
    fn read_keys(fields: Fields<'_>) -> Read<Self>;

    /// Writes all keys; see [`Value::write`].
    fn write_keys(&self, folder: &Path, keys: &mut Map<String, serde_json::Value>);
}

/// Writes a key, unless its value is null.
pub fn put(keys: &mut Map<String, serde_json::Value>, name: &str, value: serde_json::Value) {
    if !value.is_null() {
        keys.insert(name.to_owned(), value);
    }
}

/// The value, or the kind's word for no value if it has one.
pub fn or_word(kind: &Kind, value: serde_json::Value) -> serde_json::Value {
    match kind {
        Kind::Or(_, word) if value.is_null() => json!(word.word),
        _ => value,
    }
}

/// Applies a function to a plan; for closures in `keys!`, whose types are inferred from here.
pub fn tell<T, U>(plan: &T, of: impl FnOnce(&T) -> U) -> U {
    of(plan)
}

/// Word in a text.
pub fn word_of<T: Word>(item: &Item) -> Option<T> {
    match item.value.as_ref()? {
        Checked::Text(word) => T::of(word),
        _ => None,
    }
}

macro_rules! scalars {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {$(
        impl Value for $type {
            fn read(item: &Item, _: Fields<'_>) -> Option<Self> {
                match item.value.as_ref()? {
                    $pattern => $value,
                    _ => None,
                }
            }

            fn write(&self, _: &Path) -> serde_json::Value {
                json!(self)
            }
        }
    )*};
}

scalars! {
    bool: Checked::Switch(value) => Some(*value);
    u64: Checked::Integer(value) => Some(*value);
    u32: Checked::Integer(value) => Self::try_from(*value).ok();
    usize: Checked::Integer(value) => Self::try_from(*value).ok();
    f64: Checked::Number(value) => Some(*value);
    String: Checked::Text(value) => Some(value.clone());
}

impl Value for PathBuf {
    fn read(item: &Item, _: Fields<'_>) -> Option<Self> {
        match item.value.as_ref()? {
            Checked::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    fn write(&self, folder: &Path) -> serde_json::Value {
        // What the hub has is the same on every machine.
        hub::written(self).map_or_else(|| json!(relative(self, folder)), |id| json!(id))
    }
}

/// Relative path from one absolute folder to a path.
pub fn relative(path: &Path, folder: &Path) -> PathBuf {
    let shared = path
        .components()
        .zip(folder.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder
        .components()
        .skip(shared)
        .map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(path.components().skip(shared)).collect();
    if way.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        way
    }
}

impl<T: Keys> Value for T {
    fn read(item: &Item, holder: Fields<'_>) -> Option<Self> {
        Self::read_keys(holder.inside(item)?)
    }

    fn write(&self, folder: &Path) -> serde_json::Value {
        let mut keys = Map::new();
        self.write_keys(folder, &mut keys);
        keys.into()
    }
}

impl<T: Value> Value for Option<T> {
    fn read(item: &Item, holder: Fields<'_>) -> Option<Self> {
        match item.value.as_ref()? {
            Checked::Off => Some(None),
            _ => T::read(item, holder).map(Some),
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn write(&self, folder: &Path) -> serde_json::Value {
        self.as_ref()
            .map_or(json!(null), |value| value.write(folder))
    }
}

impl<T: Keys> Keys for Box<T> {
    fn read_keys(fields: Fields<'_>) -> Option<Self> {
        T::read_keys(fields).map(Self::new)
    }

    fn write_keys(&self, folder: &Path, keys: &mut Map<String, serde_json::Value>) {
        T::write_keys(self, folder, keys);
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(item: &Item, holder: Fields<'_>) -> Option<Self> {
        match item.value.as_ref()? {
            Checked::List(items) => items.iter().map(|item| T::read(item, holder)).collect(),
            _ => None,
        }
    }

    fn write(&self, folder: &Path) -> serde_json::Value {
        self.iter().map(|value| value.write(folder)).collect()
    }
}

impl<T: Value, const N: usize> Value for [T; N] {
    fn read(item: &Item, holder: Fields<'_>) -> Option<Self> {
        Vec::<T>::read(item, holder)?.try_into().ok()
    }

    fn write(&self, folder: &Path) -> serde_json::Value {
        self.iter().map(|value| value.write(folder)).collect()
    }
}
