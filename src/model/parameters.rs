//! The table of a decoder's weights: names as on disk, shapes, and what each is for.

use super::DecoderConfig;

/// One weight of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Name of the tensor in a Hugging Face checkpoint, such as `model.norm.weight`.
    pub name: String,
    /// `[out, in]`; a norm is `[1, D]` here and `[D]` on disk, see [`ParameterSpec::stored_shape`].
    pub shape: [usize; 2],
    /// What it is for.
    pub kind: ParameterKind,
}

/// What a weight is for; pruning and quantisation take [`ParameterKind::Linear`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Token embedding, `[V, D]`; also the output layer if the two are tied.
    Embedding,
    /// Gain of an RMSNorm.
    Norm,
    /// Projection inside a block.
    Linear,
    /// Untied output layer, `[V, D]`.
    Head,
}

impl ParameterSpec {
    /// Number of weights.
    pub fn num_elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Shape in a checkpoint file: that of the spec, but `[D]` for a norm.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.kind {
            ParameterKind::Norm => vec![self.shape[1]],
            _ => self.shape.to_vec(),
        }
    }

    /// Name of the module that owns the weight: the name without `.weight`.
    pub fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }
}

/// All weights of a decoder, in one fixed order: embedding, then per layer input norm, q, k, v, o,
/// post-attention norm, gate, up, down; then the final norm and, unless it is tied, the head.
pub fn parameter_specs(config: &DecoderConfig) -> Vec<ParameterSpec> {
    use ParameterKind::{Embedding, Head, Linear, Norm};
    let hidden = config.hidden_size;
    let inner = config.intermediate_size;
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;

    let mut specs = Vec::with_capacity(3 + 9 * config.num_hidden_layers);
    let mut add = |module: String, shape, kind| {
        let name = format!("{module}.weight");
        specs.push(ParameterSpec { name, shape, kind });
    };
    let vocabulary = [config.vocab_size, hidden];
    add("model.embed_tokens".to_owned(), vocabulary, Embedding);
    for layer_idx in 0..config.num_hidden_layers {
        for (module, shape, kind) in [
            ("input_layernorm", [1, hidden], Norm),
            ("self_attn.q_proj", [queries, hidden], Linear),
            ("self_attn.k_proj", [keys, hidden], Linear),
            ("self_attn.v_proj", [keys, hidden], Linear),
            ("self_attn.o_proj", [hidden, queries], Linear),
            ("post_attention_layernorm", [1, hidden], Norm),
            ("mlp.gate_proj", [inner, hidden], Linear),
            ("mlp.up_proj", [inner, hidden], Linear),
            ("mlp.down_proj", [hidden, inner], Linear),
        ] {
            add(format!("model.layers.{layer_idx}.{module}"), shape, kind);
        }
    }
    add("model.norm".to_owned(), [1, hidden], Norm);
    if !config.tie_word_embeddings {
        add("lm_head".to_owned(), vocabulary, Head);
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::super::{Rope, RopeScaling};
    use super::*;

    fn config(tie_word_embeddings: bool) -> DecoderConfig {
        DecoderConfig {
            vocab_size: 10,
            hidden_size: 12,
            intermediate_size: 20,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8, // on purpose not hidden_size / num_attention_heads
            rms_norm_eps: 1e-5,
            rope: Rope {
                theta: 10_000.0,
                scaling: RopeScaling::Default,
            },
            max_position_embeddings: 64,
            tie_word_embeddings,
            bos_token_id: None,
            eos_token_ids: vec![],
            pad_token_id: None,
        }
    }

    #[test]
    fn the_table_has_one_fixed_order_and_hugging_face_names() {
        let specs = parameter_specs(&config(false));
        let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names.len(), 21);
        assert_eq!(
            names[..11],
            [
                "model.embed_tokens.weight",
                "model.layers.0.input_layernorm.weight",
                "model.layers.0.self_attn.q_proj.weight",
                "model.layers.0.self_attn.k_proj.weight",
                "model.layers.0.self_attn.v_proj.weight",
                "model.layers.0.self_attn.o_proj.weight",
                "model.layers.0.post_attention_layernorm.weight",
                "model.layers.0.mlp.gate_proj.weight",
                "model.layers.0.mlp.up_proj.weight",
                "model.layers.0.mlp.down_proj.weight",
                "model.layers.1.input_layernorm.weight",
            ]
        );
        assert_eq!(names[19..], ["model.norm.weight", "lm_head.weight"]);
    }

    #[test]
    fn projection_shapes_follow_head_dim_and_not_hidden_size() {
        let specs = parameter_specs(&config(false));
        let shapes: Vec<_> = specs[1..10].iter().map(|spec| spec.shape).collect();
        assert_eq!(
            shapes,
            [
                [1, 12],
                [32, 12],
                [16, 12],
                [16, 12],
                [12, 32],
                [1, 12],
                [20, 12],
                [20, 12],
                [12, 20]
            ]
        );
        assert_eq!(specs[1].stored_shape(), [12]);
        assert_eq!(specs[2].stored_shape(), [32, 12]);
        assert_eq!(specs[2].num_elements(), 384);
        assert_eq!(specs[2].module(), "model.layers.0.self_attn.q_proj");
    }

    #[test]
    fn a_tied_decoder_has_no_head() {
        let specs = parameter_specs(&config(true));
        assert_eq!(specs.len(), 20);
        assert!(specs.iter().all(|spec| spec.kind != ParameterKind::Head));
    }
}
