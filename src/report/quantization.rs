//! Cost of quantising, as a section of the report.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::table::markdown_line;
use crate::passes::{Choice, LayerPart, Rounding, Sensitivity};
use crate::progress::{decimals, exponential, thousands};

/// Losses around a pass that quantised, on the validation text, in nats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizationCost {
    /// Name of the pass.
    pub pass: String,
    /// Loss of the student before the pass.
    pub loss_before_nats: Option<f64>,
    /// Loss of that student with every weight rounded to the nearest value of its grid.
    pub loss_rounded_nats: Option<f64>,
    /// Loss after the pass.
    pub loss_after_nats: f64,
    /// Cost of each part of the student at each width, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<Picture>,
}

/// A sensitivity and the path of its picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Path of the picture from the report.
    pub svg: String,
    /// Costs that are drawn.
    pub costs: Sensitivity,
    /// Widths that were chosen by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
}

impl QuantizationCost {
    /// Cost of rounding alone, if both losses are known.
    fn rounding(&self) -> Option<Rounding> {
        Some(Rounding {
            loss_before_nats: self.loss_before_nats?,
            loss_rounded_nats: self.loss_rounded_nats?,
        })
    }
}

impl QuantizationCost {
    /// Remark on a pass that trained and left a larger loss than rounding alone.
    pub fn warning(&self) -> Option<String> {
        let rounded = self.rounding()?.loss_rounded_nats;
        let after = self.loss_after_nats;
        (after > rounded).then(|| {
            format!(
                "{}: training ended at a loss of {after:.4}, above the {rounded:.4} of rounding alone: use a smaller \
                 `learning_rate`, more `steps`, or `method: gptq`",
                self.pass
            )
        })
    }
}

/// Section of the report: each pass with its losses, then the cost of rounding alone and whether it is large.
pub(super) fn section(quantizations: &[QuantizationCost]) -> String {
    let mut text = "\n## Quantised\n\nLoss in nats on the validation text: before the pass, with every weight rounded to its grid and nothing else, \
                    and after the pass.\n\n| pass | before | rounded | after |\n| :--- | ---: | ---: | ---: |\n"
        .to_owned();
    let nats = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| decimals(loss, 4));
    for one in quantizations {
        text.push_str(&markdown_line(&[
            one.pass.clone(),
            nats(one.loss_before_nats),
            nats(one.loss_rounded_nats),
            nats(Some(one.loss_after_nats)),
        ]));
    }
    for one in quantizations {
        let Some(rounding) = one.rounding() else {
            continue;
        };
        let _ = write!(text, "\n{}: {rounding}", one.pass); // writing to a `String` cannot fail
        text.push_str(if rounding.is_worth_training() {
            ".\n"
        } else {
            ", less than 1 % of the loss for training to recover.\n"
        });
    }
    for warning in quantizations.iter().filter_map(QuantizationCost::warning) {
        let _ = writeln!(text, "\n**Warning.** {warning}.");
    }
    for one in quantizations {
        if let Some(picture) = &one.sensitivity {
            text.push_str(&by_layer(&one.pass, picture));
        }
    }
    text
}

/// Table of each part's cost at each width; a chosen width is bold.
fn by_layer(pass: &str, picture: &Picture) -> String {
    let Picture { svg, costs, choice } = picture;
    let positions = thousands(costs.positions);
    let mut text = format!(
        "\n### {pass}\n\nKL in nats from the unrounded student, with one part of it rounded to 2 / 3 / 4 / 8 bits, on {positions} positions of training text.\n"
    );
    if let Some(choice) = choice {
        let _ = writeln!(text, "Chosen: {choice}.");
    }
    let _ = write!(
        text,
        "\n![KL of each part at each width]({svg})\n\n| layer |"
    );
    let parts = || LayerPart::CHOSEN.into_iter().chain([LayerPart::Layer]);
    for part in parts() {
        let _ = write!(text, " {part} |");
    }
    text.push_str("\n| ---: |");
    text.push_str(&" ---: |".repeat(parts().count()));
    text.push('\n');
    for layer in 0..costs.num_layers() {
        let cells = parts().map(|part| {
            let chosen = choice
                .as_ref()
                .and_then(|choice| choice.bits_of(layer, part));
            let of_part = costs.costs_of(layer, part).unwrap_or_default();
            let shown = of_part.iter().map(|cost| {
                let kl = exponential(cost.kl_nats, 1);
                if chosen == Some(cost.bits) {
                    format!("**{kl}**")
                } else {
                    kl
                }
            });
            shown.collect::<Vec<String>>().join(" / ")
        });
        let cells: Vec<String> = [layer.to_string()].into_iter().chain(cells).collect();
        text.push_str(&markdown_line(&cells));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::Cost;

    #[test]
    fn a_table_tells_what_each_part_costs_and_which_width_was_chosen() {
        let cost = |layer, part, (bits, kl_nats)| Cost {
            layer,
            part,
            bits,
            num_weights: 8,
            kl_nats,
        };
        let widths = [(2, 0.125), (3, 0.01), (4, 2e-3), (8, 3e-7)];
        let parts = [
            (0, LayerPart::Qkv),
            (0, LayerPart::Layer),
            (1, LayerPart::Layer),
        ];
        let costs = parts.into_iter();
        let costs: Vec<Cost> = costs
            .flat_map(|(layer, part)| widths.map(|width| cost(layer, part, width)))
            .collect();
        let choice = Choice {
            budget: 3.0,
            average_bits: 3.0,
            kl_nats: 0.01,
            uniform: [].into(),
            parts: vec![costs[1]],
        };
        let picture = Picture {
            svg: "04-quantize-0/sensitivity.svg".to_owned(),
            costs: Sensitivity {
                positions: 2048,
                costs,
            },
            choice: Some(choice),
        };
        let want = "
### 04-quantize

KL in nats from the unrounded student, with one part of it rounded to 2 / 3 / 4 / 8 bits, on 2,048 positions of training text.
Chosen: 3.000 bits a weight on average (at most 3): 1 part of 3 bits; their KLs sum to 0.0100 nats.

![KL of each part at each width](04-quantize-0/sensitivity.svg)

| layer | q, k, v | o | gate, up | down | whole layer |
| ---: | ---: | ---: | ---: | ---: | ---: |
| 0 | 1.2e-1 / **1.0e-2** / 2.0e-3 / 3.0e-7 |  |  |  | 1.2e-1 / 1.0e-2 / 2.0e-3 / 3.0e-7 |
| 1 |  |  |  |  | 1.2e-1 / 1.0e-2 / 2.0e-3 / 3.0e-7 |
";
        assert_eq!(by_layer("04-quantize", &picture), want);
    }

    #[test]
    fn a_section_tells_what_rounding_alone_costs_and_when_that_is_little() {
        let one = |pass: &str, before, rounded| QuantizationCost {
            pass: pass.to_owned(),
            loss_before_nats: before,
            loss_rounded_nats: rounded,
            loss_after_nats: 4.0125,
            sensitivity: None,
        };
        let text = section(&[
            one("04-quantize", Some(4.0), Some(4.01)),
            one("05-quantize", Some(4.0), Some(4.5)),
            one("06-quantize", None, Some(4.5)),
        ]);
        let want = "
## Quantised

Loss in nats on the validation text: before the pass, with every weight rounded to its grid and nothing else, and after the pass.

| pass | before | rounded | after |
| :--- | ---: | ---: | ---: |
| 04-quantize | 4.0000 | 4.0100 | 4.0125 |
| 05-quantize | 4.0000 | 4.5000 | 4.0125 |
| 06-quantize | - | 4.5000 | 4.0125 |

04-quantize: rounding alone costs 0.0100 nats (0.25 %): a loss of 4.0100 after 4.0000, less than 1 % of the loss for training to recover.

05-quantize: rounding alone costs 0.5000 nats (12.50 %): a loss of 4.5000 after 4.0000.

**Warning.** 04-quantize: training ended at a loss of 4.0125, above the 4.0100 of rounding alone: use a smaller `learning_rate`, more `steps`, or `method: gptq`.
";
        assert_eq!(text, want);
    }
}
