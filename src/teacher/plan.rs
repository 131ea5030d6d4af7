//! Keys of the model that is imitated.

use std::path::PathBuf;

use crate::gguf::is_gguf;
use crate::recipe::{Kind, MAX_SIZE, PathKind, keys};

/// A path of a model.
pub(crate) const CHECKPOINT: Kind = Kind::Path(PathKind::Either {
    is_file: is_gguf,
    nouns: "model folder or `.gguf` file",
    phrase: "a model folder or a `.gguf` file",
});

keys! {
    pub struct TeacherPlan in TEACHER = "teacher", "The model that is imitated." {
        #[serde(skip)]
        checkpoint: PathBuf = required(CHECKPOINT, "Hugging Face folder or `.gguf` file");
        /// The shape of a product may move its last bits.
        batch_size: usize = or("8", Kind::Integer(1, MAX_SIZE), "rows that the capture takes at a time, on a CPU for each core");
    }
}
