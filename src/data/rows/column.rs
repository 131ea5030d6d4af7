//! Columns of numbers, in memory or in a mapped file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;

use crate::mapped::Mapped;

// A column is read where it lies in a file, in the machine's own order of bytes.
const _: () = assert!(cfg!(target_endian = "little"));

/// Bytes that a column collects before it writes them to its file.
const BUFFER_BYTES: usize = 256 << 10;

/// Numbers of one kind.
#[derive(Clone)]
pub(super) enum RowsColumn<T> {
    Memory(Vec<T>),
    Mapped {
        file: Arc<Mapped>,
        range: Range<usize>,
        kind: PhantomData<T>,
    },
}

impl<T: Pod> RowsColumn<T> {
    /// A range of a mapped file; `None` if the range is not in it, or does not hold whole numbers in their places.
    pub(super) fn mapped(file: &Arc<Mapped>, range: Range<usize>) -> Option<Self> {
        let bytes = file.get(range.clone())?;
        bytemuck::try_cast_slice::<u8, T>(bytes).ok()?;
        Some(Self::Mapped {
            file: Arc::clone(file),
            range,
            kind: PhantomData,
        })
    }
}

impl<T: Pod> Deref for RowsColumn<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Memory(values) => values,
            Self::Mapped { file, range, .. } => bytemuck::cast_slice(&file[range.clone()]),
        }
    }
}

impl<T> Default for RowsColumn<T> {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl<T> From<Vec<T>> for RowsColumn<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Memory(values)
    }
}

impl<T: Pod + PartialEq> PartialEq for RowsColumn<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod + Eq> Eq for RowsColumn<T> {}

impl<T: Pod + fmt::Debug> fmt::Debug for RowsColumn<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A column that is being written: in memory, or with all but its last numbers in a file without a name.
pub(super) struct NewColumn<T> {
    values: Vec<T>,
    file: Option<File>,
    num_bytes: u64,
}

impl<T: Pod> NewColumn<T> {
    pub(super) fn in_memory() -> Self {
        Self {
            values: Vec::new(),
            file: None,
            num_bytes: 0,
        }
    }

    /// Begins a column whose file is in a folder. A process that is killed leaves nothing there.
    pub(super) fn in_folder(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            file: Some(tempfile::tempfile_in(dir)?),
            ..Self::in_memory()
        })
    }

    pub(super) fn extend(&mut self, values: &[T]) -> io::Result<()> {
        self.values.extend_from_slice(values);
        if size_of_val(self.values.as_slice()) >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is in memory to the file, if there is one.
    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let bytes: &[u8] = bytemuck::cast_slice(&self.values);
            file.write_all(bytes)?;
            self.num_bytes += bytes.len() as u64;
            self.values.clear();
        }
        Ok(())
    }

    /// The column, if it is in memory.
    pub(super) fn into_column(self) -> RowsColumn<T> {
        assert!(self.file.is_none(), "a column in memory");
        RowsColumn::Memory(self.values)
    }

    /// Copies all numbers to `out`, and returns the number of their bytes.
    pub(super) fn copy_to(mut self, out: &mut dyn Write) -> io::Result<u64> {
        self.read_file(out)?;
        let bytes: &[u8] = bytemuck::cast_slice(&self.values);
        out.write_all(bytes)?;
        Ok(self.num_bytes + bytes.len() as u64)
    }

    fn read_file(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.seek(SeekFrom::Start(0))?;
        match io::copy(&mut file.take(self.num_bytes), out)? {
            copied if copied == self.num_bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
