//! What headers show of pruning.

use super::Preflight;
use crate::diag::Diagnostic;
use crate::model::{DecoderConfig, parameter_specs};
use crate::passes::{PassPlan, ShrinkError, configs_of_passes};
use crate::recipe::RecipeFaults;

impl Preflight<'_> {
    /// The architecture of the student that enters each pass, and that of the last.
    pub(super) fn shrunk(
        &self,
        config: &DecoderConfig,
    ) -> Result<Vec<DecoderConfig>, RecipeFaults> {
        configs_of_passes(&self.plan.passes, config).map_err(|(pass_idx, error)| {
            let help = match &error {
                ShrinkError::Size { there, .. } => format!("write at most {there}"),
                ShrinkError::Nothing => "write smaller sizes, or delete the pass".to_owned(),
                ShrinkError::Parameters {
                    smallest, there, ..
                } if smallest == there => {
                    "name sizes in `along` that can become smaller".to_owned()
                }
                ShrinkError::Parameters {
                    smallest, there, ..
                } => {
                    let share = (*smallest as f64 / *there as f64 * 1000.0).ceil() / 1000.0;
                    format!("write at least `parameters: {share}`, or more sizes in `along`")
                }
            };
            let label = match &error {
                ShrinkError::Nothing => "leaves what there is",
                ShrinkError::Size { .. } => "more than there are",
                ShrinkError::Parameters { .. } => "less than any size along these leaves",
            };
            let holder = format!("passes.{pass_idx}.shrink");
            let key = error.key().map(|key| format!("{holder}.{key}"));
            let fault = Diagnostic::new("shrink/size", error.to_string()).help(help);
            self.fault(&key.unwrap_or(holder), label, fault)
        })
    }

    /// Rows of projections fall into whole parts of a pattern.
    pub(super) fn patterns(&self, configs: &[DecoderConfig]) -> Result<(), RecipeFaults> {
        for (pass_idx, pass) in self.plan.passes.iter().enumerate() {
            let PassPlan::Prune(plan) = pass else {
                continue;
            };
            let Some(pattern) = plan.zeros.pattern() else {
                continue;
            };
            let width = pattern.width();
            let specs = parameter_specs(&configs[pass_idx]);
            let mut linear = specs.iter().filter(|spec| spec.id.input().is_some());
            if let Some(spec) = linear.find(|spec| !spec.shape[1].is_multiple_of(width)) {
                let columns = spec.shape[1];
                let fact = format!(
                    "the pattern's {width} neighbours do not divide the {columns} columns of `{}`",
                    spec.name
                );
                let label = format!("{columns} / {width} leaves {} over", columns % width);
                let share = plan.zeros.sparsity();
                let fault = Diagnostic::new("prune/uneven-pattern", fact)
                    .help(format!("write `sparsity: {share}` in its place"));
                let key = format!("passes.{pass_idx}.prune.pattern");
                return Err(self.fault(&key, &label, fault));
            }
        }
        Ok(())
    }
}
