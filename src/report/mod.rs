//! Report of a run: one row of figures per pass, the comparison of each export, the loss curves.
//!
//! It turns numbers into text. It does not know what was measured, or how.

mod curve;
mod heat;
mod quantization;
mod removal;
mod rows;
mod svg;
mod table;

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use curve::{Curve, loss_curve_svg};
pub use heat::sensitivity_svg;
pub use quantization::{Picture, QuantizationCost};
pub use removal::{Recovery, Removal};
pub use rows::RowsOfText;
pub use table::{card_cells, report_markdown, terminal_table};

use crate::export::verify::Verification;
use crate::files::{write_atomically, write_json};

/// Contents of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Name of the recipe.
    pub recipe: String,
    /// Seed of the run.
    pub seed: u64,
    /// Command that makes this run again.
    pub command: String,
    /// Rows of both texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<RowsOfText>,
    /// Notes on the sources of the rows: what was mixed, cut or left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Models and data of the hub that it was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<HubInput>,
    /// Figures after each pass, in order.
    pub passes: Vec<PassRow>,
    /// Parts and weights that passes removed, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Removal>,
    /// Costs of passes that quantised, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantizations: Vec<QuantizationCost>,
    /// Comparison of each export with the student in memory.
    pub exports: Vec<Verification>,
    /// Losses of each pass that trained.
    pub curves: Vec<Curve>,
}

/// A model or data of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubInput {
    /// Part that it has in the run, such as `teacher`.
    pub role: String,
    /// Id, with the commit.
    pub id: String,
}

/// Figures of a student on the validation text; means are over its positions, without the separators after documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassRow {
    /// Name of the pass (or `teacher`), such as `01-distill`.
    pub pass: String,
    /// Mean negative log-likelihood of the text, in nats per position.
    pub loss_nats: f64,
    /// Value of `exp(loss_nats)`; `None` if it is too large for a number.
    pub perplexity: Option<f64>,
    /// The same likelihood in bits per byte of text, which is comparable across tokenizers.
    pub bits_per_byte: f64,
    /// KL(teacher ‖ student) in nats per position; `None` without a teacher.
    pub kl_nats: Option<f64>,
    /// Share of positions where teacher and student rank the same token first; `None` without a teacher.
    pub top1_agreement: Option<f64>,
    /// Expected calibration error: mean gap between confidence and accuracy, a fraction.
    pub ece: f64,
    /// Size of the weights as stored.
    pub size_bytes: u64,
    /// Share of zeros among the weights that can be pruned.
    pub sparsity: f64,
    /// Seconds that the pass took.
    pub secs: f64,
}

/// Writes `report.md`, the `loss.svg` that it shows if anything was trained, and `report.json` with every digit.
pub fn write_report(dir: &Path, report: &RunReport) -> io::Result<()> {
    write_json(&dir.join("report.json"), report)?;
    let picture = dir.join("loss.svg");
    if report.curves.iter().any(Curve::has_points) {
        let svg = loss_curve_svg(&report.curves);
        write_atomically(&picture, |out| out.write_all(svg.as_bytes()))?;
    } else if picture.exists() {
        fs::remove_file(&picture)?; // of an earlier run, which trained
    }
    let markdown = report_markdown(report);
    write_atomically(&dir.join("report.md"), |out| {
        out.write_all(markdown.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_report_is_three_files_and_the_json_reads_back_as_it_was() {
        let report = table::tests::report();
        let dir = tempfile::tempdir().unwrap();
        write_report(dir.path(), &report).unwrap();
        let json = fs::read(dir.path().join("report.json")).unwrap();
        assert_eq!(serde_json::from_slice::<RunReport>(&json).unwrap(), report);
        let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
        assert!(markdown.contains("](loss.svg)"), "{markdown}");
        let svg = fs::read_to_string(dir.path().join("loss.svg")).unwrap();
        assert_eq!(svg, loss_curve_svg(&report.curves));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_report_without_a_loss_to_draw_has_no_picture() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = table::tests::report();
        write_report(dir.path(), &report).unwrap();
        for curve in &mut report.curves {
            curve.points = vec![(1, f64::NAN)];
            curve.validation.clear();
        }
        write_report(dir.path(), &report).unwrap();
        assert!(!dir.path().join("loss.svg").exists());
        let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
        assert!(!markdown.contains("loss.svg"), "{markdown}");
    }
}
