//! The training state: what an interrupted pass needs to end in the weights it would have had.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};

use super::optim::{AdamW, Moments};
use crate::model::ParameterSpec;
use crate::tensors::{self, TensorsError};

/// File of the training state in the folder of an unfinished pass.
pub const STATE_FILE: &str = "state.safetensors";

/// What is trained, moments and the number of updates made.
///
/// Nothing else moves during a pass: masks, grids and the weights that an adapter is added to come with the student, the learning rate and the
/// order of rows are functions of the step, and there is no other randomness.
pub struct State {
    /// What is trained, after `optimizer.num_updates` steps; see [`Student::trained`](crate::student::Student::trained).
    pub weights: Vec<Tensor<2>>,
    /// Moments.
    pub optimizer: AdamW,
}

/// Where a pass keeps its state.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(STATE_FILE)
}

/// Replaces the state on disk; a process killed meanwhile leaves the old one.
pub fn save(
    dir: &Path,
    trained: &[(ParameterSpec, Tensor<2>)],
    optimizer: &AdamW,
) -> io::Result<()> {
    let mut matrices = Vec::new();
    for ((spec, weight), moments) in trained.iter().zip(&optimizer.moments) {
        matrices.push((format!("first.{}", spec.name), moments.first.clone()));
        matrices.push((format!("second.{}", spec.name), moments.second.clone()));
        matrices.push((spec.name.clone(), weight.clone()));
    }
    tensors::save(&path(dir), &matrices, &optimizer.num_updates)
}

/// The state that an interrupted run left, if any.
///
/// A state that was damaged on disk is an error and not a fresh start: hours of training may hang on it.
pub fn load(
    dir: &Path,
    trained: &[(ParameterSpec, Tensor<2>)],
    device: &Device,
) -> Result<Option<State>, TensorsError> {
    let path = path(dir);
    if !path.exists() {
        return Ok(None);
    }
    let (mut matrices, num_updates): (BTreeMap<String, Tensor<2>>, usize) =
        tensors::load(&path, device)?;
    let mut take = |name: String, shape: [usize; 2]| {
        matrices
            .remove(&name)
            .filter(|matrix| matrix.dims() == shape)
            .ok_or_else(|| TensorsError::Damaged {
                path: path.display().to_string(),
                fact: format!("no matrix `{name}` of shape {shape:?}"),
            })
    };
    let mut moments = Vec::new();
    let mut weights = Vec::new();
    for (spec, _) in trained {
        moments.push(Moments {
            first: take(format!("first.{}", spec.name), spec.shape)?,
            second: take(format!("second.{}", spec.name), spec.shape)?,
        });
        weights.push(take(spec.name.clone(), spec.shape)?);
    }
    Ok(Some(State {
        weights,
        optimizer: AdamW {
            moments,
            num_updates,
        },
    }))
}
