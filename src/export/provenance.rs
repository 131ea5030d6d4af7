//! Origin and licence of a model, for its card.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::gguf::GgufFile;
use crate::hub::{self, HubId};
use crate::license::License;

/// Origin of an exported model: its ancestors, its texts, and the command that made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Model whose weights it began with, if there was one.
    pub base: Option<Ancestor>,
    /// Model that it imitates, if there was one.
    pub teacher: Option<Ancestor>,
    /// Texts that it was made with.
    pub texts: Vec<TextFacts>,
    /// Recipe or command that makes it again.
    pub made_by: MadeBy,
}

/// Recipe or command that made a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MadeBy {
    /// A resolved recipe, which is stored beside the weights.
    Recipe(String),
    /// A command line.
    Command(String),
}

impl Default for MadeBy {
    fn default() -> Self {
        Self::Recipe(String::new())
    }
}

/// A text and its purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFacts {
    /// Purpose, such as `trained on`.
    pub purpose: &'static str,
    /// Names of files and folders, without their parent folders; of data of the hub the id at its commit.
    pub names: Vec<String>,
    /// Tokens that counted.
    pub num_tokens: u64,
}

/// A model that another one is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Name of its folder or file, or its id if it is the hub's.
    pub name: String,
    /// Commit of the hub that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Its licence, if it states one.
    pub license: Option<License>,
}

impl Ancestor {
    /// A checkpoint by its name, with the licence that it states; `gguf` is its file, if it is no folder.
    pub fn of(checkpoint: &Path, gguf: Option<&GgufFile>) -> Self {
        let license = License::of_model(checkpoint, gguf);
        if let Some((_, HubId { id, revision, .. })) = hub::origin(checkpoint) {
            return Self {
                name: id,
                commit: revision,
                license,
            };
        }
        let name = match gguf {
            Some(_) => checkpoint.file_stem(),
            None => checkpoint.file_name(),
        };
        Self {
            name: name.unwrap_or_default().to_string_lossy().into_owned(),
            commit: None,
            license,
        }
    }

    /// Name, with the commit if it has one, as Markdown.
    pub fn described(&self) -> String {
        match &self.commit {
            Some(commit) => format!("`{}` at commit `{commit}`", self.name),
            None => format!("`{}`", self.name),
        }
    }
}

impl TextFacts {
    /// Ids of the hub, without commits.
    fn hub_ids(&self) -> impl Iterator<Item = String> {
        let ids = self.names.iter().filter_map(|name| HubId::parse(name).ok());
        ids.map(|id| id.id)
    }
}

impl Provenance {
    /// Ids on the hub of the texts, each once.
    pub fn datasets(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for id in self.texts.iter().flat_map(TextFacts::hub_ids) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Models that it is made of, each once.
    pub fn ancestors(&self) -> Vec<&Ancestor> {
        let mut ancestors: Vec<&Ancestor> = self.base.iter().chain(&self.teacher).collect();
        ancestors.dedup();
        ancestors
    }

    /// Licence that all ancestors state, if it is the same for all.
    pub fn license(&self) -> Option<&License> {
        let ancestors = self.ancestors();
        let first = ancestors.first()?.license.as_ref()?;
        let same = |ancestor: &&Ancestor| ancestor.license.as_ref() == Some(first);
        ancestors.iter().all(same).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_carried_over_if_all_ancestors_state_it() {
        let ancestor = |name: &str, license: Option<&str>| Ancestor {
            name: name.to_owned(),
            commit: None,
            license: license.map(License::of_id),
        };
        let provenance = |base, teacher| Provenance {
            base,
            teacher,
            ..Provenance::default()
        };
        let (a, b) = (ancestor("a", Some("mit")), ancestor("b", Some("mit")));
        let same = provenance(Some(a.clone()), Some(b));
        assert_eq!(same.license().map(License::describe), Some("mit"));
        let other = provenance(Some(a.clone()), Some(ancestor("b", Some("gemma"))));
        assert_eq!(other.license(), None);
        let unknown = provenance(Some(a.clone()), Some(ancestor("b", None)));
        assert_eq!(unknown.license(), None);
        let once = provenance(Some(a.clone()), Some(a));
        assert_eq!(once.ancestors().len(), 1);
    }
}
