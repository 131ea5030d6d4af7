//! Grids that ggml's blocks hold.

use super::{BlockTypes, GgufPlan};
use crate::formats::ExportDtype;
use crate::gguf::WrittenType;
use crate::kernels::grid::{Grid, Levels};
use crate::model::{DecoderConfig, ParameterKind, Schemes, only_grid, tensor_specs};

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

/// Describes the grids that a block type would round a second time, at a cost of its own. `None` if it holds them, or is
/// much finer than they are.
pub fn rounds_again(
    kind: WrittenType,
    schemes: &Schemes,
    config: &DecoderConfig,
) -> Option<String> {
    let specs = tensor_specs(config).into_iter();
    let linear = specs.filter(|spec| spec.kind() == ParameterKind::Linear);
    let grids = linear.filter_map(|spec| Some(schemes.get(&spec.id())?.weight));
    let is_held = |grid: Grid| {
        let holds_offsets = kind == WrittenType::Q4_1
            && grid.levels == Levels::Asymmetric { bits: 4 }
            && grid.group_size.is_some_and(|size| size.is_multiple_of(32));
        type_of_grid(grid) == Some(kind) || holds_offsets
    };
    let mut rounded = grids.filter(|&grid| kind.bits() == 4 && !is_held(grid));
    rounded.next().map(|grid| grid.to_string())
}

/// True if a plan rounds the projections of a student to blocks although they were on `grids` in the checkpoint that it comes
/// from, as [`Checkpoint::grids`](crate::checkpoint::Checkpoint::grids) describes them. Blocks of the same types are kept.
pub fn rounds_source(
    grids: &str,
    plan: GgufPlan,
    dtype: ExportDtype,
    schemes: &Schemes,
    config: &DecoderConfig,
) -> bool {
    let types = types_of(plan, dtype, schemes, config);
    let grid = only_grid(ParameterKind::Linear, config, |id| {
        Some(schemes.get(&id)?.weight)
    });
    let is_rounded = types.linear.bits() < 16 && grid.and_then(type_of_grid) != Some(types.linear);
    let written = [types.linear, types.embedding, types.output].map(WrittenType::name);
    is_rounded && !grids.split(", ").all(|kind| written.contains(&kind))
}

fn types_of(
    plan: GgufPlan,
    dtype: ExportDtype,
    schemes: &Schemes,
    config: &DecoderConfig,
) -> BlockTypes {
    BlockTypes::of(plan, dtype, |kind| {
        only_grid(kind, config, |id| Some(schemes.get(&id)?.weight))
    })
}

/// Notes on a file of a student with these schemes: what is stored otherwise than one may expect.
pub fn notes(
    plan: GgufPlan,
    dtype: ExportDtype,
    schemes: &Schemes,
    config: &DecoderConfig,
) -> Vec<String> {
    let types = types_of(plan, dtype, schemes, config);
    let mut notes = Vec::new();
    match plan.linear {
        None => notes.extend(without_blocks(schemes, config).map(|grid| {
            format!(
                "`gguf` has no blocks for {grid}: projections are stored plain; 4 and 8 bits in groups of 32 are Q4_0 and Q8_0"
            )
        })),
        Some(kind) => notes.extend(rounds_again(kind, schemes, config).map(|grid| {
            let kind = kind.name();
            format!("`gguf_type` rounds projections that are on {grid} a second time, to {kind}")
        })),
    }
    let fallen = types.fallen(config).into_iter();
    notes.extend(fallen.map(|what| format!("in `gguf`, {what}")));
    notes
}
