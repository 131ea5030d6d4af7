//! What headers show of the schemes that a pass gives to the student's projections.

use super::Preflight;
use crate::diag::Diagnostic;
use crate::export::containers::refusal_by;
use crate::export::{ExportFormat, folder, gguf};
use crate::model::{
    DecoderConfig, ParameterKind, ParameterSpec, Schemes, uneven_groups, unlike_parts,
};
use crate::passes::quantize::schemes;
use crate::passes::{PassPlan, QuantizePlan, SchemePlan, SensitivityPlan, WIDTHS};
use crate::recipe::RecipeFaults;

impl Preflight<'_> {
    /// Every scheme fits its projection, those of joined projections are alike, and every format can hold them.
    ///
    /// `configs` are those of the students that enter the passes.
    pub(super) fn schemes(&self, configs: &[DecoderConfig]) -> Result<(), RecipeFaults> {
        for (pass_idx, pass) in self.plan.passes.iter().enumerate() {
            let PassPlan::Quantize(plan) = pass else {
                continue;
            };
            let config = &self.own_layers(&configs[pass_idx]);
            let key = format!("passes.{pass_idx}.quantize");
            let schemes = schemes(plan, config);
            self.layers_exist(plan, &key, config)?;
            self.output_is_its_own(plan, &key, config)?;
            self.groups(plan, &key, &schemes, config)?;
            self.parts_are_alike(&key, &schemes, config)?;
            self.parts_are_chosen_whole(plan, &key, config)?;
            self.formats_hold(&schemes, config)?;
            self.containers_hold(&schemes, config)?;
        }
        Ok(())
    }

    /// What to say if a GGUF file will have plain weights although the student is on a grid.
    pub(super) fn plain_blocks(&self, configs: &[DecoderConfig]) -> Option<String> {
        let export = &self.plan.export;
        if !export.formats.contains(&ExportFormat::Gguf) || export.gguf.linear.is_some() {
            return None;
        }
        let passes = self.plan.passes.iter().zip(configs);
        let last = passes.rev().find_map(|(pass, config)| match pass {
            PassPlan::Quantize(plan) => Some((plan, config)),
            _ => None,
        });
        let (plan, config) = last?;
        let config = self.own_layers(config);
        let grid = gguf::without_blocks(&schemes(plan, &config), &config)?;
        Some(format!(
            "`gguf` has no blocks for {grid}: projections are stored plain; 4 and 8 bits in groups of 32 are Q4_0 and Q8_0"
        ))
    }

    fn layers_exist(
        &self,
        plan: &QuantizePlan,
        key: &str,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        let num_layers = config.num_hidden_layers;
        for (idx, one) in plan.overrides.iter().enumerate() {
            let layers = one.layers.iter().flatten();
            if let Some(layer) = layers.copied().find(|&layer| layer >= num_layers) {
                let fact = format!("the student has no layer {layer}");
                let fault = Diagnostic::new("quantize/layers", fact)
                    .help(format!("layers count from 0 to {}", num_layers - 1));
                let key = format!("{key}.overrides.{idx}.layers");
                return Err(self.fault(&key, "past the last layer", fault));
            }
        }
        Ok(())
    }

    /// A tied output layer is the embedding, and has the scheme of that.
    fn output_is_its_own(
        &self,
        plan: &QuantizePlan,
        key: &str,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        if plan.output.is_none() || !config.tie_word_embeddings {
            return Ok(());
        }
        let fact = "the student's output layer has no matrix of its own: it is `model.embed_tokens.weight`";
        let fault = Diagnostic::new("quantize/tied-output", fact)
            .help("write `embedding` in place of `output`");
        Err(self.fault(&format!("{key}.output"), "a scheme of nothing", fault))
    }

    fn groups(
        &self,
        plan: &QuantizePlan,
        key: &str,
        schemes: &Schemes,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        let Some((spec, group_size)) = uneven_groups(schemes, config) else {
            return Ok(());
        };
        let columns = spec.shape[1];
        let fact = format!(
            "`group_size` {group_size} does not divide the {columns} columns of `{}`",
            spec.name
        );
        let (of, help) = match spec.kind() {
            ParameterKind::Embedding => ("embedding.group_size", "use a divisor, or `channel`"),
            ParameterKind::Head => ("output.group_size", "use a divisor, or `channel`"),
            _ => (
                match plan.scheme.group_size {
                    Some(size) if size == group_size => "group_size",
                    _ => "overrides",
                },
                "use a divisor, or `channel`, for all projections or in an override",
            ),
        };
        let fault = Diagnostic::new("quantize/uneven-groups", fact).help(help);
        let label = format!(
            "{columns} / {group_size} leaves {} over",
            columns % group_size
        );
        Err(self.fault(&format!("{key}.{of}"), &label, fault))
    }

    fn parts_are_alike(
        &self,
        key: &str,
        schemes: &Schemes,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        let Some([one, other]) = unlike_parts(schemes, config) else {
            return Ok(());
        };
        let told = |spec: &ParameterSpec| match schemes.get(&spec.id) {
            Some(scheme) => scheme.to_string(),
            None => "not quantised".to_owned(),
        };
        let fact = format!(
            "`{one}` and `{other}` are one matrix in engines, but have two schemes: {}, and {}",
            told(&one),
            told(&other),
            one = one.name,
            other = other.name,
        );
        let fault = Diagnostic::new("quantize/unlike-parts", fact)
            .help("name both in one override: `q_proj`, `k_proj` and `v_proj`, or `gate_proj` and `up_proj`");
        Err(self.fault(&format!("{key}.overrides"), "takes them apart", fault))
    }

    /// Under a budget a part whose projections are not all named by an override, or none of them, is refused: its width
    /// might come out to be any other.
    fn parts_are_chosen_whole(
        &self,
        plan: &QuantizePlan,
        key: &str,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        let has_budget = |sensitivity: &SensitivityPlan| sensitivity.budget.is_some();
        if !plan.sensitivity.as_ref().is_some_and(has_budget) {
            return Ok(());
        }
        for bits in WIDTHS {
            let scheme = SchemePlan {
                bits,
                ..plan.scheme
            };
            let uniform = QuantizePlan {
                scheme,
                ..plan.clone()
            };
            self.parts_are_alike(key, &schemes(&uniform, config), config)?;
        }
        Ok(())
    }

    /// Formats other than compressed-tensors say nothing of activations.
    fn formats_hold(&self, schemes: &Schemes, config: &DecoderConfig) -> Result<(), RecipeFaults> {
        let name = |id| config.family().name_of(id);
        let rounded = schemes.iter().filter(|(_, scheme)| scheme.input.is_some());
        let rounded = rounded.map(|(&id, scheme)| (name(id), scheme));
        let Some((name, scheme)) = rounded.min_by(|(one, _), (other, _)| one.cmp(other)) else {
            return Ok(());
        };
        let mut formats = self.plan.export.formats.iter().copied();
        let Some(format) = formats.find(|&format| format != ExportFormat::CompressedTensors) else {
            return Ok(());
        };
        let fact = format!(
            "`{}` cannot say that what enters `{name}` is rounded: {scheme}",
            folder(format)
        );
        let fault = Diagnostic::new("export/activations", fact)
            .help("write `formats: [compressed-tensors]`, or `activations: none`");
        Err(self.fault("export.formats", "has no place for it", fault))
    }

    /// Formats of codes hold, and their engines take, some schemes only.
    fn containers_hold(
        &self,
        schemes: &Schemes,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        let export = &self.plan.export;
        let formats = export.formats.iter();
        let mut refusals =
            formats.filter_map(|&format| refusal_by(format, schemes, export.dtype, config));
        let Some(refusal) = refusals.next() else {
            return Ok(());
        };
        let fault = Diagnostic::new("export/scheme", refusal.fact).help(refusal.help);
        Err(self.fault("export.formats", "not in all of these", fault))
    }
}
