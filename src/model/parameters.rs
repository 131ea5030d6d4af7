//! The table of a decoder's parameters: names and shapes as Hugging Face checkpoints have them.

use super::DecoderConfig;

/// What a parameter is to training, pruning and quantisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Token embedding; also the output matrix if tied.
    Embedding,
    /// Weight of a norm.
    Norm,
    /// Weight of a linear layer inside a block: what is pruned and quantised.
    Linear,
    /// Output matrix, if it is not the embedding.
    Head,
}

/// One parameter of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Tensor name in the checkpoint.
    pub name: String,
    /// `[out, in]`; the weight of a norm is `[1, D]` here and `[D]` on disk.
    pub shape: [usize; 2],
    /// Its role.
    pub kind: ParameterKind,
}

/// All parameters of a decoder, in the order of the forward pass.
pub fn parameter_specs(config: &DecoderConfig) -> Vec<ParameterSpec> {
    use ParameterKind::{Embedding, Head, Linear, Norm};
    let DecoderConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        head_dim,
        ..
    } = *config;
    let query_size = config.num_attention_heads * head_dim;
    let key_size = config.num_key_value_heads * head_dim;
    let spec = |name: String, shape, kind| ParameterSpec { name, shape, kind };

    let mut specs = vec![spec(
        "model.embed_tokens.weight".to_owned(),
        [vocab_size, hidden_size],
        Embedding,
    )];
    for layer in 0..config.num_hidden_layers {
        let in_layer = |name: &str| format!("model.layers.{layer}.{name}.weight");
        specs.extend([
            spec(in_layer("input_layernorm"), [1, hidden_size], Norm),
            spec(
                in_layer("self_attn.q_proj"),
                [query_size, hidden_size],
                Linear,
            ),
            spec(
                in_layer("self_attn.k_proj"),
                [key_size, hidden_size],
                Linear,
            ),
            spec(
                in_layer("self_attn.v_proj"),
                [key_size, hidden_size],
                Linear,
            ),
            spec(
                in_layer("self_attn.o_proj"),
                [hidden_size, query_size],
                Linear,
            ),
            spec(in_layer("post_attention_layernorm"), [1, hidden_size], Norm),
            spec(
                in_layer("mlp.gate_proj"),
                [intermediate_size, hidden_size],
                Linear,
            ),
            spec(
                in_layer("mlp.up_proj"),
                [intermediate_size, hidden_size],
                Linear,
            ),
            spec(
                in_layer("mlp.down_proj"),
                [hidden_size, intermediate_size],
                Linear,
            ),
        ]);
    }
    specs.push(spec("model.norm.weight".to_owned(), [1, hidden_size], Norm));
    if !config.tie_word_embeddings {
        specs.push(spec(
            "lm_head.weight".to_owned(),
            [vocab_size, hidden_size],
            Head,
        ));
    }
    specs
}
