//! Unstructured pruning: zero the least useful weights of every output row.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::PassError;
use super::calibrate::{SiteSums, input_squares};
use crate::model::{ParameterKind, ParameterSpec, Site};
use crate::recipe::{PruneMethod, PrunePlan};
use crate::student::Student;
use crate::tensors;
use crate::train::fit::FitContext;

/// Score of a weight that is already masked, below any other.
const PRUNED: f32 = -1.0;

/// Masks the linear layers inside blocks; embedding, norms and output matrix stay dense.
///
/// What an earlier pass masked stays masked, so masks only grow. The free weights are zeroed where they are masked.
pub fn prune(
    plan: &PrunePlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let squares = match plan.method {
        PruneMethod::Magnitude => None,
        PruneMethod::Wanda => Some(input_squares(&student, plan.calibration_tokens, context)?),
    };
    let mut student = student;
    for (spec, weight) in student.effective_weights().parameters() {
        if spec.kind != ParameterKind::Linear {
            continue;
        }
        let mut scores: Vec<f32> = tensors::to_vec(&weight).into_iter().map(f32::abs).collect();
        if let Some(squares) = &squares {
            scale_by_inputs(&mut scores, &spec, squares);
        }
        if let Some(mask) = student.masks.get(&spec.name) {
            let kept = tensors::to_vec(mask);
            scores.iter_mut().zip(kept).for_each(|(score, kept)| {
                if kept == 0.0 {
                    *score = PRUNED;
                }
            });
        }
        let mask = select(&scores, spec.shape[1], plan.sparsity);
        let mask = Tensor::from_data(TensorData::new(mask, spec.shape), &weight.device());
        student.masks.insert(spec.name.clone(), mask);
    }
    student.decoder = student
        .decoder
        .map(|spec, weight| student.masked(spec, weight));
    Ok(student)
}

/// Wanda: |w_ij| · ‖x_j‖₂, the norm over calibration positions (Sun, Liu, Bair & Kolter 2023,
/// <https://arxiv.org/abs/2306.11695>, equation 1).
#[expect(clippy::cast_possible_truncation, reason = "scores are only compared")]
fn scale_by_inputs(scores: &mut [f32], spec: &ParameterSpec, squares: &SiteSums) {
    let (layer, site) = input_of(&spec.name);
    let norms: Vec<f32> = squares[&(layer, site)]
        .iter()
        .map(|square| square.sqrt() as f32)
        .collect();
    for row in scores.chunks_mut(norms.len()) {
        row.iter_mut()
            .zip(&norms)
            .for_each(|(score, norm)| *score *= norm);
    }
}

/// 1 for the weights that stay: in every row of `columns` scores the lowest `round(columns · sparsity)` go, the
/// earlier of equals first, and all that are [`PRUNED`].
fn select(scores: &[f32], columns: usize, sparsity: f64) -> Vec<f32> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the columns"
    )]
    let num_pruned = (columns as f64 * sparsity).round() as usize;
    let mut mask = vec![1.0; scores.len()];
    mask.par_chunks_mut(columns)
        .zip(scores.par_chunks(columns))
        .for_each(|(mask, scores)| {
            let mut order: Vec<usize> = (0..columns).collect();
            order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            let num_masked = scores.iter().filter(|&&score| score < 0.0).count();
            for &column in &order[..num_pruned.max(num_masked)] {
                mask[column] = 0.0;
            }
        });
    mask
}

/// The layer of a linear parameter and the place whose activations enter it.
fn input_of(name: &str) -> (usize, Site) {
    let rest = name
        .strip_prefix("model.layers.")
        .expect("linear layers stand inside blocks");
    let (layer, rest) = rest
        .split_once('.')
        .expect("a block's parameters have a name");
    let site = match rest {
        "self_attn.o_proj.weight" => Site::AttentionOutput,
        "mlp.gate_proj.weight" | "mlp.up_proj.weight" => Site::MlpInput,
        "mlp.down_proj.weight" => Site::MlpHidden,
        _ => Site::AttentionInput,
    };
    (layer.parse().expect("the table numbers its layers"), site)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_loses_exactly_its_lowest_scores() {
        let scores = [3.0, 1.0, 2.0, 4.0, 0.0, 0.0, 0.0, 9.0];
        assert_eq!(
            select(&scores, 4, 0.5),
            [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
        );
        assert_eq!(select(&scores, 4, 0.0), [1.0; 8]);
    }

    #[test]
    fn what_is_masked_stays_masked_even_beside_other_zeros() {
        let scores = [0.0, PRUNED, 0.0, PRUNED];
        assert_eq!(select(&scores, 4, 0.5), [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(
            select(&scores, 4, 0.25),
            [1.0, 0.0, 1.0, 0.0],
            "a lower sparsity brings nothing back"
        );
        assert_eq!(select(&scores, 4, 0.75), [0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn wanda_weighs_a_weight_by_the_norm_of_its_input() {
        let spec = ParameterSpec {
            name: "model.layers.3.mlp.down_proj.weight".to_owned(),
            shape: [2, 3],
            kind: ParameterKind::Linear,
        };
        let squares = SiteSums::from([((3, Site::MlpHidden), vec![4.0, 9.0, 0.0])]);
        let mut scores = vec![1.0, 1.0, 7.0, 2.0, 0.5, 1.0];
        scale_by_inputs(&mut scores, &spec, &squares);
        assert_eq!(scores, [2.0, 3.0, 0.0, 4.0, 1.5, 0.0]);
    }

    #[test]
    fn each_linear_layer_knows_what_enters_it() {
        for (name, site) in [
            ("self_attn.q_proj", Site::AttentionInput),
            ("self_attn.k_proj", Site::AttentionInput),
            ("self_attn.v_proj", Site::AttentionInput),
            ("self_attn.o_proj", Site::AttentionOutput),
            ("mlp.gate_proj", Site::MlpInput),
            ("mlp.up_proj", Site::MlpInput),
            ("mlp.down_proj", Site::MlpHidden),
        ] {
            assert_eq!(
                input_of(&format!("model.layers.12.{name}.weight")),
                (12, site)
            );
        }
    }
}
