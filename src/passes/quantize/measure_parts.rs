//! Measurement of sensitivity: the float student runs up to a layer once, and from there on once for each part and width.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::sensitivity::{Cost, LayerPart, Sensitivity, WIDTHS};
use super::{PassError, calibration, override_of, saved, scheme};
use super::{QuantizePlan, SchemePlan};
use crate::data::{Sequence, TokenRows};
use crate::device;
use crate::loss::chunked::{all_logits, for_logits};
use crate::loss::{counted_rows, kl_of_logits};
use crate::model::{Decoder, LayerContexts, ParameterSpec, TokenBatch, WeightId};
use crate::progress::Progress;
use crate::student::Student;
use crate::train::check_number;
use crate::train::fit::PassContext;

/// Number of logits of the float student that are held at a time: 64 MiB.
const HELD_LOGITS: usize = 1 << 24;

/// Measures a student layer by layer. Each layer sees the stream of the float layers before it, and only the layers behind
/// it run again. Parts that a stopped pass has measured are not measured again.
pub(super) fn measure_parts(
    plan: &QuantizePlan,
    num_tokens: usize,
    student: &Student,
    context: &PassContext<'_>,
) -> Result<Sensitivity, PassError> {
    let calibration = calibration(context, num_tokens);
    let mut found =
        saved(context, Sensitivity::read_of(context.dir, context.key))?.unwrap_or_default();
    let rows = calibration.read_rows();
    let mut stream = ResidualStream::begin(student, &rows);
    found.positions = stream.positions;
    let num_layers = student.decoder.config.num_hidden_layers;
    let label = format!("{}, sensitivity", context.label);
    let total = found.positions * num_layers as u64;
    let mut progress = Progress::new(&label, total);
    let num_done = found.num_layers();
    progress.resume_at(found.positions * num_done as u64);
    for layer in 0..num_layers {
        calibration.check_stop()?;
        if layer >= num_done {
            let mut variants = variants(plan, student, layer);
            stream.measure(&mut variants, layer, || {
                calibration.check_stop().map_err(PassError::from)
            })?;
            for Variant { cost, .. } in variants {
                check_number("KL of a rounded part", cost.kl_nats, 0, context)?;
                found.costs.push(cost);
            }
            saved(context, found.write(context.dir, context.key))?;
            progress.advance(found.positions);
        }
        stream.advance(layer);
    }
    progress.finish();
    saved(context, found.write_table(context.dir))?;
    Ok(found)
}

/// A part at a width, with its rounded weights.
struct Variant {
    cost: Cost,
    /// Rounded weights, by the id of the student's own weight.
    rounded: BTreeMap<WeightId, Tensor<2>>,
}

/// All parts of a layer at every width, and then the whole layer.
fn variants(plan: &QuantizePlan, student: &Student, layer: usize) -> Vec<Variant> {
    let weights: Vec<(LayerPart, ParameterSpec, Tensor<2>)> = student
        .decoder
        .parameters()
        .into_iter()
        .filter_map(|(spec, weight)| {
            let (at, part) = LayerPart::of(&spec)?;
            let is_free = override_of(plan, spec.id).is_none();
            (at == layer && is_free).then(|| {
                let weight = student.masked(spec.id, weight);
                (part, spec, weight)
            })
        })
        .collect();
    let rounded = WIDTHS.map(|bits| {
        let scheme = scheme(SchemePlan {
            bits,
            ..plan.scheme
        });
        let round = |(_, spec, weight): &(LayerPart, ParameterSpec, Tensor<2>)| {
            let on_grid = scheme.weight.quantize(weight.clone());
            let values = on_grid.scaling.values(on_grid.codes).reshape(spec.shape);
            (spec.id, values)
        };
        weights.iter().map(round).collect::<BTreeMap<_, _>>()
    });
    let mut variants = Vec::new();
    for part in LayerPart::CHOSEN.into_iter().chain([LayerPart::Layer]) {
        let is_of = |of: LayerPart| part == LayerPart::Layer || part == of;
        let names = || weights.iter().filter(|(of, ..)| is_of(*of));
        if names().next().is_none() {
            continue;
        }
        for (bits, rounded) in WIDTHS.into_iter().zip(&rounded) {
            let pairs = names().map(|(_, spec, _)| (spec.id, rounded[&spec.id].clone()));
            variants.push(Variant {
                cost: Cost {
                    layer,
                    part,
                    bits,
                    num_weights: names().map(|(_, spec, _)| spec.num_elements() as u64).sum(),
                    kl_nats: 0.0,
                },
                rounded: pairs.collect(),
            });
        }
    }
    variants
}

/// Text in front of a layer of the float student, and the same text behind the last layer.
struct ResidualStream<'a> {
    student: &'a Student,
    float: Decoder,
    /// Contexts of rows of one document.
    whole: LayerContexts,
    batches: Vec<Batch>,
    positions: u64,
}

struct Batch {
    tokens: TokenBatch,
    residual: Tensor<3>, // [B, T, D]
    last: Tensor<2>,     // [N, D]
    /// True where a position counts, row by row.
    is_counted: Vec<bool>,
}

impl<'a> ResidualStream<'a> {
    fn begin(student: &'a Student, rows: &TokenRows) -> Self {
        let float = student.effective();
        let row_logits = rows.sequence_length() * float.config.vocab_size;
        let at_once = (HELD_LOGITS / row_logits).max(1);
        let all: Vec<usize> = (0..rows.num_rows()).collect();
        let device = float.device();
        let batch = |row_idxs: &[usize]| {
            let seq = rows.sequence_length();
            let is_counted: Vec<bool> = row_idxs
                .iter()
                .flat_map(|&row_idx| rows.mask(row_idx).flags(seq))
                .collect();
            let inputs: Vec<Sequence<'_>> = row_idxs.iter().map(|&idx| rows.inputs(idx)).collect();
            let tokens = TokenBatch::new(&inputs, &device);
            Batch {
                residual: float.embed(&tokens),
                last: flat(float.hidden(&tokens), &is_counted),
                is_counted,
                tokens,
            }
        };
        let one_document = TokenBatch::document(rows.inputs(0).tokens(), &device);
        Self {
            student,
            whole: float.contexts(&one_document),
            batches: all.chunks(at_once).map(batch).collect(),
            positions: rows.num_positions(),
            float,
        }
    }

    /// Layers of the running model that repeat one of the student's own.
    fn runs(&self, layer: usize) -> Range<usize> {
        let repeats = self.student.layer_repeats;
        layer * repeats..(layer + 1) * repeats
    }

    /// Runs the text through a layer.
    fn advance(&mut self, layer: usize) {
        for run in self.runs(layer) {
            for batch in &mut self.batches {
                let contexts = self.float.contexts_or(&self.whole, &batch.tokens);
                batch.residual = self.float.layer(run, batch.residual.clone(), &contexts);
            }
        }
    }

    /// Measures variants of a layer on the text in front of it.
    fn measure(
        &self,
        variants: &mut [Variant],
        layer: usize,
        mut check_stop: impl FnMut() -> Result<(), PassError>,
    ) -> Result<(), PassError> {
        let own = &self.student.decoder;
        let decoders: Vec<Decoder> = variants
            .iter()
            .map(|variant| {
                let decoder = own.map(|spec, weight| match variant.rounded.get(&spec.id) {
                    Some(rounded) => rounded.clone(),
                    None => self.student.masked(spec.id, weight),
                });
                self.student.unroll(&decoder)
            })
            .collect();
        let first = self.runs(layer).start;
        let last = self.float.config.num_hidden_layers; // behind it the norm
        let at_once = device::parallelism(&own.device());
        for batch in &self.batches {
            let reference = all_logits(&batch.last, &self.float.head());
            let contexts = self.float.contexts_or(&self.whole, &batch.tokens);
            for (variants, decoders) in variants.chunks_mut(at_once).zip(decoders.chunks(at_once)) {
                check_stop()?;
                variants
                    .par_iter_mut()
                    .zip(decoders)
                    .for_each(|(variant, decoder)| {
                        let mut x = batch.residual.clone();
                        for layer in first..=last {
                            x = decoder.layer(layer, x, &contexts);
                        }
                        let sum = kl(&reference, decoder, &flat(x, &batch.is_counted));
                        variant.cost.kl_nats += sum / self.positions as f64;
                    });
            }
        }
        Ok(())
    }
}

/// Rows end to end, without the positions that do not count.
fn flat(hidden: Tensor<3>, is_counted: &[bool]) -> Tensor<2> {
    let [batch, seq, size] = hidden.dims();
    let all = hidden.reshape([batch * seq, size]); // [B·T, D]
    counted_rows(&all, is_counted) // [N, D]
}

/// Sum over positions of the KL from a reference, in nats.
fn kl(reference: &[f32], decoder: &Decoder, hidden: &Tensor<2>) -> f64 {
    let vocab = decoder.config.vocab_size;
    let mut rest = reference.chunks(vocab);
    let mut sum = 0.0;
    for_logits(hidden, &decoder.head(), |logits| {
        for (logits, reference) in logits.chunks(vocab).zip(&mut rest) {
            sum += kl_of_logits(reference, logits);
        }
    });
    sum
}
