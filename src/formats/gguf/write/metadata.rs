//! Metadata of a decoder in a GGUF file: the keys that llama.cpp's converter writes.

use super::super::{ROPE_FACTORS, ROPE_FREQS};
use crate::formats::WriteError;
use crate::gguf::{NewValue, WrittenType};
use crate::license::License;
use crate::model::families::NotInGguf;
use crate::model::rope::inverse_frequencies;
use crate::model::{DecoderConfig, LayerType, Rope, RopeScaling};

/// Version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// llama.cpp's number for a file whose matrices are mostly of one type (`LLAMA_FTYPE_*`).
fn file_type(kind: WrittenType) -> u32 {
    match kind {
        WrittenType::F32 => 0,
        WrittenType::F16 => 1,
        WrittenType::Q4_0 => 2,
        WrittenType::Q4_1 => 3,
        WrittenType::Q8_0 => 7,
        WrittenType::Q4_K => 14, // Q4_K_S: every matrix of a layer is Q4_K
        WrittenType::Bf16 => 32,
    }
}

/// Keys and values of an architecture.
///
/// # Errors
///
/// Refuses settings that llama.cpp computes differently from the student: it hard-codes some and reads no key for them.
pub(super) fn metadata(
    config: &DecoderConfig,
    name: &str,
    kind: WrittenType,
) -> Result<Vec<(String, NewValue)>, WriteError> {
    let gguf = &config.family().gguf;
    let own = (gguf.write)(config)
        .map_err(|NotInGguf { key, found }| WriteError::NotInGguf { key, found })?;
    check_rope(&config.rope)?;
    let family = gguf.name;
    let mut metadata = vec![
        ("general.architecture".to_owned(), NewValue::text(family)),
        ("general.type".to_owned(), NewValue::text("model")),
        ("general.name".to_owned(), NewValue::text(name)),
        (
            "general.quantization_version".to_owned(),
            NewValue::U32(QUANTIZATION_VERSION),
        ),
        (
            "general.file_type".to_owned(),
            NewValue::U32(file_type(kind)),
        ),
    ];
    let mut put = |key: &str, value| metadata.push((format!("{family}.{key}"), value));
    put("block_count", NewValue::size(config.num_hidden_layers));
    put("context_length", NewValue::size(context_length(config)));
    put("embedding_length", NewValue::size(config.hidden_size));
    put(
        "feed_forward_length",
        NewValue::size(config.intermediate_size),
    );
    put(
        "attention.head_count",
        NewValue::size(config.num_attention_heads),
    );
    put(
        "attention.head_count_kv",
        NewValue::size(config.num_key_value_heads),
    );
    put("attention.key_length", NewValue::size(config.head_dim));
    put("attention.value_length", NewValue::size(config.head_dim));
    put(
        "attention.layer_norm_rms_epsilon",
        NewValue::number(config.rms_norm_eps),
    );
    put("vocab_size", NewValue::size(config.vocab_size));
    let rotary_dims = config.rope.dims(config.head_dim);
    put("rope.dimension_count", NewValue::size(rotary_dims));
    put("rope.freq_base", NewValue::number(config.rope.theta));
    for (key, value) in scaling(&config.rope.scaling) {
        put(key, value);
    }
    for (key, value) in own {
        put(key, value);
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
        .filter_map(|(key, value)| Some((key.to_owned(), NewValue::text(value?))))
        .collect()
}

/// Positions for which llama.cpp computes the same as the student: one window at most if it attends to all of them.
fn context_length(config: &DecoderConfig) -> usize {
    let window = config
        .sliding_window
        .filter(|_| !config.family().gguf.slides)
        .filter(|_| config.layer_types.contains(&LayerType::Sliding));
    let most = config.max_position_embeddings;
    window.map_or(most, |window| window.min(most))
}

/// Keys of a scaling of wavelengths. Llama 3's is in a tensor instead, and the factors of `LongRoPE` are in two.
fn scaling(scaling: &RopeScaling) -> Vec<(&'static str, NewValue)> {
    let (kind, factor) = match *scaling {
        RopeScaling::Default | RopeScaling::Llama3 { .. } => return Vec::new(),
        RopeScaling::LongRope {
            attention_factor,
            original_max_position_embeddings: context,
            ..
        } => {
            return vec![
                ("rope.scaling.type", NewValue::text("longrope")),
                (
                    "rope.scaling.attn_factor",
                    NewValue::number(attention_factor),
                ),
                (
                    "rope.scaling.original_context_length",
                    NewValue::size(context),
                ),
            ];
        }
        RopeScaling::Linear { factor } => ("linear", factor),
        RopeScaling::Yarn { factor, .. } => ("yarn", factor),
    };
    let mut keys = vec![
        ("rope.scaling.type", NewValue::text(kind)),
        ("rope.scaling.factor", NewValue::number(factor)),
    ];
    if let RopeScaling::Yarn {
        original_max_position_embeddings: context,
        ..
    } = *scaling
    {
        keys.push((
            "rope.scaling.original_context_length",
            NewValue::size(context),
        ));
    }
    keys
}

/// Tensors of divisors of the rotary frequencies, one divisor per pair of dimensions. They hold Llama 3's scaling and
/// `LongRoPE` in a file.
pub(super) fn rope_divisors(config: &DecoderConfig) -> Vec<(&'static str, Vec<f32>)> {
    let rope = &config.rope;
    match &rope.scaling {
        RopeScaling::Llama3 { .. } => {
            let plain = Rope {
                scaling: RopeScaling::Default,
                ..rope.clone()
            };
            let [plain, scaled] =
                [&plain, rope].map(|rope| inverse_frequencies(rope, config.head_dim, 1));
            let pairs = plain.into_iter().zip(scaled);
            let divisors = pairs.map(|(plain, scaled)| plain / scaled).collect();
            vec![(ROPE_FREQS, divisors)]
        }
        RopeScaling::LongRope {
            short_factor,
            long_factor,
            ..
        } => {
            let factors = [short_factor, long_factor].map(Clone::clone);
            ROPE_FACTORS.into_iter().zip(factors).collect()
        }
        RopeScaling::Default | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => Vec::new(),
    }
}

/// Refuses `YaRN` settings that differ from the ones that llama.cpp hard-codes.
fn check_rope(rope: &Rope) -> Result<(), WriteError> {
    let RopeScaling::Yarn {
        factor,
        attention_factor,
        beta_fast,
        beta_slow,
        truncate,
        ..
    } = rope.scaling
    else {
        return Ok(());
    };
    let growth = RopeScaling::yarn_growth(factor, 1.0);
    let is_usual = (attention_factor - growth).abs() < 1e-6
        && (beta_fast, beta_slow, truncate) == (32.0, 1.0, true);
    if is_usual {
        return Ok(());
    }
    Err(WriteError::NotInGguf {
        key: "rope_scaling",
        found: format!("{:?}", rope.scaling),
    })
}
