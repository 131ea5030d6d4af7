//! Damaged safetensors: lengths, offsets, shapes, types, numbers, and the checksum of alambic's own files made anew.

use serde_json::{Value, json};

use super::json::{damage_value, text};
use super::{Dice, NUMBERS, raw};

/// Entry of the header that alambic's own files have: a checksum and facts, in JSON inside a text.
const OURS: &str = "/__metadata__/alambic";

/// Types of tensors, and one that is none.
const DTYPES: [&str; 11] = [
    "F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "X",
];

/// Header and data of a file, if its first number is right.
fn parts(bytes: &[u8]) -> Option<(Value, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let header = serde_json::from_slice(rest.get(..length)?).ok()?;
    Some((header, rest.get(length..)?))
}

fn joined(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), data].concat()
}

pub(super) fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let Some((mut header, data)) = parts(bytes) else {
        return raw(bytes, dice);
    };
    let mut data = data.to_vec();
    let done = match dice.below(8) {
        0 => {
            let length = match dice.below(3) {
                0 => *dice.pick(&NUMBERS),
                1 => bytes.len() as u64,
                _ => header.to_string().len() as u64 + 1,
            };
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            return format!("a header of {length} bytes");
        }
        1 => damage_value(&mut header, dice),
        2 | 3 if header.pointer(OURS).is_some() => damage_facts(&mut header, dice),
        2..=5 => damage_tensor(&mut header, dice),
        6 => {
            let len = data.len();
            let changed = if dice.percent(50) {
                len.saturating_sub(1 + dice.below(64))
            } else {
                len + 8
            };
            data.resize(changed, 0);
            format!("{len} bytes of data became {changed}")
        }
        _ => damage_number(&mut data, dice),
    };
    *bytes = joined(&text(&header), &data);
    done
}

/// Damages the facts beside the tensors.
fn damage_facts(header: &mut Value, dice: &mut Dice) -> String {
    let entry = header.pointer_mut(OURS).expect("it was looked for");
    let mut inner: Value = serde_json::from_str(entry.as_str().unwrap_or("{}")).unwrap_or_default();
    let mut facts: Value =
        serde_json::from_str(inner["facts"].as_str().unwrap_or("{}")).unwrap_or_default();
    let done = damage_value(&mut facts, dice);
    inner["facts"] = text(&facts).into();
    *entry = inner.to_string().into();
    format!("facts: {done}")
}

fn damage_tensor(header: &mut Value, dice: &mut Dice) -> String {
    let entries = header.as_object_mut().filter(|entries| entries.len() > 1);
    let Some(entries) = entries else {
        return damage_value(header, dice);
    };
    let names: Vec<String> = entries
        .keys()
        .filter(|key| *key != "__metadata__")
        .cloned()
        .collect();
    let Some(name) = (!names.is_empty()).then(|| dice.pick(&names).clone()) else {
        return damage_value(header, dice);
    };
    let other = entries[dice.pick(&names)].clone();
    let tensor = &mut entries[&name];
    let done = match dice.below(6) {
        0 => {
            let other = *dice.pick(&DTYPES);
            tensor["dtype"] = other.into();
            format!("type {other}")
        }
        1 | 2 => {
            tensor["shape"] = other_shape(&tensor["shape"], &other["shape"], dice);
            format!("shape {}", tensor["shape"])
        }
        3 => {
            tensor["data_offsets"] = other["data_offsets"].clone();
            format!("the place of another, {}", tensor["data_offsets"])
        }
        4 => {
            let side = dice.below(2);
            if let Some(offset) = tensor["data_offsets"].get_mut(side) {
                let before = offset.as_u64().unwrap_or(0);
                let others = [
                    before.wrapping_add(1),
                    before.wrapping_sub(4),
                    before.wrapping_add(8),
                    *dice.pick(&NUMBERS),
                ];
                *offset = (*dice.pick(&others)).into();
            }
            format!("offsets {}", tensor["data_offsets"])
        }
        _ => {
            *tensor = other;
            "the entry of another".to_owned()
        }
    };
    format!("`{name}`: {done}")
}

/// A shape of any size, or another of the same size, at which the offsets still fit.
fn other_shape(own: &Value, other: &Value, dice: &mut Dice) -> Value {
    if dice.percent(50) {
        return own
            .as_array()
            .into_iter()
            .flatten()
            .rev()
            .cloned()
            .collect();
    }
    let shapes = [
        json!([]),
        json!([0]),
        json!([1, 1]),
        json!([u64::MAX, 2]),
        json!([1_u64 << 32, 1_u64 << 32]),
        other.clone(),
    ];
    dice.pick(&shapes).clone()
}

/// Replaces a number by one that is not finite, or huge, or flips a bit.
fn damage_number(data: &mut [u8], dice: &mut Dice) -> String {
    if data.len() < 8 {
        return "nothing".to_owned();
    }
    let at = dice.below(data.len() / 4 - 1) * 4;
    let words: [u32; 6] = [
        0x7FC0_7FC0,
        0x7F80_7F80,
        0xFF80_FF80,
        0x7F7F_7F7F,
        0xFFFF_FFFF,
        0,
    ];
    let word = *dice.pick(&words);
    data[at..at + 4].copy_from_slice(&word.to_le_bytes());
    format!("{word:08x} at byte {at} of the data")
}

/// True if a file has a checksum of alambic's.
pub(crate) fn is_ours(bytes: &[u8]) -> bool {
    parts(bytes).is_some_and(|(header, _)| header.pointer(OURS).is_some())
}

/// The file with its checksum made anew, if it can be taken apart: BLAKE3 over the facts, then names, shapes and bytes
/// of the tensors in the order of their names (`docs/formats.md`).
pub(crate) fn with_checksum(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut header, data) = parts(bytes)?;
    let mut inner: Value = serde_json::from_str(header.pointer(OURS)?.as_str()?).ok()?;
    let facts = inner["facts"].as_str()?.to_owned();
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&(facts.len() as u64).to_le_bytes())
        .update(facts.as_bytes());
    let mut tensors: Vec<(&String, &Value)> = header
        .as_object()?
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    tensors.sort_by_key(|(name, _)| *name);
    for (name, tensor) in tensors {
        let shape: Option<Vec<u64>> = tensor["shape"]
            .as_array()?
            .iter()
            .map(Value::as_u64)
            .collect();
        let offset = |side: usize| usize::try_from(tensor["data_offsets"][side].as_u64()?).ok();
        hasher.update(name.as_bytes());
        hasher.update(format!("{:?}", shape?).as_bytes());
        hasher.update(data.get(offset(0)?..offset(1)?)?);
    }
    inner["blake3"] = hasher.finalize().to_hex().as_str().into();
    *header.pointer_mut(OURS)? = inner.to_string().into();
    Some(joined(&header.to_string(), data))
}
