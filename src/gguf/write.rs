//! Writing GGUF files, version 3.

use std::io;

use super::TensorType;

/// Alignment of tensors in bytes: the format's default.
const ALIGNMENT: usize = 32;

/// The value of a key, in the type that llama.cpp's converter gives it.
#[derive(Debug, Clone, PartialEq)]
pub enum NewValue {
    /// A size or an id.
    U32(u32),
    /// An integer setting that may be negative.
    I32(i32),
    /// A real number.
    F32(f32),
    /// A flag.
    Bool(bool),
    /// A name or a template.
    Text(String),
    /// Tokens and merges.
    Texts(Vec<String>),
    /// Kinds of tokens.
    I32s(Vec<i32>),
    /// Scores.
    F32s(Vec<f32>),
    /// Flags of layers.
    Bools(Vec<bool>),
}

impl NewValue {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A size.
    ///
    /// # Panics
    ///
    /// If it is 2^32 or more.
    pub fn size(size: usize) -> Self {
        Self::U32(u32::try_from(size).expect("sizes of a config are below 2^31"))
    }

    /// A real number, as f32.
    #[expect(clippy::cast_possible_truncation, reason = "files hold f32")]
    pub fn number(number: f64) -> Self {
        Self::F32(number as f32)
    }
}

/// A tensor to be written; its bytes are given later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Name in llama.cpp.
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Storage format of its elements.
    pub kind: TensorType,
}

impl NewTensor {
    fn num_bytes(&self) -> usize {
        let (block_len, block_bytes) = self.kind.block();
        self.shape.iter().product::<usize>() / block_len * block_bytes
    }
}

/// Writes header, metadata, directory and data.
///
/// `data` gives the blocks of each tensor, in order.
///
/// # Panics
///
/// If the number of bytes from `data` does not match shape and type.
pub fn write<'a>(
    out: &mut (impl io::Write + ?Sized),
    metadata: &[(String, NewValue)],
    tensors: &[NewTensor],
    data: impl Fn(usize) -> &'a [u8],
) -> io::Result<()> {
    let mut head = b"GGUF".to_vec();
    head.extend(3_u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut head, key);
        put_value(&mut head, value);
    }
    let mut offset = 0_usize;
    for tensor in tensors {
        put_text(&mut head, &tensor.name);
        put_u32(&mut head, tensor.shape.len());
        for &size in tensor.shape.iter().rev() {
            head.extend((size as u64).to_le_bytes());
        }
        head.extend(tensor.kind.id().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.num_bytes().next_multiple_of(ALIGNMENT);
    }
    pad(&mut head);
    out.write_all(&head)?;
    for (idx, tensor) in tensors.iter().enumerate() {
        let bytes = data(idx);
        assert_eq!(
            bytes.len(),
            tensor.num_bytes(),
            "bytes of `{}`",
            tensor.name
        );
        out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        out.write_all(&vec![0; padding])?;
    }
    Ok(())
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

fn put_u32(bytes: &mut Vec<u8>, value: usize) {
    let value = u32::try_from(value).expect("a tensor has few dimensions");
    bytes.extend(value.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Writes the number of a type, then the value; numbers as in the format's description.
fn put_value(bytes: &mut Vec<u8>, value: &NewValue) {
    let mut put = |kind: u32, value: &[u8]| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    };
    match value {
        NewValue::U32(value) => put(4, &value.to_le_bytes()),
        NewValue::I32(value) => put(5, &value.to_le_bytes()),
        NewValue::F32(value) => put(6, &value.to_le_bytes()),
        NewValue::Bool(value) => put(7, &[u8::from(*value)]),
        NewValue::Text(text) => {
            put(8, &[]);
            put_text(bytes, text);
        }
        NewValue::Texts(texts) => {
            put_array(bytes, 8, texts.len());
            for text in texts {
                put_text(bytes, text);
            }
        }
        NewValue::I32s(values) => {
            put_array(bytes, 5, values.len());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NewValue::F32s(values) => {
            put_array(bytes, 6, values.len());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NewValue::Bools(values) => {
            put_array(bytes, 7, values.len());
            bytes.extend(values.iter().map(|&value| u8::from(value)));
        }
    }
}

fn put_array(bytes: &mut Vec<u8>, kind: u32, len: usize) {
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::gguf::{GgufFile, WrittenType};

    #[test]
    fn what_is_written_reads_back() {
        let texts = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let metadata = [
            ("general.architecture", NewValue::Text("llama".into())),
            ("a.size", NewValue::U32(7)),
            ("a.number", NewValue::F32(1e-5)),
            ("a.flag", NewValue::Bool(true)),
            ("a.texts", NewValue::Texts(texts(&["x", "ß y", ""]))),
            ("a.kinds", NewValue::I32s(vec![1, 3, 6])),
            ("a.scores", NewValue::F32s(vec![0.0, -1.5])),
            ("a.flags", NewValue::Bools(vec![true, false])),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let kinds = [WrittenType::F32, WrittenType::Q8_0, WrittenType::F16];
        let tensor = |name: &str, shape: &[usize], kind: WrittenType| NewTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            kind: kind.into(),
        };
        let tensors = [
            tensor("norm", &[3], kinds[0]),
            tensor("matrix", &[2, 32], kinds[1]),
            tensor("half", &[2, 3], kinds[2]),
        ];
        let values: [Vec<f32>; 3] = [
            vec![0.5, -1.0, 3.0],
            (0..64_i16)
                .map(|i| f32::from(i % 32) * 8.0 - 127.0)
                .collect(),
            vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.5],
        ];
        let blocks: [Vec<u8>; 3] = std::array::from_fn(|idx| kinds[idx].encode(&values[idx]));
        let mut bytes = Vec::new();
        write(&mut bytes, &metadata, &tensors, |idx| &blocks[idx]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        crate::files::write_atomically(&path, |out| out.write_all(&bytes)).unwrap();
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.unsigned("a.size").unwrap(), Some(7));
        assert_eq!(file.float("a.number").unwrap(), Some(1e-5));
        assert_eq!(file.flag("a.flag").unwrap(), Some(true));
        assert_eq!(
            file.texts("a.texts").unwrap(),
            Some(texts(&["x", "ß y", ""]))
        );
        assert_eq!(file.unsigneds("a.kinds").unwrap(), Some(vec![1, 3, 6]));
        assert_eq!(file.floats("a.scores").unwrap(), Some(vec![0.0, -1.5]));
        assert_eq!(file.flags("a.flags").unwrap(), Some(vec![true, false]));
        for (tensor, values) in tensors.iter().zip(values) {
            assert_eq!(file.info(&tensor.name).unwrap().shape, tensor.shape);
            assert_eq!(file.f32s(&tensor.name).unwrap(), values);
        }
    }
}
