//! Parts and weights that passes removed, the cost, and the recovery by training.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::table::markdown_line;
use crate::passes::Removed;
use crate::progress::{decimals, percent};
use crate::pruning::PrunedMatrix;

/// Weights or parts that a pass removed from the student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Removal {
    /// Name of the pass.
    pub pass: String,
    /// Loss on the validation text before the pass, in nats.
    pub loss_before_nats: Option<f64>,
    /// Loss after the pass.
    pub loss_after_nats: f64,
    /// Loss after the training that follows, if any does.
    pub recovery: Option<Recovery>,
    /// Removed weights or parts.
    pub removed: Removed,
}

/// Training of a student after a pass that removed something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Name of the pass.
    pub pass: String,
    /// Loss on the validation text after it, in nats.
    pub loss_nats: f64,
}

/// Section of the report: the cost of each pass and the recovery, then the loss of each layer, if layers differ.
pub(super) fn section(removals: &[Removal]) -> String {
    let mut text = "\n## Pruned\n\nLoss in nats on the validation text: before the pass, after it, and after the training that follows.\n\n".to_owned();
    text.push_str(
        "| pass | what | before | after | recovered |\n| :--- | :--- | ---: | ---: | ---: |\n",
    );
    for removal in removals {
        let nats = |loss: f64| decimals(loss, 4);
        let recovered = removal.recovery.as_ref();
        text.push_str(&markdown_line(&[
            removal.pass.clone(),
            removal.removed.describe(),
            removal
                .loss_before_nats
                .map_or_else(|| "-".to_owned(), nats),
            nats(removal.loss_after_nats),
            recovered.map_or_else(
                || "-".to_owned(),
                |recovery| format!("{} ({})", nats(recovery.loss_nats), recovery.pass),
            ),
        ]));
    }
    for removal in removals {
        if let Removed::Weights(matrices) = &removal.removed {
            text.push_str(&by_layer(&removal.pass, matrices));
        }
    }
    text
}

/// Zeros of each matrix and, if it was measured, the error of its outputs; empty if all are alike.
fn by_layer(pass: &str, matrices: &[PrunedMatrix]) -> String {
    let mut cells: BTreeMap<(usize, &str), String> = BTreeMap::new();
    let mut modules = Vec::new();
    for matrix in matrices {
        let Some(layer) = matrix.weight.layer else {
            continue;
        };
        let module = matrix.weight.part.word();
        if !modules.contains(&module) {
            modules.push(module);
        }
        let zeros = percent(matrix.sparsity, 1);
        let cell = match matrix.output_error {
            Some(error) => format!("{zeros} / {}", percent(error, 2)),
            None => zeros,
        };
        cells.insert((layer, module), cell);
    }
    let different: BTreeSet<&String> = cells.values().collect();
    if different.len() < 2 {
        return String::new();
    }
    let mut text = format!("\n### {pass}\n\nZeros (%)");
    if matrices.iter().any(|matrix| matrix.output_error.is_some()) {
        text.push_str(
            " / squared error of the outputs on the calibration text (% of their square)",
        );
    }
    text.push_str(".\n\n| layer |");
    for module in &modules {
        let _ = write!(text, " {module} |"); // writing to a `String` cannot fail
    }
    text.push_str("\n| ---: |");
    text.push_str(&" ---: |".repeat(modules.len()));
    text.push('\n');
    let layers: BTreeSet<usize> = cells.keys().map(|(layer, _)| *layer).collect();
    for layer in layers {
        let row = modules.iter().map(|module| {
            let cell = cells.get(&(layer, *module));
            cell.cloned().unwrap_or_default()
        });
        let row: Vec<String> = [layer.to_string()].into_iter().chain(row).collect();
        text.push_str(&markdown_line(&row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Part, WeightId};
    use crate::passes::{Parts, StudentSizes};
    use crate::student::PartSelection;

    fn pruned(errors: [Option<f64>; 2]) -> Removed {
        let matrix = |(part, output_error): (Part, Option<f64>)| PrunedMatrix {
            weight: WeightId::of_layer(3, part),
            sparsity: 0.5,
            output_error,
        };
        let parts = [Part::Query, Part::Down];
        Removed::Weights(parts.into_iter().zip(errors).map(matrix).collect())
    }

    fn removal(pass: &str, removed: Removed) -> Removal {
        Removal {
            pass: pass.to_owned(),
            loss_before_nats: Some(3.5),
            loss_after_nats: 4.25,
            recovery: None,
            removed,
        }
    }

    #[test]
    fn a_section_tells_what_is_gone_what_it_cost_and_what_came_back() {
        let before = StudentSizes {
            num_hidden_layers: 4,
            hidden_size: 64,
            intermediate_size: 128,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            parameters: 200_000,
        };
        let after = StudentSizes {
            num_hidden_layers: 2,
            intermediate_size: 96,
            parameters: 100_000,
            ..before
        };
        let kept = PartSelection::layers(&[0, 3]);
        let parts = Parts {
            before,
            after,
            kept,
            influence: None,
        };
        let shrunk = Removal {
            recovery: Some(Recovery {
                pass: "02-distill".to_owned(),
                loss_nats: 3.75,
            }),
            ..removal("01-shrink", Removed::Parts(parts))
        };
        let errors = [Some(0.0125), Some(0.25)];
        let text = section(&[shrunk, removal("03-prune", pruned(errors))]);
        let want = "
## Pruned

Loss in nats on the validation text: before the pass, after it, and after the training that follows.

| pass | what | before | after | recovered |
| :--- | :--- | ---: | ---: | ---: |
| 01-shrink | without layers 1, 2 of 4, 32 of 128 channels a layer: 100,000 parameters are left, 50.0 % | 3.5000 | 4.2500 | 3.7500 (02-distill) |
| 03-prune | 50.0 % of a matrix are zero, on average | 3.5000 | 4.2500 | - |

### 03-prune

Zeros (%) / squared error of the outputs on the calibration text (% of their square).

| layer | q_proj | down_proj |
| ---: | ---: | ---: |
| 3 | 50.0 / 1.25 | 50.0 / 25.00 |
";
        assert_eq!(text, want);
    }

    #[test]
    fn layers_that_lost_alike_are_not_listed() {
        let text = section(&[removal("01-prune", pruned([None, None]))]);
        assert!(!text.contains("###"), "{text}");
    }
}
