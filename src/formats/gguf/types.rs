//! Types of the weights in a GGUF file: what a plan asks for, what a student's grid gives, and what rows of some width take.

use std::collections::BTreeMap;

use super::GgufPlan;
use super::limits::type_of_grid;
use crate::formats::ExportDtype;
use crate::gguf::{TensorType, WrittenType};
use crate::kernels::grid::Grid;
use crate::model::{DecoderConfig, ParameterKind, tensor_specs};

/// Storage types of the weights in a file; vectors are F32 in every file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTypes {
    /// Projections inside blocks.
    pub linear: WrittenType,
    /// Embedding; also the output matrix if the two are tied.
    pub embedding: WrittenType,
    /// Untied output matrix.
    pub output: WrittenType,
}

impl BlockTypes {
    /// Types that the plan names; else the block type of the grid that all weights of a kind are on; else `dtype`.
    ///
    /// If projections are rounded to blocks, embedding and output matrix are so, too, but no coarser than Q8_0: left plain
    /// they would be most of a small model's file. llama.cpp's quantiser keeps them finer than the rest, too (Q6_K for the
    /// output matrix of a file of four bits).
    pub fn of(
        plan: GgufPlan,
        dtype: ExportDtype,
        grid: impl Fn(ParameterKind) -> Option<Grid>,
    ) -> Self {
        let plain = WrittenType::from(dtype);
        let on_grid = |kind| grid(kind).and_then(type_of_grid);
        let held = on_grid(ParameterKind::Linear);
        let linear = plan.linear.or(held).unwrap_or(plain);
        let is_rounded = linear.bits() < 16 && held != Some(linear);
        let beside = if is_rounded { WrittenType::Q8_0 } else { plain };
        let found = |kind| plan.embedding.or_else(|| on_grid(kind)).unwrap_or(beside);
        Self {
            linear,
            embedding: found(ParameterKind::Embedding),
            output: found(ParameterKind::Head),
        }
    }

    /// True if blocks of this kind of weight hold the codes and scales of a grid.
    pub fn holds(self, kind: ParameterKind, grid: Grid) -> bool {
        type_of_grid(grid) == Some(self.of_kind(kind))
    }

    /// Type of a weight. Rows that do not divide into whole blocks are stored in smaller ones, or else as F16.
    pub fn kind(self, kind: ParameterKind, columns: usize) -> WrittenType {
        let kind = self.of_kind(kind);
        let fits = |kind: &WrittenType| {
            let (block_len, _) = TensorType::from(*kind).block();
            columns.is_multiple_of(block_len)
        };
        let found = [kind, WrittenType::Q8_0].into_iter().find(fits);
        found.unwrap_or(WrittenType::F16)
    }

    /// Type of weights of a kind whose rows divide into whole blocks.
    pub fn of_kind(self, kind: ParameterKind) -> WrittenType {
        match kind {
            ParameterKind::Norm | ParameterKind::Bias | ParameterKind::Scale => WrittenType::F32,
            ParameterKind::Linear => self.linear,
            ParameterKind::Embedding => self.embedding,
            ParameterKind::Head => self.output,
        }
    }

    /// Type that holds most weights of the projections: it names the file.
    pub fn of_most(self, config: &DecoderConfig) -> WrittenType {
        let [mut asked, mut smaller] = [0, 0];
        let mut other = self.linear;
        for spec in tensor_specs(config) {
            let stored = self.kind(spec.kind(), spec.shape[1]);
            if spec.kind() != ParameterKind::Linear {
                continue;
            }
            if stored == self.linear {
                asked += spec.shape[0] * spec.shape[1];
            } else {
                smaller += spec.shape[0] * spec.shape[1];
                other = stored;
            }
        }
        if smaller > asked { other } else { self.linear }
    }

    /// Matrices whose rows are no whole blocks of the type asked for, such as `180 of 210 projections have rows that are no
    /// multiple of 256 and are Q8_0, not Q4_K`.
    pub fn fallen(self, config: &DecoderConfig) -> Vec<String> {
        let mut counts: BTreeMap<(&str, &str, &str, usize), usize> = BTreeMap::new();
        let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
        for spec in tensor_specs(config) {
            let what = match spec.kind() {
                ParameterKind::Linear => "projections",
                ParameterKind::Embedding => "embeddings",
                ParameterKind::Head => "output matrices",
                _ => continue,
            };
            *totals.entry(what).or_default() += 1;
            let (asked, stored) = (
                self.of_kind(spec.kind()),
                self.kind(spec.kind(), spec.shape[1]),
            );
            if stored != asked {
                let (block_len, _) = TensorType::from(asked).block();
                let entry = (what, asked.name(), stored.name(), block_len);
                *counts.entry(entry).or_default() += 1;
            }
        }
        let told = counts.into_iter().map(|((what, asked, stored, block_len), count)| {
            let total = totals[what];
            format!(
                "{count} of {total} {what} have rows that are no multiple of {block_len} and are {stored}, not {asked}"
            )
        });
        told.collect()
    }
}
