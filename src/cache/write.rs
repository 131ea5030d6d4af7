//! Rows → shards, each written whole; a capture that was killed goes on with the first missing shard.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use serde::{Deserialize, Serialize};

use super::codec::{self, CapturedRow};
use super::format::{self, Fingerprint, MANIFEST, Manifest, PROGRESS, ShardLayout, ShardRecord};
use super::{Cache, CacheError, RowSupports};
use crate::files::{self, with_path};

/// Fills a cache row by row.
///
/// Rows are encoded as they come and a shard is written when it is full, so that a process killed
/// at any instant loses less than a shard. A shard counts once `progress.jsonl` lists its length and
/// checksum; whatever else lies in the folder is captured again. Borders of shards are those the
/// capture was begun with, and the same rows give the same bytes, so an interrupted capture ends in the
/// same files as one that never was.
///
/// The folder is locked while this lives.
#[derive(Debug)]
pub struct CacheWriter {
    dir: PathBuf,
    fingerprint: Fingerprint,
    layout: ShardLayout,
    header: Header,
    /// Shards on disk, by place; `None` is still to capture.
    shards: Vec<Option<ShardRecord>>,
    /// Rows of the first missing shard so far.
    open_shard: Option<OpenShard>,
    _lock: File,
}

/// First line of `progress.jsonl`; a [`ShardRecord`] follows on each further line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    fingerprint: Fingerprint,
    rows_per_shard: usize,
}

struct OpenShard {
    rows: usize,
    writer: ArrowWriter<Vec<u8>>,
}

impl std::fmt::Debug for OpenShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("OpenShard");
        debug.field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl CacheWriter {
    /// Begins a cache, or goes on with one that was begun or has lost shards.
    ///
    /// `rows_per_shard` is used by a new cache only. Every shard that is already listed is read and
    /// compared with its checksum; those that differ are captured anew. A cache of another
    /// fingerprint is left as it is ([`CacheError::Stale`]).
    pub fn open(
        dir: &Path,
        fingerprint: &Fingerprint,
        rows_per_shard: usize,
    ) -> Result<Self, CacheError> {
        fingerprint.check_sizes()?;
        fs::create_dir_all(dir).map_err(|error| with_path(error, dir))?;
        let lock = lock(dir)?;
        let (header, recorded) = recorded(dir)?.unwrap_or_else(|| {
            let header = Header {
                fingerprint: fingerprint.clone(),
                rows_per_shard: rows_per_shard.max(1),
            };
            (header, Vec::new())
        });
        let fields = header.fingerprint.differences(fingerprint);
        if !fields.is_empty() {
            let dir = dir.to_path_buf();
            return Err(CacheError::Stale { dir, fields });
        }
        files::remove_parts(dir)?;
        let layout = ShardLayout::new(fingerprint, header.rows_per_shard);
        let shards = (0..layout.num_shards()).map(|shard_idx| {
            let file = format::shard_file(shard_idx);
            let shard = recorded.iter().rfind(|shard| shard.file == file)?;
            let rows = layout.rows(shard_idx).len();
            let sound = shard.rows == rows && shard.check_bytes(dir).is_ok();
            sound.then(|| shard.clone())
        });
        let writer = Self {
            dir: dir.to_path_buf(),
            fingerprint: fingerprint.clone(),
            layout,
            header,
            shards: shards.collect(),
            open_shard: None,
            _lock: lock,
        };
        writer.write_progress()?;
        Ok(writer)
    }

    /// Index of the row that [`push`](Self::push) takes next; `None` if every row is captured.
    pub fn next_row(&self) -> Option<usize> {
        let shard_idx = self.missing_shard()?;
        let pushed = self.open_shard.as_ref().map_or(0, |open| open.rows);
        Some(self.layout.rows(shard_idx).start + pushed)
    }

    /// All rows still to push, in the order in which they are taken.
    pub fn missing_rows(&self) -> Vec<usize> {
        let Some(next_row) = self.next_row() else {
            return Vec::new();
        };
        let shards = self.shards.iter().enumerate();
        let missing = shards.filter(|(_, shard)| shard.is_none());
        let rows = missing.flat_map(|(shard_idx, _)| self.layout.rows(shard_idx));
        rows.filter(|row_idx| *row_idx >= next_row).collect()
    }

    /// Takes what the teacher said about row [`next_row`](Self::next_row); the row that fills a shard writes it.
    ///
    /// `tokens` are the `sequence_length + 1` tokens of the row, `counted` its leading positions that
    /// are about real text.
    pub fn push(
        &mut self,
        tokens: &[u32],
        counted: u32,
        supports: &RowSupports,
    ) -> Result<(), CacheError> {
        let num_rows = self.fingerprint.num_rows;
        let refused = |row_idx, what| CacheError::Refused { row_idx, what };
        let (Some(shard_idx), Some(row_idx)) = (self.missing_shard(), self.next_row()) else {
            return Err(refused(num_rows, format!("all {num_rows} rows are there")));
        };
        let row = CapturedRow {
            row_idx,
            tokens,
            counted,
            supports,
        };
        let batch = codec::encode(row, &self.fingerprint);
        let batch = batch.map_err(|what| refused(row_idx, what))?;
        let mut open = match self.open_shard.take() {
            Some(open) => open,
            None => OpenShard::new(&self.fingerprint)?,
        };
        open.writer.write(&batch).map_err(io::Error::other)?;
        open.rows += 1;
        if open.rows == self.layout.rows(shard_idx).len() {
            self.commit(shard_idx, open)?;
        } else {
            self.open_shard = Some(open);
        }
        Ok(())
    }

    /// Makes the folder a finished cache and opens it.
    pub fn finish(self) -> Result<Cache, CacheError> {
        let missing = self.missing_rows().len();
        if missing > 0 {
            return Err(CacheError::Unfinished {
                dir: self.dir,
                missing,
                num_rows: self.fingerprint.num_rows,
            });
        }
        let manifest = Manifest {
            fingerprint: self.fingerprint.clone(),
            rows_per_shard: self.header.rows_per_shard,
            shards: self.shards.into_iter().flatten().collect(),
        };
        files::write_json(&self.dir.join(MANIFEST), &manifest)?;
        remove_if_there(&self.dir.join(PROGRESS))?;
        Cache::open(&self.dir, Some(&self.fingerprint))
    }

    fn missing_shard(&self) -> Option<usize> {
        self.shards.iter().position(Option::is_none)
    }

    /// Writes a shard, then lists it. In between it is on disk and not yet trusted.
    fn commit(&mut self, shard_idx: usize, open: OpenShard) -> Result<(), CacheError> {
        let bytes = open.writer.into_inner().map_err(io::Error::other)?;
        let shard = ShardRecord {
            file: format::shard_file(shard_idx),
            rows: open.rows,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        };
        files::write_atomically(&self.dir.join(&shard.file), |out| out.write_all(&bytes))?;
        let path = self.dir.join(PROGRESS);
        append_line(&path, &shard).map_err(|error| with_path(error, &path))?;
        if let Some(place) = self.shards.get_mut(shard_idx) {
            *place = Some(shard);
        }
        Ok(())
    }

    /// Lists the shards that are known to be sound, and with that takes back a manifest that says more.
    fn write_progress(&self) -> Result<(), CacheError> {
        files::write_atomically(&self.dir.join(PROGRESS), |out| {
            write_line(&mut *out, &self.header)?;
            let mut shards = self.shards.iter().flatten();
            shards.try_for_each(|shard| write_line(&mut *out, shard))
        })?;
        remove_if_there(&self.dir.join(MANIFEST))
    }
}

impl OpenShard {
    fn new(fingerprint: &Fingerprint) -> Result<Self, CacheError> {
        let properties = codec::writer_properties(fingerprint).map_err(io::Error::other)?;
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true); // Parquet's own types say everything
        let writer = ArrowWriter::try_new_with_options(Vec::new(), format::schema(), options);
        Ok(Self {
            rows: 0,
            writer: writer.map_err(io::Error::other)?,
        })
    }
}

/// What an earlier process says it wrote, finished or not; nothing of it has been compared with the shards.
fn recorded(dir: &Path) -> Result<Option<(Header, Vec<ShardRecord>)>, CacheError> {
    match Manifest::load(dir) {
        Ok(manifest) => {
            let header = Header {
                fingerprint: manifest.fingerprint,
                rows_per_shard: manifest.rows_per_shard,
            };
            return Ok(Some((header, manifest.shards)));
        }
        Err(CacheError::NoManifest { .. }) => {}
        Err(error) => return Err(error),
    }
    let path = dir.join(PROGRESS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(with_path(error, &path).into()),
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    let header = format::parse(dir, &path, lines.next().unwrap_or_default())?;
    // A line that a killed process wrote in part ends the list.
    let shards = lines.map_while(|line| serde_json::from_slice(line).ok());
    Ok(Some((header, shards.collect())))
}

fn lock(dir: &Path) -> Result<File, CacheError> {
    let folder = File::open(dir).map_err(|error| with_path(error, dir))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(CacheError::Locked {
            dir: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(with_path(error, dir).into()),
    }
}

fn remove_if_there(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(with_path(error, path).into()),
        _ => Ok(()),
    }
}

fn append_line(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    write_line(&mut file, value)?;
    file.sync_data()
}

/// One write per line, so that lines are torn as rarely as can be.
fn write_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)
}
