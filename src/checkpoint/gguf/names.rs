//! Tensor names: Hugging Face's to llama.cpp's.

use crate::model::Architecture;

/// Parts of a block that all families name alike, Hugging Face's name first.
const BLOCK: [(&str, &str); 10] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The second norm of a block that has two.
const TWO_NORMS: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];

/// The other norms of a block that has four: what follows attention is normed before it is added, too.
const FOUR_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// The tensor of a GGUF file that holds the weight of this Hugging Face name; `None` if llama.cpp has none.
pub fn gguf_name(name: &str, architecture: Architecture) -> Option<String> {
    let (module, ending) = name.rsplit_once('.')?;
    let outside = match module {
        "model.embed_tokens" => Some("token_embd"),
        "model.norm" => Some("output_norm"),
        "lm_head" => Some("output"),
        _ => None,
    };
    if let Some(module) = outside {
        return Some(format!("{module}.{ending}"));
    }
    let (layer_idx, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let norms: &[_] = if architecture.has_output_norms() {
        &FOUR_NORMS
    } else {
        &TWO_NORMS
    };
    let mut parts = BLOCK.iter().chain(norms);
    let (_, module) = parts.find(|(huggingface, _)| *huggingface == module)?;
    Some(format!("blk.{layer_idx}.{module}.{ending}"))
}
