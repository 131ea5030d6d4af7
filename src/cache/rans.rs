//! Numbers ↔ bytes at a length close to the entropy: range asymmetric numeral systems with static tables.
//!
//! The state is one 64-bit number. Putting a symbol of frequency `f` grows it by a factor of `2^14 / f`, taking it
//! shrinks it by the same; overflow is written in words of 32 bits. A stream is read in the opposite order of writing,
//! so the writer collects all symbols first and puts them backwards. The state begins at `2^31` and must be there again
//! when all words are read: this check alone detects most damage.
//!
//! Duda 2013, *Asymmetric numeral systems*, <https://arxiv.org/abs/1311.2540>, section 4; 64-bit state and 32-bit
//! words as in Giesen's public notes on rANS.

/// Log2 of the sum of a table's frequencies.
pub(super) const SCALE_BITS: u32 = 14;
const SCALE: u32 = 1 << SCALE_BITS;

/// Lowest state between symbols.
const LOW: u64 = 1 << 31;

/// Most bits that pass through the state at once without a table.
const MAX_RAW_BITS: u32 = 16;

/// A symbol's share of the scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    start: u32,
    freq: u32,
}

/// Static frequencies of one context. Empty if the context never occurred.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// Symbols that occur, ascending.
    symbols: Vec<u16>,
    /// Start of each symbol on the scale.
    starts: Vec<u16>,
}

/// Quarter octaves below one, times 2^28; deterministic on every machine.
const QUARTERS: [u64; 4] = [268_435_456, 225_726_413, 189_812_531, 159_612_677];

/// Odd eighths of an octave above one, times 2^28: halfway between two quarters.
const ODD_EIGHTHS: [u64; 4] = [292_730_940, 348_117_717, 413_984_066, 492_312_797];

/// Largest number of quarter octaves that a weight can be below the whole.
const MAX_QUARTERS: u8 = 100;

/// Weights of symbols from their counts, as a table stores them: 0 for a symbol that does not occur, otherwise one plus
/// the number of quarter octaves by which it is rarer than certain.
///
/// Rounding to a quarter octave costs 0.003 bits a symbol and makes a table half as long.
pub(super) fn weights(counts: &[u64]) -> Vec<u8> {
    let total: u128 = counts.iter().map(|&count| u128::from(count)).sum();
    let is_rarer = |count: u64, quarters: u8| {
        let half_above = u128::from(ODD_EIGHTHS[usize::from(quarters % 4)]) << (quarters / 4);
        (u128::from(count) * half_above) >> 28 < total
    };
    let weight = |&count: &u64| {
        if count == 0 {
            return 0;
        }
        let quarters = (0..MAX_QUARTERS).find(|&quarters| !is_rarer(count, quarters));
        quarters.unwrap_or(MAX_QUARTERS) + 1
    };
    counts.iter().map(weight).collect()
}

impl Table {
    /// Builds the table of stored weights; `None` if they are too many or out of range.
    pub(super) fn from_weights(weights: &[u8]) -> Option<Self> {
        let present = weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0);
        let mut symbols = Vec::new();
        let mut masses = Vec::new();
        for (symbol, &weight) in present {
            let quarters = weight - 1;
            if quarters > MAX_QUARTERS {
                return None;
            }
            symbols.push(u16::try_from(symbol).ok()?);
            masses.push(QUARTERS[usize::from(quarters % 4)] >> (quarters / 4));
        }
        let num_symbols = u32::try_from(symbols.len()).ok()?;
        let to_share = u64::from(SCALE.checked_sub(num_symbols)?);
        let total = masses.iter().sum::<u64>().max(1);
        let mut freqs: Vec<u64> = masses
            .iter()
            .map(|mass| 1 + mass * to_share / total)
            .collect();
        let rest = u64::from(SCALE) - freqs.iter().sum::<u64>();
        let largest = (0..freqs.len()).max_by_key(|&place| (masses[place], usize::MAX - place));
        if let Some(largest) = largest {
            freqs[largest] += rest;
        }
        let starts = freqs.iter().scan(0, |next, freq| {
            let start = *next;
            *next += freq;
            u16::try_from(start).ok()
        });
        Some(Self {
            starts: starts.collect(),
            symbols,
        })
    }

    /// Slot of a symbol; `None` if the table does not have it.
    pub(super) fn slot(&self, symbol: u32) -> Option<Slot> {
        let symbol = u16::try_from(symbol).ok()?;
        let place = self.symbols.binary_search(&symbol).ok()?;
        self.slot_at(place)
    }

    fn slot_at(&self, place: usize) -> Option<Slot> {
        let start = u32::from(*self.starts.get(place)?);
        let end = self
            .starts
            .get(place + 1)
            .map_or(SCALE, |&end| u32::from(end));
        Some(Slot {
            start,
            freq: end - start,
        })
    }
}

/// A stream that is being written: symbols are collected in reading order and put backwards.
#[derive(Debug, Default)]
pub(super) struct StreamWriter {
    /// Each step's share of the scale, and log2 of the scale.
    steps: Vec<(Slot, u32)>,
}

impl StreamWriter {
    /// Adds a symbol of a table.
    pub(super) fn put(&mut self, slot: Slot) {
        self.steps.push((slot, SCALE_BITS));
    }

    /// Adds the lowest `num_bits` bits of a number, without a table.
    pub(super) fn put_bits(&mut self, bits: u32, num_bits: u32) {
        let mut below = 0;
        while below < num_bits {
            let width = (num_bits - below).min(MAX_RAW_BITS);
            let start = (bits >> below) & ((1 << width) - 1);
            self.steps.push((Slot { start, freq: 1 }, width));
            below += width;
        }
    }

    /// The stream as little-endian words.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut state = LOW;
        let mut words = Vec::new();
        for (Slot { start, freq }, scale_bits) in self.steps.into_iter().rev() {
            let freq = u64::from(freq);
            if state >= ((LOW >> scale_bits) << 32) * freq {
                words.push(low_word(state));
                state >>= 32;
            }
            state = ((state / freq) << scale_bits) + state % freq + u64::from(start);
        }
        words.push(low_word(state));
        words.push(low_word(state >> 32));
        words
            .iter()
            .rev()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low_word(state: u64) -> u32 {
    state as u32
}

/// A stream that is being read. A stream that ends early, or a table without symbols, gives `None`.
#[derive(Debug)]
pub(super) struct StreamReader<'a> {
    state: u64,
    words: std::slice::Iter<'a, [u8; 4]>,
}

impl<'a> StreamReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<4>() else {
            return None;
        };
        let mut words = words.iter();
        let high = u64::from(u32::from_le_bytes(*words.next()?));
        let low = u64::from(u32::from_le_bytes(*words.next()?));
        let state = high << 32 | low;
        (LOW..LOW << 32)
            .contains(&state)
            .then_some(Self { state, words })
    }

    /// The next symbol, decoded with the table that it was encoded with.
    #[inline]
    pub(super) fn symbol(&mut self, table: &Table) -> Option<u32> {
        let place_on_scale = low_word(self.state) & (SCALE - 1);
        let starts = table.starts.as_slice();
        let after = starts.partition_point(|&start| u32::from(start) <= place_on_scale);
        let place = after.checked_sub(1)?;
        let Slot { start, freq } = table.slot_at(place)?;
        self.state =
            u64::from(freq) * (self.state >> SCALE_BITS) + u64::from(place_on_scale - start);
        self.refill()?;
        table.symbols.get(place).map(|&symbol| u32::from(symbol))
    }

    /// The next `num_bits` bits.
    #[inline]
    pub(super) fn bits(&mut self, num_bits: u32) -> Option<u32> {
        let (mut bits, mut below) = (0, 0);
        while below < num_bits {
            let width = (num_bits - below).min(MAX_RAW_BITS);
            bits |= (low_word(self.state) & ((1 << width) - 1)) << below;
            self.state >>= width;
            self.refill()?;
            below += width;
        }
        Some(bits)
    }

    /// True if all words are read and the state is where the writer began.
    pub(super) fn is_finished(&self) -> bool {
        self.state == LOW && self.words.as_slice().is_empty()
    }

    #[inline]
    fn refill(&mut self) -> Option<()> {
        if self.state < LOW {
            let word = u32::from_le_bytes(*self.words.next()?);
            self.state = self.state << 32 | u64::from(word);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(counts: &[u64]) -> Table {
        Table::from_weights(&weights(counts)).unwrap()
    }

    #[test]
    fn weights_are_quarter_octaves_and_frequencies_fill_the_scale() {
        assert_eq!(weights(&[8, 4, 0, 4]), [5, 9, 0, 9]);
        assert_eq!(weights(&[7]), [1]);
        let table = table(&[8, 4, 0, 4]);
        assert_eq!(table.symbols, [0, 1, 3]);
        let freqs: Vec<u32> = [0, 1, 3]
            .map(|symbol| table.slot(symbol).unwrap().freq)
            .to_vec();
        assert_eq!(freqs.iter().sum::<u32>(), SCALE);
        assert!(
            freqs[0].abs_diff(SCALE / 2) < 3 && freqs[1].abs_diff(SCALE / 4) < 3,
            "{freqs:?}"
        );
        assert!(table.slot(2).is_none());
    }

    #[test]
    fn a_stream_is_as_long_as_the_entropy_of_its_symbols() {
        let counts = [60, 25, 10, 5];
        let table = table(&counts);
        let symbols = || {
            (0..20_000_u32).map(|i| match i.wrapping_mul(2_654_435_761) % 100 {
                0..60 => 0,
                60..85 => 1,
                85..95 => 2,
                _ => 3,
            })
        };
        let mut encoder = StreamWriter::default();
        symbols().for_each(|symbol| encoder.put(table.slot(symbol).unwrap()));
        let bytes = encoder.finish();
        let entropy: f64 = counts
            .iter()
            .map(|&c| -(c as f64 / 100.0) * (c as f64 / 100.0).log2())
            .sum();
        let bits = bytes.len() as f64 * 8.0 / 20_000.0;
        assert!((bits - entropy).abs() < 0.01, "{bits} bits for {entropy}");
        let mut decoder = StreamReader::new(&bytes).unwrap();
        assert!(symbols().all(|symbol| decoder.symbol(&table) == Some(symbol)));
        assert!(decoder.is_finished());
    }

    proptest! {
        #[test]
        fn whatever_is_put_comes_back(
            counts in prop::collection::vec(0u64..1000, 1..700),
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 0u32..=32), 0..200),
        ) {
            let table = table(&counts);
            let present: Vec<u32> = (0..).zip(&counts).filter(|(_, c)| **c > 0).map(|(s, _)| s).collect();
            prop_assume!(!present.is_empty());
            let low = |bits: u32, num_bits: u32| u64::from(bits) & ((1_u64 << num_bits) - 1);
            let mut encoder = StreamWriter::default();
            for (pick, bits, num_bits) in &picks {
                encoder.put(table.slot(present[pick.index(present.len())]).unwrap());
                encoder.put_bits(*bits, *num_bits);
            }
            let bytes = encoder.finish();
            let mut decoder = StreamReader::new(&bytes).unwrap();
            for (pick, bits, num_bits) in &picks {
                prop_assert_eq!(decoder.symbol(&table), Some(present[pick.index(present.len())]));
                prop_assert_eq!(decoder.bits(*num_bits).map(u64::from), Some(low(*bits, *num_bits)));
            }
            prop_assert!(decoder.is_finished());
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200), weights in prop::collection::vec(any::<u8>(), 0..50)) {
            if let (Some(mut decoder), Some(table)) = (StreamReader::new(&bytes), Table::from_weights(&weights)) {
                for _ in 0..1000 {
                    if decoder.symbol(&table).is_none() || decoder.bits(5).is_none() {
                        break;
                    }
                }
            }
        }
    }
}
