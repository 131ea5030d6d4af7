//! Paths as a recipe writes them.

use std::path::{Component, Path, PathBuf, absolute};

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
    let normal = |path: &Path| -> Option<Vec<String>> {
        let mut names = Vec::new();
        for component in absolute(path).ok()?.components() {
            match component {
                Component::ParentDir => drop(names.pop()),
                Component::Normal(name) => names.push(name.to_str()?.to_owned()),
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            }
        }
        Some(names)
    };
    let (to, from) = (normal(path)?, normal(folder)?);
    let common = to.iter().zip(&from).take_while(|(to, from)| to == from);
    let common = common.count();
    let up = from[common..].iter().map(|_| "..");
    let found: PathBuf = up.chain(to[common..].iter().map(String::as_str)).collect();
    Some(if found.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        found
    })
}

/// A text as a YAML scalar of a flow list: bare if it is plain, otherwise as a JSON string, which YAML reads too.
fn quoted(text: &str) -> String {
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
