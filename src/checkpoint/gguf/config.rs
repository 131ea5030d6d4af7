//! The `config.json` that a GGUF file was converted from, out of its metadata.

use serde_json::{Map, Value, json};

use super::super::CheckpointError;
use super::Family;
use super::rope::llama3_scaling;
use crate::gguf::{self, GgufError, GgufFile};
use crate::model::Architecture;

/// Divisors of the rotary frequencies, one per pair of dimensions.
pub const ROPE_FREQS: &str = "rope_freqs.weight";
const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// Keys, after the family's name, that change what a model computes and that no family read here has.
const FOREIGN_KEYS: [&str; 11] = [
    "expert_count",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
];

/// Metadata of one family: keys begin with its name.
struct Keys<'a> {
    file: &'a GgufFile,
    family: Family,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, GgufError> {
        self.file.unsigned(&self.key(name))
    }

    fn required_size(&self, name: &str) -> Result<u64, GgufError> {
        self.file.required(&self.key(name), self.size(name)?)
    }

    fn number(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.file.float(&self.key(name))
    }
}

/// What `config.json` would say of this file.
///
/// What llama.cpp knows by heart and no file says (Gemma's activation, the scale of its attention, the order of its
/// layers) is written out.
pub(super) fn config_json(file: &GgufFile, family: Family) -> Result<Value, CheckpointError> {
    let keys = Keys { file, family };
    for name in FOREIGN_KEYS {
        let key = keys.key(name);
        let is_off = matches!(file.value(&key), None | Some(gguf::Value::Integer(0)));
        if !is_off {
            return Err(file
                .wrong_value(&key, "absent: alambic has no such part")
                .into());
        }
    }
    let hidden_size = keys.required_size("embedding_length")?;
    let num_heads = keys.required_size("attention.head_count")?;
    let head_dim = head_dim(&keys, hidden_size, num_heads)?;
    let eps = "attention.layer_norm_rms_epsilon";
    let eps = file.required(&keys.key(eps), keys.number(eps)?)?;
    let vocab_size = file.info(EMBEDDING).and_then(|info| info.shape.first());
    let vocab_size = vocab_size.ok_or_else(|| CheckpointError::MissingTensor {
        dir: file.path().to_path_buf(),
        tensor: EMBEDDING.to_owned(),
    })?;
    let (rope_theta, rope_scaling) = rope(&keys)?;
    let json = json!({
        "architectures": [family.architecture.class_name()],
        "model_type": family.architecture.model_type(),
        "vocab_size": vocab_size, // the rows that are there, filling included
        "hidden_size": hidden_size,
        "intermediate_size": keys.required_size("feed_forward_length")?,
        "num_hidden_layers": keys.required_size("block_count")?,
        "num_attention_heads": num_heads,
        "num_key_value_heads": keys.size("attention.head_count_kv")?.unwrap_or(num_heads),
        "head_dim": head_dim,
        "rms_norm_eps": eps,
        "max_position_embeddings": keys.required_size("context_length")?,
        "rope_theta": rope_theta,
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": file.info(HEAD).is_none(),
        "bos_token_id": file.unsigned("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": eos_token_ids(file)?,
        "pad_token_id": file.unsigned("tokenizer.ggml.padding_token_id")?,
    });
    let Value::Object(mut json) = json else {
        unreachable!("it is an object")
    };
    if family.architecture.is_gemma() {
        gemma(&keys, &mut json, hidden_size / num_heads.max(1), head_dim)?;
    }
    Ok(Value::Object(json))
}

/// Size of one head, the same for queries, keys and values, all of it turned.
fn head_dim(keys: &Keys<'_>, hidden_size: u64, num_heads: u64) -> Result<u64, GgufError> {
    let head_dim = match keys.size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let key = keys.key("attention.head_count");
            let want = format!("a divisor of the hidden size {hidden_size}");
            return Err(keys.file.wrong_value(&key, want));
        }
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if keys.size(name)?.is_some_and(|size| size != head_dim) {
            let want = format!("{head_dim}, the size of a head");
            return Err(keys.file.wrong_value(&keys.key(name), want));
        }
    }
    Ok(head_dim)
}

/// `rope_theta` and `rope_scaling`.
///
/// A kind of scaling that the decoder lacks is handed on by its name, under which `config.json` is refused.
fn rope(keys: &Keys<'_>) -> Result<(f64, Value), CheckpointError> {
    let file = keys.file;
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0); // llama.cpp's default
    if file.info(ROPE_FREQS).is_some() {
        let divisors: Vec<f64> = file.f32s(ROPE_FREQS)?.into_iter().map(f64::from).collect();
        let scaling = llama3_scaling(&divisors, theta);
        let scaling = scaling.ok_or_else(|| CheckpointError::UnknownRope {
            path: file.path().to_path_buf(),
            tensor: ROPE_FREQS.to_owned(),
        })?;
        return Ok((theta, scaling));
    }
    let kind = file.text(&keys.key("rope.scaling.type"))?;
    let factor = match keys.number("rope.scaling.factor")? {
        None => keys.number("rope.scale_linear")?, // before there was a type
        factor => factor,
    };
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None, None) => Value::Null,
        (Some("yarn"), factor) => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": keys.size("rope.scaling.original_context_length")?,
            "beta_fast": keys.number("rope.scaling.yarn_beta_fast")?,
            "beta_slow": keys.number("rope.scaling.yarn_beta_slow")?,
        }),
        (kind, factor) => json!({ "rope_type": kind.unwrap_or("linear"), "factor": factor }),
    };
    Ok((theta, scaling))
}

/// End-of-text ids: the one of the model, then those that end a turn or a message of a chat.
fn eos_token_ids(file: &GgufFile) -> Result<Value, GgufError> {
    let mut ids: Vec<u64> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let id = file.unsigned(&format!("tokenizer.ggml.{name}_token_id"))?;
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    Ok(match ids.as_slice() {
        [] => Value::Null,
        [id] => json!(id),
        _ => json!(ids),
    })
}

/// What sets Gemma apart.
fn gemma(
    keys: &Keys<'_>,
    json: &mut Map<String, Value>,
    hidden_per_head: u64,
    head_dim: u64,
) -> Result<(), GgufError> {
    let architecture = keys.family.architecture;
    let mut set = |key: &str, value: Value| json.insert(key.to_owned(), value);
    set("hidden_act", json!("gelu_pytorch_tanh"));
    set("hidden_activation", json!("gelu_pytorch_tanh"));
    if architecture == Architecture::Gemma {
        return Ok(());
    }
    let num_layers = keys.required_size("block_count")?;
    // The two of 27 B parameters scale attention by the hidden size per head; layers are how llama.cpp tells them.
    let is_largest = matches!(
        (architecture, num_layers),
        (Architecture::Gemma2, 46) | (Architecture::Gemma3, 62)
    );
    let scalar = if is_largest {
        hidden_per_head
    } else {
        head_dim
    };
    set("query_pre_attn_scalar", json!(scalar));
    set(
        "sliding_window",
        json!(keys.required_size("attention.sliding_window")?),
    );
    set("layer_types", layer_types(keys, num_layers)?);
    let final_cap = keys.number("final_logit_softcapping")?;
    if architecture == Architecture::Gemma2 {
        set(
            "attn_logit_softcapping",
            json!(keys.number("attn_logit_softcapping")?.unwrap_or(50.0)),
        );
        set("final_logit_softcapping", json!(final_cap.unwrap_or(30.0)));
    } else {
        set("final_logit_softcapping", json!(final_cap));
        let local = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        set("rope_local_base_freq", json!(local));
    }
    Ok(())
}

/// One name per layer. Without a pattern in the file, every second layer of Gemma 2 and every sixth of Gemma 3 sees all
/// positions, which is what llama.cpp assumes.
fn layer_types(keys: &Keys<'_>, num_layers: u64) -> Result<Value, GgufError> {
    let key = keys.key("attention.sliding_window_pattern");
    if let Some(gguf::Value::Array(_)) = keys.file.value(&key) {
        let slides = keys.file.flags(&key)?.unwrap_or_default();
        return Ok(slides.into_iter().map(layer_type).collect());
    }
    let period = match keys.file.unsigned(&key)? {
        Some(0) => return Err(keys.file.wrong_value(&key, "above 0")),
        Some(period) => period,
        None if keys.family.architecture == Architecture::Gemma2 => 2,
        None => 6,
    };
    // Sizes are bounded where `config.json` is read: a list beyond that bound need not be made.
    let layers = 1..=num_layers.min(1 << 12);
    Ok(layers
        .map(|layer| layer_type(!layer.is_multiple_of(period)))
        .collect())
}

fn layer_type(slides: bool) -> &'static str {
    if slides {
        "sliding_attention"
    } else {
        "full_attention"
    }
}
