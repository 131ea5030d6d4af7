//! Grids that ggml's blocks hold.

use crate::gguf::WrittenType;
use crate::kernels::grid::{Grid, Levels};
use crate::model::{DecoderConfig, ParameterKind, Schemes, tensor_specs};

/// The type whose blocks hold this grid.
pub(super) fn type_of_grid(grid: Grid) -> Option<WrittenType> {
    match (grid.levels, grid.group_size) {
        (Levels::Symmetric { bits: 4 }, Some(32)) => Some(WrittenType::Q4_0),
        (Levels::Symmetric { bits: 8 }, Some(32)) => Some(WrittenType::Q8_0),
        _ => None,
    }
}

/// Describes the grids of a student's projections if no block type holds them all. `None` if one does, or without
/// grids. The file has plain weights then, unless a plan names a type.
pub fn without_blocks(schemes: &Schemes, config: &DecoderConfig) -> Option<String> {
    let specs = tensor_specs(config).into_iter();
    let linear = specs.filter(|spec| spec.kind() == ParameterKind::Linear);
    let mut grids: Vec<Option<Grid>> = linear
        .map(|spec| Some(schemes.get(&spec.id())?.weight))
        .collect();
    grids.dedup();
    match grids.as_slice() {
        [None] => None,
        [Some(grid)] => type_of_grid(*grid).is_none().then(|| grid.to_string()),
        _ => Some("projections on several grids".to_owned()),
    }
}
