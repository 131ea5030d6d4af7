//! Named matrices on disk, with a checksum: the storage of artifacts and training states.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::files;
use crate::mapped::Mapped;

/// Errors of reading a file of matrices.
#[derive(Debug, Error)]
pub enum TensorsError {
    /// An input/output error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not the ones that were written.
    #[error("{path}: {fact}; delete the folder and run again")]
    Damaged {
        /// The file.
        path: String,
        /// Description of the damage.
        fact: String,
    },
}

impl TensorsError {
    /// Damage of a file.
    pub fn damaged(path: &Path, fact: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.display().to_string(),
            fact: fact.into(),
        }
    }
}

/// A weight that is NaN or infinite.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("element {element_idx} of `{tensor}` is {value}: the checkpoint is damaged")]
pub struct NotFinite {
    /// The tensor, by its name in the file.
    pub tensor: String,
    /// Index of the first such element, row by row, counted from 0.
    pub element_idx: usize,
    /// NaN or an infinity.
    pub value: f32,
}

impl NotFinite {
    /// Refuses a tensor with NaN or infinity: a single one makes every logit that depends on it NaN or infinite, too.
    pub fn check(tensor: &str, values: &[f32]) -> Result<(), Self> {
        const CHUNK: usize = 4096; // no branch within a chunk, so that the search is almost free
        const SIGN: u32 = 1 << 31;
        let largest = |values: &[f32]| {
            let magnitudes = values.iter().map(|value| value.to_bits() & !SIGN);
            magnitudes.fold(0, u32::max)
        };
        let is_damaged = |values: &[f32]| largest(values) >= f32::INFINITY.to_bits();
        let Some(chunk_idx) = values.chunks(CHUNK).position(is_damaged) else {
            return Ok(());
        };
        let mut elements = values.iter().copied().enumerate().skip(chunk_idx * CHUNK);
        let damaged = elements.find(|(_, value)| !value.is_finite());
        damaged.map_or(Ok(()), |(element_idx, value)| {
            let tensor = tensor.to_owned();
            Err(Self {
                tensor,
                element_idx,
                value,
            })
        })
    }

    /// Advice on the fix.
    pub fn help() -> String {
        "download the checkpoint again, or fix the program that wrote it".to_owned()
    }
}

/// Name of the header entry with checksum and facts; one entry only, because a safetensors header has no order.
const HEADER: &str = "alambic";

#[derive(Serialize, Deserialize)]
struct Header {
    blake3: String,
    facts: String,
}

/// Writes matrices as f32 safetensors, atomically, together with `facts`.
///
/// Their bytes are made one matrix at a time, so the file's contents are never held twice.
pub fn save<T: Serialize>(
    path: &Path,
    tensors: &[(String, Tensor<2>)],
    facts: &T,
) -> io::Result<()> {
    let mut sorted: Vec<&(String, Tensor<2>)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _)| name);
    let mut end = 0;
    let mut place = |tensor: &Tensor<2>| {
        let start = end;
        let [rows, columns] = tensor.dims();
        end += rows * columns * size_of::<f32>();
        TensorInfo {
            dtype: Dtype::F32,
            shape: vec![rows, columns],
            data_offsets: (start, end),
        }
    };
    let places = sorted
        .iter()
        .map(|(name, tensor)| (name.clone(), place(tensor)));
    let places: Vec<(String, TensorInfo)> = places.collect();
    let facts = serde_json::to_string(facts).map_err(io::Error::other)?;
    let entries = sorted
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.dims().to_vec(), to_bytes(tensor)));
    let header = Header {
        blake3: checksum(&facts, entries),
        facts,
    };
    let header = serde_json::to_string(&header).map_err(io::Error::other)?;
    let entry = HashMap::from([(HEADER.to_owned(), header)]);
    let metadata = Metadata::new(Some(entry), places).map_err(io::Error::other)?;
    let mut metadata = serde_json::to_vec(&metadata)?;
    metadata.resize(metadata.len().next_multiple_of(8), b' ');
    files::write_atomically(path, |out| {
        out.write_all(&(metadata.len() as u64).to_le_bytes())?;
        out.write_all(&metadata)?;
        sorted
            .iter()
            .try_for_each(|(_, tensor)| out.write_all(&to_bytes(tensor)))
    })
}

/// Reads a file written by [`save`], refusing anything else.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    device: &Device,
) -> Result<(BTreeMap<String, Tensor<2>>, T), TensorsError> {
    let damaged = |fact: String| TensorsError::Damaged {
        path: path.display().to_string(),
        fact,
    };
    let bytes = files::read(path).map_err(|error| files::with_path(error, path))?;
    let (_, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
    let header = header_of(&metadata).map_err(damaged)?;

    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut views: Vec<_> = tensors.tensors();
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    if checksum(
        &header.facts,
        views
            .iter()
            .map(|(name, view)| (name.as_str(), view.shape().to_vec(), view.data())),
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

/// Reads the facts in the header of a file written by [`save`], and the shapes of its matrices; no number is read, so no
/// checksum is compared.
pub fn facts<T: DeserializeOwned>(
    path: &Path,
) -> Result<(BTreeMap<String, Vec<usize>>, T), TensorsError> {
    let damaged = |fact: String| TensorsError::damaged(path, fact);
    let file = Mapped::open(path)?;
    let (_, metadata) =
        SafeTensors::read_metadata(&file).map_err(|error| damaged(error.to_string()))?;
    let header = header_of(&metadata).map_err(damaged)?;
    let facts = serde_json::from_str(&header.facts).map_err(|error| damaged(error.to_string()))?;
    let shapes = metadata.tensors().into_iter();
    let shapes = shapes.map(|(name, info)| (name, info.shape.clone()));
    Ok((shapes.collect(), facts))
}

fn header_of(metadata: &Metadata) -> Result<Header, String> {
    let entries = metadata.metadata().as_ref();
    let header = entries.and_then(|entries| entries.get(HEADER));
    let header = header.ok_or_else(|| "the header is not alambic's".to_owned())?;
    serde_json::from_str(header).map_err(|error| error.to_string())
}

/// Elements of a matrix, row by row.
pub fn to_vec(tensor: &Tensor<2>) -> Vec<f32> {
    // Not `try_to_vec_as`, which makes a second copy.
    let values = tensor.clone().try_into_vec_as::<f32>();
    values.expect("a matrix of f32 that fits the device fits the host")
}

/// True if two matrices are equal; neither may contain NaN.
pub fn are_equal(one: &Tensor<2>, other: &Tensor<2>) -> bool {
    one.dims() == other.dims() && one.clone().equal(other.clone()).all().into_scalar()
}

fn to_bytes(tensor: &Tensor<2>) -> Vec<u8> {
    to_vec(tensor)
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect()
}

/// BLAKE3 over the facts, then names, shapes and bytes of tensors in byte order of their names.
fn checksum<'a>(
    facts: &str,
    sorted: impl Iterator<Item = (&'a str, Vec<usize>, impl AsRef<[u8]>)>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&(facts.len() as u64).to_le_bytes())
        .update(facts.as_bytes());
    for (name, shape, bytes) in sorted {
        hasher
            .update(name.as_bytes())
            .update(format!("{shape:?}").as_bytes())
            .update(bytes.as_ref());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn the_first_element_that_is_no_number_is_named_wherever_it_stands() {
        let sound = vec![f32::MAX; 10_000];
        assert_eq!(NotFinite::check("weight", &sound), Ok(()));
        assert_eq!(NotFinite::check("weight", &[]), Ok(()));
        for element_idx in [0, 4095, 4096, 9_999] {
            for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
                let mut values = sound.clone();
                values[element_idx] = value;
                values[9_999] = value;
                let error = NotFinite::check("weight", &values).unwrap_err();
                assert_eq!(error.element_idx, element_idx, "{value}");
                assert_eq!(error.value.to_bits(), value.to_bits());
                let want = format!("element {element_idx} of `weight` is {value}: ");
                assert!(error.to_string().starts_with(&want), "{error}");
            }
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
