//! What a container cannot hold, or no engine takes from it: told before the work, by weight.

use std::fmt;

use super::super::ExportError;
use super::Container;
use crate::export::{ExportDtype, ExportFormat};
use crate::kernels::grid::Levels;
use crate::model::{DecoderConfig, ParameterKind, Scheme, Schemes, TensorSpec, tensor_specs};

/// Groups that vLLM has kernels for in GPTQ and AWQ (`MARLIN_SUPPORTED_GROUP_SIZES`, beside whole rows), and all that MLX
/// has.
const GROUP_SIZES: [usize; 3] = [32, 64, 128];

/// Why biases that are no multiples of their scales leave as MLX alone.
const NO_BIASES: (&str, &str) = (
    "its groups have whole zeros, and no biases",
    "write `formats: [mlx]`",
);

/// Why a model does not go into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The fact.
    pub fact: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.fact, self.help)
    }
}

impl From<Refusal> for ExportError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}

/// The first weight that a format cannot hold, or that its engines would refuse, and what to do about it; what has no codes
/// holds all.
pub fn refusal_by(
    format: ExportFormat,
    schemes: &Schemes,
    dtype: ExportDtype,
    config: &DecoderConfig,
) -> Option<Refusal> {
    match Container::of(format) {
        Some(container) => refusal(container, schemes, dtype, config),
        None if format == ExportFormat::CompressedTensors => {
            of_embedding(schemes, config).or_else(|| with_biases(schemes, config))
        }
        None => None,
    }
}

/// compressed-tensors has quantised linear layers, of which the untied head is one; engines look up embeddings plain.
fn of_embedding(schemes: &Schemes, config: &DecoderConfig) -> Option<Refusal> {
    let specs = tensor_specs(config);
    let mut embeddings = specs
        .iter()
        .filter(|spec| spec.kind() == ParameterKind::Embedding);
    let (name, scheme) =
        embeddings.find_map(|spec| Some((&spec.name, schemes.get(&spec.id())?)))?;
    Some(Refusal {
        fact: format!(
            "`compressed-tensors` cannot hold `{name}`, {scheme}: its engines look up plain embeddings"
        ),
        help: "leave the embedding plain, or write `formats: [mlx]` or `[gguf]`".to_owned(),
    })
}

/// compressed-tensors has whole zeros.
fn with_biases(schemes: &Schemes, config: &DecoderConfig) -> Option<Refusal> {
    let specs = tensor_specs(config).into_iter();
    let mut on_grids = specs.filter_map(|spec| Some((schemes.get(&spec.id())?, spec.name)));
    let is_affine = |scheme: &Scheme| matches!(scheme.weight.levels, Levels::Affine { .. });
    let (scheme, name) = on_grids.find(|(scheme, _)| is_affine(scheme))?;
    let (because, help) = NO_BIASES;
    Some(Refusal {
        fact: format!("`compressed-tensors` cannot hold `{name}`, {scheme}: {because}"),
        help: help.to_owned(),
    })
}

/// The first weight that a container cannot hold, or that its engines would refuse, and what to do about it.
pub fn refusal(
    container: Container,
    schemes: &Schemes,
    dtype: ExportDtype,
    config: &DecoderConfig,
) -> Option<Refusal> {
    let name = container.name();
    if schemes.is_empty() {
        return Some(Refusal {
            fact: format!("`{name}` holds quantised weights, but none of this model is"),
            help: "quantise it first, or write `huggingface`".to_owned(),
        });
    }
    let specs = tensor_specs(config);
    let of_weight = specs.iter().find_map(|spec| {
        let scheme = *schemes.get(&spec.id())?;
        let (because, help) = mismatch(container, spec, scheme, dtype)?;
        Some(Refusal {
            fact: format!("`{name}` cannot hold `{}`, {scheme}: {because}", spec.name),
            help: help.to_owned(),
        })
    });
    of_weight.or_else(|| unlike(container, schemes, &specs))
}

/// What is wrong with a weight, and how to mend it.
fn mismatch(
    container: Container,
    spec: &TensorSpec,
    scheme: Scheme,
    dtype: ExportDtype,
) -> Option<(&'static str, &'static str)> {
    if scheme.input.is_some() {
        return Some((
            "it has no place for rounded activations",
            "write `activations: none`, or `formats: [compressed-tensors]`",
        ));
    }
    if container != Container::Mlx && spec.kind() != ParameterKind::Linear {
        return Some((
            "its engines keep embedding and output matrix plain",
            "keep it plain, too, or write `formats: [mlx]`",
        ));
    }
    levels(container, scheme.weight.levels, dtype).or_else(|| groups(container, spec, scheme))
}

fn levels(
    container: Container,
    levels: Levels,
    dtype: ExportDtype,
) -> Option<(&'static str, &'static str)> {
    match (container, levels) {
        (Container::Gptq, Levels::Symmetric { bits: 4 | 8 })
        | (Container::Awq, Levels::Symmetric { bits: 4 } | Levels::Asymmetric { bits: 4 })
        | (
            Container::Mlx,
            Levels::Symmetric { bits: 2..=6 | 8 }
            | Levels::Affine { .. }
            | Levels::Ternary
            | Levels::Stretched,
        ) => None,
        (Container::Gptq | Container::Awq, Levels::Affine { .. }) => Some(NO_BIASES),
        (Container::Gptq, Levels::Asymmetric { bits: 4 | 8 }) => Some((
            "vLLM takes no GPTQ with zeros",
            "write `symmetric: true`, or `formats: [awq]` for 4 bits",
        )),
        (Container::Gptq, _) => Some((
            "vLLM takes GPTQ of 4 and 8 bits",
            "write `bits: 4` or `bits: 8`, or `formats: [compressed-tensors]`",
        )),
        (Container::Awq, _) => Some((
            "it has 4 bits",
            "write `bits: 4`, or `formats: [compressed-tensors]`",
        )),
        (Container::Mlx, Levels::Asymmetric { bits: 2..=6 | 8 }) => match dtype {
            ExportDtype::F32 => None,
            ExportDtype::Bf16 | ExportDtype::F16 => Some((
                "the bias of a group, zero times scale, is no bf16",
                "write `dtype: f32` under `export`, or `symmetric: true`",
            )),
        },
        (Container::Mlx, _) => Some((
            "its codes are whole numbers of 2, 3, 4, 5, 6 or 8 bits",
            "write `type: int` with such `bits`, or `formats: [compressed-tensors]`",
        )),
    }
}

fn groups(
    container: Container,
    spec: &TensorSpec,
    scheme: Scheme,
) -> Option<(&'static str, &'static str)> {
    let [rows, cols] = spec.shape;
    let holds = match (container, scheme.weight.group_size) {
        (_, Some(size)) => GROUP_SIZES.contains(&size),
        (Container::Mlx, None) => false,
        (Container::Gptq | Container::Awq, None) => true,
    };
    if !holds {
        return Some(match container {
            Container::Mlx => (
                "MLX takes groups of 32, 64 and 128",
                "write one of these as `group_size`",
            ),
            Container::Gptq | Container::Awq => (
                "vLLM takes groups of 32, 64 and 128, and whole rows",
                "write one of these or `channel` as `group_size`",
            ),
        });
    }
    let fills_words =
        |codes: usize| (codes * scheme.weight.levels.bits() as usize).is_multiple_of(32);
    // Zeros stand beside each other row by row, as do codes of AWQ.
    let is_whole = match container {
        Container::Gptq => fills_words(rows) && fills_words(cols),
        Container::Awq => fills_words(rows),
        Container::Mlx => fills_words(cols),
    };
    (!is_whole).then_some((
        "its codes do not fill words of 32 bits",
        "write `formats: [compressed-tensors]`",
    ))
}

/// GPTQ and AWQ have one scheme for all projections.
fn unlike(container: Container, schemes: &Schemes, specs: &[TensorSpec]) -> Option<Refusal> {
    if container == Container::Mlx {
        return None;
    }
    let mut linear = specs
        .iter()
        .filter(|spec| spec.kind() == ParameterKind::Linear);
    let first = linear.next()?;
    let scheme = schemes.get(&first.id());
    let other = linear.find(|spec| schemes.get(&spec.id()) != scheme)?;
    let told = |spec: &TensorSpec| match schemes.get(&spec.id()) {
        Some(scheme) => scheme.to_string(),
        None => "not quantised".to_owned(),
    };
    Some(Refusal {
        fact: format!(
            "`{}` has one scheme for all projections, but `{}` is {}, and `{}` is {}",
            container.name(),
            first.name,
            told(first),
            other.name,
            told(other)
        ),
        help: "delete the overrides, or write `formats: [compressed-tensors]` or `[mlx]`"
            .to_owned(),
    })
}
