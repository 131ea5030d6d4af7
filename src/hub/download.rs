//! One content of a repository: resumed, checked, and under its name only when it is whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::remove;
use super::client::{About, Answer, Client, Failed};
use super::error::HubError;
use super::{Tally, Watch};
use crate::files;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 18;

/// A content that is to be fetched.
pub(super) struct Blob<'a> {
    /// Where it is to be found.
    pub(super) about: About<'a>,
    /// Size in bytes, if the hub tells it.
    pub(super) size: Option<u64>,
    /// Digest in hexadecimal digits, if the hub tells it: it does for large files.
    pub(super) sha256: Option<&'a str>,
    /// Its final place.
    pub(super) path: PathBuf,
}

/// Bytes of a content that are on disk, and their digest.
struct Part<'a> {
    content: &'a Blob<'a>,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    num_bytes: u64,
    /// True if an earlier process has written some of them.
    is_resumed: bool,
}

/// Fetches a content, whose lock the caller holds.
///
/// It grows in `<etag>.incomplete`, where an interrupted download goes on. Its size, and its digest if there is one, are
/// checked; then it is flushed to disk and renamed.
pub(super) fn fetch(
    client: &Client,
    content: &Blob<'_>,
    tally: &mut Tally,
    watch: Watch<'_>,
) -> Result<(), HubError> {
    let mut part = Part::open(content, tally)?;
    let mut furthest = part.num_bytes;
    loop {
        client.patiently(&mut *watch, |watch| {
            part.attempt(client, tally, watch)
                .map_err(|failed| match failed {
                    Failed::Passing(error, None) if part.num_bytes > furthest => {
                        furthest = part.num_bytes;
                        Failed::Advanced(error)
                    }
                    failed => failed,
                })
        })?;
        let found = format!("{:x}", part.hasher.clone().finalize());
        match content
            .sha256
            .filter(|want| !want.eq_ignore_ascii_case(&found))
        {
            None => return part.publish(),
            // What an earlier process has left need not have been of this content.
            Some(_) if part.is_resumed => part.restart(tally)?,
            Some(want) => {
                part.discard()?;
                return Err(damaged(
                    content,
                    format!("its SHA-256 is {found}, and should be {want}"),
                ));
            }
        }
    }
}

/// Bytes that an earlier process has left of a content; none if it could not be checked in the end.
pub(super) fn left(path: &Path, size: Option<u64>, sha256: Option<&str>) -> u64 {
    let found = fs::symlink_metadata(part_path(path))
        .ok()
        .filter(fs::Metadata::is_file);
    let there = found.map_or(0, |found| found.len());
    match (size, sha256) {
        (Some(size), Some(_)) if there <= size => there,
        _ => 0,
    }
}

impl<'a> Part<'a> {
    fn open(content: &'a Blob<'a>, tally: &mut Tally) -> Result<Self, HubError> {
        let path = part_path(&content.path);
        let there = left(&content.path, content.size, content.sha256);
        if there == 0 {
            remove(&path).map_err(|error| HubError::of_cache(&path, error))?;
        }
        let wrap = |error| HubError::of_cache(&path, error);
        let file = files::open_to_resume(&path).map_err(wrap)?;
        let mut hasher = Sha256::new();
        let num_bytes = io::copy(&mut (&file).take(there), &mut hasher).map_err(wrap)?;
        tally.find(num_bytes);
        Ok(Self {
            content,
            file,
            hasher,
            num_bytes,
            is_resumed: num_bytes > 0,
            path,
        })
    }

    /// Begins anew, in a new file: the old one may be open elsewhere.
    fn restart(&mut self, tally: &mut Tally) -> Result<(), HubError> {
        let wrap = |error| HubError::of_cache(&self.path, error);
        remove(&self.path).map_err(wrap)?;
        self.file = files::open_to_resume(&self.path).map_err(wrap)?;
        self.hasher = Sha256::new();
        tally.take(self.num_bytes);
        (self.num_bytes, self.is_resumed) = (0, false);
        Ok(())
    }

    /// Asks for what is missing, and writes what comes.
    fn attempt(
        &mut self,
        client: &Client,
        tally: &mut Tally,
        watch: Watch<'_>,
    ) -> Result<(), Failed> {
        if self.num_bytes > 0 && self.content.size == Some(self.num_bytes) {
            return Ok(());
        }
        let answer = client.get(self.content.about, self.num_bytes)?;
        self.check(&answer, tally)?;
        let mut reader = answer.into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let num_read = match reader.read(&mut chunk) {
                Ok(num_read) => num_read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.cut_short(&error.to_string())),
            };
            let came = chunk.get(..num_read).unwrap_or_default();
            if came.is_empty() {
                break;
            }
            self.write(came)?;
            tally.add(num_read as u64);
            if let ControlFlow::Break(()) = watch(tally.event()) {
                return Err(HubError::Stopped.into());
            }
        }
        match self.content.size {
            Some(size) if self.num_bytes < size => Err(self.cut_short("")),
            _ => Ok(()),
        }
    }

    /// Checks that an answer goes on where the part ends; if the server sends all of the file again, the part begins anew.
    fn check(&mut self, answer: &Answer, tally: &mut Tally) -> Result<(), Failed> {
        let refused = |why: &str| HubError::NotAHub {
            url: answer.url.clone(),
            why: why.to_owned(),
        };
        if answer
            .header("content-encoding")
            .is_some_and(|encoding| encoding != "identity")
        {
            return Err(refused("it packs a file that was asked for as it is").into());
        }
        if answer.status == 200 {
            if self.num_bytes > 0 {
                self.restart(tally)?;
            }
            return Ok(());
        }
        let range = answer.header("content-range").unwrap_or_default(); // bytes 5-9/10
        let start = range
            .trim_start_matches("bytes ")
            .split('-')
            .next()
            .and_then(|start| start.parse().ok());
        match answer.status {
            206 if start == Some(self.num_bytes) => Ok(()),
            // The part is longer than the file, so it is of another one.
            416 => {
                self.restart(tally)?;
                Err(Failed::Passing(
                    refused("it has no bytes behind those that are there"),
                    None,
                ))
            }
            206 => Err(refused("it sends other bytes of a file than were asked for").into()),
            _ => Err(refused("it sends neither a file nor a refusal").into()),
        }
    }

    fn write(&mut self, came: &[u8]) -> Result<(), Failed> {
        let after = self.num_bytes + came.len() as u64;
        if self.content.size.is_some_and(|size| after > size) {
            self.discard()?;
            return Err(damaged(self.content, "more bytes came than it has".to_owned()).into());
        }
        // At their place, not at the end: where locks do not work, another process may write the same.
        self.file
            .write_all_at(came, self.num_bytes)
            .map_err(|error| self.write_error(error))?;
        self.hasher.update(came);
        self.num_bytes = after;
        Ok(())
    }

    fn write_error(&self, error: io::Error) -> HubError {
        let is_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if !is_full {
            return HubError::of_cache(&self.path, error);
        }
        HubError::DiskFull {
            file: self.content.about.file.to_owned(),
            done_bytes: self.num_bytes,
            left_bytes: self
                .content
                .size
                .unwrap_or_default()
                .saturating_sub(self.num_bytes),
            part: self.path.clone(),
        }
    }

    fn cut_short(&self, why: &str) -> Failed {
        let error = HubError::CutShort {
            file: self.content.about.file.to_owned(),
            got_bytes: self.num_bytes,
            want_bytes: self.content.size.unwrap_or_default(),
            why: why.to_owned(),
        };
        Failed::Passing(error, None)
    }

    fn discard(&self) -> Result<(), HubError> {
        remove(&self.path).map_err(|error| HubError::of_cache(&self.path, error))
    }

    /// Flushes the content to disk and gives it its name.
    fn publish(self) -> Result<(), HubError> {
        let wrap = |error| HubError::of_cache(&self.content.path, error);
        self.file
            .sync_all()
            .map_err(|error| self.write_error(error))?;
        let own = self.file.metadata().map_err(wrap)?.ino();
        let is_own = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == own);
        if !is_own {
            let why =
                "another process has removed its part; locks do not work on this disk".to_owned();
            return Err(damaged(self.content, why));
        }
        fs::rename(&self.path, &self.content.path).map_err(wrap)?;
        files::open_folder(files::parent(&self.content.path))
            .and_then(|folder| folder.sync_all())
            .map_err(wrap)
    }
}

fn part_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".incomplete");
    PathBuf::from(name)
}

fn damaged(content: &Blob<'_>, why: String) -> HubError {
    HubError::Damaged {
        file: content.about.file.to_owned(),
        why,
    }
}
