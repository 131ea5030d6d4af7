//! Layout of the numbers of `flex` tensors.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

use super::attention::host::Heads;
use super::product::host::Matrix;

/// Offset and strides of a `[B, N, T, H]` view whose rows of `H` numbers are contiguous.
pub(super) struct HeadRows {
    /// Offset of the first number.
    pub(super) start: usize,
    /// Steps from one batch row, head and position to the next.
    pub(super) strides: [usize; 3],
    /// B, N, T and H.
    pub(super) shape: [usize; 4],
}

/// A `[B, N, T, H]` view, and the layout of its rows.
pub(super) struct HeadTensor {
    tensor: FlexTensor,
    pub(super) rows: HeadRows,
}

impl HeadTensor {
    pub(super) fn new(tensor: FlexTensor) -> Self {
        let is_readable = |x: &FlexTensor| {
            let strides = x.layout().strides();
            strides.last() == Some(&1) && strides.iter().all(|&stride| stride >= 0)
        };
        let tensor = if is_readable(&tensor) {
            tensor
        } else {
            tensor.to_contiguous()
        };
        let shape = tensor.shape();
        let strides = tensor.layout().strides();
        let rows = HeadRows {
            start: tensor.layout().start_offset(),
            strides: [0, 1, 2].map(|dim| strides[dim].unsigned_abs()),
            shape: [shape[0], shape[1], shape[2], shape[3]],
        };
        Self { tensor, rows }
    }

    pub(super) fn heads(&self) -> Heads<'_> {
        Heads {
            values: self.tensor.storage(),
            rows: &self.rows,
        }
    }
}

/// The same matrix without negative strides; a transposed view stays one.
pub(super) fn from_start(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().strides().iter().all(|&stride| stride >= 0) {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// A matrix in place; see [`from_start`].
pub(super) fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let (shape, strides) = (tensor.shape(), tensor.layout().strides());
    let values: &[f32] = tensor.storage();
    Matrix::new(
        &values[tensor.layout().start_offset()..],
        [shape[0], shape[1]],
        [strides[0].unsigned_abs(), strides[1].unsigned_abs()],
    )
}

/// The same numbers row by row, held by nobody else unless autodiff keeps them.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    let own = tensor.to_contiguous();
    drop(tensor); // a second handle would make the first write a copy
    own
}

/// The numbers of a contiguous tensor.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("a contiguous f32 tensor is one slice")
}

pub(super) fn like(tensor: &FlexTensor, values: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, tensor.shape()))
}

pub(super) fn last_dim(tensor: &FlexTensor) -> usize {
    let shape = tensor.shape();
    shape[shape.num_dims() - 1]
}
