//! The teacher that runs along with a pass, and the distance of the student's hidden states from its own.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::gradient::MicroBatch;
use super::trunk::Trunk;
use crate::data::Sequence;
use crate::device::ReadBack;
use crate::loss::{LossSpec, PendingSums, Term, hidden_gradients};
use crate::model::{Decoder, TokenBatch};
use crate::student::{Projection, Student, layer_pairs};
use crate::train::FitPlan;

/// Hidden states of a teacher that are the target of the student's: the residual stream behind some of its layers.
#[derive(Clone, Copy)]
pub struct HiddenMatch<'a> {
    /// The teacher; it only runs forward, up to the last of its layers that is compared.
    pub teacher: &'a Decoder,
    /// Layers of the student and of the teacher that are compared, counted from 0.
    pub pairs: &'a [[usize; 2]],
    /// One for each pair if the two widths differ, else none.
    pub projections: &'a [Projection],
}

/// The teacher that runs along with a pass, and the layers of both models whose outputs are compared.
pub(super) struct TeacherAlong<'a> {
    teacher: &'a Decoder,
    pairs: Vec<[usize; 2]>,
}

impl<'a> TeacherAlong<'a> {
    /// Teacher of a pass; `None` if no loss term compares hidden states.
    pub(super) fn of(
        plan: &FitPlan,
        student: &Student,
        teacher: Option<&'a Decoder>,
    ) -> Option<Self> {
        if !plan.losses.uses(Term::HiddenMse) {
            return None;
        }
        let teacher = teacher.expect("a pass that compares hidden states is given the teacher");
        let depth = student.effective_config().num_hidden_layers;
        let pairs = layer_pairs(&plan.losses, depth, teacher.config.num_hidden_layers);
        Some(Self {
            teacher,
            pairs: pairs.expect("the layers were looked up before the run"),
        })
    }

    pub(super) fn matched<'b>(&'b self, student: &'b Student) -> HiddenMatch<'b> {
        HiddenMatch {
            teacher: self.teacher,
            pairs: &self.pairs,
            projections: &student.projections,
        }
    }
}

/// The distance of one micro-batch and its gradients.
pub(super) struct HiddenSlopes {
    /// Sum over the counted positions of the mean over the pairs and the teacher's width; it counts no positions.
    pub(super) sums: PendingSums,
    /// d weight · sum / d output of a layer of the student, `[B, T, D]`, by layer.
    pub(super) layers: BTreeMap<usize, Tensor<3>>,
    /// d weight · sum / d projection, in the order of the pairs.
    pub(super) projections: Vec<Tensor<2>>,
}

impl HiddenMatch<'_> {
    /// Compares with the student's forward pass, row by row, so that the teacher's activations are those of one row.
    ///
    /// The teacher is not run if the weight is 0, nor on a row of padding.
    pub(super) fn slopes(
        &self,
        trunk: &Trunk,
        micro_batch: &MicroBatch<'_>,
        spec: &LossSpec,
        read_back: ReadBack,
    ) -> HiddenSlopes {
        let weight = spec.weights[Term::HiddenMse];
        let mut slopes = HiddenSlopes {
            sums: PendingSums::default(),
            layers: BTreeMap::new(),
            projections: (self.projections.iter())
                .map(|projection| projection.matrix.zeros_like())
                .collect(),
        };
        if weight == 0.0 {
            return slopes;
        }
        let outputs: Vec<Tensor<3>> = (self.pairs.iter())
            .map(|&[layer, _]| trunk.output(layer))
            .collect(); // [B, T, D] of each pair
        let (mut known, mut unread) = (0.0, None::<Tensor<1>>);
        let share = (self.pairs.len() as f64).recip();
        let mut rows: Vec<Vec<Tensor<2>>> = vec![Vec::new(); self.pairs.len()]; // [T, D] of each pair and row
        let counted = micro_batch.counted();
        for (row, (&input, is_counted)) in micro_batch.inputs.iter().zip(&counted).enumerate() {
            let own = |pair: usize| {
                let [_, seq, size] = outputs[pair].dims();
                let row = outputs[pair].clone().narrow(0, row, 1);
                row.reshape([seq, size])
            };
            if !is_counted.contains(&true) {
                for (pair, rows) in rows.iter_mut().enumerate() {
                    rows.push(own(pair).zeros_like());
                }
                continue;
            }
            self.for_teacher(input, |pair, teacher| {
                let projection = self.projections.get(pair).map(|other| &other.matrix);
                let got = hidden_gradients(&own(pair), teacher, projection, is_counted);
                match read_back {
                    ReadBack::Free => known += share * got.sum(),
                    ReadBack::Stalls => {
                        let part = got.distances.clone().sum().mul_scalar(share);
                        unread = Some(match unread.take() {
                            Some(sum) => sum + part,
                            None => part,
                        });
                    }
                }
                rows[pair].push(got.student.mul_scalar(share * weight));
                if let Some(slope) = got.projection {
                    let total = slopes.projections[pair].clone();
                    slopes.projections[pair] = total + slope.mul_scalar(share * weight);
                }
            });
        }
        for ((&[layer, _], rows), output) in self.pairs.iter().zip(rows).zip(outputs) {
            let slope = Tensor::cat(rows, 0).reshape(output.dims());
            let total = match slopes.layers.remove(&layer) {
                Some(total) => total + slope, // two layers of the teacher pull at it
                None => slope,
            };
            slopes.layers.insert(layer, total);
        }
        slopes.sums = PendingSums::of_hidden(known, unread, &spec.weights);
        slopes
    }

    /// Calls `visit` with each pair's index and the teacher's hidden states of one row, `[T, D']`.
    fn for_teacher(&self, input: Sequence<'_>, mut visit: impl FnMut(usize, &Tensor<2>)) {
        let last = self.pairs.iter().map(|&[_, layer]| layer).max();
        let tokens = TokenBatch::new(&[input], &self.teacher.device());
        let contexts = self.teacher.contexts(&tokens);
        let mut x = self.teacher.embed(&tokens);
        for layer in 0..=last.unwrap_or(0) {
            x = self.teacher.layer(layer, x, &contexts);
            let [_, seq, size] = x.dims();
            let states = x.clone().reshape([seq, size]);
            let here = self.pairs.iter().enumerate();
            for (pair, _) in here.filter(|(_, pair)| pair[1] == layer) {
                visit(pair, &states);
            }
        }
    }
}
