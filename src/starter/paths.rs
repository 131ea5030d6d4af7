//! Paths as a recipe writes them.

use std::path::{Component, Path, PathBuf, absolute};

use crate::recipe;

/// A path that leads from a folder to the same place; an absolute path stays as it is.
///
/// Links are not followed: `..` after a link would lead elsewhere only if the folder itself were reached through one.
pub(super) fn relative(path: &Path, folder: &Path) -> String {
    let found = if path.is_absolute() {
        path.to_owned()
    } else {
        between(path, folder).unwrap_or_else(|| path.to_owned())
    };
    quoted(&found.display().to_string())
}

fn between(path: &Path, folder: &Path) -> Option<PathBuf> {
    // `..` in the folder itself would be counted as a folder to leave.
    let normal = |path: &Path| -> Option<PathBuf> {
        let mut normal = PathBuf::new();
        for component in absolute(path).ok()?.components() {
            match component {
                Component::ParentDir => drop(normal.pop()),
                component => normal.push(component),
            }
        }
        Some(normal)
    };
    Some(recipe::relative(&normal(path)?, &normal(folder)?))
}

/// A text as a YAML scalar of a flow list: bare if it is plain, otherwise as a JSON string, which YAML reads too.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let starts_plain =
        text.starts_with(|first: char| first.is_ascii_alphabetic() || "/.".contains(first));
    if starts_plain && text.len() > 1 && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_from_the_folder_of_the_recipe() {
        let leads = |path: &str, folder: &str| relative(Path::new(path), Path::new(folder));
        assert_eq!(leads("models/a", "."), "models/a");
        assert_eq!(leads("models/a", "recipes"), "../models/a");
        assert_eq!(leads("recipes/text", "recipes"), "text");
        assert_eq!(leads("../a", "recipes/deep"), "../../../a");
        assert_eq!(leads("/models/a", "recipes"), "/models/a");
        assert_eq!(leads(".", "."), "\".\"");
    }

    #[test]
    fn a_path_that_yaml_would_misread_is_quoted() {
        for (path, want) in [
            ("my text.txt", "\"my text.txt\""),
            ("a: b", "\"a: b\""),
            ("1e5", "\"1e5\""),
            ("-x", "\"-x\""),
            ("~", "\"~\""),
            ("a\"b", r#""a\"b""#),
            ("../models/Qwen2.5_0.5B-it", "../models/Qwen2.5_0.5B-it"),
        ] {
            assert_eq!(quoted(path), want);
        }
    }
}
