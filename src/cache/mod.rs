//! The cache: the teacher's predictions at the positions that count, captured once and read many times.
//!
//! A folder of Parquet shards beside a `manifest.json` that says what they were made from (columns
//! and units: `docs/formats.md`). [`CacheWriter`] fills it and resumes an interrupted capture;
//! [`Cache`] reads it and refuses whatever does not match. Host data only: this module knows neither
//! tensors nor the teacher's model.

mod bins;
mod columns;
mod fingerprint;
mod journal;
mod manifest;
mod masks;
mod merge;
mod plan;
mod quantize;
mod rans;
mod read;
mod shard;
mod shard_file;
mod stat;
mod stream;
mod tables;
mod trial;
mod write;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use fingerprint::{FieldDifference, Fingerprint};
pub use journal::{lock as hold, num_saved_rows};
pub use manifest::{CachePart, Manifest, ShardRecord, TokenHashes, first_damage};
pub use merge::merge;
pub(crate) use plan::{CACHE, SupportWord, check};
pub use plan::{CachePlan, Sampling, SupportPlan};
pub use read::{Cache, CapturedRow, Wanted};
pub use stat::{CacheStat, VerifyReport, verify};
pub use trial::Trial;
pub use write::CacheWriter;

/// Largest difference in nats between a log-probability and the cached value, for log-probabilities at most
/// [`LOWEST_BELOW_TOP`] below the position's likeliest; lower ones are clamped to that distance.
///
/// One step of 1/32 (half from its own rounding, at most half from that of the others, which sets the sum), half a step
/// of the tail's log-odds, and the margin of the likeliest. The root mean square is about 0.01. The sum over the
/// support is right to the log-odds, so the divergence from the captured distribution is second order: a few 1e-5 nats.
pub const LOG_PROB_ERROR_BOUND: f32 = 1.0 / 16.0 + 1.0 / 4096.0;

/// Largest difference between the probability mass of a support, at any temperature, and the cached value: half a step
/// of the tail's log-odds, 1/32, where the mass changes fastest, at even odds.
pub const MASS_ERROR_BOUND: f32 = 1.0 / 128.0;

/// Range of log-probabilities, in nats below the likeliest id of the position.
pub const LOWEST_BELOW_TOP: f32 = 1022.0 / 32.0;

/// Largest difference in nats between an entropy and the cached value.
pub const ENTROPY_ERROR_BOUND: f32 = 1.0 / 32.0;

/// Errors of reading or writing a cache.
#[derive(Debug, Error)]
pub enum CacheError {
    /// An input/output error; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The folder is not a finished cache.
    #[error("`{}` holds no finished cache: `manifest.json` is missing", dir.display())]
    NoManifest {
        /// Folder of the cache.
        dir: PathBuf,
    },
    /// Another format version; no other field of the manifest can be relied on.
    #[error("`{}` has cache format {cached}, this program reads {known}", dir.display())]
    Version {
        /// Folder of the cache.
        dir: PathBuf,
        /// Format version of the cache, as its manifest gives it.
        cached: String,
        /// The one version that this program reads.
        known: u32,
    },
    /// The cache was made from something else than the wanted inputs.
    #[error("the cache in `{}` has another fingerprint: {}", dir.display(), list(fields))]
    Stale {
        /// Folder of the cache.
        dir: PathBuf,
        /// Every field that differs.
        fields: Vec<FieldDifference>,
    },
    /// Another process is capturing into this folder, or reads from it while rows were to be added.
    #[error("another process is using the cache in `{}`", dir.display())]
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
    /// Rows that are wanted were captured from other tokens.
    #[error("rows {} to {} in `{}` were captured from other tokens", rows.start, rows.end.saturating_sub(1), path.display())]
    OtherRows {
        /// The shard.
        path: PathBuf,
        /// Rows in it.
        rows: Range<usize>,
    },
    /// The cached row lacks positions that are wanted.
    #[error("row {row_idx} in `{}` lacks predictions of positions that are wanted", path.display())]
    Positions {
        /// The shard.
        path: PathBuf,
        /// The row.
        row_idx: usize,
    },
    /// The folder holds one part of a cache, where a whole cache is wanted.
    #[error("`{}` is part {} of {} of a cache", dir.display(), part.part, part.of)]
    OnlyPart {
        /// Folder of the part.
        dir: PathBuf,
        /// The part that is there.
        part: CachePart,
    },
    /// The folder holds another part, or a whole cache where a part is to be captured.
    #[error("`{}` holds another part of a cache", dir.display())]
    OtherPart {
        /// Folder of the cache.
        dir: PathBuf,
    },
    /// The folder holds a part of a cache of more rows than are wanted.
    #[error("`{}` holds a part of a cache of more than {num_rows} rows", dir.display())]
    LargerPart {
        /// Folder of the part.
        dir: PathBuf,
        /// Rows that are wanted of all parts together.
        num_rows: usize,
    },
    /// Folders that do not make up one cache.
    #[error("these are not the parts of one cache: {what}")]
    NotParts {
        /// Description of the mismatch.
        what: String,
    },
    /// Parts were to be merged into a folder that holds another cache.
    #[error("`{}` already holds another cache, finished or unfinished", dir.display())]
    Occupied {
        /// Folder of the cache.
        dir: PathBuf,
    },
    /// The requested row is not in the cache.
    #[error("the cache in `{}` has {num_rows} rows, but row {row_idx} was requested", dir.display())]
    NoSuchRow {
        /// Folder of the cache.
        dir: PathBuf,
        /// The row.
        row_idx: usize,
        /// Rows in the cache.
        num_rows: usize,
    },
    /// A file has the right checksum but impossible contents.
    #[error("`{}`: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Description of the contents.
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
        /// Description of the mismatch.
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
    /// All faults that [`verify`] found.
    #[error("the cache in `{}` is damaged: {}", dir.display(), list(faults))]
    Damaged {
        /// Folder of the cache.
        dir: PathBuf,
        /// First fault of each damaged shard, in the order of the rows.
        faults: Vec<Self>,
    },
}

impl CacheError {
    /// True if [`CacheWriter::open`] can complete this cache: it is unfinished, or lacks a shard or positions of rows.
    pub fn is_unfinished(&self) -> bool {
        matches!(
            self,
            Self::NoManifest { .. }
                | Self::ShardMissing { .. }
                | Self::Unfinished { .. }
                | Self::Positions { .. }
        )
    }

    /// Advice on the fix, where the error alone determines it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoManifest { .. } | Self::Unfinished { .. } => {
                Some("run the capture again: it resumes where it stopped".to_owned())
            }
            Self::ShardMissing { .. } | Self::Positions { .. } => {
                Some("run the capture again: only the missing rows are captured".to_owned())
            }
            Self::ShardLength { path, .. }
            | Self::ShardChecksum { path, .. }
            | Self::Corrupt { path, .. } => Some(repair_help(path)),
            Self::Damaged { faults, .. } => {
                let helps: Vec<String> = faults.iter().filter_map(Self::help).collect();
                Some(helps.join("; ")).filter(|help| !help.is_empty())
            }
            Self::Stale { dir, .. } | Self::Version { dir, .. } => Some(format!(
                "delete `{}` or name another folder; the cache is then captured again",
                dir.display()
            )),
            Self::OtherRows { path, .. } => Some(format!(
                "delete `{}` or name another folder; the text is then captured again",
                path.parent().unwrap_or(path).display()
            )),
            Self::OnlyPart { .. } => {
                Some("join all parts with `alambic cache merge PART… --into DIR`".to_owned())
            }
            Self::NotParts { .. } => Some(
                "name every folder that `alambic cache build --shard i/n` wrote, for one recipe and one n"
                    .to_owned(),
            ),
            Self::Occupied { .. } => Some("name an empty folder".to_owned()),
            Self::OtherPart { .. } => Some("name another folder".to_owned()),
            Self::LargerPart { dir, .. } => Some(format!(
                "capture and merge all parts of the larger cache, which also serves runs with fewer rows, or delete `{}`",
                dir.display()
            )),
            Self::Locked { .. } => Some("wait until the other process has ended".to_owned()),
            _ => None,
        }
    }
}

fn repair_help(path: &Path) -> String {
    format!(
        "delete `{}` and run the capture again: its rows are then captured again",
        path.display()
    )
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join("; ")
}
