//! GGUF files as checkpoints: llama.cpp's names, order of rows and norms, read as Hugging Face's.

mod config;
mod names;
mod rope;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

pub use self::config::ROPE_FREQS;
use self::config::config_json;
pub use self::names::gguf_name;
use super::CheckpointError;
use crate::gguf::{GgufFile, TensorType};
use crate::model::{
    Architecture, DecoderConfig, ParameterKind, ParameterSpec, Scheme, Schemes, grid::Grid,
};
use crate::tensors::NotFinite;

const ARCHITECTURE: &str = "general.architecture";

/// Families that are read, by their name in `general.architecture`. SmolLM and Mistral are `llama` there.
const FAMILIES: [(&str, Architecture); 6] = [
    (LLAMA, Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("gemma", Architecture::Gemma),
    ("gemma2", Architecture::Gemma2),
    ("gemma3", Architecture::Gemma3),
];
const LLAMA: &str = "llama";

/// A family; keys of the metadata begin with its name.
#[derive(Debug, Clone, Copy)]
struct Family {
    name: &'static str,
    architecture: Architecture,
}

/// The weights of a GGUF file.
#[derive(Debug)]
pub(super) struct GgufWeights {
    file: GgufFile,
    family: Family,
}

impl GgufWeights {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = GgufFile::open(path)?;
        let name = file.text(ARCHITECTURE)?;
        let family = FAMILIES
            .iter()
            .find(|(known, _)| name == Some(known))
            .map(|&(name, architecture)| Family { name, architecture });
        let names = FAMILIES.map(|(name, _)| name).join("`, `");
        let family =
            family.ok_or_else(|| file.wrong_value(ARCHITECTURE, format!("one of `{names}`")))?;
        Ok(Self { file, family })
    }

    pub(super) fn file(&self) -> &GgufFile {
        &self.file
    }

    /// What `config.json` would say.
    pub(super) fn config_json(&self) -> Result<Value, CheckpointError> {
        config_json(&self.file, self.family)
    }

    /// Every weight is there with its shape, and nothing else is.
    pub(super) fn check(&self, specs: &[ParameterSpec]) -> Result<(), CheckpointError> {
        let mut known = BTreeSet::from([ROPE_FREQS.to_owned()]);
        for spec in specs {
            let tensor = self.tensor_name(spec)?;
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

    /// Projections whose blocks are codes around 0 with one scale.
    pub(super) fn schemes(&self, specs: &[ParameterSpec]) -> Schemes {
        let bits = |spec: &ParameterSpec| match self.file.info(&self.tensor_name(spec).ok()?)?.kind
        {
            TensorType::Q4_0 => Some(4),
            TensorType::Q8_0 => Some(8),
            _ => None,
        };
        let linear = specs
            .iter()
            .filter(|spec| spec.kind == ParameterKind::Linear);
        let scheme = |bits| Scheme {
            weight: Grid::symmetric(bits, Some(32)),
            input: None,
        };
        linear
            .filter_map(|spec| Some((spec.name.clone(), scheme(bits(spec)?))))
            .collect()
    }

    /// One weight in f32, row-major, as a Hugging Face checkpoint has it; all of it is finite.
    pub(super) fn weight(
        &self,
        spec: &ParameterSpec,
        config: &DecoderConfig,
    ) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.tensor_name(spec)?;
        let mut weight = self.file.f32s(&tensor)?;
        NotFinite::check(&tensor, &weight).map_err(|source| CheckpointError::NotFinite {
            path: self.file.path().to_path_buf(),
            source,
        })?;
        if self.family.architecture.is_gemma() && spec.kind == ParameterKind::Norm {
            // The converter adds the 1 that Gemma's norm adds to its weight.
            for value in &mut weight {
                *value -= 1.0;
            }
        }
        if self.family.name == LLAMA {
            let module = spec.module();
            let num_heads = [
                (".self_attn.q_proj", config.num_attention_heads),
                (".self_attn.k_proj", config.num_key_value_heads),
            ];
            for (ending, num_heads) in num_heads {
                if module.ends_with(ending) {
                    weight = halves_of_pairs(&weight, num_heads, config.head_dim);
                }
            }
        }
        Ok(weight)
    }

    fn tensor_name(&self, spec: &ParameterSpec) -> Result<String, CheckpointError> {
        gguf_name(&spec.name, self.family.architecture).ok_or_else(|| {
            CheckpointError::MissingTensor {
                dir: self.file.path().to_path_buf(),
                tensor: spec.name.clone(),
            }
        })
    }
}

/// Rows of queries or keys in Hugging Face's order.
///
/// llama.cpp turns neighbours: row `2j` of a head with row `2j + 1`. Hugging Face turns halves: row `j` with row
/// `j + H/2`.
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
