//! Groups of columns: a file lists the group of each column of a matrix whose columns were permuted.
#![warn(clippy::indexing_slicing)]

use ::safetensors::Dtype;

use super::{CheckpointError, TensorFiles};

/// The group of each column, from the list of a file; groups are counted from 0.
pub(in crate::formats) fn listed_groups(
    files: &TensorFiles,
    tensor: &str,
    cols: usize,
    num_groups: usize,
) -> Result<Vec<usize>, CheckpointError> {
    let (words, _) = files.raw(tensor, Dtype::I32, &[cols])?.as_chunks::<4>();
    let found = words.iter().map(|&word| i32::from_le_bytes(word));
    let group = |(column, found): (usize, i32)| {
        let group = usize::try_from(found).ok();
        let group = group.filter(|&group| group < num_groups);
        group.ok_or_else(|| CheckpointError::NoSuchGroup {
            tensor: tensor.to_owned(),
            column,
            found,
            groups: num_groups,
        })
    };
    found.enumerate().map(group).collect()
}

/// True if each group is `group_size` neighbouring columns, one group after the other, and the last one is full.
pub(in crate::formats) fn are_in_order(groups: &[usize], group_size: usize) -> bool {
    let mut in_order = groups.iter().enumerate();
    groups.len().is_multiple_of(group_size)
        && in_order.all(|(column, group)| *group == column / group_size)
}
