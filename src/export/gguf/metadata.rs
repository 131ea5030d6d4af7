//! What a GGUF file says of a decoder: the keys that llama.cpp's converter writes.

use super::super::{ExportError, License};
use crate::gguf::{NewValue, TensorType};
use crate::model::{Architecture, DecoderConfig, LayerType, Rope, RopeScaling};

/// Version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Name of a family in `general.architecture`; Mistral is a Llama there.
pub(super) fn family(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
        Architecture::Gemma => "gemma",
        Architecture::Gemma2 => "gemma2",
        Architecture::Gemma3 => "gemma3",
    }
}

/// llama.cpp's number for a file whose matrices are mostly of one type (`LLAMA_FTYPE_*`); `None` if there is none.
fn file_type(kind: TensorType) -> Option<u32> {
    Some(match kind {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_0 => 2,
        TensorType::Q4_1 => 3,
        TensorType::Q8_0 => 7,
        TensorType::Q4_K => 14, // Q4_K_S: every matrix of a layer is Q4_K
        TensorType::BF16 => 32,
        _ => return None,
    })
}

/// Keys and values of an architecture.
///
/// # Errors
///
/// What llama.cpp would compute otherwise than the student: it knows some settings by heart and reads no key for them.
pub(super) fn metadata(
    config: &DecoderConfig,
    name: &str,
    kind: TensorType,
) -> Result<Vec<(String, NewValue)>, ExportError> {
    check(config)?;
    let family = family(config.architecture);
    let mut metadata = vec![
        ("general.architecture".to_owned(), text(family)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(name)),
        (
            "general.quantization_version".to_owned(),
            NewValue::U32(QUANTIZATION_VERSION),
        ),
    ];
    if let Some(number) = file_type(kind) {
        metadata.push(("general.file_type".to_owned(), NewValue::U32(number)));
    }
    let mut put = |key: &str, value| metadata.push((format!("{family}.{key}"), value));
    put("block_count", size(config.num_hidden_layers));
    put("context_length", size(context_length(config)));
    put("embedding_length", size(config.hidden_size));
    put("feed_forward_length", size(config.intermediate_size));
    put("attention.head_count", size(config.num_attention_heads));
    put("attention.head_count_kv", size(config.num_key_value_heads));
    put("attention.key_length", size(config.head_dim));
    put("attention.value_length", size(config.head_dim));
    put(
        "attention.layer_norm_rms_epsilon",
        number(config.rms_norm_eps),
    );
    put("vocab_size", size(config.vocab_size));
    put("rope.dimension_count", size(config.head_dim));
    put("rope.freq_base", number(config.rope.theta));
    for (key, value) in scaling(&config.rope.scaling) {
        put(key, value);
    }
    if let Some(local) = &config.local_rope {
        put("rope.freq_base_swa", number(local.theta));
    }
    if slides_in_llama_cpp(config.architecture) {
        if let Some(window) = config.sliding_window {
            put("attention.sliding_window", size(window));
        }
        let slides = config
            .layer_types
            .iter()
            .map(|kind| *kind == LayerType::Sliding);
        put(
            "attention.sliding_window_pattern",
            NewValue::Bools(slides.collect()),
        );
    }
    let caps = [
        ("attn_logit_softcapping", config.attn_logit_softcapping),
        ("final_logit_softcapping", config.final_logit_softcapping),
    ];
    for (key, cap) in caps {
        if let Some(cap) = cap {
            put(key, number(cap));
        }
    }
    Ok(metadata)
}

/// Keys of a licence.
pub(super) fn license(license: &License) -> Vec<(String, NewValue)> {
    let parts = [
        ("general.license", Some(&license.id)),
        ("general.license.name", license.name.as_ref()),
        ("general.license.link", license.link.as_ref()),
    ];
    let written = parts.into_iter();
    written
        .filter_map(|(key, value)| Some((key.to_owned(), text(value?))))
        .collect()
}

fn text(text: &str) -> NewValue {
    NewValue::Text(text.to_owned())
}

fn size(size: usize) -> NewValue {
    NewValue::U32(u32::try_from(size).expect("sizes of a config are below 2^31"))
}

#[expect(clippy::cast_possible_truncation, reason = "files hold f32")]
fn number(number: f64) -> NewValue {
    NewValue::F32(number as f32)
}

/// Whether llama.cpp computes sliding layers for the family.
fn slides_in_llama_cpp(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3)
}

/// Positions for which llama.cpp computes the same as the student: where it sees all positions, as many as a window has.
fn context_length(config: &DecoderConfig) -> usize {
    let window = config
        .sliding_window
        .filter(|_| !slides_in_llama_cpp(config.architecture))
        .filter(|_| config.layer_types.contains(&LayerType::Sliding));
    let most = config.max_position_embeddings;
    window.map_or(most, |window| window.min(most))
}

/// Keys of a change of wavelengths; that of Llama 3 stands in a tensor.
fn scaling(scaling: &RopeScaling) -> Vec<(&'static str, NewValue)> {
    let (kind, factor) = match *scaling {
        RopeScaling::Default | RopeScaling::Llama3 { .. } => return Vec::new(),
        RopeScaling::Linear { factor } => ("linear", factor),
        RopeScaling::Yarn { factor, .. } => ("yarn", factor),
    };
    let mut keys = vec![
        ("rope.scaling.type", text(kind)),
        ("rope.scaling.factor", number(factor)),
    ];
    if let RopeScaling::Yarn {
        original_max_position_embeddings: context,
        ..
    } = *scaling
    {
        keys.push(("rope.scaling.original_context_length", size(context)));
    }
    keys
}

/// Divisors of the rotary frequencies, one per pair of dimensions: what Llama 3's scaling is in a file.
pub(super) fn rope_divisors(
    rope: &Rope,
    frequencies: impl Fn(&Rope) -> Vec<f32>,
) -> Option<Vec<f32>> {
    if !matches!(rope.scaling, RopeScaling::Llama3 { .. }) {
        return None;
    }
    let plain = Rope {
        theta: rope.theta,
        scaling: RopeScaling::Default,
    };
    let pairs = frequencies(&plain).into_iter().zip(frequencies(rope));
    Some(pairs.map(|(plain, scaled)| plain / scaled).collect())
}

/// The settings that llama.cpp knows by heart are the student's.
fn check(config: &DecoderConfig) -> Result<(), ExportError> {
    use Architecture::{Gemma2, Gemma3};
    let refuse = |key, found: String| Err(ExportError::NotInGguf { key, found });
    if config.architecture.has_output_norms()
        && config.query_pre_attn_scalar != query_scalar(config)
    {
        return refuse(
            "query_pre_attn_scalar",
            config.query_pre_attn_scalar.to_string(),
        );
    }
    let alternates = |kinds: &[LayerType]| {
        let first = [LayerType::Sliding, LayerType::Full].into_iter().cycle();
        kinds.iter().zip(first).all(|(kind, want)| *kind == want)
    };
    if config.architecture == Gemma2 && !alternates(&config.layer_types) {
        return refuse("layer_types", format!("{:?}", config.layer_types));
    }
    if config.architecture == Gemma3 && config.local_rope.as_ref().is_some_and(is_scaled) {
        return refuse("rope of sliding layers", format!("{:?}", config.local_rope));
    }
    if let RopeScaling::Yarn {
        factor,
        attention_factor,
        beta_fast,
        beta_slow,
        truncate,
        ..
    } = config.rope.scaling
    {
        let growth = RopeScaling::yarn_growth(factor, 1.0);
        let is_usual = (attention_factor - growth).abs() < 1e-6
            && (beta_fast, beta_slow, truncate) == (32.0, 1.0, true);
        if !is_usual {
            return refuse("rope_scaling", format!("{:?}", config.rope.scaling));
        }
    }
    Ok(())
}

fn is_scaled(rope: &Rope) -> bool {
    rope.scaling != RopeScaling::Default
}

/// What llama.cpp divides scores by the root of: the two of 27 B parameters, which it tells by their layers, take the
/// hidden size per head, all others the size of a head.
fn query_scalar(config: &DecoderConfig) -> usize {
    let is_largest = matches!(
        (config.architecture, config.num_hidden_layers),
        (Architecture::Gemma2, 46) | (Architecture::Gemma3, 62)
    );
    if is_largest {
        config.hidden_size / config.num_attention_heads
    } else {
        config.head_dim
    }
}
