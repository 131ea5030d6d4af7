//! Choice of widths for a student's parts under an average.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BudgetPlan;
use super::sensitivity::{Cost, LayerPart, Sensitivity};
use crate::files::{read_json, write_json};
use crate::progress::decimals;

/// File in the folder of the pass.
const FILE: &str = "widths.json";

/// Most sizes that are distinguished. Layers of one architecture are so alike that a whole model has a few thousand; beyond
/// this number, sizes are rounded up.
const MAX_UNITS: u64 = 1 << 17;

/// Widths that cost least under a budget; the cost of all parts is taken as the sum of what each costs alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Most bits of a code that parts may have on average; each weight counts once.
    pub budget: f64,
    /// Bits that they have on average.
    pub average_bits: f64,
    /// Sum of the KLs of the parts at their widths, in nats.
    pub kl_nats: f64,
    /// The same sum with one width for all parts, for each width that the budget allows.
    pub uniform: BTreeMap<u32, f64>,
    /// Each part at its width.
    pub parts: Vec<Cost>,
}

impl Choice {
    /// Finds the widths exactly, as a knapsack problem.
    ///
    /// # Panics
    ///
    /// If the budget is below every width: the recipe is checked.
    pub fn best(sensitivity: &Sensitivity, plan: &BudgetPlan) -> Self {
        let is_allowed = |cost: &&Cost| plan.widths.contains(&cost.bits);
        let mut groups: Vec<Vec<Cost>> = Vec::new();
        for cost in sensitivity.costs.iter().filter(is_allowed) {
            match groups.last_mut() {
                _ if cost.part == LayerPart::Layer => {}
                Some(group) if (group[0].layer, group[0].part) == (cost.layer, cost.part) => {
                    group.push(*cost);
                }
                _ => groups.push(vec![*cost]),
            }
        }
        let parts = knapsack(&groups, plan.budget);
        let num_weights: u64 = parts.iter().map(|part| part.num_weights).sum();
        let bits: u64 = parts
            .iter()
            .map(|part| part.num_weights * u64::from(part.bits))
            .sum();
        let at = |bits: u32| {
            let of_group = |group: &Vec<Cost>| group.iter().find(|cost| cost.bits == bits).copied();
            let costs: Option<Vec<Cost>> = groups.iter().map(of_group).collect();
            Some((bits, sum(&costs?)))
        };
        let fits = |bits: &&u32| f64::from(**bits) <= plan.budget;
        Self {
            budget: plan.budget,
            average_bits: bits as f64 / num_weights.max(1) as f64,
            kl_nats: sum(&parts),
            uniform: plan
                .widths
                .iter()
                .filter(fits)
                .filter_map(|&bits| at(bits))
                .collect(),
            parts,
        }
    }

    /// The width of a part, if one was chosen for it.
    pub fn bits_of(&self, layer: usize, part: LayerPart) -> Option<u32> {
        let is_part = |cost: &&Cost| (cost.layer, cost.part) == (layer, part);
        self.parts.iter().find(is_part).map(|cost| cost.bits)
    }

    /// Choice that a pass wrote, if it chose widths.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        read_json(&dir.join(FILE))
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        write_json(&dir.join(FILE), self)
    }
}

/// Text such as `3.50 bits a weight on average (at most 3.5): 4 parts of 2 bits, 12 of 4; their KLs sum to 0.0125 nats,
/// 0.0311 with 3 bits everywhere`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (average, most) = (self.average_bits, self.budget);
        write!(
            f,
            "{average:.3} bits a weight on average (at most {most}): "
        )?;
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for part in &self.parts {
            *counts.entry(part.bits).or_default() += 1;
        }
        for (place, (bits, count)) in counts.into_iter().enumerate() {
            let between = if place == 0 { "" } else { ", " };
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{between}{count} part{plural} of {bits} bits")?;
        }
        write!(f, "; their KLs sum to {} nats", decimals(self.kl_nats, 4))?;
        match self.uniform.last_key_value() {
            Some((bits, kl)) => write!(f, ", {} with {bits} bits everywhere", decimals(*kl, 4)),
            None => Ok(()),
        }
    }
}

fn sum(costs: &[Cost]) -> f64 {
    costs.iter().map(|cost| cost.kl_nats).sum()
}

/// Picks one cost of each group so that their sum is least, within this number of bits on average.
///
/// Goes through the groups one by one. For each size, it keeps the least sum so far and the cost that the last group has in
/// it. Sizes are counted in their greatest common divisor, so nothing is lost to rounding.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive multiple of a count"
)]
fn knapsack(groups: &[Vec<Cost>], budget: f64) -> Vec<Cost> {
    let num_weights = |group: &Vec<Cost>| group[0].num_weights;
    let total: u64 = groups.iter().map(num_weights).sum();
    let divisor = groups.iter().map(num_weights).fold(0, gcd).max(1);
    let all_bits = (total as f64 * budget * (1.0 + 1e-12)) as u64; // as a float, 3.3 is a little below 3.3
    let unit = divisor * (all_bits / divisor).div_ceil(MAX_UNITS).max(1);
    let size = |cost: &Cost| {
        let units = (cost.num_weights * u64::from(cost.bits)).div_ceil(unit);
        usize::try_from(units).expect("at most as many as there are sizes")
    };
    let least = |group: &Vec<Cost>| group.iter().map(size).min().unwrap_or(0);
    let room = usize::try_from(all_bits / unit).expect("at most as many as there are sizes");
    let room = room.max(groups.iter().map(least).sum()); // sizes may have been rounded up
    let mut sums = vec![0.0_f64; room + 1];
    let mut chosen: Vec<Vec<u8>> = Vec::new();
    for group in groups {
        let mut next = vec![f64::INFINITY; room + 1];
        let mut of_size = vec![0_u8; room + 1];
        for (place, cost) in (0_u8..).zip(group) {
            let size = size(cost);
            for (used, sum) in sums
                .iter()
                .enumerate()
                .take((room + 1).saturating_sub(size))
            {
                let sum = sum + cost.kl_nats;
                if sum < next[used + size] {
                    (next[used + size], of_size[used + size]) = (sum, place);
                }
            }
        }
        sums = next;
        chosen.push(of_size);
    }
    let mut left = room;
    let mut parts: Vec<Cost> = Vec::new();
    for (group, of_size) in groups.iter().zip(&chosen).rev() {
        let cost = group[usize::from(of_size[left])];
        left -= size(&cost);
        parts.push(cost);
    }
    parts.reverse();
    parts
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTHS: [u32; 4] = [2, 3, 4, 8];

    fn plan(budget: f64, widths: &[u32]) -> BudgetPlan {
        BudgetPlan {
            budget,
            widths: widths.to_vec(),
        }
    }

    /// Sensitivity of parts of these sizes, one per layer, each with this KL at 2 bits and a quarter of it for each bit more.
    fn sensitivity(parts: &[(u64, f64)]) -> Sensitivity {
        let costs = parts
            .iter()
            .enumerate()
            .flat_map(|(layer, &(num_weights, at_2))| {
                WIDTHS.map(|bits| Cost {
                    layer,
                    part: LayerPart::Down,
                    bits,
                    num_weights,
                    kl_nats: at_2 / 4_f64.powi(bits.cast_signed() - 2),
                })
            });
        Sensitivity {
            positions: 1,
            costs: costs.collect(),
        }
    }

    #[test]
    fn parts_that_cost_more_get_more_bits_and_the_average_holds() {
        let found = sensitivity(&[(100, 4.0), (100, 0.04), (100, 0.04), (100, 0.04)]);
        let choice = Choice::best(&found, &plan(3.5, &WIDTHS));
        let bits: Vec<u32> = choice.parts.iter().map(|part| part.bits).collect();
        assert_eq!(bits, [8, 2, 2, 2], "{choice}");
        assert!((choice.average_bits - 3.5).abs() < 1e-12);
        assert_eq!(choice.bits_of(2, LayerPart::Down), Some(2));
        assert_eq!(choice.bits_of(2, LayerPart::Qkv), None);
        let told = "3.500 bits a weight on average (at most 3.5): 3 parts of 2 bits, 1 part of 8 bits; their KLs sum to 0.1210 nats, 1.0300 with 3 bits everywhere";
        assert_eq!(choice.to_string(), told);
    }

    #[test]
    fn alike_parts_have_one_width_where_the_budget_is_one() {
        let found = sensitivity(&[(64, 1.0); 5]);
        for bits in WIDTHS {
            let choice = Choice::best(&found, &plan(f64::from(bits), &WIDTHS));
            assert!(
                choice.parts.iter().all(|part| part.bits == bits),
                "{choice}"
            );
            assert!((choice.uniform[&bits] - choice.kl_nats).abs() < 1e-15);
        }
    }

    #[test]
    fn no_choice_within_the_budget_is_better() {
        let parts = [(3, 1.0), (5, 0.7), (7, 0.2), (2, 3.0), (11, 0.9)];
        let found = sensitivity(&parts);
        for (budget, widths) in [
            (2.0, &WIDTHS[..]),
            (2.9, &WIDTHS),
            (3.3, &WIDTHS),
            (5.5, &[3, 4, 8]),
            (8.0, &WIDTHS),
        ] {
            let choice = Choice::best(&found, &plan(budget, widths));
            let total: u64 = parts.iter().map(|(num, _)| num).sum();
            let mut best = f64::INFINITY;
            for mut code in 0..4_usize.pow(5) {
                let (mut bits, mut kl, mut is_allowed) = (0, 0.0, true);
                for (num_weights, at_2) in parts {
                    let width = WIDTHS[code % 4];
                    code /= 4;
                    is_allowed &= widths.contains(&width);
                    bits += num_weights * u64::from(width);
                    kl += at_2 / 4_f64.powi(width.cast_signed() - 2);
                }
                if is_allowed && bits as f64 <= budget * total as f64 + 1e-9 {
                    best = best.min(kl);
                }
            }
            assert!(
                (choice.kl_nats - best).abs() < 1e-12,
                "{budget}: {choice}, {best}"
            );
            assert!(choice.average_bits <= budget + 1e-12, "{choice}");
        }
    }

    #[test]
    fn sizes_without_a_common_divisor_still_fit() {
        let parts: Vec<(u64, f64)> = (0..40)
            .map(|i| (1_000_003 + 17 * i, 1.0 + i as f64))
            .collect();
        let found = sensitivity(&parts);
        for budget in [2.0, 3.25] {
            let choice = Choice::best(&found, &plan(budget, &WIDTHS));
            assert!(choice.average_bits <= budget, "{choice}");
            // One bit more for one of 40 parts would be too much.
            assert!(choice.average_bits > budget - 0.03, "{choice}");
        }
    }
}
