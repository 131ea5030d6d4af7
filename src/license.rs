//! Licences as stated by models.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files;
use crate::gguf::GgufFile;

/// A licence as named by a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct License {
    /// Identifier on the Hugging Face hub, such as `apache-2.0`; `other` for a licence without one.
    pub id: String,
    /// Name of a licence without an identifier.
    pub name: Option<String>,
    /// Location of its text.
    pub link: Option<String>,
}

impl License {
    /// A licence given only by its identifier.
    pub(crate) fn of_id(id: &str) -> Self {
        Self {
            id: id.to_lowercase(),
            name: None,
            link: None,
        }
    }

    /// Common name.
    pub fn describe(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// Reads the licence that a checkpoint states: `general.license` of a GGUF file; for a folder, the front matter of
    /// its `README.md`, or else the title of its `LICENSE`.
    pub fn of_model(checkpoint: &Path, gguf: Option<&GgufFile>) -> Option<Self> {
        match gguf {
            Some(file) => of_gguf(file),
            None => of_readme(checkpoint).or_else(|| of_license_file(checkpoint)),
        }
    }
}

fn of_gguf(file: &GgufFile) -> Option<License> {
    let text = |key| file.text(key).ok().flatten().map(str::to_owned);
    Some(License {
        name: text("general.license.name"),
        link: text("general.license.link"),
        ..License::of_id(&text("general.license")?)
    })
}

/// Reads the keys of the front matter; a list of licences or a nested value counts as none.
fn of_readme(dir: &Path) -> Option<License> {
    let text = files::read_to_string(&dir.join("README.md")).ok()?;
    let after = text.trim_start_matches('\u{feff}').strip_prefix("---")?;
    let (front_matter, _) = after.split_once("\n---")?;
    let value = |key: &str| {
        let mut lines = front_matter.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let value = value.trim().trim_matches(['"', '\'']);
        let is_plain = !value.is_empty() && !value.starts_with(['[', '{', '|', '>', '&', '*']);
        is_plain.then(|| value.to_owned())
    };
    Some(License {
        name: value("license_name"),
        link: value("license_link"),
        ..License::of_id(&value("license")?)
    })
}

/// First words of licence texts, with their identifiers.
const TITLES: [(&str, &str); 8] = [
    ("apache license", "apache-2.0"),
    ("mit license", "mit"),
    ("bsd 3-clause license", "bsd-3-clause"),
    ("gemma terms of use", "gemma"),
    ("llama 3.3 community license", "llama3.3"),
    ("llama 3.2 community license", "llama3.2"),
    ("llama 3.1 community license", "llama3.1"),
    ("meta llama 3 community license", "llama3"),
];

fn of_license_file(dir: &Path) -> Option<License> {
    let names = ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"];
    let text = names
        .iter()
        .find_map(|name| files::read_to_string(&dir.join(name)).ok())?;
    let first = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let title = first.trim_matches(['#', '*', ' ']);
    let lower = title.to_lowercase();
    let known = TITLES.iter().find(|(words, _)| lower.starts_with(words));
    Some(match known {
        Some((_, id)) => License::of_id(id),
        None => License {
            name: Some(title.to_owned()),
            ..License::of_id("other")
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::write_atomically;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            write_atomically(&path, |out| out.write_all(text.as_bytes())).unwrap();
        }
        dir
    }

    #[test]
    fn a_licence_is_read_from_the_card_then_from_the_licence_file() {
        let card = "---\nlanguage:\n- en\nlicense: Apache-2.0\n---\n# x\nlicense: mit\n";
        let text = "\n   Apache License\n  Version 2.0";
        for (files, want) in [
            (&[("README.md", card)][..], Some("apache-2.0")),
            (
                &[("README.md", card), ("LICENSE", "MIT License")],
                Some("apache-2.0"),
            ),
            (
                &[("README.md", "# no front matter"), ("LICENSE", text)],
                Some("apache-2.0"),
            ),
            (
                &[("LICENSE.txt", "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT")],
                Some("llama3.2"),
            ),
            (&[("LICENSE", "Our Own Terms\n...")], Some("other")),
            (&[("README.md", "---\nlicense:\n- mit\n---\n")], None),
            (&[], None),
        ] {
            let dir = folder(files);
            let found = License::of_model(dir.path(), None);
            assert_eq!(
                found.as_ref().map(|license| license.id.as_str()),
                want,
                "{files:?}"
            );
        }
        let own = folder(&[("LICENSE", "# Our Own Terms\n...")]);
        let license = License::of_model(own.path(), None).unwrap();
        assert_eq!(license.describe(), "Our Own Terms");
    }

    #[test]
    fn a_licence_without_an_identifier_keeps_its_name_and_link() {
        let card = "---\nlicense: other\nlicense_name: \"own\"\nlicense_link: https://example.org/l\n---\n";
        let dir = folder(&[("README.md", card)]);
        let license = License::of_model(dir.path(), None).unwrap();
        assert_eq!(license.describe(), "own");
        assert_eq!(license.link.as_deref(), Some("https://example.org/l"));
    }
}
