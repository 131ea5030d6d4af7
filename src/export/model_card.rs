//! Model card: README.md of an export, written from measurements.

use std::fmt::Write as _;

use serde_json::Value;

use super::provenance::{Ancestor, MadeBy, Provenance};
use super::verify::Verification;
use crate::formats::{Format, Loading};
use crate::license::License;
use crate::model::{DecoderConfig, ParameterSpec, parameter_specs};
use crate::progress::thousands;

/// Facts on the card; none of them is estimated.
#[derive(Debug, Clone, PartialEq)]
pub struct CardFacts {
    /// Name of the recipe, or of the converted checkpoint.
    pub name: String,
    /// Origin of the model.
    pub provenance: Provenance,
    /// Architecture of the model.
    pub config: DecoderConfig,
    /// Storage of the weights, such as `int4, groups of 32, bfloat16 scales`.
    pub storage: String,
    /// Bytes of the weights file.
    pub weights_bytes: u64,
    /// Column titles of the table of measurements; the first names the pass.
    pub columns: Vec<String>,
    /// One row per pass, as many cells as there are columns.
    pub rows: Vec<Vec<String>>,
    /// Comparison of the folder with the model that was trained.
    pub verification: Option<Verification>,
    /// True if `AutoTokenizer` of transformers 5 builds another tokenizer than that of the folder.
    pub is_rebuilt: bool,
    /// False if vLLM refuses the widths of its weights.
    pub loads_in_vllm: bool,
    /// Format of its weights, which decides the programs that load it.
    pub format: Format,
    /// Name of the file, if the format is a single file.
    pub file: String,
}

/// Text of the card: YAML front matter as the Hugging Face hub reads it, then Markdown.
pub fn model_card(facts: &CardFacts) -> String {
    let mut card = front_matter(facts);
    let _ = write!(card, "\n# {}\n\n", facts.name); // writing to a string cannot fail
    origin(&mut card, &facts.provenance);
    license(&mut card, &facts.provenance);
    sizes(&mut card, facts);
    measurements(&mut card, facts);
    if let Some(verification) = &facts.verification {
        verified(&mut card, verification);
    }
    let engines = facts.format.card();
    let loading = Loading {
        file: &facts.file,
        is_rebuilt: facts.is_rebuilt,
        loads_in_vllm: facts.loads_in_vllm,
    };
    engines.add_engines(&mut card, &loading);
    card
}

fn front_matter(facts: &CardFacts) -> String {
    let of_format = facts.format.card();
    let library = of_format.library;
    let mut text = format!("---\nlibrary_name: {library}\npipeline_tag: text-generation\n");
    let provenance = &facts.provenance;
    let quoted = |text: &str| Value::from(text); // a JSON string is a YAML string
    if let Some(base) = provenance.ancestors().first() {
        let _ = writeln!(text, "base_model: {}", quoted(&base.name));
    }
    if let Some(license) = provenance.license() {
        let License { id, name, link } = license;
        let _ = writeln!(text, "license: {}", quoted(id));
        for (key, value) in [("name", name), ("link", link)] {
            if let Some(value) = value {
                let _ = writeln!(text, "license_{key}: {}", quoted(value));
            }
        }
    }
    let datasets = provenance.datasets();
    if !datasets.is_empty() {
        text.push_str("datasets:\n");
    }
    for id in datasets {
        let _ = writeln!(text, "- {}", quoted(&id));
    }
    text.push_str("tags:\n- alambic\n");
    if provenance.teacher.is_some() {
        text.push_str("- distillation\n");
    }
    if let Some(tag) = of_format.tag {
        let _ = writeln!(text, "- {tag}");
    }
    text.push_str("---\n");
    text
}

/// Writes sentences about what made the model, and from what.
fn origin(card: &mut String, provenance: &Provenance) {
    let base = provenance.base.as_ref();
    let teacher = provenance
        .teacher
        .as_ref()
        .filter(|teacher| Some(*teacher) != base);
    let made_of = match (base, teacher) {
        (None, None) => "Made by alambic from text alone.".to_owned(),
        (None, Some(teacher)) => {
            format!("A student of {}, made by alambic.", teacher.described())
        }
        (Some(base), None) => format!("Made by alambic from {}.", base.described()),
        (Some(base), Some(teacher)) => {
            let (base, teacher) = (base.described(), teacher.described());
            format!("Made by alambic from {base}, as a student of {teacher}.")
        }
    };
    let _ = match &provenance.made_by {
        MadeBy::Recipe(_) => writeln!(card, "{made_of} `recipe.yaml` made it."),
        MadeBy::Command(command) => {
            writeln!(card, "{made_of} This made it:\n\n```sh\n{command}\n```")
        }
    };
    if provenance.texts.is_empty() {
        return;
    }
    card.push_str("\n## Data\n\n");
    for text in &provenance.texts {
        let names: Vec<String> = text.names.iter().map(|name| format!("`{name}`")).collect();
        let tokens = thousands(text.num_tokens);
        let _ = writeln!(
            card,
            "- {}: {tokens} tokens of {}",
            text.purpose,
            names.join(", ")
        );
    }
}

/// Writes whose licence applies, as far as it is known.
fn license(card: &mut String, provenance: &Provenance) {
    let ancestors = provenance.ancestors();
    if ancestors.is_empty() {
        return;
    }
    card.push_str("\n## Licence\n\n");
    let line = |ancestor: &Ancestor| match &ancestor.license {
        Some(license) => {
            let link = license.link.as_ref();
            let link = link.map(|link| format!(" ({link})")).unwrap_or_default();
            format!("- `{}`: {}{link}", ancestor.name, license.describe())
        }
        None => format!("- `{}`: unknown: check before publishing", ancestor.name),
    };
    let lines: Vec<String> = ancestors.into_iter().map(line).collect();
    let _ = writeln!(
        card,
        "Inherited from its source models:\n\n{}",
        lines.join("\n")
    );
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

/// A cell whose text cannot end the cell or the row.
fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
#[path = "model_card_tests.rs"]
mod tests;
