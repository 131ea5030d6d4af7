//! The cache of another recipe that has all that one asks for: of the same text, of which another part is learnt.
//!
//! What is learnt decides which positions of the rows count, and so the keys of rows and cache. But a cache serves whoever asks
//! for some of its positions.

use serde_json::json;

use super::parts::{data_parts, without_limits};
use super::{CapturedFor, Inputs, Model, Stage, Stages};
use crate::cache::Fingerprint;
use crate::chat::Learn;
use crate::data::DataPlan;
use crate::plan::Plan;

/// Parts of conversations that recipes learn; without one, the kind of the conversation decides.
const LEARNT: [Option<Learn>; 5] = [
    Some(Learn::All),
    Some(Learn::Assistant),
    Some(Learn::Completion),
    Some(Learn::LastTurn),
    None,
];

/// The cache stage of a plan; `None` if it has no teacher.
pub(super) fn cache_stage(plan: &Plan, inputs: &Inputs) -> Option<Stage> {
    let cache = plan.cache.as_ref()?;
    let parts = json!({
        "text": without_limits(data_parts(plan, inputs), plan),
        "teacher_hash": inputs.teacher.as_ref().map(Model::hash),
        "plan": cache, "teacher": plan.teacher, "format": Fingerprint::VERSION,
    });
    Some(Stage::new(&plan.output, "cache".to_owned(), &parts))
}

/// Cache stages of the same plan that learn another part of the text.
pub(super) fn other_cache_stages(plan: &Plan, inputs: &Inputs) -> Vec<Stage> {
    let others = LEARNT.into_iter().filter(|learn| *learn != plan.data.learn);
    let stage = |learn| {
        let data = DataPlan {
            learn,
            ..plan.data.clone()
        };
        let plan = Plan {
            data,
            ..plan.clone()
        };
        cache_stage(&plan, inputs)
    };
    others.filter_map(stage).collect()
}

/// True if the artifact of a cache records one of these keys of data.
pub(super) fn is_captured_for(stage: &Stage, data_keys: &[String]) -> bool {
    let artifact = stage.artifact::<CapturedFor>();
    artifact.ok().flatten().is_some_and(|artifact| {
        let captured = &artifact.result.data_keys;
        data_keys.iter().any(|key| captured.contains(key))
    })
}

impl Stages {
    /// Folders of caches of the same text, of which other recipes learn another part; none if this recipe's cache is one of
    /// them already.
    pub fn other_caches(&self) -> &[Stage] {
        let is_shared = self.cache.as_ref().is_some_and(Stage::is_shared);
        if is_shared { &[] } else { &self.other_caches }
    }

    /// Uses one of the [others](Self::other_caches) as this recipe's cache. Stages after it keep their keys.
    pub fn share_cache(&mut self, other: &Stage) {
        let cache = self.cache.take();
        self.cache = cache.map(|cache| cache.in_folder_of(other));
    }

    /// A sentence about the cache if it is that of another recipe.
    pub(super) fn shared(&self) -> Option<String> {
        let cache = self.cache.as_ref().filter(|cache| cache.is_shared())?;
        let dir = cache.dir.display();
        Some(format!(
            "cache is `{dir}`, captured of the same text with another `data.learn`: it has all positions that are learnt here"
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::recipe::Word;

    #[test]
    fn caches_are_looked_for_under_every_word_of_learn_and_under_none() {
        let words = Learn::WORDS
            .iter()
            .map(|spelling| Some(json!(spelling.word)));
        let all: Vec<Option<Value>> = words.chain([None]).collect();
        let listed = LEARNT.map(|learn| learn.map(|learn| json!(learn)));
        assert_eq!(listed.len(), all.len());
        assert!(all.iter().all(|word| listed.contains(word)), "{all:?}");
    }
}
