//! Folders of each format, compared with the reference writers' folders and with each other.

mod codes;
mod limits;

use std::path::Path;

use super::*;
use crate::model::{OnGrid, ParameterSpec, Scheme};

/// Writes a folder in a format of codes, or of plain weights.
pub(super) fn write(
    (format, schemes): (Format, &Schemes),
    dir: &Path,
    config: &DecoderConfig,
    dtype: ExportDtype,
    weight: impl FnMut(&ParameterSpec) -> Vec<f32>,
    quantized: impl FnMut(&ParameterSpec, Scheme) -> OnGrid,
) -> Result<(), WriteError> {
    let codes = match format.writer() {
        Writer::Codes(codes) => Some((codes, schemes)),
        Writer::Plain | Writer::Blocks => None,
    };
    write_folder(dir, config, codes, dtype, weight, quantized)
}
