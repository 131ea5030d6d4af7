//! From checked fields to the plan of the student; a part of `complete.rs`.

use super::fields::Fields;
use super::student_plan::{
    AdapterPlan, ArchitecturePlan, FromTeacherPlan, LayersPlan, StudentPlan, StudentWord,
};

pub(super) fn student(fields: &Fields) -> Option<StudentPlan> {
    let (student, item) = fields.variant()?;
    Some(match student {
        StudentWord::Architecture => StudentPlan::Architecture(architecture(item.as_block()?)?),
        StudentWord::FromTeacher => StudentPlan::FromTeacher(from_teacher(item.as_block()?)?),
        StudentWord::Checkpoint => StudentPlan::Checkpoint(fields.get("checkpoint")?),
    })
}

fn from_teacher(fields: &Fields) -> Option<FromTeacherPlan> {
    let listed = fields.get("layers").map(LayersPlan::Layers);
    let layers = listed
        .or_else(|| fields.get("every").map(LayersPlan::Every))
        .or_else(|| {
            fields
                .get("highest_influence")
                .map(LayersPlan::HighestInfluence)
        });
    let calibration_tokens = fields.get("calibration_tokens")?;
    Some(FromTeacherPlan {
        layers,
        hidden_size: fields.get("hidden_size"),
        intermediate_size: fields.get("intermediate_size"),
        num_key_value_heads: fields.get("num_key_value_heads"),
        calibration_tokens: chooses_by_importance(fields).then_some(calibration_tokens),
    })
}

/// Whether something of `from_teacher` can be told only by running the teacher.
pub(super) fn chooses_by_importance(from_teacher: &Fields) -> bool {
    CHOICES_BY_IMPORTANCE
        .iter()
        .any(|name| from_teacher.is_written(name))
}

const CHOICES_BY_IMPORTANCE: [&str; 4] = [
    "highest_influence",
    "hidden_size",
    "intermediate_size",
    "num_key_value_heads",
];

fn architecture(sizes: &Fields) -> Option<ArchitecturePlan> {
    let hidden_size: usize = sizes.get("hidden_size")?;
    let num_attention_heads: usize = sizes.get("num_attention_heads")?;
    Some(ArchitecturePlan {
        num_hidden_layers: sizes.get("num_hidden_layers")?,
        hidden_size,
        num_attention_heads,
        num_key_value_heads: sizes
            .get("num_key_value_heads")
            .unwrap_or(num_attention_heads),
        intermediate_size: sizes.get("intermediate_size")?,
        head_dim: sizes
            .get("head_dim")
            .or_else(|| hidden_size.checked_div(num_attention_heads))?,
        rope_theta: sizes.get("rope_theta")?,
        rms_norm_eps: sizes.get("rms_norm_eps")?,
        tie_word_embeddings: sizes.get("tie_word_embeddings")?,
        sliding_window: sizes.get("sliding_window"),
        layer_repeats: sizes.get("layer_repeats")?,
    })
}

/// The adapter that a pass trains.
pub(super) fn adapter(fields: &Fields) -> Option<AdapterPlan> {
    let rank: usize = fields.get("rank")?;
    Some(AdapterPlan {
        rank,
        alpha: fields.get("alpha").unwrap_or(rank as f64),
        targets: fields.get("targets")?,
    })
}
