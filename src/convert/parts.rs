//! Rows of a text that a pass reads, and rows that it is measured on.

use crate::data::TokenRows;
use crate::progress;

/// Number of rows that are measured on; nothing is calibrated on them.
const MIN_MEASURED_ROWS: usize = 4;
const MAX_MEASURED_ROWS: usize = 32;

/// Rows to calibrate on and rows to measure on. The latter are the last of the text: an eighth of it if the pass reads the
/// rest, and all of a text that is a single row.
pub(super) fn parts(rows: &TokenRows, are_read: bool) -> [TokenRows; 2] {
    let num_rows = rows.num_rows();
    if are_read && num_rows < 2 {
        return one_row(rows);
    }
    let num_measured = if are_read {
        let least = MIN_MEASURED_ROWS.min(num_rows / 2);
        (num_rows / 8).clamp(least, MAX_MEASURED_ROWS)
    } else {
        num_rows.min(MAX_MEASURED_ROWS)
    };
    // A last row may hold only the separator after the text, which is not measured.
    let has_text = |num_last: &usize| {
        let [_, last] = rows.split_at(num_rows - num_last);
        last.num_text_positions() > 0
    };
    let num_measured = (num_measured..=num_rows).find(has_text).unwrap_or(num_rows);
    if are_read && num_measured == num_rows {
        return one_row(rows);
    }
    let [before, measured] = rows.split_at(num_rows - num_measured);
    if are_read {
        [before, measured]
    } else {
        [measured.clone(), measured] // the pass does not read them
    }
}

fn one_row(rows: &TokenRows) -> [TokenRows; 2] {
    progress::log("note: the text is one row, so the result is measured on its calibration text");
    [rows.clone(), rows.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_measured_on_what_was_calibrated_on_unless_there_is_no_more() {
        let rows = |num_rows: usize| TokenRows::new(2, vec![1; 3 * num_rows], vec![2; num_rows], 8);
        for (num_rows, are_read, want) in [
            (1, true, [1, 1]),
            (2, true, [1, 1]),
            (12, true, [8, 4]),
            (80, true, [70, 10]),
            (800, true, [768, 32]),
            (12, false, [12, 12]),
            (80, false, [32, 32]),
        ] {
            let got = parts(&rows(num_rows), are_read).map(|part| part.num_rows());
            assert_eq!(got, want, "{num_rows} {are_read}");
        }
        let ends_in_a_row_of_its_own = rows(3).with_separators(vec![4, 5]);
        let got = parts(&ends_in_a_row_of_its_own, true).map(|part| part.num_rows());
        assert_eq!(got, [1, 2]);
        let short = rows(2).with_separators(vec![2, 3]);
        let got = parts(&short, true).map(|part| part.num_text_positions());
        assert_eq!(got, [2, 2]);
        let [first, last] = rows(4).split_at(1);
        assert_eq!((first.num_bytes(), last.num_bytes()), (2, 6));
        assert_eq!(last.num_positions(), 6);
    }
}
