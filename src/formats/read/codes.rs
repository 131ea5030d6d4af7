//! Codes decoded from bytes.

/// Codes of packed rows: each is a little-endian bit stream, padded to whole 32-bit words.
///
/// A stored code is unsigned; 2^(bits − 1) is zero. `bits` is at most 8.
pub(in crate::formats) fn unpack(packed: &[u8], [rows, cols]: [usize; 2], bits: u32) -> Vec<i8> {
    let row_bytes = 4 * (cols * bits as usize).div_ceil(32);
    let unused = 8 - bits;
    let mut codes = Vec::with_capacity(rows * cols);
    for row in packed.chunks_exact(row_bytes.max(1)) {
        let byte = |idx| u16::from(row.get(idx).copied().unwrap_or(0)); // the last code may end a row
        let field = |column: usize| {
            let start = column * bits as usize;
            let [field, _] =
                ((byte(start / 8) | byte(start / 8 + 1) << 8) >> (start % 8)).to_le_bytes();
            field
        };
        // The field moves to the top of the byte, where flipping its highest bit subtracts 2^(bits − 1) and the
        // arithmetic shift back extends the sign.
        let signed = |field: u8| ((field << unused) ^ 0x80).cast_signed() >> unused;
        codes.extend((0..cols).map(|column| signed(field(column))));
    }
    codes
}

/// Value of an 8-bit float (E4M3). Its exponent and mantissa bits move to their places in f32, and a product corrects
/// the exponent's bias. Numbers without a leading bit come out right, too.
pub(in crate::formats) fn fp8(byte: u8) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 127 - 7) << 23); // 2^(127 − 7)
    let magnitude = u32::from(byte & 0x7F);
    let sign = u32::from(byte >> 7) << 31;
    if magnitude == 0x7F {
        return f32::NAN;
    }
    f32::from_bits(magnitude << 20 | sign) * BIAS
}

/// Transpose of a row-major matrix with `columns` columns.
pub(in crate::formats) fn transposed<T: Copy>(matrix: &[T], columns: usize) -> Vec<T> {
    let num_rows = matrix.len() / columns.max(1);
    let mut out = Vec::with_capacity(matrix.len());
    for column in 0..columns {
        out.extend((0..num_rows).filter_map(|row| matrix.get(row * columns + column)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_of_8_bits_is_its_formula() {
        for byte in 0..=u8::MAX {
            let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
            let magnitude = match exponent {
                0 => mantissa * 2_f32.powi(-9),
                _ => (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7),
            };
            let want = if byte >> 7 == 1 {
                -magnitude
            } else {
                magnitude
            };
            match byte & 0x7F {
                0x7F => assert!(fp8(byte).is_nan()),
                _ => assert_eq!(fp8(byte).to_bits(), want.to_bits(), "{byte:#x}"),
            }
        }
        assert_eq!(fp8(0x7E).to_bits(), 448_f32.to_bits());
    }

    #[test]
    fn codes_unpack_as_in_the_worked_example() {
        // Layer 0, q_proj, row 0 of a reference file: word 0x36CB77A5.
        let codes = unpack(&[0xA5, 0x77, 0xCB, 0x36], [1, 8], 4);
        assert_eq!(codes, [-3, 2, -1, -1, 3, 4, -2, -5]);
        // Three columns: the row is padded to a word.
        let codes = unpack(&[0xF8, 0x07, 0, 0, 0x08, 0x0F, 0, 0], [2, 3], 4);
        assert_eq!(codes, [0, 7, -1, 0, -8, 7]);
        assert_eq!(unpack(&[0, 128, 255, 127], [1, 4], 8), [-128, 0, 127, -1]);
    }
}
