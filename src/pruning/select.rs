//! Selection of the lowest scores.

use rayon::prelude::*;

use crate::pruning::{Within, Zeros};

/// Mask of a matrix whose rows have `columns` scores: 1 where a weight is kept.
///
/// A share of zeros is rounded to whole weights of a row, or of the matrix. Of equal scores the earlier is pruned.
/// All scores below zero are pruned, whatever their number: they are masked already.
pub(crate) fn select(scores: &[f32], columns: usize, zeros: Zeros) -> Vec<f32> {
    let mut mask = vec![1.0; scores.len()];
    let (width, num_zeros) = match zeros {
        Zeros::Pattern { pattern } => (pattern.width(), pattern.num_zeros()),
        Zeros::Share { sparsity, within } => {
            let width = match within {
                Within::Row => columns,
                Within::Matrix => scores.len(),
            };
            (width, share_of(width, sparsity))
        }
    };
    mask.par_chunks_mut(width)
        .zip(scores.par_chunks(width))
        .for_each(|(mask, scores)| {
            for idx in lowest(scores, num_zeros) {
                mask[idx] = 0.0;
            }
        });
    mask
}

/// Share of `count` weights, rounded to whole ones.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count"
)]
pub(crate) fn share_of(count: usize, sparsity: f64) -> usize {
    (count as f64 * sparsity).round() as usize
}

/// Indices of the `count` lowest scores, in no order; of all below zero, if those are more.
pub(crate) fn lowest(scores: &[f32], count: usize) -> Vec<usize> {
    let num_masked = scores.iter().filter(|&&score| score < 0.0).count();
    let count = count.max(num_masked);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count, |&a, &b| {
            scores[a].total_cmp(&scores[b]).then(a.cmp(&b))
        });
        order.truncate(count);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pruning::{PRUNED, Pattern};

    fn of_rows(scores: &[f32], columns: usize, sparsity: f64) -> Vec<f32> {
        select(scores, columns, Zeros::of_rows(sparsity))
    }

    #[test]
    fn every_row_loses_exactly_its_lowest_scores() {
        let scores = [3.0, 1.0, 2.0, 4.0, 0.0, 0.0, 0.0, 9.0];
        assert_eq!(
            of_rows(&scores, 4, 0.5),
            [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
        );
        assert_eq!(of_rows(&scores, 4, 0.0), [1.0; 8]);
    }

    #[test]
    fn a_whole_matrix_loses_its_lowest_scores_wherever_they_stand() {
        let scores = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 2.0, 9.0];
        let zeros = |sparsity| {
            let within = Within::Matrix;
            select(&scores, 4, Zeros::Share { sparsity, within })
        };
        assert_eq!(zeros(0.25), [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(zeros(0.375), [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn a_pattern_takes_the_lower_half_of_every_few_neighbours() {
        let scores = [4.0, 3.0, 2.0, 1.0, 9.0, 8.0, 9.0, 9.0];
        let zeros = |pattern| select(&scores, 8, Zeros::Pattern { pattern });
        let want = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0];
        assert_eq!(
            zeros(Pattern::TwoOfFour),
            want,
            "the earlier of equals goes"
        );
        let want = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(zeros(Pattern::FourOfEight), want);
    }

    #[test]
    fn what_is_masked_stays_masked_even_beside_other_zeros() {
        let scores = [0.0, PRUNED, 0.0, PRUNED];
        assert_eq!(of_rows(&scores, 4, 0.5), [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(
            of_rows(&scores, 4, 0.25),
            [1.0, 0.0, 1.0, 0.0],
            "a lower sparsity brings nothing back"
        );
        assert_eq!(of_rows(&scores, 4, 0.75), [0.0, 0.0, 1.0, 0.0]);
        let pattern = Pattern::TwoOfFour;
        let scores = [PRUNED, PRUNED, PRUNED, 1.0];
        let mask = select(&scores, 4, Zeros::Pattern { pattern });
        assert_eq!(mask, [0.0, 0.0, 0.0, 1.0], "nor does a pattern");
    }
}
