//! `artifact.json`: facts about a finished stage and every file that it wrote.

use std::io;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{self, PARTIAL_PREFIX, with_path};
use crate::hashes::Hashes;
use crate::opened::ARTIFACT_FILE;
use crate::passes;

/// File that a run locks while it fills a folder.
pub const LOCK_FILE: &str = ".lock";

/// Key under which the file holds the hash of its other keys.
const SEAL: &str = "blake3";

/// Contents of `artifact.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artifact<T> {
    /// Name of the stage.
    pub stage: String,
    /// Key of the stage.
    pub key: String,
    /// Seconds that the stage took in the process that finished it.
    pub secs: f64,
    /// Measurements of the stage.
    pub result: T,
    /// Records of all other files in the folder; none if the files check themselves, as those of rows and caches do.
    pub files: Vec<FileRecord>,
}

/// A file as it was when its stage was finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path inside the folder, with `/` between names.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 (hex) of its bytes.
    pub blake3: String,
}

/// Damage to a finished artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    file: String,
    is_gone: bool,
}

impl Damage {
    /// Damage of a file that is missing, or that is not as it was written.
    pub(super) fn of(file: impl Into<String>, is_gone: bool) -> Self {
        let file = file.into();
        Self { file, is_gone }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_gone {
            "is missing"
        } else {
            "was changed since it was written"
        };
        write!(f, "its `{}` {what}", self.file)
    }
}

impl<T: Serialize> Artifact<T> {
    /// Writes the file, sealed with a hash of its contents.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut value = serde_json::to_value(self)?;
        let seal = files::hash_json(&value);
        if let Some(entries) = value.as_object_mut() {
            entries.insert(SEAL.to_owned(), Value::from(seal));
        }
        files::write_json(&dir.join(ARTIFACT_FILE), &value)
    }
}

impl<T: DeserializeOwned> Artifact<T> {
    /// Reads the file of a folder, if it exists and its seal is intact.
    ///
    /// A file that exists and cannot be read is an error: work of days would be done again, and replaced, because the system
    /// was out of file handles for a moment.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(ARTIFACT_FILE);
        match files::read(&path) {
            Ok(bytes) => Ok(Self::unsealed(&bytes)),
            Err(error) if is_other(&error) => Ok(None),
            Err(error) => Err(with_path(error, &path)),
        }
    }

    fn unsealed(bytes: &[u8]) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        let seal = value.as_object_mut()?.shift_remove(SEAL)?;
        let is_whole = seal == files::hash_json(&value);
        serde_json::from_value(value).ok().filter(|_| is_whole)
    }
}

/// Records of all files below a folder, in the order of their paths, without those that only an unfinished pass needs. Their
/// hashes are remembered for `target`, to which the folder is about to be moved.
pub(super) fn records(dir: &Path, target: &Path, hashes: &Hashes) -> io::Result<Vec<FileRecord>> {
    let mut records = Vec::new();
    for inside in files_below(dir)? {
        let file = dir.join(&inside);
        let blake3 = files::hash_file(&file)?;
        hashes.record(&file, target.join(&inside), &blake3)?;
        let names = inside.iter().map(|name| name.to_string_lossy());
        records.push(FileRecord {
            path: names.collect::<Vec<_>>().join("/"),
            bytes: fs::metadata(&file)?.len(),
            blake3,
        });
    }
    Ok(records)
}

/// Paths inside a folder.
fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = dir.join(&folder);
        for entry in fs::read_dir(&path).map_err(|error| with_path(error, &path))? {
            let entry = entry.map_err(|error| with_path(error, &path))?;
            let name = entry.file_name();
            let inside = folder.join(&name);
            if entry.file_type()?.is_dir() {
                if !passes::is_temporary(&inside) {
                    folders.push(inside);
                }
                continue;
            }
            let is_part = name
                .as_encoded_bytes()
                .starts_with(PARTIAL_PREFIX.as_bytes());
            let is_ours = name == ARTIFACT_FILE || name == LOCK_FILE;
            if !is_part && !is_ours && !passes::is_temporary(&inside) {
                found.push(inside);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// First damage in a folder that has an `artifact.json`; `None` also if it has none.
///
/// A file is not read if its hash is remembered and it has not changed since.
pub(super) fn damage(dir: &Path, hashes: &Hashes) -> io::Result<Option<Damage>> {
    if fs::symlink_metadata(dir.join(ARTIFACT_FILE)).is_err() {
        return Ok(None);
    }
    let damage = |file: &str, is_gone| Ok(Some(Damage::of(file, is_gone)));
    let Some(artifact) = Artifact::<Value>::read(dir)? else {
        return damage(ARTIFACT_FILE, false);
    };
    for record in &artifact.files {
        let path = dir.join(&record.path);
        let found = match fs::metadata(&path) {
            Err(error) if is_other(&error) => {
                return damage(&record.path, error.kind() == io::ErrorKind::NotFound);
            }
            found => found.map_err(|error| with_path(error, &path))?,
        };
        let is_whole = found.is_file()
            && found.len() == record.bytes
            && hashes.of_file(&path)? == record.blake3;
        if !is_whole {
            return damage(&record.path, false);
        }
    }
    Ok(None)
}

/// True if an error means that something else, or nothing, is at a path.
fn is_other(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
        || matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::InvalidInput // a pipe, a device, a link
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        files::write_atomically(path, |out| io::Write::write_all(out, text.as_bytes())).unwrap();
    }

    fn sealed(dir: &Path) -> Artifact<f64> {
        let hashes = Hashes::of_this_process(0.0);
        let artifact = Artifact {
            stage: "01-distill".to_owned(),
            key: "aa".to_owned(),
            secs: 0.1 + 0.2,
            result: 1.0 / 3.0,
            files: records(dir, dir, &hashes).unwrap(),
        };
        artifact.write(dir).unwrap();
        artifact
    }

    fn found(dir: &Path) -> Option<String> {
        let damage = damage(dir, &Hashes::of_this_process(0.0)).unwrap();
        damage.map(|damage| damage.to_string())
    }

    #[test]
    fn every_file_of_an_artifact_is_vouched_for() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir_all(dir.join("gguf")).unwrap();
        fs::create_dir_all(dir.join("layers")).unwrap();
        for (file, text) in [
            ("student.safetensors", "one"),
            ("gguf/model.gguf", "two"),
            ("state-0000000007.safetensors", "temporary"),
            ("layers/0.safetensors", "temporary"),
        ] {
            write(&dir.join(file), text);
        }
        assert_eq!(found(dir), None, "nothing is claimed yet");
        let artifact = sealed(dir);
        let paths: Vec<&str> = artifact
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        assert_eq!(paths, ["gguf/model.gguf", "student.safetensors"]);
        let read = Artifact::<f64>::read(dir).unwrap().unwrap();
        assert_eq!(read.result.to_bits(), artifact.result.to_bits());
        fs::remove_file(dir.join("state-0000000007.safetensors")).unwrap();
        fs::remove_dir_all(dir.join("layers")).unwrap();
        write(&dir.join("note-of-a-user.txt"), "kept");
        assert_eq!(found(dir), None);

        for (text, told) in [
            (
                "owt",
                "its `gguf/model.gguf` was changed since it was written",
            ),
            (
                "longer",
                "its `gguf/model.gguf` was changed since it was written",
            ),
        ] {
            write(&dir.join("gguf/model.gguf"), text);
            assert_eq!(found(dir).unwrap(), told);
        }
        fs::remove_dir_all(dir.join("gguf")).unwrap();
        assert_eq!(found(dir).unwrap(), "its `gguf/model.gguf` is missing");

        fs::create_dir_all(dir.join("gguf")).unwrap();
        write(&dir.join("gguf/model.gguf"), "two");
        assert_eq!(found(dir), None);
        let path = dir.join(ARTIFACT_FILE);
        let text = fs::read_to_string(&path).unwrap();
        for other in [&text.replace("0.333", "0.334"), &text[..text.len() / 2], ""] {
            write(&path, other);
            assert_eq!(
                found(dir).unwrap(),
                "its `artifact.json` was changed since it was written"
            );
            assert!(Artifact::<f64>::read(dir).unwrap().is_none());
        }
    }
}
