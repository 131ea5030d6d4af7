//! What a user sees of a bad recipe: whole outputs as snapshots, and that each fault is among them.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use alambic::plan;

    /// One command line whose faults point into both texts.
    const OVERRIDES: [&str; 9] = [
        "distill.steps=-3",
        "passes.0.distill.temperature=3.0",
        "passes.9.distill.steps=1",
        "quantize.bits=4",
        "studnet.checkpoint=text",
        "teacher.batch_size",
        "data.train=[text, missing]",
        "seed=[1",
        "prune.sparsity=0.99",
    ];

    fn bad_recipes() -> Vec<PathBuf> {
        let entries = fs::read_dir("tests/bad_recipes").unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        });
        paths.sort();
        paths
    }

    fn output(path: &Path) -> String {
        let is_overridden = path.ends_with("overrides.yaml");
        let overrides = if is_overridden { &OVERRIDES[..] } else { &[] };
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        plan::load(path, &overrides).unwrap_err().to_string()
    }

    #[test]
    fn every_bad_recipe_is_told_as_in_its_snapshot() {
        let paths = bad_recipes();
        assert_eq!(paths.len(), 24);
        for path in paths {
            let name = path.file_stem().unwrap().to_str().unwrap();
            insta::assert_snapshot!(name, output(&path));
        }
    }

    #[test]
    fn every_fault_of_the_source_is_in_a_snapshot() {
        let mut known = BTreeSet::new();
        let mut folders = vec![PathBuf::from("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let source = fs::read_to_string(path).unwrap();
                for part in source.split("\"recipe/").skip(1) {
                    known.insert(part.split(['"', '{']).next().unwrap().to_owned());
                }
            }
        }
        assert!(known.len() > 20, "{known:?}");
        known.remove("unreadable"); // the file system's words, tested below
        let told: String = bad_recipes().iter().map(|path| output(path)).collect();
        for id in known {
            assert!(
                told.contains(&format!("error[recipe/{id}")),
                "{id} is never told"
            );
        }
    }

    #[test]
    fn faults_of_the_recipe_are_in_the_order_of_its_lines() {
        for name in ["misspelt", "values", "contradictions"] {
            let output = output(&Path::new("tests/bad_recipes").join(format!("{name}.yaml")));
            let lines: Vec<usize> = output
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("--> ")?.split(':').nth(1))
                .map(|line| line.parse().unwrap())
                .collect();
            assert!(lines.len() >= 9, "{output}");
            assert!(lines.is_sorted(), "{name}: {lines:?}");
        }
    }

    #[test]
    fn a_recipe_that_cannot_be_read_is_named() {
        let told = output(Path::new("tests/bad_recipes/absent.yaml"));
        assert!(
            told.starts_with("error[recipe/unreadable]: tests/bad_recipes/absent.yaml: "),
            "{told}"
        );
        assert!(told.ends_with("error: 1 fault in tests/bad_recipes/absent.yaml; nothing was run"));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        assert!(output(&path).contains("longer than 1 MiB"));
        #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
        fs::write(&path, b"name: \xff").unwrap();
        assert!(output(&path).contains("not UTF-8 from byte 6 on"));
    }
}
