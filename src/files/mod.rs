//! Reading of regular files only, atomic writing, and hashes of contents.

mod unfinished;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

pub use self::unfinished::UnfinishedDir;

/// Prefix of temporary files that a killed process may leave; files with this prefix are never read.
pub const PARTIAL_PREFIX: &str = ".partial-";

/// Opens a regular file for reading.
///
/// A pipe without a writer would block forever, and a device such as `/dev/zero` never ends: both are refused, and so
/// is a folder.
pub fn open(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true), OFlags::empty())
}

/// Bytes of a regular file; see [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let mut bytes = Vec::new();
    if let Ok(length) = usize::try_from(file.metadata()?.len()) {
        bytes.try_reserve_exact(length)?;
    }
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Text of a regular file; see [`open`].
pub fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Opens one of alambic's own files for appending, and creates it if it does not exist. A symbolic link is refused:
/// writing through it would change a file elsewhere.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    open_regular(path, options.append(true).create(true), OFlags::NOFOLLOW)
}

/// Opens one of alambic's own files for reading and writing at any place, and creates it if it does not exist. What is
/// in it stays. A symbolic link is refused, as by [`open_to_append`].
pub fn open_to_resume(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    open_regular(path, &mut options, OFlags::NOFOLLOW)
}

fn open_regular(path: &Path, options: &mut OpenOptions, more: OFlags) -> io::Result<File> {
    // Without `NONBLOCK`, opening a pipe waits for its other end.
    let flags = OFlags::NONBLOCK | more;
    let opened = options.custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(open_error)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(is_not_regular());
    }
    Ok(file)
}

/// Rewrites an error of opening so that it says what is at the path.
fn open_error(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => is_a_link(),
        Some(Errno::NXIO) => is_not_regular(), // a socket, or a pipe that nobody reads
        _ => error,
    }
}

fn is_not_regular() -> io::Error {
    let fact = "not a regular file: pipes, sockets and devices are refused";
    io::Error::new(io::ErrorKind::InvalidInput, fact)
}

fn is_a_link() -> io::Error {
    let fact = "a symbolic link is in the place of a file or folder that alambic writes; remove it";
    io::Error::new(io::ErrorKind::InvalidInput, fact)
}

/// Writes a file under a temporary name, flushes it to disk and renames it.
///
/// A reader sees the old file or the new one, never a part. On any error the temporary file is removed. Its name is
/// random and must be new, so that no existing file or link is overwritten.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let written = part_of(path).and_then(|mut part| {
        let mut out = BufWriter::new(part.as_file_mut());
        write(&mut out)?;
        out.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        part.persist(path).map_err(|error| error.error)
    });
    written.map_err(|error| with_path(error, path))?;
    sync_folder(parent(path))
}

/// Checks that [`write_atomically`] can write to this place, before there is any content.
pub fn check_place(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(with_path(io::ErrorKind::IsADirectory.into(), path));
    }
    let probed = part_of(path).and_then(NamedTempFile::close);
    probed.map_err(|error| with_path(error, path))
}

/// A new temporary file beside its final place, with the user's default permissions.
fn part_of(path: &Path) -> io::Result<NamedTempFile> {
    let prefix = prefix_of(path)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666); // less the umask
    tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(permissions)
        .tempfile_in(parent(path))
}

fn prefix_of(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut prefix = OsString::from(PARTIAL_PREFIX);
    prefix.push(name);
    prefix.push("-");
    Ok(prefix)
}

/// Writes a value as indented JSON; see [`write_atomically`].
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_atomically(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Reads a value that [`write_json`] wrote, if the file exists.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let value = match read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    value.map(Some).map_err(|error| with_path(error, path))
}

/// BLAKE3 (hex) of a file's bytes.
pub fn hash_file(path: &Path) -> io::Result<String> {
    let hash = open(path).and_then(|file| hash_reader(&file));
    hash.map_err(|error| with_path(error, path))
}

/// BLAKE3 (hex) of the rest of a file.
pub fn hash_reader(file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// BLAKE3 (hex) of a value's JSON.
///
/// # Panics
///
/// If the value has maps whose keys are not strings, which no value hashed here has.
pub fn hash_json(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value)
        .expect("plans and fingerprints have string keys and no failing fields");
    blake3::hash(&json).to_hex().to_string()
}

/// Deletes temporary files that a killed process left in a folder.
pub fn remove_parts(dir: &Path) -> io::Result<()> {
    remove_with_prefix(dir, PARTIAL_PREFIX.as_bytes())
}

/// Deletes temporary files of one file that killed processes left.
pub fn remove_parts_of(path: &Path) -> io::Result<()> {
    remove_with_prefix(parent(path), prefix_of(path)?.as_encoded_bytes())
}

fn remove_with_prefix(dir: &Path, prefix: &[u8]) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| with_path(error, &path))?;
        let name = entry.file_name();
        if !kind.is_dir() && name.as_encoded_bytes().starts_with(prefix) {
            fs::remove_file(&path).map_err(|error| with_path(error, &path))?;
        }
    }
    Ok(())
}

/// Adds the path to an I/O error, because the operating system does not.
pub fn with_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The folder of a file; `.` if the path is a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Opens a folder, to lock it or to flush its names to disk.
pub fn open_folder(dir: &Path) -> io::Result<File> {
    File::open(dir).map_err(|error| with_path(error, dir))
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    let synced = open_folder(dir)?.sync_all();
    synced.map_err(|error| with_path(error, dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.txt");
        write_atomically(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |out| {
            out.write_all(b"new")?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(
            error.to_string().contains("file.txt") && error.to_string().contains("disk full"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_that_stands_where_a_part_might_is_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, outside) = (dir.path().join("file.txt"), dir.path().join("outside.txt"));
        write_atomically(&outside, |out| out.write_all(b"precious")).unwrap();
        symlink(&outside, dir.path().join(".partial-file.txt")).unwrap();
        symlink(&outside, &path).unwrap();
        write_atomically(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(&outside).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o600, 0o600);

        symlink(&outside, dir.path().join("log")).unwrap();
        let error = open_to_append(&dir.path().join("log")).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        check_place(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn pipes_devices_and_folders_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [&pipe, Path::new("/dev/zero")] {
            for error in [
                read(path).unwrap_err(),
                open_to_append(path).unwrap_err(),
                hash_file(path).unwrap_err(),
            ] {
                assert!(error.to_string().contains("not a regular file"), "{error}");
            }
        }
        assert_eq!(
            read(dir.path()).unwrap_err().kind(),
            io::ErrorKind::IsADirectory
        );
        assert_eq!(
            read(&dir.path().join("absent")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
