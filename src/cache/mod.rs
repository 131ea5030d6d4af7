//! The cache: what the teacher said about every position, captured once and read many times.
//!
//! A folder of Parquet shards beside a `manifest.json` that says what they were made from (columns
//! and units: `docs/formats.md`). [`CacheWriter`] fills it and goes on where a killed capture
//! stopped; [`Cache`] reads it and refuses whatever does not match. Host data only: this module
//! knows neither tensors nor the teacher's model.

mod codec;
mod format;
mod read;
mod stat;
mod write;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use format::{FieldDifference, Fingerprint, Manifest, ShardRecord};
pub use read::Cache;
pub use stat::{CacheStat, VerifyReport, verify};
pub use write::CacheWriter;

/// Largest difference in nats between a log-probability and what the cache gives back for it,
/// for values down to [`LOWEST_LOG_PROB`]; lower ones come back as that.
///
/// Half of the step 2⁻¹¹. A probability is thus off by a factor of at most `1 ± 2.5e-4`.
pub const LOG_PROB_ERROR_BOUND: f32 = 1.0 / 4096.0;

/// Lowest log-probability that the cache can hold, in nats: a probability of `1.3e-14`.
pub const LOWEST_LOG_PROB: f32 = -65535.0 / 2048.0;

/// What the teacher said about the positions of one row.
///
/// Position `t` is about token `t + 1` of its row. At the `j`-th declared temperature `T` the
/// probability of support entry `i` of position `t` is `exp(log_probs[i] / T − lse[j][t])`; what is
/// missing to one is the tail mass. The sum over the support may pass one by
/// [`LOG_PROB_ERROR_BOUND`] when the tail is empty, so clamp the tail mass at zero.
///
/// # Shapes
///
/// `L` is the sequence length, `K` the entries kept per position.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSupports {
    /// Entries kept per position.
    pub top_k: usize,
    /// Token ids, distinct and ascending within a position. `[L * K]`
    pub ids: Vec<u32>,
    /// Natural logarithms of the probabilities at temperature 1, in the order of `ids`. `[L * K]`
    pub log_probs: Vec<f32>,
    /// Per temperature, log-sum-exp of all `V` log-probabilities divided by it. `[num_temperatures][L]`
    pub lse: Vec<Vec<f32>>,
}

/// Why a cache cannot be read or written.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The file system refused; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The folder is not a finished cache.
    #[error("`{}` holds no finished cache: there is no `manifest.json`", dir.display())]
    NoManifest {
        /// Folder of the cache.
        dir: PathBuf,
    },
    /// Another format; nothing else in the manifest can be relied on.
    #[error("`{}` has cache format {cached}, this program reads {known}", dir.display())]
    Version {
        /// Folder of the cache.
        dir: PathBuf,
        /// Format version of the cache, as its manifest gives it.
        cached: String,
        /// The one version that this program reads.
        known: u32,
    },
    /// The cache was made from something else than what is asked for.
    #[error("the cache in `{}` was made from something else: {}", dir.display(), list(fields))]
    Stale {
        /// Folder of the cache.
        dir: PathBuf,
        /// Every field that differs.
        fields: Vec<FieldDifference>,
    },
    /// Another process is capturing into this folder.
    #[error("another process is writing the cache in `{}`", dir.display())]
    Locked {
        /// Folder of the cache.
        dir: PathBuf,
    },
    /// The manifest lists a shard that is not there.
    #[error("shard `{}` is missing", path.display())]
    ShardMissing {
        /// The shard.
        path: PathBuf,
    },
    /// A shard is shorter or longer than the manifest says.
    #[error("shard `{}` has {found_bytes} bytes, the manifest lists {listed_bytes}", path.display())]
    ShardLength {
        /// The shard.
        path: PathBuf,
        /// Length of the file.
        found_bytes: u64,
        /// Length in the manifest.
        listed_bytes: u64,
    },
    /// A shard's bytes changed after it was written.
    #[error("shard `{}` has BLAKE3 {found}, the manifest lists {listed}", path.display())]
    ShardChecksum {
        /// The shard.
        path: PathBuf,
        /// Checksum of the file.
        found: String,
        /// Checksum in the manifest.
        listed: String,
    },
    /// The cached row was captured from other tokens.
    #[error("row {row_idx} of the cache in `{}` was captured from other tokens", dir.display())]
    RowTokens {
        /// Folder of the cache.
        dir: PathBuf,
        /// The row.
        row_idx: usize,
    },
    /// A row was asked for that the cache does not have.
    #[error("row {row_idx} was asked for, the cache in `{}` has {num_rows} rows", dir.display())]
    NoSuchRow {
        /// Folder of the cache.
        dir: PathBuf,
        /// The row.
        row_idx: usize,
        /// Rows in the cache.
        num_rows: usize,
    },
    /// A file has the checksum it should have and yet says something impossible.
    #[error("`{}`: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is impossible about it.
        what: String,
    },
    /// Sizes that no cache can have.
    #[error("a cache cannot have {what}")]
    Sizes {
        /// The sizes.
        what: String,
    },
    /// A row offered to the writer does not fit the cache.
    #[error("row {row_idx} cannot be cached: {what}")]
    Refused {
        /// The row.
        row_idx: usize,
        /// What does not fit.
        what: String,
    },
    /// The cache was to be finished before all rows were captured.
    #[error("the cache in `{}` lacks {missing} of {num_rows} rows", dir.display())]
    Unfinished {
        /// Folder of the cache.
        dir: PathBuf,
        /// Rows still to capture.
        missing: usize,
        /// Rows in all.
        num_rows: usize,
    },
    /// Everything that [`verify`] found.
    #[error("the cache in `{}` is damaged: {}", dir.display(), list(faults))]
    Damaged {
        /// Folder of the cache.
        dir: PathBuf,
        /// First fault of each damaged shard, in the order of the rows.
        faults: Vec<Self>,
    },
}

impl CacheError {
    /// Whether [`CacheWriter::open`] can complete this cache: it is unfinished or lacks a shard.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::NoManifest { .. } | Self::ShardMissing { .. })
    }

    /// What to do about it, if the error itself can tell.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoManifest { .. } | Self::Unfinished { .. } => {
                Some("run the capture again: it goes on where it stopped".to_owned())
            }
            Self::ShardMissing { .. } => {
                Some("run the capture again: only the missing rows are captured anew".to_owned())
            }
            Self::ShardLength { path, .. }
            | Self::ShardChecksum { path, .. }
            | Self::Corrupt { path, .. } => Some(mend(path)),
            Self::Damaged { faults, .. } => {
                let helps: Vec<String> = faults.iter().filter_map(Self::help).collect();
                Some(helps.join("; ")).filter(|help| !help.is_empty())
            }
            Self::Stale { dir, .. } | Self::Version { dir, .. } => Some(format!(
                "delete `{}` or name another folder; the cache is then captured anew",
                dir.display()
            )),
            Self::Locked { .. } => Some("wait until the other process has ended".to_owned()),
            _ => None,
        }
    }
}

fn mend(path: &Path) -> String {
    format!(
        "delete `{}` and run the capture again: what it held is captured anew",
        path.display()
    )
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join("; ")
}
