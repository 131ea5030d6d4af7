//! GGUF files compared with the Hugging Face folders that they were made from.

use super::*;
use crate::gguf::draft::Draft;
use crate::model::{Architecture, ParameterKind, RopeScaling, parameter_specs};

/// Committed files, and the folders that they were converted from.
const MADE_OF: [(&str, &str); 3] = [
    ("gguf-q8_0-tied", "hf-smollm2-tied"),
    ("gguf-q8_0-llama3rope", "hf-llama3-rope"),
    ("gguf-q4_k_m", "hf-llama-256"),
];

const FAMILIES: [(&str, &str); 11] = [
    ("hf-llama", "llama"),
    ("hf-smollm2-tied", "llama"),
    ("hf-mistral", "llama"),
    ("hf-qwen2-tied", "qwen2"),
    ("hf-qwen3-tied", "qwen3"),
    ("hf-gemma", "gemma"),
    ("hf-gemma2", "gemma2"),
    ("hf-gemma3", "gemma3"),
    ("hf-phi3", "phi3"),
    ("hf-olmo2", "olmo2"),
    ("hf-smollm3", "smollm3"),
];

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&golden(name)).unwrap()
}

/// Name of a tensor in llama.cpp, as `gguf.get_tensor_name_map` of the `gguf` package gives it.
fn llama_cpp_name(name: &str, family: &str) -> String {
    let norms_outputs = matches!(family, "gemma2" | "gemma3" | "olmo2");
    let (after_attention, before_mlp) = if norms_outputs {
        ("post_attention_norm", "ffn_norm")
    } else {
        ("ffn_norm", "-")
    };
    let name = name.replace("model.layers.", "blk.");
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", after_attention),
        ("pre_feedforward_layernorm", before_mlp),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .iter()
    .fold(name, |name, (from, to)| name.replace(from, to))
}

/// Rows in the order of llama.cpp's converter for `llama`: new row `2j` is old row `j`, new row `2j + 1` is the row
/// half a head further.
fn interleaved(rows: &[f32], num_heads: usize, head_dim: usize) -> Vec<f32> {
    let row_len = rows.len() / (num_heads * head_dim);
    let mut new = vec![0.0; rows.len()];
    for head in 0..num_heads {
        for j in 0..head_dim {
            let from = (head * head_dim + j) * row_len;
            let place = 2 * (j % (head_dim / 2)) + j / (head_dim / 2);
            let to = (head * head_dim + place) * row_len;
            new[to..to + row_len].copy_from_slice(&rows[from..from + row_len]);
        }
    }
    new
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes of tiny models; files hold f32"
)]
fn metadata(config: &DecoderConfig, family: &str) -> Draft {
    let mut draft = Draft::new();
    draft.text("general.architecture", family);
    let mut size = |name: &str, size: usize| {
        draft.u32(&format!("{family}.{name}"), size as u32);
    };
    size("block_count", config.num_hidden_layers);
    size("context_length", config.max_position_embeddings);
    size("embedding_length", config.hidden_size);
    size("feed_forward_length", config.intermediate_size);
    size("attention.head_count", config.num_attention_heads);
    size("attention.head_count_kv", config.num_key_value_heads);
    size("attention.key_length", config.head_dim);
    size("attention.value_length", config.head_dim);
    if let Some(window) = config.sliding_window {
        size("attention.sliding_window", window);
    }
    let mut number = |name: &str, number: f64| {
        draft.f32(&format!("{family}.{name}"), number as f32);
    };
    number("attention.layer_norm_rms_epsilon", config.rms_norm_eps);
    number("rope.freq_base", config.rope.theta);
    if let Some(cap) = config.attn_logit_softcapping {
        number("attn_logit_softcapping", cap);
    }
    if let Some(cap) = config.final_logit_softcapping {
        number("final_logit_softcapping", cap);
    }
    if family == "gemma3" {
        // Two layers, of which the second sees all: llama.cpp would make both slide, whatever the file says.
        let slides = [[7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0].as_slice(), &[1, 0]].concat();
        let array = [&9_u32.to_le_bytes()[..], &slides].concat();
        draft.raw("gemma3.attention.sliding_window_pattern", array);
    }
    for (name, id) in [
        ("bos", config.bos_token_id),
        ("eos", config.eos_token_ids.first().copied()),
        ("padding", config.pad_token_id),
    ] {
        if let Some(id) = id {
            draft.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    draft
}

/// A folder's model as a converter would write it, in F32.
fn converted(checkpoint: &Checkpoint, family: &str) -> Draft {
    let config = checkpoint.config();
    let mut draft = metadata(config, family);
    for spec in tensor_specs(config) {
        let mut weight = spec.joined(|part| checkpoint.values(part).unwrap());
        if family.starts_with("gemma") && spec.kind() == ParameterKind::Norm {
            weight = weight.iter().map(|value| value + 1.0).collect();
        }
        let turns_neighbours = matches!(family, "llama" | "smollm3");
        if turns_neighbours && spec.name.contains("q_proj") {
            weight = interleaved(&weight, config.num_attention_heads, config.head_dim);
        }
        if turns_neighbours && spec.name.contains("k_proj") {
            weight = interleaved(&weight, config.num_key_value_heads, config.head_dim);
        }
        let name = llama_cpp_name(&spec.name, family);
        draft.tensor(&name, &spec.stored_shape(), &weight);
    }
    put_longrope(&mut draft, config, family);
    draft
}

/// A longrope model's keys and tensors, as the converter of Phi 3 writes them.
#[expect(clippy::cast_possible_truncation, reason = "files hold f32")]
fn put_longrope(draft: &mut Draft, config: &DecoderConfig, family: &str) {
    let RopeScaling::LongRope {
        short_factor,
        long_factor,
        attention_factor,
        original_max_position_embeddings: context,
    } = &config.rope.scaling
    else {
        return;
    };
    let key = |name: &str| format!("{family}.rope.{name}");
    let context = u32::try_from(*context).unwrap();
    draft.u32(&key("scaling.original_context_length"), context);
    draft.f32(&key("scaling.attn_factor"), *attention_factor as f32);
    let dims = u32::try_from(config.rope.dims(config.head_dim)).unwrap();
    draft.u32(&key("dimension_count"), dims);
    for (name, factors) in [("long", long_factor), ("short", short_factor)] {
        let name = format!("rope_factors_{name}.weight");
        draft.tensor(&name, &[factors.len()], factors);
    }
}

fn reopened(draft: &Draft) -> Result<Checkpoint, CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    draft.write(&path);
    Checkpoint::open(&path)
}

fn told(draft: &Draft) -> String {
    let error = reopened(draft).unwrap_err().to_string();
    error
        .rsplit_once("model.gguf`")
        .map_or(error.clone(), |(_, told)| told.to_owned())
}

#[test]
fn a_committed_file_has_the_config_of_its_folder() {
    for (gguf, folder) in MADE_OF {
        let (file, folder) = (open(&format!("{gguf}/model.gguf")), open(folder));
        assert_eq!(file.config(), folder.config(), "{gguf}");
        assert!(file.schemes().is_empty());
        assert_eq!(file.content_hash().len(), 64);
    }
}

#[test]
fn quantised_weights_are_near_those_of_the_folder_row_by_row() {
    for (gguf, folder) in MADE_OF {
        let (file, folder) = (open(&format!("{gguf}/model.gguf")), open(folder));
        let specs = parameter_specs(file.config());
        for spec in specs {
            let (got, want) = (file.values(&spec).unwrap(), folder.values(&spec).unwrap());
            let largest = want
                .iter()
                .fold(0.0, |largest: f32, value| largest.max(value.abs()));
            let far = got.iter().zip(&want).map(|(got, want)| (got - want).abs());
            let far = far.fold(0.0, f32::max);
            assert_eq!(got.len(), want.len());
            // Sixteen levels of a range of two: half a level is a sixteenth of the largest weight.
            assert!(far <= largest / 10.0, "{gguf}: {} is {far} off", spec.name);
        }
    }
}

#[test]
fn every_family_comes_back_from_a_file_to_the_last_bit() {
    for (folder, family) in FAMILIES {
        let original = open(folder);
        let file = reopened(&converted(&original, family)).unwrap();
        let mut want = original.config().clone();
        if folder == "hf-mistral" {
            want.architecture = Architecture::Llama; // the same arithmetic without a window
        }
        assert_eq!(*file.config(), want, "{folder}");
        for spec in parameter_specs(file.config()) {
            let (got, want) = (file.values(&spec).unwrap(), original.values(&spec).unwrap());
            assert!(got == want, "{folder}: {}", spec.name);
        }
    }
}

#[test]
fn a_vocabulary_filled_up_keeps_its_rows() {
    let original = open("hf-llama");
    let mut draft = converted(&original, "llama");
    draft.u32("llama.vocab_size", 300); // tokens that are there; the embedding has 320 rows
    assert_eq!(reopened(&draft).unwrap().config().vocab_size, 320);
    draft.u32("llama.vocab_size", 321);
    let message = told(&draft);
    let want =
        "`llama.vocab_size` must be at most 320, the rows of `token_embd.weight`, but is `321`";
    assert!(message.contains(want), "{message}");
}

/// Message for the file that the tiny Llama becomes by this change.
fn told_of(change: impl Fn(&mut Draft)) -> String {
    let mut draft = converted(&open("hf-llama"), "llama");
    change(&mut draft);
    told(&draft)
}

#[test]
fn metadata_that_does_not_fit_the_decoder_is_refused() {
    let text = |key: &str, value: &str| {
        told_of(|draft| {
            draft.text(key, value);
        })
    };
    let u32 = |key: &str, value: u32| {
        told_of(|draft| {
            draft.u32(key, value);
        })
    };
    assert_eq!(
        text("general.architecture", "mamba"),
        ": `general.architecture` must be one of `llama`, `qwen2`, `qwen3`, `gemma`, `gemma2`, `gemma3`, `phi3`, `olmo2`, `smollm3`, but is `mamba`"
    );
    assert_eq!(
        u32("llama.expert_count", 8),
        ": `llama.expert_count` must be absent, because alambic has no such part, but is `8`"
    );
    assert_eq!(
        u32("llama.rope.dimension_count", 16),
        ": `llama.rope.dimension_count` must be 32, the size of a head, but is `16`"
    );
    let dynamic = text("llama.rope.scaling.type", "dynamic");
    assert!(
        dynamic.contains("`rope_type` must be") && dynamic.contains("dynamic"),
        "{dynamic}"
    );
    let yarn = text("llama.rope.scaling.type", "yarn");
    assert_eq!(yarn, ": `factor` is missing");
    let lacking = told_of(|draft| draft.keys.retain(|(key, _)| key != "llama.block_count"));
    assert_eq!(lacking, ": it has no key `llama.block_count`");
}

#[test]
fn tensors_that_do_not_fit_the_decoder_are_refused() {
    let missing = told_of(|draft| {
        draft
            .tensors
            .retain(|tensor| tensor.name != "blk.1.ffn_up.weight");
    });
    assert_eq!(missing, " has no tensor `blk.1.ffn_up.weight`");
    let stranger = told_of(|draft| {
        draft.tensor("blk.0.attn_q.bias", &[128], &[0.0; 128]);
    });
    assert!(
        stranger.contains("`blk.0.attn_q.bias`, which alambic does not understand"),
        "{stranger}"
    );
    let shape = told_of(|draft| {
        draft.tensor("output_norm.weight", &[64], &[0.0; 64]);
    });
    assert_eq!(
        shape,
        "`output_norm.weight` must have shape [128], but has [64]"
    );
    let rope = told_of(|draft| {
        let divisors: Vec<f32> = (1_u8..=16).map(f32::from).collect();
        draft.tensor("rope_freqs.weight", &[16], &divisors);
    });
    assert!(
        rope.contains("an unknown scaling of rotary positions"),
        "{rope}"
    );
}

#[test]
fn ends_of_turns_end_text_too() {
    let mut draft = converted(&open("hf-llama"), "llama");
    draft.u32("tokenizer.ggml.eot_token_id", 9);
    assert_eq!(reopened(&draft).unwrap().config().eos_token_ids, [2, 9]);
}

#[test]
fn numbers_that_are_none_are_refused() {
    for number in [f32::NAN, f32::INFINITY] {
        for key in ["attention.layer_norm_rms_epsilon", "rope.freq_base"] {
            let key = format!("llama.{key}");
            let told = told_of(|draft| {
                draft.f32(&key, number);
            });
            let want = format!(": `{key}` must be a finite number, but is `{number}`");
            assert_eq!(told.to_lowercase(), want.to_lowercase());
        }
    }
}

#[test]
fn a_part_of_a_split_model_is_refused_with_what_joins_it() {
    let told = told_of(|draft| {
        draft.raw("split.no", [&2_u32.to_le_bytes()[..], &[1, 0]].concat());
        draft.raw("split.count", [&2_u32.to_le_bytes()[..], &[3, 0]].concat());
        draft.tensors.truncate(2);
    });
    assert_eq!(
        told,
        ": part 2 of 3 of a model; alambic reads whole files: join them with `llama-gguf-split --merge`"
    );
    // A model that was split and fits one file.
    let mut draft = converted(&open("hf-llama"), "llama");
    draft.u32("split.count", 1);
    reopened(&draft).unwrap();
}
