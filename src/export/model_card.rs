//! The model card: README.md of an export, written from what was measured.

use std::fmt::Write as _;

use serde_json::Value;

use super::containers::Container;
use super::verify::Verification;
use crate::model::{DecoderConfig, ParameterSpec, parameter_specs};
use crate::progress::thousands;

/// What the card says; nothing in it is estimated.
#[derive(Debug, Clone, PartialEq)]
pub struct CardFacts {
    /// Name of the recipe.
    pub name: String,
    /// Name of the teacher, if there was one.
    pub teacher: Option<String>,
    /// Architecture of the model.
    pub config: DecoderConfig,
    /// How weights are stored, such as `int4, groups of 32, bfloat16 scales`.
    pub storage: String,
    /// Bytes of the weights file.
    pub weights_bytes: u64,
    /// Column titles of the table of measurements; the first names the pass.
    pub columns: Vec<String>,
    /// One row per pass, as many cells as there are columns.
    pub rows: Vec<Vec<String>>,
    /// How the folder differs from the model that was trained.
    pub verification: Option<Verification>,
    /// What loads it.
    pub engine: Engine,
}

/// What loads an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// transformers and vLLM.
    Transformers,
    /// These, of which transformers needs a package more.
    CompressedTensors,
    /// That of another container.
    Of(Container),
    /// llama.cpp.
    LlamaCpp {
        /// Name of the one file.
        file: String,
    },
}

/// Text of the card: YAML front matter as the Hugging Face hub reads it, then Markdown.
pub fn model_card(facts: &CardFacts) -> String {
    let mut card = front_matter(facts);
    let _ = write!(card, "\n# {}\n\n", facts.name); // writing to a string cannot fail
    match &facts.teacher {
        Some(teacher) => {
            let _ = writeln!(
                card,
                "A student of `{teacher}`, made by alambic. `recipe.yaml` made it."
            );
        }
        None => card.push_str("Made by alambic from text alone. `recipe.yaml` made it.\n"),
    }
    sizes(&mut card, facts);
    measurements(&mut card, facts);
    if let Some(verification) = &facts.verification {
        verified(&mut card, verification);
    }
    loading(&mut card, &facts.engine);
    card
}

fn front_matter(facts: &CardFacts) -> String {
    let library = match facts.engine {
        Engine::Transformers
        | Engine::CompressedTensors
        | Engine::Of(Container::Gptq | Container::Awq) => "transformers",
        Engine::Of(Container::Mlx) => "mlx",
        Engine::LlamaCpp { .. } => "llama.cpp",
    };
    let mut text = format!("---\nlibrary_name: {library}\npipeline_tag: text-generation\n");
    if let Some(teacher) = &facts.teacher {
        let quoted = Value::from(teacher.as_str()); // a JSON string is a YAML string
        let _ = writeln!(text, "base_model: {quoted}");
    }
    text.push_str("tags:\n- alambic\n- distillation\n");
    match facts.engine {
        Engine::Transformers => {}
        Engine::CompressedTensors => text.push_str("- compressed-tensors\n"),
        Engine::Of(container) => {
            let _ = writeln!(text, "- {}", container.name());
        }
        Engine::LlamaCpp { .. } => text.push_str("- gguf\n"),
    }
    text.push_str("---\n");
    text
}

fn sizes(card: &mut String, facts: &CardFacts) {
    let config = &facts.config;
    let num_parameters: usize = parameter_specs(config)
        .iter()
        .map(ParameterSpec::num_elements)
        .sum();
    let tied = if config.tie_word_embeddings {
        "tied"
    } else {
        "untied"
    };
    card.push_str("\n## Size\n\n");
    table(
        card,
        &["what".to_owned(), "value".to_owned()],
        &[
            ("parameters", thousands(num_parameters as u64)),
            ("architecture", config.architecture.class_name().to_owned()),
            ("layers", config.num_hidden_layers.to_string()),
            ("hidden size", config.hidden_size.to_string()),
            (
                "attention heads / key-value heads",
                format!(
                    "{} / {}",
                    config.num_attention_heads, config.num_key_value_heads
                ),
            ),
            (
                "vocabulary",
                format!("{}, {tied} output", thousands(config.vocab_size as u64)),
            ),
            (
                "longest context",
                thousands(config.max_position_embeddings as u64),
            ),
            ("storage", facts.storage.clone()),
            (
                "weights file",
                format!("{} bytes", thousands(facts.weights_bytes)),
            ),
        ]
        .map(|(what, value)| vec![what.to_owned(), value]),
    );
}

fn measurements(card: &mut String, facts: &CardFacts) {
    if facts.rows.is_empty() {
        return;
    }
    card.push_str("\n## Measured on the validation text, after each pass\n\n");
    table(card, &facts.columns, &facts.rows);
}

fn verified(card: &mut String, found: &Verification) {
    let _ = write!(
        card,
        "\n## Verified\n\nThis folder was read back and compared with the model in memory on {} positions: {found}.\n",
        thousands(found.positions),
    );
}

fn loading(card: &mut String, engine: &Engine) {
    let packages = match engine {
        Engine::Transformers => "transformers torch",
        Engine::CompressedTensors => "transformers torch compressed-tensors",
        Engine::Of(Container::Gptq | Container::Awq) => "transformers torch gptqmodel",
        Engine::Of(Container::Mlx) => {
            card.push_str(
                "\n## Use\n\n\
                 With MLX (`pip install mlx-lm`):\n\n\
                 ```sh\n\
                 mlx_lm.generate --model . --prompt \"It was\" --max-tokens 40\n\
                 ```\n",
            );
            return;
        }
        Engine::LlamaCpp { file } => {
            let _ = write!(
                card,
                "\n## Use\n\n\
                 With llama.cpp:\n\n\
                 ```sh\n\
                 llama-cli -m {file} -p \"It was\" -n 40 -no-cnv\n\
                 ```\n"
            );
            return;
        }
    };
    let _ = write!(
        card,
        "\n## Use\n\n\
         With transformers (`pip install {packages}`):\n\n\
         ```python\n\
         from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         tokenizer = AutoTokenizer.from_pretrained(\".\")\n\
         model = AutoModelForCausalLM.from_pretrained(\".\")\n\
         inputs = tokenizer(\"It was\", return_tensors=\"pt\")\n\
         print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))\n\
         ```\n\n\
         With vLLM:\n\n\
         ```sh\n\
         vllm serve .\n\
         ```\n"
    );
}

fn table(card: &mut String, columns: &[String], rows: &[Vec<String>]) {
    let rule = vec!["---".to_owned(); columns.len()];
    for cells in [columns, &rule]
        .into_iter()
        .chain(rows.iter().map(Vec::as_slice))
    {
        let cells: Vec<_> = cells.iter().map(|cell| escaped(cell)).collect();
        let _ = writeln!(card, "| {} |", cells.join(" | "));
    }
}

/// A cell that cannot end itself or its row.
fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::super::verify::Budget;
    use super::*;
    use crate::model::{Architecture, LayerType, Rope, RopeScaling};

    fn facts() -> CardFacts {
        CardFacts {
            name: "quickstart".to_owned(),
            teacher: Some("austen-teacher".to_owned()),
            config: DecoderConfig {
                architecture: Architecture::Llama,
                vocab_size: 4096,
                hidden_size: 128,
                intermediate_size: 352,
                num_hidden_layers: 4,
                num_attention_heads: 4,
                num_key_value_heads: 2,
                head_dim: 32,
                rms_norm_eps: 1e-5,
                query_pre_attn_scalar: 32,
                attn_logit_softcapping: None,
                final_logit_softcapping: None,
                sliding_window: None,
                layer_types: vec![LayerType::Full; 4],
                local_rope: None,
                rope: Rope {
                    theta: 10_000.0,
                    scaling: RopeScaling::Default,
                },
                max_position_embeddings: 256,
                tie_word_embeddings: true,
                bos_token_id: None,
                eos_token_ids: vec![0],
                pad_token_id: None,
            },
            storage: "int4, groups of 32".to_owned(),
            weights_bytes: 1_483_000,
            columns: vec!["pass".to_owned(), "loss".to_owned()],
            rows: vec![
                vec!["00-distill".to_owned(), "4.21".to_owned()],
                vec!["01-a|b".to_owned(), "4.30".to_owned()],
            ],
            verification: Some(Verification {
                format: "compressed-tensors".to_owned(),
                size_bytes: 1_483_000,
                positions: 12_345,
                max_logit_difference: 0.000_031,
                kl_nats: 1.5e-9,
                top1_agreement: 0.9995,
                budget: Budget::LogitDifference(1e-3),
            }),
            engine: Engine::CompressedTensors,
        }
    }

    #[test]
    fn the_card_says_what_was_measured() {
        let card = model_card(&facts());
        // By hand: 4096 * 128 + 4 * (2 * 128 + 128 * (128 + 64 + 64 + 128) + 3 * 128 * 352) + 128.
        assert!(card.contains("| parameters | 1,262,720 |"), "{card}");
        assert!(
            card.contains("| vocabulary | 4,096, tied output |"),
            "{card}"
        );
        assert!(
            card.contains("| weights file | 1,483,000 bytes |"),
            "{card}"
        );
        assert!(
            card.contains(
                "| pass | loss |\n| --- | --- |\n| 00-distill | 4.21 |\n| 01-a\\|b | 4.30 |\n"
            ),
            "{card}"
        );
        assert!(
            card.contains("on 12,345 positions: largest logit difference 3.1e-5 (at most 1e-3), KL 1.5e-9 nats, top-1 agreement 99.95 %."),
            "{card}"
        );
        assert!(
            card.contains("pip install transformers torch compressed-tensors"),
            "{card}"
        );
    }

    #[test]
    fn the_front_matter_comes_first_and_quotes_the_teacher() {
        let mut facts = facts();
        facts.teacher = Some("a: \"b\"\nc".to_owned());
        let card = model_card(&facts);
        assert!(
            card.starts_with(
                "---\nlibrary_name: transformers\npipeline_tag: text-generation\n\
                 base_model: \"a: \\\"b\\\"\\nc\"\ntags:\n- alambic\n- distillation\n- compressed-tensors\n---\n"
            ),
            "{card}"
        );
    }

    #[test]
    fn each_container_says_what_loads_it() {
        for (container, told) in [
            (
                Container::Gptq,
                [
                    "library_name: transformers",
                    "- gptq\n",
                    "gptqmodel",
                    "vllm serve .",
                ],
            ),
            (
                Container::Awq,
                [
                    "library_name: transformers",
                    "- awq\n",
                    "gptqmodel",
                    "vllm serve .",
                ],
            ),
            (
                Container::Mlx,
                [
                    "library_name: mlx",
                    "- mlx\n",
                    "mlx_lm.generate --model .",
                    "",
                ],
            ),
        ] {
            let card = model_card(&CardFacts {
                engine: Engine::Of(container),
                ..facts()
            });
            for told in told {
                assert!(card.contains(told), "{told}: {card}");
            }
            assert_eq!(card.contains("vllm"), container != Container::Mlx);
        }
    }

    #[test]
    fn what_was_not_measured_is_not_mentioned() {
        let mut facts = facts();
        facts.teacher = None;
        facts.rows.clear();
        facts.verification = None;
        facts.engine = Engine::Transformers;
        let card = model_card(&facts);
        for absent in ["base_model", "Measured", "Verified", "compressed-tensors"] {
            assert!(!card.contains(absent), "{absent}: {card}");
        }
    }
}
