//! Limits of compressed-tensors: it holds neither quantised embeddings nor biases of groups.

use crate::formats::limits::{NO_BIASES, Reason, Refusal};
use crate::formats::{ExportDtype, Format};
use crate::kernels::grid::Levels;
use crate::model::{DecoderConfig, ParameterKind, Scheme, Schemes, TensorSpec, tensor_specs};

/// Refusal of a quantised embedding, which engines look up plain. Linear layers are held, among them the untied head.
const NO_EMBEDDING: Reason = (
    "its engines look up plain embeddings",
    "leave the embedding plain, or write `formats: [mlx]` or `[gguf]`",
);

pub(super) fn refusal(
    schemes: &Schemes,
    _: ExportDtype,
    config: &DecoderConfig,
) -> Option<Refusal> {
    let specs = tensor_specs(config);
    let first = |is_refused: &dyn Fn(&TensorSpec, Scheme) -> bool, reason| {
        let mut on_grids = specs
            .iter()
            .filter_map(|spec| Some((spec, *schemes.get(&spec.id())?)));
        let (spec, scheme) = on_grids.find(|(spec, scheme)| is_refused(spec, *scheme))?;
        let format = Format::CompressedTensors;
        Some(Refusal::of_weight(format, &spec.name, scheme, reason))
    };
    let embedding = |spec: &TensorSpec, _| spec.kind() == ParameterKind::Embedding;
    let has_biases =
        |_: &TensorSpec, scheme: Scheme| matches!(scheme.weight.levels, Levels::Affine { .. });
    first(&embedding, NO_EMBEDDING).or_else(|| first(&has_biases, NO_BIASES))
}
