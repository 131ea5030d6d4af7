//! Rows ↔ the columns of a shard. The table of columns is in `docs/formats.md`.

use std::iter;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, PrimitiveBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, PrimitiveArray, RecordBatch, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::Fingerprint;
use super::manifest::{later_starts, tokens_hash};
use super::quantize::{RowCodes, quantize};
use crate::cache::SupportPlan;
use crate::data::{LossMask, PositionSpan, Sequence};
use crate::support::{CountedRow, LogSumExps, SampledSupports, Supports, TopKSupports};

/// Names of the columns, in order.
pub(super) mod column {
    pub(crate) const ROW_IDX: &str = "row_idx";
    pub(crate) const COUNTED: &str = "counted";
    pub(crate) const TOKENS_HASH: &str = "tokens_blake3";
    pub(crate) const STARTS: &str = "starts";
    pub(crate) const TOKENS: &str = "tokens";
    pub(crate) const TABLES: &str = "tables";
    pub(crate) const SUPPORTS: &str = "supports";
}

/// Key of the fingerprint in the footer of a shard.
pub(super) const FINGERPRINT: &str = "fingerprint";

/// Bytes of the hash over a row's tokens.
const TOKENS_HASH_BYTES: i32 = 32;

/// Rows of a page of supports: a reader of one row reads this many.
const ROWS_PER_PAGE: usize = 16;

/// Largest page of the other columns. What is compressed together is smaller, and their readers want most of the rows.
const PAGE_BYTES: usize = 1 << 20;

/// Largest excess of a support's probability over one; generous for the rounding of a teacher's f32 softmax.
const MASS_TOLERANCE: f64 = 1e-3;

/// Most spans that a message names.
const MAX_TOLD: usize = 4;

/// A row as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredRow {
    pub(super) tokens: Vec<u32>,
    /// Positions at which its documents begin.
    pub(super) starts: Vec<u32>,
    /// Positions that count.
    pub(super) spans: Vec<PositionSpan>,
    /// Supports of the positions that count.
    pub(super) codes: RowCodes,
}

impl StoredRow {
    pub(super) fn sequence(&self) -> Sequence<'_> {
        Sequence::packed(&self.tokens, &self.starts)
    }

    pub(super) fn mask(&self) -> LossMask<'_> {
        LossMask::checked(&self.spans)
    }
}

/// Arrow schema of a shard; nothing in it is nullable.
pub(super) fn schema() -> SchemaRef {
    let hash = DataType::FixedSizeBinary(TOKENS_HASH_BYTES);
    let tokens = DataType::List(item(DataType::UInt32));
    let (bounds, starts) = (tokens.clone(), tokens.clone());
    Arc::new(Schema::new(vec![
        Field::new(column::ROW_IDX, DataType::UInt64, false),
        Field::new(column::COUNTED, bounds, false),
        Field::new(column::TOKENS_HASH, hash, false),
        Field::new(column::STARTS, starts, false),
        Field::new(column::TOKENS, tokens, false),
        Field::new(column::TABLES, DataType::Binary, false),
        Field::new(column::SUPPORTS, DataType::Binary, false),
    ]))
}

/// The fingerprint as text for the footer of a shard.
pub(super) fn fingerprint_text(fingerprint: &Fingerprint) -> String {
    serde_json::to_string(fingerprint).expect("a fingerprint is a struct of strings and numbers")
}

/// Parquet settings for shards. No time, host or library version, so that the same rows give the same bytes.
pub(super) fn writer_properties(
    fingerprint: &Fingerprint,
) -> Result<WriterProperties, ParquetError> {
    let path =
        |names: &[&str]| ColumnPath::new(names.iter().map(|&name| name.to_owned()).collect());
    Ok(WriterProperties::builder()
        .set_created_by("alambic".to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new(
            FINGERPRINT.to_owned(),
            fingerprint_text(fingerprint),
        )]))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(19)?))
        .set_column_compression(path(&[column::SUPPORTS]), Compression::UNCOMPRESSED) // already entropy-coded
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(usize::MAX)
        .set_column_data_page_row_count_limit(path(&[column::SUPPORTS]), ROWS_PER_PAGE)
        .set_max_row_group_row_count(None)
        .build())
}

/// Converts a row for storage, or says why it cannot be stored.
pub(super) fn store(
    row: CountedRow<'_>,
    supports: &Supports,
    fingerprint: &Fingerprint,
) -> Result<StoredRow, String> {
    let CountedRow { sequence, mask } = row;
    check_tokens(sequence.tokens(), fingerprint)?;
    check_spans(mask.spans(), fingerprint)?;
    match supports {
        Supports::TopK(top_k) => {
            check_top_k(top_k, mask.count(), fingerprint)?;
            check_mass(top_k)?;
        }
        Supports::Samples(samples) => check_samples(samples, mask.count(), fingerprint)?,
    }
    Ok(StoredRow {
        tokens: sequence.tokens().to_vec(),
        starts: iter::once(0).chain(later_starts(sequence)).collect(),
        spans: mask.spans().to_vec(),
        codes: quantize(supports),
    })
}

/// One row as a record batch. `tables` is empty except in the first row of a shard.
pub(super) fn encode(
    row_idx: usize,
    row: &StoredRow,
    tables: &[u8],
    supports: &[u8],
) -> Result<RecordBatch, String> {
    let hash = tokens_hash(row.sequence());
    let hash = FixedSizeBinaryArray::try_from_iter(iter::once(hash));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values([row_idx as u64])),
        list_of::<UInt32Type>(row.spans.iter().flat_map(|span| [span.start, span.end])),
        Arc::new(hash.map_err(|error| error.to_string())?),
        list_of::<UInt32Type>(later_starts(row.sequence())),
        list_of::<UInt32Type>(row.tokens.iter().copied()),
        Arc::new(BinaryArray::from_iter_values([tables])),
        Arc::new(BinaryArray::from_iter_values([supports])),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|error| error.to_string())
}

/// Row index and hash of the tokens, from a batch of one row.
pub(super) fn decode_key(batch: &RecordBatch) -> Result<(u64, &[u8]), String> {
    let hash = column_of(batch, column::TOKENS_HASH)?
        .as_fixed_size_binary_opt()
        .ok_or("a token hash is not bytes")?;
    let row_idx = value_of::<UInt64Type>(batch, column::ROW_IDX)?;
    Ok((row_idx, hash.value(0)))
}

/// Tokens and the positions at which documents begin, from a batch of one row.
pub(super) fn decode_tokens(
    batch: &RecordBatch,
    fingerprint: &Fingerprint,
) -> Result<(Vec<u32>, Vec<u32>), String> {
    let tokens = values_of::<UInt32Type>(batch, column::TOKENS)?;
    let tokens = tokens.values().to_vec();
    check_tokens(&tokens, fingerprint)?;
    let later = values_of::<UInt32Type>(batch, column::STARTS)?;
    let starts: Vec<u32> = iter::once(0)
        .chain(later.values().iter().copied())
        .collect();
    if !Sequence::are_starts(&starts, tokens.len()) {
        let starts: Vec<String> = starts.iter().take(MAX_TOLD).map(u32::to_string).collect();
        return Err(format!(
            "documents begin at {} of {} tokens",
            starts.join(", "),
            tokens.len()
        ));
    }
    Ok((tokens, starts))
}

/// Spans of the positions that count, from a batch of one row.
pub(super) fn decode_spans(
    batch: &RecordBatch,
    fingerprint: &Fingerprint,
) -> Result<Vec<PositionSpan>, String> {
    let bounds = values_of::<UInt32Type>(batch, column::COUNTED)?;
    let (pairs, []) = bounds.values().as_chunks::<2>() else {
        return Err("bounds of positions that count do not come in pairs".to_owned());
    };
    let spans: Vec<PositionSpan> = pairs
        .iter()
        .map(|&[start, end]| PositionSpan { start, end })
        .collect();
    check_spans(&spans, fingerprint)?;
    Ok(spans)
}

/// Bytes of a binary column, from a batch of one row.
pub(super) fn decode_bytes<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b [u8], String> {
    let column = column_of(batch, name)?.as_binary_opt::<i32>();
    let column = column.ok_or_else(|| format!("column `{name}` holds no bytes"))?;
    Ok(column.value(0))
}

fn check_tokens(tokens: &[u32], fingerprint: &Fingerprint) -> Result<(), String> {
    same_length("tokens", tokens.len(), fingerprint.sequence_length + 1)?;
    let vocab_size = fingerprint.vocab_size;
    match tokens.iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(format!("token {token} in a vocabulary of {vocab_size}")),
        None => Ok(()),
    }
}

fn check_spans(spans: &[PositionSpan], fingerprint: &Fingerprint) -> Result<(), String> {
    let positions = fingerprint.sequence_length;
    if LossMask::new(spans, positions).is_none() {
        let bounds = spans
            .iter()
            .map(|span| format!("{}..{}", span.start, span.end));
        let bounds: Vec<String> = bounds.take(MAX_TOLD).collect();
        return Err(format!(
            "counts the positions {} of {positions}",
            bounds.join(", ")
        ));
    }
    Ok(())
}

fn check_top_k(
    supports: &TopKSupports,
    num_positions: usize,
    fingerprint: &Fingerprint,
) -> Result<(), String> {
    let SupportPlan::TopK(top_k) = fingerprint.support else {
        return Err("top-k ids instead of samples".to_owned());
    };
    let entries = num_positions * top_k;
    same_length("ids per position", supports.top_k, top_k)?;
    same_length("ids", supports.ids.len(), entries)?;
    same_length("log-probabilities", supports.log_probs.len(), entries)?;
    let num_temperatures = fingerprint.temperatures.len();
    same_length("temperatures", supports.lse.len(), num_temperatures)?;
    for (lse, declared) in supports.lse.iter().zip(&fingerprint.temperatures) {
        let (got, values) = (lse.temperature, &lse.of_positions);
        if got.to_bits() != declared.to_bits() {
            return Err(format!("log-sum-exps at {got} instead of {declared}"));
        }
        same_length("log-sum-exps", values.len(), num_positions)?;
        if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
            return Err(format!("a log-sum-exp of {bad}"));
        }
    }
    for (position, ids) in supports.ids.chunks_exact(top_k).enumerate() {
        check_ids(position, ids, fingerprint)?;
    }
    Ok(())
}

fn check_samples(
    supports: &SampledSupports,
    num_positions: usize,
    fingerprint: &Fingerprint,
) -> Result<(), String> {
    let SupportPlan::Samples { num_draws, .. } = fingerprint.support else {
        return Err("samples instead of top-k ids".to_owned());
    };
    same_length("positions", supports.num_ids.len(), num_positions)?;
    same_length("entropies", supports.entropies.len(), num_positions)?;
    same_length("counts", supports.counts.len(), supports.ids.len())?;
    let largest = (fingerprint.vocab_size as f64).ln() + MASS_TOLERANCE;
    let is_outside = |entropy: &&f32| !(-MASS_TOLERANCE..=largest).contains(&f64::from(**entropy));
    if let Some(bad) = supports.entropies.iter().find(is_outside) {
        return Err(format!("an entropy of {bad}"));
    }
    for (position, range) in supports.ranges().enumerate() {
        let ids = supports.ids.get(range.clone());
        let counts = supports.counts.get(range);
        let (Some(ids), Some(counts)) = (ids, counts) else {
            return Err(format!("no ids for position {position}"));
        };
        check_ids(position, ids, fingerprint)?;
        let drawn: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if drawn != num_draws as u64 || counts.contains(&0) {
            return Err(format!(
                "{drawn} draws at position {position} instead of {num_draws}"
            ));
        }
    }
    same_length(
        "ids",
        supports.ids.len(),
        supports.num_ids.iter().map(|&n| n as usize).sum(),
    )
}

fn check_ids(position: usize, ids: &[u32], fingerprint: &Fingerprint) -> Result<(), String> {
    if !ids.is_sorted_by(|before, after| before < after) {
        return Err(format!("token ids of position {position} do not ascend"));
    }
    let vocab_size = fingerprint.vocab_size;
    match ids.last().filter(|id| **id as usize >= vocab_size) {
        Some(last) => Err(format!("token {last} in a vocabulary of {vocab_size}")),
        None => Ok(()),
    }
}

/// Checks that no position has a probability above one, at any temperature: this detects a teacher whose
/// log-probabilities and log-sum-exps do not match, before it is cached.
fn check_mass(supports: &TopKSupports) -> Result<(), String> {
    for LogSumExps { temperature, .. } in &supports.lse {
        for (position, support) in supports.positions().enumerate() {
            let mass = support.mass(*temperature);
            let above_one = support.log_probs.iter().any(|log_prob| *log_prob > 1e-3);
            if mass.is_nan() || mass <= 0.0 || mass > 1.0 + MASS_TOLERANCE || above_one {
                return Err(format!(
                    "position {position} holds a probability of {mass} at temperature {temperature}"
                ));
            }
        }
    }
    Ok(())
}

fn same_length(what: &str, got: usize, want: usize) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    Err(format!("{got} {what} instead of {want}"))
}

/// Field of a list's entries.
fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type, false))
}

fn list_of<T: ArrowPrimitiveType>(values: impl Iterator<Item = T::Native>) -> ArrayRef {
    let values_builder = PrimitiveBuilder::<T>::new();
    let mut builder = ListBuilder::new(values_builder).with_field(item(T::DATA_TYPE));
    builder.append_value(values.map(Some));
    Arc::new(builder.finish())
}

fn column_of<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, String> {
    let column = batch
        .column_by_name(name)
        .filter(|column| column.len() == 1);
    column.ok_or_else(|| format!("no single value in column `{name}`"))
}

fn value_of<T: ArrowPrimitiveType>(batch: &RecordBatch, name: &str) -> Result<T::Native, String> {
    let column = column_of(batch, name)?.as_primitive_opt::<T>();
    let column = column.ok_or_else(|| format!("column `{name}` is not {}", T::DATA_TYPE))?;
    Ok(column.value(0))
}

fn values_of<T: ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
) -> Result<PrimitiveArray<T>, String> {
    let list = column_of(batch, name)?.as_list_opt::<i32>();
    let values = list.map(|list| list.value(0));
    let values = values
        .as_ref()
        .and_then(|values| values.as_primitive_opt::<T>());
    values
        .cloned()
        .ok_or_else(|| format!("column `{name}` is not a list of {}", T::DATA_TYPE))
}
