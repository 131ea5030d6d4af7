//! Limits of AWQ's engines: 4 bits, one scheme for all projections.

use crate::formats::limits::{Limits, NO_BIASES, Reason, VLLM_GROUPS};
use crate::formats::{ExportDtype, Format};
use crate::kernels::grid::Levels;
use crate::model::ParameterKind;

pub(super) static LIMITS: Limits = Limits {
    format: Format::Awq,
    levels,
    kinds: &[ParameterKind::Linear],
    holds_whole_rows: true,
    groups: VLLM_GROUPS,
    word_axes: &[0],
    holds_unlike_schemes: false,
};

fn levels(levels: Levels, _: ExportDtype) -> Option<Reason> {
    match levels {
        Levels::Symmetric { bits: 4 } | Levels::Asymmetric { bits: 4 } => None,
        Levels::Affine { .. } => Some(NO_BIASES),
        _ => Some((
            "its codes have 4 bits",
            "write `bits: 4`, or `formats: [compressed-tensors]`",
        )),
    }
}
