//! Limits of GPTQ's engines: 4 and 8 bits around 0, one scheme for all projections.

use crate::formats::limits::{Limits, NO_BIASES, Reason, VLLM_GROUPS};
use crate::formats::{ExportDtype, Format};
use crate::kernels::grid::Levels;
use crate::model::ParameterKind;

pub(super) static LIMITS: Limits = Limits {
    format: Format::Gptq,
    levels,
    kinds: &[ParameterKind::Linear],
    holds_whole_rows: true,
    groups: VLLM_GROUPS,
    word_axes: &[0, 1], // zeros of neighbouring rows share words
    holds_unlike_schemes: false,
};

fn levels(levels: Levels, _: ExportDtype) -> Option<Reason> {
    match levels {
        Levels::Symmetric { bits: 4 | 8 } => None,
        Levels::Affine { .. } => Some(NO_BIASES),
        Levels::Asymmetric { bits: 4 | 8 } => Some((
            "vLLM loads no GPTQ with zeros",
            "write `symmetric: true`, or `formats: [awq]` for 4 bits",
        )),
        _ => Some((
            "vLLM loads GPTQ of 4 and 8 bits only",
            "write `bits: 4` or `bits: 8`, or `formats: [compressed-tensors]`",
        )),
    }
}
