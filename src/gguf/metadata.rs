//! Keys and values, read once and checked; arrays stay in the file.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::GgufFault;
use super::read::ByteReader;

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// Any of the eight integer types.
    Integer(i128),
    /// A float; an f32 is widened through its shortest decimal, so that 1e-5 is read as 1e-5.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// Several values of one type.
    Array(Array),
}

impl fmt::Display for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "`{number}`"),
            Self::Float(number) => write!(f, "`{number}`"),
            Self::Bool(flag) => write!(f, "`{flag}`"),
            Self::Text(text) => write!(f, "`{}`", text.chars().take(80).collect::<String>()),
            Self::Array(array) => write!(f, "an array of {} values", array.len),
        }
    }
}

/// An array whose elements have been checked and stay in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    element: ValueType,
    len: usize,
    bytes: Range<usize>,
}

impl Array {
    /// Elements, in order.
    pub(super) fn values(&self, file: &[u8]) -> Vec<GgufValue> {
        let mut reader = ByteReader::new(file, self.bytes.start);
        let elements = (0..self.len).map(|_| read_scalar(&mut reader, self.element, ""));
        elements
            .collect::<Result<_, _>>()
            .expect("the elements were read once when the file was opened")
    }
}

/// Types of values, with their numbers in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn read(reader: &mut ByteReader<'_>, key: &str) -> Result<Self, GgufFault> {
        let id = reader.u32(&format_args!("the type of `{key}`"))?;
        Self::from_id(id).ok_or_else(|| GgufFault::ValueType {
            key: key.to_owned(),
            id,
        })
    }

    /// Fewest bytes of one value in a file; bounds how many there can be.
    fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text | Self::Array => 8,
        }
    }
}

/// Reads `num_keys` keys with their values.
pub(super) fn read_metadata(
    reader: &mut ByteReader<'_>,
    num_keys: u64,
) -> Result<BTreeMap<String, GgufValue>, GgufFault> {
    let mut metadata = BTreeMap::new();
    for key_idx in 0..num_keys {
        let key = reader.text(&format_args!("key {key_idx} of {num_keys}"))?;
        let value = match ValueType::read(reader, key)? {
            ValueType::Array => GgufValue::Array(read_array(reader, key)?),
            scalar => read_scalar(reader, scalar, key)?,
        };
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(GgufFault::DuplicateKey {
                key: key.to_owned(),
            });
        }
    }
    Ok(metadata)
}

/// Skips an array and checks every element, so that reading it later cannot fail.
fn read_array(reader: &mut ByteReader<'_>, key: &str) -> Result<Array, GgufFault> {
    let element = ValueType::read(reader, key)?;
    if element == ValueType::Array {
        return Err(GgufFault::NestedArray {
            key: key.to_owned(),
        });
    }
    let what = format_args!("the array `{key}`");
    let len = reader.u64(&what)?;
    let start = reader.at();
    // A count beyond the end of the file is refused before the first element is read.
    let num_bytes = len.saturating_mul(element.min_bytes());
    let end = reader.skip(num_bytes, &what)?.end;
    reader.rewind(start);
    match element {
        ValueType::Text | ValueType::Bool => {
            for _ in 0..len {
                read_scalar(reader, element, key)?;
            }
        }
        _ => {
            reader.skip((end - start) as u64, &what)?;
        }
    }
    Ok(Array {
        element,
        len: usize::try_from(len).expect("there are at least as many bytes in memory"),
        bytes: start..reader.at(),
    })
}

fn read_scalar(
    reader: &mut ByteReader<'_>,
    kind: ValueType,
    key: &str,
) -> Result<GgufValue, GgufFault> {
    let what = format_args!("the value of `{key}`");
    Ok(match kind {
        ValueType::U8 => GgufValue::Integer(u8::from_le_bytes(reader.array(&what)?).into()),
        ValueType::I8 => GgufValue::Integer(i8::from_le_bytes(reader.array(&what)?).into()),
        ValueType::U16 => GgufValue::Integer(u16::from_le_bytes(reader.array(&what)?).into()),
        ValueType::I16 => GgufValue::Integer(i16::from_le_bytes(reader.array(&what)?).into()),
        ValueType::U32 => GgufValue::Integer(reader.u32(&what)?.into()),
        ValueType::I32 => GgufValue::Integer(i32::from_le_bytes(reader.array(&what)?).into()),
        ValueType::U64 => GgufValue::Integer(reader.u64(&what)?.into()),
        ValueType::I64 => GgufValue::Integer(i64::from_le_bytes(reader.array(&what)?).into()),
        ValueType::F32 => GgufValue::Float(widen(f32::from_le_bytes(reader.array(&what)?))),
        ValueType::F64 => GgufValue::Float(f64::from_le_bytes(reader.array(&what)?)),
        ValueType::Text => GgufValue::Text(reader.text(&what)?.to_owned()),
        ValueType::Bool => match reader.array(&what)? {
            [0] => GgufValue::Bool(false),
            [1] => GgufValue::Bool(true),
            [byte] => {
                let key = key.to_owned();
                return Err(GgufFault::NotABool { key, byte });
            }
        },
        ValueType::Array => {
            return Err(GgufFault::NestedArray {
                key: key.to_owned(),
            });
        }
    })
}

/// The f64 nearest to the shortest decimal that names this f32.
fn widen(number: f32) -> f64 {
    let shortest = number.to_string().parse();
    shortest.unwrap_or_else(|_| f64::from(number)) // cannot fail: Rust parses every number that it prints
}
