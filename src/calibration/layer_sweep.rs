//! Sequential calibration: each layer sees the outputs of the already changed layers before it.

use burn::tensor::Tensor;

use super::{BATCH_ROWS, Calibration, Hessian, Interrupted, Observed};
use crate::data::Sequence;
use crate::model::{Decoder, LayerContexts, ParameterSpec, Site, TokenBatch};
use crate::progress::Progress;

/// Calibration text on its way through a decoder. A layer may be changed while the text is in front of it.
///
/// Each layer is measured on the outputs of the changed layers before it, so that it can compensate for their errors,
/// as in GPTQ (Frantar et al. 2022, <https://arxiv.org/abs/2210.17323>) and SparseGPT. The first position of a row is
/// included, and rows start as inference does: many models lean on that position alone.
///
/// Memory holds the decoder and the residual stream of the text in front of one layer.
pub struct LayerSweep<'a> {
    calibration: Calibration<'a>,
    decoder: Decoder,
    layer_repeats: usize,
    layer: usize,
    /// Contexts of rows of one document.
    whole: LayerContexts,
    batches: Vec<Batch>,
    num_tokens: usize,
    progress: Progress,
}

/// A few rows of the text.
struct Batch {
    tokens: TokenBatch,
    residual: Tensor<3>, // [B, T, D]
    /// Positions that are observed.
    observed: Observed,
}

impl<'a> LayerSweep<'a> {
    /// Puts the text in front of the first layer of a decoder, whose layers each run `layer_repeats` times in a row.
    pub fn begin(calibration: &Calibration<'a>, decoder: Decoder, layer_repeats: usize) -> Self {
        let rows = calibration.rows;
        let row_idxs = calibration.row_idxs();
        let device = decoder.device();
        let batch = |row_idxs: &[usize]| {
            let inputs = row_idxs.iter().map(|&row_idx| rows.inputs(row_idx));
            let tokens = TokenBatch::new(&inputs.collect::<Vec<Sequence<'_>>>(), &device);
            Batch {
                residual: decoder.embed(&tokens),
                observed: calibration.observed(row_idxs),
                tokens,
            }
        };
        let one_document = TokenBatch::document(rows.inputs(row_idxs[0]).tokens(), &device);
        let num_tokens = row_idxs.len() * rows.sequence_length();
        Self {
            calibration: *calibration,
            layer_repeats,
            layer: 0,
            whole: decoder.contexts(&one_document),
            batches: row_idxs.chunks(BATCH_ROWS).map(batch).collect(),
            num_tokens,
            progress: calibration.progress(num_tokens),
            decoder,
        }
    }

    /// Layer that the text is in front of; `None` behind the last.
    pub fn layer(&self) -> Option<usize> {
        (self.layer < self.decoder.config.num_hidden_layers).then_some(self.layer)
    }

    /// Passes on the inputs of the projections at a site of the layer, in its current state, batch after batch and in
    /// all of its runs.
    ///
    /// # Shapes
    ///
    /// Inputs are `[B, T, inputs]`.
    ///
    /// # Panics
    ///
    /// If the text is behind the last layer.
    pub fn observe(
        &self,
        site: Site,
        mut observer: impl FnMut(&Tensor<3>),
    ) -> Result<(), Interrupted> {
        for batch in &self.batches {
            self.calibration.check_stop()?;
            let contexts = self.decoder.contexts_or(&self.whole, &batch.tokens);
            let mut x = batch.residual.clone();
            for run in 0..self.layer_repeats {
                if run > 0 {
                    x = self.decoder.layer(self.layer, x, &contexts);
                }
                let entering = self
                    .decoder
                    .entering(self.layer, site, x.clone(), &contexts);
                observer(&batch.observed.of(&entering));
            }
        }
        Ok(())
    }

    /// Second moments of the inputs of the projections at a site of the layer, in its current state.
    ///
    /// # Panics
    ///
    /// If the text is behind the last layer.
    pub fn hessian(&self, site: Site) -> Result<Hessian, Interrupted> {
        let mut hessian = None;
        self.observe(site, |x| {
            let [_, _, size] = x.dims();
            hessian.get_or_insert_with(|| Hessian::new(size)).add(x);
        })?;
        Ok(hessian.expect("calibration has at least one row"))
    }

    /// Second moments as in [`LayerSweep::hessian`], with the mean size of each input.
    ///
    /// # Panics
    ///
    /// If the text is behind the last layer.
    pub fn moments(&self, site: Site) -> Result<(Hessian, Vec<f64>), Interrupted> {
        let mut sizes = MeanSizes::default();
        let mut hessian = None;
        self.observe(site, |x| {
            let [_, _, size] = x.dims();
            hessian.get_or_insert_with(|| Hessian::new(size)).add(x);
            sizes.add(x);
        })?;
        let hessian = hessian.expect("calibration has at least one row");
        Ok((hessian, sizes.means()))
    }

    /// The decoder, in its current state.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Replaces weights of the decoder by functions of them.
    pub fn replace(&mut self, weight: impl FnMut(&ParameterSpec, Tensor<2>) -> Tensor<2>) {
        self.decoder = self.decoder.map(weight);
    }

    /// Moves the text through the layer, in its current state, to the next one; `message` is shown beside the progress.
    ///
    /// # Panics
    ///
    /// If the text is behind the last layer.
    pub fn advance(&mut self, message: &str) -> Result<(), Interrupted> {
        let num_layers = self.decoder.config.num_hidden_layers;
        assert!(self.layer < num_layers, "behind the last layer");
        for batch in &mut self.batches {
            self.calibration.check_stop()?;
            let contexts = self.decoder.contexts_or(&self.whole, &batch.tokens);
            for _ in 0..self.layer_repeats {
                let residual = batch.residual.clone();
                batch.residual = self.decoder.layer(self.layer, residual, &contexts);
            }
        }
        let passed = |layer: usize| self.num_tokens * layer / num_layers;
        let tokens = passed(self.layer + 1) - passed(self.layer);
        self.progress.message(message);
        self.progress.advance(tokens as u64);
        self.layer += 1;
        Ok(())
    }

    /// Ends the sweep and returns the changed decoder.
    pub fn finish(self) -> Decoder {
        self.progress.finish();
        self.decoder
    }
}

/// Mean over positions of |x|, for each input feature.
#[derive(Default)]
struct MeanSizes {
    sums: Vec<f64>,
    num_positions: usize,
}

impl MeanSizes {
    fn add(&mut self, x: &Tensor<3>) {
        let [batch, seq, size] = x.dims();
        let sums = x.clone().abs().sum_dims_squeeze::<1, usize>(&[0, 1]); // [size]
        let sums = sums.try_into_vec_as::<f32>().expect("activations are f32");
        self.sums.resize(size, 0.0);
        for (total, sum) in self.sums.iter_mut().zip(sums) {
            *total += f64::from(sum);
        }
        self.num_positions += batch * seq;
    }

    fn means(&self) -> Vec<f64> {
        let count = self.num_positions.max(1) as f64;
        self.sums.iter().map(|sum| sum / count).collect()
    }
}
