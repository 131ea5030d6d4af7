//! Table of the figures, for a terminal and for Markdown.

use std::fmt::Write;

use super::{Curve, HubInput, PassRow, RunReport, Verification, quantization, removal, rows};
use crate::progress::{self, bytes_text, decimals, duration_text, percent, thousands};

const NUM_COLUMNS: usize = 10;

/// Column titles, with the unit of the numbers below.
const HEADS: [&str; NUM_COLUMNS] = [
    "pass",
    "loss (nats)",
    "perplexity",
    "bits/byte",
    "KL (nats)",
    "top-1 (%)",
    "ECE (%)",
    "size",
    "sparsity (%)",
    "time",
];

/// Cell of a figure that does not exist.
const ABSENT: &str = "-";

/// Figures of each pass, one line each under a header and a rule; columns are aligned.
pub fn terminal_table(rows: &[PassRow]) -> String {
    let lines: Vec<_> = [HEADS.map(str::to_owned)]
        .into_iter()
        .chain(rows.iter().map(cells))
        .collect();
    let widths: [usize; NUM_COLUMNS] = std::array::from_fn(|column_idx| {
        let widths = lines.iter().map(|line| line[column_idx].chars().count());
        widths.max().unwrap_or(0)
    });
    let mut text = String::new();
    for (line_idx, line) in lines.iter().enumerate() {
        text.push_str(&aligned(line, &widths));
        if line_idx == 0 {
            text.push_str(&widths.map(|width| "─".repeat(width)).join("  "));
            text.push('\n');
        }
    }
    text
}

/// Column titles, and the figures of each pass as text, for the card of an export: without the time that a pass took, so that
/// the same recipe gives the same bytes.
pub fn card_cells(rows: &[PassRow]) -> (Vec<String>, Vec<Vec<String>>) {
    let (_, heads) = HEADS.split_last().expect("time is the last column");
    let figures = |row| {
        let mut cells = cells(row).to_vec();
        cells.truncate(heads.len());
        cells
    };
    let heads = heads.iter().map(|&head| head.to_owned()).collect();
    (heads, rows.iter().map(figures).collect())
}

/// The report as Markdown: the command that makes it again, figures of each pass, exports, and `loss.svg` beside it.
pub fn report_markdown(report: &RunReport) -> String {
    let mut text = format!("# {}\n\n", escaped(&report.recipe));
    let _ = writeln!(text, "Seed {}. Made by:\n", report.seed);
    let _ = writeln!(text, "```sh\n{}\n```\n", report.command);
    if !report.origins.is_empty() {
        text.push_str("## From the hub\n\n");
        for HubInput { role, id } in &report.origins {
            let _ = writeln!(text, "- {role}: `{id}`");
        }
        text.push('\n');
    }
    text.push_str("## Passes\n\nMeasured on the validation text after each pass.\n\n");
    text.push_str(&markdown_line(&HEADS.map(str::to_owned)));
    text.push_str("| :--- |");
    text.push_str(&" ---: |".repeat(NUM_COLUMNS - 1));
    text.push('\n');
    for row in &report.passes {
        text.push_str(&markdown_line(&cells(row)));
    }
    if !report.rows.is_empty() {
        text.push_str(&rows::section(&report.rows, &report.notes));
    }
    if !report.removals.is_empty() {
        text.push_str(&removal::section(&report.removals));
    }
    if !report.quantizations.is_empty() {
        text.push_str(&quantization::section(&report.quantizations));
    }
    if !report.exports.is_empty() {
        text.push_str("\n## Exports\n\nEach was read back from disk and compared with the student in memory.\n\n");
        for export in &report.exports {
            text.push_str(&export_line(export));
        }
    }
    if report.curves.iter().any(Curve::has_points) {
        text.push_str("\n## Training loss\n\n![Training loss of each pass](loss.svg)\n");
        if report
            .curves
            .iter()
            .any(|curve| !curve.validation.is_empty())
        {
            text.push_str(
                "\nLines are what a pass minimises, rings the loss on the validation text.\n",
            );
        }
    }
    text
}

fn cells(row: &PassRow) -> [String; NUM_COLUMNS] {
    let or_absent = |text: Option<String>| text.unwrap_or_else(|| ABSENT.to_owned());
    let percent = |share: f64| percent(share, 1);
    [
        row.pass.clone(),
        decimals(row.loss_nats, 4),
        or_absent(row.perplexity.map(perplexity_text)),
        decimals(row.bits_per_byte, 4),
        or_absent(row.kl_nats.map(|kl| decimals(kl, 4))),
        or_absent(row.top1_agreement.map(percent)),
        progress::percent(row.ece, 2),
        bytes_text(row.size_bytes),
        percent(row.sparsity),
        duration_text(row.secs),
    ]
}

/// Text of a perplexity. It can have any length for a broken student; six digits are enough.
fn perplexity_text(perplexity: f64) -> String {
    if perplexity.abs() < 1e6 {
        decimals(perplexity, 2)
    } else {
        format!("{perplexity:.1e}")
    }
}

fn aligned(line: &[String; NUM_COLUMNS], widths: &[usize; NUM_COLUMNS]) -> String {
    let mut text = format!("{:<1$}", line[0], widths[0]);
    for (cell, width) in line.iter().zip(widths).skip(1) {
        let _ = write!(text, "  {cell:>width$}");
    }
    text.push('\n');
    text
}

/// A row of a table.
pub(super) fn markdown_line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn export_line(export: &Verification) -> String {
    format!(
        "- `{}`, {} ({} bytes): {export}{}\n",
        export.format,
        bytes_text(export.size_bytes),
        thousands(export.size_bytes),
        if export.holds() {
            ""
        } else {
            ": **over the limit**"
        },
    )
}

/// A name that cannot open a cell or a tag: users choose names.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::export::verify::Budget;

    pub(in crate::report) fn report() -> RunReport {
        let distill = PassRow {
            pass: "01-distill".to_owned(),
            loss_nats: 3.5,
            perplexity: Some(33.115_45),
            bits_per_byte: 1.712_34,
            kl_nats: Some(0.25),
            top1_agreement: Some(0.613_4),
            ece: 0.012_34,
            size_bytes: 3_500_000,
            sparsity: 0.0,
            secs: 95.0,
        };
        let prune = PassRow {
            pass: "02-prune".to_owned(),
            perplexity: Some(1.25e9),
            kl_nats: None,
            top1_agreement: None,
            sparsity: 0.5,
            secs: 0.4,
            ..distill
        };
        RunReport {
            origins: Vec::new(),
            recipe: "quick|start".to_owned(),
            seed: 17,
            command: "alambic run recipes/quickstart.yaml".to_owned(),
            rows: Vec::new(),
            notes: Vec::new(),
            passes: vec![distill, prune],
            removals: Vec::new(),
            quantizations: Vec::new(),
            exports: vec![Verification {
                positions: 2048,
                format: "huggingface".to_owned(),
                size_bytes: 2_097_152,
                max_logit_difference: 2.5e-4,
                budget: Budget::LogitDifference(1e-3),
                kl_nats: 1.5e-8,
                top1_agreement: 1.0,
                embedding_kl_nats: None,
            }],
            curves: vec![Curve {
                name: "01-distill".to_owned(),
                points: vec![(1, 4.0), (2, 3.5)],
                validation: vec![(2, 3.75)],
            }],
        }
    }

    #[test]
    fn a_terminal_table_is_aligned_with_units_and_marks_what_is_absent() {
        let want = "\
pass        loss (nats)  perplexity  bits/byte  KL (nats)  top-1 (%)  ECE (%)     size  sparsity (%)        time
──────────  ───────────  ──────────  ─────────  ─────────  ─────────  ───────  ───────  ────────────  ──────────
01-distill       3.5000       33.12     1.7123     0.2500       61.3     1.23  3.3 MiB           0.0  1 min 35 s
02-prune         3.5000       1.2e9     1.7123          -          -     1.23  3.3 MiB          50.0       0.4 s
";
        assert_eq!(terminal_table(&report().passes), want);
    }

    #[test]
    fn a_markdown_report_says_how_to_make_it_again_and_what_came_out() {
        let want = r"# quick\|start

Seed 17. Made by:

```sh
alambic run recipes/quickstart.yaml
```

## Passes

Measured on the validation text after each pass.

| pass | loss (nats) | perplexity | bits/byte | KL (nats) | top-1 (%) | ECE (%) | size | sparsity (%) | time |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 01-distill | 3.5000 | 33.12 | 1.7123 | 0.2500 | 61.3 | 1.23 | 3.3 MiB | 0.0 | 1 min 35 s |
| 02-prune | 3.5000 | 1.2e9 | 1.7123 | - | - | 1.23 | 3.3 MiB | 50.0 | 0.4 s |

## Exports

Each was read back from disk and compared with the student in memory.

- `huggingface`, 2.0 MiB (2,097,152 bytes): largest logit difference 2.5e-4 (at most 1e-3), KL 1.5e-8 nats, top-1 agreement 100.00 %

## Training loss

![Training loss of each pass](loss.svg)

Lines are what a pass minimises, rings the loss on the validation text.
";
        assert_eq!(report_markdown(&report()), want);
    }

    #[test]
    fn an_export_above_its_budget_says_so() {
        let mut export = report().exports.remove(0);
        for difference in [2e-3, f64::NAN] {
            export.max_logit_difference = difference;
            let line = export_line(&export);
            assert!(
                line.ends_with(
                    "(at most 1e-3), KL 1.5e-8 nats, top-1 agreement 100.00 %: **over the limit**\n"
                ),
                "{line}"
            );
        }
    }

    #[test]
    fn a_run_without_exports_or_training_has_no_section_on_them() {
        let bare = RunReport {
            exports: Vec::new(),
            curves: Vec::new(),
            ..report()
        };
        let text = report_markdown(&bare);
        assert_eq!(text.matches("\n## ").count(), 1, "{text}");
    }
}
