//! Numbers split into a bin and the bits below it, so that a table of a few dozen symbols covers them all.

/// Bins of numbers: below `2^(s + 1)` every number has its own bin; above, every octave has `2^s` bins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bins {
    log2_per_octave: u32,
}

/// One bin per octave: the bin of a number is its length in bits.
pub(super) const OCTAVES: Bins = Bins::new(0);

impl Bins {
    pub(super) const fn new(log2_per_octave: u32) -> Self {
        Self { log2_per_octave }
    }

    /// Bin of a number.
    pub(super) fn bin(self, number: u32) -> u32 {
        let num_low_bits = self.num_low_bits_of(number);
        (num_low_bits << self.log2_per_octave) + (number >> num_low_bits)
    }

    /// Bits of a number that its bin does not determine, and how many they are.
    pub(super) fn low_bits(self, number: u32) -> (u32, u32) {
        let num_low_bits = self.num_low_bits_of(number);
        (number & ((1 << num_low_bits) - 1), num_low_bits)
    }

    /// First number of a bin, and the number of bits below it that the bin does not determine.
    pub(super) fn start(self, bin: u32) -> (u32, u32) {
        let num_low_bits = (bin >> self.log2_per_octave).saturating_sub(1);
        let leading = bin - (num_low_bits << self.log2_per_octave);
        (leading << num_low_bits, num_low_bits)
    }

    /// Number of bins for all numbers up to `largest`.
    pub(super) fn count(self, largest: u32) -> usize {
        self.bin(largest) as usize + 1
    }

    fn num_low_bits_of(self, number: u32) -> u32 {
        (u32::BITS - number.leading_zeros()).saturating_sub(self.log2_per_octave + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_numbers_have_a_bin_each_and_octaves_are_split_evenly() {
        let bins = Bins::new(1);
        let all: Vec<u32> = (0..17).map(|number| bins.bin(number)).collect();
        assert_eq!(all, [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 8]);
        assert_eq!(bins.count(16), 9);
        assert_eq!(
            [0, 1, 2, 3, 4, 7, 8].map(|number| OCTAVES.bin(number)),
            [0, 1, 2, 2, 3, 3, 4]
        );
    }

    proptest! {
        #[test]
        fn a_number_is_its_bin_and_the_bits_below(number in any::<u32>(), log2_per_octave in 0u32..6) {
            let bins = Bins::new(log2_per_octave);
            let (start, num_low_bits) = bins.start(bins.bin(number));
            let (low_bits, same) = bins.low_bits(number);
            prop_assert_eq!(num_low_bits, same);
            prop_assert_eq!(start + low_bits, number);
        }
    }
}
