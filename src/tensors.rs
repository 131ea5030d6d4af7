//! Named matrices on disk, with a checksum: what artifacts and training states are made of.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::files;

/// Why a file of matrices cannot be read.
#[derive(Debug, Error)]
pub enum TensorsError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not what was written.
    #[error("{path}: {fact}; delete the folder and run again")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        fact: String,
    },
}

/// Name of the header entry with checksum and facts; one entry only, because a safetensors header has no order.
const HEADER: &str = "alambic";

#[derive(Serialize, Deserialize)]
struct Header {
    blake3: String,
    facts: String,
}

/// Writes matrices as f32 safetensors, atomically, with `facts` beside them.
pub fn save<T: Serialize>(
    path: &Path,
    tensors: &[(String, Tensor<2>)],
    facts: &T,
) -> io::Result<()> {
    let matrices: Vec<(&str, Matrix<'_>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let (shape, tensor) = (tensor.dims(), tensor);
            (name.as_str(), Matrix { shape, tensor })
        })
        .collect();
    let facts = serde_json::to_string(facts).map_err(io::Error::other)?;
    let entries = matrices
        .iter()
        .map(|(name, matrix)| (*name, (&matrix.shape[..], matrix)));
    let header = Header {
        blake3: checksum(&facts, entries),
        facts,
    };
    let header = serde_json::to_string(&header).map_err(io::Error::other)?;
    let metadata = [(HEADER.to_owned(), header)].into();
    let matrices = matrices.iter().map(|(name, matrix)| (name, matrix));
    let bytes = safetensors::serialize(matrices, Some(metadata)).map_err(io::Error::other)?;
    files::write_atomically(path, |out| out.write_all(&bytes))
}

/// Reads what [`save`] wrote, refusing anything else.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    device: &Device,
) -> Result<(BTreeMap<String, Tensor<2>>, T), TensorsError> {
    let damaged = |fact: String| TensorsError::Damaged {
        path: path.display().to_string(),
        fact,
    };
    let bytes = fs::read(path).map_err(|error| files::with_path(error, path))?;
    let (_, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(HEADER));
    let header = header.ok_or_else(|| damaged("no header of ours".to_owned()))?;
    let header: Header =
        serde_json::from_str(header).map_err(|error| damaged(error.to_string()))?;

    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut views: Vec<_> = tensors.tensors();
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    if checksum(
        &header.facts,
        views
            .iter()
            .map(|(name, view)| (name.as_str(), (view.shape(), view))),
    ) != header.blake3
    {
        return Err(damaged("the checksum does not match".to_owned()));
    }
    let mut loaded = BTreeMap::new();
    for (name, view) in views {
        let (&[rows, columns], Dtype::F32) = (view.shape(), view.dtype()) else {
            return Err(damaged(format!("`{name}` is not an f32 matrix")));
        };
        let values: Vec<f32> = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        loaded.insert(
            name,
            Tensor::from_data(TensorData::new(values, [rows, columns]), device),
        );
    }
    let facts = serde_json::from_str(&header.facts).map_err(|error| damaged(error.to_string()))?;
    Ok((loaded, facts))
}

/// The numbers of a matrix, row by row.
pub fn to_vec(tensor: &Tensor<2>) -> Vec<f32> {
    tensor
        .try_to_vec_as::<f32>()
        .expect("a matrix of f32 that fits the device fits the host")
}

/// A matrix whose bytes are made when they are asked for: a file of them is never held twice.
struct Matrix<'a> {
    shape: [usize; 2],
    tensor: &'a Tensor<2>,
}

impl View for &Matrix<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(to_bytes(self.tensor))
    }

    fn data_len(&self) -> usize {
        self.shape[0] * self.shape[1] * size_of::<f32>()
    }
}

fn to_bytes(tensor: &Tensor<2>) -> Vec<u8> {
    to_vec(tensor)
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect()
}

/// BLAKE3 over the facts, then names, shapes and bytes in byte order of the names.
fn checksum<'a, T: View>(
    facts: &str,
    tensors: impl Iterator<Item = (&'a str, (&'a [usize], T))>,
) -> String {
    let sorted: BTreeMap<&str, (&[usize], T)> = tensors.collect();
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&(facts.len() as u64).to_le_bytes())
        .update(facts.as_bytes());
    for (name, (shape, matrix)) in sorted {
        hasher
            .update(name.as_bytes())
            .update(format!("{shape:?}").as_bytes())
            .update(&matrix.data());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<(String, Tensor<2>)> {
        let matrix = |values: [f32; 6], shape: [usize; 2]| {
            Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
        };
        vec![
            (
                "b".to_owned(),
                matrix([1.0, -0.0, f32::MIN_POSITIVE, 3.5, 1e-40, 6.0], [2, 3]),
            ),
            ("a".to_owned(), matrix([0.0; 6], [6, 1])),
        ]
    }

    #[test]
    fn matrices_come_back_bit_for_bit_and_two_writes_are_equal() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        save(&first, &example(), &7_u32).unwrap();
        save(&second, &example(), &7_u32).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
        let (loaded, facts): (_, u32) = load(&first, &Device::flex()).unwrap();
        assert_eq!(facts, 7);
        assert_eq!(loaded.len(), 2);
        for (name, tensor) in example() {
            assert_eq!(loaded[&name].dims(), tensor.dims());
            assert_eq!(to_bytes(&loaded[&name]), to_bytes(&tensor));
        }
    }

    #[test]
    fn a_flipped_byte_and_a_cut_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        save(&path, &example(), &7_u32).unwrap();
        let good = fs::read(&path).unwrap();
        for damage in 0..good.len() {
            let mut bytes = good.clone();
            bytes[damage] ^= 1;
            files::write_atomically(&path, |out| out.write_all(&bytes)).unwrap();
            let outcome = load::<u32>(&path, &Device::flex());
            if let Ok((loaded, facts)) = outcome {
                panic!(
                    "byte {damage} flipped unseen: {} tensors, {facts}",
                    loaded.len()
                );
            }
        }
        files::write_atomically(&path, |out| out.write_all(&good[..good.len() - 4])).unwrap();
        assert!(load::<u32>(&path, &Device::flex()).is_err());
    }
}
