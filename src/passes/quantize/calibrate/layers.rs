//! Finished layers of a pass, on disk: a killed pass continues after them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::files::with_path;
use crate::model::{Decoder, DecoderConfig, ParameterSpec, Schemes, WeightId, parameter_specs};
use crate::progress;
use crate::student::FixedScales;
use crate::tensors::{self, TensorsError};

/// Folder of `<layer>.safetensors` inside the pass's folder.
const FOLDER: &str = "layers";

/// Finished layers of an unfinished pass.
///
/// The inputs of the next layer are not saved: the finished layers compute them again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FinishedLayers<'a> {
    /// Folder of the pass.
    pub dir: &'a Path,
    /// Key of the stage; layers with another key are not read.
    pub key: &'a str,
}

/// A finished layer.
pub(super) struct FinishedLayer {
    /// All its weights.
    pub(super) weights: BTreeMap<WeightId, Tensor<2>>,
    /// Scales of the weights that are on a grid.
    pub(super) scales: BTreeMap<WeightId, FixedScales>,
}

#[derive(Serialize, Deserialize)]
struct LayerFacts {
    key: String,
    layer: usize,
}

impl FinishedLayers<'_> {
    /// Adds a layer of a decoder, whole or not at all.
    pub(super) fn write(
        &self,
        layer: usize,
        decoder: &Decoder,
        scales: &BTreeMap<WeightId, FixedScales>,
    ) -> io::Result<()> {
        let mut matrices = Vec::new();
        for (spec, weight) in decoder.parameters() {
            if spec.id.layer == Some(layer) {
                let kept = scales.get(&spec.id);
                matrices.extend(kept.into_iter().flat_map(|kept| kept.named(&spec.name)));
                matrices.push((spec.name, weight));
            }
        }
        let folder = self.dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|error| with_path(error, &folder))?;
        let key = self.key.to_owned();
        tensors::save(&self.file(layer), &matrices, &LayerFacts { key, layer })
    }

    /// Reads a finished layer, if there is one. An unusable one is reported, and the layer is quantised again.
    pub(super) fn read(
        &self,
        layer: usize,
        decoder: &Decoder,
        schemes: &Schemes,
    ) -> io::Result<Option<FinishedLayer>> {
        let path = self.file(layer);
        if !path.exists() {
            return Ok(None);
        }
        let specs = parameter_specs(&decoder.config).into_iter();
        let specs: Vec<_> = specs.filter(|spec| spec.id.layer == Some(layer)).collect();
        let unusable = match tensors::load::<LayerFacts>(&path, &decoder.device()) {
            Ok((matrices, facts)) if facts.key == self.key && facts.layer == layer => {
                match taken(&specs, schemes, matrices) {
                    Some(finished) => return Ok(Some(finished)),
                    None => format!("{}: not the tensors of layer {layer}", path.display()),
                }
            }
            Ok(_) => format!("{}: belongs to another stage", path.display()),
            Err(TensorsError::Io(error)) => return Err(error),
            Err(error @ TensorsError::Damaged { .. }) => error.to_string(),
        };
        progress::log(&format!(
            "warning: {unusable}; layer {layer} is quantised again"
        ));
        Ok(None)
    }

    fn file(&self, layer: usize) -> PathBuf {
        self.dir
            .join(FOLDER)
            .join(format!("{layer:04}.safetensors"))
    }
}

/// Number of finished layers in the folder of an unfinished pass, from the first on.
pub(crate) fn num_finished(dir: &Path) -> usize {
    let finished = FinishedLayers { dir, key: "" };
    (0..DecoderConfig::MAX_LAYERS)
        .take_while(|&layer| finished.file(layer).exists())
        .count()
}

/// Deletes the files that only an unfinished pass needs.
pub(crate) fn discard(dir: &Path) -> io::Result<()> {
    let layers = dir.join(FOLDER);
    if layers.exists() {
        fs::remove_dir_all(&layers).map_err(|error| with_path(error, &layers))?;
    }
    Ok(())
}

/// True if [`discard`] would delete the file at this path inside the folder.
pub(crate) fn is_of_finished_layers(inside: &Path) -> bool {
    inside == Path::new(FOLDER)
}

/// The layer, if all its weights are there and nothing else, with scales that fit their grids.
fn taken(
    specs: &[ParameterSpec],
    schemes: &Schemes,
    mut matrices: BTreeMap<String, Tensor<2>>,
) -> Option<FinishedLayer> {
    let (mut weights, mut scales) = (BTreeMap::new(), BTreeMap::new());
    for spec in specs {
        let weight = matrices.remove(&spec.name)?;
        if weight.dims() != spec.shape {
            return None;
        }
        weights.insert(spec.id, weight);
        if let Some(kept) = FixedScales::take(&spec.name, &mut matrices) {
            let grid = schemes.get(&spec.id)?.weight;
            if !kept.fits(&grid, spec.shape) {
                return None;
            }
            scales.insert(spec.id, kept);
        }
    }
    matrices
        .is_empty()
        .then_some(FinishedLayer { weights, scales })
}
