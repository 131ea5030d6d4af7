//! Scales against the paper's equations in PyTorch (`tests/golden/awq.json`), and unchanged outputs of a scaled layer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;

use super::*;
use crate::calibration::{Calibration, Hessian};
use crate::data::TokenRows;
use crate::model::{
    Architecture, Decoder, LayerType, ParameterKind, Rope, Scheme, TokenBatch, parameter_specs,
};
use crate::random::Stream;

#[derive(Deserialize)]
struct Golden {
    atol: f64,
    rtol: f64,
    inputs: Inputs,
    expected: BTreeMap<String, Found>,
}

#[derive(Deserialize)]
struct Inputs {
    columns: usize,
    weights: Vec<Vec<f32>>,
    x: Vec<f32>,
    norm: Vec<f32>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    bits: u32,
    symmetric: bool,
    group_size: Option<usize>,
    offset: Option<f32>,
}

#[derive(Deserialize)]
struct Found {
    lost: f64,
    scales: Vec<f64>,
    norm: Vec<f32>,
}

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    let device = crate::device::open("flex").unwrap();
    Tensor::from_data(TensorData::new(values, shape), &device)
}

#[test]
fn scales_equal_those_of_the_equations() {
    let golden = include_str!("../../../../../tests/golden/awq.json");
    let Golden {
        atol,
        rtol,
        inputs,
        expected,
    } = serde_json::from_str(golden).unwrap();
    let columns = inputs.columns;
    let mut hessian = Hessian::new(columns);
    let num_positions = inputs.x.len() / columns;
    hessian.add(&tensor(inputs.x.clone(), [num_positions, columns]).unsqueeze());
    let products = hessian.matrix(&crate::device::open("flex").unwrap());
    let column = |at: usize| inputs.x.iter().skip(at).step_by(columns);
    let mean = |at: usize| column(at).map(|x| f64::from(x.abs())).sum::<f64>();
    let means: Vec<f64> = (0..columns)
        .map(|at| mean(at) / num_positions as f64)
        .collect();
    assert_eq!(inputs.cases.len(), 4);
    for (label, case) in &inputs.cases {
        let grid = if case.symmetric {
            Grid::symmetric(case.bits, case.group_size)
        } else {
            Grid::asymmetric(case.bits, case.group_size)
        };
        let readers: Vec<(Grid, Tensor<2>)> = inputs
            .weights
            .iter()
            .map(|weight| {
                let rows = weight.len() / columns;
                (grid, tensor(weight.clone(), [rows, columns]))
            })
            .collect();
        let gain = case.offset.map(|offset| Gain {
            weight: inputs.norm.clone(),
            offset,
        });
        let kept = |scales: Vec<f32>| match &gain {
            Some(gain) => gain.kept(&scales),
            None => scales,
        };
        let got = best_scales(&readers, &products, &means, kept);
        let want = &expected[label];
        assert_eq!(got.len(), want.scales.len(), "{label}");
        for (idx, (got, want)) in got.iter().zip(&want.scales).enumerate() {
            let gap = (f64::from(*got) - want).abs();
            assert!(
                gap <= atol + rtol * want.abs(),
                "{label}[{idx}]: {got}, {want}"
            );
        }
        let lost = lost(&readers, &products, &got);
        assert!(
            (lost - want.lost).abs() < 1e-3 * want.lost,
            "{label}: {lost}"
        );
        if let Some(gain) = gain {
            // The scales that were found are those of a norm in bf16, so it is stored exactly as expected.
            assert_eq!(gain.stored(&got), want.norm, "{label}");
        }
    }
}

fn config(architecture: Architecture, num_key_value_heads: usize) -> DecoderConfig {
    DecoderConfig {
        architecture,
        vocab_size: 40,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads,
        head_dim: 6,
        query_pre_attn_scalar: 6,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        sliding_window: None,
        layer_types: vec![LayerType::Full; 2],
        rms_norm_eps: 1e-5,
        rope: Rope::plain(10_000.0),
        local_rope: None,
        layers_without_rope: vec![],
        max_position_embeddings: 64,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: vec![],
        pad_token_id: None,
    }
}

/// Random weights, and norms with some gains far from the others, so that inputs differ in size.
fn decoder(config: DecoderConfig) -> Decoder {
    let decoder = Decoder::from_parameters(config, |spec| {
        let mut stream = Stream::new(9, &spec.name);
        #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
        let mut draw = || match spec.kind() {
            ParameterKind::Norm => stream.normal().exp() as f32,
            _ => (0.3 * stream.normal()) as f32,
        };
        let values = (0..spec.num_elements()).map(|_| draw()).collect();
        Ok::<_, Infallible>(tensor(values, spec.shape))
    });
    let Ok(decoder) = decoder;
    decoder
}

#[test]
fn a_scaled_layer_computes_what_it_did_in_every_family() {
    let mut stream = Stream::new(4, "tokens");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ids from 0 to 39"
    )]
    let tokens: Vec<u32> = (0..6 * 17)
        .map(|_| (stream.uniform() * 40.0) as u32)
        .collect();
    let rows = TokenRows::new(16, tokens, vec![16; 6], 0);
    let calibration = Calibration {
        rows: &rows,
        num_tokens: 96,
        label: "test",
        is_silent: true,
        stop: &AtomicBool::new(false),
    };
    let mut num_scaled = 0;
    for &architecture in Architecture::ALL {
        for num_key_value_heads in [2, 4] {
            let config = config(architecture, num_key_value_heads);
            let grid = Grid::symmetric(2, None);
            let scheme = Scheme {
                weight: grid,
                input: None,
            };
            let specs = parameter_specs(&config).into_iter();
            let schemes: Schemes = specs
                .filter(|spec| spec.kind() == ParameterKind::Linear)
                .map(|spec| (spec.id, scheme))
                .collect();
            let before = decoder(config);
            let mut sweep = LayerSweep::begin(&calibration, before.clone(), 1);
            while sweep.layer().is_some() {
                scale_layer(&mut sweep, &schemes).unwrap();
                sweep.advance("").unwrap();
            }
            let after = sweep.finish();
            let tokens = TokenBatch::new(&[rows.inputs(0), rows.inputs(1)], &before.device());
            let hidden = |decoder: &Decoder| {
                let hidden = decoder.hidden(&tokens);
                hidden.try_into_vec_as::<f32>().unwrap()
            };
            for (got, want) in hidden(&after).iter().zip(hidden(&before)) {
                let gap = (got - want).abs();
                assert!(gap < 2e-4 * (1.0 + want.abs()), "{architecture:?}: {gap}");
            }
            for ((spec, before), (_, after)) in before.parameters().iter().zip(after.parameters()) {
                let is_moved = tensors::to_vec(before) != tensors::to_vec(&after);
                num_scaled += usize::from(is_moved);
                let has_shared_values = num_key_value_heads == 2 || architecture.family().qkv_bias;
                if spec.name.ends_with("o_proj.weight") && has_shared_values {
                    assert!(!is_moved, "{architecture:?}: {}", spec.name);
                }
                assert!(!is_moved || spec.kind() != ParameterKind::Embedding);
            }
        }
    }
    // Most places gain by it: per layer two norms, three to five readers, `up_proj` and `down_proj`.
    assert!(num_scaled > 14 * 2 * 5, "{num_scaled}");
}
