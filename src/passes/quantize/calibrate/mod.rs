//! Quantisation without training: weights are put on their grids according to their inputs.

mod awq;
mod clip;
mod gptq;
mod layers;

use std::collections::BTreeMap;
use std::io;

use burn::tensor::Tensor;
use thiserror::Error;

use self::gptq::Step;
pub(crate) use self::layers::{FinishedLayers, discard, is_of_finished_layers, num_finished};
use super::CalibratedPlan;
use crate::calibration::{Calibration, Interrupted, LayerSweep, NotPositiveDefinite};
use crate::kernels::grid::round_to_bf16;
use crate::model::{
    Decoder, InputLevels, ParameterKind, ParameterSpec, Schemes, Site, WeightId, parameter_specs,
};
use crate::progress;
use crate::student::{FixedScales, Student};
use crate::tensors;

/// Error of quantising without training.
#[derive(Debug, Error)]
pub enum QuantizeError {
    /// A signal asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The inputs of a layer are unusable.
    #[error("layer {layer} cannot be quantised at its {site:?}: {source}")]
    Inputs {
        /// The layer.
        layer: usize,
        /// The place in it.
        site: Site,
        /// Fault of its inputs.
        source: NotPositiveDefinite,
    },
    /// A weight is NaN or infinite.
    #[error("`{name}` cannot be quantised: row {row} holds {value}")]
    NotFinite {
        /// The parameter.
        name: String,
        /// Row of the weight, counted from 0.
        row: usize,
        /// First such value.
        value: f32,
    },
    /// No training row is without padding.
    #[error("the training text has no whole row of {sequence_length} positions to calibrate on")]
    NoRows {
        /// Positions of a row.
        sequence_length: usize,
    },
    /// The folder of finished layers cannot be read or added to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Refuses weights that are NaN or infinite, for which a grid has no value.
pub(super) fn check_finite(student: &Student) -> Result<(), QuantizeError> {
    for (spec, weight) in student.decoder.parameters() {
        if !student.schemes.contains_key(&spec.id) {
            continue;
        }
        let values = tensors::to_vec(&weight);
        if let Some(idx) = values.iter().position(|value| !value.is_finite()) {
            return Err(QuantizeError::NotFinite {
                row: idx / spec.shape[1],
                value: values[idx],
                name: spec.name,
            });
        }
    }
    Ok(())
}

/// Puts the weights that have a scheme on their grids. Each layer sees the outputs of the quantised layers before it; the
/// embedding and the output layer are rounded to nearest first.
///
/// Memory holds the student, once, the residual stream of the calibration text, and the second moments of one place. Layers
/// that an interrupted pass has finished are read from `finished`, and each new one is added there.
///
/// Scales are chosen before any weight moves, and stay with the student: the new weights of a group need not reach as far
/// as the old ones. Masked weights stay 0.
pub(super) fn calibrate(
    student: Student,
    plan: &CalibratedPlan,
    calibration: &Calibration<'_>,
    finished: &FinishedLayers<'_>,
) -> Result<Student, QuantizeError> {
    check_rows(calibration)?;
    check_finite(&student)?;
    let layer_repeats = student.layer_repeats;
    let (decoder, mut grids) = with_rounded_ends(student);
    let mut sweep = LayerSweep::begin(calibration, decoder, layer_repeats);
    let mut num_resumed = 0;
    while let Some(layer) = sweep.layer() {
        if num_resumed == layer
            && let Some(read) = finished.read(layer, sweep.decoder(), &grids.schemes)?
        {
            num_resumed += 1;
            sweep.replace(|spec, weight| read.weights.get(&spec.id).cloned().unwrap_or(weight));
            grids.scales.extend(read.scales);
            sweep.advance(&format!("layer {layer}, finished earlier"))?;
            continue;
        }
        if num_resumed == layer && layer > 0 {
            let label = calibration.label;
            progress::log(&format!("{label}: resumed at layer {layer}"));
        }
        if plan.awq {
            awq::scale_layer(&mut sweep, &grids.schemes)?;
        }
        let mut largest: f64 = 0.0;
        for site in Site::OF_LAYER {
            largest = largest.max(round_place(&mut sweep, site, plan, &mut grids)?);
        }
        finished.write(layer, sweep.decoder(), &grids.scales)?;
        sweep.advance(&format!("layer {layer} error {:.1} %", 100.0 * largest))?;
    }
    Ok(Student {
        layer_repeats,
        masks: grids.masks,
        schemes: grids.schemes,
        scales: grids.scales,
        ..Student::new(sweep.finish())
    })
}

/// The decoder as it will run, except for its projections, which are still the student's. The student is dropped: from here
/// on each weight exists once.
fn with_rounded_ends(student: Student) -> (Decoder, Grids) {
    let mut scales = BTreeMap::new();
    let decoder = student.decoder.map(|spec, weight| {
        let weight = student.masked(spec.id, weight);
        match student.schemes.get(&spec.id) {
            Some(_) if spec.kind() == ParameterKind::Linear => weight,
            // Layers must see the embedding that will run; errors of it and of the output layer are not compensated.
            Some(scheme) => {
                let scaling = scheme.weight.scaling(weight.clone());
                scales.insert(spec.id, scaling.clone().into());
                scheme.weight.nearest(weight, scaling)
            }
            None => round_to_bf16(weight), // as it will run: see `Student`
        }
    });
    let inputs = InputLevels::of_layers(&student.schemes, &decoder.config);
    let grids = Grids {
        masks: student.masks,
        schemes: student.schemes,
        scales,
    };
    (decoder.with_inputs(inputs), grids)
}

/// Refuses to begin without calibration text.
fn check_rows(calibration: &Calibration<'_>) -> Result<(), QuantizeError> {
    if calibration.num_whole_rows() == 0 {
        let sequence_length = calibration.rows.sequence_length();
        return Err(QuantizeError::NoRows { sequence_length });
    }
    Ok(())
}

/// Masks, schemes and scales of weights.
struct Grids {
    masks: BTreeMap<WeightId, Tensor<2>>,
    schemes: Schemes,
    scales: BTreeMap<WeightId, FixedScales>,
}

/// Puts the weights at one place of the layer on their grids. Returns the largest squared error of their outputs, as a
/// share of the squared outputs.
fn round_place(
    sweep: &mut LayerSweep<'_>,
    site: Site,
    plan: &CalibratedPlan,
    grids: &mut Grids,
) -> Result<f64, QuantizeError> {
    let Some(layer) = sweep.layer() else {
        return Ok(0.0);
    };
    let is_here = |spec: &ParameterSpec, schemes: &Schemes| {
        spec.id.input() == Some((layer, site)) && schemes.contains_key(&spec.id)
    };
    let specs = parameter_specs(&sweep.decoder().config);
    if !specs.iter().any(|spec| is_here(spec, &grids.schemes)) {
        return Ok(0.0);
    }
    let inputs = |source| QuantizeError::Inputs {
        layer,
        site,
        source,
    };
    let hessian = sweep.hessian(site)?;
    hessian.check_finite().map_err(inputs)?;
    let clipped = plan.clip.then(|| hessian.matrix(&sweep.decoder().device()));
    let step = match &plan.gptq {
        Some(gptq) => Some(Step::new(gptq, &hessian).map_err(inputs)?),
        None => None,
    };
    let mut largest: f64 = 0.0;
    sweep.replace(|spec, weight| {
        if !is_here(spec, &grids.schemes) {
            return weight;
        }
        let grid = grids.schemes[&spec.id].weight;
        let scaling = match &clipped {
            Some(inputs) => clip::scaling(grid, &weight, inputs),
            None => grid.scaling(weight.clone()),
        };
        let rounded = match &step {
            Some(step) => {
                let mask = grids.masks.get(&spec.id).map(tensors::to_vec);
                step.round(&weight, mask, grid, &scaling)
            }
            None => grid.nearest(weight.clone(), scaling.clone()),
        };
        grids.scales.insert(spec.id, scaling.into());
        let lost = hessian.output_square(&(weight.clone() - rounded.clone()));
        let given = hessian.output_square(&weight).max(f64::MIN_POSITIVE);
        largest = largest.max(lost / given);
        rounded
    });
    Ok(largest)
}
