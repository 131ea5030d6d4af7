//! Tiny models, rows and plans.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::data::{PositionSpan, TokenRows, spans_of};
use alambic::kernels::Arithmetic;
use alambic::loss::{LossWeights, Term};
use alambic::model::{Architecture, Decoder, DecoderConfig, LayerType, Rope, tensor_specs};
use alambic::random::Stream;
use alambic::student::Student;
use alambic::support::Tail;
use alambic::tensors::to_vec;
use alambic::train::fit::PassContext;
use alambic::train::state::Training;
use alambic::train::{FitPlan, HandOn, RateSchedule, TemperaturePlan};
use burn::tensor::{Device, Tensor, TensorData};

pub(crate) fn device() -> Device {
    alambic::device::open("flex").unwrap()
}

pub(crate) fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &device())
}

/// One layer, 320 tokens (as many as the golden tokenizers have), rows of linear layers in whole groups of 16.
pub(crate) fn config() -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::Llama,
        vocab_size: 320,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        query_pre_attn_scalar: 4,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        sliding_window: None,
        layer_types: vec![LayerType::Full; 1],
        local_rope: None,
        layers_without_rope: vec![],
        rope: Rope::plain(10_000.0),
        max_position_embeddings: 64,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: None,
    }
}

/// A decoder with weights of deviation 0.3, so that no part of it is nearly linear.
pub(crate) fn random_decoder(config: DecoderConfig, seed: u64) -> Decoder {
    let decoder = Decoder::from_parameters(config, |spec| {
        let mut stream = Stream::new(seed, &spec.name);
        let mean = if spec.name.ends_with("norm.weight") {
            1.0
        } else {
            0.0
        };
        #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
        let values = (0..spec.num_elements())
            .map(|_| (mean + 0.3 * stream.normal()) as f32)
            .collect();
        Ok::<_, Infallible>(tensor(values, spec.shape))
    });
    let Ok(decoder) = decoder;
    decoder
}

/// Every weight as it is stored.
pub(crate) fn bits(decoder: &Decoder) -> Vec<Vec<u32>> {
    let parameters = decoder.parameters().into_iter();
    let bits = |weight| to_vec(&weight).into_iter().map(f32::to_bits).collect();
    parameters.map(|(_, weight)| bits(weight)).collect()
}

/// A decoder from the tensors of a checkpoint by name, each of which is used.
pub(crate) fn decoder_of(config: DecoderConfig, weights: &BTreeMap<String, Vec<f32>>) -> Decoder {
    let tensors = tensor_specs(&config);
    assert_eq!(tensors.len(), weights.len());
    let mut parts = BTreeMap::new();
    for tensor in tensors {
        let mut values = weights[&tensor.name].as_slice();
        for part in tensor.parts {
            let (own, rest) = values.split_at(part.num_elements());
            parts.insert(part.id, own.to_vec());
            values = rest;
        }
        assert!(values.is_empty(), "{}", tensor.name);
    }
    let decoder = Decoder::from_parameters(config, |spec| {
        let values = parts[&spec.id].clone();
        Ok::<_, Infallible>(tensor(values, spec.shape))
    });
    let Ok(decoder) = decoder;
    decoder
}

/// Random rows; `counted` has one entry for each.
pub(crate) fn random_rows(sequence_length: usize, counted: &[u32], seed: u64) -> TokenRows {
    let mut stream = Stream::new(seed, "rows");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ids from 0 to 319"
    )]
    let tokens = (0..counted.len() * (sequence_length + 1))
        .map(|_| (stream.uniform() * 320.0) as u32)
        .collect();
    TokenRows::new(sequence_length, tokens, counted.to_vec(), 1000)
}

/// Spans of a mask that has all of a row's positions.
pub(crate) fn all_positions(num_positions: usize) -> Vec<PositionSpan> {
    spans_of(std::iter::repeat_n(true, num_positions))
}

/// A pass on cross-entropy that is measured on its own training rows.
pub(crate) fn context<'a>(
    dir: &'a Path,
    rows: &'a TokenRows,
    stop: &'a AtomicBool,
) -> PassContext<'a> {
    PassContext {
        label: "01-distill",
        dir,
        key: "key",
        origin: None,
        begin: None,
        seed: 1,
        rows,
        cache: None,
        teacher: None,
        validation: rows,
        validation_cache: None,
        stop,
        wall_time: 0.0,
    }
}

/// The state of a pass that made so many updates and changed nothing.
pub(crate) fn state_after(num_updates: usize, student: &Student) -> Training {
    let mut training = Training::new(student.clone(), false);
    training.optimizer.num_updates = num_updates;
    training
}

/// Five steps of four rows of 16 positions on cross-entropy, at a rate that moves every weight.
pub(crate) fn fit_plan() -> FitPlan {
    FitPlan {
        steps: 5,
        tokens_per_step: 64,
        micro_batch: 2,
        gradient_checkpointing: false,
        precision: Arithmetic::F32,
        learning_rate: 1e-2,
        final_learning_rate_frac: 0.1,
        warmup_steps: 1,
        schedule: RateSchedule::Cosine,
        weight_decay: 0.1,
        decay_embeddings: true,
        betas: [0.9, 0.95],
        epsilon: 1e-8,
        max_grad_norm: Some(1.0),
        temperature: TemperaturePlan::Constant(1.0),
        losses: LossWeights::only(Term::CrossEntropy),
        tail: Tail::Bucket,
        ema: None,
        evaluate_every: None,
        early_stop: None,
        hand_on: HandOn::Last,
        adapter: None,
        prune: None,
        start_step: 0,
        save_every: 100,
        keep_states: 2,
        log_every: 1,
    }
}
