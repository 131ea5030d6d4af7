//! Ids of models and data on a hub, told apart from paths.

use std::fmt;
use std::path::Path;

/// Revision that is meant if none is named.
pub const MAIN: &str = "main";

/// Longest part of an id, as the hub has it.
const MAX_PART: usize = 96;

/// Longest revision; git takes no longer names of files.
const MAX_REVISION: usize = 255;

/// Start of what is an id even if a path of this name exists.
pub(super) const SCHEME: &str = "hf://";

/// Ending of addresses for git, which a name cannot have.
const GIT: &str = ".git";

/// Ending that git keeps for itself.
const LOCK: &str = ".lock";

/// Endings of files that are given by their paths.
const FILE_ENDINGS: [&str; 12] = [
    ".arrow",
    ".csv",
    ".gguf",
    ".gz",
    ".jinja",
    ".json",
    ".jsonl",
    ".parquet",
    ".safetensors",
    ".txt",
    ".yaml",
    ".zst",
];

/// Kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoKind {
    /// Weights, tokenizer and configuration.
    Model,
    /// Rows to train on.
    Dataset,
}

impl RepoKind {
    /// Plural in paths of the API and in names of folders.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// Word for people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// Start of the paths of its pages and files.
    pub(super) fn url_prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// Repository of a hub, perhaps with a revision and one of its GGUF files: `org/name@revision:file`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubId {
    /// Owner and name, with one slash.
    pub id: String,
    /// Branch, tag or commit; `None` for `main`.
    pub revision: Option<String>,
    /// Name of a GGUF file, or the word for its quantisation, such as `Q4_K_M`.
    pub file: Option<String>,
}

/// Reason why a text is no id of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NotAnId {
    #[error("an id is `owner/name`, with one slash")]
    Form,
    #[error(
        "`{0}` in an id may have letters, digits, `-`, `_` and `.`, at most {MAX_PART}, and begins and ends with a letter, a digit or `_`"
    )]
    Part(String),
    #[error("an id has neither `--` nor `..` in it, and does not end in `.git`")]
    Reserved,
    #[error("`{0}` is no name of a branch, a tag or a commit")]
    Revision(String),
    #[error("`{0}` is no name of a GGUF file, and no quantisation such as `Q4_K_M`")]
    File(String),
}

impl HubId {
    /// Parses `owner/name`, `owner/name@revision`, and either with `:file` behind it; `hf://` may stand before.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let text = text.strip_prefix(SCHEME).unwrap_or(text);
        let (text, file) = match text.split_once(':') {
            Some((text, file)) => (text, Some(file)),
            None => (text, None),
        };
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        check_id(id)?;
        if let Some(revision) = revision.filter(|revision| !is_revision(revision)) {
            return Err(NotAnId::Revision(revision.to_owned()));
        }
        if let Some(file) = file.filter(|file| !is_file(file)) {
            return Err(NotAnId::File(file.to_owned()));
        }
        Ok(Self {
            id: id.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// The id that a text of a recipe or a command line means; `None` if it is a path.
    ///
    /// A text that looks like a path is one (`./x`, `/x`, `~/x`, two slashes, the ending of a file), and so is what exists,
    /// relative to `folder`. So is `runs/x` where there is a folder `runs`: a path with a mistake in it; unless a commit
    /// stands behind it. `hf://` before a text makes it an id in any case.
    pub fn recognise(text: &str, folder: &Path) -> Option<Result<Self, NotAnId>> {
        if text.starts_with(SCHEME) {
            return Some(Self::parse(text));
        }
        if looks_like_a_path(text) {
            return None;
        }
        let owner = text.split_once('/').map(|(owner, _)| owner)?;
        let id = Self::parse(text).ok()?;
        let is_path =
            folder.join(text).exists() || !is_commit(id.revision()) && folder.join(owner).is_dir();
        (!is_path).then_some(Ok(id))
    }

    /// Revision that is asked for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The reference as its author could pin it: with a commit in the place of the revision.
    #[must_use]
    pub fn pinned(&self, commit: &str) -> Self {
        Self {
            revision: Some(commit.to_owned()),
            ..self.clone()
        }
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.id)?;
        if let Some(revision) = &self.revision {
            write!(out, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(out, ":{file}")?;
        }
        Ok(())
    }
}

/// Tells whether a text is a whole commit: 40 hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 40 && text.bytes().all(is_digit)
}

fn looks_like_a_path(text: &str) -> bool {
    let before = text.split(['@', ':']).next().unwrap_or_default();
    let lower = text.to_ascii_lowercase();
    text.starts_with(['.', '/', '~'])
        || text.ends_with('/')
        || before.matches('/').count() != 1
        || (!text.contains(':') && FILE_ENDINGS.iter().any(|ending| lower.ends_with(ending)))
}

/// The rules of `huggingface_hub` (`utils/_validators.py`, 2.4), but a name without an owner is refused: it is a path.
fn check_id(id: &str) -> Result<(), NotAnId> {
    let (owner, name) = id.split_once('/').ok_or(NotAnId::Form)?;
    if name.contains('/') {
        return Err(NotAnId::Form);
    }
    for part in [owner, name] {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let is_of_part = |letter: char| is_word(letter) || letter == '-' || letter == '.';
        let is_bounded = part.starts_with(is_word) && part.ends_with(is_word);
        if !is_bounded || part.len() > MAX_PART || !part.chars().all(is_of_part) {
            return Err(NotAnId::Part(part.to_owned()));
        }
    }
    if id.contains("--") || id.contains("..") || id.ends_with(GIT) {
        return Err(NotAnId::Reserved);
    }
    Ok(())
}

/// The rules of git for names of references, in short.
fn is_revision(text: &str) -> bool {
    let is_refused =
        |letter: char| letter.is_whitespace() || letter.is_control() || "~^:?*[\\".contains(letter);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(LOCK);
    text.len() <= MAX_REVISION
        && text.split('/').all(is_part)
        && !text.contains(is_refused)
        && !text.contains("..")
        && !text.contains("@{")
        && !text.ends_with('.')
}

/// A path inside a repository, or a word.
fn is_file(text: &str) -> bool {
    is_inside(text) && !text.contains(char::is_whitespace)
}

/// Tells whether a path stays inside the folder that it is relative to, in names that every file system can hold.
pub(super) fn is_inside(path: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_REVISION;
    path.split('/').all(is_part) && !path.contains(['\\', '\0']) && !path.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ids_have_an_owner_a_name_and_perhaps_a_revision_and_a_file() {
        for (text, id, revision, file) in [
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None, None),
            ("a/b@v1.0", "a/b", Some("v1.0"), None),
            ("a/b@refs/pr/3", "a/b", Some("refs/pr/3"), None),
            ("a/b:Q4_K_M", "a/b", None, Some("Q4_K_M")),
            (
                "hf://a/b@main:x/y-Q8_0.gguf",
                "a/b",
                Some("main"),
                Some("x/y-Q8_0.gguf"),
            ),
            ("_a/b_", "_a/b_", None, None),
        ] {
            let parsed = HubId::parse(text).unwrap();
            assert_eq!(parsed.id, id, "{text}");
            assert_eq!(parsed.revision.as_deref(), revision, "{text}");
            assert_eq!(parsed.file.as_deref(), file, "{text}");
            assert_eq!(format!("{parsed}"), text.trim_start_matches("hf://"));
        }
        let reference = HubId::parse("a/b:Q4_K_M").unwrap();
        assert_eq!(reference.revision(), "main");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(
            reference.pinned(commit).to_string(),
            format!("a/b@{commit}:Q4_K_M")
        );
        assert!(is_commit(commit) && !is_commit("main") && !is_commit(&commit.to_uppercase()));
    }

    #[test]
    fn what_the_hub_takes_for_no_id_is_refused_with_the_rule() {
        let long = format!("a/{}", "b".repeat(97));
        for (text, rule) in [
            ("gpt2", "one slash"),
            ("datasets/a/b", "one slash"),
            ("-a/b", "`-a`"),
            ("a/b.", "`b.`"),
            ("a/.b", "`.b`"),
            ("a/café", "`café`"),
            (long.as_str(), "at most 96"),
            ("a/b--c", "neither"),
            ("a/b..c", "neither"),
            ("a/b.git", ".git"),
            ("a/b@", "branch"),
            ("a/b@../main", "branch"),
            ("a/b@x..y", "branch"),
            ("a/b@a b", "branch"),
            ("a/b@x/.hidden", "branch"),
            ("a/b@main@{1}", "branch"),
            ("a/b:", "GGUF"),
            ("a/b:../x.gguf", "GGUF"),
            ("a/b:/x.gguf", "GGUF"),
        ] {
            let told = HubId::parse(text).unwrap_err().to_string();
            assert!(told.contains(rule), "{text}: {told}");
        }
    }

    #[test]
    fn paths_are_no_ids() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("here/model")).unwrap();
        let is_id = |text: &str| HubId::recognise(text, dir.path()).is_some_and(|id| id.is_ok());
        for id in [
            "Qwen/Qwen3-0.6B",
            "a/b@x/y",
            "a/b:sub/x.gguf",
            "a/b:Q8_0",
            "hf://here/model",
            "here/model@0123456789abcdef0123456789abcdef01234567",
        ] {
            assert!(is_id(id), "{id}");
        }
        for path in [
            "here/model",
            "here/absent",
            "./a/b",
            "../a",
            "/a/b",
            "~/a",
            "a",
            "a/b/c",
            "a/b/",
            "a/b.gguf",
            "a/b.jsonl",
            "a/b.parquet",
            "a/B.JSON.GZ",
            "a/b--c",
            "",
        ] {
            assert_eq!(HubId::recognise(path, dir.path()), None, "{path}");
        }
        let wrong = HubId::recognise("hf://a", dir.path());
        assert_eq!(wrong, Some(Err(NotAnId::Form)));
    }
}
