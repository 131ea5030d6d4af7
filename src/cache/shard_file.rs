//! The file of a shard, as the Parquet library reads it.

#![warn(clippy::indexing_slicing)] // untrusted input is read with `get`

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// An open shard. The Parquet library hands on an error of reading as a text, like one of the contents; so the error itself
/// is kept here: a sound shard must not be called damaged because the system is out of file handles.
///
/// It is read at offsets, with one handle for all readers.
#[derive(Debug, Clone)]
pub(super) struct ShardFile {
    file: Arc<File>,
    length: u64,
    fault: Arc<Mutex<Option<io::Error>>>,
}

impl ShardFile {
    pub(super) fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            length: file.metadata()?.len(),
            file: Arc::new(file),
            fault: Arc::default(),
        })
    }

    /// First error of reading since the last call.
    pub(super) fn take_fault(&self) -> Option<io::Error> {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.take()
    }

    fn note(&self, error: &io::Error) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert_with(|| io::Error::new(error.kind(), error.to_string()));
    }
}

impl Length for ShardFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for ShardFile {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let file = self.clone();
        Ok(BufReader::new(Cursor {
            file,
            position: start,
        }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::new();
        let cursor = self.get_read(start)?.into_inner();
        let read = cursor.take(length as u64).read_to_end(&mut bytes)?;
        if read != length {
            return Err(ParquetError::EOF(format!(
                "{read} bytes instead of {length} at {start}"
            )));
        }
        Ok(bytes.into())
    }
}

/// A place in a shard, which reading moves on.
#[derive(Debug)]
pub(super) struct Cursor {
    file: ShardFile,
    position: u64,
}

impl Read for Cursor {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.file.read_at(out, self.position);
        let read = read.inspect_err(|error| self.file.note(error))?;
        self.position += read as u64;
        Ok(read)
    }
}
