//! A run that is killed, stopped or doubled ends as one that was left alone.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use alambic::train::state;

    use crate::common::{
        PASSES, Workshop, assert_no_parts, assert_same_results, assert_whole, files_below,
        finished, folders, signal, until_it_waits, wait_for,
    };

    /// States and shards as often as can be, so that a kill strikes in the middle of something.
    const BUSY: [&str; 8] = [
        "--set",
        "distill.save_every=2",
        "--set",
        "quantize.save_every=2",
        "--set",
        "cache.rows_per_shard=8",
        "--set",
        "teacher.batch_size=3",
    ];

    /// Whether an unfinished pass of this name has saved a state.
    fn has_state(run_dir: &Path, pass: &str) -> bool {
        let partial = folders(run_dir, &format!("unfinished-{pass}"));
        partial.iter().any(|dir| state::newest(dir).is_some())
    }

    #[test]
    fn a_changed_recipe_says_which_stages_run_anew_and_why() {
        let workshop = Workshop::new();
        let changed = |set: &str, begins: &str, reasons: &[(&str, &str)]| {
            let args = ["chain.yaml", "--set", set];
            let planned = workshop.done(&[&["plan"], &args[..]].concat());
            let ran = workshop.done(&[&["run"], &args[..]].concat());
            for (stage, reason) in reasons {
                let told = format!("{stage} runs again, because {reason}");
                assert!(planned.stdout.contains(&told), "{told}\n{}", planned.stdout);
                let told = format!("{stage}: running again, because {reason}");
                assert!(ran.stderr.contains(&told), "{told}\n{}", ran.stderr);
            }
            let told = ran.stderr.matches(": running again, because ").count();
            assert_eq!(told, reasons.len(), "{begins}: {}", ran.stderr);
        };
        changed("seed=3", "nothing was there before", &[]);
        changed(
            "export.formats=[]",
            "the export",
            &[("05-export", "`export.formats` changed from ")],
        );
        let after = "which it starts from, has changed";
        changed(
            "passes.2.distill.learning_rate=1e-3",
            "the third pass",
            &[
                ("03-distill", "`learning_rate` changed from 0.003 to 0.001"),
                ("04-quantize", &format!("03-distill, {after}")),
                ("05-export", &format!("04-quantize, {after}")),
            ],
        );
        changed(
            "quantize.learning_rate=2e-3",
            "the last pass; the others are there from the first run",
            &[
                ("04-quantize", &format!("03-distill, {after}")),
                ("05-export", &format!("04-quantize, {after}")),
            ],
        );
        changed(
            "data.sequence_length=16",
            "everything",
            &[
                ("00-teacher", "`data.sequence_length` changed from 32 to 16"),
                ("01-distill", "`data.sequence_length` changed from 32 to 16"),
                ("02-prune", &format!("01-distill, {after}")),
                ("03-distill", &format!("02-prune, {after}")),
                ("04-quantize", &format!("03-distill, {after}")),
                ("05-export", &format!("04-quantize, {after}")),
            ],
        );
    }

    #[test]
    fn a_signal_saves_the_state_of_a_pass_and_the_next_run_goes_on_from_it() {
        for (name, pass, steps) in [
            ("INT", "01-distill", "passes.0.distill.steps=120"),
            ("TERM", "04-quantize", "passes.3.quantize.steps=120"),
        ] {
            let workshop = Workshop::new();
            let args = ["run", "chain.yaml", "--set", steps];
            let child = workshop.start(&args);
            let run_dir = workshop.path("out/chain");
            wait_for("state", || has_state(&run_dir, pass));
            signal(&child, name);
            let ran = finished(child);
            assert_eq!(ran.code, Some(130), "{}", ran.stderr);
            assert_eq!(ran.stdout, "");
            let told = format!("of pass {pass}; the state is in ");
            assert!(ran.stderr.contains(&told), "{}", ran.stderr);
            assert!(
                ran.stderr.ends_with("run the same command to resume\n"),
                "{}",
                ran.stderr
            );
            assert_whole(&run_dir);
            assert!(folders(&run_dir, pass).is_empty());

            let again = workshop.done(&args);
            let resumed = format!("{pass}: resumed at ");
            assert!(again.stderr.contains(&resumed), "{}", again.stderr);
            workshop.done(&[&args[..], &["--set", "output=whole"]].concat());
            assert_same_results(&workshop.path("out"), &workshop.path("whole"));
            assert_no_parts(&workshop.path("out"));
        }
    }

    #[test]
    fn a_signal_keeps_the_whole_shards_of_a_capture() {
        let workshop = Workshop::new();
        let args = [
            "cache",
            "build",
            "chain.yaml",
            "--set",
            "cache.rows_per_shard=2",
            "--set",
            "teacher.batch_size=1",
        ];
        let child = workshop.start(&args);
        let shard = |output: &str| {
            let cache = folders(&workshop.path(output), "cache");
            cache
                .first()
                .map(|dir| dir.join("train/shard-00000.parquet"))
        };
        wait_for("shard", || shard("out").is_some_and(|shard| shard.exists()));
        signal(&child, "INT");
        let ran = finished(child);
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        assert!(
            ran.stderr
                .contains(" rows, in whole shards, are in the cache in "),
            "{}",
            ran.stderr
        );
        let written = shard("out")
            .unwrap()
            .metadata()
            .unwrap()
            .modified()
            .unwrap();

        let again = workshop.done(&args);
        assert!(
            again.stderr.contains("cache, train: resumed at "),
            "{}",
            again.stderr
        );
        let kept = shard("out")
            .unwrap()
            .metadata()
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(kept, written, "the first shard is not captured twice");
        workshop.done(&[&args[..], &["--set", "output=whole"]].concat());
        let shards = |output: &str| {
            let dir = shard(output).unwrap();
            let files = files_below(dir.parent().unwrap()).into_iter();
            files
                .map(|(path, (bytes, _))| (path, bytes))
                .collect::<Vec<_>>()
        };
        assert!(shards("out").len() > 50);
        assert!(shards("out") == shards("whole"));
    }

    #[test]
    fn a_second_run_on_the_same_folder_refuses_and_the_first_goes_on() {
        let workshop = Workshop::new();
        let long = [
            "run",
            "chain.yaml",
            "--set",
            "passes.0.distill.steps=100000",
        ];
        let mut first = workshop.start(&[&long[..], &BUSY].concat());
        let run_dir = workshop.path("out/chain");
        wait_for("state", || has_state(&run_dir, PASSES[0]));
        let shown = run_dir.canonicalize().unwrap();
        let told = format!(
            "error[run/locked]: `{}` is in use by another run",
            shown.display()
        );
        let help = "help: wait until it has ended, or change `name`";
        workshop.fails(&long, 2, &[&told, help]);
        workshop.fails(&["run", "chain.yaml"], 2, &["error[run/locked]"]);
        assert!(first.try_wait().unwrap().is_none(), "the first goes on");

        // Another name is another folder; the cache is shared.
        let other = [&["run", "chain.yaml", "--set", "name=other"], &BUSY[..]].concat();
        let other = workshop.done(&other);
        assert!(other.stderr.contains("cache: done"), "{}", other.stderr);
        signal(&first, "INT");
        assert_eq!(finished(first).code, Some(130));
        workshop.done(&["run", "chain.yaml"]); // the lock went with the process
    }

    #[test]
    fn a_recipe_waits_for_another_that_captures_the_same_cache_and_is_refused_beside_itself() {
        let workshop = Workshop::new();
        let small = [
            "--set",
            "cache.rows_per_shard=1",
            "--set",
            "teacher.batch_size=1",
        ];
        let first = workshop.start(&[&["cache", "build", "chain.yaml"], &small[..]].concat());
        let capturing = || {
            let cache = folders(&workshop.path("out"), "cache");
            cache
                .iter()
                .any(|dir| dir.join("train/progress.jsonl").exists())
        };
        wait_for("capture", capturing);
        signal(&first, "STOP");
        let other = [&["run", "chain.yaml", "--set", "name=other"], &small[..]].concat();
        let mut waiting = workshop.start(&other);
        let told = until_it_waits(&mut waiting);
        workshop.fails(&["run", "chain.yaml"], 2, &["error[run/locked]"]);
        signal(&first, "CONT");
        assert_eq!(finished(first).code, Some(0));
        let told: Vec<String> = told.map(Result::unwrap).collect();
        assert_eq!(finished(waiting).code, Some(0), "{told:?}");
    }

    #[test]
    fn runs_that_want_different_amounts_of_one_cache_wait_for_each_other_and_no_row_is_lost() {
        let workshop = Workshop::new();
        let sets = ["--set", "cache.rows_per_shard=8"];
        workshop.done(&[&["cache", "build", "chain.yaml"], &sets[..]].concat());
        let manifest = workshop.folder("out", "cache").join("train/manifest.json");
        std::fs::remove_file(&manifest).unwrap(); // each finds this damage, and one mends it
        let runs = ["2k", "3k", "4k", "7k"].map(|tokens| {
            let (name, tokens) = (
                format!("name=of-{tokens}"),
                format!("cache.tokens={tokens}"),
            );
            let args = ["run", "chain.yaml", "--set", &name, "--set", &tokens];
            workshop.start(&[&args[..], &sets].concat())
        });
        for run in runs {
            let ran = finished(run);
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        }
        workshop.done(
            &[
                &["cache", "build", "chain.yaml", "--set", "output=whole"],
                &sets[..],
            ]
            .concat(),
        );
        workshop.done(&[&["cache", "build", "chain.yaml"], &sets[..]].concat());
        let shards = |output: &str| {
            let cache = workshop.folder(output, "cache");
            let mut files = files_below(&cache);
            files.retain(|path, _| path.parent().is_some_and(|split| split != Path::new("")));
            files
                .into_iter()
                .map(|(path, (bytes, _))| (path, bytes))
                .collect::<Vec<_>>()
        };
        assert!(shards("out") == shards("whole"));
    }

    #[test]
    fn a_part_of_a_capture_waits_for_another_run_that_captures_it() {
        let workshop = Workshop::new();
        let part = |name: &str| {
            let args = [
                "cache",
                "build",
                "chain.yaml",
                "--shard",
                "1/1",
                "--set",
                name,
            ];
            let small = [
                "--set",
                "cache.rows_per_shard=1",
                "--set",
                "teacher.batch_size=1",
            ];
            workshop.start(&[&args[..], &small].concat())
        };
        let first = part("name=one");
        let capturing = || {
            let cache = folders(&workshop.path("out"), "cache");
            let journal = "part-1-of-1/train/progress.jsonl";
            cache.iter().any(|dir| dir.join(journal).exists())
        };
        wait_for("capture", capturing);
        signal(&first, "STOP");
        let mut second = part("name=other");
        let told = until_it_waits(&mut second);
        signal(&first, "CONT");
        assert_eq!(finished(first).code, Some(0));
        let told: Vec<String> = told.map(Result::unwrap).collect();
        assert_eq!(finished(second).code, Some(0), "{told:?}");
    }

    #[test]
    fn a_list_of_shards_that_a_killed_capture_left_beside_its_manifest_is_removed() {
        let workshop = Workshop::new();
        workshop.done(&["cache", "build", "chain.yaml"]);
        let cache = workshop.folder("out", "cache");
        let lists = ["train", "validation"].map(|split| cache.join(split).join("progress.jsonl"));
        for list in &lists {
            let relative = list.strip_prefix(workshop.path("")).unwrap();
            workshop.write(relative.to_str().unwrap(), b"{}\n");
        }
        let told = workshop.done(&["cache", "build", "chain.yaml"]).stderr;
        assert!(told.contains("cache: done"), "{told}");
        assert!(lists.iter().all(|list| !list.exists()));
    }
}
