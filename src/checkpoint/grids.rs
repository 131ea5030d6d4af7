//! Grids that the weights of a checkpoint are on already, for notes about rounding them again.

use std::collections::BTreeSet;

use super::Checkpoint;
use crate::gguf::TensorType;
use crate::model::Schemes;

impl Checkpoint {
    /// Grids of the matrices as stored, such as `int4, groups of 32` or `Q4_K, Q6_K`; `None` if all are plain.
    pub fn grids(&self) -> Option<String> {
        let Some(file) = self.gguf() else {
            return described(&self.schemes());
        };
        let kinds = file.tensors().map(|(_, info)| info.kind);
        let blocks: BTreeSet<&str> = kinds
            .filter(|kind| kind.block().0 > 1)
            .map(TensorType::name)
            .collect();
        (!blocks.is_empty()).then(|| blocks.into_iter().collect::<Vec<_>>().join(", "))
    }
}

/// The distinct schemes of a student; `None` if it has none.
pub fn described(schemes: &Schemes) -> Option<String> {
    let distinct: BTreeSet<String> = schemes.values().map(ToString::to_string).collect();
    (!distinct.is_empty()).then(|| distinct.into_iter().collect::<Vec<_>>().join("; "))
}

/// Note on weights that leave one grid for another.
pub fn second_rounding(grids: &str) -> String {
    format!(
        "a second rounding: the weights are on a grid already ({grids}), and rounding them again costs more than rounding once; \
         start from the checkpoint that they were made from, if there is one"
    )
}
