//! Dtypes of weights that are not quantised.

use half::{bf16, f16};

use crate::gguf::WrittenType;
use crate::recipe::words;

words! {
    /// Storage of weights that are not quantised.
    pub enum ExportDtype {
        /// bfloat16.
        Bf16 = "bf16" also ["bfloat16", "auto"],
        /// float16.
        F16 = "f16" also ["fp16", "float16", "half"],
        /// float32.
        F32 = "f32" also ["fp32", "float32", "float"],
    }
}

impl ExportDtype {
    /// Its name in `config.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }

    /// Nearest number that the dtype holds, ties to even, as torch rounds.
    pub(crate) fn rounded(self, value: f32) -> f32 {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::F32 => value,
        }
    }
}

impl From<ExportDtype> for WrittenType {
    fn from(dtype: ExportDtype) -> Self {
        match dtype {
            ExportDtype::Bf16 => Self::Bf16,
            ExportDtype::F16 => Self::F16,
            ExportDtype::F32 => Self::F32,
        }
    }
}
