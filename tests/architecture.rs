//! The rules of the house that a compiler does not check.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::{Path, PathBuf};

    use crate::common::source::{is_test, names_on_the_way, read, root, rust_files, shipped_code};

    /// A concept in one long file beats three that say "a part of".
    const MAX_LINES: usize = 600;

    /// Modules of the library in the order of `lib.rs`, which is the order of the data.
    fn modules() -> Vec<String> {
        let lib = read(&root().join("src/lib.rs"));
        let names = lib
            .lines()
            .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
        names.map(str::to_owned).collect()
    }

    /// Name of the module that a file of `src/` belongs to.
    fn module_of(path: &Path) -> String {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let first = Path::new(inside.components().next().unwrap().as_os_str());
        first.file_stem().unwrap().to_str().unwrap().to_owned()
    }

    /// Modules that the code names after `crate::`, alone or in braces.
    fn used_modules(code: &str) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for after in code.split("crate::").skip(1) {
            match after.strip_prefix('{') {
                Some(group) => used.extend(names_in_group(group)),
                None => used.extend(leading_name(after)),
            }
        }
        used
    }

    fn leading_name(text: &str) -> Option<String> {
        let text = text.trim_start();
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let name = text.split(|letter| !is_name(letter)).next()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// First names of the entries of `{a::x, b::{y, z}}`, given what follows the first brace.
    fn names_in_group(group: &str) -> Vec<String> {
        let (mut depth, mut entry, mut names) = (1, String::new(), Vec::new());
        for letter in group.chars() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => names.extend(leading_name(&std::mem::take(&mut entry))),
                _ if depth == 1 => entry.push(letter),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        names.extend(leading_name(&entry));
        names
    }

    /// Modules that stand below `module` in `order`, or do not stand there, and yet are used.
    fn uphill_uses(module: &str, code: &str, order: &[String]) -> Vec<String> {
        let place = |name: &str| order.iter().position(|module| module == name);
        let own = place(module).unwrap_or_else(|| panic!("`{module}` is not in src/lib.rs"));
        let used = used_modules(code).into_iter();
        used.filter(|name| place(name).is_none_or(|place| place > own))
            .collect()
    }

    #[test]
    fn a_module_uses_only_modules_above_it() {
        let order = modules();
        assert!(order.len() >= 18, "modules found: {order:?}");
        let mut faults = Vec::new();
        let mut num_files = 0;
        for path in rust_files("src") {
            let module = module_of(&path);
            if is_test(&path) || module == "lib" || module == "main" {
                continue;
            }
            num_files += 1;
            for used in uphill_uses(&module, &shipped_code(&read(&path)), &order) {
                faults.push(format!("{} uses `crate::{used}`", path.display()));
            }
        }
        assert!(
            num_files >= order.len(),
            "{num_files} files for {} modules",
            order.len()
        );
        assert!(
            faults.is_empty(),
            "against the order of src/lib.rs:\n{}",
            faults.join("\n")
        );
    }

    #[test]
    fn the_search_for_uses_sees_paths_and_groups_and_passes_over_comments_and_tests() {
        let order = ["files", "data", "train"].map(str::to_owned);
        let text = "\
//! See `crate::train`.
use crate::files; // not crate::train
use crate::{files::{a, b}, train::{self, fit}};
fn f() { crate::lost::g(crate::data::h()); }
#[cfg(test)]
mod tests { use crate::absent; }
";
        let code = shipped_code(text);
        let used: Vec<String> = used_modules(&code).into_iter().collect();
        assert_eq!(used, ["data", "files", "lost", "train"]);
        assert_eq!(uphill_uses("data", &code, &order), ["lost", "train"]);
        assert_eq!(uphill_uses("train", &code, &order), ["lost"]);
    }

    /// Tells whether the code has a path through a module of this name.
    fn goes_through(code: &str, module: &str) -> bool {
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
        let mut befores = code.split(&format!("{module}::")).collect::<Vec<_>>();
        befores.pop(); // behind the last
        befores.iter().any(|before| !before.ends_with(is_part))
    }

    #[test]
    fn writers_and_readers_of_formats_share_no_code() {
        let (mut num_files, mut faults) = (0, Vec::new());
        for path in rust_files("src/formats") {
            let names = names_on_the_way(&path);
            let stands_in = |name: &str| names.iter().any(|other| other == name);
            let other = match (stands_in("write"), stands_in("read")) {
                (true, false) => "read",
                (false, true) => "write",
                _ => continue,
            };
            num_files += 1;
            if !is_test(&path) && goes_through(&shipped_code(&read(&path)), other) {
                faults.push(format!("{} goes through `{other}::`", path.display()));
            }
        }
        assert!(num_files >= 12, "{num_files} files of writers and readers");
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        for code in ["use super::read::part;", "use super::{read::{part}};"] {
            assert!(goes_through(code, "read"), "{code}");
        }
        assert!(!goes_through("use super::bread::part; read(x)", "read"));
    }

    /// Names of passes, loss terms, export formats and families, from the tables that recipes are read by, and from the model.
    fn concepts() -> Vec<String> {
        let schema = alambic::plan::schema();
        let keys = |path: &str| -> Vec<String> {
            let keys = schema.pointer(path).and_then(|keys| keys.as_object());
            keys.into_iter()
                .flatten()
                .map(|(key, _)| key.clone())
                .collect()
        };
        let passes = schema.pointer("/properties/passes/items/oneOf").unwrap();
        let num_passes = passes.as_array().unwrap().len();
        let pass = |idx: usize| format!("/properties/passes/items/oneOf/{idx}/properties");
        let mut names: Vec<String> = (0..num_passes).flat_map(|idx| keys(&pass(idx))).collect();
        names.extend(keys(&format!(
            "{}/distill/properties/losses/properties",
            pass(0)
        )));
        names.extend(
            alambic::plan::words(&["export", "formats"])
                .into_iter()
                .map(str::to_owned),
        );
        let families = alambic::model::Architecture::ALL;
        names.extend(families.iter().map(|family| family.model_type().to_owned()));
        names
    }

    /// As it is compared: `CompressedTensors` is `compressed-tensors`.
    fn normal(name: &str) -> String {
        name.replace(['-', '_'], "").to_lowercase()
    }

    #[test]
    fn the_language_of_recipes_names_no_pass_loss_format_or_family() {
        let concepts: BTreeSet<String> = concepts().iter().map(|name| normal(name)).collect();
        assert!(concepts.len() >= 20, "{concepts:?}");
        for known in ["distill", "forwardkl", "gguf", "llama"] {
            assert!(concepts.contains(known), "{known}: {concepts:?}");
        }
        let mut faults = Vec::new();
        for path in rust_files("src/recipe") {
            let code = shipped_code(&read(&path));
            let is_part = |letter: char| letter.is_alphanumeric() || "-_".contains(letter);
            let named = code.split(|letter| !is_part(letter));
            let named = named.filter(|word| concepts.contains(&normal(word)));
            faults.extend(named.map(|word| format!("{}: {word}", path.display())));
        }
        assert!(
            faults.is_empty(),
            "src/recipe names concepts of stages:\n{}",
            faults.join("\n")
        );
    }

    /// Name of the type that a line declares for others than its own file.
    fn shared_type(line: &str) -> Option<String> {
        let declared = line.trim_start().strip_prefix("pub")?;
        let declared = match declared.strip_prefix('(') {
            Some(inside) => inside.split_once(')')?.1,
            None => declared,
        };
        let (kind, name) = declared.trim_start().split_once(' ')?;
        let is_type = ["struct", "enum", "trait", "type", "union"].contains(&kind);
        leading_name(name).filter(|_| is_type)
    }

    #[test]
    fn a_name_of_a_type_means_one_thing() {
        let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for path in rust_files("src").into_iter().filter(|path| !is_test(path)) {
            for name in shipped_code(&read(&path)).lines().filter_map(shared_type) {
                places.entry(name).or_default().push(path.clone());
            }
        }
        assert!(places.len() >= 200, "{} types found", places.len());
        for known in ["Format", "OnGrid", "PassPlan", "Term"] {
            assert!(places.contains_key(known), "{known}");
        }
        places.retain(|_, places| places.len() > 1);
        assert!(places.is_empty(), "{places:#?}");
    }

    #[test]
    fn every_file_has_less_than_600_lines() {
        let files = [rust_files("src"), rust_files("tests")].concat();
        let num_lines = |path: &PathBuf| read(path).lines().count();
        let long: Vec<String> = files
            .iter()
            .filter(|path| num_lines(path) >= MAX_LINES)
            .map(|path| format!("{}: {} lines", path.display(), num_lines(path)))
            .collect();
        assert!(files.len() >= 20, "{} files found", files.len());
        assert!(long.is_empty(), "{}", long.join("\n"));
    }

    #[test]
    fn files_from_outside_are_opened_through_one_module() {
        // There, pipes and devices are refused; the standard library waits for them.
        let direct = [
            " fs::read(",
            "(fs::read(",
            "fs::read_to_string(",
            " File::open(",
            "fs::File::open(",
            "OpenOptions",
            "File::options",
        ];
        let mut faults = Vec::new();
        for path in rust_files("src") {
            if module_of(&path) == "files" || is_test(&path) {
                continue;
            }
            let code = shipped_code(&read(&path));
            let found = direct.iter().filter(|call| code.contains(*call));
            faults.extend(found.map(|call| format!("{}: {call}", path.display())));
        }
        assert!(
            faults.is_empty(),
            "not through `files`:\n{}",
            faults.join("\n")
        );
    }

    #[test]
    fn the_map_of_the_code_names_every_file_and_folder_of_the_source() {
        let page = read(&root().join("docs/architecture.md"));
        let entries: Vec<String> = fs::read_dir(root().join("src"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let slash = if entry.path().is_dir() { "/" } else { "" };
                format!("{}{slash}", entry.file_name().to_string_lossy())
            })
            .collect();
        let missing: Vec<&String> = entries
            .iter()
            .filter(|name| !page.contains(&format!("`{name}`")))
            .collect();
        assert!(entries.len() >= 20, "{} entries found", entries.len());
        assert!(
            missing.is_empty(),
            "docs/architecture.md does not name {missing:?}"
        );
    }

    /// First words that begin a clause instead of naming a thing or an action.
    const WEAK_WORDS: [&str; 7] = ["What", "Of", "As", "How", "Whether", "That", "Those"];

    #[test]
    fn doc_comments_begin_with_a_noun_or_a_verb() {
        let (mut num_blocks, mut weak) = (0, Vec::new());
        for path in rust_files("src") {
            let mut last = "";
            for (line_idx, line) in read(&path).lines().enumerate() {
                let line = line.trim_start();
                let marks = ["///", "//!"];
                let mark = marks.into_iter().find(|mark| line.starts_with(mark));
                let mark = mark.unwrap_or_default();
                if !mark.is_empty() && mark != last {
                    num_blocks += 1;
                    let mut words = line[mark.len()..].split_whitespace();
                    if words.next().is_some_and(|word| WEAK_WORDS.contains(&word)) {
                        weak.push(format!("{}:{}: {line}", path.display(), line_idx + 1));
                    }
                }
                last = mark;
            }
        }
        assert!(num_blocks > 3_000, "{num_blocks} blocks found");
        // A share, not a ban: now and then such a word is the plainest one.
        assert!(
            weak.len() * 20 < num_blocks,
            "{} of {num_blocks} doc comments:\n{}",
            weak.len(),
            weak.join("\n")
        );
    }

    #[test]
    fn every_golden_file_is_used_by_a_test() {
        let Ok(golden) = fs::read_dir(root().join("tests/golden")) else {
            return; // git keeps no empty folder
        };
        let files = [rust_files("src"), rust_files("tests")].concat();
        let code: String = files.iter().map(|path| read(path)).collect();
        let unused: Vec<String> = golden
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|stem| !code.contains(stem.as_str()))
            .collect();
        assert!(
            unused.is_empty(),
            "no test names these files of tests/golden: {unused:?}"
        );
    }
}
