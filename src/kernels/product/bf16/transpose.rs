//! Rows of pairs to columns of pairs.

/// Pairs of bf16 numbers by row, the first of a pair in the low half.
pub(super) type Pairs = [[u32; 16]; 16];

/// Exchanges rows and columns.
#[inline(always)]
pub(super) fn transpose(pairs: &mut Pairs) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "the instructions are not on every processor")]
        // SAFETY: the processor was asked.
        return unsafe { transpose_in_registers(pairs) };
    }
    transpose_plainly(pairs);
}

#[inline(always)]
fn transpose_plainly(pairs: &mut Pairs) {
    let before = *pairs;
    for (row, pairs) in pairs.iter_mut().enumerate() {
        for (to, from) in pairs.iter_mut().zip(&before) {
            *to = from[row];
        }
    }
}

/// Exchanges single numbers, then twos, then groups of four and of eight.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transpose_in_registers(pairs: &mut Pairs) {
    use std::arch::x86_64::{
        _mm512_loadu_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    let mut rows = [_mm512_setzero_si512(); 16];
    for (row, register) in pairs.iter().zip(&mut rows) {
        #[expect(unsafe_code, reason = "a register is loaded through a pointer")]
        // SAFETY: a row is 64 bytes.
        let loaded = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        *register = loaded;
    }
    let mut singles = rows;
    for at in 0..8 {
        singles[2 * at] = _mm512_unpacklo_epi32(rows[2 * at], rows[2 * at + 1]);
        singles[2 * at + 1] = _mm512_unpackhi_epi32(rows[2 * at], rows[2 * at + 1]);
    }
    // Quarter q of `twos[4 g + c]` holds column 4 q + c of rows 4 g to 4 g + 3.
    let mut twos = rows;
    for at in 0..4 {
        twos[4 * at] = _mm512_unpacklo_epi64(singles[4 * at], singles[4 * at + 2]);
        twos[4 * at + 1] = _mm512_unpackhi_epi64(singles[4 * at], singles[4 * at + 2]);
        twos[4 * at + 2] = _mm512_unpacklo_epi64(singles[4 * at + 1], singles[4 * at + 3]);
        twos[4 * at + 3] = _mm512_unpackhi_epi64(singles[4 * at + 1], singles[4 * at + 3]);
    }
    // Quarters 0 and 2, or 1 and 3, of two groups.
    let mut fours = rows;
    for at in 0..4 {
        let groups = [twos[at], twos[4 + at], twos[8 + at], twos[12 + at]];
        fours[at] = _mm512_shuffle_i32x4::<0b10_00_10_00>(groups[0], groups[1]);
        fours[4 + at] = _mm512_shuffle_i32x4::<0b11_01_11_01>(groups[0], groups[1]);
        fours[8 + at] = _mm512_shuffle_i32x4::<0b10_00_10_00>(groups[2], groups[3]);
        fours[12 + at] = _mm512_shuffle_i32x4::<0b11_01_11_01>(groups[2], groups[3]);
    }
    for at in 0..4 {
        let (even, odd) = ([fours[at], fours[8 + at]], [fours[4 + at], fours[12 + at]]);
        rows[at] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even[0], even[1]);
        rows[4 + at] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd[0], odd[1]);
        rows[8 + at] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even[0], even[1]);
        rows[12 + at] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd[0], odd[1]);
    }
    for (row, register) in pairs.iter_mut().zip(rows) {
        #[expect(unsafe_code, reason = "a register is stored through a pointer")]
        // SAFETY: a row is 64 bytes.
        unsafe {
            _mm512_storeu_si512(row.as_mut_ptr().cast(), register);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_change_places() {
        let pairs: Pairs = std::array::from_fn(|row| {
            std::array::from_fn(|column| u32::try_from(100 * row + column).unwrap())
        });
        let (mut got, mut plain) = (pairs, pairs);
        transpose(&mut got);
        transpose_plainly(&mut plain);
        assert_eq!(got, plain);
        assert_eq!([got[3][7], got[15][0]], [703, 15]);
    }
}
