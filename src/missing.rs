//! Paths at which nothing is, and what was most likely meant.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::diag::nearest;
use crate::hub::HubId;

/// Most entries of a folder that are compared with a name.
const MOST_ENTRIES: usize = 10_000;

/// Advice on a path that does not exist: the most similar one that does.
///
/// `typed` is the path as it was written, and `folder` where it starts if it is relative.
pub fn similar(typed: &Path, folder: &Path) -> Option<String> {
    let mut there = Path::new("").to_path_buf();
    let mut parts = typed.components();
    while let Some(part) = parts.next() {
        if folder.join(&there).join(part).exists() {
            there.push(part);
            continue;
        }
        let Component::Normal(name) = part else {
            return None;
        };
        let near = sibling(&folder.join(&there), name.to_str()?)?;
        let found: PathBuf = [&there.join(near), parts.as_path()]
            .into_iter()
            .flat_map(Path::components)
            .collect();
        return folder
            .join(&found)
            .exists()
            .then(|| format!("write `{}`, which is there", found.display()));
    }
    None
}

/// Advice on a path that does not exist, where an id of the hub may stand, too: a similar path, or how to write the id although
/// the path begins with a folder that is there.
pub fn place(typed: &Path, folder: &Path) -> Option<String> {
    similar(typed, folder).or_else(|| {
        let text = typed.to_str()?;
        let (owner, _) = text.split_once('/')?;
        let is_id = folder.join(owner).is_dir() && HubId::parse(text).is_ok();
        is_id.then(|| {
            format!(
                "there is a folder `{owner}`, so this is a path; for the hub's write `hf://{text}`"
            )
        })
    })
}

/// The name in a folder that is most like one that is not there.
fn sibling(folder: &Path, name: &str) -> Option<String> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let entries = fs::read_dir(folder).ok()?.flatten().take(MOST_ENTRIES);
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort(); // folders have no order
    nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_path_that_exists_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("models/austen-teacher")).unwrap();
        let similar = |typed: &str| similar(Path::new(typed), dir.path());
        let told = "write `models/austen-teacher`, which is there";
        for typed in [
            "models/austin-teacher",
            "model/austen-teacher",
            "Models/austen-teacher",
        ] {
            assert_eq!(similar(typed).as_deref(), Some(told), "{typed}");
        }
        for typed in [
            "models/other",
            "model/other",
            "../models/x",
            "",
            "/nowhere/at/all",
        ] {
            assert_eq!(similar(typed), None, "{typed}");
        }
    }

    #[test]
    fn an_id_that_is_taken_for_a_path_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("models/austen")).unwrap();
        let told = |typed: &str| place(Path::new(typed), dir.path()).unwrap_or_default();
        assert!(told("models/other-name").contains("write `hf://models/other-name`"));
        assert!(told("models/austin").contains("write `models/austen`"));
        for typed in [
            "models/a/b",
            "./models/other-name",
            "absent/model",
            "/a/b",
            "x",
        ] {
            assert_eq!(told(typed), "", "{typed}");
        }
    }
}
