//! Paths at which nothing is, and what was most likely meant.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::diag::nearest;

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

/// Advice on a model's path that does not exist: the id of a hub, which has to be fetched first, or a similar path.
pub fn model(typed: &Path, folder: &Path) -> Option<String> {
    let text = typed.to_str()?;
    match text.split_once('/') {
        Some((owner, name)) if is_id(owner) && is_id(name) && !folder.join(owner).exists() => {
            Some(format!(
                "`{text}` looks like the id of a model on the Hugging Face hub: run `alambic fetch {text}`, and write the path \
                 that it prints"
            ))
        }
        _ => similar(typed, folder),
    }
}

/// True for a part of a hub id.
fn is_id(part: &str) -> bool {
    let is_of_id = |one: char| one.is_ascii_alphanumeric() || "-_.".contains(one);
    part.starts_with(|first: char| first.is_ascii_alphanumeric()) && part.chars().all(is_of_id)
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
    fn ids_of_hubs_are_told_from_paths() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("checkpoints")).unwrap();
        let told = |typed: &str| model(Path::new(typed), dir.path()).unwrap_or_default();
        for typed in [
            "HuggingFaceTB/SmolLM2-135M",
            "meta-llama/Llama-3.2-1B",
            "Qwen/Qwen2.5-0.5B",
        ] {
            let command = format!("`alambic fetch {typed}`");
            assert!(told(typed).contains(&command), "{typed}");
        }
        for typed in [
            "checkpoints/absent",
            "./a/b",
            "../a/b",
            "/a/b",
            "a",
            "a/b/c",
            "a b/c",
        ] {
            assert_eq!(told(typed), "", "{typed}");
        }
    }
}
