//! GPTQ and AWQ: codes of transposed matrices, `[in, out]`, in words of 32 bits.
//!
//! Layout: `docs/formats-export.md`. Shares no code with the writers, so that one checks the other: this reader looks
//! up each code in its word; the writer shifts whole rows into words and transposes the matrix of words.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeSet;

use ::safetensors::Dtype;
use serde_json::Value;

use super::zeros::{Version, are_in_the_middle, settle};
use super::{
    CheckpointError, Packed, Settled, StoredWeight, TensorFiles, are_in_order, listed_groups,
    num_groups, num_words, part, unexpected,
};
use crate::kernels::grid::{Grid, Levels};
use crate::model::{
    ConfigError, DecoderConfig, GroupScaling, OnGrid, ParameterKind, Scheme, TensorSpec,
    tensor_specs,
};

/// Nibble of an AWQ word that holds the code of a column; of eight columns, the even ones come first.
const NIBBLE_OF_COLUMN: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The quantised projections of a folder, all on one grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::formats) struct Transposed {
    layout: WordLayout,
    grid: Grid,
    weights: BTreeSet<String>,
}

/// Layout of the codes, and of the stored zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formats) enum WordLayout {
    /// Codes of neighbouring inputs share a word.
    Gptq(Version),
    /// Codes of neighbouring outputs share a word.
    Awq,
}

impl Packed for Transposed {
    /// Keeps the weights that have codes in the files, because configs name plain projections in several ways. If none
    /// has codes, all are kept, so that the first is reported missing.
    fn keep_stored(&mut self, files: &TensorFiles) {
        let is_stored = |name: &String| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            files.info(&format!("{module}.qweight")).is_some()
        };
        if self.weights.iter().any(is_stored) {
            self.weights.retain(is_stored);
        }
    }

    /// Reads zeros in the version that their stored values show, even if the config names another. Returns the part of
    /// this that the config does not say. Shapes have been checked.
    ///
    /// A grid that may have any zeros, and has none but the middle of the codes, is symmetric.
    fn settle(&mut self, files: &TensorFiles) -> Result<Option<Settled>, CheckpointError> {
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
        let mut settled = None;
        if let WordLayout::Gptq(named) = self.layout
            && let Some((version, found)) = settle(named, self.grid.levels, &tensors)?
        {
            self.layout = WordLayout::Gptq(version);
            settled = Some(found);
        }
        let bits = self.grid.levels.bits();
        if self.grid.levels.has_zeros() && are_in_the_middle(bits, self.added(), &tensors) {
            self.grid.levels = Levels::Symmetric { bits };
        }
        Ok(settled)
    }

    fn scheme(&self, spec: &TensorSpec) -> Option<Scheme> {
        let (weight, input) = (self.grid, None);
        self.covers(spec).then_some(Scheme { weight, input })
    }

    fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<Vec<String>>, CheckpointError> {
        if !self.covers(spec) {
            return Ok(None);
        }
        let [rows, _] = spec.shape;
        let num_groups = self.num_groups(spec)?;
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
        Ok(Some(names))
    }

    /// A weight, on its grid if groups are neighbouring columns, all of them full; the groups of a permuted matrix are
    /// not.
    fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<StoredWeight>, CheckpointError> {
        if !self.covers(spec) {
            return Ok(None);
        }
        let shape @ [rows, _] = spec.shape;
        let num_groups = self.num_groups(spec)?;
        let of_groups = [rows, num_groups];
        let codes = self.codes(files, spec)?;
        let zeros = self.zeros(files, spec, num_groups)?;
        let groups = self.groups(files, spec, num_groups)?;
        let scales = files.f32s(&part(spec, "scales"), &[num_groups, rows])?;
        let scale = |at: usize| scales.get(at).copied().unwrap_or_default(); // the shape was checked
        if !are_in_order(&groups, self.group_size(spec)) {
            return Ok(Some(StoredWeight::Plain(row_by_row(
                shape,
                |column, row| {
                    let group = groups.get(column).copied().unwrap_or_default(); // one group per column
                    let code = codes.at(column, row) - zeros.at(group, row);
                    code as f32 * scale(group * rows + row) // 9 bits at most
                },
            ))));
        }
        let middle = 1 << (self.grid.levels.bits() - 1);
        let zero = |group, row| (zeros.at(group, row) - middle) as f32;
        let has_zeros = self.grid.levels.has_zeros();
        Ok(Some(StoredWeight::OnGrid(OnGrid {
            codes: row_by_row(shape, |column, row| (codes.at(column, row) - middle) as f32),
            scaling: GroupScaling {
                scales: row_by_row(of_groups, |group, row| scale(group * rows + row)),
                zeros: has_zeros.then(|| row_by_row(of_groups, zero)),
                biases: None,
            },
        })))
    }
}

impl Transposed {
    /// Makes a reader from the `quantization_config` of a folder.
    pub(in crate::formats) fn of(
        json: &Value,
        config: &DecoderConfig,
        layout: WordLayout,
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

    fn covers(&self, spec: &TensorSpec) -> bool {
        self.weights.contains(&spec.name)
    }

    fn codes<'a>(
        &self,
        files: &'a TensorFiles,
        spec: &TensorSpec,
    ) -> Result<CodeMatrix<'a>, CheckpointError> {
        let [rows, cols] = spec.shape;
        let bits = self.grid.levels.bits();
        let (shape, order) = match self.layout {
            WordLayout::Gptq(_) => ([num_words(spec, cols, bits)?, rows], Order::Down),
            WordLayout::Awq => ([cols, num_words(spec, rows, bits)?], Order::Interleaved),
        };
        CodeMatrix::open(files, &part(spec, "qweight"), shape, bits, order, 0)
    }

    fn zeros<'a>(
        &self,
        files: &'a TensorFiles,
        spec: &TensorSpec,
        num_groups: usize,
    ) -> Result<CodeMatrix<'a>, CheckpointError> {
        let [rows, _] = spec.shape;
        let bits = self.grid.levels.bits();
        let shape = [num_groups, num_words(spec, rows, bits)?];
        let order = match self.layout {
            WordLayout::Gptq(_) => Order::Along,
            WordLayout::Awq => Order::Interleaved,
        };
        let tensor = part(spec, "qzeros");
        CodeMatrix::open(files, &tensor, shape, bits, order, self.added())
    }

    /// Number added to each word of zeros.
    fn added(&self) -> u32 {
        match self.layout {
            WordLayout::Gptq(version) => version.added(self.grid.levels.bits()),
            WordLayout::Awq => 0, // stores zeros as they are
        }
    }

    /// Group of each column; the file lists the groups of a permuted matrix.
    fn groups(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
        num_groups: usize,
    ) -> Result<Vec<usize>, CheckpointError> {
        let [_, cols] = spec.shape;
        if self.has_groups_of_columns(files, spec) {
            return listed_groups(files, &part(spec, "g_idx"), cols, num_groups);
        }
        let group_size = self.group_size(spec);
        Ok((0..cols).map(|column| column / group_size).collect())
    }

    /// Columns of a whole group.
    fn group_size(&self, spec: &TensorSpec) -> usize {
        let [_, cols] = spec.shape;
        self.grid.group_size.unwrap_or(cols)
    }

    /// Groups in a row. GPTQ's writers leave the last one short if the columns do not divide; AWQ's refuse that.
    fn num_groups(&self, spec: &TensorSpec) -> Result<usize, CheckpointError> {
        let [_, cols] = spec.shape;
        match self.layout {
            WordLayout::Gptq(_) => Ok(cols.div_ceil(self.group_size(spec))),
            WordLayout::Awq => num_groups(spec, self.grid.group_size),
        }
    }

    fn has_groups_of_columns(&self, files: &TensorFiles, spec: &TensorSpec) -> bool {
        matches!(self.layout, WordLayout::Gptq(_)) && files.info(&part(spec, "g_idx")).is_some()
    }
}

/// Row-major matrix of this shape; `number` gives the element for a column and a row.
fn row_by_row([rows, columns]: [usize; 2], number: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        numbers.extend((0..columns).map(|column| number(column, row)));
    }
    numbers
}

/// Codes that share a word.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Codes of neighbouring rows.
    Down,
    /// Codes of neighbouring columns.
    Along,
    /// Codes of neighbouring columns, in [`NIBBLE_OF_COLUMN`].
    Interleaved,
}

/// A matrix of codes in words.
struct CodeMatrix<'a> {
    words: &'a [[u8; 4]],
    row_len: usize,
    bits: u32,
    order: Order,
    /// Number added to each word before codes are extracted; codes borrow from their neighbours.
    added: u32,
}

impl<'a> CodeMatrix<'a> {
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
