//! Tensors of a folder: one safetensors file, or shards, with an index or by their numbers.
//!
//! Everything read is checked against the file's length before it is used. The `safetensors` crate checks a header:
//! offsets lie in the file, leave no gap, do not overlap, and agree with shape and dtype.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use ::safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::files::{self, with_path};
use crate::formats::CheckpointError;
use crate::hashes::Identity;
use crate::mapped::Mapped;
use crate::tensors::NotFinite;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Bytes of the little-endian length that opens a safetensors file.
const LENGTH_BYTES: usize = size_of::<u64>();

/// The tensors of a folder, memory-mapped: only requested tensors are read.
///
/// The files must not change while this lives; see [`Mapped`].
#[derive(Debug)]
pub struct TensorFiles {
    dir: PathBuf,
    files: Vec<Mapped>,
    tensors: BTreeMap<String, StoredTensor>,
}

/// Location, dtype and shape of a tensor.
#[derive(Debug, Clone)]
struct StoredTensor {
    file_idx: usize,
    bytes: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl TensorFiles {
    /// Maps `model.safetensors` or, if there is none, the shards that `model.safetensors.index.json` names, or without an
    /// index all of `model-00001-of-0000N.safetensors`.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let mut files = Self {
            dir: dir.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let single = dir.join(SINGLE_FILE);
        if single.exists() {
            files.tensors = files.map(&single)?;
        } else if dir.join(INDEX_FILE).exists() {
            files.open_shards()?;
        } else {
            let shards = numbered_shards(dir)?;
            if shards.is_empty() {
                return Err(CheckpointError::NoWeights { dir: files.dir });
            }
            files.open_whole_shards(&shards)?;
        }
        Ok(files)
    }

    /// No files, in the place of those of a folder.
    pub(crate) fn none(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        }
    }

    /// Renames tensors, and forgets the ones for which `name` gives no name.
    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> Option<String>) {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors
            .filter_map(|(old, tensor)| Some((name(&old)?, tensor)))
            .collect();
    }

    /// Tensor names in byte order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Dtype and shape of a tensor, if it is there.
    pub fn info(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let tensor = self.tensors.get(name)?;
        Some((tensor.dtype, &tensor.shape))
    }

    /// Bytes of all tensors together.
    pub fn num_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|tensor| tensor.bytes.len() as u64)
            .sum()
    }

    /// A tensor stored as F32, F16 or BF16, in f32 (exact), row-major; every element is finite.
    pub fn f32s(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        self.check_floats(name, shape)?;
        let tensor = self.tensor(name)?;
        let bytes = self.bytes(tensor);
        let values = match tensor.dtype {
            Dtype::F16 => decode(bytes, |le| half::f16::from_le_bytes(le).to_f32()),
            Dtype::BF16 => decode(bytes, |le| half::bf16::from_le_bytes(le).to_f32()),
            _ => decode(bytes, f32::from_le_bytes), // checked above: one of three
        };
        self.release(tensor);
        self.check_finite(name, &values)?;
        Ok(values)
    }

    /// Refuses the decoded values of a tensor, or of several that store a weight, if they are not all finite.
    pub(in crate::formats) fn check_finite(
        &self,
        name: &str,
        values: &[f32],
    ) -> Result<(), CheckpointError> {
        NotFinite::check(name, values).map_err(|source| CheckpointError::NotFinite {
            path: self.dir.clone(),
            source,
        })
    }

    /// A tensor stored as I64.
    pub fn i64s(&self, name: &str, shape: &[usize]) -> Result<Vec<i64>, CheckpointError> {
        let bytes = self.raw(name, Dtype::I64, shape)?;
        Ok(decode(bytes, i64::from_le_bytes))
    }

    /// Little-endian bytes of a tensor of this dtype and shape.
    pub fn raw(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&[u8], CheckpointError> {
        let tensor = self.tensor(name)?;
        check(name, tensor, &[dtype], shape)?;
        Ok(self.bytes(tensor))
    }

    /// Checks that the tensor is there as F32, F16 or BF16 with this shape.
    pub fn check_floats(&self, name: &str, shape: &[usize]) -> Result<(), CheckpointError> {
        let tensor = self.tensor(name)?;
        check(name, tensor, &[Dtype::F32, Dtype::F16, Dtype::BF16], shape)
    }

    /// True if two tensors have the same shape and the same bytes, or the same numbers in different dtypes of floats.
    pub fn are_equal(&self, one: &str, other: &str) -> Result<bool, CheckpointError> {
        let (one, other) = (self.tensor(one)?, self.tensor(other)?);
        if one.shape != other.shape {
            return Ok(false);
        }
        let bytes = [one, other].map(|tensor| self.bytes(tensor));
        if one.dtype == other.dtype {
            return Ok(bytes[0] == bytes[1]);
        }
        let numbers = [one, other].map(|tensor| floats(self.bytes(tensor), tensor.dtype));
        Ok(match numbers {
            [Some(one), Some(other)] => one.eq(other),
            _ => false,
        })
    }

    /// BLAKE3 (hex) over all tensors: names in byte order, then shape, dtype and bytes.
    ///
    /// The split into files and the order of tensors in them do not matter. Every part is preceded by its length, so no
    /// two folders give the same stream of bytes.
    pub fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, tensor) in &self.tensors {
            let description = format!("{name}\0{:?}\0{}", tensor.shape, tensor.dtype);
            let bytes = self.bytes(tensor);
            for part in [description.as_bytes(), bytes] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            self.release(tensor);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The files, as they are now; see [`Mapped::identity`].
    pub fn identities(&self) -> io::Result<Vec<(PathBuf, Identity)>> {
        self.files.iter().map(Mapped::identity).collect()
    }

    fn open_shards(&mut self) -> Result<(), CheckpointError> {
        let path = self.dir.join(INDEX_FILE);
        let index = read_json(&path)?;
        let weight_map = index.get("weight_map").and_then(Value::as_object);
        let Some(weight_map) = weight_map else {
            return Err(CheckpointError::NoWeightMap { path });
        };
        let mut shards: BTreeMap<&str, BTreeMap<String, StoredTensor>> = BTreeMap::new();
        for (tensor, file) in weight_map {
            let Some(file) = file.as_str() else {
                return Err(CheckpointError::NoWeightMap { path });
            };
            if !is_file_name(file) {
                return Err(CheckpointError::OutsideFolder {
                    path,
                    tensor: tensor.clone(),
                    file: file.to_owned(),
                });
            }
            let shard_path = self.dir.join(file);
            let tensor = tensor.clone();
            if !shards.contains_key(file) {
                if !shard_path.exists() {
                    let path = shard_path;
                    return Err(CheckpointError::MissingShard { path, tensor });
                }
                shards.insert(file, self.map(&shard_path)?);
            }
            let stored = shards.get(file).and_then(|shard| shard.get(&tensor));
            let Some(stored) = stored.cloned() else {
                let path = shard_path;
                return Err(CheckpointError::NotInShard { path, tensor });
            };
            self.tensors.insert(tensor, stored);
        }
        Ok(())
    }

    /// Opens shards that no index lists: their own headers say what they hold.
    fn open_whole_shards(&mut self, shards: &[PathBuf]) -> Result<(), CheckpointError> {
        for shard in shards {
            for (tensor, stored) in self.map(shard)? {
                if self.tensors.insert(tensor.clone(), stored).is_some() {
                    let path = shard.clone();
                    return Err(CheckpointError::TwiceInShards { path, tensor });
                }
            }
        }
        Ok(())
    }

    /// Maps one file and returns where its tensors lie.
    fn map(&mut self, path: &Path) -> Result<BTreeMap<String, StoredTensor>, CheckpointError> {
        let map = Mapped::open(path)?;
        let tensors = read_header(&map, path, self.files.len())?;
        self.files.push(map);
        Ok(tensors)
    }

    fn tensor(&self, name: &str) -> Result<&StoredTensor, CheckpointError> {
        self.tensors
            .get(name)
            .ok_or_else(|| CheckpointError::MissingTensor {
                dir: self.dir.clone(),
                tensor: name.to_owned(),
            })
    }

    /// Releases the pages of tensors that have been read.
    pub(crate) fn release_all(&self) {
        self.files
            .iter()
            .for_each(|file| file.release(&(0..file.len())));
    }

    /// Releases the pages of one tensor, as [`TensorFiles::release_all`] does of all.
    fn release(&self, tensor: &StoredTensor) {
        if let Some(file) = self.files.get(tensor.file_idx) {
            file.release(&tensor.bytes);
        }
    }

    fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        self.files
            .get(tensor.file_idx)
            .and_then(|file| file.get(tensor.bytes.clone()))
            .expect("the header was checked against the mapped file")
    }
}

/// Reads a JSON file, which must exist.
pub(crate) fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let text = files::read(path).map_err(|error| with_path(error, path))?;
    serde_json::from_slice(&text).map_err(|source| CheckpointError::Json {
        path: path.to_path_buf(),
        source,
    })
}

fn read_header(
    file: &[u8],
    path: &Path,
    file_idx: usize,
) -> Result<BTreeMap<String, StoredTensor>, CheckpointError> {
    let file_bytes = file.len();
    if let Some(&length) = file.first_chunk::<LENGTH_BYTES>() {
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > (file_bytes - LENGTH_BYTES) as u64 {
            return Err(CheckpointError::HeaderBeyondFile {
                path: path.to_path_buf(),
                header_bytes,
                file_bytes,
            });
        }
    }
    let (header_bytes, metadata) =
        SafeTensors::read_metadata(file).map_err(|source| CheckpointError::NotSafetensors {
            path: path.to_path_buf(),
            file_bytes,
            source,
        })?;
    let data_start = LENGTH_BYTES + header_bytes;
    let place = |(name, info): (String, &::safetensors::tensor::TensorInfo)| {
        let (start, end) = info.data_offsets;
        let stored = StoredTensor {
            file_idx,
            bytes: data_start + start..data_start + end,
            dtype: info.dtype,
            shape: info.shape.clone(),
        };
        (name, stored)
    };
    Ok(metadata.tensors().into_iter().map(place).collect())
}

fn check(
    name: &str,
    tensor: &StoredTensor,
    dtypes: &[Dtype],
    shape: &[usize],
) -> Result<(), CheckpointError> {
    if !dtypes.contains(&tensor.dtype) {
        let want: Vec<_> = dtypes.iter().map(Dtype::to_string).collect();
        return Err(CheckpointError::WrongDtype {
            tensor: name.to_owned(),
            want: want.join(" or "),
            got: tensor.dtype,
        });
    }
    if tensor.shape != shape {
        return Err(CheckpointError::WrongShape {
            tensor: name.to_owned(),
            want: shape.to_vec(),
            got: tensor.shape.clone(),
        });
    }
    Ok(())
}

/// Elements of a tensor of floats one by one, in f32 (exact); `None` for other dtypes. Its length in bytes fits, as the
/// header check ensures.
fn floats(bytes: &[u8], dtype: Dtype) -> Option<Box<dyn Iterator<Item = f32> + '_>> {
    fn of<const N: usize>(
        bytes: &[u8],
        number: fn([u8; N]) -> f32,
    ) -> Box<dyn Iterator<Item = f32> + '_> {
        let (elements, _) = bytes.as_chunks::<N>();
        Box::new(elements.iter().map(move |&le| number(le)))
    }
    Some(match dtype {
        Dtype::F16 => of(bytes, |le| half::f16::from_le_bytes(le).to_f32()),
        Dtype::BF16 => of(bytes, |le| half::bf16::from_le_bytes(le).to_f32()),
        Dtype::F32 => of(bytes, f32::from_le_bytes),
        _ => return None,
    })
}

/// Shards `model-00001-of-0000N.safetensors` of a folder without an index, in order; none if it has none.
///
/// Every one of the set must be there, since nothing else says which tensors a missing one holds.
fn numbered_shards(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let numbers = |name: &str| -> Option<[usize; 2]> {
        let name = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
        let (number, total) = name.split_once("-of-")?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let both = [number, total];
        let is_written = both.iter().all(|text| text.len() == 5 && digits(text));
        let [number, total] = both.map(str::parse);
        let (number, total): (usize, usize) = (number.ok()?, total.ok()?);
        (is_written && (1..=total).contains(&number)).then_some([number, total])
    };
    let entries = fs::read_dir(dir).map_err(|error| with_path(error, dir))?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        if let Some([number, total]) = entry.file_name().to_str().and_then(numbers) {
            found.insert((total, number), entry.path());
        }
    }
    let mut totals: Vec<usize> = found.keys().map(|(total, _)| *total).collect();
    totals.dedup();
    let Some(&total) = totals.first() else {
        return Ok(Vec::new());
    };
    if totals.len() > 1 {
        let dir = dir.to_path_buf();
        return Err(CheckpointError::SeveralSets { dir, totals });
    }
    let absent = (1..=total).find(|&number| !found.contains_key(&(total, number)));
    match absent {
        None => Ok(found.into_values().collect()),
        Some(number) => Err(CheckpointError::IncompleteSet {
            path: dir.join(format!("model-{number:05}-of-{total:05}.safetensors")),
            found: found.len(),
            total,
        }),
    }
}

/// True for one name and nothing else: not absolute, no `..`, no folder.
fn is_file_name(file: &str) -> bool {
    let mut components = Path::new(file).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(name)), None) if name == file
    )
}

/// Elements of a tensor; its length in bytes is a multiple of `N`, as the header check ensures.
fn decode<const N: usize, T>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&le| element(le)).collect()
}
