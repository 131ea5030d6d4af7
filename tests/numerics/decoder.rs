//! Logits of the decoder against those of transformers, for plain and packed checkpoints.

use std::fs;

use alambic::checkpoint::Checkpoint;
use alambic::data::Sequence;
use alambic::model::{Decoder, InputLevels, RopeScaling, TokenBatch};
use alambic::teacher::load_decoder;
use burn::tensor::Tensor;
use safetensors::SafeTensors;

use super::golden::{self, Tolerance, assert_close};
use super::tiny::{device, random_decoder};

/// Whole-model logits.
const LOGITS: Tolerance = Tolerance {
    atol: 1e-4,
    rtol: 0.0,
};

/// The same model, the same numbers, another order of summation.
const SAME: Tolerance = Tolerance {
    atol: 1e-5,
    rtol: 0.0,
};

const PLAIN: [&str; 14] = [
    "hf-gemma",
    "hf-gemma2",
    "hf-gemma3",
    "hf-llama",
    "hf-llama-256",
    "hf-llama-sharded",
    "hf-llama3-rope",
    "hf-mistral",
    "hf-olmo2",
    "hf-phi3",
    "hf-qwen2-tied",
    "hf-qwen3-tied",
    "hf-smollm2-tied",
    "hf-smollm3",
];

const PACKED: [&str; 4] = [
    "ct-w4a16-channel-sym",
    "ct-w4a16-g32-sym",
    "ct-w4a16-g32-sym-tied",
    "ct-w8a16-g32-sym",
];

/// Folders whose activations are rounded.
const ACTIVATED: [&str; 4] = [
    "ct-fp8-dynamic",
    "ct-mixed-w4-w8a8",
    "ct-w4a8-int",
    "ct-w8a8-int8",
];

const GGUF: [&str; 3] = ["gguf-q4_k_m", "gguf-q8_0-llama3rope", "gguf-q8_0-tied"];

fn open(folder: &str) -> Decoder {
    let checkpoint = Checkpoint::open(&golden::path(folder)).unwrap();
    load_decoder(&checkpoint, &device()).unwrap()
}

/// Token ids and expected logits of a folder.
fn expected(folder: &str, logits: &str) -> (Vec<u32>, Vec<f64>) {
    let bytes = fs::read(golden::path(folder).join("expected/logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("input_ids").unwrap();
    let ids = ids.data().as_chunks::<8>().0.iter();
    let ids = ids.map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)).unwrap());
    let logits = tensors.tensor(logits).unwrap();
    let logits = logits.data().as_chunks::<4>().0.iter();
    let logits = logits.map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    (ids.collect(), logits.collect())
}

fn values(tensor: Tensor<3>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().unwrap()
}

fn assert_logits(folder: &str, name: &str) {
    assert_logits_of(&open(folder), folder, name);
}

fn assert_logits_of(decoder: &Decoder, folder: &str, name: &str) {
    let (ids, want) = expected(folder, name);
    assert_eq!(want.len(), ids.len() * decoder.config.vocab_size);
    assert!(ids.len() >= 16, "{folder}: {} positions", ids.len());
    let hidden = decoder.hidden(&TokenBatch::document(&ids, &device()));
    assert_close(folder, &values(decoder.logits(hidden)), &want, LOGITS);
}

#[test]
fn logits_of_plain_checkpoints_equal_those_of_transformers() {
    assert_eq!(golden::names("hf-"), PLAIN);
    for folder in PLAIN {
        assert_logits(folder, "logits_f32");
    }
}

#[test]
fn logits_of_packed_checkpoints_equal_those_of_their_dequantised_weights() {
    for folder in PACKED {
        assert_logits(folder, "logits_dequant_f32");
    }
    for folder in ACTIVATED {
        let decoder = open(folder);
        let free = vec![InputLevels::default(); decoder.config.num_hidden_layers];
        assert_logits_of(&decoder.with_inputs(free), folder, "logits_dequant_f32");
    }
}

#[test]
fn logits_of_checkpoints_with_rounded_activations_equal_those_of_transformers() {
    for folder in ACTIVATED {
        let (ids, want) = expected(folder, "logits_transformers_f32");
        let (_, free) = expected(folder, "logits_dequant_f32");
        let decoder = open(folder);
        let hidden = decoder.hidden(&TokenBatch::document(&ids, &device()));
        let got = values(decoder.logits(hidden));
        let distance = |one: &[f64], other: &[f64]| {
            let squares = one.iter().zip(other).map(|(a, b)| (a - b).powi(2));
            (squares.sum::<f64>() / one.len() as f64).sqrt()
        };
        let got: Vec<f64> = got.into_iter().map(f64::from).collect();
        let (off, effect) = (distance(&got, &want), distance(&free, &want));
        // The scale of int8 puts the largest number of a position midway between two levels, and the last bit of a sum decides:
        // logits of transformers itself move by up to 0.73 of the effect if its embeddings move by one part in 10^7. So int8
        // is held to bits where the inputs are the same: `rounded_activations.json`.
        let limit = if folder == "ct-fp8-dynamic" {
            1e-4
        } else {
            1.0
        };
        assert!(off < limit * effect, "{folder}: {off} of {effect}");
    }
}

#[test]
fn logits_of_gguf_files_equal_those_of_their_dequantised_weights() {
    assert_eq!(golden::names("gguf-"), GGUF);
    for folder in GGUF {
        let checkpoint = Checkpoint::open(&golden::path(folder).join("model.gguf")).unwrap();
        let decoder = load_decoder(&checkpoint, &device()).unwrap();
        assert_logits_of(&decoder, folder, "logits_dequant_f32");
    }
}

#[test]
fn reading_token_by_token_or_in_chunks_gives_the_hidden_states_of_the_whole() {
    for folder in PLAIN {
        let mut decoder = open(folder);
        let (ids, _) = expected(folder, "logits_f32");
        if let RopeScaling::LongRope {
            original_max_position_embeddings: context,
            ..
        } = &mut decoder.config.rope.scaling
        {
            *context = ids.len(); // beyond it all positions turn anew
        }
        let whole: Vec<f64> = values(decoder.hidden(&TokenBatch::document(&ids, &device())))
            .into_iter()
            .map(f64::from)
            .collect();
        for chunks in [vec![1; 16], vec![5, 1, 3, 7], vec![16]] {
            let mut past = Vec::new();
            let mut rest = &ids[..];
            let mut got = Vec::new();
            for &size in &chunks {
                let (chunk, after) = rest.split_at(size);
                got.extend(values(
                    decoder.hidden_after(&TokenBatch::document(chunk, &device()), &mut past),
                ));
                rest = after;
            }
            assert!(rest.is_empty() && past.iter().all(|past| past.len() == 16));
            assert_close(&format!("{folder} in {chunks:?}"), &got, &whole, SAME);
        }
    }
}

#[test]
fn rows_of_a_batch_do_not_see_each_other() {
    let decoder = random_decoder(super::tiny::config(), 1);
    let rows: [&[u32]; 3] = [&[5, 6, 7, 8], &[300, 2, 2, 9], &[5, 6, 7, 9]];
    let together =
        values(decoder.hidden(&TokenBatch::new(&rows.map(Sequence::document), &device())));
    for (row, got) in rows.iter().zip(together.chunks(4 * 16)) {
        let alone = values(decoder.hidden(&TokenBatch::document(row, &device())));
        let alone: Vec<f64> = alone.into_iter().map(f64::from).collect();
        assert_close(&format!("{row:?}"), got, &alone, SAME);
    }
}

#[test]
fn a_position_does_not_see_what_comes_after_it() {
    let decoder = random_decoder(super::tiny::config(), 1);
    let hidden = |ids: &[u32]| values(decoder.hidden(&TokenBatch::document(ids, &device())));
    let (one, other) = (hidden(&[5, 6, 7, 8]), hidden(&[5, 6, 7, 200]));
    assert_eq!(one[..3 * 16], other[..3 * 16]);
    assert_ne!(one[3 * 16..], other[3 * 16..]);
}
