//! Columns of Arrow to rows.
//!
//! What is null is absent, at every depth: files of columns give every row each key that any row has.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field as ArrowField, Fields, Schema};
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::collected::FileRows;
use super::fault::{FaultKind, FieldNames, shown};
use super::rows::{Column, Layout, Outcome};
use super::turns::twice;
use super::unique;

/// Most levels of lists and structs in a column.
const MAX_DEPTH: usize = 60;

/// Value of a row; null where there is none.
type Cell<'a> = Box<dyn Fn(usize) -> Result<Value, FaultKind> + Send + Sync + 'a>;

/// Chooses the layout by the names of a schema, and returns the indices of the columns that are read.
pub(super) fn choose(schema: &Schema, rows: &mut FileRows<'_>) -> Result<Vec<usize>, FaultKind> {
    let index_of = |name: &str| {
        let mut fields = schema.fields().iter();
        fields.position(|field| field.name() == name)
    };
    let mut names = FieldNames::default();
    for field in schema.fields() {
        names.add(field.name());
    }
    if rows.layout.is_none() {
        let has = |name: &str| {
            index_of(name).is_some_and(|index| *schema.field(index).data_type() != DataType::Null)
        };
        rows.find_layout(has)?;
    }
    let Some(layout) = rows.layout.as_ref() else {
        return Err(FaultKind::NoColumn { fields: names });
    };
    let lacks = |column: &&Column| column.is_required && index_of(&column.name).is_none();
    if let Some(column) = layout.columns.iter().find(lacks) {
        return Err(FaultKind::Choice(format!(
            "no column `{}`{}",
            shown(&column.name),
            names.told("; it has ")
        )));
    }
    let read = layout.columns.iter();
    let mut indices: Vec<_> = read.filter_map(|column| index_of(&column.name)).collect();
    indices.sort_unstable();
    indices.dedup();
    for index in &indices {
        let name = schema.field(*index).name();
        if schema
            .fields()
            .iter()
            .filter(|field| field.name() == name)
            .count()
            > 1
        {
            return Err(FaultKind::Choice(format!(
                "has several columns `{}`, and which one is meant is not known",
                shown(name)
            )));
        }
    }
    Ok(indices)
}

/// Hands on the rows of a batch, of which the first has this number.
pub(super) fn read(
    batch: &RecordBatch,
    first_row: usize,
    rows: &mut FileRows<'_>,
) -> Result<(), FaultKind> {
    let Some(layout) = rows.layout.clone() else {
        return Ok(());
    };
    let mut cells = Vec::new();
    for column in &layout.columns {
        let found = batch.schema_ref().index_of(&column.name).ok();
        cells.push(match found {
            None => None,
            Some(index) => Some(cell(
                batch.column(index).as_ref(),
                batch.schema_ref().field(index),
                &column.name,
                0,
            )?),
        });
    }
    let outcomes: Vec<_> = (0..batch.num_rows())
        .into_par_iter()
        .with_min_len(16)
        .map(|row| outcome(&layout, &cells, row))
        .collect();
    for (row, outcome) in outcomes.into_iter().enumerate() {
        rows.add(first_row + row, outcome);
    }
    Ok(())
}

fn outcome(layout: &Layout, cells: &[Option<Cell<'_>>], row: usize) -> Outcome {
    let value = |cell: &Option<Cell<'_>>| cell.as_ref().map_or(Ok(Value::Null), |cell| cell(row));
    let values: Result<Vec<_>, _> = cells.iter().map(value).collect();
    layout.content(values?)
}

/// Memory of the values of a batch, in bytes, without what its buffers hold for others.
pub(super) fn size_of(batch: &RecordBatch) -> u64 {
    let sizes = batch.columns().iter().map(|column| {
        let size = column.to_data().get_slice_memory_size();
        size.unwrap_or_default() as u64
    });
    sizes.sum()
}

/// Reader of the values of an array. `path` is its place in the row, for messages.
fn cell<'a>(
    array: &'a dyn Array,
    field: &ArrowField,
    path: &str,
    depth: usize,
) -> Result<Cell<'a>, FaultKind> {
    macro_rules! number {
        ($kind:ty) => {{
            let array = array.as_primitive::<$kind>();
            non_null(array, move |row| Ok(array.value(row).into()))
        }};
    }
    macro_rules! text {
        ($array:expr) => {{
            let array = $array;
            if is_json(field) {
                let path = path.to_owned();
                non_null(array, move |row| json(array.value(row), &path))
            } else {
                non_null(array, move |row| Ok(array.value(row).into()))
            }
        }};
    }
    if depth > MAX_DEPTH {
        return Err(FaultKind::Choice(format!(
            "column `{path}` is more than {MAX_DEPTH} levels deep"
        )));
    }
    Ok(match array.data_type() {
        DataType::Null => Box::new(|_| Ok(Value::Null)),
        DataType::Boolean => {
            let array = array.as_boolean();
            non_null(array, move |row| Ok(array.value(row).into()))
        }
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => {
            let array = array.as_primitive::<Float16Type>();
            non_null(array, move |row| Ok(array.value(row).to_f64().into()))
        }
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => text!(array.as_string::<i32>()),
        DataType::LargeUtf8 => text!(array.as_string::<i64>()),
        DataType::Utf8View => text!(array.as_string_view()),
        _ => nested(array, field, path, depth)?,
    })
}

/// Reader of the values of an array that has other arrays inside.
fn nested<'a>(
    array: &'a dyn Array,
    field: &ArrowField,
    path: &str,
    depth: usize,
) -> Result<Cell<'a>, FaultKind> {
    macro_rules! list {
        ($array:expr, $item:expr) => {{
            let array = $array;
            let offsets = array.value_offsets();
            let item = cell(array.values().as_ref(), $item, path, depth + 1)?;
            non_null(array, move |row| {
                let bound = |row: usize| offsets.get(row).and_then(|at| usize::try_from(*at).ok());
                let (Some(begin), Some(end)) = (bound(row), bound(row + 1)) else {
                    return Ok(Value::Null);
                };
                (begin..end).map(&item).collect()
            })
        }};
    }
    Ok(match array.data_type() {
        DataType::List(item) => list!(array.as_list::<i32>(), item),
        DataType::LargeList(item) => list!(array.as_list::<i64>(), item),
        DataType::FixedSizeList(item, _) => {
            let array = array.as_fixed_size_list();
            let item = cell(array.values().as_ref(), item, path, depth + 1)?;
            let len = usize::try_from(array.value_length()).unwrap_or_default();
            non_null(array, move |row| {
                (row * len..(row + 1) * len).map(&item).collect()
            })
        }
        DataType::Struct(fields) => object(array, fields, path, depth)?,
        DataType::Map(entries, _) => map(array, entries, path, depth)?,
        DataType::Dictionary(..) => {
            let array = array.as_any_dictionary();
            let values = array.values().as_ref();
            if values.is_empty() {
                return Ok(Box::new(|_| Ok(Value::Null)));
            }
            let keys = array.normalized_keys();
            let (keys_array, len) = (array.keys(), values.len());
            let value = cell(values, field, path, depth + 1)?;
            non_null(keys_array, move |row| match keys.get(row) {
                Some(key) if *key < len => value(*key),
                _ => Ok(Value::Null),
            })
        }
        other => {
            return Err(FaultKind::Choice(format!(
                "column `{path}` holds {}, which no row of text or messages can have; write it as text, or leave it out",
                shown(&other.to_string())
            )));
        }
    })
}

/// Reader of a struct, of which what is null is left out.
fn object<'a>(
    array: &'a dyn Array,
    fields: &Fields,
    path: &str,
    depth: usize,
) -> Result<Cell<'a>, FaultKind> {
    let array = array.as_struct();
    let mut cells = Vec::with_capacity(fields.len());
    for (field, column) in fields.iter().zip(array.columns()) {
        let is_same = |(name, _): &(String, Cell<'_>)| name == field.name();
        if cells.iter().any(is_same) {
            return Err(FaultKind::Choice(format!(
                "in column `{path}`, {}",
                twice(field.name())
            )));
        }
        let path = format!("{path}.{}", shown(field.name()));
        let cell = cell(column.as_ref(), field, &path, depth + 1)?;
        cells.push((field.name().clone(), cell));
    }
    Ok(non_null(array, move |row| {
        let mut object = Map::with_capacity(cells.len());
        for (name, cell) in &cells {
            let value = cell(row)?;
            if !value.is_null() {
                object.insert(name.clone(), value);
            }
        }
        Ok(Value::Object(object))
    }))
}

/// Reader of a map, whose keys are text.
fn map<'a>(
    array: &'a dyn Array,
    entries: &ArrowField,
    path: &str,
    depth: usize,
) -> Result<Cell<'a>, FaultKind> {
    let array = array.as_map();
    let DataType::Struct(fields) = entries.data_type() else {
        return Ok(Box::new(|_| Ok(Value::Null)));
    };
    let [key, value] = &fields[..] else {
        return Ok(Box::new(|_| Ok(Value::Null)));
    };
    let keys = cell(array.keys().as_ref(), key, path, depth + 1)?;
    let values = cell(array.values().as_ref(), value, path, depth + 1)?;
    let path = path.to_owned();
    Ok(non_null(array, move |row| {
        let offsets = array.value_offsets();
        let bound = |row: usize| offsets.get(row).and_then(|at| usize::try_from(*at).ok());
        let (Some(begin), Some(end)) = (bound(row), bound(row + 1)) else {
            return Ok(Value::Null);
        };
        let mut object = Map::with_capacity(end - begin);
        for entry in begin..end {
            let Value::String(key) = keys(entry)? else {
                return Err(FaultKind::wrong(format!(
                    "`{path}` is a map whose keys are not text"
                )));
            };
            let value = values(entry)?;
            if object.contains_key(&key) {
                return Err(in_column(&path, &key));
            }
            if !value.is_null() {
                object.insert(key, value);
            }
        }
        Ok(Value::Object(object))
    }))
}

/// Reader that gives null where the array has no value.
fn non_null<'a>(
    array: &'a dyn Array,
    value: impl Fn(usize) -> Result<Value, FaultKind> + Send + Sync + 'a,
) -> Cell<'a> {
    Box::new(move |row| {
        if row >= array.len() || array.is_null(row) {
            return Ok(Value::Null);
        }
        value(row)
    })
}

/// True for text that `datasets` stores for values of mixed types: it is JSON, and the type says so nowhere else.
fn is_json(field: &ArrowField) -> bool {
    let name = field.metadata().get("ARROW:extension:name");
    name.is_some_and(|name| name == "arrow.json")
}

fn json(text: &str, path: &str) -> Result<Value, FaultKind> {
    match unique::from_str(text) {
        Ok((value, None)) => Ok(value),
        Ok((_, Some(found))) => Err(in_column(path, &found.key)),
        Err(error) => Err(FaultKind::wrong(format!(
            "`{path}` holds text that is not JSON: {error}"
        ))),
    }
}

/// Fault of a key that stands twice.
fn in_column(path: &str, key: &str) -> FaultKind {
    FaultKind::wrong(format!("in `{path}`, {}", twice(key)))
}
