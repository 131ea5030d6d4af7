//! Parts of the recipe for commands that have no recipe: the words that a key may have, and an export alone.

use std::path::Path;

use super::keys::{Block, Kind, required};
use super::recipe_keys::{EXPORT, RECIPE};
use super::{ExportPlan, RecipeFaults, complete, file, set, tree};
use crate::diag::{self, Diagnostic, Origin, Sources};

/// The words that a key may have, such as `["export", "formats"]`; none if the key takes others, or is not there.
pub fn words(path: &[&str]) -> Vec<&'static str> {
    let Some((last, holders)) = path.split_last() else {
        return Vec::new();
    };
    let kind_of = |block: &'static Block, name: &str| {
        let key = block.iter().find(|key| key.name == name)?;
        Some(&key.kind)
    };
    let block = holders.iter().try_fold(&RECIPE, |block, name| {
        kind_of(block, name).and_then(block_of)
    });
    let kind = block.and_then(|block| kind_of(block, last));
    kind.map(words_of).unwrap_or_default()
}

fn block_of(kind: &'static Kind) -> Option<&'static Block> {
    match kind {
        Kind::Block(block) | Kind::Short(block) | Kind::Choice(block) => Some(block),
        Kind::List(entry, ..) => block_of(entry),
        _ => None,
    }
}

fn words_of(kind: &'static Kind) -> Vec<&'static str> {
    match kind {
        Kind::Word(words) => words.to_vec(),
        Kind::List(entry, ..) => words_of(entry),
        _ => Vec::new(),
    }
}

/// A recipe that only exports.
static ALONE: Block = Block {
    name: "the arguments",
    about: "What is written of a checkpoint.",
    keys: &[&[required("export", Kind::Block(&EXPORT), "what is written")]],
};

/// The plan of an `export` block, in a text that was made of the arguments of a command; `name` stands for it in messages.
pub fn export_plan(
    text: &str,
    overrides: &[String],
    name: &str,
) -> Result<ExportPlan, RecipeFaults> {
    let read = || -> Result<ExportPlan, Vec<Diagnostic>> {
        let mut root = tree::parse(text, Origin::Recipe, 0).map_err(|fault| vec![fault])?;
        let mut faults = set::apply(&mut root, overrides);
        let (fields, of_keys) = file::read(&ALONE, &root, Path::new(""));
        faults.extend(of_keys);
        let export = fields.as_ref().and_then(|fields| fields.block("export"));
        let plan = export.and_then(complete::export);
        plan.filter(|_| faults.is_empty()).ok_or(faults)
    };
    read().map_err(|mut diagnostics| {
        diag::sort(&mut diagnostics);
        let sources = Sources {
            recipe_name: name.to_owned(),
            recipe: text.to_owned(),
            command_line: set::command_line(overrides),
        };
        RecipeFaults {
            diagnostics,
            sources,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_table() {
        let formats = words(&["export", "formats"]);
        assert!(formats.starts_with(&["huggingface"]), "{formats:?}");
        let methods = words(&["passes", "quantize", "method"]);
        assert!(methods.contains(&"round-to-nearest"), "{methods:?}");
        assert!(words(&["export", "max_rounding_kl"]).is_empty());
        assert!(words(&["nothing", "here"]).is_empty());
    }

    #[test]
    fn an_export_alone_has_the_defaults_of_a_recipe_and_its_faults() {
        let plan = export_plan("export: { formats: [gguf] }", &[], "arguments").unwrap();
        assert_eq!(plan.formats.len(), 1);
        let overrides = ["export.dtype=f99".to_owned()];
        let told = export_plan("export: { formats: [gguf] }", &overrides, "arguments").unwrap_err();
        let told = told.to_string();
        assert!(told.contains("`dtype` must be"), "{told}");
        assert!(told.contains("--set export.dtype=f99"), "{told}");
        assert!(
            told.ends_with("error: 1 fault in arguments; nothing was run"),
            "{told}"
        );
    }
}
