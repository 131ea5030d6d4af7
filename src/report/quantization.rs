//! What quantising cost.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::table::markdown_line;
use crate::passes::Rounding;

/// Losses around a pass that quantised, on the validation text, in nats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantization {
    /// Name of the pass.
    pub pass: String,
    /// Of the student before it.
    pub loss_before_nats: Option<f64>,
    /// Of that student with every weight rounded to the nearest value of its grid.
    pub loss_rounded_nats: Option<f64>,
    /// After the pass.
    pub loss_after_nats: f64,
}

impl Quantization {
    /// What rounding alone costs, where both losses are known.
    fn rounding(&self) -> Option<Rounding> {
        Some(Rounding {
            loss_before_nats: self.loss_before_nats?,
            loss_rounded_nats: self.loss_rounded_nats?,
        })
    }
}

/// A section of the report: each pass with its losses, then what rounding alone costs and whether that is much.
pub(super) fn section(quantizations: &[Quantization]) -> String {
    let mut text = "\n## Quantised\n\nLoss in nats on the validation text: before the pass, with every weight rounded to its grid and nothing else, \
                    and after the pass.\n\n| pass | before | rounded | after |\n| :--- | ---: | ---: | ---: |\n"
        .to_owned();
    let nats = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
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
        let _ = write!(text, "\n{}: {rounding}", one.pass); // a `String` takes everything
        text.push_str(if rounding.is_worth_training() {
            ".\n"
        } else {
            ", less than 1 % of the loss for training to win back.\n"
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_tells_what_rounding_alone_costs_and_when_that_is_little() {
        let one = |pass: &str, before, rounded| Quantization {
            pass: pass.to_owned(),
            loss_before_nats: before,
            loss_rounded_nats: rounded,
            loss_after_nats: 4.0125,
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

04-quantize: rounding alone costs 0.0100 nats (0.25 %): a loss of 4.0100 after 4.0000, less than 1 % of the loss for training to win back.

05-quantize: rounding alone costs 0.5000 nats (12.50 %): a loss of 4.5000 after 4.0000.
";
        assert_eq!(text, want);
    }
}
