//! Choice among the files of a repository: those that alambic reads, and no other.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::error::HubError;
use super::id::{RepoKind, is_inside};

const SINGLE: &str = "model.safetensors";
/// List of the files of weights that are in several.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Tokenizer that is read.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Endings of files beside the weights: configuration, tokenizer, chat templates, model card.
const BESIDE: [&str; 5] = [".jinja", ".json", ".md", ".model", ".txt"];

/// Starts of names of licences.
const LICENSES: [&str; 2] = ["LICENSE", "LICENCE"];

/// Folder of chat templates that have names.
const TEMPLATES: &str = "additional_chat_templates/";

const TEMPLATE: &str = ".jinja";
const GGUF: &str = ".gguf";

/// Words in names of GGUF files that are no language models.
const NO_MODELS: [&str; 2] = ["mmproj", "imatrix"];

/// Most names that a message lists.
const MAX_LISTED: usize = 12;

/// Files of a model beside its weights, and the list of the weights.
pub(super) fn beside_weights(names: &[String]) -> Vec<String> {
    let is_beside = |name: &&String| {
        let is_text = BESIDE.iter().any(|ending| name.ends_with(ending));
        let is_license = LICENSES.iter().any(|start| name.starts_with(start));
        let is_other_index = name.ends_with(".index.json") && *name != INDEX; // of weights in other formats
        match name.strip_prefix(TEMPLATES) {
            Some(inside) => !inside.contains('/') && inside.ends_with(TEMPLATE),
            None => {
                !name.contains('/')
                    && !name.starts_with('.')
                    && (is_text || is_license)
                    && !is_other_index
            }
        }
    };
    names.iter().filter(is_beside).cloned().collect()
}

/// Files of weights: `model.safetensors`; or those that the index names, given its text; or numbered ones.
pub(super) fn weights(
    repo: &str,
    names: &[String],
    index: Option<&[u8]>,
) -> Result<Vec<String>, HubError> {
    if names.iter().any(|name| name == SINGLE) {
        return Ok(vec![SINGLE.to_owned()]);
    }
    if let Some(index) = index {
        return of_index(index).map_err(|why| HubError::Listing {
            repo: repo.to_owned(),
            why: format!("its `{INDEX}` {why}"),
        });
    }
    let is_numbered = |name: &&String| {
        name.starts_with("model-")
            && name.contains("-of-")
            && name.ends_with(".safetensors")
            && !name.contains('/')
    };
    let numbered: Vec<String> = names.iter().filter(is_numbered).cloned().collect();
    if numbered.is_empty() {
        return Err(no_weights(repo, names));
    }
    Ok(numbered)
}

fn of_index(text: &[u8]) -> Result<Vec<String>, &'static str> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: serde_json::Map<String, Value>,
    }
    let index: Index = serde_json::from_slice(text).map_err(|_| "is not one")?;
    let files = index.weight_map.values().map(|file| {
        let name = file
            .as_str()
            .filter(|name| is_inside(name) && !name.contains('/'));
        name.map(str::to_owned)
            .ok_or("names files that are not beside it")
    });
    let files: BTreeSet<String> = files.collect::<Result<_, _>>()?;
    if files.is_empty() {
        return Err("names no files");
    }
    Ok(files.into_iter().collect())
}

/// Refusal of a repository without weights that alambic reads.
fn no_weights(repo: &str, names: &[String]) -> HubError {
    let has = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let (fact, help) = if names.iter().any(|name| is_gguf_model(name)) {
        let one = names
            .iter()
            .find(|name| is_gguf_model(name))
            .map_or("", String::as_str);
        (
            format!(
                "has its weights in GGUF files: {}",
                listed(names.iter().filter(|name| is_gguf_model(name)))
            ),
            format!("name one of them: `{repo}:{one}`, or its quantisation, as in `{repo}:Q4_K_M`"),
        )
    } else if has("adapter_config.json") {
        (
            "holds an adapter, and no model of its own".to_owned(),
            "merge it into its base model first, for example with `merge_and_unload` of peft"
                .to_owned(),
        )
    } else if has(".bin") || has(".pt") || has(".pth") {
        (
            "has its weights as Python pickles only, which can run code".to_owned(),
            "load it with transformers and `save_pretrained`, which writes safetensors".to_owned(),
        )
    } else {
        (
            format!("has neither `{SINGLE}` nor `{INDEX}`"),
            "check that this is the repository of a language model".to_owned(),
        )
    };
    HubError::Choice {
        repo: repo.to_owned(),
        fact,
        help,
    }
}

/// The GGUF file that is meant by a path in the repository, or by a word such as `Q4_K_M`, in any case of letters.
pub(super) fn gguf(repo: &str, names: &[String], wanted: &str) -> Result<String, HubError> {
    let refused = |fact: String, help: String| HubError::Choice {
        repo: repo.to_owned(),
        fact,
        help,
    };
    if let Some(exact) = names.iter().find(|name| *name == wanted) {
        return Ok(exact.clone());
    }
    let models: Vec<&String> = names.iter().filter(|name| is_gguf_model(name)).collect();
    let found: Vec<&String> = models
        .iter()
        .copied()
        .filter(|name| has_word(name, wanted))
        .collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] if models.is_empty() => Err(refused("has no GGUF file".to_owned(), format!("take `:{wanted}` out"))),
        [] => Err(refused(
            format!("has no GGUF file `{wanted}`; it has {}", listed(models.iter().copied())),
            "name one of these, or the word for its quantisation".to_owned(),
        )),
        [first, ..] if found.iter().all(|name| name.contains("-of-")) => Err(refused(
            format!("has `{wanted}` in {} parts, the first of them `{first}`; alambic reads GGUF files of one part", found.len()),
            "merge them with `llama-gguf-split --merge`, and name the file, or take another quantisation".to_owned(),
        )),
        several => Err(refused(
            format!("has several GGUF files for `{wanted}`: {}", listed(several.iter().copied())),
            format!("name one of them whole: `{repo}:{}`", several.first().map_or("", |name| name.as_str())),
        )),
    }
}

fn is_gguf_model(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(GGUF) && !NO_MODELS.iter().any(|word| lower.contains(word))
}

/// Tells whether a name has a word between its `-`, `.` and `/`: `Q4_K` is none of `x-Q4_K_M.gguf`.
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_ascii_uppercase(), word.to_ascii_uppercase());
    let name = name.rsplit('/').next().unwrap_or_default();
    let is_mark = |letter: char| letter == '-' || letter == '.';
    name.match_indices(&word).any(|(start, _)| {
        let before = name.get(..start).unwrap_or_default();
        let after = name.get(start + word.len()..).unwrap_or_default();
        (before.is_empty() || before.ends_with(is_mark)) && after.starts_with(is_mark)
    })
}

/// File that lists the configurations of a dataset.
pub(super) const README: &str = "README.md";

/// Refusal of a model without a tokenizer that alambic reads.
pub(super) fn no_tokenizer(repo: &str) -> HubError {
    HubError::Choice {
        repo: repo.to_owned(),
        fact: format!("has no `{TOKENIZER}`"),
        help: "name a model that has one: load the tokenizer with `AutoTokenizer` of transformers, and `save_pretrained` writes it"
            .to_owned(),
    }
}

/// Refusal of a repository without rows that alambic reads.
pub(super) fn no_rows(repo: &str) -> HubError {
    HubError::Choice {
        repo: repo.to_owned(),
        fact: format!(
            "has no files that a {} is read from",
            RepoKind::Dataset.word()
        ),
        help: format!(
            "take the revision that the hub has converted: `{repo}@refs/convert/parquet`"
        ),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&String> = names.collect();
    let shown = names
        .iter()
        .take(MAX_LISTED)
        .map(|name| format!("`{name}`"));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > MAX_LISTED {
        text = format!("{text} and {} more", names.len() - MAX_LISTED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn of_a_model_all_that_is_read_is_taken_and_nothing_else() {
        let all = names(&[
            ".gitattributes",
            "LICENSE",
            "README.md",
            "additional_chat_templates/rag.jinja",
            "chat_template.jinja",
            "config.json",
            "consolidated.safetensors",
            "flax_model.msgpack",
            "generation_config.json",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
            "onnx/config.json",
            "onnx/model.onnx",
            "original/params.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tokenizer.json",
            "tokenizer.model",
        ]);
        assert_eq!(
            beside_weights(&all),
            [
                "LICENSE",
                "README.md",
                "additional_chat_templates/rag.jinja",
                "chat_template.jinja",
                "config.json",
                "generation_config.json",
                "merges.txt",
                INDEX,
                "tokenizer.json",
                "tokenizer.model"
            ]
        );
        let index = br#"{"weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;
        let both = names(&[
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ]);
        assert_eq!(weights("a/b", &all, Some(index)).unwrap(), both);
        assert_eq!(weights("a/b", &all, None).unwrap(), both);
        assert_eq!(
            weights("a/b", &names(&[SINGLE, INDEX]), Some(index)).unwrap(),
            [SINGLE]
        );
        for (index, why) in [
            (r#"{"weight_map": {"a": "../x"}}"#, "beside it"),
            (r#"{"weight_map": {}}"#, "no files"),
            ("[]", "not one"),
        ] {
            let told = weights("a/b", &all, Some(index.as_bytes()))
                .unwrap_err()
                .to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn a_repository_without_weights_says_what_it_has_instead() {
        for (files, fact, help) in [
            (
                vec!["x-Q4_K_M.gguf", "config.json"],
                "`x-Q4_K_M.gguf`",
                "`a/b:x-Q4_K_M.gguf`",
            ),
            (
                vec!["adapter_config.json", "adapter_model.safetensors"],
                "adapter",
                "merge",
            ),
            (
                vec!["config.json", "pytorch_model.bin"],
                "pickles",
                "save_pretrained",
            ),
            (
                vec!["README.md"],
                "neither `model.safetensors`",
                "language model",
            ),
        ] {
            let error = weights("a/b", &names(&files), None).unwrap_err();
            assert!(error.to_string().contains(fact), "{error}");
            assert!(error.help().unwrap().contains(help), "{error:?}");
        }
    }

    #[test]
    fn a_gguf_file_is_named_whole_or_by_its_quantisation() {
        let all = names(&[
            "BF16/m-BF16-00001-of-00002.gguf",
            "BF16/m-BF16-00002-of-00002.gguf",
            "m-IQ4_K_M.gguf",
            "m-Q4_K_M.gguf",
            "m-UD-Q8_0.gguf",
            "m-Q8_0.gguf",
            "mmproj-F16.gguf",
            "sub/m.q2_k.gguf",
        ]);
        for (wanted, file) in [
            ("Q4_K_M", "m-Q4_K_M.gguf"),
            ("q4_k_m", "m-Q4_K_M.gguf"),
            ("UD-Q8_0", "m-UD-Q8_0.gguf"),
            ("m-Q8_0.gguf", "m-Q8_0.gguf"),
            ("Q2_K", "sub/m.q2_k.gguf"),
            ("mmproj-F16.gguf", "mmproj-F16.gguf"),
        ] {
            assert_eq!(gguf("a/b", &all, wanted).unwrap(), file, "{wanted}");
        }
        for (wanted, fact) in [
            ("Q4_K", "no GGUF file `Q4_K`"),
            ("F16", "no GGUF file `F16`"),
            ("Q8_0", "several"),
            ("BF16", "2 parts"),
        ] {
            let told = gguf("a/b", &all, wanted).unwrap_err().to_string();
            assert!(told.contains(fact), "{wanted}: {told}");
        }
        assert!(gguf("a/b", &names(&["config.json"]), "Q4_0").is_err());
    }
}
