//! TensorBoard event files: scalars and histograms, written and read back.
//!
//! A file is a sequence of TFRecords, each holding one protobuf message:
//!
//! ```text
//! u64 length · u32 masked CRC-32C of the length · message · u32 masked CRC-32C of the message    (little-endian)
//! ```
//!
//! Written here and not by a crate: the only one is unmaintained and depends on a protobuf with a
//! security advisory.
//!
//! Source: `tensorflow/core/lib/io/record_writer.cc` and `tensorflow/core/lib/hash/crc32c.h`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::files::{self, with_path, write_atomically};

mod histogram;
mod proto;

pub use histogram::Histogram;
pub use proto::MessageFault;

/// Version in the first event of a file; TensorBoard reads no other.
const FILE_VERSION: &str = "brain.Event:2";

/// Added to a checksum after rotating it, so that a checksum over data that holds checksums stays strong.
const CRC_MASK_DELTA: u32 = 0xa282_ead8;

/// Bytes of a record before its message: the length and its checksum.
const HEADER_BYTES: usize = 12;

/// Bytes of a record after its message: the message's checksum.
const FOOTER_BYTES: usize = 4;

/// One record of an event file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// Optimizer updates done.
    pub step: u64,
    /// Only in the first event of a file.
    pub file_version: Option<String>,
    /// Tags and their values.
    pub values: Vec<(String, SummaryValue)>,
}

/// Value under one tag.
#[derive(Debug, Clone, PartialEq)]
pub enum SummaryValue {
    /// One number.
    Scalar(f32),
    /// Distribution of a set of numbers.
    Histogram(Histogram),
}

/// Errors of reading an event file.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The operating system reports an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The stored bytes are not the written ones.
    #[error("{}: the record at byte {offset} is damaged: {fault}", path.display())]
    Damaged {
        /// The event file.
        path: PathBuf,
        /// Offset of the record in bytes.
        offset: usize,
        /// Fault of the record.
        fault: RecordFault,
    },
}

/// Faults of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The length cannot be trusted.
    #[error("its length has checksum {computed:08x}, but {stored:08x} is stored")]
    LengthChecksum {
        /// Checksum in the file.
        stored: u32,
        /// Checksum of the bytes in the file.
        computed: u32,
    },
    /// The message cannot be trusted.
    #[error("its message has checksum {computed:08x}, but {stored:08x} is stored")]
    MessageChecksum {
        /// Checksum in the file.
        stored: u32,
        /// Checksum of the bytes in the file.
        computed: u32,
    },
    /// The message was stored as written, but is no event.
    #[error("its message is not an event: {0}")]
    Message(#[from] MessageFault),
}

/// An event file that grows by whole records.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// Opens a file to append to, and creates it if it does not exist.
    ///
    /// A file with a torn end must be fixed first ([`keep_until`]): nothing after the tear is ever read.
    pub fn open(path: &Path, wall_time: f64) -> io::Result<Self> {
        let file = files::open_to_append(path).map_err(|error| with_path(error, path))?;
        let mut writer = Self {
            file,
            path: path.to_path_buf(),
        };
        if writer.file.metadata()?.len() == 0 {
            writer.write(&first_event(wall_time))?;
        }
        Ok(writer)
    }

    /// Passes one whole event to the operating system: a process killed later does not lose it.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        self.file
            .write_all(&record(event))
            .map_err(|error| with_path(error, &self.path))
    }

    /// Waits until everything is on the disk: a power cut later does not lose it.
    pub fn sync(&self) -> io::Result<()> {
        self.file
            .sync_data()
            .map_err(|error| with_path(error, &self.path))
    }
}

/// The events of a file, in order.
///
/// A last record that is cut short is left out: a killed process leaves such a record. Any other
/// fault is an error, since the events after it would be lost unnoticed.
pub fn read_events(path: &Path) -> Result<Vec<Event>, EventError> {
    let bytes = files::read(path).map_err(|error| with_path(error, path))?;
    parse_records(&bytes).map_err(|(offset, fault)| EventError::Damaged {
        path: path.to_path_buf(),
        offset,
        fault,
    })
}

/// Drops the events after `step` and a torn end; deletes a file without any values left.
pub fn keep_until(path: &Path, step: u64) -> Result<(), EventError> {
    let mut events = read_events(path)?;
    events.retain(|event| event.step <= step);
    if events.iter().all(|event| event.values.is_empty()) {
        return fs::remove_file(path).map_err(|error| with_path(error, path).into());
    }
    Ok(write_atomically(path, |out| {
        events
            .iter()
            .try_for_each(|event| out.write_all(&record(event)))
    })?)
}

fn first_event(wall_time: f64) -> Event {
    Event {
        wall_time,
        file_version: Some(FILE_VERSION.to_owned()),
        ..Event::default()
    }
}

fn record(event: &Event) -> Vec<u8> {
    let message = proto::encode(event);
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(HEADER_BYTES + message.len() + FOOTER_BYTES);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(&message);
    record.extend(masked_crc(&message).to_le_bytes());
    record
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(CRC_MASK_DELTA)
}

fn parse_records(bytes: &[u8]) -> Result<Vec<Event>, (usize, RecordFault)> {
    let mut events = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let offset = bytes.len() - rest.len();
        match split_record(rest).map_err(|fault| (offset, fault))? {
            None => break, // torn by a kill
            Some((message, after)) => {
                events.push(proto::decode(message).map_err(|fault| (offset, fault.into()))?);
                rest = after;
            }
        }
    }
    Ok(events)
}

/// Message of the first record and the bytes after the record; `None` if the bytes end within it.
type FirstMessage<'a> = Option<(&'a [u8], &'a [u8])>;

fn split_record(bytes: &[u8]) -> Result<FirstMessage<'_>, RecordFault> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let Some((stored, rest)) = split_u32(rest) else {
        return Ok(None);
    };
    let computed = masked_crc(length);
    if stored != computed {
        return Err(RecordFault::LengthChecksum { stored, computed });
    }
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some((message, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let Some((stored, rest)) = split_u32(rest) else {
        return Ok(None);
    };
    let computed = masked_crc(message);
    if stored != computed {
        return Err(RecordFault::MessageChecksum { stored, computed });
    }
    Ok(Some((message, rest)))
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests;
