//! State of a capture: `progress.jsonl`, the manifest it becomes, and the lock on their folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::manifest::{self, CachePart, Manifest, PROGRESS, ShardRecord};
use super::{CacheError, Fingerprint};
use crate::files::{self, with_path};

/// First line of `progress.jsonl`; a [`ShardRecord`] follows on each further line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JournalHeader {
    pub(super) fingerprint: Fingerprint,
    pub(super) rows_per_shard: usize,
    pub(super) part: Option<CachePart>,
}

/// Reads the records of an earlier process, finished or not; they are not yet compared with the shards.
pub(super) fn recorded(
    dir: &Path,
) -> Result<Option<(JournalHeader, Vec<ShardRecord>)>, CacheError> {
    match Manifest::load(dir) {
        Ok(manifest) => {
            let header = JournalHeader {
                fingerprint: manifest.fingerprint,
                rows_per_shard: manifest.rows_per_shard,
                part: manifest.part,
            };
            let recorded = [manifest.shards, manifest.beyond].concat();
            return Ok(Some((header, recorded)));
        }
        Err(CacheError::NoManifest { .. }) => {}
        Err(error) => return Err(error),
    }
    let path = dir.join(PROGRESS);
    let text = match files::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(with_path(error, &path).into()),
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    let header = manifest::parse(dir, &path, lines.next().unwrap_or_default())?;
    // The list ends at a line that a killed process wrote only in part.
    let shards = lines.map_while(|line| serde_json::from_slice(line).ok());
    Ok(Some((header, shards.collect())))
}

/// Rows that a capture, finished or not, has saved in a folder; none if there is no capture that can be read.
pub fn num_saved_rows(dir: &Path) -> usize {
    let recorded = recorded(dir).ok().flatten();
    recorded.map_or(0, |(_, shards)| shards.iter().map(|shard| shard.rows).sum())
}

/// Locks a folder for this process until the lock is dropped.
pub fn lock(dir: &Path) -> Result<File, CacheError> {
    let folder = files::open_folder(dir)?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(CacheError::Locked {
            dir: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(with_path(error, dir).into()),
    }
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(with_path(error, path).into()),
        _ => Ok(()),
    }
}

pub(super) fn append_line(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut file = files::open_to_append(path)?;
    write_line(&mut file, value)?;
    file.sync_data()
}

/// Writes a line in one call, so that torn lines are as rare as possible.
pub(super) fn write_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)
}
