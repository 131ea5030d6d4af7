//! Keys of the teacher model.

use std::path::PathBuf;

use crate::gguf::is_gguf;
use crate::kernels::{Arithmetic, PRECISION};
use crate::recipe::{Kind, MAX_SIZE, PathKind, keys};

/// Path of a model.
pub(crate) const CHECKPOINT: Kind = Kind::Path(PathKind::Either {
    is_file: is_gguf,
    nouns: "model folder or `.gguf` file",
    phrase: "a model folder or a `.gguf` file",
});

keys! {
    pub struct TeacherPlan in TEACHER = "teacher", "The model that is imitated." {
        #[serde(skip)]
        checkpoint: PathBuf = required(CHECKPOINT, "Hugging Face folder, `.gguf` file, or the folder of a pass or of a run: its last export, or else its last pass; or a model of the hub, `org/name`, `org/name@revision` or `org/name:Q4_K_M`") also ["model", "path", "name", "model_name_or_path", "pretrained_model_name_or_path"];
        precision: Arithmetic = or("f32", PRECISION, "arithmetic of the products of its capture: `f32`, or operands rounded to `bf16` and sums in f32, by this machine's fastest instruction; the other two words name one, so that another machine gives the same bits") also ["dtype", "torch_dtype"];
        /// Rows per forward pass; the shape of a product may change its last bits.
        batch_size: usize = or("8", Kind::Integer(1, MAX_SIZE), "rows per forward pass of the capture; on a CPU, rows that each core gets at a time") also ["batch", "bs"];
    }
}
