//! Changes of a tokenizer before a model learns: more special tokens, another end of a turn, another chat template.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Tokenizer, TokenizerError};
use crate::gguf::tokenizer::added_token;

/// Changes of a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TokenizerChange {
    /// Special tokens that it gets unless it has them.
    pub add_tokens: Vec<String>,
    /// Token that ends a turn.
    pub eos_token: Option<String>,
    /// Chat template that replaces all others.
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// Changes the tokenizer. New tokens get the ids behind the last one, in their order; a token that exists keeps its id and
    /// becomes a special one, as with `add_special_tokens` of transformers.
    ///
    /// The template is kept in `tokenizer_config.json`, where all versions of transformers read it.
    pub fn changed(self, change: &TokenizerChange) -> Result<Self, TokenizerError> {
        if *change == TokenizerChange::default() {
            return Ok(self);
        }
        let path = Path::new("the tokenizer with `add_tokens`");
        let [(_, bytes), (_, config)] = self.files();
        let bytes = if change.add_tokens.is_empty() {
            bytes.to_vec()
        } else {
            let parsed = serde_json::from_slice(bytes);
            let mut json: Value = parsed.map_err(|error| TokenizerError::NotATokenizer {
                path: path.to_path_buf(),
                reason: error.to_string(),
            })?;
            self.add(&change.add_tokens, &mut json);
            json.to_string().into_bytes()
        };
        let config = serde_json::from_slice(config).map_err(|error| TokenizerError::Config {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
        let config = with_names(config, change);
        let mut changed = Self::from_bytes(bytes, Some(config), path)?;
        if change.chat_template.is_none() {
            changed.set_templates(self.templates().clone());
        }
        changed.num_without_row = self.num_without_row;
        changed.num_new = changed.vocab_size() - self.vocab_size();
        match &change.eos_token {
            Some(token) if changed.id(token).is_none() => Err(TokenizerError::NoSuchToken {
                token: token.clone(),
            }),
            _ => Ok(changed),
        }
    }

    /// Number of tokens that [`Tokenizer::changed`] has added; they are the last ones.
    pub fn num_new(&self) -> usize {
        self.num_new
    }

    /// Adds special tokens to the contents of `tokenizer.json`.
    fn add(&self, tokens: &[String], json: &mut Value) {
        let Some(json) = json.as_object_mut() else {
            return; // it has been read, so it is one
        };
        let added = json.entry("added_tokens").or_insert_with(|| json!([]));
        if !added.is_array() {
            *added = json!([]); // null
        }
        let Some(added) = added.as_array_mut() else {
            return;
        };
        let mut next = self.vocab_size();
        for token in tokens {
            let listed = added.iter_mut().find(|entry| entry["content"] == **token);
            if let Some(listed) = listed {
                listed["special"] = json!(true);
                continue;
            }
            let id = self.id(token).map_or(next, |id| id as usize);
            next += usize::from(id == next);
            added.push(added_token(id, token, true));
        }
    }
}

/// Contents of `tokenizer_config.json` with the names of a change.
fn with_names(mut config: Map<String, Value>, change: &TokenizerChange) -> Vec<u8> {
    if let Some(token) = &change.eos_token {
        config.insert("eos_token".to_owned(), json!(token));
    }
    if let Some(template) = &change.chat_template {
        config.insert("chat_template".to_owned(), json!(template));
    }
    // Versions of transformers before 5 read added tokens from here, too, and give these precedence.
    if let Some(decoder) = config
        .get_mut("added_tokens_decoder")
        .and_then(Value::as_object_mut)
    {
        for entry in decoder.values_mut() {
            let is_added = change
                .add_tokens
                .iter()
                .any(|token| entry["content"] == **token);
            if is_added {
                entry["special"] = json!(true);
            }
        }
    }
    format!("{:#}\n", Value::Object(config)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Tokenizer {
        Tokenizer::train(["a cat and a hat and a bat".into()].into_iter(), 260).unwrap()
    }

    fn change(add_tokens: &[&str]) -> TokenizerChange {
        TokenizerChange {
            add_tokens: add_tokens.iter().map(|&token| token.to_owned()).collect(),
            ..TokenizerChange::default()
        }
    }

    #[test]
    fn new_tokens_get_the_ids_behind_the_last_and_are_found_in_text() {
        let before = words();
        let size = before.vocab_size();
        let after = before
            .clone()
            .changed(&change(&["<|user|>", "<|end|>"]))
            .unwrap();
        assert_eq!(after.vocab_size(), size + 2);
        let [user, end] = ["<|user|>", "<|end|>"].map(|token| after.id(token).unwrap());
        assert_eq!([user as usize, end as usize], [size, size + 1]);
        let ids = after.encode("<|user|>a cat<|end|>").unwrap();
        assert_eq!((ids.first(), ids.last()), (Some(&user), Some(&end)));
        assert!(after.is_special(end));
        assert_eq!(after.decode(&ids).unwrap(), "a cat");
        assert_eq!(ids[1..ids.len() - 1], before.encode("a cat").unwrap());
    }

    #[test]
    fn a_token_that_exists_keeps_its_id_and_becomes_special() {
        let before = words();
        let id = before
            .id("Ġand")
            .unwrap_or_else(|| before.encode(" and").unwrap()[0]);
        let token = before.token(id).unwrap();
        let after = before
            .clone()
            .changed(&change(&[&token, "<|endoftext|>", "<|new|>"]))
            .unwrap();
        assert_eq!(after.vocab_size(), before.vocab_size() + 1);
        assert_eq!(after.id(&token), Some(id));
        assert!(after.is_special(id));
        assert_eq!(after.id("<|endoftext|>"), before.id("<|endoftext|>"));
        assert_eq!(after.id("<|new|>"), u32::try_from(before.vocab_size()).ok());
    }

    #[test]
    fn an_end_of_turn_and_a_template_are_those_of_the_files() {
        let template = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}";
        let change = TokenizerChange {
            eos_token: Some("<|end|>".to_owned()),
            chat_template: Some(template.to_owned()),
            ..change(&["<|end|>"])
        };
        let after = words().changed(&change).unwrap();
        assert_eq!(
            after.templates(),
            &vec![("default".to_owned(), template.to_owned())]
        );
        assert_eq!(after.ends(&[]), [after.id("<|end|>").unwrap()]);
        assert_eq!(
            after.end_of_text(),
            words().end_of_text(),
            "documents are separated as before"
        );
        let dir = tempfile::tempdir().unwrap();
        after.save(dir.path()).unwrap();
        let read = Tokenizer::open(&dir.path().join("tokenizer.json")).unwrap();
        assert_eq!(read.files(), after.files());
        assert_eq!(read.templates(), after.templates());
        let again = after.clone().changed(&change).unwrap();
        assert_eq!(again.vocab_size(), after.vocab_size());
    }

    #[test]
    fn an_end_of_turn_that_is_no_token_is_refused() {
        let change = TokenizerChange {
            eos_token: Some("<|end|>".to_owned()),
            ..TokenizerChange::default()
        };
        let error = words().changed(&change).unwrap_err();
        assert!(error.to_string().contains("`<|end|>`"), "{error}");
    }
}
