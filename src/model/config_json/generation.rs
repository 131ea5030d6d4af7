//! `generation_config.json`: end-of-text ids besides the ones in `config.json`, and default settings of sampling.

use serde_json::{Map, Value, json};

use super::fields::{eos_token_ids, token_id};
use super::multimodal::text_part;
use super::{ConfigError, DecoderConfig};

/// Keys that name the writer of a file and say nothing about the model.
const OF_THE_WRITER: [&str; 2] = ["transformers_version", "_from_model_config"];

impl DecoderConfig {
    /// The config with the special ids of both files: ids that `config.json` (`json`) names come first; an id that
    /// neither file names is the default of the class.
    ///
    /// # Errors
    ///
    /// If `generation_config.json` (`generation`) holds an id that is not one.
    pub fn with_generation(
        self,
        json: &Value,
        generation: &Map<String, Value>,
    ) -> Result<Self, ConfigError> {
        let json = text_part(json)?;
        let generation = Value::from(generation.clone());
        let mut ends = match json.get("eos_token_id") {
            Some(_) => self.eos_token_ids.clone(),
            None => Vec::new(),
        };
        for end in eos_token_ids(&generation, None)? {
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        let either = |key, of_config: Option<u32>| {
            let found = token_id(&generation, key, None)?;
            let stated = of_config.filter(|_| json.get(key).is_some());
            Ok::<_, ConfigError>(stated.or(found).or(of_config))
        };
        Ok(Self {
            bos_token_id: either("bos_token_id", self.bos_token_id)?,
            pad_token_id: either("pad_token_id", self.pad_token_id)?,
            eos_token_ids: if ends.is_empty() {
                self.eos_token_ids.clone()
            } else {
                ends
            },
            ..self
        })
    }

    /// `generation_config.json`: the ids at which engines stop, and the settings carried over from another file.
    pub fn generation_json(&self, carried: &Map<String, Value>) -> Value {
        let mut json = carried.clone();
        for key in OF_THE_WRITER {
            json.shift_remove(key);
        }
        for (key, id) in [
            ("bos_token_id", self.bos_token_id),
            ("pad_token_id", self.pad_token_id),
        ] {
            if json.get(key).is_none_or(Value::is_null) {
                json.insert(key.to_owned(), json!(id));
            }
        }
        json.insert("eos_token_id".to_owned(), self.eos_to_json());
        Value::Object(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ids: &Value) -> Value {
        let mut json = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 320,
        });
        for (key, id) in ids.as_object().unwrap() {
            json[key] = id.clone();
        }
        json
    }

    fn ids(of_config: &Value, generation: &Value) -> (Option<u32>, Vec<u32>, Option<u32>) {
        let json = config(of_config);
        let read = DecoderConfig::from_json(&json).unwrap();
        let both = read.with_generation(&json, generation.as_object().unwrap());
        let both = both.unwrap();
        (both.bos_token_id, both.eos_token_ids, both.pad_token_id)
    }

    #[test]
    fn ids_are_those_of_both_files_and_the_config_goes_first() {
        for (of_config, generation, want) in [
            (json!({}), json!({}), (Some(1), vec![2], None)), // the defaults of the class
            (
                json!({}),
                json!({ "eos_token_id": [7, 2], "pad_token_id": 0 }),
                (Some(1), vec![7, 2], Some(0)),
            ),
            (
                json!({ "eos_token_id": 0 }),
                json!({ "eos_token_id": [2, 0] }),
                (Some(1), vec![0, 2], None),
            ),
            (
                json!({ "eos_token_id": [3, 4] }),
                json!({ "eos_token_id": 5 }),
                (Some(1), vec![3, 4, 5], None),
            ),
            (
                json!({ "eos_token_id": null }),
                json!({ "eos_token_id": 5 }),
                (Some(1), vec![5], None),
            ),
            (
                json!({ "eos_token_id": null }),
                json!({ "eos_token_id": -1 }),
                (Some(1), vec![], None),
            ),
            (
                json!({ "bos_token_id": 8, "pad_token_id": null }),
                json!({ "bos_token_id": 9, "pad_token_id": 9 }),
                (Some(8), vec![2], Some(9)),
            ),
        ] {
            assert_eq!(
                ids(&of_config, &generation),
                want,
                "{of_config} {generation}"
            );
        }
    }

    #[test]
    fn what_another_file_says_is_carried_over_but_for_its_writer_and_the_ends() {
        let json = config(&json!({ "eos_token_id": [0, 2] }));
        let config = DecoderConfig::from_json(&json).unwrap();
        let carried = json!({
            "transformers_version": "5.23.0", "_from_model_config": true, "temperature": 0.6, "eos_token_id": 2,
            "bos_token_id": 5, "pad_token_id": null,
        });
        let got = config.generation_json(carried.as_object().unwrap());
        let want = json!({ "temperature": 0.6, "eos_token_id": [0, 2], "bos_token_id": 5, "pad_token_id": null });
        assert_eq!(got, want);
    }
}
