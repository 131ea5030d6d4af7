//! The `config.json` of the model in a GGUF file, rebuilt from the file's metadata.

use serde_json::{Value, json};

use super::rope::llama3_scaling;
use super::{ROPE_FACTORS, ROPE_FREQS};
use crate::formats::CheckpointError;
use crate::gguf::{self, GgufError, GgufFile, GgufKeys};
use crate::model::{Architecture, Family, Rope, RopeScaling};

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// Keys, after the family's name, that change a model's computation; no family read here has them.
const FOREIGN_KEYS: [&str; 10] = [
    "expert_count",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
];

/// `config.json` of the model in this file.
///
/// Values that llama.cpp hard-codes for a family, and that no file holds, are written out.
pub(super) fn config_json(
    file: &GgufFile,
    architecture: Architecture,
) -> Result<Value, CheckpointError> {
    let family = architecture.family();
    let keys = GgufKeys {
        file,
        architecture: family.gguf.name,
    };
    for name in FOREIGN_KEYS {
        let key = keys.key(name);
        let is_off = matches!(file.value(&key), None | Some(gguf::GgufValue::Integer(0)));
        if !is_off {
            return Err(file
                .wrong_value(&key, "absent, because alambic has no such part")
                .into());
        }
    }
    let hidden_size = keys.required_size("embedding_length")?;
    let num_heads = keys.required_size("attention.head_count")?;
    let [head_dim, rotary_dims] = head_dims(&keys, family, hidden_size, num_heads)?;
    let eps = "attention.layer_norm_rms_epsilon";
    let eps = file.required(&keys.key(eps), keys.number(eps)?)?;
    let vocab_size = num_rows(&keys)?;
    let (rope_theta, rope_scaling) = rope(&keys)?;
    let json = json!({
        "architectures": [family.class_name],
        "model_type": family.model_type,
        "vocab_size": vocab_size,
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
    if rotary_dims != head_dim {
        let factor = Rope::partial_rotary_factor(rotary_dims, head_dim);
        json.insert("partial_rotary_factor".to_owned(), json!(factor));
    }
    (family.gguf.read)(&keys, &mut json)?;
    Ok(Value::Object(json))
}

/// Rows of the embedding, padding included: at least as many as the file says that the vocabulary has.
fn num_rows(keys: &GgufKeys<'_>) -> Result<u64, CheckpointError> {
    let file = keys.file;
    let num_rows = file.info(EMBEDDING).and_then(|info| info.shape.first());
    let num_rows = num_rows.ok_or_else(|| CheckpointError::MissingTensor {
        dir: file.path().to_path_buf(),
        tensor: EMBEDDING.to_owned(),
    })?;
    let (num_rows, said) = (*num_rows as u64, "vocab_size");
    if keys.size(said)?.is_some_and(|said| said > num_rows) {
        let want = format!("at most {num_rows}, the rows of `{EMBEDDING}`");
        return Err(file.wrong_value(&keys.key(said), want).into());
    }
    Ok(num_rows)
}

/// Size of one head, the same for queries, keys and values; and the number of its rotary dimensions: all, unless the
/// family rotates only a part.
fn head_dims(
    keys: &GgufKeys<'_>,
    family: &Family,
    hidden_size: u64,
    num_heads: u64,
) -> Result<[u64; 2], GgufError> {
    let head_dim = match keys.size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let key = keys.key("attention.head_count");
            let want = format!("a divisor of the hidden size {hidden_size}");
            return Err(keys.file.wrong_value(&key, want));
        }
    };
    let rotary = "rope.dimension_count";
    let rotary_dims = keys.size(rotary)?.unwrap_or(head_dim);
    let value_dims = keys.size("attention.value_length")?.unwrap_or(head_dim);
    for (name, size, may_be_less) in [
        ("attention.value_length", value_dims, false),
        (rotary, rotary_dims, family.turns_partly),
    ] {
        if size > head_dim || (size < head_dim && !may_be_less) {
            let want = format!("{head_dim}, the size of a head");
            return Err(keys.file.wrong_value(&keys.key(name), want));
        }
    }
    Ok([head_dim, rotary_dims])
}

/// `rope_theta` and `rope_scaling`.
///
/// A kind of scaling that the decoder lacks keeps its name; reading `config.json` then refuses it by that name.
fn rope(keys: &GgufKeys<'_>) -> Result<(f64, Value), CheckpointError> {
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
    let attention_factor = "rope.scaling.attn_factor";
    let [short, long] = ROPE_FACTORS;
    if file.info(short).is_some() || file.info(long).is_some() {
        let context = "rope.scaling.original_context_length";
        let context = file.required(&keys.key(context), keys.size(context)?)?;
        let found = keys.number(attention_factor)?.unwrap_or(1.0); // llama.cpp's default
        // A factor that follows from the stretch of the context is stored in f32 and need not be written out.
        let stretch = keys.required_size("context_length")? as f64 / context as f64;
        let derived = RopeScaling::longrope_growth(stretch, context);
        let is_derived = (derived - found).abs() <= f64::from(f32::EPSILON) * found;
        return Ok((
            theta,
            json!({
                "rope_type": "longrope",
                "short_factor": file.f32s(short)?,
                "long_factor": file.f32s(long)?,
                "attention_factor": (!is_derived).then_some(found),
                "original_max_position_embeddings": context,
            }),
        ));
    }
    #[expect(clippy::float_cmp, reason = "written as 1, or not")]
    let is_one = keys
        .number(attention_factor)?
        .is_none_or(|factor| factor == 1.0);
    if !is_one {
        let want = "1 or absent without factors of rotary frequencies";
        return Err(file.wrong_value(&keys.key(attention_factor), want).into());
    }
    let kind = file.text(&keys.key("rope.scaling.type"))?;
    let factor = match keys.number("rope.scaling.factor")? {
        None => keys.number("rope.scale_linear")?, // key of files older than the type
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

/// End-of-text ids: the model's, then the ones that end a turn or a message of a chat.
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
