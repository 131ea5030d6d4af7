//! Integers of a row ↔ a stream, coded with the tables of its shard.
//!
//! Ids of a position are coded as distances between ascending *ranks*, each with its weight (a level or a count). A
//! rank is an id's place among the ids of the shard, ordered by how often they occur in supports, so most distances are
//! small. Their bins are coded by context: the octave of the previous rank and of the number still to come. A position
//! of samples ends when its counts are complete; the number of ids is not stored.

use super::Fingerprint;
use super::bins::{Bins, OCTAVES};
use super::quantize::{
    LARGEST_ENTROPY, LOWEST_LEVEL, NO_TAIL, RowCodes, less_one, tail_temperatures,
};
use super::rans::{StreamReader, StreamWriter, Table};
use crate::cache::SupportPlan;

/// Bins of the distance from one rank to the next, less one.
const GAPS: Bins = Bins::new(1);

/// Bins of the number of ids or samples still to come.
const LEFT: Bins = Bins::new(1);

/// Bins of levels, counted upwards from the lowest of the position.
const LEVELS: Bins = Bins::new(3);

/// Bins of the lowest level of a position.
const DEPTHS: Bins = Bins::new(4);

/// Bins of counts.
const COUNTS: Bins = Bins::new(2);

/// Contexts of a level by the lowest level of its position.
const DEPTH_CONTEXTS: usize = 8;

/// Levels, 1.5 nats, by which the lowest levels of two contexts differ.
const DEPTH_STEP: u32 = 48;

/// No bins: every number is a symbol.
const PLAIN: Bins = Bins::new(15);

/// One kind of number: its bins and its contexts, each with its own table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    bins: Bins,
    largest: u32,
    first_table: usize,
    num_tables: usize,
}

/// Kinds of numbers in the streams of a cache.
#[derive(Debug, Clone)]
pub(super) struct StreamFields {
    gaps: Field,
    weights: Field,
    /// Lowest level of a position; unused for samples.
    depths: Field,
    /// Codes of the tail at each temperature, or of the entropy.
    masses: Field,
    left_contexts: usize,
    per_position: PerPosition,
}

#[derive(Debug, Clone, Copy)]
enum PerPosition {
    TopK { top_k: u32, num_tails: usize },
    Samples { samples: u32 },
}

/// A number of a stream and the table of its bin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coded {
    pub(super) table: usize,
    pub(super) bin: u32,
    low_bits: u32,
    pub(super) num_low_bits: u32,
}

impl Field {
    fn coded(&self, context: usize, number: u32) -> Coded {
        let (low_bits, num_low_bits) = self.bins.low_bits(number);
        Coded {
            table: self.first_table + context,
            bin: self.bins.bin(number),
            low_bits,
            num_low_bits,
        }
    }

    #[inline]
    fn decode(&self, context: usize, tables: &[Table], from: &mut StreamReader<'_>) -> Option<u32> {
        let bin = from.symbol(tables.get(self.first_table + context)?)?;
        let (start, num_low_bits) = self.bins.start(bin);
        let number = start + from.bits(num_low_bits)?;
        (number <= self.largest).then_some(number)
    }

    fn num_symbols(&self) -> usize {
        self.bins.count(self.largest)
    }
}

impl StreamFields {
    pub(super) fn of(fingerprint: &Fingerprint) -> Self {
        let size = |size: usize| u32::try_from(size).expect("sizes of a fingerprint are checked");
        let largest_gap = size(fingerprint.vocab_size) - 1;
        let rank_contexts = OCTAVES.count(largest_gap + 1);
        let mut num_tables = 0;
        let mut field = |bins, largest, contexts: usize| {
            let first_table = num_tables;
            num_tables += contexts;
            Field {
                bins,
                largest,
                first_table,
                num_tables: contexts,
            }
        };
        let (left, per_position) = match fingerprint.support {
            SupportPlan::TopK(top_k) => {
                let num_tails = tail_temperatures(&fingerprint.temperatures).len();
                let top_k = size(top_k);
                (top_k, PerPosition::TopK { top_k, num_tails })
            }
            SupportPlan::Samples { num_draws, .. } => {
                let samples = size(num_draws);
                (samples, PerPosition::Samples { samples })
            }
        };
        let left_contexts = LEFT.count(left);
        let gaps = field(GAPS, largest_gap, rank_contexts * left_contexts);
        let (weights, depths, masses) = match per_position {
            PerPosition::TopK { num_tails, .. } => (
                field(
                    LEVELS,
                    u32::from(LOWEST_LEVEL),
                    rank_contexts * DEPTH_CONTEXTS,
                ),
                field(DEPTHS, u32::from(LOWEST_LEVEL), 1),
                field(PLAIN, u32::from(NO_TAIL), num_tails),
            ),
            PerPosition::Samples { samples } => (
                field(COUNTS, samples, rank_contexts * left_contexts),
                field(DEPTHS, 0, 0),
                field(PLAIN, u32::from(LARGEST_ENTROPY), left_contexts),
            ),
        };
        Self {
            gaps,
            weights,
            depths,
            masses,
            left_contexts,
            per_position,
        }
    }

    /// Number of symbols of every table, in the order of the tables.
    pub(super) fn num_symbols(&self) -> impl Iterator<Item = usize> {
        let fields = [self.gaps, self.weights, self.depths, self.masses];
        fields
            .into_iter()
            .flat_map(|field| std::iter::repeat_n(field.num_symbols(), field.num_tables))
    }

    /// Context after a rank: `next` is the least rank that can follow, `left` the number still to come.
    #[inline]
    fn context(&self, next: u32, left: u32) -> usize {
        OCTAVES.bin(next) as usize * self.left_contexts + LEFT.bin(left) as usize
    }

    /// Passes every number of a row to `visit`, in the order of the stream. `ranks` are the ranks of the row's ids.
    pub(super) fn walk(&self, codes: &RowCodes, ranks: &[u32], visit: &mut impl FnMut(Coded)) {
        match self.per_position {
            PerPosition::TopK { top_k, num_tails } => {
                self.walk_top_k(codes, ranks, (top_k, num_tails), visit);
            }
            PerPosition::Samples { samples } => self.walk_samples(codes, ranks, samples, visit),
        }
    }

    fn walk_top_k(
        &self,
        codes: &RowCodes,
        ranks: &[u32],
        (top_k, num_tails): (u32, usize),
        visit: &mut impl FnMut(Coded),
    ) {
        let positions = ranks.chunks_exact(top_k as usize);
        let positions = positions.zip(codes.weights.chunks_exact(top_k as usize));
        for ((ranks, levels), tails) in positions.zip(codes.masses.chunks_exact(num_tails)) {
            for (context, &tail) in tails.iter().enumerate() {
                visit(self.masses.coded(context, u32::from(tail)));
            }
            let depth = u32::from(levels.iter().copied().max().unwrap_or(0));
            visit(self.depths.coded(0, depth));
            let entries = ranks.iter().copied().zip(levels.iter().copied());
            let (mut next, mut left) = (0, top_k);
            for (rank, level) in ascending(entries) {
                visit(self.gaps.coded(self.context(next, left), rank - next));
                let context = level_context(rank, depth);
                visit(self.weights.coded(context, depth - u32::from(level)));
                (next, left) = (rank + 1, left - 1);
            }
        }
    }

    fn walk_samples(
        &self,
        codes: &RowCodes,
        ranks: &[u32],
        samples: u32,
        visit: &mut impl FnMut(Coded),
    ) {
        let mut start = 0;
        for (&num_ids, &entropy) in codes.num_ids.iter().zip(&codes.masses) {
            let range = start..start + num_ids as usize;
            start = range.end;
            let entries = ranks[range.clone()].iter().copied();
            let counts = codes.weights[range].iter();
            let entries = entries.zip(counts.map(|&weight| u32::from(weight) + 1));
            let (mut next, mut left) = (0, samples);
            for (rank, count) in ascending(entries) {
                let context = self.context(next, left);
                visit(self.gaps.coded(context, rank - next));
                let context = self.context(rank, left);
                visit(self.weights.coded(context, count));
                (next, left) = (rank + 1, left - count);
            }
            let context = LEFT.bin(num_ids) as usize;
            visit(self.masses.coded(context, u32::from(entropy)));
        }
    }

    /// Decodes the row of a stream; `None` if the stream is not one that [`walk`](Self::walk) makes of so many positions.
    /// `ids` are the shard's ids by rank.
    pub(super) fn decode(
        &self,
        bytes: &[u8],
        num_positions: usize,
        ids: &[u32],
        tables: &[Table],
    ) -> Option<RowCodes> {
        let mut from = StreamReader::new(bytes)?;
        let mut codes = RowCodes::default();
        let mut entries = Vec::new();
        for _ in 0..num_positions {
            let position = (&mut codes, &mut entries);
            match self.per_position {
                PerPosition::TopK { top_k, num_tails } => {
                    self.decode_top_k(&mut from, ids, tables, (top_k, num_tails), position)?;
                }
                PerPosition::Samples { samples } => {
                    self.decode_samples(&mut from, ids, tables, samples, position)?;
                }
            }
        }
        from.is_finished().then_some(codes)
    }

    /// Adds the next position; `entries` are empty before and after.
    fn decode_top_k(
        &self,
        from: &mut StreamReader<'_>,
        ids: &[u32],
        tables: &[Table],
        (top_k, num_tails): (u32, usize),
        (codes, entries): (&mut RowCodes, &mut Vec<u64>),
    ) -> Option<()> {
        for context in 0..num_tails {
            let tail = self.masses.decode(context, tables, from)?;
            codes.masses.push(u16::try_from(tail).ok()?);
        }
        let depth = self.depths.decode(0, tables, from)?;
        let mut next = 0;
        for left in (1..=top_k).rev() {
            let rank = self.decode_rank(from, tables, next, left)?;
            let context = level_context(rank, depth);
            let above = self.weights.decode(context, tables, from)?;
            entries.push(packed(*ids.get(rank as usize)?, depth.checked_sub(above)?));
            next = rank + 1;
        }
        entries.sort_unstable();
        for (id, level) in entries.drain(..).map(unpacked) {
            codes.ids.push(id);
            codes.weights.push(u16::try_from(level).ok()?);
        }
        Some(())
    }

    /// Same as [`decode_top_k`](Self::decode_top_k), for samples.
    fn decode_samples(
        &self,
        from: &mut StreamReader<'_>,
        ids: &[u32],
        tables: &[Table],
        samples: u32,
        (codes, entries): (&mut RowCodes, &mut Vec<u64>),
    ) -> Option<()> {
        let (mut next, mut left) = (0, samples);
        while left > 0 {
            let rank = self.decode_rank(from, tables, next, left)?;
            let context = self.context(rank, left);
            let count = self.weights.decode(context, tables, from)?;
            if count == 0 {
                return None;
            }
            entries.push(packed(*ids.get(rank as usize)?, count));
            next = rank + 1;
            left = left.checked_sub(count)?;
        }
        let num_ids = u32::try_from(entries.len()).ok()?;
        let entropy = self
            .masses
            .decode(LEFT.bin(num_ids) as usize, tables, from)?;
        codes.num_ids.push(num_ids);
        codes.masses.push(u16::try_from(entropy).ok()?);
        entries.sort_unstable();
        for (id, count) in entries.drain(..).map(unpacked) {
            codes.ids.push(id);
            codes.weights.push(less_one(count));
        }
        Some(())
    }

    #[inline]
    fn decode_rank(
        &self,
        from: &mut StreamReader<'_>,
        tables: &[Table],
        next: u32,
        left: u32,
    ) -> Option<u32> {
        let gap = self.gaps.decode(self.context(next, left), tables, from)?;
        let rank = next.checked_add(gap)?;
        (rank <= self.gaps.largest).then_some(rank)
    }
}

impl Coded {
    /// Puts the number on a stream; `None` if its table does not have its bin.
    pub(super) fn put(self, tables: &[Table], to: &mut StreamWriter) -> Option<()> {
        to.put(tables.get(self.table)?.slot(self.bin)?);
        to.put_bits(self.low_bits, self.num_low_bits);
        Some(())
    }
}

/// Context of a level: how often its id occurs, and the lowest level of the position, which tells how far levels spread.
#[inline]
fn level_context(rank: u32, depth: u32) -> usize {
    let spread = (depth / DEPTH_STEP) as usize;
    OCTAVES.bin(rank) as usize * DEPTH_CONTEXTS + spread.min(DEPTH_CONTEXTS - 1)
}

/// An id and its weight as one number, which sorts by id.
fn packed(id: u32, weight: u32) -> u64 {
    u64::from(id) << 32 | u64::from(weight)
}

fn unpacked(entry: u64) -> (u32, u32) {
    let [id, weight] = [entry >> 32, entry & u64::from(u32::MAX)];
    let half = |half: u64| u32::try_from(half).expect("32 bits were put in");
    (half(id), half(weight))
}

/// Entries of a position by ascending rank.
fn ascending<T: Copy>(entries: impl Iterator<Item = (u32, T)>) -> Vec<(u32, T)> {
    let mut entries: Vec<(u32, T)> = entries.collect();
    entries.sort_unstable_by_key(|(rank, _)| *rank);
    entries
}
