//! Folders that `save_to_disk` of `datasets` has written.

use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::fault::{FaultKind, shown};
use super::shards::MEND;
use crate::files;

/// File of a folder of several splits.
const DICT: &str = "dataset_dict.json";

/// File of a folder of one split.
const STATE: &str = "state.json";

/// File beside it; both together make the folder.
const INFO: &str = "dataset_info.json";

/// A saved split.
pub(super) struct Saved {
    /// Its files, in the order of its rows.
    pub(super) files: Vec<PathBuf>,
    pub(super) split: Option<String>,
}

/// Names of the splits of a folder, if it is one of several.
pub(super) fn splits(folder: &Path) -> Result<Option<Vec<String>>, FaultKind> {
    #[derive(Deserialize)]
    struct Dict {
        splits: Vec<String>,
    }
    let dict: Option<Dict> = read(&folder.join(DICT))?;
    let Some(dict) = dict else {
        return Ok(None);
    };
    for split in &dict.splits {
        check_name(DICT, split)?;
    }
    Ok(Some(dict.splits))
}

/// Folder of a split.
pub(super) fn split_folder(folder: &Path, split: &str) -> Result<PathBuf, FaultKind> {
    let inside = folder.join(split);
    if inside.is_dir() {
        return Ok(inside);
    }
    Err(FaultKind::Missing(format!(
        "its `{DICT}` names split `{}`, whose folder is not here; fetch the whole folder again",
        shown(split)
    )))
}

/// Fault of a file of a saved split that cannot be read.
pub(super) fn unread(error: io::Error) -> FaultKind {
    if error.kind() != io::ErrorKind::NotFound {
        return error.into();
    }
    FaultKind::Missing(format!(
        "`{STATE}` beside it names it, and it is not there; {MEND}"
    ))
}

/// Files of a folder, if it is one of a saved split.
pub(super) fn data_files(folder: &Path) -> Result<Option<Saved>, FaultKind> {
    #[derive(Deserialize)]
    struct State {
        #[serde(rename = "_data_files")]
        data_files: Vec<DataFile>,
        #[serde(rename = "_split", default)]
        split: Option<String>,
    }
    #[derive(Deserialize)]
    struct DataFile {
        filename: String,
    }
    if !folder.join(INFO).is_file() {
        return Ok(None);
    }
    let state: Option<State> = read(&folder.join(STATE))?;
    let Some(state) = state else {
        return Ok(None);
    };
    for file in &state.data_files {
        check_name(STATE, &file.filename)?;
    }
    let files = state.data_files.iter();
    Ok(Some(Saved {
        files: files.map(|file| folder.join(&file.filename)).collect(),
        split: state.split,
    }))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FaultKind> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read(path)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let name = path.file_name().unwrap_or_default().display();
        FaultKind::Damaged(format!(
            "its `{name}` is not one of `save_to_disk`: {error}"
        ))
    })
}

/// Refuses a name that leads out of its folder.
fn check_name(file: &str, name: &str) -> Result<(), FaultKind> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(()),
        _ => Err(FaultKind::Damaged(format!(
            "its `{file}` names `{}`, which is no name of a file beside it",
            shown(name)
        ))),
    }
}
