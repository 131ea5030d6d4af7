//! GPTQ and AWQ: codes of transposed matrices, `[in, out]`, in words of 32 bits.
//!
//! Layout: `docs/formats-export.md`. Written apart from the writer in `export`, so that one checks the other: it looks up
//! each code in its word, where the writer shifts whole rows into words and turns the matrix of words.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeSet;

use ::safetensors::Dtype;
use serde_json::Value;

use super::quantized::{expect, num_groups, num_words, number, part, unexpected};
use super::zeros::{Settled, Version, settle};
use super::{CheckpointError, StoredWeight, TensorFiles};
use crate::model::grid::{Grid, Levels};
use crate::model::{
    ConfigError, DecoderConfig, GroupScaling, OnGrid, ParameterKind, Scheme, TensorSpec,
    tensor_specs,
};

/// The nibble of a word of AWQ that holds the code of a column; of eight columns, the even ones come first.
const NIBBLE_OF_COLUMN: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The quantised projections of a folder, all on one grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transposed {
    layout: Layout,
    grid: Grid,
    weights: BTreeSet<String>,
}

/// Where codes lie, and which zeros are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Codes of neighbouring inputs share a word.
    Gptq(Version),
    /// Codes of neighbouring outputs share a word.
    Awq,
}

impl Transposed {
    /// Of the `quantization_config` of a GPTQ folder.
    pub(super) fn gptq(json: &Value, config: &DecoderConfig) -> Result<Self, ConfigError> {
        let null = Value::Null;
        for key in ["/checkpoint_format", "/format"] {
            expect(json, key, &["gptq".into(), "gptq_v2".into(), null.clone()])?;
        }
        expect(json, "/pack_dtype", &["int32".into(), null.clone()])?;
        let empty = Value::Object(serde_json::Map::new());
        expect(json, "/dynamic", &[null.clone(), empty])?;
        expect(json, "/is_marlin_format", &[false.into(), null])?;
        let named = ["checkpoint_format", "format"].map(|key| json.get(key));
        let version = if named.contains(&Some(&Version::Second.name().into())) {
            Version::Second
        } else {
            Version::First
        };
        let layout = Layout::Gptq(version);
        let bits = number(json, "/bits", &[2, 4, 8])?;
        let is_symmetric =
            expect(json, "/sym", &[true.into(), false.into()])? == Some(&true.into());
        let levels = if is_symmetric {
            Levels::Symmetric { bits }
        } else {
            Levels::Asymmetric { bits }
        };
        Self::of(json, config, layout, levels)
    }

    /// Of the `quantization_config` of an AWQ folder.
    pub(super) fn awq(json: &Value, config: &DecoderConfig) -> Result<Self, ConfigError> {
        let versions = ["gemm", "GEMM"].map(Value::from);
        for key in ["/version", "/checkpoint_format", "/format"] {
            expect(json, key, &[&versions[..], &[Value::Null]].concat())?;
        }
        expect(json, "/pack_dtype", &["int32".into(), Value::Null])?;
        expect(json, "/zero_point", &[true.into()])?;
        let bits = number(json, "/bits", &[4])?;
        Self::of(json, config, Layout::Awq, Levels::Asymmetric { bits })
    }

    fn of(
        json: &Value,
        config: &DecoderConfig,
        layout: Layout,
        levels: Levels,
    ) -> Result<Self, ConfigError> {
        let found = json.get("group_size");
        let group_size = match found.and_then(Value::as_i64) {
            Some(-1) => None,
            size => match size.map(usize::try_from) {
                Some(Ok(size)) if size > 0 => Some(size),
                _ => return Err(unexpected("/group_size", "a positive number or -1", found)),
            },
        };
        let specs = tensor_specs(config).into_iter();
        let is_linear =
            |spec: &TensorSpec| matches!(spec.kind(), ParameterKind::Linear | ParameterKind::Head);
        Ok(Self {
            layout,
            grid: Grid { levels, group_size },
            weights: specs.filter(is_linear).map(|spec| spec.name).collect(),
        })
    }

    /// Only what has codes in the files: which projections stay plain, configs say in several ways. If none has, none
    /// stays plain, so that the first is missed.
    pub(super) fn keep_stored(&mut self, files: &TensorFiles) {
        let is_stored = |name: &String| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            files.info(&format!("{module}.qweight")).is_some()
        };
        if self.weights.iter().any(is_stored) {
            self.weights.retain(is_stored);
        }
    }

    /// Reads zeros as they are stored, whatever version the config names, where they tell it; what of this the config
    /// does not say. Shapes have been checked.
    pub(super) fn settle(
        &mut self,
        files: &TensorFiles,
    ) -> Result<Option<Settled>, CheckpointError> {
        let Layout::Gptq(named) = self.layout else {
            return Ok(None); // AWQ stores zeros as they are
        };
        let mut tensors = Vec::with_capacity(self.weights.len());
        for name in &self.weights {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let tensor = format!("{module}.qzeros");
            let Some((_, shape)) = files.info(&tensor) else {
                continue;
            };
            let (words, _) = files.raw(&tensor, Dtype::I32, shape)?.as_chunks::<4>();
            tensors.push((tensor, words));
        }
        let settled = settle(named, self.grid.levels, &tensors)?;
        if let Some(settled) = &settled {
            self.layout = Layout::Gptq(settled.version);
        }
        Ok(settled)
    }

    pub(super) fn scheme(&self, spec: &TensorSpec) -> Option<Scheme> {
        let (weight, input) = (self.grid, None);
        self.covers(spec).then_some(Scheme { weight, input })
    }

    pub(super) fn covers(&self, spec: &TensorSpec) -> bool {
        self.weights.contains(&spec.name)
    }

    pub(super) fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Vec<String>, CheckpointError> {
        let [rows, _] = spec.shape;
        let num_groups = num_groups(spec, self.grid.group_size)?;
        self.codes(files, spec)?;
        self.zeros(files, spec, num_groups)?;
        self.groups(files, spec, num_groups)?;
        let scales = part(spec, "scales");
        files.check_floats(&scales, &[num_groups, rows])?;
        let mut names = vec![part(spec, "qweight"), part(spec, "qzeros"), scales];
        if self.has_groups_of_columns(files, spec) {
            names.push(part(spec, "g_idx"));
        }
        // AutoGPTQ gave every projection a bias, of zeros where the model has none.
        let bias = part(spec, "bias");
        let is_zero = |bias: Vec<f32>| bias.iter().all(|&value| value == 0.0);
        if files.info(&bias).is_some() && files.f32s(&bias, &[rows]).is_ok_and(is_zero) {
            names.push(bias);
        }
        Ok(names)
    }

    /// A weight, on its grid if groups are neighbouring columns: those of a permuted matrix are not.
    pub(super) fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<StoredWeight, CheckpointError> {
        let shape @ [rows, cols] = spec.shape;
        let num_groups = num_groups(spec, self.grid.group_size)?;
        let of_groups = [rows, num_groups];
        let codes = self.codes(files, spec)?;
        let zeros = self.zeros(files, spec, num_groups)?;
        let groups = self.groups(files, spec, num_groups)?;
        let scales = files.f32s(&part(spec, "scales"), &[num_groups, rows])?;
        let scale = |at: usize| scales.get(at).copied().unwrap_or_default(); // the shape was checked
        let group_size = cols / num_groups;
        let mut in_order = groups.iter().enumerate();
        if !in_order.all(|(column, group)| *group == column / group_size) {
            return Ok(StoredWeight::Plain(row_by_row(shape, |column, row| {
                let group = groups.get(column).copied().unwrap_or_default(); // one for each column
                let code = codes.at(column, row) - zeros.at(group, row);
                code as f32 * scale(group * rows + row) // of 9 bits at most
            })));
        }
        let middle = 1 << (self.grid.levels.bits() - 1);
        let zero = |group, row| (zeros.at(group, row) - middle) as f32;
        let has_zeros = self.grid.levels.has_zeros();
        Ok(StoredWeight::OnGrid(OnGrid {
            codes: row_by_row(shape, |column, row| (codes.at(column, row) - middle) as f32),
            scaling: GroupScaling {
                scales: row_by_row(of_groups, |group, row| scale(group * rows + row)),
                zeros: has_zeros.then(|| row_by_row(of_groups, zero)),
                biases: None,
            },
        }))
    }

    fn codes<'a>(
        &self,
        files: &'a TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Codes<'a>, CheckpointError> {
        let [rows, cols] = spec.shape;
        let bits = self.grid.levels.bits();
        let (shape, order) = match self.layout {
            Layout::Gptq(_) => ([num_words(spec, cols, bits)?, rows], Order::Down),
            Layout::Awq => ([cols, num_words(spec, rows, bits)?], Order::Interleaved),
        };
        Codes::open(files, &part(spec, "qweight"), shape, bits, order, 0)
    }

    fn zeros<'a>(
        &self,
        files: &'a TensorFiles,
        spec: &TensorSpec,
        num_groups: usize,
    ) -> Result<Codes<'a>, CheckpointError> {
        let [rows, _] = spec.shape;
        let bits = self.grid.levels.bits();
        let shape = [num_groups, num_words(spec, rows, bits)?];
        let (order, added) = match self.layout {
            Layout::Gptq(version) => (Order::Along, version.added(bits)),
            Layout::Awq => (Order::Interleaved, 0),
        };
        Codes::open(files, &part(spec, "qzeros"), shape, bits, order, added)
    }

    /// The group of each column: those of a permuted matrix stand in the file.
    fn groups(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
        num_groups: usize,
    ) -> Result<Vec<usize>, CheckpointError> {
        let [_, cols] = spec.shape;
        if !self.has_groups_of_columns(files, spec) {
            let group_size = cols / num_groups;
            return Ok((0..cols).map(|column| column / group_size).collect());
        }
        let tensor = part(spec, "g_idx");
        let (words, _) = files.raw(&tensor, Dtype::I32, &[cols])?.as_chunks::<4>();
        let found = words.iter().map(|&word| i32::from_le_bytes(word));
        let group = |(column, found): (usize, i32)| {
            let group = usize::try_from(found).ok();
            let group = group.filter(|&group| group < num_groups);
            group.ok_or_else(|| CheckpointError::NoSuchGroup {
                tensor: tensor.clone(),
                column,
                found,
                groups: num_groups,
            })
        };
        found.enumerate().map(group).collect()
    }

    fn has_groups_of_columns(&self, files: &TensorFiles, spec: &TensorSpec) -> bool {
        matches!(self.layout, Layout::Gptq(_)) && files.info(&part(spec, "g_idx")).is_some()
    }
}

/// A matrix of so many rows and columns, given a number for each column and row.
fn row_by_row([rows, columns]: [usize; 2], number: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        numbers.extend((0..columns).map(|column| number(column, row)));
    }
    numbers
}

/// Which codes share a word.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Those of neighbouring rows.
    Down,
    /// Those of neighbouring columns.
    Along,
    /// Those of neighbouring columns, in [`NIBBLE_OF_COLUMN`].
    Interleaved,
}

/// A matrix of codes in words.
struct Codes<'a> {
    words: &'a [[u8; 4]],
    row_len: usize,
    bits: u32,
    order: Order,
    /// What is added to each word before codes are taken out of it; codes borrow from their neighbours.
    added: u32,
}

impl<'a> Codes<'a> {
    fn open(
        files: &'a TensorFiles,
        name: &str,
        shape: [usize; 2],
        bits: u32,
        order: Order,
        added: u32,
    ) -> Result<Self, CheckpointError> {
        let (words, _) = files.raw(name, Dtype::I32, &shape)?.as_chunks::<4>();
        let [_, row_len] = shape;
        Ok(Self {
            words,
            row_len,
            bits,
            order,
            added,
        })
    }

    /// The code in a row and a column of the matrix of codes.
    fn at(&self, row: usize, column: usize) -> i32 {
        let bits = self.bits as usize;
        let per_word = 32 / bits;
        let (row, column, place) = match self.order {
            Order::Down => (row / per_word, column, row % per_word),
            Order::Along => (row, column / per_word, column % per_word),
            Order::Interleaved => {
                let nibble = NIBBLE_OF_COLUMN.get(column % per_word);
                (row, column / per_word, nibble.copied().unwrap_or_default())
            }
        };
        let word = self.words.get(row * self.row_len + column);
        let word = u32::from_le_bytes(word.copied().unwrap_or_default()); // the shape was checked
        let code = word.wrapping_add(self.added) >> (place * bits) & ((1 << bits) - 1);
        code.cast_signed()
    }
}
