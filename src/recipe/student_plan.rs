//! Where the student comes from.

use std::path::PathBuf;

use serde::Serialize;

use super::word::words;

/// The model that is trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentPlan {
    /// Fresh weights.
    Architecture(ArchitecturePlan),
    /// Layers of the teacher, whole or narrower, with its embedding and head.
    FromTeacher(FromTeacherPlan),
    /// An existing checkpoint folder.
    Checkpoint(#[serde(skip)] PathBuf),
}

/// What a student keeps of the teacher; at least one field is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FromTeacherPlan {
    /// Layers; `None` keeps all.
    #[serde(flatten)]
    pub layers: Option<LayersPlan>,
    /// Dimensions of the residual stream; `None` keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Feed-forward channels of each layer; `None` keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// Key and value heads of each layer, with the query heads that share them; `None` keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Training positions over which importance is measured; `None` if nothing is chosen by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration_tokens: Option<usize>,
}

/// Which layers of the teacher a student keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayersPlan {
    /// These, zero-based, ascending.
    Layers(Vec<usize>),
    /// Every n-th, the first among them.
    Every(usize),
    /// As many, of the highest block influence.
    HighestInfluence(usize),
}

/// Sizes of a fresh student; names are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are those of config.json")]
pub struct ArchitecturePlan {
    pub num_hidden_layers: usize,
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub intermediate_size: usize,
    pub head_dim: usize,
    pub rope_theta: f64,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    /// Positions that each layer sees, the current one among them; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Layers in a row that share one set of weights; divides `num_hidden_layers`.
    #[serde(skip_serializing_if = "is_one")]
    pub layer_repeats: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_one(count: &usize) -> bool {
    *count == 1
}

/// A low-rank adapter (LoRA).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterPlan {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// Its share of `rank` is what the product of B and A is multiplied by.
    pub alpha: f64,
    /// Modules of a block, such as `q_proj`; distinct.
    pub targets: Vec<String>,
}

words! {
    /// Where a student comes from, as it is written; see [`StudentPlan`].
    pub(super) enum StudentWord {
        Architecture = "architecture",
        FromTeacher = "from_teacher",
        Checkpoint = "checkpoint",
    }
}
