//! Paths that stand for what is on a hub: an id that is not fetched yet, and a folder or file of the cache.

use std::path::{Path, PathBuf};

use super::id::{HubId, RepoKind, SCHEME, is_commit};
use super::select::TOKENIZER;

/// Ending of GGUF files.
const GGUF: &str = ".gguf";

impl HubId {
    /// Path that stands for the id until it is fetched: `hf://org/name`.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(format!("{SCHEME}{self}"))
    }

    /// The id that a path of [`HubId::to_path`] stands for.
    pub fn of_path(path: &Path) -> Option<Self> {
        let text = path.to_str()?;
        text.strip_prefix(SCHEME)?;
        Self::parse(text).ok()
    }

    /// Tells whether what was fetched, at its commit, may be what this id means.
    pub fn may_mean(&self, fetched: &Self) -> bool {
        let revision = self.revision.as_deref();
        let is_file = |(own, other): (&String, &String)| {
            own == other || other.to_lowercase().contains(&own.to_lowercase())
        };
        self.id == fetched.id
            && self.file.is_some() == fetched.file.is_some()
            && self.file.iter().zip(&fetched.file).all(is_file)
            && (revision == fetched.revision.as_deref() || !revision.is_some_and(is_commit))
    }
}

/// Repository and commit that a path in a cache of the hub is of, by its form: `…/models--org--name/snapshots/COMMIT`, with
/// the path of a file in the repository behind it.
pub fn origin(path: &Path) -> Option<(RepoKind, HubId)> {
    let parts: Vec<&str> = path
        .iter()
        .map(|part| part.to_str())
        .collect::<Option<_>>()?;
    let place = parts.iter().rposition(|part| *part == "snapshots")?;
    let commit = parts.get(place + 1).filter(|part| is_commit(part))?;
    let folder = parts.get(place.checked_sub(1)?)?;
    let (kind, name) = [RepoKind::Model, RepoKind::Dataset]
        .into_iter()
        .find_map(|kind| {
            let name = folder.strip_prefix(kind.plural())?.strip_prefix("--")?;
            Some((kind, name))
        })?;
    let (owner, name) = name.split_once("--")?;
    let inside = parts.get(place + 2..).unwrap_or_default().join("/");
    let file = if inside.is_empty() {
        String::new()
    } else {
        format!(":{inside}")
    };
    let id = HubId::parse(&format!("{owner}/{name}@{commit}{file}")).ok()?;
    Some((kind, id))
}

/// The id that a recipe may have in the place of a path: that of an id, or of a whole model, dataset, GGUF file or tokenizer
/// in the cache, with its commit.
pub fn written(path: &Path) -> Option<String> {
    if let Some(id) = HubId::of_path(path) {
        return Some(id.to_string());
    }
    let (kind, id) = origin(path)?;
    let is_whole = match (kind, &id.file) {
        (_, None) => true,
        (RepoKind::Model, Some(file)) => file == TOKENIZER || file.to_lowercase().ends_with(GGUF),
        (RepoKind::Dataset, Some(_)) => false,
    };
    is_whole.then(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_path_in_the_cache_tells_repository_commit_and_file() {
        let at = |inside: &str| PathBuf::from(format!("/c/hub/{inside}"));
        let own = |inside: &str| written(&at(inside));
        let snapshot = format!("snapshots/{COMMIT}");
        let model = format!("models--a--b-c/{snapshot}");
        assert_eq!(own(&model), Some(format!("a/b-c@{COMMIT}")));
        let gguf = format!("{model}/q/x-Q8_0.gguf");
        assert_eq!(own(&gguf), Some(format!("a/b-c@{COMMIT}:q/x-Q8_0.gguf")));
        let tokenizer = format!("{model}/tokenizer.json");
        assert_eq!(
            own(&tokenizer),
            Some(format!("a/b-c@{COMMIT}:tokenizer.json"))
        );
        let data = format!("datasets--a--b/{snapshot}");
        assert_eq!(own(&data), Some(format!("a/b@{COMMIT}")));
        assert!(matches!(origin(&at(&data)), Some((RepoKind::Dataset, _))));
        for other in [
            format!("{data}/train.parquet"),
            format!("{model}/chat_template.jinja"),
            format!("spaces--a--b/{snapshot}"),
            "models--a--b/snapshots/main".to_owned(),
            format!("models--a/{snapshot}"),
            snapshot,
        ] {
            assert_eq!(own(&other), None, "{other}");
        }
        let id = HubId::parse("a/b@v1:Q4_K_M").unwrap();
        assert_eq!(HubId::of_path(&id.to_path()), Some(id.clone()));
        assert_eq!(written(&id.to_path()).as_deref(), Some("a/b@v1:Q4_K_M"));
        assert_eq!(HubId::of_path(Path::new("a/b")), None);
    }

    #[test]
    fn an_id_means_what_was_fetched_unless_it_names_another_commit() {
        let id = |text: &str| HubId::parse(text).unwrap();
        let fetched = id(&format!("a/b@{COMMIT}"));
        let other = COMMIT.replace('0', "f");
        for (text, means) in [
            ("a/b", true),
            ("a/b@v1", true),
            (&format!("a/b@{COMMIT}"), true),
            (&format!("a/b@{other}"), false),
            ("a/c", false),
            ("a/b:Q8_0", false),
        ] {
            assert_eq!(id(text).may_mean(&fetched), means, "{text}");
        }
        let file = id(&format!("a/b@{COMMIT}:x-Q8_0.gguf"));
        assert!(id("a/b:q8_0").may_mean(&file) && !id("a/b:Q4_0").may_mean(&file));
    }
}
