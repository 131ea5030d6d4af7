//! Codes as the file holds them.

use crate::formats::WriteError;

/// Packs codes into rows of little-endian 32-bit words. The code of the lowest column has the lowest bits; a code that
/// does not fit a word continues in the next.
///
/// A stored code is unsigned: 2^(bits − 1) is zero. A row ends on a whole word, padded with zero bits.
///
/// # Panics
///
/// If there are not `rows * cols` codes, or `bits` is not in 1 to 8.
pub(in crate::formats) fn pack(codes: &[i8], [rows, cols]: [usize; 2], bits: u32) -> Vec<i32> {
    assert_eq!(codes.len(), rows * cols, "codes of [{rows}, {cols}]");
    assert!((1..=8).contains(&bits), "{bits} bits");
    let zero = 1_u64 << (bits - 1);
    let mask = (1_u64 << bits) - 1;
    let mut words = Vec::with_capacity(rows * (cols * bits as usize).div_ceil(32));
    for row in codes.chunks(cols.max(1)) {
        let (mut held, mut num_held) = (0_u64, 0);
        for &code in row {
            held |= (zero.wrapping_add_signed(i64::from(code)) & mask) << num_held;
            num_held += bits;
            if num_held >= 32 {
                words.push(low_word(held));
                held >>= 32;
                num_held -= 32;
            }
        }
        if num_held > 0 {
            words.push(low_word(held));
        }
    }
    words
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
fn low_word(held: u64) -> i32 {
    (held as u32).cast_signed()
}

/// Codes as bytes; refuses a code that is not an integer of this width.
pub(in crate::formats) fn integers(
    tensor: &str,
    codes: &[f32],
    bits: u32,
) -> Result<Vec<i8>, WriteError> {
    let limit = f32::from(1_u8 << (bits - 1));
    let one = |(code_idx, &code): (usize, &f32)| {
        if code.fract() == 0.0 && (-limit..limit).contains(&code) {
            #[expect(clippy::cast_possible_truncation, reason = "a whole number of 8 bits")]
            return Ok(code as i8);
        }
        Err(WriteError::CodeOutOfRange {
            tensor: tensor.to_owned(),
            code_idx,
            code,
            bits,
        })
    };
    codes.iter().enumerate().map(one).collect()
}

/// Bytes of floats that fp8 (E4M3) holds: sign, four bits of exponent with bias 7, three bits of mantissa.
pub(in crate::formats) fn fp8_bytes(tensor: &str, codes: &[f32]) -> Result<Vec<u8>, WriteError> {
    let one = |(code_idx, &code): (usize, &f32)| {
        fp8_byte(code).ok_or_else(|| WriteError::CodeOutOfRange {
            tensor: tensor.to_owned(),
            code_idx,
            code,
            bits: 8,
        })
    };
    codes.iter().enumerate().map(one).collect()
}

fn fp8_byte(code: f32) -> Option<u8> {
    // Below 2^-6 there is no leading bit: the stored number counts units of 2^-9. Above, each power of two has eight
    // numbers, and the stored exponent grows by one with each power.
    let magnitude = code.abs();
    let power = magnitude.log2().floor().max(-6.0);
    let eighths = magnitude / (power - 3.0).exp2();
    let stored = (power + 6.0).mul_add(8.0, eighths);
    if !(stored.fract() == 0.0 && stored <= 126.0) {
        return None; // NaN comes here, too
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 0 to 126"
    )]
    let stored = stored as u8;
    Some(stored | u8::from(code.is_sign_negative()) << 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_has_the_bytes_of_the_format() {
        for (code, byte) in [
            (0.0, 0x00),
            (-0.0, 0x80),
            (0.001_953_125, 0x01), // 2^-9, the least
            (0.013_671_875, 0x07), // 7 · 2^-9, the last without a leading bit
            (0.015_625, 0x08),     // 2^-6
            (1.0, 0x38),
            (-1.125, 0xB9),
            (448.0, 0x7E),
            (-448.0, 0xFE),
        ] {
            assert_eq!(fp8_byte(code), Some(byte), "{code}");
        }
        for code in [480.0, 1.062_5, 0.000_976_562_5, f32::NAN, f32::INFINITY] {
            assert_eq!(fp8_byte(code), None, "{code}");
        }
    }

    #[test]
    fn codes_of_three_bits_straddle_words() {
        // 32 codes take three words. By hand, code 10 has its lowest two bits in the first word.
        let codes: Vec<i8> = (0..32).map(|at| if at == 10 { 3 } else { -4 }).collect();
        let want = [0b11 << 30, 1, 0].map(u32::cast_signed);
        assert_eq!(pack(&codes, [1, 32], 3), want);
        assert_eq!(pack(&[-1, 0, 1, -2], [2, 2], 2), [0b10_01, 0b00_11]);
    }
}
