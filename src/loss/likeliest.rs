//! The likeliest classes of one position, found without reading most of them twice.

use crate::vector::{max, vectorized};

/// Logits per block. `V` logits have `V / BLOCK` block maxima to select among, and each class that is kept costs a
/// search of about one block. The sum is smallest near √(V / K), which is 28 for 49,152 classes and 64 kept.
const BLOCK: u32 = 32;

/// Ids of the `count` largest logits, ascending; of equals the lower id is kept.
///
/// The `count`-th largest block maximum is a bound: at least `count` logits reach it, so no smaller one is selected.
/// Few more than `count` are left to select among.
pub fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let vocab = u32::try_from(logits.len()).expect("a vocabulary has fewer than 2^32 classes");
    let all = 0..vocab;
    let mut ids: Vec<u32> = match lower_bound(logits, count) {
        Some((bound, largest)) => all
            .step_by(BLOCK as usize)
            .zip(largest)
            .filter(|(_, largest)| *largest >= bound)
            .flat_map(|(first, _)| first..first.saturating_add(BLOCK).min(vocab))
            .filter(|&id| logits[id as usize] >= bound)
            .collect(),
        None => all.collect(),
    };
    if count < ids.len() {
        ids.select_nth_unstable_by(count, |&a, &b| {
            let (left, right) = (logits[a as usize], logits[b as usize]);
            right.total_cmp(&left).then(a.cmp(&b))
        });
        ids.truncate(count);
    }
    ids.sort_unstable();
    ids
}

/// A value that at least `count` logits reach, and the largest logit of every block; `None` if there are too few
/// blocks, or logits are not finite.
fn lower_bound(logits: &[f32], count: usize) -> Option<(f32, Vec<f32>)> {
    let largest: Vec<f32> = vectorized(|| logits.chunks(BLOCK as usize).map(max).collect());
    if count == 0 || count >= largest.len() {
        return None;
    }
    let mut sorted = largest.clone();
    let (_, bound, _) = sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    bound.is_finite().then_some((*bound, largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: sorts everything.
    fn sorted_out(logits: &[f32], count: usize) -> Vec<u32> {
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let mut ids: Vec<u32> = ids[..count]
            .iter()
            .map(|&id| u32::try_from(id).unwrap())
            .collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_likeliest_are_those_that_sorting_finds() {
        for vocab in [1, 5, 32, 33, 1000, 4096] {
            for levels in [1.0, 7.0, 1e6] {
                let logits: Vec<f32> = (0..vocab)
                    .map(|id| ((id as f32 * 12.9898).sin() * levels).round() - 3.0)
                    .collect(); // few levels: many equals
                for count in [0, 1, 2, 31, 64, 999, vocab] {
                    if count <= vocab {
                        let got = likeliest(&logits, count);
                        assert_eq!(
                            got,
                            sorted_out(&logits, count),
                            "{count} of {vocab}, {levels}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_likeliest_may_stand_together_or_at_the_end() {
        let mut logits = vec![-1.0; 1000];
        logits[96..128].fill(2.0);
        logits[999] = 3.0;
        logits[0] = f32::NEG_INFINITY;
        assert_eq!(
            likeliest(&logits, 20),
            [(96..115).collect(), vec![999]].concat()
        );
        assert_eq!(
            likeliest(&logits, 34),
            [vec![1], (96..128).collect(), vec![999]].concat()
        );
    }

    #[test]
    fn as_many_come_back_as_were_asked_for_whatever_the_logits_are() {
        for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(likeliest(&[strange; 500], 7).len(), 7, "{strange}");
        }
    }
}
