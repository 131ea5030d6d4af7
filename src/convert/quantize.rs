//! Quantisation of a checkpoint: the arguments become a recipe of one pass, and that pass is run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::parts::parts;
use super::source::Source;
use super::{
    ConvertContext, ConvertError, Converted, ModelFiles, Request, Written, check_out, check_texts,
    publish, stop_if_asked,
};
use crate::data::{TokenRows, tokenizer_path};
use crate::files::{self, UnfinishedDir, hash_json};
use crate::formats::{Format, gguf};
use crate::kernels::grid::Levels;
use crate::model::DecoderConfig;
use crate::opened::ModelPath;
use crate::passes::quantize::schemes;
use crate::passes::{self, PassPlan, QuantizePlan};
use crate::plan::{self, Plan};
use crate::preflight;
use crate::progress::decimals;
use crate::run::lock;
use crate::student::Student;
use crate::train::Predictions;
use crate::train::evaluate::{Evaluation, Reference, evaluate, measure};
use crate::train::fit::PassContext;

/// Name in messages of the recipe that is made of arguments.
const ARGUMENTS: &str = "the recipe of these arguments";

/// Folder of an unfinished pass, inside that of an unfinished result; the same command resumes from it.
const PASS_DIR: &str = "quantize";

/// Arguments as keys of a recipe, spelled as there, with their values.
pub type Arguments<'a> = [(&'a str, &'a str)];

/// Cost of putting a checkpoint on a grid.
#[derive(Debug, Clone, Serialize)]
pub struct QuantizedCheckpoint {
    /// Mean loss of a token before, in nats.
    pub loss_before_nats: f64,
    /// Mean loss of a token after, in nats.
    pub loss_after_nats: f64,
    /// KL(before ‖ after), nats per position.
    pub kl_nats: f64,
    /// Share of positions whose likeliest token is the same.
    pub top1_agreement: f64,
    /// Positions measured: those of text, without the separators after documents.
    pub positions: u64,
    /// True if the pass read the same text, because there was no more of it.
    pub measured_on_calibration_text: bool,
}

/// Sections that `--set` may name.
pub const SECTIONS: &[&str] = &["passes.0", "quantize", "export"];

/// Runs a quantising pass with these keys on a checkpoint and writes it in one format, verified, with its card.
///
/// If it is stopped or fails after the pass began, finished work is kept beside the place of the result: the same request
/// resumes from there.
pub fn quantize(
    request: &Request<'_>,
    keys: &Arguments<'_>,
    export: &Arguments<'_>,
    overrides: &[String],
    context: &ConvertContext<'_>,
) -> Result<Converted, ConvertError> {
    check_texts(request)?;
    let source = Source::open(request.checkpoint)?;
    check_out(&request.out)?;
    let partial = UnfinishedDir::resume(&request.out)?;
    let _lock = lock(partial.path())?;
    partial.remove_parts()?;
    let done = || {
        let plan = plan(request, &source, [keys, export], overrides, partial.path())?;
        let method = keys.iter().find(|(key, _)| *key == "method");
        Job {
            request,
            method: method.map_or("quantize", |(_, method)| method),
            source: &source,
            plan,
            overrides,
            context,
        }
        .run(partial.path())
    };
    let written = done();
    let pass_dir = partial.path().join(PASS_DIR);
    let has_begun = fs::read_dir(pass_dir).is_ok_and(|mut entries| entries.next().is_some());
    let written = match written {
        Err(ConvertError::Stopped) if has_begun => Err(ConvertError::StoppedHalfWay),
        written => written,
    };
    publish(written, partial, has_begun)
}

/// Plan of a recipe that is made of arguments, in the folder of the unfinished result.
fn plan(
    request: &Request<'_>,
    source: &Source,
    [keys, export]: [&Arguments<'_>; 2],
    overrides: &[String],
    dir: &Path,
) -> Result<Plan, ConvertError> {
    let quoted = |path: &Path| -> Result<Value, ConvertError> {
        let path = std::path::absolute(path)?;
        match path.to_str() {
            Some(path) => Ok(json!(path)), // a JSON string is a YAML string
            None => Err(ConvertError::NotUtf8 { path }),
        }
    };
    let texts = request.text.iter().map(|text| quoted(text));
    let mut texts: Vec<Value> = texts.collect::<Result<_, _>>()?;
    if texts.is_empty() {
        let passage = dir.join("passage.txt");
        files::write_atomically(&passage, |out| out.write_all(super::PASSAGE.as_bytes()))?;
        texts.push(quoted(&passage)?);
    }
    let texts = Value::from(texts);
    let tokenizer = match request.tokenizer {
        Some(file) if file.is_file() => file.to_path_buf(),
        folder => {
            let folder = folder.map(ModelPath::of).transpose()?;
            let dir = folder.map_or_else(|| source.path().to_path_buf(), |folder| folder.path);
            let path = tokenizer_path(&dir);
            if !path.exists() {
                return Err(ConvertError::NoTokenizer { dir });
            }
            path
        }
    };
    let mut text = format!(
        "name: quantize\noutput: {}\ndata:\n  train: {texts}\n  validation: {texts}\n  sequence_length: {}\n",
        quoted(dir)?,
        request.sequence_length,
    );
    let _ = writeln!(text, "  tokenizer: {{ file: {} }}", quoted(&tokenizer)?);
    let checkpoint = quoted(source.path())?;
    let _ = writeln!(
        text,
        "student: {{ checkpoint: {checkpoint} }}\npasses:\n  - quantize:"
    );
    for (key, value) in keys {
        let _ = writeln!(text, "      {key}: {value}");
    }
    text.push_str("export:\n");
    for (key, value) in export {
        let _ = writeln!(text, "  {key}: {value}");
    }
    let path = dir.join("recipe.yaml");
    files::write_atomically(&path, |out| out.write_all(text.as_bytes()))?;
    plan::load(&path, overrides).map_err(|mut faults| {
        ARGUMENTS.clone_into(&mut faults.sources.recipe_name);
        faults.into()
    })
}

struct Job<'a> {
    request: &'a Request<'a>,
    /// Method, as it was named.
    method: &'a str,
    source: &'a Source,
    plan: Plan,
    overrides: &'a [String],
    context: &'a ConvertContext<'a>,
}

impl Job<'_> {
    fn run(&self, dir: &Path) -> Result<Written, ConvertError> {
        let (pass, plan) = self.pass()?;
        let student = self.source.free_student(self.context.device)?;
        let config = &student.decoder.config;
        preflight::check_passes(&self.plan, self.overrides, config).map_err(|mut faults| {
            ARGUMENTS.clone_into(&mut faults.sources.recipe_name);
            faults
        })?;
        self.check_blocks(plan, config)?;
        check_zeros(plan, &student)?;
        let mut model = ModelFiles::of(self.source, config, self.request)?;
        let tokens_read = plan.tokens_read();
        let [train, measured] = parts(&model.rows, tokens_read > 0);
        if tokens_read > 0 {
            let num_tokens = tokens_read.min(train.num_positions());
            model.reads("calibration text", num_tokens);
        }
        let is_same = train == measured;
        model.rows = measured;

        stop_if_asked(self.context)?;
        let rows = &model.rows;
        let before = Predictions::of(&student.effective(), rows, rows.num_rows(), Some("before"));
        let found = measure(&before, rows, Reference::None, |_| true)?;
        let loss_before_nats = finite(found.expect("nothing ended it"), "before")?.loss_nats;
        let student = self.apply(pass, student, &train, rows, &dir.join(PASS_DIR))?;
        stop_if_asked(self.context)?;
        let after = evaluate(
            &student.effective(),
            rows,
            Reference::Teacher(&before),
            "after",
        )?;
        let after = finite(after, "after")?;
        drop(before);
        let quantized = QuantizedCheckpoint {
            loss_before_nats,
            loss_after_nats: after.loss_nats,
            kl_nats: after.kl_nats.unwrap_or_default(),
            top1_agreement: after.top1_agreement.unwrap_or_default(),
            positions: after.positions,
            measured_on_calibration_text: is_same && tokens_read > 0,
        };
        model.table = quantized.table();
        let written = model.write(&self.plan.export, &student, self.context, dir)?;
        Ok(Written {
            quantized: Some(quantized),
            ..written
        })
    }

    /// The only pass, which must not train.
    fn pass(&self) -> Result<(&PassPlan, &QuantizePlan), ConvertError> {
        let [pass] = self.plan.passes.as_slice() else {
            return Err(ConvertError::OtherPasses);
        };
        let plan = pass.quantize().ok_or(ConvertError::OtherPasses)?;
        if pass.fit().is_some() {
            return Err(ConvertError::Trains);
        }
        if self.request.text.is_empty() && plan.tokens_read() > 0 {
            let method = self.method.to_owned();
            return Err(ConvertError::NeedsText { method });
        }
        Ok((pass, plan))
    }

    /// Refuses grids that blocks of ggml cannot hold: a file of plain weights is not the purpose of this command.
    fn check_blocks(
        &self,
        plan: &QuantizePlan,
        config: &DecoderConfig,
    ) -> Result<(), ConvertError> {
        let export = &self.plan.export;
        if !export.formats.contains(&Format::Gguf) {
            return Ok(());
        }
        let schemes = schemes(plan, config);
        if let Some(kind) = export.gguf.linear {
            return match gguf::rounds_again(kind, &schemes, config) {
                Some(grid) => Err(ConvertError::RoundsAgain { grid, kind }),
                None => Ok(()),
            };
        }
        let has_budget = plan
            .sensitivity
            .as_ref()
            .is_some_and(|plan| plan.budget.is_some());
        let grid = if has_budget {
            Some("projections of several widths".to_owned())
        } else {
            gguf::without_blocks(&schemes, config)
        };
        grid.map_or(Ok(()), |grid| Err(ConvertError::NoBlocks { grid }))
    }

    fn apply(
        &self,
        pass: &PassPlan,
        student: Student,
        train: &TokenRows,
        measured: &TokenRows,
        dir: &Path,
    ) -> Result<Student, ConvertError> {
        fs::create_dir_all(dir).map_err(|error| files::with_path(error, dir))?;
        let key = hash_json(&(self.source.hash()?, pass, train.hash()));
        let context = PassContext {
            label: "quantize",
            dir,
            key: &key,
            origin: None,
            begin: None,
            seed: self.plan.seed,
            rows: train,
            cache: None,
            teacher: None,
            validation: measured,
            validation_cache: None,
            stop: self.context.stop,
            wall_time: 0.0,
        };
        Ok(passes::apply(pass, student, &context)?)
    }
}

/// Refuses a grid without a 0 for a pruned student, whose zeros it would move.
fn check_zeros(plan: &QuantizePlan, student: &Student) -> Result<(), ConvertError> {
    let mut schemes = schemes(plan, &student.decoder.config).into_iter();
    let moved = schemes.find(|(id, scheme)| {
        scheme.weight.levels == Levels::Stretched && student.masks.contains_key(id)
    });
    match moved {
        Some((id, _)) => Err(ConvertError::NoZero {
            name: student.decoder.config.family().name_of(id),
        }),
        None => Ok(()),
    }
}

/// The evaluation, if its loss is a finite number.
fn finite(found: Evaluation, when: &str) -> Result<Evaluation, ConvertError> {
    if found.loss_nats.is_finite() {
        return Ok(found);
    }
    Err(ConvertError::NoLoss {
        when: when.to_owned(),
        loss: found.loss_nats,
    })
}

impl QuantizedCheckpoint {
    /// Table for the card: column titles, and a row each for before and after.
    fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = ["weights", "loss (nats)", "KL (nats)", "top-1 (%)"];
        let row = |name: &str, loss: f64, kl: f64, top1: f64| {
            let top1 = 100.0 * top1;
            vec![
                name.to_owned(),
                decimals(loss, 4),
                decimals(kl, 4),
                decimals(top1, 1),
            ]
        };
        let rows = vec![
            row("before", self.loss_before_nats, 0.0, 1.0),
            row(
                "quantised",
                self.loss_after_nats,
                self.kl_nats,
                self.top1_agreement,
            ),
        ];
        (columns.map(str::to_owned).to_vec(), rows)
    }
}
