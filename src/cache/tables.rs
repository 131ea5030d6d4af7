//! Tables for decoding a shard's streams: its ids by rank, and the frequencies of every context.
//!
//! Each shard has its own, measured on its rows. A shard therefore depends on nothing but its rows, so a capture can be
//! split, joined and extended without changing a byte.

use super::Fingerprint;
use super::bins::OCTAVES;
use super::quantize::RowCodes;
use super::rans::{StreamWriter, Table, weights};
use super::stream::StreamFields;

/// Ranks and frequencies of a shard.
#[derive(Debug)]
pub(super) struct Tables {
    fields: StreamFields,
    /// Octave, for each id, of the number of stored positions with it in their support, 0 for none; gives the ids by rank.
    octaves: Vec<u8>,
    /// Ids of the shard by rank: highest octave first, then by id.
    ids: Vec<u32>,
    weights: Vec<u8>,
    contexts: Vec<Table>,
}

impl Tables {
    /// Measures the rows of a shard.
    pub(super) fn measure<'a>(
        fingerprint: &Fingerprint,
        rows: impl Iterator<Item = &'a RowCodes> + Clone,
    ) -> Self {
        let mut counts = vec![0_u32; fingerprint.vocab_size];
        for id in rows.clone().flat_map(|row| &row.ids) {
            let count = &mut counts[*id as usize];
            *count = count.saturating_add(1);
        }
        let octave = |&count: &u32| u8::try_from(OCTAVES.bin(count)).expect("at most 32");
        let octaves: Vec<u8> = counts.iter().map(octave).collect();
        let fields = StreamFields::of(fingerprint);
        let ids = ids_by_rank(&octaves);
        let ranks = ranks_of(&ids, fingerprint.vocab_size);
        let mut counts: Vec<Vec<u64>> = fields.num_symbols().map(|num| vec![0; num]).collect();
        for row in rows {
            fields.walk(row, &row.ranks(&ranks), &mut |coded| {
                counts[coded.table][coded.bin as usize] += 1;
            });
        }
        let weights: Vec<u8> = counts.iter().flat_map(|counts| weights(counts)).collect();
        let tables = tables_of(&weights, &fields).expect("weights of counts are those of a table");
        Self {
            fields,
            octaves,
            ids,
            weights,
            contexts: tables,
        }
    }

    /// Tables as stored: octaves of all ids, then weights of all symbols, table by table.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [self.octaves.as_slice(), &self.weights].concat()
    }

    /// Reads tables from the bytes of [`to_bytes`](Self::to_bytes); `None` if the bytes are invalid.
    pub(super) fn from_bytes(bytes: &[u8], fingerprint: &Fingerprint) -> Option<Self> {
        let fields = StreamFields::of(fingerprint);
        let (octaves, weights) = bytes.split_at_checked(fingerprint.vocab_size)?;
        if octaves.iter().any(|&octave| u32::from(octave) > u32::BITS) {
            return None;
        }
        Some(Self {
            contexts: tables_of(weights, &fields)?,
            ids: ids_by_rank(octaves),
            octaves: Vec::new(), // only the writer needs them
            weights: Vec::new(),
            fields,
        })
    }

    /// Encodes a row of this shard as a stream.
    pub(super) fn encode(&self, row: &RowCodes, ranks: &[u32]) -> Vec<u8> {
        let mut stream = StreamWriter::default();
        self.fields.walk(row, &row.ranks(ranks), &mut |coded| {
            let put = coded.put(&self.contexts, &mut stream);
            put.expect("tables were measured on this very row");
        });
        stream.finish()
    }

    /// Decodes the row of a stream; `None` if the stream is not one of so many positions from this shard.
    pub(super) fn decode(&self, stream: &[u8], num_positions: usize) -> Option<RowCodes> {
        let contexts = &self.contexts;
        self.fields
            .decode(stream, num_positions, &self.ids, contexts)
    }

    /// Rank of every id; the ranks of ids that do not occur are meaningless.
    pub(super) fn ranks(&self) -> Vec<u32> {
        ranks_of(&self.ids, self.octaves.len())
    }
}

impl RowCodes {
    fn ranks(&self, ranks: &[u32]) -> Vec<u32> {
        self.ids.iter().map(|&id| ranks[id as usize]).collect()
    }
}

fn ids_by_rank(octaves: &[u8]) -> Vec<u32> {
    let mut ids: Vec<(u8, u32)> = octaves
        .iter()
        .copied()
        .zip(0..)
        .filter(|(octave, _)| *octave > 0)
        .collect();
    ids.sort_by_key(|(octave, _)| u8::MAX - octave);
    ids.into_iter().map(|(_, id)| id).collect()
}

fn ranks_of(ids: &[u32], vocab_size: usize) -> Vec<u32> {
    let mut ranks = vec![0; vocab_size];
    for (&id, rank) in ids.iter().zip(0..) {
        ranks[id as usize] = rank;
    }
    ranks
}

fn tables_of(mut weights: &[u8], fields: &StreamFields) -> Option<Vec<Table>> {
    let mut tables = Vec::new();
    for num_symbols in fields.num_symbols() {
        let (own, rest) = weights.split_at_checked(num_symbols)?;
        tables.push(Table::from_weights(own)?);
        weights = rest;
    }
    weights.is_empty().then_some(tables)
}
