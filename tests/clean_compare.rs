//! `alambic clean` names and removes what no recipe needs, and nothing else; `alambic compare` tables finished runs.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use crate::common::{Workshop, finished, folders, signal, wait_for};
    use serde_json::json;

    /// Files below the output folder that are neither locks nor remembered hashes.
    fn files(workshop: &Workshop) -> BTreeSet<PathBuf> {
        let files = crate::common::files_below(&workshop.path("out")).into_keys();
        files
            .filter(|path| !path.ends_with(".lock") && !path.ends_with("hashes.json"))
            .collect()
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        reason = "one folder, looked at after each command"
    )]
    fn clean_removes_what_no_recipe_needs_and_nothing_that_it_did_not_make() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml"]);
        let wanted = files(&workshop);
        let told = workshop.done(&["clean", "chain.yaml"]).stdout;
        assert_eq!(told, "nothing to remove\n");

        // Other passes, other rows, another cache; a state for more steps; an unfinished pass.
        workshop.done(&["run", "chain.yaml", "--set", "data.sequence_length=16"]);
        let sets = [
            "--set",
            "quantize.schedule=constant",
            "--set",
            "quantize.warmup_steps=1",
        ];
        workshop.done(&[&["run", "chain.yaml"], &sets[..]].concat());
        let unfinished = workshop.path("out/chain/unfinished-01-distill-00000000");
        let note = folders(&workshop.path("out/chain"), "01-distill")[0].join("stage.json");
        let key = "0".repeat(64);
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(note).unwrap()).unwrap();
        json["key"] = json!(key);
        workshop.write(
            "out/chain/unfinished-01-distill-00000000/stage.json",
            json.to_string().as_bytes(),
        );
        // What somebody else has put there.
        for foreign in [
            "out/chain/07-notes-12345678/thesis.txt",
            "out/chain/unfinished-thoughts/thesis.txt",
            "out/data-deadbeef/precious.csv",
            "out/cache-photos/holiday.jpg",
            "out/chain/readme.txt",
        ] {
            workshop.write(foreign, b"precious");
        }
        let old = folders(&workshop.path("out/chain"), "02-prune")[0].clone();
        symlink(&old, workshop.path("out/chain/02-prune-link")).unwrap();

        let listed = workshop.done(&["clean", "chain.yaml", "--json"]).json();
        assert_eq!(listed["removed"], false);
        let paths = |what: &str| -> usize {
            let found = listed["found"].as_array().unwrap().iter();
            found.filter(|found| found["what"] == what).count()
        };
        assert_eq!(paths("rows"), 1, "{listed}");
        assert_eq!(paths("cache"), 1, "{listed}");
        assert_eq!(paths("unfinished stage"), 1, "{listed}");
        // All six of the other length, and the quantised student with its export of the other schedule.
        assert_eq!(paths("stage"), 8, "{listed}");
        assert!(unfinished.exists(), "nothing is removed unasked");
        let text = workshop.done(&["clean", "chain.yaml"]).stdout;
        assert!(text.contains("`--yes` removes it"), "{text}");

        let removed = workshop.done(&["clean", "chain.yaml", "--yes"]).stdout;
        assert!(removed.contains("removed: "), "{removed}");
        let link = workshop.path("out/chain/02-prune-link");
        assert!(
            fs::symlink_metadata(&link).is_ok(),
            "a link is not alambic's"
        );
        fs::remove_file(link).unwrap();
        let left: BTreeSet<PathBuf> = files(&workshop);
        let foreign = |path: &&PathBuf| {
            fs::read(workshop.path("out").join(path)).is_ok_and(|bytes| bytes == b"precious")
        };
        assert_eq!(left.iter().filter(foreign).count(), 5);
        let kept: BTreeSet<PathBuf> = left.iter().filter(|path| !foreign(path)).cloned().collect();
        assert_eq!(kept, wanted);
        let again = workshop.done(&["run", "chain.yaml"]).stderr;
        assert!(again.contains("05-export: done"), "{again}");
    }

    #[test]
    fn clean_keeps_what_other_recipes_share_and_waits_for_no_run() {
        let workshop = Workshop::new();
        let constant = [
            "--set",
            "distill.schedule=constant",
            "--set",
            "distill.warmup_steps=1",
        ];
        workshop.done(&[&["run", "chain.yaml", "--set", "name=other"], &constant[..]].concat());
        let before = files(&workshop);
        // A recipe that has run nothing needs neither; but the other one is not named.
        let sets = ["--set", "data.sequence_length=16"];
        workshop.done(&[&["run", "chain.yaml"], &sets[..]].concat());
        let told = workshop.done(&[&["clean", "chain.yaml", "--yes"], &sets[..]].concat());
        assert!(
            told.stdout
                .starts_with("nothing to remove\nnote: rows and caches in `"),
            "{}",
            told.stdout
        );
        assert!(files(&workshop).is_superset(&before));

        // The states of finished passes go.
        let sets = [&["--set", "name=other"], &constant[..]].concat();
        let told = workshop
            .done(&[&["clean", "chain.yaml", "--yes"], &sets[..]].concat())
            .stdout;
        assert_eq!(
            told.matches("state of a finished pass").count(),
            2,
            "{told}"
        );
        let again = workshop
            .done(&[&["run", "chain.yaml"], &sets[..]].concat())
            .stderr;
        assert!(again.contains("05-export: done"), "{again}");

        let long = [
            "run",
            "chain.yaml",
            "--set",
            "passes.0.distill.steps=100000",
        ];
        let child = workshop.start(&long);
        wait_for("pass", || {
            !folders(&workshop.path("out/chain"), "unfinished-01").is_empty()
        });
        workshop.fails(&["clean", "chain.yaml", "--yes"], 2, &["error[run/locked]"]);
        signal(&child, "INT");
        finished(child);
    }

    #[test]
    fn compare_tables_runs_and_the_keys_in_which_they_differ() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml"]);
        let sets = ["--set", "name=longer", "--set", "passes.2.distill.steps=20"];
        workshop.done(&[&["run", "chain.yaml"], &sets[..]].concat());
        let text = workshop
            .done(&["compare", "out/chain", "out/longer"])
            .stdout;
        assert!(
            text.contains("out/chain") && text.contains("perplexity"),
            "{text}"
        );
        let key = text
            .lines()
            .find(|line| line.starts_with("passes.2.distill.steps"))
            .unwrap();
        let values: Vec<&str> = key.split_whitespace().skip(1).collect();
        assert_eq!(values, ["15", "20"]);
        let found = workshop
            .done(&["compare", "out/chain", "out/longer", "--json"])
            .json();
        assert_eq!(
            found["differences"]["passes.2.distill.steps"],
            json!([15, 20])
        );
        assert_eq!(
            found["differences"].as_object().unwrap().len(),
            1,
            "{found}"
        );
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(workshop.path("out/chain/report.json")).unwrap())
                .unwrap();
        let last = report["passes"].as_array().unwrap().last().unwrap();
        let variant = &found["variants"][0];
        for figure in ["loss_nats", "kl_nats", "perplexity", "size_bytes", "pass"] {
            assert_eq!(variant[figure], last[figure], "{figure}");
        }
        assert!(
            variant["exports"]["huggingface"].as_u64().unwrap() > 10_000,
            "{variant}"
        );

        workshop.fails(
            &["compare", "out/chain", "text"],
            2,
            &["error[compare]: `text` is no folder of a run"],
        );
        fs::remove_file(workshop.path("out/longer/recipe.yaml")).unwrap();
        let text = workshop
            .done(&["compare", "out/chain", "out/longer"])
            .stdout;
        assert!(
            text.contains("note: `out/longer` has no `recipe.yaml`"),
            "{text}"
        );
        workshop.write("out/longer/report.json", b"{");
        workshop.fails(
            &["compare", "out/longer"],
            2,
            &["error[compare]: `out/longer/report.json`"],
        );
    }
}
