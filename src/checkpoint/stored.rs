//! Facts about how a checkpoint is stored: names, types and bytes of its tensors.

use std::collections::BTreeMap;

use super::{Checkpoint, Weights};
use crate::model::WeightId;

impl Checkpoint {
    /// Number of tensors stored as each type, by its name.
    pub fn num_tensors(&self) -> BTreeMap<String, usize> {
        let kinds: Vec<String> = match &self.weights {
            Weights::Folder { files, .. } => {
                let dtypes = files.names().filter_map(|name| files.info(name));
                dtypes.map(|(dtype, _)| dtype.to_string()).collect()
            }
            Weights::Gguf(weights) => {
                let kinds = weights.file().tensors().map(|(_, info)| info.kind);
                kinds.map(|kind| kind.name().to_owned()).collect()
            }
        };
        let mut counts = BTreeMap::new();
        for kind in kinds {
            *counts.entry(kind).or_insert(0) += 1;
        }
        counts
    }

    /// Type of the tensor that holds each weight: that of its blocks in a GGUF file, its grid, or else its dtype. Weights that
    /// share a tensor are one entry, that of the first.
    pub fn stored_types(&self) -> Vec<(WeightId, String)> {
        let stored = self.tensors.iter().filter_map(|tensor| {
            let kind = match &self.weights {
                Weights::Gguf(weights) => {
                    let info = weights.file().info(&tensor.gguf_name)?;
                    info.kind.name().to_owned()
                }
                Weights::Folder {
                    files,
                    quantization,
                    ..
                } => match quantization.as_ref().and_then(|all| all.scheme(tensor)) {
                    Some(scheme) => scheme.to_string(),
                    None => files.info(&tensor.name)?.0.to_string(),
                },
            };
            Some((tensor.id(), kind))
        });
        stored.collect()
    }

    /// Bytes of all tensors together.
    pub fn num_bytes(&self) -> u64 {
        match &self.weights {
            Weights::Folder { files, .. } => files.num_bytes(),
            Weights::Gguf(weights) => weights.file().num_bytes(),
        }
    }

    /// Names of the tensors as they are stored, in byte order.
    pub fn tensor_names(&self) -> Vec<&str> {
        match &self.weights {
            Weights::Folder { files, .. } => files.names().collect(),
            Weights::Gguf(weights) => weights.file().tensors().map(|(name, _)| name).collect(),
        }
    }
}
