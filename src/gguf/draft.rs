//! GGUF files for tests, written independently of the reader.

use std::path::Path;

/// A file under construction; every part can be made wrong.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) version: u32,
    /// Key, then type and value as in a file.
    pub(crate) keys: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Innermost first.
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
    /// Offset in place of the default, which is the end of the previous tensor.
    pub(crate) offset: Option<u64>,
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn typed(kind: u32, value: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), value].concat()
}

/// An array of `len` elements of a type, given as bytes.
pub(crate) fn array(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    typed(
        9,
        &[&kind.to_le_bytes()[..], &len.to_le_bytes(), elements].concat(),
    )
}

impl Draft {
    pub(crate) fn new() -> Self {
        Self {
            version: 3,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    /// Sets a key to raw bytes: type and value.
    pub(crate) fn raw(&mut self, key: &str, value: Vec<u8>) -> &mut Self {
        self.keys.retain(|(other, _)| other != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    pub(crate) fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.raw(key, typed(4, &value.to_le_bytes()))
    }

    pub(crate) fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.raw(key, typed(6, &value.to_le_bytes()))
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key, typed(7, &[u8::from(value)]))
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, typed(8, &text(value)))
    }

    pub(crate) fn texts(&mut self, key: &str, values: &[&str]) -> &mut Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.raw(key, array(8, values.len() as u64, &elements))
    }

    pub(crate) fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let elements: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.raw(key, array(5, values.len() as u64, &elements))
    }

    pub(crate) fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let elements: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.raw(key, array(6, values.len() as u64, &elements))
    }

    /// An F32 tensor, its shape outermost first.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        self.tensors.retain(|other| other.name != name);
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dims: shape.iter().rev().map(|&size| size as u64).collect(),
            kind: 0,
            data: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            offset: None,
        });
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            file.extend(text(key));
            file.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            file.extend(text(&tensor.name));
            file.extend(u32::try_from(tensor.dims.len()).unwrap().to_le_bytes());
            for size in &tensor.dims {
                file.extend(size.to_le_bytes());
            }
            file.extend(tensor.kind.to_le_bytes());
            let offset = tensor.offset.unwrap_or(data.len() as u64);
            file.extend(offset.to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend(data);
        file
    }

    #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}
