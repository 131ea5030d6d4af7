//! Words that a recipe does not know, and the known ones that they most likely meant.

use super::kinds::{Block, Key, Kind};
use crate::diag::nearest;

/// A word of the recipe, and the names that the same thing has in other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spelling {
    /// The word as it is written here.
    pub word: &'static str,
    /// Names elsewhere; none of them is read, they only help to find the word.
    pub also: &'static [&'static str],
}

impl Spelling {
    /// A word that is called the same everywhere.
    pub const fn of(word: &'static str) -> Self {
        Self { word, also: &[] }
    }
}

/// The known word that was meant by an unknown one: its name in another program, or a typing error.
pub(super) fn meant(
    typed: &str,
    known: impl IntoIterator<Item = Spelling>,
) -> Option<&'static str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', '.', ' '], "_");
    let wanted = plain(typed);
    let known: Vec<Spelling> = known.into_iter().collect();
    let by_name = known.iter().find(|known| {
        let mut names = [known.word].into_iter().chain(known.also.iter().copied());
        names.any(|name| plain(name) == wanted)
    });
    let by_name = by_name.map(|known| known.word);
    by_name.or_else(|| nearest(typed, known.iter().map(|known| known.word)))
}

/// A key of another block that was meant, with the name of that block.
pub(super) fn meant_elsewhere(
    typed: &str,
    root: &'static Block,
) -> Option<(&'static Key, &'static Block)> {
    let mut blocks = vec![root];
    let mut next = 0;
    while let Some(&block) = blocks.get(next) {
        let wanted = |key: &&'static Key| {
            let spelling = key.spelling();
            spelling.word == typed || spelling.also.contains(&typed)
        };
        if let Some(key) = block.iter().find(wanted) {
            return Some((key, block));
        }
        for inner in block.iter().filter_map(|key| block_of(&key.kind)) {
            if !blocks.iter().any(|seen| std::ptr::eq(*seen, inner)) {
                blocks.push(inner);
            }
        }
        next += 1;
    }
    None
}

/// Keys inside of a value of this kind.
pub(super) fn block_of(kind: &'static Kind) -> Option<&'static Block> {
    match kind {
        Kind::Block(block) | Kind::Short(block) | Kind::Choice(block) => Some(block),
        Kind::List(entry, ..) => block_of(entry),
        _ => None,
    }
}

/// The most similar names of keys, if there are too many to list.
pub(super) fn most_similar(typed: &str, block: &'static Block) -> Vec<&'static str> {
    const MOST_LISTED: usize = 10;
    const NEAREST: usize = 4;
    let mut names: Vec<&str> = block.names().collect();
    if names.len() > MOST_LISTED {
        let unlike = |name: &str| 1.0 - strsim::jaro_winkler(typed, name);
        names.sort_by(|a, b| unlike(a).total_cmp(&unlike(b)));
        names.truncate(NEAREST);
    }
    names
}
