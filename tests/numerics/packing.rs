//! Documents in packed rows: equal to each document alone, in every family, forward and backward.

use std::collections::BTreeMap;

use alambic::cache::SupportPlan;
use alambic::data::{LossMask, Sequence};
use alambic::device::ReadBack;
use alambic::loss::{LossSpec, RowTarget, Term, Terms};
use alambic::model::{
    Architecture, Decoder, DecoderConfig, LayerType, TokenBatch, WeightId, parameter_specs,
    tensor_specs,
};
use alambic::random::Stream;
use alambic::support::{CountedRow, Supports};
use alambic::teacher::{Selection, supports};
use alambic::tensors::to_vec;
use alambic::train::gradient::{
    ActivationMemory, HiddenMatch, MicroBatch, StepGradient, step_gradient_with,
};
use burn::tensor::Tensor;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::checkpointing::assert_equal_bits;
use super::golden::{self, Golden, Tolerance, assert_close};
use super::gradient::assert_same_gradient;
use super::tiny::{all_positions, config, decoder_of, device, random_decoder};

/// The same model, the same numbers, another order of summation.
const SAME: Tolerance = Tolerance {
    atol: 1e-5,
    rtol: 0.0,
};

/// A Llama, and one of every other family.
const GOLDEN: [&str; 10] = [
    "decoder_packed_gemma.json",
    "decoder_packed_gemma2.json",
    "decoder_packed_gemma3.json",
    "decoder_packed_mistral.json",
    "decoder_packed_olmo2.json",
    "decoder_packed_phi3.json",
    "decoder_packed_qwen2.json",
    "decoder_packed_qwen3.json",
    "decoder_packed_smollm3.json",
    "decoder_packed_untied.json",
];

/// A row of documents.
struct Row {
    tokens: Vec<u32>,
    starts: Vec<u32>,
}

impl Row {
    fn new(lengths: &[usize], tokens: &mut impl Iterator<Item = u32>) -> Self {
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(u32::try_from(*end).unwrap())
        });
        Self {
            tokens: tokens.take(lengths.iter().sum()).collect(),
            starts: [0].into_iter().chain(ends).take(lengths.len()).collect(),
        }
    }

    fn packed(&self) -> Sequence<'_> {
        Sequence::packed(&self.tokens, &self.starts)
    }

    fn documents(&self) -> impl Iterator<Item = Sequence<'_>> {
        let documents = self.packed().documents();
        documents.map(move |place| Sequence::document(&self.tokens[place]))
    }
}

/// Rows of 200 random tokens: documents of one token, also at the end; longer than a window and than the kernels' strips; as
/// long as a row.
fn long_rows() -> Vec<Row> {
    let mut stream = Stream::new(11, "documents");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ids from 0 to 319"
    )]
    let mut tokens = std::iter::repeat_with(|| (stream.uniform() * 320.0) as u32);
    let lengths: [&[usize]; 3] = [&[70, 1, 64, 65], &[200], &[3, 130, 66, 1]];
    let rows = lengths.map(|lengths| Row::new(lengths, &mut tokens));
    rows.into()
}

/// Sliding and full layers, with and without rotary positions.
fn model(seed: u64) -> Decoder {
    let config = DecoderConfig {
        architecture: Architecture::Gemma2,
        num_hidden_layers: 3,
        layer_types: vec![LayerType::Sliding, LayerType::Full, LayerType::Sliding],
        sliding_window: Some(40),
        layers_without_rope: vec![2],
        attn_logit_softcapping: Some(5.0),
        tie_word_embeddings: true,
        ..config()
    };
    random_decoder(config, seed)
}

/// Rows in one micro-batch, each document of which predicts its own tokens.
fn micro_batch(rows: Vec<Sequence<'_>>) -> MicroBatch<'_> {
    let documents = rows.iter().flat_map(|row| {
        let places = row.documents();
        places.map(move |place| &row.tokens()[place])
    });
    let targets = documents.flat_map(|document| {
        let labels = document[1..].iter().map(|&label| RowTarget {
            label,
            support: None,
        });
        labels.map(Some).chain([None])
    });
    MicroBatch {
        targets: targets.collect(),
        inputs: rows,
    }
}

fn packed_batch(rows: &[Row]) -> MicroBatch<'_> {
    micro_batch(rows.iter().map(Row::packed).collect())
}

/// Every document in a micro-batch of its own.
fn apart(rows: &[Row]) -> Vec<MicroBatch<'_>> {
    let documents = rows.iter().flat_map(Row::documents);
    documents.map(|row| micro_batch(vec![row])).collect()
}

fn gradient(
    decoder: &Decoder,
    batches: &[MicroBatch<'_>],
    hidden: Option<HiddenMatch<'_>>,
    activations: ActivationMemory,
) -> StepGradient {
    let weights = Terms::ZERO.with(Term::CrossEntropy, 1.0);
    let spec = LossSpec::of(match hidden {
        Some(_) => weights.with(Term::HiddenMse, 0.5),
        None => weights,
    });
    step_gradient_with(decoder, batches, &spec, hidden, activations, ReadBack::Free)
}

fn values(tensor: Tensor<3>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().unwrap()
}

fn logits(decoder: &Decoder, rows: &[Sequence<'_>]) -> Vec<f32> {
    let tokens = TokenBatch::new(rows, &device());
    values(decoder.logits(decoder.hidden(&tokens)))
}

#[derive(Deserialize)]
struct Model {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct Inputs {
    documents: Vec<Vec<usize>>,
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Expected {
    logits: Vec<f64>,
    loss: f64,
    gradients: BTreeMap<String, Vec<f64>>,
}

#[test]
fn documents_of_packed_rows_equal_what_transformers_makes_of_each_alone_in_every_family() {
    assert_eq!(golden::names("decoder_packed_"), GOLDEN);
    for file in GOLDEN {
        let weights = file.replace("packed", "gradient");
        let model = golden::read::<Model, IgnoredAny>(&weights).inputs;
        let config = DecoderConfig::from_json(&model.config).unwrap();
        let decoder = decoder_of(config, &model.weights);
        let Golden {
            tolerance,
            inputs,
            expected,
        } = golden::read::<Inputs, Expected>(file);
        let mut tokens = inputs.tokens.into_iter();
        let rows = inputs.documents.iter();
        let rows: Vec<Row> = rows.map(|row| Row::new(row, &mut tokens)).collect();
        assert_eq!((rows.len(), tokens.next()), (3, None));

        let sequences: Vec<Sequence<'_>> = rows.iter().map(Row::packed).collect();
        assert_close(file, &logits(&decoder, &sequences), &expected.logits, SAME);
        let got = gradient(
            &decoder,
            &[packed_batch(&rows)],
            None,
            ActivationMemory::Kept,
        );
        let gap = (got.sums.read().means().total - expected.loss).abs();
        assert!(
            gap <= 1e-6 * expected.loss,
            "{file}: the loss is off by {gap}"
        );
        let specs = parameter_specs(&decoder.config);
        let gradients = specs.iter().map(|spec| spec.id);
        let gradients = gradients.zip(got.gradients.iter().map(to_vec));
        let gradients: BTreeMap<WeightId, Vec<f32>> = gradients.collect();
        for tensor in tensor_specs(&decoder.config) {
            let name = format!("{file}: gradient of {}", tensor.name);
            let joined = tensor.joined(|part| gradients[&part.id].clone());
            assert_close(&name, &joined, &expected.gradients[&tensor.name], tolerance);
        }
    }
}

#[test]
fn every_document_of_a_long_row_is_read_as_if_it_were_alone() {
    let (decoder, rows) = (model(1), long_rows());
    let packed: Vec<Sequence<'_>> = rows.iter().map(Row::packed).collect();
    let alone = |row| {
        let logits = logits(&decoder, &[row]);
        logits.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let documents = rows.iter().flat_map(Row::documents);
    let want: Vec<f64> = documents.flat_map(alone).collect();
    assert_close("in one batch", &logits(&decoder, &packed), &want, SAME);
    let by_row: Vec<f32> = packed
        .iter()
        .flat_map(|&row| logits(&decoder, &[row]))
        .collect();
    assert_close("row by row", &by_row, &want, SAME);
    let as_one: Vec<Sequence<'_>> = rows
        .iter()
        .map(|row| Sequence::document(&row.tokens))
        .collect();
    let as_one = golden::difference("", &logits(&decoder, &as_one), &want, SAME);
    assert!(as_one.is_some(), "documents would see each other");
}

#[test]
fn the_gradient_of_packed_rows_is_that_of_their_documents_apart() {
    let (student, teacher, rows) = (model(1), model(2), long_rows());
    let hidden = HiddenMatch {
        teacher: &teacher,
        pairs: &[[0, 0], [2, 1]],
        projections: &[],
    };
    for (name, hidden) in [("cross-entropy", None), ("hidden states", Some(hidden))] {
        let of = |batches: &[MicroBatch<'_>], activations| {
            gradient(&student, batches, hidden, activations)
        };
        let kept = of(&[packed_batch(&rows)], ActivationMemory::Kept);
        assert_eq!(
            kept.sums.positions(),
            600 - 9,
            "the last of each document is not"
        );
        assert_same_gradient(name, &kept, &of(&apart(&rows), ActivationMemory::Kept));
        let again = of(&[packed_batch(&rows)], ActivationMemory::Recomputed);
        assert_equal_bits(name, &student, [&again, &kept]);
    }
}

#[test]
fn layers_one_by_one_give_the_states_of_the_whole_pass() {
    let (decoder, rows) = (model(1), long_rows());
    let whole = decoder.contexts(&TokenBatch::document(&rows[0].tokens, &device()));
    for row in &rows {
        let tokens = TokenBatch::new(&[row.packed()], &device());
        let contexts = decoder.contexts_or(&whole, &tokens);
        let layers = 0..=decoder.config.num_hidden_layers;
        let last = layers.fold(decoder.embed(&tokens), |x, layer| {
            decoder.layer(layer, x, &contexts)
        });
        assert_eq!(values(last), values(decoder.hidden(&tokens)));
    }
}

#[test]
fn a_teacher_says_of_a_packed_document_what_it_says_of_it_alone() {
    let (teacher, rows) = (model(2), long_rows());
    let selection = Selection {
        support: SupportPlan::TopK(8),
        temperatures: &[2.0],
    };
    let of = |sequence: Sequence<'_>| {
        let num_positions = sequence.tokens().len() - 1;
        let spans = all_positions(num_positions);
        let mask = LossMask::new(&spans, num_positions).unwrap();
        match supports(&teacher, &[CountedRow { sequence, mask }], &selection).pop() {
            Some(Supports::TopK(supports)) => supports,
            other => panic!("{other:?}"),
        }
    };
    let row = &rows[0];
    let packed = of(row.packed());
    for place in row.packed().documents().filter(|place| place.len() > 1) {
        let alone = of(Sequence::document(&row.tokens[place.clone()]));
        let said = place.start * 8..(place.end - 1) * 8; // of its last token only with more behind it
        assert_eq!(packed.ids[said.clone()], alone.ids, "{place:?}");
        let want: Vec<f64> = alone.log_probs.into_iter().map(f64::from).collect();
        assert_close(&format!("{place:?}"), &packed.log_probs[said], &want, SAME);
    }
}

#[test]
#[should_panic(expected = "one document is read on")]
fn a_row_of_several_documents_is_not_read_on() {
    let tokens = [5, 6, 7];
    let tokens = TokenBatch::new(&[Sequence::packed(&tokens, &[0, 2])], &device());
    model(1).hidden_after(&tokens, &mut Vec::new());
}
