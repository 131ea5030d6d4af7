//! Checkpoints: model folders in Hugging Face layout, read one weight at a time.
//!
//! Nothing here knows how such a folder is written: what `export` writes is checked by reading it back through
//! this module.

mod compressed_tensors;
mod error;
mod safetensors;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::compressed_tensors::PackedScheme;
#[cfg(test)]
pub(crate) use self::compressed_tensors::unpack; // the writer's tests read reference codes with it
pub use self::error::CheckpointError;
pub use self::safetensors::TensorFiles;
use crate::files::with_path;
use crate::model::{DecoderConfig, ParameterSpec, parameter_specs};

/// A model folder whose headers have been checked: every weight is there with its shape and dtype.
///
/// Weights are read on demand, so that a model is never held twice.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: DecoderConfig,
    files: TensorFiles,
    scheme: Option<PackedScheme>,
}

impl Checkpoint {
    /// Reads `config.json` and the tensor headers.
    ///
    /// Weights may be plain (F32, F16, BF16) or compressed-tensors `pack-quantized`. Tensors that no part of the
    /// decoder owns are ignored, as transformers does; one that belongs to a module of the decoder or to one of its
    /// layers and is not understood (a bias, a norm, a zero point) is refused, since leaving it out would change the model.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join("config.json");
        let json = read_json(&path)?;
        let config = DecoderConfig::from_json(&json);
        let scheme = PackedScheme::from_config(&json);
        let (config, scheme) = config
            .and_then(|config| Ok((config, scheme?)))
            .map_err(|source| CheckpointError::Config { path, source })?;
        let checkpoint = Self {
            dir: dir.to_path_buf(),
            config,
            files: TensorFiles::open(dir)?,
            scheme,
        };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Folder it was read from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Architecture.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// How weights are quantised; `None` if they are plain.
    pub fn scheme(&self) -> Option<&PackedScheme> {
        self.scheme.as_ref()
    }

    /// The files behind it.
    pub fn files(&self) -> &TensorFiles {
        &self.files
    }

    /// One weight in f32, row-major, dequantised if it is packed.
    pub fn weight(&self, spec: &ParameterSpec) -> Result<Vec<f32>, CheckpointError> {
        match self.packed(spec) {
            Some(scheme) => scheme.weight(&self.files, spec),
            None => self.files.f32s(&spec.name, &spec.stored_shape()),
        }
    }

    /// BLAKE3 (hex) over all tensors; see [`TensorFiles::content_hash`].
    pub fn content_hash(&self) -> String {
        self.files.content_hash()
    }

    /// The scheme, if this weight is packed.
    fn packed(&self, spec: &ParameterSpec) -> Option<&PackedScheme> {
        self.scheme.as_ref().filter(|scheme| scheme.covers(spec))
    }

    /// Whether a tensor takes part in a layer; the rotary frequencies that old conversions hold are computed anew.
    fn is_in_a_layer(&self, name: &str) -> bool {
        let is_layer = |layer_idx| layer_idx < self.config.num_hidden_layers;
        layer_idx(name).is_some_and(is_layer) && !name.ends_with(".rotary_emb.inv_freq")
    }

    fn check_tensors(&self) -> Result<(), CheckpointError> {
        let specs = parameter_specs(&self.config);
        let mut known = BTreeSet::new();
        for spec in &specs {
            if let Some(scheme) = self.packed(spec) {
                scheme.check(&self.files, spec)?;
                known.extend(PackedScheme::tensor_names(spec));
            } else {
                self.files.check_floats(&spec.name, &spec.stored_shape())?;
                known.insert(spec.name.clone());
            }
        }
        let modules: BTreeSet<&str> = specs.iter().map(ParameterSpec::module).collect();
        let stranger = self.files.names().find(|name| {
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let is_ours = modules.contains(module) || self.is_in_a_layer(name);
            is_ours && !known.contains(*name)
        });
        match stranger {
            None => Ok(()),
            Some(name) => Err(CheckpointError::UnknownTensor {
                dir: self.dir.clone(),
                tensor: name.to_owned(),
            }),
        }
    }
}

fn layer_idx(name: &str) -> Option<usize> {
    let (layer, _) = name.strip_prefix("model.layers.")?.split_once('.')?;
    layer.parse().ok()
}

fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let text = fs::read(path).map_err(|error| with_path(error, path))?;
    serde_json::from_slice(&text).map_err(|source| CheckpointError::Json {
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests;
