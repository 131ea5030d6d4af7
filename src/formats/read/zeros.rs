//! Zeros of GPTQ files. Two versions of the format store them in two ways, and some files name the wrong one.
#![warn(clippy::indexing_slicing)]

use super::{CheckpointError, Settled};
use crate::kernels::grid::Levels;

/// Version of GPTQ's format: which zeros are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formats) enum Version {
    /// Stored minus one. Writers subtract 1 from every code of a *word* at once, so a zero of 0 borrows from its
    /// neighbour. Adding to the whole word again loses nothing.
    First,
    /// Stored unchanged.
    Second,
}

impl Version {
    /// Its name in `checkpoint_format`.
    pub(in crate::formats) fn name(self) -> &'static str {
        match self {
            Self::First => "gptq",
            Self::Second => "gptq_v2",
        }
    }

    /// Number added, wrapping, to a word of stored zeros before codes are extracted.
    pub(super) fn added(self, bits: u32) -> u32 {
        match self {
            Self::First => ones(bits),
            Self::Second => 0,
        }
    }
}

/// Finds which version's zeros are stored, from the words of every tensor of zeros.
///
/// On symmetric grids every zero is the middle of the codes, so the stored zeros show the version; some files name the
/// other one. On other grids only the name is known. `None` if zeros are read by the name, and no code of a word
/// borrowed from another.
pub(super) fn settle(
    named: Version,
    levels: Levels,
    tensors: &[(String, &[[u8; 4]])],
) -> Result<Option<(Version, Settled)>, CheckpointError> {
    let bits = levels.bits();
    if !matches!(levels, Levels::Symmetric { .. }) {
        let mut words = tensors.iter().flat_map(|(_, words)| words.iter());
        let borrowed = words.any(|&word| has_full_code(u32::from_le_bytes(word), bits));
        let is_first = named == Version::First;
        let settled = Settled {
            decoded: "added to whole words",
            note: None,
        };
        return Ok((borrowed && is_first).then_some((named, settled)));
    }
    let Some(stored) = symmetric_version(bits, tensors)? else {
        return Ok(None);
    };
    if stored == named {
        return Ok(None);
    }
    let (decoded, zeros) = match stored {
        Version::First => (
            "one less than they are",
            "one less than the middle of the codes",
        ),
        Version::Second => ("as they are", "the middle of the codes"),
    };
    let note = format!(
        "`checkpoint_format` means `{}`, but the zeros are stored as in `{}`, {zeros}: they are read that way; an engine \
         that follows the name computes another model",
        named.name(),
        stored.name(),
    );
    let note = Some(note);
    Ok(Some((stored, Settled { decoded, note })))
}

/// Version of a file whose zeros are all the middle of the codes; `None` if it has no zeros.
fn symmetric_version(
    bits: u32,
    tensors: &[(String, &[[u8; 4]])],
) -> Result<Option<Version>, CheckpointError> {
    let middle = 1 << (bits - 1);
    let of = |version: Version| (ones(bits) * middle).wrapping_sub(version.added(bits));
    let mut found: Option<(Version, &str)> = None;
    for (tensor, words) in tensors {
        for &word in *words {
            let word = u32::from_le_bytes(word);
            let version = [Version::First, Version::Second]
                .into_iter()
                .find(|&version| of(version) == word);
            let refused = |found: String| CheckpointError::ZerosNotSymmetric {
                tensor: tensor.clone(),
                found,
                middle,
            };
            let version = version.ok_or_else(|| refused(codes_text(word, bits)))?;
            match found {
                Some((other, place)) if other != version => {
                    let of_other = codes_text(of(other), bits);
                    let found = format!("{}, `{place}` of {of_other}", codes_text(word, bits));
                    return Err(refused(found));
                }
                Some(_) => {}
                None => found = Some((version, tensor)),
            }
        }
    }
    Ok(found.map(|(version, _)| version))
}

/// True if all zeros are the middle of the codes, and there are any; `added` is added to each word first.
pub(super) fn are_in_the_middle(bits: u32, added: u32, tensors: &[(String, &[[u8; 4]])]) -> bool {
    let middle = ones(bits) << (bits - 1);
    let mut words = tensors
        .iter()
        .flat_map(|(_, words)| words.iter())
        .peekable();
    words.peek().is_some() && words.all(|&le| u32::from_le_bytes(le).wrapping_add(added) == middle)
}

/// 1 in every code of a word.
fn ones(bits: u32) -> u32 {
    u32::MAX / ((1 << bits) - 1)
}

/// True if any code of a word is the largest: adding 1 to it carries into the next.
fn has_full_code(word: u32, bits: u32) -> bool {
    let full = (1 << bits) - 1;
    codes(word, bits).any(|code| code == full)
}

fn codes(word: u32, bits: u32) -> impl Iterator<Item = u32> {
    (0..32 / bits).map(move |place| word >> (place * bits) & ((1 << bits) - 1))
}

/// The codes of a word, each once, in ascending order.
fn codes_text(word: u32, bits: u32) -> String {
    let mut all: Vec<u32> = codes(word, bits).collect();
    all.sort_unstable();
    all.dedup();
    let all: Vec<String> = all.iter().map(u32::to_string).collect();
    all.join(" and ")
}
