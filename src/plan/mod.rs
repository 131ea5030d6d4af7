//! The plan of a run. Every default is filled in, every path is absolute, every value is checked.
//!
//! Each stage declares its own block; here the blocks are joined, with the rules between them. A stage receives its own
//! block and sees no other. Blocks serialise to JSON: an artifact's key is a hash of that JSON, so a field belongs to it only
//! if changing it may change what a stage writes. Fields that must not change a key (device, log and save intervals) are marked
//! `#[serde(skip)]`.

mod losses;
mod rules;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::cache::{CACHE, CachePlan};
use crate::data::{DATA, DataPlan};
use crate::diag::Diagnostic;
use crate::export::{EXPORT, ExportPlan};
use crate::kernels::Arithmetic;
use crate::passes::{PASS, PassPlan};
use crate::recipe::{
    self, Fields, Grammar, Kind, PathKind, Read, RecipeFaults, Spelling, Value, keys,
};
use crate::student::{STUDENT, StudentPlan};
use crate::teacher::{TEACHER, TeacherPlan};

/// Names of devices.
const DEVICES: &[Spelling] = &[
    Spelling {
        word: "flex",
        also: &["cpu"],
    },
    Spelling {
        word: "wgpu",
        also: &["gpu", "metal", "mps"],
    },
    Spelling::of("vulkan"),
    Spelling {
        word: "tch",
        also: &["libtorch", "torch"],
    },
    Spelling {
        word: "cuda",
        also: &["nvidia", "cuda:0"],
    },
];

keys! {
    pub struct Plan in RECIPE = "the recipe", "The inputs, training and results of a run." {
        name: String = required(Kind::Name, "name of the recipe and of its run folders");
        seed: u64 = or("0", Kind::Integer(0, u64::MAX), "number from which every random choice follows");
        /// The recipe file this plan was read from.
        #[serde(skip)]
        recipe_path: PathBuf = beside(PathBuf::new());
        #[serde(skip)]
        output: PathBuf = or("checkpoints", Kind::Path(PathKind::Output), "folder for run folders and caches") also ["output_dir", "out", "out_dir", "save_dir"];
        #[serde(skip)]
        device: String = or("flex", Kind::Word(DEVICES), "device that computes; the program must be built with it");
        data: DataPlan = required(Kind::Block(&DATA), "text and tokenizer") from data;
        teacher: Option<TeacherPlan> = rule("no teacher; the student learns from text alone", Kind::Block(&TEACHER), "the model to imitate");
        /// Present exactly if `teacher` is.
        cache: Option<CachePlan> = or("{}", Kind::Block(&CACHE), "the teacher's predictions to capture") from cache;
        student: StudentPlan = required(Kind::Choice(&STUDENT), "the model to train");
        passes: Vec<PassPlan> = required(Kind::List(&Kind::Choice(&PASS), 1, 1000), "the schedule, in order") from passes;
        export: ExportPlan = or("{}", Kind::Block(&EXPORT), "output at the end");
    }
}

impl Plan {
    /// Sets the arithmetic of the teacher's capture and of the student's training.
    pub fn compute_in(&mut self, arithmetic: Arithmetic) {
        if let Some(teacher) = &mut self.teacher {
            teacher.precision = arithmetic;
        }
        self.student.products.precision = arithmetic;
        for fit in self.passes.iter_mut().filter_map(PassPlan::fit_mut) {
            fit.precision = arithmetic;
        }
    }

    /// Arithmetic of teacher and student, each with its key.
    pub fn precisions(&self) -> impl Iterator<Item = (&'static str, Arithmetic)> {
        let of_teacher = self.teacher.as_ref();
        let of_teacher = of_teacher.map(|teacher| ("teacher.precision", teacher.precision));
        let of_student = ("student.precision", self.student.products.precision);
        of_teacher.into_iter().chain([of_student])
    }
}

/// The schedule, with the student's arithmetic in its training.
fn passes(recipe: Fields<'_>) -> Option<Vec<PassPlan>> {
    let student: Option<StudentPlan> = recipe.get("student");
    let mut passes: Vec<PassPlan> = recipe.get("passes")?;
    if let Some(student) = student {
        for fit in passes.iter_mut().filter_map(PassPlan::fit_mut) {
            fit.precision = student.products.precision;
        }
    }
    Some(passes)
}

/// Plan of the text, limited to as much as is captured.
fn data(recipe: Fields<'_>) -> Option<DataPlan> {
    let train_tokens = recipe.block("cache")?.get("tokens")?;
    let data: DataPlan = recipe.get("data")?;
    Some(DataPlan {
        train_tokens,
        ..data
    })
}

fn cache(recipe: Fields<'_>) -> Read<Option<CachePlan>> {
    if recipe.is_written("teacher") {
        recipe.get("cache")
    } else {
        Some(None)
    }
}

impl Plan {
    /// True if a pass learns from the cache of the training text.
    pub fn reads_cache(&self) -> bool {
        let fits = self.passes.iter().filter_map(PassPlan::fit);
        self.cache.is_some() && fits.into_iter().any(|fit| fit.losses.is_soft())
    }
}

const GRAMMAR: Grammar = Grammar {
    root: &RECIPE,
    contradictions: rules::contradictions,
    may_be_absent: &[],
    override_example: "distill.steps=200",
};

/// The plan of a recipe file, with `path=value` overrides applied.
///
/// Relative paths, those of overrides included, start at the folder of the recipe.
pub fn load(path: &Path, overrides: &[String]) -> Result<Plan, RecipeFaults> {
    load_by(&GRAMMAR, path, overrides)
}

/// The plan of a recipe file whose teacher and text need not exist; see [`load`].
pub fn load_without_inputs(path: &Path, overrides: &[String]) -> Result<Plan, RecipeFaults> {
    let grammar = Grammar {
        may_be_absent: &["teacher", "data", "source"],
        ..GRAMMAR
    };
    load_by(&grammar, path, overrides)
}

fn load_by(grammar: &Grammar, path: &Path, overrides: &[String]) -> Result<Plan, RecipeFaults> {
    let (plan, recipe_path) = recipe::load(grammar, path, overrides)?;
    Ok(Plan {
        recipe_path,
        ..plan
    })
}

/// The plan of a text that will be written to `path`; see [`load`].
pub fn of_text(text: &str, path: &Path) -> Result<Plan, RecipeFaults> {
    let plan = recipe::understand(&GRAMMAR, text, &[], path)?;
    Ok(Plan {
        recipe_path: path.to_owned(),
        ..plan
    })
}

/// A fault that was found later, pointed at a key of the plan's recipe; see [`recipe::fault_at`].
pub fn fault_at(
    plan: &Plan,
    overrides: &[String],
    key: &str,
    label: &str,
    fault: Diagnostic,
) -> RecipeFaults {
    recipe::fault_at(&GRAMMAR, &plan.recipe_path, overrides, key, label, fault)
}

/// The plan as a recipe. [`load`] turns it into the same plan if it is read from `folder`, which all paths are relative
/// to, so that a published export does not show where its maker keeps their files.
pub fn resolved_yaml(plan: &Plan, folder: &Path) -> String {
    recipe::to_yaml(&plan.write(folder))
}

/// JSON Schema (2020-12) of a recipe.
pub fn schema() -> serde_json::Value {
    recipe::schema(&RECIPE, "alambic recipe")
}

/// `docs/recipe.md`: every key with its type, default and meaning.
pub fn reference_markdown() -> String {
    format!(
        "# Recipe keys\n\n\
         Made from the tables in `src/**/plan.rs`; after a change there, \
         `cargo test --release --test recipes` names the file to copy here. Types are strict and an unknown key is an \
         error. Relative paths start at the folder of the recipe. `--set path=value` replaces any \
         value: `--set data.sequence_length=128`, `--set passes.0.distill.steps=200`.\n{}",
        recipe::page(&RECIPE)
    )
}

/// Words that a key may have, such as `["export", "formats"]`; none if the key takes other values, or does not exist.
pub fn words(path: &[&str]) -> Vec<&'static str> {
    recipe::words_at(&RECIPE, path)
}

keys! {
    /// A recipe that only exports.
    struct Alone in ALONE = "the arguments", "Output made from a checkpoint." {
        export: ExportPlan = required(Kind::Block(&EXPORT), "output");
    }
}

/// Plan of an `export` block, from a text made of a command's arguments; messages call the text `name`.
pub fn export_plan(
    text: &str,
    overrides: &[String],
    name: &str,
) -> Result<ExportPlan, RecipeFaults> {
    let grammar = Grammar {
        root: &ALONE,
        may_be_absent: &[],
        contradictions: |_, _| (),
        ..GRAMMAR
    };
    recipe::understand::<Alone>(&grammar, text, overrides, Path::new(name))
        .map(|alone| alone.export)
}
