//! Clipping and AdamW against PyTorch.

use alambic::device::ReadBack;
use alambic::model::ParameterKind;
use alambic::student::TrainedSpec;
use alambic::tensors::to_vec;
use alambic::train::FitPlan;
use alambic::train::optim::{AdamW, clip, global_norm};
use burn::tensor::Tensor;
use serde::Deserialize;

use super::golden::{self, Golden, assert_close};
use super::tiny::{fit_plan, tensor};

/// Of the decayed matrix and the norm, which does not decay.
#[derive(Deserialize)]
struct Pair<T> {
    matrix: T,
    norm: T,
}

#[derive(Deserialize)]
struct Inputs {
    shapes: Pair<[usize; 2]>,
    weights: Pair<Vec<f32>>,
    gradients: Vec<Pair<Vec<f32>>>,
    learning_rates: Vec<f64>,
    betas: [f64; 2],
    epsilon: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

/// After one step; `norm` is that of the gradients before clipping.
#[derive(Deserialize)]
struct Step {
    norm: f64,
    clipped: Pair<Vec<f64>>,
    weights: Pair<Vec<f64>>,
    first: Pair<Vec<f64>>,
    second: Pair<Vec<f64>>,
}

impl Inputs {
    fn plan(&self) -> FitPlan {
        FitPlan {
            betas: self.betas,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            max_grad_norm: Some(self.max_grad_norm),
            ..fit_plan()
        }
    }

    fn tensors(&self, values: &Pair<Vec<f32>>) -> Vec<Tensor<2>> {
        vec![
            tensor(values.matrix.clone(), self.shapes.matrix),
            tensor(values.norm.clone(), self.shapes.norm),
        ]
    }

    fn parameters(&self) -> Vec<(TrainedSpec, Tensor<2>)> {
        let spec = |name: &str, shape, kind| TrainedSpec {
            name: name.to_owned(),
            shape,
            kind,
            weight: None,
        };
        let specs = [
            spec("matrix", self.shapes.matrix, ParameterKind::Linear),
            spec("norm", self.shapes.norm, ParameterKind::Norm),
        ];
        specs.into_iter().zip(self.tensors(&self.weights)).collect()
    }
}

#[test]
fn adamw_with_clipping_equals_torch_at_every_step() {
    let Golden {
        tolerance,
        inputs,
        expected,
    } = golden::read::<Inputs, Vec<Step>>("adamw.json");
    let check = |step, what, got: Vec<&Tensor<2>>, want: &Pair<Vec<f64>>| {
        let name = |part| format!("{what} of the {part} at step {step}");
        let [matrix, norm] = got[..] else {
            panic!("{} parameters", got.len())
        };
        assert_close(&name("matrix"), &to_vec(matrix), &want.matrix, tolerance);
        assert_close(&name("norm"), &to_vec(norm), &want.norm, tolerance);
    };
    let plan = inputs.plan();
    let mut parameters = inputs.parameters();
    let mut optimizer = AdamW::new(&parameters);
    assert_eq!(expected.len(), 6);
    for (step, want) in expected.iter().enumerate() {
        let gradients = inputs.tensors(&inputs.gradients[step]);
        let norm = global_norm(&gradients);
        let name = format!("norm of all gradients at step {step}");
        let got = norm.clone().into_scalar::<f32>();
        assert_close(&name, &[got], &[want.norm], tolerance);
        let [unread, gradients] = [ReadBack::Stalls, ReadBack::Free]
            .map(|read_back| clip(gradients.clone(), &norm, inputs.max_grad_norm, read_back));
        for gradients in [&unread, &gradients] {
            check(step, "gradient", gradients.iter().collect(), &want.clipped);
        }

        let rate = inputs.learning_rates[step];
        let updated = optimizer.step(parameters.clone(), gradients, rate, &plan);
        let moments = &optimizer.moments;
        let firsts = moments.iter().map(|moments| &moments.first).collect();
        let seconds = moments.iter().map(|moments| &moments.second).collect();
        check(step, "first moment", firsts, &want.first);
        check(step, "second moment", seconds, &want.second);
        check(step, "weight", updated.iter().collect(), &want.weights);
        for (parameter, updated) in parameters.iter_mut().zip(updated) {
            parameter.1 = updated;
        }
    }
}
