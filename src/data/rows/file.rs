//! Rows in a file: written as they come, and read where they lie.
//!
//! A file begins with [`MAGIC`]. The columns follow, as [`RowsBuilder::write`] has them; then, as JSON, the totals and
//! whatever the caller wants to know of the rows, and the number of bytes of that JSON; at the end BLAKE3 over all before.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::builder::{ALIGNMENT, RowsBuilder, Totals, padding_of};
use super::column::RowsColumn;
use super::{CalibrateOn, TokenRows};
use crate::files::{self, with_path};
use crate::hashes::Hashes;
use crate::mapped::Mapped;

/// First bytes of a file, of which the last is the version of the format.
const MAGIC: &[u8; 16] = b"alambic rows   5";

/// Kind of the remembered hashes of such files.
const HASHED: &str = "rows";

/// Facts behind the columns.
#[derive(Serialize, Deserialize)]
struct Footer<F> {
    key: String,
    totals: Totals,
    facts: F,
}

/// Writes a file of rows. They are stored under a key, and with facts about them.
pub(in crate::data) fn write(
    path: &Path,
    key: &str,
    rows: RowsBuilder,
    facts: &impl Serialize,
) -> io::Result<()> {
    files::write_atomically(path, |out| {
        let mut out = Hashing {
            out,
            hasher: blake3::Hasher::new(),
        };
        out.write_all(MAGIC)?;
        let footer = Footer {
            key: key.to_owned(),
            totals: rows.write(&mut out)?,
            facts,
        };
        let footer = serde_json::to_vec(&footer)?;
        out.write_all(&footer)?;
        out.write_all(&(footer.len() as u64).to_le_bytes())?;
        let hash = out.hasher.finalize();
        out.out.write_all(hash.as_bytes())
    })
}

struct Hashing<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Rows of a file, and the facts that were stored with them.
pub(in crate::data) struct RowsFile<F> {
    pub(in crate::data) rows: TokenRows,
    pub(in crate::data) facts: F,
}

/// Reads a file of rows; the tokens stay where they are. `None` if it is damaged, or holds other rows than those of the key.
///
/// The file is compared with its hash, unless that is remembered.
pub(in crate::data) fn read<F: DeserializeOwned>(
    path: &Path,
    key: &str,
    hashes: &Hashes,
) -> io::Result<Option<RowsFile<F>>> {
    let file = Arc::new(Mapped::open(path)?);
    let Some((content, hash)) = file.split_last_chunk::<{ blake3::OUT_LEN }>() else {
        return Ok(None);
    };
    let written = blake3::Hash::from_bytes(*hash).to_hex().to_string();
    let before = file.identity()?;
    let found = hashes.of(HASHED, std::slice::from_ref(&before), || {
        let mut hasher = blake3::Hasher::new();
        for part in content.chunks(RELEASED_BYTES) {
            hasher.update(part);
            let start = part.as_ptr() as usize - content.as_ptr() as usize;
            file.release(&(start..start + part.len()));
        }
        let hash = hasher.finalize().to_hex().to_string();
        Ok::<_, io::Error>((hash, file.identity()? == before))
    });
    if found.map_err(|error| with_path(error, path))? != written {
        return Ok(None);
    }
    Ok(parsed(&file, key))
}

/// Bytes that are hashed before their pages are given back.
const RELEASED_BYTES: usize = 8 << 20;

fn parsed<F: DeserializeOwned>(file: &Arc<Mapped>, key: &str) -> Option<RowsFile<F>> {
    let (content, _) = file.split_last_chunk::<{ blake3::OUT_LEN }>()?;
    let columns = content.strip_prefix(MAGIC)?;
    let (before, length) = columns.split_last_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (_, footer) = before.split_at_checked(before.len().checked_sub(length)?)?;
    let footer: Footer<F> = serde_json::from_slice(footer).ok()?;
    if footer.key != key {
        return None;
    }
    let Totals {
        sequence_length,
        num_bytes,
        num_positions,
        columns,
    } = footer.totals;
    let mut places = Places {
        file,
        at: MAGIC.len(),
        columns: columns.into_iter(),
    };
    let rows = TokenRows {
        sequence_length,
        tokens: places.next()?,
        lengths: places.next()?,
        spans: places.next()?,
        span_ends: places.next()?,
        starts: places.next()?,
        start_ends: places.next()?,
        separators: places.next()?,
        num_bytes,
        num_positions,
        calibrate_on: CalibrateOn::All,
    };
    rows.are_sound().then_some(RowsFile {
        rows,
        facts: footer.facts,
    })
}

/// Places of the columns of a file, one after another.
struct Places<'a> {
    file: &'a Arc<Mapped>,
    at: usize,
    columns: std::array::IntoIter<u64, 7>,
}

impl Places<'_> {
    fn next<T: Pod>(&mut self) -> Option<RowsColumn<T>> {
        let num_bytes = self.columns.next()?;
        let range: Range<usize> = self.at..self.at.checked_add(usize::try_from(num_bytes).ok()?)?;
        self.at = range.end.checked_add(padding_of(num_bytes))?;
        debug_assert_eq!(self.at % ALIGNMENT, 0);
        RowsColumn::mapped(self.file, range)
    }
}
