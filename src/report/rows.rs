//! Rows that a run trained and was measured on.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::table::markdown_line;
use crate::progress::{percent, thousands};

/// Rows of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowsOfText {
    /// Text that they are of, such as `train`.
    pub split: String,
    /// Number of rows.
    pub rows: u64,
    /// Positions of a row.
    pub sequence_length: u64,
    /// Positions in front of padding.
    pub positions: u64,
    /// Positions that losses count.
    pub counted: u64,
}

/// Section of the report; `notes` tell what became of sources and documents.
pub(super) fn section(rows: &[RowsOfText], notes: &[String]) -> String {
    let mut text = "\n## Rows\n\n".to_owned();
    let heads = ["text", "rows", "positions a row", "filled (%)", "counted"];
    text.push_str(&markdown_line(&heads.map(str::to_owned)));
    text.push_str("| :--- | ---: | ---: | ---: | ---: |\n");
    for of in rows {
        let room = (of.rows * of.sequence_length).max(1);
        text.push_str(&markdown_line(&[
            of.split.clone(),
            thousands(of.rows),
            thousands(of.sequence_length),
            percent(of.positions as f64 / room as f64, 1),
            thousands(of.counted),
        ]));
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        let _ = writeln!(text, "- {}", note.replace('\n', "\n  "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_table_tells_how_full_the_rows_are() {
        let rows = [RowsOfText {
            split: "train".to_owned(),
            rows: 10,
            sequence_length: 256,
            positions: 2_500,
            counted: 1_200,
        }];
        let text = section(&rows, &["train: 3 of 9 texts".to_owned()]);
        assert!(
            text.contains("| train | 10 | 256 | 97.7 | 1,200 |"),
            "{text}"
        );
        assert!(text.ends_with("\n- train: 3 of 9 texts\n"), "{text}");
    }
}
