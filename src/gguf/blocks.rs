//! Tensor types: size of a block in bytes, and its values in f32.
//!
//! The layouts are those of ggml (`ggml-common.h` and `ggml-quants.c` of <https://github.com/ggml-org/ggml>). Values
//! are computed in f32 in the reference's order of operations, so they are the same to the last bit
//! (`tests/golden/gguf/blocks.json`, by the `gguf` package).

use half::{bf16, f16};
use rayon::prelude::*;

/// Blocks that one task decodes; with fewer, the hand-over costs more than the work.
const BLOCKS_AT_ONCE: usize = 1 << 12;

/// Storage format of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of ggml")]
#[expect(non_camel_case_types, reason = "the names are those of ggml")]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Types of ggml that cannot be read, by number; for messages.
const OTHER_TYPES: [(u32, &str); 23] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl TensorType {
    /// All types that can be read.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Type with this number, or the name of a type that cannot be read.
    pub fn from_id(id: u32) -> Result<Self, String> {
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.id() == id) {
            return Ok(kind);
        }
        let other = OTHER_TYPES.iter().find(|(other, _)| *other == id);
        Err(other.map_or_else(|| format!("type {id}"), |(_, name)| (*name).to_owned()))
    }

    /// Number of the type in a file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Name in ggml.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Elements and bytes of one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
        }
    }

    /// Values of whole blocks, in order; bytes after the last whole block are ignored.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => decode(bytes, |&le, [value]| *value = f32::from_le_bytes(le)),
            Self::F16 => decode(bytes, |le: &[u8; 2], [value]| *value = half_at(le)),
            Self::BF16 => decode(bytes, |&le, [value]| {
                *value = bf16::from_le_bytes(le).to_f32();
            }),
            Self::Q4_0 => decode(bytes, q4_0),
            Self::Q4_1 => decode(bytes, q4_1),
            Self::Q5_0 => decode(bytes, q5_0),
            Self::Q5_1 => decode(bytes, q5_1),
            Self::Q8_0 => decode(bytes, q8_0),
            Self::Q4_K => decode(bytes, q4_k),
            Self::Q5_K => decode(bytes, q5_k),
            Self::Q6_K => decode(bytes, q6_k),
        }
    }
}

impl TensorType {
    /// Scale of each block, for types whose blocks are one scale and codes around 0.
    pub fn scales(self, bytes: &[u8]) -> Option<Vec<f32>> {
        let (_, block_bytes) = self.block();
        let is_scaled = matches!(self, Self::Q4_0 | Self::Q8_0);
        is_scaled.then(|| bytes.chunks_exact(block_bytes).map(half_at).collect())
    }
}

fn decode<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]) + Sync,
) -> Vec<f32> {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let mut values = vec![0.0; blocks.len() * LEN];
    let (decoded, _) = values.as_chunks_mut::<LEN>();
    blocks
        .par_iter()
        .zip(decoded)
        .with_min_len(BLOCKS_AT_ONCE)
        .for_each(|(bytes, values)| block(bytes, values));
    values
}

/// The f16 at the beginning of the bytes.
fn half_at(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// 32 codes of four bits, two a byte: element `j` in the low half of byte `j`, element `j + 16` in the high half.
/// Bit `j` of `fifth` is the fifth bit of element `j`.
fn nibbles(codes: &[u8], fifth: u32, values: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    let (low, high) = values.split_at_mut(16);
    for (j, ((&byte, low), high)) in codes.iter().zip(low).zip(high).enumerate() {
        let bit = |j: usize| if fifth >> j & 1 == 1 { 16 } else { 0 };
        *low = value(f32::from(byte & 15 | bit(j)));
        *high = value(f32::from(byte >> 4 | bit(j + 16)));
    }
}

/// Scale; codes about 8.
fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let scale = half_at(block);
    nibbles(&block[2..], 0, values, |code| scale * (code - 8.0));
}

/// Scale, minimum; codes.
fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let (scale, min) = (half_at(block), half_at(&block[2..]));
    nibbles(&block[4..], 0, values, |code| scale * code + min);
}

/// Scale, fifth bits; codes about 16.
fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let scale = half_at(block);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], fifth, values, |code| scale * (code - 16.0));
}

/// Scale, minimum, fifth bits; codes.
fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let (scale, min) = (half_at(block), half_at(&block[2..]));
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..], fifth, values, |code| scale * code + min);
}

/// Scale; signed codes.
fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let scale = half_at(block);
    for (&byte, value) in block[2..].iter().zip(values) {
        *value = scale * f32::from(byte.cast_signed());
    }
}

/// Scale of scales, scale of minima, eight pairs of 6 bits, codes.
fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    super_block(block, &[0; 32], &block[16..], values);
}

/// Like [`q4_k`], with the fifth bits of all codes before the others.
fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    super_block(block, &block[16..48], &block[48..], values);
}

/// Eight sub-blocks of 32 values `scale·code − minimum`. Each 32 bytes of `codes` hold one sub-block in their low
/// halves and the next in their high halves; bit `s` of `fifth[l]` is the fifth bit of element `l` of sub-block `s`.
fn super_block(head: &[u8], fifth: &[u8], codes: &[u8], values: &mut [f32; 256]) {
    let (scale, min_scale) = (half_at(head), half_at(&head[2..]));
    let packed = &head[4..16];
    for (sub_idx, values) in values.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_min) = six_bits(packed, sub_idx);
        let (sub_scale, min) = (scale * sub_scale, min_scale * sub_min);
        let bytes = &codes[sub_idx / 2 * 32..][..32];
        for ((&byte, &fifth), value) in bytes.iter().zip(fifth).zip(values) {
            let code = byte >> (4 * (sub_idx % 2)) & 15 | (fifth >> sub_idx & 1) << 4;
            *value = sub_scale * f32::from(code) - min;
        }
    }
}

/// Scale and minimum of a sub-block from twelve bytes: the first four of each are in the low 6 bits of a byte; the
/// last four are split into a nibble of the last bytes and the two free bits of the first bytes.
fn six_bits(packed: &[u8], sub_idx: usize) -> (f32, f32) {
    let (scale, min) = if sub_idx < 4 {
        (packed[sub_idx] & 63, packed[sub_idx + 4] & 63)
    } else {
        let low = packed[sub_idx + 4];
        (
            low & 15 | packed[sub_idx - 4] >> 6 << 4,
            low >> 4 | packed[sub_idx] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(min))
}

/// Low four bits of all codes, high two bits, 16 signed scales, scale of scales; codes about 32.
fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let scale = half_at(&block[208..]);
    for (half_idx, values) in values.chunks_exact_mut(128).enumerate() {
        let low = &block[64 * half_idx..][..64];
        let high = &block[128 + 32 * half_idx..][..32];
        let scales = &block[192 + 8 * half_idx..][..8];
        for (idx, value) in values.iter_mut().enumerate() {
            let (quarter, l) = (idx / 32, idx % 32);
            let four = low[l + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
            let two = high[l] >> (2 * quarter) & 3;
            let code = f32::from(four | two << 4) - 32.0;
            *value = scale * f32::from(scales[idx / 16].cast_signed()) * code;
        }
    }
}
