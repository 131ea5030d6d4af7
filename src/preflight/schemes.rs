//! Checks of grids against the formats that have to hold them, by headers.

use super::Preflight;
use crate::checkpoint::second_rounding;
use crate::diag::Diagnostic;
use crate::formats::{Format, gguf};
use crate::kernels::grid::Levels;
use crate::model::{DecoderConfig, Schemes};
use crate::opened::OpenedModel;
use crate::recipe::RecipeFaults;

impl Preflight<'_> {
    /// Refuses formats that cannot hold the schemes of the pass that quantises.
    ///
    /// `configs` are the architectures of the students before the passes.
    pub(super) fn formats(&self, configs: &[DecoderConfig]) -> Result<(), RecipeFaults> {
        let Some((schemes, config)) = self.quantized(configs) else {
            return Ok(());
        };
        self.formats_hold(&schemes, &config)?;
        self.containers_hold(&schemes, &config)
    }

    /// Schemes of the last pass, if it quantises, and the own layers of the student before it.
    fn quantized(&self, configs: &[DecoderConfig]) -> Option<(Schemes, DecoderConfig)> {
        let (pass, config) = self.plan.passes.iter().zip(configs).next_back()?;
        let config = self.inputs(config, config).own_layers();
        Some((pass.pass().schemes(&config)?, config))
    }

    /// Refuses grids without a 0 for a student that was pruned before this run.
    pub(super) fn keeps_zeros(&self, configs: &[DecoderConfig]) -> Result<(), RecipeFaults> {
        let quantized = self.quantized(configs);
        let schemes = quantized
            .into_iter()
            .flat_map(|(schemes, _)| schemes.into_values());
        let mut levels = schemes.map(|scheme| scheme.weight.levels);
        if !levels.any(|levels| levels == Levels::Stretched) {
            return Ok(());
        }
        let fact = "`type: stretched` has no 0, but the student was pruned";
        let fault =
            Diagnostic::new("recipe/no-zero", fact).help("write `type: ternary`, or `bits: 2`");
        Err(self.fault(
            "student.checkpoint",
            "some of its weights are pruned",
            fault,
        ))
    }

    /// Notes on weights that are rounded twice, or stored otherwise in a GGUF file than one may expect.
    ///
    /// `source` is the model that the student starts from or is made of.
    pub(super) fn stored(
        &self,
        configs: &[DecoderConfig],
        source: Option<&OpenedModel>,
    ) -> Vec<String> {
        let export = &self.plan.export;
        let has_gguf = export.formats.contains(&Format::Gguf);
        let left = configs.last().cloned();
        let (schemes, config) = match (self.quantized(configs), left) {
            (Some(quantized), _) => quantized,
            (None, Some(left)) => (Schemes::new(), left),
            (None, None) => return Vec::new(),
        };
        let (plan, dtype) = (export.gguf, export.dtype);
        let again = source
            .and_then(|source| source.model.grids())
            .filter(|grids| {
                let in_blocks =
                    has_gguf && gguf::rounds_source(grids, plan, dtype, &schemes, &config);
                !schemes.is_empty() || in_blocks
            });
        let mut notes: Vec<String> = again.iter().map(|grids| second_rounding(grids)).collect();
        if has_gguf {
            notes.extend(gguf::notes(plan, dtype, &schemes, &config));
        }
        notes
    }

    /// Refuses rounded activations in formats other than compressed-tensors, which cannot record them.
    fn formats_hold(&self, schemes: &Schemes, config: &DecoderConfig) -> Result<(), RecipeFaults> {
        let name = |id| config.family().name_of(id);
        let rounded = schemes.iter().filter(|(_, scheme)| scheme.input.is_some());
        let rounded = rounded.map(|(&id, scheme)| (name(id), scheme));
        let Some((name, scheme)) = rounded.min_by(|(one, _), (other, _)| one.cmp(other)) else {
            return Ok(());
        };
        let mut formats = self.plan.export.formats.iter().copied();
        let Some(format) = formats.find(|format| !format.holds_rounded_inputs()) else {
            return Ok(());
        };
        let fact = format!("`{format}` cannot record rounded inputs of `{name}`: {scheme}");
        let fault = Diagnostic::new("export/activations", fact)
            .help("write `formats: [compressed-tensors]`, or `activations: none`");
        Err(self.fault("export.formats", "cannot store this", fault))
    }

    /// Refuses schemes that formats of codes cannot hold or that their engines do not take.
    fn containers_hold(
        &self,
        schemes: &Schemes,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        let export = &self.plan.export;
        let formats = export.formats.iter();
        let mut refusals =
            formats.filter_map(|format| format.refusal(schemes, export.dtype, config));
        let Some(refusal) = refusals.next() else {
            return Ok(());
        };
        let fault = Diagnostic::new("export/scheme", refusal.fact).help(refusal.help);
        Err(self.fault("export.formats", "not in all of these formats", fault))
    }
}
