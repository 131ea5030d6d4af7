//! The tensor directory: every size and position is checked before it is used.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::ops::Range;

use super::GgufFault;
use super::blocks::TensorType;
use super::read::ByteReader;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Storage format of its elements.
    pub kind: TensorType,
    /// Row-major, outermost first, as in a Hugging Face checkpoint: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// Position in the file.
    pub(super) bytes: Range<usize>,
}

/// A tensor as stated in the directory.
struct TensorEntry<'a> {
    name: &'a str,
    kind: TensorType,
    shape: Vec<usize>,
    num_bytes: usize,
    /// Offset from the start of the data.
    offset: u64,
}

/// Reads `num_tensors` entries and places them in the data, which follows the directory at the next multiple of
/// `alignment` and ends with the file.
pub(super) fn read_directory(
    reader: &mut ByteReader<'_>,
    num_tensors: u64,
    alignment: u64,
    file_bytes: usize,
) -> Result<BTreeMap<String, TensorInfo>, GgufFault> {
    let mut entries = Vec::new(); // grows as entries are found: the count is only a claim
    for tensor_idx in 0..num_tensors {
        entries.push(read_entry(reader, tensor_idx, num_tensors)?);
    }
    let data_start = (reader.at() as u64).next_multiple_of(alignment);
    let data_bytes = (file_bytes as u64).saturating_sub(data_start);
    let mut tensors = BTreeMap::new();
    for entry in &entries {
        let TensorEntry {
            name,
            offset,
            num_bytes,
            ..
        } = *entry;
        let tensor = name.to_owned();
        if !offset.is_multiple_of(alignment) {
            return Err(GgufFault::Misaligned {
                tensor,
                offset,
                alignment,
            });
        }
        let end = offset.checked_add(num_bytes as u64);
        if end.is_none_or(|end| end > data_bytes) {
            return Err(GgufFault::OutsideFile {
                tensor,
                offset,
                num_bytes,
                data_bytes: usize::try_from(data_bytes).unwrap_or(file_bytes),
            });
        }
        let start = usize::try_from(data_start + offset).expect("a place in a mapped file");
        let info = TensorInfo {
            kind: entry.kind,
            shape: entry.shape.clone(),
            bytes: start..start + num_bytes,
        };
        if tensors.insert(tensor, info).is_some() {
            let tensor = name.to_owned();
            return Err(GgufFault::DuplicateTensor { tensor });
        }
    }
    check_places(&entries, alignment, data_bytes)?;
    Ok(tensors)
}

fn read_entry<'a>(
    reader: &mut ByteReader<'a>,
    tensor_idx: u64,
    num_tensors: u64,
) -> Result<TensorEntry<'a>, GgufFault> {
    let name = reader.text(&format_args!("tensor {tensor_idx} of {num_tensors}"))?;
    let what = format_args!("the entry of `{name}`");
    let tensor = || name.to_owned();
    let num_dims = reader.u32(&what)?;
    if !(1..=4).contains(&num_dims) {
        return Err(GgufFault::NumDims {
            tensor: tensor(),
            num_dims,
        });
    }
    let dims = (0..num_dims).map(|_| reader.u64(&what));
    let dims: Vec<u64> = dims.collect::<Result<_, _>>()?;
    let kind = TensorType::from_id(reader.u32(&what)?).map_err(|found| GgufFault::TensorType {
        tensor: tensor(),
        found,
        known: TensorType::ALL.map(TensorType::name).to_vec(),
    })?;
    let offset = reader.u64(&what)?;

    let sizes = dims.iter().rev().map(|&size| usize::try_from(size).ok());
    let sizes: Option<Vec<usize>> = sizes.collect();
    let (block_len, block_bytes) = kind.block();
    let num_bytes = |shape: &[usize]| {
        let product = |a: usize, b: &usize| a.checked_mul(*b);
        let num_elements = shape.iter().try_fold(1, product)?;
        (num_elements > 0).then_some(())?;
        (num_elements / block_len).checked_mul(block_bytes)
    };
    let placed = sizes.and_then(|shape| Some((num_bytes(&shape)?, shape)));
    let Some((num_bytes, shape)) = placed else {
        let tensor = tensor();
        return Err(GgufFault::Dims { tensor, dims });
    };
    let cols = shape.last().copied().unwrap_or_default();
    if !cols.is_multiple_of(block_len) {
        return Err(GgufFault::UnevenBlocks {
            tensor: tensor(),
            cols,
            kind: kind.name(),
            block_len,
        });
    }
    Ok(TensorEntry {
        name,
        kind,
        shape,
        num_bytes,
        offset,
    })
}

/// Checks that tensors follow each other, with nothing but padding between them, from the first byte of the data to the
/// last: no byte belongs to two of them, and none to nobody. llama.cpp refuses such files, too.
///
/// A gap shows a directory that is not that of the data: a tensor whose type or shape takes fewer bytes there would be
/// decoded to other numbers.
fn check_places(
    entries: &[TensorEntry<'_>],
    alignment: u64,
    data_bytes: u64,
) -> Result<(), GgufFault> {
    let end = |entry: &TensorEntry<'_>| entry.offset + entry.num_bytes as u64; // all of them lie in the file
    let mut by_place: Vec<&TensorEntry<'_>> = entries.iter().collect();
    by_place.sort_by_key(|entry| entry.offset);
    for (first, second) in by_place.iter().zip(by_place.iter().skip(1)) {
        if end(first) > second.offset {
            return Err(GgufFault::Overlap {
                first: first.name.to_owned(),
                second: second.name.to_owned(),
            });
        }
    }
    let before = [None].into_iter().chain(by_place.iter().map(Some));
    let starts = by_place.iter().map(|entry| entry.offset);
    let nexts = starts.chain(by_place.last().map(|_| data_bytes));
    for (idx, (before, start)) in before.zip(nexts).enumerate() {
        let end = before.map_or(0, |before| end(before));
        if start > end.next_multiple_of(alignment) {
            let next = by_place.get(idx);
            return Err(GgufFault::Gap {
                before: before.map(|before| described(before)),
                end,
                next: next.map_or("the end of the file".to_owned(), |next| {
                    format!("`{}`", next.name)
                }),
                start,
            });
        }
    }
    Ok(())
}

/// A tensor with what the directory says of its size.
fn described(entry: &TensorEntry<'_>) -> String {
    format!("`{}` ({} {:?})", entry.name, entry.kind.name(), entry.shape)
}
