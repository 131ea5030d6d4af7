//! Rows → shards, each written whole; an interrupted capture resumes at the first missing shard.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;

use super::columns::{self, StoredRow};
use super::journal::{JournalHeader, append_line, lock, recorded, remove_if_there, write_line};
use super::manifest::{
    self, CachePart, MANIFEST, Manifest, PROGRESS, ShardLayout, ShardRecord, hash_of_hashes,
    tokens_hash,
};
use super::masks::{masks_hash, union};
use super::shard::Shard;
use super::tables::Tables;
use super::{CacheError, Fingerprint, TokenHashes, Wanted};
use crate::data::{LossMask, PositionSpan};
use crate::files::{self, with_path};
use crate::support::{CountedRow, Supports};

/// Fills a cache row by row.
///
/// Rows are collected until the shard is full, then measured and written together, so a process killed at any moment
/// loses less than a shard. A shard counts once `progress.jsonl` lists its length and checksum; anything else in the
/// folder is captured again. Shard borders stay those the capture began with, and the same rows give the same bytes, so
/// an interrupted capture ends in the same files as an uninterrupted one.
///
/// A cache of fewer rows of the same text is continued: its shards are kept. If the last one was not full, its rows are
/// copied into the shard that replaces it. A shard whose rows lack wanted positions is captured again, with the positions
/// that it has and those that are wanted ([`CacheWriter::positions`]). A cache of more rows loses none that is sound: shards that follow the wanted
/// rows without a gap stay part of it, and the others wait for a capture that closes the gap ([`Manifest::beyond`]).
///
/// The folder is locked during the lifetime of this value.
#[derive(Debug)]
pub struct CacheWriter {
    dir: PathBuf,
    tokens: TokenHashes,
    layout: ShardLayout,
    header: JournalHeader,
    /// Wanted shards, by place among those of this part.
    shards: Vec<Place>,
    /// Sound shards after the wanted ones, in the order of their rows, from an earlier capture of more rows.
    beyond: Vec<ShardRecord>,
    /// Rows of the first missing shard so far.
    open_shard: Option<Vec<StoredRow>>,
    /// The last shard whose positions were asked for, and those that its rows have.
    widened: Option<(usize, Vec<Vec<PositionSpan>>)>,
    _lock: File,
}

/// A shard as the writer sees it.
#[derive(Debug, Clone)]
enum Place {
    /// Still to capture.
    Missing,
    /// On disk, with fewer rows than wanted.
    Short(ShardRecord),
    /// On disk, but some rows lack wanted positions: still to capture.
    Narrow(ShardRecord),
    /// On disk.
    Done(ShardRecord),
}

impl CacheWriter {
    /// Begins a cache, or continues one that is incomplete, has lost shards, or has fewer rows or positions.
    ///
    /// `rows_per_shard` is used by a new cache only. Every listed shard is read and compared with its checksum; shards
    /// that differ are captured again. A cache of another fingerprint or of other rows is not changed
    /// ([`CacheError::Stale`], [`CacheError::OtherRows`]). With `part`, only the shards of that part are captured; a
    /// part of more rows is not changed either ([`CacheError::LargerPart`]), because it has to fit the others.
    pub fn open(
        dir: &Path,
        wanted: Wanted<'_>,
        rows_per_shard: usize,
        part: Option<CachePart>,
    ) -> Result<Self, CacheError> {
        wanted.fingerprint.check_sizes()?;
        fs::create_dir_all(dir).map_err(|error| with_path(error, dir))?;
        let lock = lock(dir)?;
        let (header, recorded) = recorded(dir)?.unwrap_or_else(|| {
            let header = JournalHeader {
                fingerprint: wanted.fingerprint.clone(),
                rows_per_shard: rows_per_shard.max(1),
                part,
            };
            (header, Vec::new())
        });
        let fields = header.fingerprint.differences(wanted.fingerprint);
        if !fields.is_empty() {
            let dir = dir.to_path_buf();
            return Err(CacheError::Stale { dir, fields });
        }
        if header.part != part {
            let dir = dir.to_path_buf();
            return Err(CacheError::OtherPart { dir });
        }
        files::remove_parts(dir)?;
        let num_rows = wanted.tokens.num_rows();
        let layout = ShardLayout::new(num_rows, header.rows_per_shard, part);
        if part.is_some() && !layout.has_room_for_all(&recorded) {
            let dir = dir.to_path_buf();
            return Err(CacheError::LargerPart { dir, num_rows });
        }
        let shards = places(dir, layout, &recorded, wanted)?;
        let beyond = beyond(dir, layout, &recorded)?;
        let writer = Self {
            dir: dir.to_path_buf(),
            tokens: wanted.tokens.clone(),
            layout,
            header,
            shards,
            beyond,
            open_shard: None,
            widened: None,
            _lock: lock,
        };
        writer.write_progress()?;
        Ok(writer)
    }

    /// Index of the row that [`push`](Self::push) takes next; `None` if every row is captured.
    pub fn next_row(&self) -> Option<usize> {
        let place = self.missing_place()?;
        let there = match (&self.open_shard, self.shards.get(place)) {
            (Some(rows), _) => rows.len(),
            (None, Some(Place::Short(shard))) => shard.rows,
            (None, _) => 0,
        };
        Some(self.layout.rows(self.shard_idx(place)).start + there)
    }

    /// Number of rows that this capture must have: all, or those of a part.
    pub fn num_rows(&self) -> usize {
        let shard_idxs = self.layout.shard_idxs();
        shard_idxs
            .map(|shard_idx| self.layout.rows(shard_idx).len())
            .sum()
    }

    /// Number of rows in shards on disk, those beyond the wanted rows left out.
    pub fn num_saved_rows(&self) -> usize {
        let places = self.shards.iter().zip(self.layout.shard_idxs());
        places
            .filter_map(|(place, shard_idx)| {
                let rows = self.layout.rows(shard_idx).len();
                let record = match place {
                    Place::Missing | Place::Narrow(_) => None,
                    Place::Short(record) | Place::Done(record) => Some(record),
                };
                record.map(|record| record.rows.min(rows))
            })
            .sum()
    }

    /// All rows still to push, in order.
    pub fn missing_rows(&self) -> Vec<usize> {
        let mut pushed = self.open_shard.as_ref().map(Vec::len);
        let places = self.shards.iter().zip(self.layout.shard_idxs());
        let missing = places.flat_map(|(place, shard_idx)| {
            let rows = self.layout.rows(shard_idx);
            let there = match place {
                Place::Done(_) => rows.len(),
                Place::Short(shard) => pushed.take().unwrap_or(shard.rows),
                Place::Missing | Place::Narrow(_) => pushed.take().unwrap_or(0),
            };
            rows.skip(there)
        });
        missing.collect()
    }

    /// Positions to capture of a missing row: those that are wanted, and those that the shard on disk has of it. So two
    /// recipes that want other positions of the same rows do not undo each other's work.
    pub fn positions(
        &mut self,
        row_idx: usize,
        wanted: LossMask<'_>,
    ) -> Result<Vec<PositionSpan>, CacheError> {
        let shard_idx = self.layout.shard_idx(row_idx);
        let place = self.layout.shard_idxs().position(|idx| idx == shard_idx);
        let place = place.and_then(|place| self.shards.get(place));
        let Some(Place::Narrow(record)) = place else {
            return Ok(wanted.spans().to_vec());
        };
        if self
            .widened
            .as_ref()
            .is_none_or(|(idx, _)| *idx != shard_idx)
        {
            let shard = Shard::new(&self.dir, record);
            let masks = shard.masks(&self.dir, &self.header.fingerprint)?;
            self.widened = Some((shard_idx, masks));
        }
        let in_shard = row_idx - self.layout.rows(shard_idx).start;
        let stored = self
            .widened
            .as_ref()
            .and_then(|(_, masks)| masks.get(in_shard));
        let stored = stored.map_or_else(LossMask::default, |spans| LossMask::checked(spans));
        Ok(union(stored, wanted))
    }

    /// Adds the teacher's supports for the counted positions of row [`next_row`](Self::next_row); the row that fills a
    /// shard writes it.
    pub fn push(&mut self, row: CountedRow<'_>, supports: &Supports) -> Result<(), CacheError> {
        let num_rows = self.tokens.num_rows();
        let refused = |row_idx, what| CacheError::Refused { row_idx, what };
        let (Some(place), Some(row_idx)) = (self.missing_place(), self.next_row()) else {
            return Err(refused(
                num_rows,
                format!("all {num_rows} rows are already captured"),
            ));
        };
        let stored = columns::store(row, supports, &self.header.fingerprint);
        let stored = stored.map_err(|what| refused(row_idx, what))?;
        if self.tokens.row(row_idx) != Some(&tokens_hash(row.sequence)) {
            return Err(refused(
                row_idx,
                "its tokens differ from the text's".to_owned(),
            ));
        }
        let mut rows = match self.open_shard.take() {
            Some(rows) => rows,
            None => match self.shards.get(place) {
                Some(Place::Short(_)) => self.stored_rows(place, 0)?,
                _ => Vec::new(),
            },
        };
        rows.push(stored);
        if rows.len() == self.layout.rows(self.shard_idx(place)).len() {
            if let Some(Place::Narrow(_)) = self.shards.get(place) {
                rows.extend(self.stored_rows(place, rows.len())?); // those behind the wanted ones
            }
            self.commit(place, &rows)?;
        } else {
            self.open_shard = Some(rows);
        }
        Ok(())
    }

    /// Makes the folder a finished cache, or a finished part of one.
    pub fn finish(self) -> Result<(), CacheError> {
        let missing = self.missing_rows().len();
        if missing > 0 {
            return Err(CacheError::Unfinished {
                dir: self.dir,
                missing,
                num_rows: self.tokens.num_rows(),
            });
        }
        let wanted = self.shards.iter().filter_map(Place::record);
        let mut shards: Vec<ShardRecord> = wanted.cloned().collect();
        let mut beyond = self.beyond;
        let num_following = self.layout.num_following(&shards, &beyond);
        shards.extend(beyond.drain(..num_following));
        let num_rows = match self.header.part {
            Some(_) => self.tokens.num_rows(),
            None => shards.iter().map(|shard| shard.rows).sum(),
        };
        let manifest = Manifest {
            fingerprint: self.header.fingerprint.clone(),
            rows_per_shard: self.header.rows_per_shard,
            num_rows,
            part: self.header.part,
            shards,
            beyond,
        };
        files::write_json(&self.dir.join(MANIFEST), &manifest)?;
        remove_if_there(&self.dir.join(PROGRESS))
    }

    /// Place of the first incomplete shard.
    fn missing_place(&self) -> Option<usize> {
        let is_missing = |place: &Place| !matches!(place, Place::Done(_));
        self.shards.iter().position(is_missing)
    }

    fn shard_idx(&self, place: usize) -> usize {
        let mut shard_idxs = self.layout.shard_idxs();
        shard_idxs
            .nth(place)
            .expect("a place is one of the wanted shards")
    }

    /// Rows of the shard on disk that is about to be replaced, from a place in it.
    fn stored_rows(&self, place: usize, first: usize) -> Result<Vec<StoredRow>, CacheError> {
        let mut taken = Vec::new();
        let record = self.shards.get(place).and_then(Place::record);
        if let Some(record) = record.filter(|record| first < record.rows) {
            let start = self.layout.rows(self.shard_idx(place)).start;
            let rows = start..start + record.rows;
            let shard = Shard::new(&self.dir, record);
            let mut in_shard = 0;
            shard.stored_rows(&self.dir, rows, &self.header.fingerprint, |row| {
                if in_shard >= first {
                    taken.push(row);
                }
                in_shard += 1;
                Ok(())
            })?;
        }
        Ok(taken)
    }

    /// Writes a shard, then lists it. In between it is on disk but not yet trusted.
    fn commit(&mut self, place: usize, rows: &[StoredRow]) -> Result<(), CacheError> {
        let shard_idx = self.shard_idx(place);
        let first_row = self.layout.rows(shard_idx).start;
        let bytes = shard_bytes(&self.header.fingerprint, first_row, rows)?;
        let hashes: Vec<_> = rows.iter().map(|row| tokens_hash(row.sequence())).collect();
        let shard = ShardRecord {
            file: manifest::shard_file(shard_idx),
            rows: rows.len(),
            tokens_blake3: hash_of_hashes(&hashes),
            counted_blake3: masks_hash(rows.iter().map(StoredRow::mask)),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        };
        files::write_atomically(&self.dir.join(&shard.file), |out| out.write_all(&bytes))?;
        let path = self.dir.join(PROGRESS);
        append_line(&path, &shard).map_err(|error| with_path(error, &path))?;
        if let Some(place) = self.shards.get_mut(place) {
            *place = Place::Done(shard);
        }
        Ok(())
    }

    /// Lists the shards that are known to be sound, and removes a manifest that may list more.
    fn write_progress(&self) -> Result<(), CacheError> {
        files::write_atomically(&self.dir.join(PROGRESS), |out| {
            write_line(&mut *out, &self.header)?;
            let wanted = self.shards.iter().filter_map(Place::record);
            let mut shards = wanted.chain(&self.beyond);
            shards.try_for_each(|shard| write_line(&mut *out, shard))
        })?;
        remove_if_there(&self.dir.join(MANIFEST))
    }
}

impl Place {
    fn record(&self) -> Option<&ShardRecord> {
        match self {
            Self::Missing => None,
            Self::Short(record) | Self::Narrow(record) | Self::Done(record) => Some(record),
        }
    }
}

/// State on disk of the wanted shards.
fn places(
    dir: &Path,
    layout: ShardLayout,
    recorded: &[ShardRecord],
    wanted: Wanted<'_>,
) -> Result<Vec<Place>, CacheError> {
    let mut places = Vec::new();
    for shard_idx in layout.shard_idxs() {
        let rows = layout.rows(shard_idx);
        let file = manifest::shard_file(shard_idx);
        let found = recorded.iter().rfind(|shard| shard.file == file);
        let Some(record) = found.filter(|record| layout.has_room(record.rows)) else {
            places.push(Place::Missing);
            continue;
        };
        if !record.is_sound(dir)? {
            places.push(Place::Missing);
            continue;
        }
        let there = rows.start..rows.start + record.rows;
        let shard = Shard::new(dir, record);
        shard.check_tokens(dir, there.clone(), wanted.tokens)?;
        let place = match shard.check_masks(dir, there, wanted) {
            Err(CacheError::Positions { .. }) => Place::Narrow,
            Err(error) => return Err(error),
            Ok(()) if record.rows < rows.len() => Place::Short,
            Ok(()) => Place::Done,
        };
        places.push(place(record.clone()));
    }
    Ok(places)
}

/// Sound shards after the wanted ones, in the order of their rows.
fn beyond(
    dir: &Path,
    layout: ShardLayout,
    recorded: &[ShardRecord],
) -> Result<Vec<ShardRecord>, CacheError> {
    let mut found = BTreeMap::new();
    for record in recorded {
        let shard_idx = manifest::shard_number(&record.file);
        let shard_idx = shard_idx.filter(|&shard_idx| shard_idx >= layout.next_shard_idx());
        if let Some(shard_idx) = shard_idx.filter(|_| layout.has_room(record.rows))
            && record.is_sound(dir)?
        {
            found.insert(shard_idx, record.clone());
        }
    }
    Ok(found.into_values().collect())
}

/// Contents of a shard file: tables measured on its rows, then each row encoded with them.
pub(super) fn shard_bytes(
    fingerprint: &Fingerprint,
    first_row: usize,
    rows: &[StoredRow],
) -> Result<Vec<u8>, CacheError> {
    let properties = columns::writer_properties(fingerprint).map_err(io::Error::other)?;
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true); // Parquet's own types say everything
    let writer = ArrowWriter::try_new_with_options(Vec::new(), columns::schema(), options);
    let mut writer = writer.map_err(io::Error::other)?;
    let tables = Tables::measure(fingerprint, rows.iter().map(|row| &row.codes));
    let ranks = tables.ranks();
    let mut stored_tables = tables.to_bytes();
    for (row_idx, row) in (first_row..).zip(rows) {
        let stream = tables.encode(&row.codes, &ranks);
        let batch = columns::encode(row_idx, row, &std::mem::take(&mut stored_tables), &stream);
        let batch = batch.map_err(|what| CacheError::Refused { row_idx, what })?;
        writer.write(&batch).map_err(io::Error::other)?;
    }
    Ok(writer.into_inner().map_err(io::Error::other)?)
}
