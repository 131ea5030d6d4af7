//! GGUF files as checkpoints: llama.cpp's names, order of rows and norms are converted to Hugging Face's.

mod config;
mod rope;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use self::config::config_json;
use super::{ROPE_FACTORS, ROPE_FREQS};
use crate::formats::{CheckpointError, StoredWeight};
use crate::gguf::{GgufFile, TensorType};
use crate::kernels::grid::Grid;
use crate::model::{
    Architecture, DecoderConfig, GroupScaling, ParameterKind, Part, Scheme, TensorSpec,
};
use crate::tensors::NotFinite;

const ARCHITECTURE: &str = "general.architecture";

/// The weights of a GGUF file.
#[derive(Debug)]
pub(crate) struct GgufWeights {
    file: GgufFile,
    architecture: Architecture,
}

impl GgufWeights {
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = GgufFile::open(path)?;
        let name = file.text(ARCHITECTURE)?;
        // Several families share one name there, such as Llama, SmolLM and Mistral; the first in the list is taken.
        let known = Architecture::ALL.iter().copied();
        let gguf_name = |known: Architecture| known.family().gguf.name;
        let found = known.clone().find(|known| name == Some(gguf_name(*known)));
        let Some(architecture) = found else {
            let mut names: Vec<_> = known.map(gguf_name).collect();
            names.dedup();
            let want = format!("one of `{}`", names.join("`, `"));
            return Err(file.wrong_value(ARCHITECTURE, want).into());
        };
        Ok(Self { file, architecture })
    }

    pub(crate) fn file(&self) -> &GgufFile {
        &self.file
    }

    /// `config.json` of the model in this file.
    pub(crate) fn config_json(&self) -> Result<Value, CheckpointError> {
        config_json(&self.file, self.architecture)
    }

    /// Checks that every weight is there with its shape, and nothing else.
    pub(crate) fn check(&self, specs: &[TensorSpec]) -> Result<(), CheckpointError> {
        let [short, long] = ROPE_FACTORS;
        let mut known = BTreeSet::from([ROPE_FREQS, short, long].map(str::to_owned));
        for spec in specs {
            let tensor = spec.gguf_name.clone();
            let Some(info) = self.file.info(&tensor) else {
                let dir = self.file.path().to_path_buf();
                return Err(CheckpointError::MissingTensor { dir, tensor });
            };
            if info.shape != spec.stored_shape() {
                return Err(CheckpointError::WrongShape {
                    tensor,
                    want: spec.stored_shape(),
                    got: info.shape.clone(),
                });
            }
            known.insert(tensor);
        }
        match self.file.tensors().find(|(name, _)| !known.contains(*name)) {
            None => Ok(()),
            Some((name, _)) => Err(CheckpointError::UnknownTensor {
                dir: self.file.path().to_path_buf(),
                tensor: name.to_owned(),
            }),
        }
    }

    /// Scheme of a projection whose blocks are codes around 0 with one scale.
    pub(crate) fn scheme(&self, spec: &TensorSpec) -> Option<Scheme> {
        let bits = match self.file.info(&spec.gguf_name)?.kind {
            TensorType::Q4_0 => 4,
            TensorType::Q8_0 => 8,
            _ => return None,
        };
        let (weight, input) = (Grid::symmetric(bits, Some(32)), None);
        (spec.kind() == ParameterKind::Linear).then_some(Scheme { weight, input })
    }

    /// One tensor in Hugging Face's order of rows, checked to be finite.
    pub(crate) fn weight(
        &self,
        spec: &TensorSpec,
        config: &DecoderConfig,
    ) -> Result<StoredWeight, CheckpointError> {
        let tensor = &spec.gguf_name;
        let mut weight = self.file.f32s(tensor)?;
        NotFinite::check(tensor, &weight).map_err(|source| CheckpointError::NotFinite {
            path: self.file.path().to_path_buf(),
            source,
        })?;
        let family = self.architecture.family();
        if family.gain_offset != 0.0 && spec.kind() == ParameterKind::Norm {
            // The converter stores the gain: the weight plus the norm's offset.
            #[expect(clippy::cast_possible_truncation, reason = "1")]
            let offset = family.gain_offset as f32;
            for value in &mut weight {
                *value -= offset;
            }
        }
        let scheme = self.scheme(spec);
        let scales = scheme.and_then(|scheme| Some((scheme.weight, self.file.scales(tensor)?)));
        let num_heads = match spec.id().part {
            Part::Query => Some(config.num_attention_heads),
            Part::Key => Some(config.num_key_value_heads),
            _ => None,
        };
        let num_heads = num_heads.filter(|_| family.gguf.turns_neighbours);
        let in_order = |numbers: Vec<f32>| match num_heads {
            Some(num_heads) => halves_of_pairs(&numbers, num_heads, config.head_dim),
            None => numbers,
        };
        let weight = in_order(weight);
        let on_grid = scales.and_then(|(grid, scales)| {
            let scaling = GroupScaling::around_0(in_order(scales));
            scaling.codes_of(weight.clone(), grid, grid.group_size?)
        });
        Ok(on_grid.map_or(StoredWeight::Plain(weight), StoredWeight::OnGrid))
    }
}

/// Rows of queries or keys in Hugging Face's order.
///
/// llama.cpp rotates neighbours together: row `2j` of a head with row `2j + 1`. Hugging Face rotates halves together:
/// row `j` with row `j + H/2`.
fn halves_of_pairs(rows: &[f32], num_heads: usize, head_dim: usize) -> Vec<f32> {
    let row_len = rows.len() / (num_heads * head_dim).max(1);
    let mut ordered = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact((head_dim * row_len).max(1)) {
        for half in [0, 1] {
            let rows = head.chunks_exact(row_len).skip(half).step_by(2);
            ordered.extend(rows.flatten());
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_rows_become_halves_of_a_head() {
        // Two heads of four rows of two: row r holds (10 r, 10 r + 1).
        let rows: Vec<f32> = (0_u8..8)
            .flat_map(|row| [f32::from(row) * 10.0, f32::from(row) * 10.0 + 1.0])
            .collect();
        let ordered = halves_of_pairs(&rows, 2, 4);
        let first: Vec<f32> = ordered.iter().step_by(2).copied().collect();
        assert_eq!(first, [0.0, 20.0, 10.0, 30.0, 40.0, 60.0, 50.0, 70.0]);
        let second: Vec<f32> = ordered.iter().skip(1).step_by(2).copied().collect();
        assert_eq!(second[..2], [1.0, 21.0], "rows stay whole");
    }
}
