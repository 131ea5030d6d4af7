//! The table of a decoder's weights: names as on disk, shapes, and what each is for.

use super::{DecoderConfig, Site};

/// One weight of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Name of the tensor in a Hugging Face checkpoint, such as `model.norm.weight`.
    pub name: String,
    /// `[out, in]`; a norm or bias is `[1, N]` here and `[N]` on disk, see [`ParameterSpec::stored_shape`].
    pub shape: [usize; 2],
    /// What it is for.
    pub kind: ParameterKind,
}

/// What a weight is for. Pruning takes [`ParameterKind::Linear`] only; quantisation takes embedding and head, too, each by a
/// scheme of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Token embedding, `[V, D]`; also the output layer if the two are tied.
    Embedding,
    /// Gain of an RMSNorm.
    Norm,
    /// Projection inside a block.
    Linear,
    /// Bias of a projection.
    Bias,
    /// Untied output layer, `[V, D]`.
    Head,
    /// Learned factors of the scales of a quantised weight; in no checkpoint, and so not in the table.
    Scale,
}

impl ParameterSpec {
    /// Number of weights.
    pub fn num_elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether it is not decayed: one row of numbers, such as a norm's, stored with one dimension, or factors of scales.
    pub fn is_vector(&self) -> bool {
        matches!(
            self.kind,
            ParameterKind::Norm | ParameterKind::Bias | ParameterKind::Scale
        )
    }

    /// Shape in a checkpoint file: that of the spec, but `[N]` for a vector.
    pub fn stored_shape(&self) -> Vec<usize> {
        if self.is_vector() {
            vec![self.shape[1]]
        } else {
            self.shape.to_vec()
        }
    }

    /// Of a projection: its layer, and the place whose activations enter it.
    pub fn input(&self) -> Option<(usize, Site)> {
        if self.kind != ParameterKind::Linear {
            return None;
        }
        let (layer, part) = self.name.strip_prefix("model.layers.")?.split_once('.')?;
        let site = match part {
            "self_attn.o_proj.weight" => Site::AttentionOutput,
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" => Site::MlpInput,
            "mlp.down_proj.weight" => Site::MlpHidden,
            _ => Site::AttentionInput,
        };
        Some((layer.parse().ok()?, site))
    }

    /// Name of the module that owns the weight: the name without `.weight` or `.bias`.
    pub fn module(&self) -> &str {
        self.name
            .rsplit_once('.')
            .map_or(&self.name, |(module, _)| module)
    }
}

/// All weights of a decoder, in one fixed order: embedding; per layer input norm, q, k, v, o and what belongs to them
/// (biases, norms of queries and keys), the norms between, gate, up, down; then the final norm and, unless it is tied,
/// the head.
pub fn parameter_specs(config: &DecoderConfig) -> Vec<ParameterSpec> {
    use ParameterKind::{Embedding, Head, Norm};
    let hidden = config.hidden_size;
    let vocabulary = [config.vocab_size, hidden];
    let block = block_specs(config);

    let spec = |name: &str, shape, kind| ParameterSpec {
        name: name.to_owned(),
        shape,
        kind,
    };
    let mut specs = vec![spec("model.embed_tokens.weight", vocabulary, Embedding)];
    for layer_idx in 0..config.num_hidden_layers {
        specs.extend(block.iter().map(|&(name, shape, kind)| {
            spec(&format!("model.layers.{layer_idx}.{name}"), shape, kind)
        }));
    }
    specs.push(spec("model.norm.weight", [1, hidden], Norm));
    if !config.tie_word_embeddings {
        specs.push(spec("lm_head.weight", vocabulary, Head));
    }
    specs
}

/// Number of weights of a decoder; a tied output matrix counts nothing.
pub fn num_parameters(config: &DecoderConfig) -> u64 {
    parameter_specs(config)
        .iter()
        .map(|spec| spec.num_elements() as u64)
        .sum()
}

/// The weights of one layer, without its number.
fn block_specs(config: &DecoderConfig) -> Vec<(&'static str, [usize; 2], ParameterKind)> {
    use ParameterKind::{Bias, Linear, Norm};
    let (hidden, inner, head) = (
        config.hidden_size,
        config.intermediate_size,
        config.head_dim,
    );
    let queries = config.num_attention_heads * head;
    let keys = config.num_key_value_heads * head;

    let mut specs = vec![
        ("input_layernorm.weight", [1, hidden], Norm),
        ("self_attn.q_proj.weight", [queries, hidden], Linear),
        ("self_attn.k_proj.weight", [keys, hidden], Linear),
        ("self_attn.v_proj.weight", [keys, hidden], Linear),
        ("self_attn.o_proj.weight", [hidden, queries], Linear),
    ];
    if config.architecture.has_qkv_bias() {
        specs.extend([
            ("self_attn.q_proj.bias", [1, queries], Bias),
            ("self_attn.k_proj.bias", [1, keys], Bias),
            ("self_attn.v_proj.bias", [1, keys], Bias),
        ]);
    }
    if config.architecture.has_qk_norm() {
        specs.extend([
            ("self_attn.q_norm.weight", [1, head], Norm),
            ("self_attn.k_norm.weight", [1, head], Norm),
        ]);
    }
    // The name that other families give to the norm before the feed-forward layer, Gemma 2 and 3 give to the one
    // behind attention.
    specs.push(("post_attention_layernorm.weight", [1, hidden], Norm));
    if config.architecture.has_output_norms() {
        specs.push(("pre_feedforward_layernorm.weight", [1, hidden], Norm));
    }
    specs.extend([
        ("mlp.gate_proj.weight", [inner, hidden], Linear),
        ("mlp.up_proj.weight", [inner, hidden], Linear),
        ("mlp.down_proj.weight", [hidden, inner], Linear),
    ]);
    if config.architecture.has_output_norms() {
        specs.push(("post_feedforward_layernorm.weight", [1, hidden], Norm));
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::super::{Architecture, LayerType, Rope, RopeScaling};
    use super::*;

    fn config(tie_word_embeddings: bool) -> DecoderConfig {
        DecoderConfig {
            architecture: Architecture::Llama,
            vocab_size: 10,
            hidden_size: 12,
            intermediate_size: 20,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8, // on purpose not hidden_size / num_attention_heads
            query_pre_attn_scalar: 8,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            sliding_window: None,
            layer_types: vec![LayerType::Full; 2],
            rms_norm_eps: 1e-5,
            rope: Rope {
                theta: 10_000.0,
                scaling: RopeScaling::Default,
            },
            local_rope: None,
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
    fn each_projection_knows_what_enters_it() {
        let specs = parameter_specs(&config(true));
        let last = specs.iter().filter(|spec| spec.name.contains(".1."));
        let inputs: Vec<_> = last.filter_map(ParameterSpec::input).collect();
        let want = [
            Site::AttentionInput,
            Site::AttentionInput,
            Site::AttentionInput,
            Site::AttentionOutput,
            Site::MlpInput,
            Site::MlpInput,
            Site::MlpHidden,
        ];
        assert_eq!(inputs, want.map(|site| (1, site)));
        assert!(specs[0].input().is_none() && specs[1].input().is_none());
    }

    #[test]
    fn a_tied_decoder_has_no_head() {
        let specs = parameter_specs(&config(true));
        assert_eq!(specs.len(), 20);
        assert!(specs.iter().all(|spec| spec.kind != ParameterKind::Head));
    }

    #[test]
    fn each_family_has_its_own_weights_in_a_layer() {
        use Architecture::{Gemma, Gemma2, Gemma3, Llama, Mistral, Qwen2, Qwen3};
        let extra = |architecture| -> Vec<(String, Vec<usize>)> {
            let plain: Vec<_> = parameter_specs(&config(true));
            let config = DecoderConfig {
                architecture,
                ..config(true)
            };
            let first = |spec: &ParameterSpec| spec.name.contains(".0.") && !plain.contains(spec);
            parameter_specs(&config)
                .iter()
                .filter(|spec| first(spec))
                .map(|spec| {
                    let (_, name) = spec.name.split_once(".0.").unwrap();
                    (name.to_owned(), spec.stored_shape())
                })
                .collect()
        };
        let owned = |pairs: &[(&str, usize)]| -> Vec<(String, Vec<usize>)> {
            let pairs = pairs.iter();
            pairs
                .map(|&(name, size)| (name.to_owned(), vec![size]))
                .collect()
        };
        let biases = [
            ("self_attn.q_proj.bias", 32),
            ("self_attn.k_proj.bias", 16),
            ("self_attn.v_proj.bias", 16),
        ];
        let qk = [
            ("self_attn.q_norm.weight", 8),
            ("self_attn.k_norm.weight", 8),
        ];
        let outer = [
            ("pre_feedforward_layernorm.weight", 12),
            ("post_feedforward_layernorm.weight", 12),
        ];
        for architecture in [Llama, Mistral, Gemma] {
            assert_eq!(extra(architecture), []);
        }
        assert_eq!(extra(Qwen2), owned(&biases));
        assert_eq!(extra(Qwen3), owned(&qk));
        assert_eq!(extra(Gemma2), owned(&outer));
        assert_eq!(extra(Gemma3), owned(&[qk, outer].concat()));
    }

    #[test]
    fn a_bias_belongs_to_the_module_of_its_weight() {
        let config = DecoderConfig {
            architecture: Architecture::Qwen2,
            ..config(true)
        };
        let specs = parameter_specs(&config);
        assert_eq!(specs[6].name, "model.layers.0.self_attn.q_proj.bias");
        assert_eq!(specs[6].kind, ParameterKind::Bias);
        assert_eq!(specs[6].module(), specs[2].module());
    }
}
