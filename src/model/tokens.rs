//! Tokens as a decoder reads them.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::Sequence;

/// Rows of token ids, all of one length, and the documents that they are of.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    ids: Tensor<2, Int>, // [B, T]
    /// Positions of the documents of each row; none if each row is one.
    documents: Option<Arc<[Vec<Range<usize>>]>>,
}

impl TokenBatch {
    /// Moves rows to a device.
    ///
    /// # Panics
    ///
    /// If their lengths differ, or an id does not fit the device's 32-bit integers.
    pub fn new(rows: &[Sequence<'_>], device: &Device) -> Self {
        let seq = rows.first().map_or(0, |row| row.tokens().len());
        let ids: Vec<i32> = rows
            .iter()
            .flat_map(|row| {
                row.tokens()
                    .iter()
                    .map(|&id| i32::try_from(id).expect("a vocabulary has fewer than 2^31 tokens"))
            })
            .collect();
        let is_packed = rows.iter().any(|row| row.num_documents() > 1);
        let documents = || rows.iter().map(|row| row.documents().collect()).collect();
        Self {
            ids: Tensor::from_data(TensorData::new(ids, [rows.len(), seq]), device),
            documents: is_packed.then(documents),
        }
    }

    /// One row that is one document.
    pub fn document(tokens: &[u32], device: &Device) -> Self {
        Self::new(&[Sequence::document(tokens)], device)
    }

    /// Ids of the tokens.
    ///
    /// # Shapes
    ///
    /// Returns `[B, T]`.
    pub fn ids(&self) -> Tensor<2, Int> {
        self.ids.clone()
    }

    /// True if a row has several documents.
    pub fn is_packed(&self) -> bool {
        self.documents.is_some()
    }

    /// Positions of the documents of each row, in their order; `None` if each row is one document.
    pub(super) fn documents(&self) -> Option<&Arc<[Vec<Range<usize>>]>> {
        self.documents.as_ref()
    }
}
