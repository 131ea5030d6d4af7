//! Phi 3 and 4: queries, keys and values share one matrix, gates and gated channels another; rotation is partial.

use serde_json::{Map, Value, json};

use super::{Defaults, Family, Fused, Gguf, llama};
use crate::gguf::{GgufError, GgufKeys, NewValue};
use crate::model::config_json::fields::field;
use crate::model::config_json::layers::alike;
use crate::model::{ConfigError, DecoderConfig, Part, Rope, RopeScaling};

const CONTEXT: &str = "original_max_position_embeddings";

pub(super) static FAMILY: Family = Family {
    class_name: "Phi3ForCausalLM",
    model_type: "phi3",
    turns_partly: true,
    counts_factors_by_width: true,
    fused: &[
        Fused {
            parts: &[Part::Query, Part::Key, Part::Value],
            name: "self_attn.qkv_proj.weight",
            gguf_name: "attn_qkv.weight",
        },
        Fused {
            parts: &[Part::Gate, Part::Up],
            name: "mlp.gate_up_proj.weight",
            gguf_name: "ffn_up.weight",
        },
    ],
    defaults: Defaults {
        max_position_embeddings: 4096,
        original_max_position_embeddings: Some(4096),
        rms_norm_eps: 1e-5,
        eos_token_id: Some(32_000),
        pad_token_id: Some(32_000),
        ..llama::DEFAULTS
    },
    read,
    write,
    gguf: Gguf {
        name: "phi3",
        turns_neighbours: false,
        read: read_gguf,
        write: |config| {
            // Converters write 0 if no layer slides; llama.cpp computes no window.
            let window = NewValue::size(config.sliding_window.unwrap_or(0));
            Ok(vec![("attention.sliding_window", window)])
        },
        ..llama::GGUF
    },
    ..llama::FAMILY
};

fn read(json: &Value, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    let is_known = matches!(
        config.rope.scaling,
        RopeScaling::Default | RopeScaling::LongRope { .. }
    );
    if !is_known {
        // Its class takes `yarn` for another name of `longrope`, and knows no other kind.
        let table = field(json, "rope_parameters").or(field(json, "rope_scaling"));
        let found = table.and_then(|table| field(table, "rope_type").or(field(table, "type")));
        let expected = "`default` or `longrope` in this family";
        return Err(ConfigError::unexpected("rope_type", expected, found));
    }
    alike(json, config, None)
}

fn write(config: &DecoderConfig) -> Value {
    let rope = &config.rope;
    let dims = rope.dims(config.head_dim) as u64;
    let mut keys = json!({
        "embd_pdrop": 0.0,
        "hidden_act": config.family().activation.json_name(),
        CONTEXT: config.max_position_embeddings, // for a context that was not stretched
        "partial_rotary_factor": Rope::partial_rotary_factor(dims, config.head_dim as u64),
        "resid_pdrop": 0.0,
        "sliding_window": config.sliding_window,
    });
    if matches!(rope.scaling, RopeScaling::LongRope { .. }) {
        // Before transformers 5 the class accepts `type` and the two lists, and no other key.
        let (_, mut scaling) = rope.to_json(config.max_position_embeddings);
        if let Value::Object(table) = &mut scaling {
            table.remove(CONTEXT);
            let kind = table.remove("rope_type").unwrap_or_default();
            table.insert("type".to_owned(), kind);
        }
        keys["rope_scaling"] = scaling;
    }
    keys
}

fn read_gguf(keys: &GgufKeys<'_>, json: &mut Map<String, Value>) -> Result<(), GgufError> {
    let window = keys.size("attention.sliding_window")?;
    json.insert(
        "sliding_window".to_owned(),
        json!(window.filter(|&window| window > 0)),
    );
    if let Some(context) = keys.size("rope.scaling.original_context_length")? {
        json.insert(CONTEXT.to_owned(), context.into());
    }
    Ok(())
}
