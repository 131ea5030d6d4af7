//! Limits of MLX: integers of most widths; each module may have its own width.

use crate::formats::limits::{Limits, Reason};
use crate::formats::{ExportDtype, Format};
use crate::kernels::grid::Levels;
use crate::model::ParameterKind;

pub(super) static LIMITS: Limits = Limits {
    format: Format::Mlx,
    levels,
    kinds: &[
        ParameterKind::Linear,
        ParameterKind::Embedding,
        ParameterKind::Head,
    ],
    holds_whole_rows: false,
    groups: (
        "MLX loads groups of 32, 64 and 128",
        "write one of these as `group_size`",
    ),
    word_axes: &[1],
    holds_unlike_schemes: true,
};

fn levels(levels: Levels, dtype: ExportDtype) -> Option<Reason> {
    match levels {
        Levels::Symmetric { bits: 2..=6 | 8 }
        | Levels::Affine { .. }
        | Levels::Ternary
        | Levels::Stretched => None,
        Levels::Asymmetric { bits: 2..=6 | 8 } => match dtype {
            ExportDtype::F32 => None,
            ExportDtype::Bf16 | ExportDtype::F16 => Some((
                "the bias of a group, zero times scale, is not exact in bf16",
                "write `dtype: f32` under `export`, or `symmetric: true`",
            )),
        },
        _ => Some((
            "its codes are whole numbers of 2, 3, 4, 5, 6 or 8 bits",
            "write `type: int` with such `bits`, or `formats: [compressed-tensors]`",
        )),
    }
}
