//! The weights of a folder: one safetensors file, or several with an index.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::write::{EncodedTensor, write_file};
use crate::files::{with_path, write_json};

/// Destination of weights.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// An existing folder.
    pub dir: &'a Path,
    /// Most bytes of weights in one file, unless a single tensor has more.
    pub max_shard_bytes: u64,
}

impl<'a> From<&'a Path> for Files<'a> {
    fn from(dir: &'a Path) -> Self {
        Self {
            dir,
            max_shard_bytes: u64::MAX,
        }
    }
}

/// Takes tensors one by one and holds the ones of one file.
///
/// The number of files is part of each file's name and is known only at the end. Until then files have other names,
/// which no reader looks for.
pub(in crate::formats) struct Shards<'a> {
    files: Files<'a>,
    /// Tensors of the file that is being filled.
    tensors: Vec<EncodedTensor>,
    shard_bytes: u64,
    /// Names of the tensors of each finished file.
    written: Vec<Vec<String>>,
    total_bytes: u64,
}

impl<'a> Shards<'a> {
    pub(in crate::formats) fn new(files: Files<'a>) -> Self {
        Self {
            files,
            tensors: Vec::new(),
            shard_bytes: 0,
            written: Vec::new(),
            total_bytes: 0,
        }
    }

    pub(in crate::formats) fn push(&mut self, tensor: EncodedTensor) -> io::Result<()> {
        let bytes = tensor.bytes.len() as u64;
        let is_full = self.shard_bytes.saturating_add(bytes) > self.files.max_shard_bytes;
        if is_full && !self.tensors.is_empty() {
            self.write()?;
        }
        self.shard_bytes += bytes;
        self.total_bytes += bytes;
        self.tensors.push(tensor);
        Ok(())
    }

    /// Writes the last file and gives all files their names.
    pub(in crate::formats) fn finish(mut self) -> io::Result<()> {
        if self.written.is_empty() {
            let path = self.files.dir.join("model.safetensors");
            return write_file(&path, self.tensors);
        }
        self.write()?;
        let num_shards = self.written.len();
        let mut weight_map = Map::new();
        for (shard_idx, tensors) in self.written.iter().enumerate() {
            let name = format!("model-{:05}-of-{num_shards:05}.safetensors", shard_idx + 1);
            let path = self.files.dir.join(&name);
            fs::rename(self.unnamed(shard_idx), &path).map_err(|error| with_path(error, &path))?;
            for tensor in tensors {
                weight_map.insert(tensor.clone(), Value::from(name.clone()));
            }
        }
        weight_map.sort_keys();
        let index = json!({
            "metadata": { "total_size": self.total_bytes },
            "weight_map": weight_map,
        });
        write_json(&self.files.dir.join("model.safetensors.index.json"), &index)
    }

    fn write(&mut self) -> io::Result<()> {
        let tensors = std::mem::take(&mut self.tensors);
        let names = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        write_file(&self.unnamed(self.written.len()), tensors)?;
        self.written.push(names);
        self.shard_bytes = 0;
        Ok(())
    }

    fn unnamed(&self, shard_idx: usize) -> PathBuf {
        self.files.dir.join(format!("unfinished-{shard_idx}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::TensorFiles;
    use ::safetensors::Dtype;

    fn tensor(name: &str, values: &[f32]) -> EncodedTensor {
        EncodedTensor {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: vec![values.len()],
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn tensors_are_spread_over_files_that_an_index_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut shards = Shards::new(Files {
            dir: dir.path(),
            max_shard_bytes: 16,
        });
        for (name, values) in [
            ("b", &[1.0, 2.0][..]),
            ("c", &[3.0, 4.0]),
            ("a", &[5.0; 6]), // more than fits in a file: gets its own
            ("d", &[6.0]),
        ] {
            shards.push(tensor(name, values)).unwrap();
        }
        shards.finish().unwrap();
        let index = "model.safetensors.index.json";
        let want = [1, 2, 3].map(|idx| format!("model-0000{idx}-of-00003.safetensors"));
        assert_eq!(names(dir.path()), [&want[..], &[index.to_owned()]].concat());
        let text = fs::read(dir.path().join(index)).unwrap();
        let found: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(found["metadata"]["total_size"], 44);
        let map = json!({ "a": want[1], "b": want[0], "c": want[0], "d": want[2] });
        assert_eq!(found["weight_map"], map);
        let files = TensorFiles::open(dir.path()).unwrap();
        assert_eq!(files.num_bytes(), 44);
        assert_eq!(files.f32s("c", &[2]).unwrap(), [3.0, 4.0]);
        assert_eq!(files.f32s("a", &[6]).unwrap(), [5.0; 6]);
    }

    #[test]
    fn what_fits_is_one_file_without_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut shards = Shards::new(Files {
            dir: dir.path(),
            max_shard_bytes: 12,
        });
        shards.push(tensor("a", &[1.0, 2.0])).unwrap();
        shards.push(tensor("b", &[3.0])).unwrap();
        shards.finish().unwrap();
        assert_eq!(names(dir.path()), ["model.safetensors"]);
    }
}
