use super::super::{Architecture, LayerType, Rope};
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
        rope: Rope::plain(10_000.0),
        local_rope: None,
        layers_without_rope: vec![],
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
    assert_eq!(specs[2].num_elements(), 384);
    let tensors = tensor_specs(&config(false));
    assert_eq!(tensors[1].stored_shape(), [12]);
    assert_eq!(tensors[2].stored_shape(), [32, 12]);
    assert_eq!(tensors[2].module(), "model.layers.0.self_attn.q_proj");
    assert_eq!(tensors[2].module_in_layer(), "self_attn.q_proj");
    assert_eq!(tensors[0].module_in_layer(), "model.embed_tokens");
}

#[test]
fn each_projection_knows_what_enters_it() {
    let specs = parameter_specs(&config(true));
    let last = specs.iter().filter(|spec| spec.name.contains(".1."));
    let inputs: Vec<_> = last.filter_map(|spec| spec.id.input()).collect();
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
    assert!(specs[0].id.input().is_none() && specs[1].id.input().is_none());
}

#[test]
fn a_tied_decoder_has_no_head() {
    let specs = parameter_specs(&config(true));
    assert_eq!(specs.len(), 20);
    assert!(specs.iter().all(|spec| spec.kind() != ParameterKind::Head));
}

#[test]
fn each_family_has_its_own_weights_in_a_layer() {
    use Architecture::{Gemma, Gemma2, Gemma3, Llama, Mistral, Olmo2, Phi3, Qwen2, Qwen3, SmolLm3};
    let extra = |architecture| -> Vec<(String, Vec<usize>)> {
        let plain: Vec<_> = parameter_specs(&config(true));
        let config = DecoderConfig {
            architecture,
            ..config(true)
        };
        let is_plain = |spec: &ParameterSpec| {
            let mut plain = plain.iter();
            plain.any(|plain| (&plain.name, plain.shape) == (&spec.name, spec.shape))
        };
        let first = |spec: &ParameterSpec| spec.name.contains(".0.") && !is_plain(spec);
        parameter_specs(&config)
            .iter()
            .filter(|spec| first(spec))
            .map(|spec| {
                let (_, name) = spec.name.split_once(".0.").unwrap();
                (name.to_owned(), vec![spec.shape[1]])
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
    for architecture in [Llama, Mistral, Gemma, Phi3, SmolLm3] {
        assert_eq!(extra(architecture), []);
    }
    assert_eq!(extra(Qwen2), owned(&biases));
    assert_eq!(extra(Qwen3), owned(&qk));
    assert_eq!(extra(Gemma2), owned(&outer));
    assert_eq!(extra(Gemma3), owned(&[qk, outer].concat()));
    let olmo = [
        ("self_attn.q_norm.weight", 32),
        ("self_attn.k_norm.weight", 16),
        ("post_feedforward_layernorm.weight", 12),
    ];
    assert_eq!(extra(Olmo2), owned(&olmo));
}

#[test]
fn the_order_of_ids_is_that_of_the_table() {
    for &architecture in Architecture::ALL {
        let config = DecoderConfig {
            architecture,
            num_hidden_layers: 12,
            ..config(false)
        };
        let ids: Vec<WeightId> = parameter_specs(&config)
            .iter()
            .map(|spec| spec.id)
            .collect();
        assert!(ids.is_sorted(), "{architecture:?}");
    }
}

#[test]
fn parts_that_are_stored_as_one_stand_together_and_have_one_input() {
    for &architecture in Architecture::ALL {
        let family = architecture.family();
        let of_layer: Vec<Part> = family.parts_of_layer().collect();
        for fused in family.fused {
            let first = of_layer.iter().position(|part| *part == fused.parts[0]);
            let first = first.unwrap();
            let together = &of_layer[first..first + fused.parts.len()];
            assert_eq!(together, fused.parts, "{architecture:?}");
            let mut inputs = fused.parts.iter().map(|part| part.input());
            let input = inputs.next().unwrap();
            assert!(input.is_some() && inputs.all(|other| other == input));
            // Rows of queries and of keys would each be ordered separately.
            assert!(!family.gguf.turns_neighbours, "{architecture:?}");
        }
    }
}

#[test]
fn a_fused_matrix_holds_its_parts_row_under_row() {
    let config = DecoderConfig {
        architecture: Architecture::Phi3,
        ..config(true)
    };
    let tensors = tensor_specs(&config);
    let names: Vec<_> = tensors[1..7]
        .iter()
        .map(|tensor| {
            let module = tensor.module_in_layer();
            (module, tensor.gguf_name.as_str(), tensor.shape)
        })
        .collect();
    let want = [
        ("input_layernorm", "blk.0.attn_norm.weight", [1, 12]),
        ("self_attn.qkv_proj", "blk.0.attn_qkv.weight", [64, 12]), // 32 + 16 + 16 rows
        ("self_attn.o_proj", "blk.0.attn_output.weight", [12, 32]),
        ("post_attention_layernorm", "blk.0.ffn_norm.weight", [1, 12]),
        ("mlp.gate_up_proj", "blk.0.ffn_up.weight", [40, 12]),
        ("mlp.down_proj", "blk.0.ffn_down.weight", [12, 20]),
    ];
    assert_eq!(names, want);
    let parts: Vec<_> = tensors[2].parts.iter().map(|part| part.id.part).collect();
    assert_eq!(parts, [Part::Query, Part::Key, Part::Value]);
}

#[test]
fn a_bias_belongs_to_the_module_of_its_weight() {
    let config = DecoderConfig {
        architecture: Architecture::Qwen2,
        ..config(true)
    };
    let specs = tensor_specs(&config);
    assert_eq!(specs[6].name, "model.layers.0.self_attn.q_proj.bias");
    assert_eq!(specs[6].kind(), ParameterKind::Bias);
    assert_eq!(specs[6].module(), specs[2].module());
}
