//! A cursor over the bytes of a file, which never reads beyond the end.
#![warn(clippy::indexing_slicing)]

use std::fmt::Display;
use std::ops::Range;

use super::GgufFault;

/// Reads little-endian values one after another; `what` names each value in messages.
#[derive(Debug)]
pub(super) struct ByteReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Goes back to an earlier position.
    pub(super) fn rewind(&mut self, at: usize) {
        self.at = self.at.min(at);
    }

    /// Skips the next bytes and returns their position.
    pub(super) fn skip(
        &mut self,
        num_bytes: u64,
        what: &dyn Display,
    ) -> Result<Range<usize>, GgufFault> {
        let left = self.bytes.len().saturating_sub(self.at);
        match usize::try_from(num_bytes)
            .ok()
            .filter(|&num_bytes| num_bytes <= left)
        {
            Some(num_bytes) => {
                let start = self.at;
                self.at += num_bytes;
                Ok(start..self.at)
            }
            None => Err(GgufFault::Truncated {
                what: what.to_string(),
                at: self.at,
                num_bytes,
                left,
            }),
        }
    }

    pub(super) fn take(
        &mut self,
        num_bytes: u64,
        what: &dyn Display,
    ) -> Result<&'a [u8], GgufFault> {
        let range = self.skip(num_bytes, what)?;
        Ok(self
            .bytes
            .get(range)
            .expect("`skip` stays inside of the bytes"))
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &dyn Display,
    ) -> Result<[u8; N], GgufFault> {
        let bytes = self.take(N as u64, what)?;
        Ok(*bytes.first_chunk().expect("N bytes were taken"))
    }

    pub(super) fn u32(&mut self, what: &dyn Display) -> Result<u32, GgufFault> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &dyn Display) -> Result<u64, GgufFault> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads a length, then that many bytes of UTF-8.
    pub(super) fn text(&mut self, what: &dyn Display) -> Result<&'a str, GgufFault> {
        let num_bytes = self.u64(what)?;
        let at = self.at;
        str::from_utf8(self.take(num_bytes, what)?).map_err(|_| GgufFault::NotUtf8 {
            what: what.to_string(),
            at,
        })
    }
}
