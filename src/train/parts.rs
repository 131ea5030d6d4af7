//! The order in which gradients of a step are summed.
//!
//! Sums of floats depend on their order. Here it is a function of the number of micro-batches alone, so neither the number
//! of cores nor, later, that of machines changes a bit: a step has up to [`PARTS`] equal parts; micro-batches of a part are
//! added one after the other, parts in a binary tree.

/// Most parts of a step. With a power of two, so many workers or fewer each have a whole branch of the tree; log₂ of it is
/// the number of sums that wait for their sibling, each as large as the gradients.
const PARTS: usize = 16;

/// A sum of micro-batches, given in order.
pub(super) struct Summed<T> {
    num_micro_batches: usize,
    num_added: usize,
    /// Sum of the part that is not complete.
    part: Option<T>,
    /// Complete branches from left to right, each with the number of parts in it: ever fewer.
    branches: Vec<(usize, T)>,
}

impl<T> Summed<T> {
    pub(super) fn new(num_micro_batches: usize) -> Self {
        Self {
            num_micro_batches,
            num_added: 0,
            part: None,
            branches: Vec::new(),
        }
    }

    /// Adds the next micro-batch.
    pub(super) fn push(&mut self, value: T, add: impl Fn(T, T) -> T) {
        let part = match self.part.take() {
            Some(so_far) => add(so_far, value),
            None => value,
        };
        self.num_added += 1;
        let (micro_batches, parts) = (self.num_micro_batches, num_parts(self.num_micro_batches));
        let part_of = |micro_batch: usize| micro_batch * parts / micro_batches;
        let is_complete = self.num_added == micro_batches
            || part_of(self.num_added) != part_of(self.num_added - 1);
        if !is_complete {
            self.part = Some(part);
            return;
        }
        let mut branch = (1, part);
        while let Some((size, left)) = self.branches.pop_if(|(size, _)| *size == branch.0) {
            branch = (size + branch.0, add(left, branch.1));
        }
        self.branches.push(branch);
    }

    /// Sum of all micro-batches; none if there are none.
    pub(super) fn total(self, add: impl Fn(T, T) -> T) -> Option<T> {
        let branches = self.branches.into_iter().rev().map(|(_, branch)| branch);
        branches.reduce(|right, left| add(left, right))
    }
}

/// Sums that are held at once, beside the micro-batches that are being computed: of complete branches, and of a part.
pub(super) fn num_sums(num_micro_batches: usize) -> usize {
    let parts = num_parts(num_micro_batches);
    let of_part = usize::from(num_micro_batches > parts);
    (parts + 1).ilog2() as usize + of_part
}

fn num_parts(num_micro_batches: usize) -> usize {
    num_micro_batches.min(PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(num_micro_batches: usize) -> String {
        let add = |left: String, right: String| format!("({left} {right})");
        let mut sum = Summed::new(num_micro_batches);
        let mut most = 0;
        for micro_batch in 0..num_micro_batches {
            sum.push(micro_batch.to_string(), add);
            let held = sum.branches.len() + usize::from(sum.part.is_some());
            most = most.max(held);
        }
        assert!(
            most <= num_sums(num_micro_batches),
            "{num_micro_batches}: {most}"
        );
        sum.total(add).unwrap_or_default()
    }

    #[test]
    fn parts_are_summed_in_a_binary_tree() {
        assert_eq!(order(0), "");
        assert_eq!(order(1), "0");
        assert_eq!(order(2), "(0 1)");
        assert_eq!(order(3), "((0 1) 2)");
        assert_eq!(order(4), "((0 1) (2 3))");
        assert_eq!(order(6), "(((0 1) (2 3)) (4 5))");
        assert_eq!(order(7), "(((0 1) (2 3)) ((4 5) 6))");
    }

    #[test]
    fn micro_batches_of_a_part_are_summed_one_after_the_other() {
        let parts: Vec<String> = (0..16)
            .map(|part| format!("({} {})", 2 * part, 2 * part + 1))
            .collect();
        let mut tree = parts;
        while tree.len() > 1 {
            tree = tree
                .chunks(2)
                .map(|pair| format!("({} {})", pair[0], pair[1]))
                .collect();
        }
        assert_eq!(order(32), tree[0]);
        assert!(order(48).contains("(((0 1) 2) ((3 4) 5))"), "{}", order(48));
        assert!(
            order(17).starts_with("(((((0 1) 2) "),
            "one part has two: {}",
            order(17)
        );
    }
}
