//! The cache through the program: samples, more rows, parts, and comparisons with the teacher.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use crate::common::{Workshop, files_below, folders, results};

    /// Samples instead of the likeliest tokens.
    const SAMPLED: [&str; 6] = [
        "--set",
        "cache.support={samples: 20}",
        "--set",
        "cache.temperatures=[1.0]",
        "--set",
        "distill.temperature=1.0",
    ];

    /// Manifests and shards of a cache, but not those of parts that lie in its folder.
    fn shards(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = files_below(dir);
        files.retain(|path, _| path.starts_with("train") || path.starts_with("validation"));
        let files = files.into_iter();
        files.map(|(path, (bytes, _))| (path, bytes)).collect()
    }

    #[test]
    fn a_student_learns_from_samples_and_a_second_run_gives_the_same_bytes() {
        let workshop = Workshop::new();
        let args = [&["run", "chain.yaml", "--json"][..], &SAMPLED].concat();
        let report = workshop.done(&args).json();
        let passes = report["passes"].as_array().unwrap();
        let kl = |row: usize| passes[row]["kl_nats"].as_f64().unwrap();
        // The teacher's own row estimates nothing, so it is within its noise of zero.
        assert!(kl(0).abs() < 0.05, "{passes:?}");
        assert!(kl(1) > 0.05, "{passes:?}");
        let again = [&args[..], &["--set", "output=again"]].concat();
        workshop.done(&again);
        assert!(results(&workshop.path("out")) == results(&workshop.path("again")));

        let cache = workshop.folder("out", "cache").display().to_string();
        let stat = workshop.done(&["cache", "stat", &cache, "--json"]).json();
        let support = &stat["train"]["fingerprint"]["support"]["samples"];
        assert_eq!(support["num_draws"], 20);
        assert_eq!(support["sampling"], "systematic");
        let verify = ["cache", "verify", &cache, "--teacher", "teacher", "--json"];
        let found = workshop.done(&[&verify[..], &["--rows", "5"]].concat());
        let compared = &found.json()["train"]["teacher"];
        assert_eq!(
            (&compared["num_rows"], &compared["num_different"]),
            (&5.into(), &0.into())
        );
    }

    #[test]
    fn independent_samples_are_another_cache() {
        let workshop = Workshop::new();
        let args = [&["cache", "build", "chain.yaml"][..], &SAMPLED].concat();
        workshop.done(&args);
        workshop.done(&[&args[..], &["--set", "cache.sampling=independent"]].concat());
        assert_eq!(folders(&workshop.path("out"), "cache").len(), 2);
    }

    #[test]
    fn more_tokens_are_added_to_the_same_cache() {
        let workshop = Workshop::new();
        let build =
            |more: &[&str]| workshop.done(&[&["cache", "build", "chain.yaml"], more].concat());
        build(&["--set", "output=whole"]);
        // 60 rows: the second shard of 32 is not full.
        build(&["--set", "cache.tokens=1920"]);
        let cache = workshop.folder("out", "cache");
        let before = shards(&cache);
        let plan = workshop.done(&["plan", "chain.yaml", "--json"]).json();
        let stage = plan["stages"].as_array().unwrap().iter();
        let stage = stage
            .clone()
            .find(|stage| stage["name"] == "cache")
            .unwrap();
        assert_eq!(stage["done"], false, "{plan}");
        build(&[]);
        let after = shards(&cache);
        let whole = shards(&workshop.folder("whole", "cache"));
        assert!(after == whole, "{:?} {:?}", after.keys(), whole.keys());
        let first = Path::new("train/shard-00000.parquet");
        assert_eq!(before[first], after[first]);
        // Who wants less finds it there.
        let ran = build(&["--set", "cache.tokens=1920"]);
        assert!(ran.stderr.contains("cache: done"), "{}", ran.stderr);
        assert!(shards(&cache) == whole);
    }

    #[test]
    fn the_training_text_is_captured_only_for_a_pass_that_reads_it() {
        let workshop = Workshop::new();
        let rounding = [
            "--set",
            "passes=[quantize: {method: round-to-nearest, group_size: channel}]",
            "--set",
            "student={checkpoint: teacher}",
        ];
        workshop.done(&[&["run", "chain.yaml"], &rounding[..]].concat());
        let cache = workshop.folder("out", "cache");
        let has = |split: &str| cache.join(split).join("manifest.json").exists();
        assert!(has("validation") && !has("train"));
        // Asked for by name, or read by a pass, it comes into the same folder.
        workshop.done(&["cache", "build", "chain.yaml"]);
        assert!(has("train"));
        let before = shards(&cache);
        workshop.done(&["run", "chain.yaml"]);
        assert!(shards(&cache) == before);
    }

    #[test]
    fn parts_captured_apart_and_merged_are_the_cache_of_one_capture() {
        let workshop = Workshop::new();
        workshop.done(&["cache", "build", "chain.yaml", "--set", "output=whole"]);
        let part = |part: &str| {
            let built = workshop.done(&["cache", "build", "chain.yaml", "--shard", part, "--json"]);
            built.json()["cache"].as_str().unwrap().to_owned()
        };
        let parts = [part("1/2"), part("2/2")];
        let cache = workshop.folder("out", "cache").display().to_string();
        let needles = ["of 2 parts, 2 is missing", "build --shard i/n"];
        workshop.fails(
            &["cache", "merge", &parts[0], "--into", &cache],
            2,
            &needles,
        );
        let merge = [
            "cache", "merge", &parts[1], &parts[0], "--into", &cache, "--json",
        ];
        let merged = workshop.done(&merge).json();
        assert!(merged["merged"]["train"]["num_shards"].as_u64().unwrap() > 2);
        let got = shards(Path::new(&cache));
        let want = shards(&workshop.folder("whole", "cache"));
        assert!(got == want, "{:?} {:?}", got.keys(), want.keys());
        let ran = workshop.done(&["run", "chain.yaml"]);
        assert!(!ran.stderr.contains("cache, train"), "{}", ran.stderr);
        for wrong in ["0/2", "3/2", "2", "a/b"] {
            workshop.fails(
                &["cache", "build", "chain.yaml", "--shard", wrong],
                2,
                &["--shard"],
            );
        }
    }

    #[test]
    fn a_cache_is_compared_with_its_teacher_and_no_other() {
        let workshop = Workshop::new();
        workshop.done(&["cache", "build", "chain.yaml"]);
        let cache = workshop.folder("out", "cache").join("train");
        let cache = cache.display().to_string();
        let args = ["cache", "verify", &cache, "--teacher"];
        let found = workshop.done(&[&args[..], &["teacher", "--json"]].concat());
        let compared = &found.json()["teacher"];
        assert_eq!(compared["num_positions"], 8 * 32);
        assert_eq!(compared["num_different"], 0);
        let difference = compared["max_difference_nats"].as_f64().unwrap();
        assert!((1e-6..0.0628).contains(&difference), "{difference}");
        let golden = format!("{}/tests/golden/hf-llama", env!("CARGO_MANIFEST_DIR"));
        let needles = ["error[cache/other-teacher]", "was captured from the model"];
        workshop.fails(&[&args[..], &[&golden]].concat(), 2, &needles);
    }

    #[test]
    fn bench_shows_what_supports_cost_and_keep_and_captures_nothing() {
        let workshop = Workshop::new();
        let bench = ["cache", "bench", "chain.yaml", "--rows"];
        let found = workshop
            .done(&[&bench[..], &["3", "--json"]].concat())
            .json();
        let trades = found["supports"].as_array().unwrap();
        let figure = |kind: &str, size: u64, key: &str| {
            let is_it = |trade: &&Value| match kind {
                "top_k" => trade["support"]["top_k"] == size,
                _ => trade["support"]["samples"]["num_draws"] == size,
            };
            trades.iter().find(is_it).unwrap()[key].as_f64().unwrap()
        };
        assert_eq!(trades.len(), 9, "the recipe's own and eight to choose from");
        assert!(figure("top_k", 16, "rounding_kl_nats") < 1e-3);
        let tail = |size| figure("top_k", size, "mean_tail_mass");
        assert!(tail(8) > tail(128));
        for key in ["squared_error", "bytes_per_position"] {
            let (few, many) = (figure("samples", 13, key), figure("samples", 100, key));
            assert!(
                if key == "squared_error" {
                    few > many
                } else {
                    few < many
                },
                "{few} {many}"
            );
        }
        assert!(figure("samples", 50, "mean_tail_mass").abs() < 1e-12);
        assert!((figure("top_k", 64, "mean_num_ids") - 64.0).abs() < 1e-12);
        let table = workshop.done(&[&bench[..], &["1"]].concat()).stdout;
        assert!(
            table.contains("samples: 50") && table.contains("top_k: 16"),
            "{table}"
        );
        let caches = folders(&workshop.path("out"), "cache");
        assert!(caches.is_empty(), "{caches:?}");
    }

    #[test]
    fn what_samples_cannot_serve_is_refused_in_the_recipe() {
        let workshop = Workshop::new();
        let refused = |sets: &[&str], needles: &[&str]| {
            let sets = sets.iter().flat_map(|set| ["--set", *set]);
            let args: Vec<&str> = ["plan", "chain.yaml"].into_iter().chain(sets).collect();
            workshop.fails(&args, 2, needles);
        };
        let samples = "cache.support={samples: 20}";
        let at_one = "cache.temperatures=[1.0]";
        refused(
            &[samples],
            &[
                "`samples` support only temperature 1",
                "declares [1.0, 2.0]",
            ],
        );
        let needles = [
            "the cache is not exact at temperature 2",
            "the only one that samples support",
        ];
        refused(&[samples, at_one], &needles);
        refused(
            &["cache.sampling=independent"],
            &["`sampling` has no effect"],
        );
        let tail = [
            samples,
            at_one,
            "distill.temperature=1.0",
            "distill.tail=bucket",
        ];
        refused(&tail, &["`tail` has no effect: samples have no tail"]);
        refused(&["cache.support={samples: 0}"], &["samples"]);
        refused(&["cache.support={samples: 3, top_k: 4}"], &["support"]);
    }

    #[test]
    fn the_tail_can_be_renormalized_to_compare_and_changes_the_student() {
        let workshop = Workshop::new();
        let run = |more: &[&str]| {
            let args = ["run", "chain.yaml", "--set", "distill.steps=3"];
            workshop.done(&[&args[..], more].concat());
        };
        run(&["--set", "output=bucket"]);
        run(&[
            "--set",
            "distill.tail=renormalize",
            "--set",
            "output=renormalized",
        ]);
        let student = |output: &str| {
            let dir = workshop.folder(&format!("{output}/chain"), "01-distill");
            fs::read(dir.join("student.safetensors")).unwrap()
        };
        assert!(student("bucket") != student("renormalized"));
    }
}
