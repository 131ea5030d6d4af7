//! Limits of formats and of their engines, checked weight by weight before any work.

use std::fmt;

use super::{ExportDtype, Format, WriteError};
use crate::kernels::grid::Levels;
use crate::model::{DecoderConfig, ParameterKind, Scheme, Schemes, TensorSpec, tensor_specs};

/// Group sizes that vLLM has kernels for in GPTQ and AWQ (`MARLIN_SUPPORTED_GROUP_SIZES`, beside whole rows), and all
/// group sizes of MLX.
const GROUP_SIZES: [usize; 3] = [32, 64, 128];

/// Reason why a weight is refused, and the fix.
pub(super) type Reason = (&'static str, &'static str);

/// Refusal of biases that are not multiples of their scales: only MLX holds them.
pub(super) const NO_BIASES: Reason = (
    "its groups have integer zeros, not biases",
    "write `formats: [mlx]`",
);

/// Reason why a model does not go into a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The fact.
    pub fact: String,
    /// The fix: words to write instead.
    pub help: String,
}

impl Refusal {
    /// A weight that a format does not hold.
    pub(super) fn of_weight(
        format: Format,
        name: &str,
        scheme: Scheme,
        (because, help): Reason,
    ) -> Self {
        Self {
            fact: format!("`{format}` cannot hold `{name}`, {scheme}: {because}"),
            help: help.to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.fact, self.help)
    }
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}

/// Limits of a format whose engines take only some schemes.
pub(super) struct Limits {
    pub(super) format: Format,
    /// Reason to refuse levels, if there is one.
    pub(super) levels: fn(Levels, ExportDtype) -> Option<Reason>,
    /// Weights that may be on grids.
    pub(super) kinds: &'static [ParameterKind],
    /// True if a group may be a whole row.
    pub(super) holds_whole_rows: bool,
    /// Reason to refuse groups other than `GROUP_SIZES`.
    pub(super) groups: Reason,
    /// Axes of a weight along which codes share words of 32 bits.
    pub(super) word_axes: &'static [usize],
    /// True if projections may have different schemes.
    pub(super) holds_unlike_schemes: bool,
}

impl Limits {
    /// Refusal of the first weight that the format cannot hold, or that its engines would refuse, with a fix.
    pub(super) fn refusal(
        &self,
        schemes: &Schemes,
        dtype: ExportDtype,
        config: &DecoderConfig,
    ) -> Option<Refusal> {
        let format = self.format;
        if schemes.is_empty() {
            return Some(Refusal {
                fact: format!("`{format}` holds quantised weights, but this model has none"),
                help: "quantise it first, or write `huggingface`".to_owned(),
            });
        }
        let specs = tensor_specs(config);
        let of_weight = specs.iter().find_map(|spec| {
            let scheme = *schemes.get(&spec.id())?;
            let reason = self.mismatch(spec, scheme, dtype)?;
            Some(Refusal::of_weight(format, &spec.name, scheme, reason))
        });
        of_weight.or_else(|| self.unlike(schemes, &specs))
    }

    fn mismatch(&self, spec: &TensorSpec, scheme: Scheme, dtype: ExportDtype) -> Option<Reason> {
        if scheme.input.is_some() {
            return Some((
                "it cannot store that activations are rounded",
                "write `activations: none`, or `formats: [compressed-tensors]`",
            ));
        }
        if !self.kinds.contains(&spec.kind()) {
            return Some((
                "its engines keep embedding and output matrix plain",
                "leave it plain, or write `formats: [mlx]`",
            ));
        }
        (self.levels)(scheme.weight.levels, dtype).or_else(|| self.shape(spec, scheme))
    }

    fn shape(&self, spec: &TensorSpec, scheme: Scheme) -> Option<Reason> {
        let group_size = scheme.weight.group_size;
        if !group_size.map_or(self.holds_whole_rows, |size| GROUP_SIZES.contains(&size)) {
            return Some(self.groups);
        }
        let bits = scheme.weight.levels.bits() as usize;
        let mut axes = self.word_axes.iter();
        let is_whole = axes.all(|&axis| (spec.shape[axis] * bits).is_multiple_of(32));
        (!is_whole).then_some((
            "its codes do not fill words of 32 bits",
            "write `formats: [compressed-tensors]`",
        ))
    }

    fn unlike(&self, schemes: &Schemes, specs: &[TensorSpec]) -> Option<Refusal> {
        if self.holds_unlike_schemes {
            return None;
        }
        let mut linear = specs
            .iter()
            .filter(|spec| spec.kind() == ParameterKind::Linear);
        let first = linear.next()?;
        let scheme = schemes.get(&first.id());
        let other = linear.find(|spec| schemes.get(&spec.id()) != scheme)?;
        let described = |spec: &TensorSpec| match schemes.get(&spec.id()) {
            Some(scheme) => scheme.to_string(),
            None => "not quantised".to_owned(),
        };
        Some(Refusal {
            fact: format!(
                "`{}` has one scheme for all projections, but `{}` is {}, and `{}` is {}",
                self.format,
                first.name,
                described(first),
                other.name,
                described(other)
            ),
            help: "delete the overrides, or write `formats: [compressed-tensors]` or `[mlx]`"
                .to_owned(),
        })
    }
}

/// Refusal of groups that vLLM has no kernels for.
pub(super) const VLLM_GROUPS: Reason = (
    "vLLM loads groups of 32, 64 and 128, and whole rows",
    "write one of these or `channel` as `group_size`",
);
