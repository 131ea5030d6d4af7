//! Encoding of f32 values to blocks, as in ggml's reference quantisers.
//!
//! Operations follow the order of the reference (`quantize_row_*_ref` of `ggml-quants.c`), so the bytes are equal:
//! `tests/golden/gguf/hf-llama-q*.gguf`, by the `gguf` package.

use half::{bf16, f16};
use rayon::prelude::*;

use super::TensorType;
use crate::recipe::words;

/// Blocks that one task encodes; with fewer, the hand-over costs more than the work.
const BLOCKS_AT_ONCE: usize = 1 << 6;

words! {
    /// A type of ggml that weights can be written in; others can only be read.
    #[expect(missing_docs, reason = "the names are those of ggml")]
    #[expect(non_camel_case_types, reason = "the names are those of ggml")]
    pub enum WrittenType {
        F32 = "f32" also ["fp32", "float32"],
        F16 = "f16" also ["fp16", "float16"],
        Bf16 = "bf16" also ["bfloat16"],
        Q8_0 = "q8_0",
        Q4_0 = "q4_0",
        Q4_1 = "q4_1",
        Q4_K = "q4_k" also ["q4_k_m", "q4_k_s"],
    }
}

impl From<WrittenType> for TensorType {
    fn from(kind: WrittenType) -> Self {
        match kind {
            WrittenType::F32 => Self::F32,
            WrittenType::F16 => Self::F16,
            WrittenType::Bf16 => Self::BF16,
            WrittenType::Q8_0 => Self::Q8_0,
            WrittenType::Q4_0 => Self::Q4_0,
            WrittenType::Q4_1 => Self::Q4_1,
            WrittenType::Q4_K => Self::Q4_K,
        }
    }
}

impl WrittenType {
    /// Name in ggml.
    pub fn name(self) -> &'static str {
        TensorType::from(self).name()
    }

    /// Bits of a weight, without the scales of its block; below 16 they are whole numbers.
    pub fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Q8_0 => 8,
            Self::Q4_0 | Self::Q4_1 | Self::Q4_K => 4,
        }
    }

    /// Type that rounds less; `None` if this one rounds nothing.
    pub fn finer(self) -> Option<Self> {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4_K => Some(Self::Q8_0),
            Self::Q8_0 => Some(Self::F16),
            Self::F16 | Self::Bf16 => Some(Self::F32),
            Self::F32 => None,
        }
    }

    /// Encodes these values as blocks, in order.
    ///
    /// # Panics
    ///
    /// If the values do not fill whole blocks.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let (block_len, _) = TensorType::from(self).block();
        assert!(
            values.len().is_multiple_of(block_len),
            "{} values in blocks of {block_len}",
            values.len()
        );
        match self {
            Self::F32 => encode(values, |[value]| value.to_le_bytes()),
            Self::F16 => encode(values, |&[value]| f16::from_f32(value).to_le_bytes()),
            Self::Bf16 => encode(values, |&[value]| bf16::from_f32(value).to_le_bytes()),
            Self::Q4_0 => encode(values, q4_0),
            Self::Q4_1 => encode(values, q4_1),
            Self::Q8_0 => encode(values, q8_0),
            Self::Q4_K => encode(values, q4_k),
        }
    }
}

fn encode<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    block: impl Fn(&[f32; LEN]) -> [u8; BYTES] + Sync,
) -> Vec<u8> {
    let (blocks, _) = values.as_chunks::<LEN>();
    let mut bytes = vec![0; blocks.len() * BYTES];
    let (encoded, _) = bytes.as_chunks_mut::<BYTES>();
    blocks
        .par_iter()
        .zip(encoded)
        .with_min_len(BLOCKS_AT_ONCE)
        .for_each(|(values, bytes)| *bytes = block(values));
    bytes
}

/// 1 / x, and 0 for a block of zeros.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// A code from 0 to 15: the integer part of a number that is negative only by rounding.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to four bits"
)]
fn nibble(x: f32) -> u8 {
    x.clamp(0.0, 15.0) as u8
}

/// Packs two codes per byte: element `j` low, element `j + 16` high.
fn nibbles(values: &[f32; 32], code: impl Fn(f32) -> u8, bytes: &mut [u8]) {
    let (low, high) = values.split_at(16);
    for ((byte, &low), &high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = code(low) | code(high) << 4;
    }
}

fn put_half(bytes: &mut [u8], value: f32) {
    bytes[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Block whose value of largest magnitude has code 0, which is −8 scales.
fn q4_0(values: &[f32; 32]) -> [u8; 18] {
    let furthest = values.iter().fold(0.0_f32, |furthest, &value| {
        if value.abs() > furthest.abs() {
            value
        } else {
            furthest
        }
    });
    let scale = furthest / -8.0;
    let inverse = inverse(scale);
    let mut block = [0; 18];
    put_half(&mut block, scale);
    nibbles(
        values,
        |value| nibble(value * inverse + 8.5),
        &mut block[2..],
    );
    block
}

/// Block with codes from 0, the least value, to 15, the greatest.
fn q4_1(values: &[f32; 32]) -> [u8; 20] {
    let (min, max) = range(values);
    let scale = (max - min) / 15.0;
    let inverse = inverse(scale);
    let mut block = [0; 20];
    put_half(&mut block, scale);
    put_half(&mut block[2..], min);
    nibbles(
        values,
        |value| nibble((value - min) * inverse + 0.5),
        &mut block[4..],
    );
    block
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a rounded number from -127 to 127"
)]
fn q8_0(values: &[f32; 32]) -> [u8; 34] {
    let largest = values
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = inverse(scale);
    let mut block = [0; 34];
    put_half(&mut block, scale);
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = ((value * inverse).round() as i8).cast_unsigned();
    }
    block
}

fn range(values: &[f32]) -> (f32, f32) {
    let start = (f32::INFINITY, f32::NEG_INFINITY);
    values
        .iter()
        .fold(start, |(min, max), &value| (min.min(value), max.max(value)))
}

/// Block of eight sub-blocks of 32 with scales and minima of six bits.
fn q4_k(values: &[f32; 256]) -> [u8; 144] {
    let (subs, _) = values.as_chunks::<32>();
    let mut fits = [(0.0, 0.0); 8];
    for (fit, values) in fits.iter_mut().zip(subs) {
        *fit = affine_fit(values);
    }
    let largest_scale = fits.iter().fold(0.0_f32, |most, fit| most.max(fit.0));
    let largest_min = fits.iter().fold(0.0_f32, |most, fit| most.max(fit.1));
    let mut block = [0; 144];
    put_half(&mut block, largest_scale / 63.0);
    put_half(&mut block[2..], largest_min / 63.0);
    let six_bits = |value: f32, largest: f32| nearest(63.0 * inverse(largest) * value, 63.0);
    let packed: [(u8, u8); 8] =
        fits.map(|(scale, min)| (six_bits(scale, largest_scale), six_bits(min, largest_min)));
    for (idx, &(scale, min)) in packed.iter().enumerate() {
        if idx < 4 {
            block[4 + idx] |= scale;
            block[8 + idx] |= min;
        } else {
            block[8 + idx] = scale & 15 | (min & 15) << 4;
            block[idx] |= scale >> 4 << 6;
            block[4 + idx] |= min >> 4 << 6;
        }
    }
    let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    let (scale, min_scale) = (half(&block), half(&block[2..]));
    for (idx, (values, &(sub_scale, sub_min))) in subs.iter().zip(&packed).enumerate() {
        let (scale, min) = (scale * f32::from(sub_scale), min_scale * f32::from(sub_min));
        let codes = &mut block[16 + idx / 2 * 32..][..32];
        for (byte, value) in codes.iter_mut().zip(values) {
            let code = if scale == 0.0 {
                0
            } else {
                nearest((value + min) / scale, 15.0)
            };
            *byte |= code << (4 * (idx % 2));
        }
    }
    block
}

/// Nearest integer in 0 ..= most, half to even.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a byte"
)]
fn nearest(x: f32, most: f32) -> u8 {
    x.round_ties_even().clamp(0.0, most) as u8
}

/// Scale and (negated) minimum that represent 32 values best in four bits, neither of them negative.
///
/// Twenty-one ranges near the values' own are tried, each with the least-squares scale and minimum of its codes;
/// large values have a larger weight.
fn affine_fit(values: &[f32; 32]) -> (f32, f32) {
    const STEPS: u8 = 20;
    let (min, max) = range(values);
    let min = min.min(0.0);
    if max <= min {
        return (0.0, -min);
    }
    let sum_of_squares: f32 = values.iter().map(|value| value * value).sum();
    let typical = (sum_of_squares / 32.0).sqrt();
    let weights = values.map(|value| typical + value.abs());
    let error = |scale: f32, min: f32, codes: &[u8; 32]| -> f32 {
        let terms = values.iter().zip(codes).zip(&weights);
        terms
            .map(|((value, &code), weight)| {
                let difference = scale * f32::from(code) + min - value;
                weight * difference * difference
            })
            .sum()
    };
    let codes_at = |inverse: f32| values.map(|value| nearest(inverse * (value - min), 15.0));
    let sum_w: f32 = weights.iter().sum();
    let sum_x: f32 = weights
        .iter()
        .zip(values)
        .map(|(weight, value)| weight * value)
        .sum();

    let inverse = 15.0 / (max - min);
    let mut best = (1.0 / inverse, min);
    let mut least = error(best.0, best.1, &codes_at(inverse));
    for step in 0..=STEPS {
        let inverse = (15.0 - 1.0 + 0.1 * f32::from(step)) / (max - min);
        let codes = codes_at(inverse);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0_f32, 0.0_f32, 0.0_f32);
        for ((value, &code), weight) in values.iter().zip(&codes).zip(&weights) {
            let code = f32::from(code);
            sum_l += weight * code;
            sum_l2 += weight * code * code;
            sum_xl += weight * code * value;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if min > 0.0 {
            (scale, min) = (sum_xl / sum_l2, 0.0);
        }
        let found = error(scale, min, &codes);
        if found < least {
            (least, best) = (found, (scale, min));
        }
    }
    (best.0, -best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_worked_by_hand_decode_to_their_values() {
        // The furthest value is −8 scales; codes go up to 7 scales.
        let mut values = [0.0_f32; 32];
        values[3] = -4.0;
        values[20] = 3.5;
        let bytes = WrittenType::Q4_0.encode(&values);
        assert_eq!(bytes[..2], f16::from_f32(0.5).to_le_bytes());
        assert_eq!(TensorType::Q4_0.decode(&bytes), values);

        let ramp: [f32; 32] = std::array::from_fn(|j| (j % 16) as f32 - 3.0);
        let bytes = WrittenType::Q4_1.encode(&ramp);
        assert_eq!(TensorType::Q4_1.decode(&bytes), ramp);

        let whole: [f32; 32] = std::array::from_fn(|j| j as f32 * 8.0 - 127.0);
        let bytes = WrittenType::Q8_0.encode(&whole);
        assert_eq!(TensorType::Q8_0.decode(&bytes), whole);
        for kind in [WrittenType::Q4_0, WrittenType::Q4_1, WrittenType::Q8_0] {
            let zeros = kind.encode(&[0.0; 64]);
            assert_eq!(TensorType::from(kind).decode(&zeros), [0.0; 64]);
        }
    }

    #[test]
    fn four_bits_in_super_blocks_are_closer_than_in_blocks() {
        let noise: Vec<f32> = (0..4096_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) % 100_003) as f32 / 50_001.0 - 0.7)
            .collect();
        let error = |kind: WrittenType| -> f32 {
            let decoded = TensorType::from(kind).decode(&kind.encode(&noise));
            let squares = decoded
                .iter()
                .zip(&noise)
                .map(|(got, want)| (got - want).powi(2));
            squares.sum::<f32>() / noise.len() as f32
        };
        let (blocks, supers) = (error(WrittenType::Q4_0), error(WrittenType::Q4_K));
        assert!(supers < 0.75 * blocks, "{supers} against {blocks}");
        assert!(
            supers < (2.0_f32 / 15.0).powi(2) / 12.0 * 1.3,
            "{supers}: half a step at most"
        );
    }
}
