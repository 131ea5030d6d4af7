//! The whole chain through the program itself: what it computes, writes, prints and leaves alone.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use alambic::checkpoint::Checkpoint;
    use alambic::model::{ParameterKind, parameter_specs};
    use alambic::train::read_metrics;
    use serde_json::Value;

    use crate::common::{
        PASSES, Workshop, assert_same_results, assert_whole, figures, files_below, folders,
    };

    fn number(value: &Value, key: &str) -> f64 {
        value[key]
            .as_f64()
            .unwrap_or_else(|| panic!("`{key}` of {value}"))
    }

    #[test]
    fn a_run_prints_a_row_per_pass_and_every_figure_is_finite() {
        let workshop = Workshop::new();
        let ran = workshop.done(&["run", "chain.yaml"]);
        let firsts: Vec<&str> = ran
            .stdout
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        let want = [
            &["pass", "───────────", "teacher"][..],
            &PASSES,
            &["", "export", "export", "report:"],
        ];
        assert_eq!(firsts, want.concat(), "{}", ran.stdout);
        assert!(ran.stdout.ends_with("report: out/chain/report.md\n"));

        let report = workshop.done(&["run", "chain.yaml", "--json"]).json();
        let rows = report["passes"].as_array().unwrap();
        assert_eq!(rows.len(), 1 + PASSES.len());
        for row in rows {
            let kl = number(row, "kl_nats");
            assert!((-1e-6..3.0).contains(&kl), "{row}");
            assert!(
                (1.0..4.5).contains(&number(row, "loss_nats")),
                "below chance, ln 300: {row}"
            );
            assert!((0.5..6.0).contains(&number(row, "bits_per_byte")), "{row}");
            assert!(
                (0.0..=1.0).contains(&number(row, "top1_agreement")),
                "{row}"
            );
            assert!((0.0..=1.0).contains(&number(row, "ece")), "{row}");
            let perplexity = number(row, "loss_nats").exp();
            assert!((number(row, "perplexity") - perplexity).abs() < 1e-9 * perplexity);
        }
        // Rounded log-probabilities of the cache may tie where the teacher's own do not.
        assert!(number(&rows[0], "top1_agreement") > 0.99);
        assert!(number(&rows[0], "kl_nats") < 1e-4, "the teacher to itself");
        let sparsities: Vec<f64> = rows.iter().map(|row| number(row, "sparsity")).collect();
        assert_eq!(sparsities, [0.0, 0.0, 0.5, 0.5, 0.5]);
        let sizes: Vec<f64> = rows.iter().map(|row| number(row, "size_bytes")).collect();
        assert!(sizes[4] < sizes[3], "{sizes:?}");
        for (pass, steps) in [("01-distill", 30), ("03-distill", 15), ("04-quantize", 15)] {
            let lines = read_metrics(&workshop.folder("out/chain", pass)).unwrap();
            assert_eq!(lines.last().unwrap().step, steps);
            let mut values = lines.iter().flat_map(|line| &line.values);
            assert!(values.all(|(_, value)| value.is_finite()), "{lines:?}");
        }
    }

    #[test]
    fn every_term_that_is_on_is_logged_by_its_name_and_together_they_are_the_loss() {
        let workshop = Workshop::new();
        let losses = "distill.losses={forward_kl: 0.5, reverse_kl: 0.25, jsd: {weight: 2.0, beta: 0.3}, skew_reverse_kl: 1, \
                      cross_entropy: {weight: 0.125, label_smoothing: 0.1}}";
        workshop.done(&["run", "chain.yaml", "--set", losses]);
        let terms = [
            ("train/forward_kl", 0.5),
            ("train/reverse_kl", 0.25),
            ("train/jsd", 2.0),
            ("train/skew_reverse_kl", 1.0),
            ("train/cross_entropy", 0.125),
        ];
        for pass in ["01-distill", "03-distill"] {
            let lines = read_metrics(&workshop.folder("out/chain", pass)).unwrap();
            assert!(!lines.is_empty());
            for line in lines {
                let term = |name| line.get(name).unwrap_or_else(|| panic!("{name}: {line:?}"));
                let sum: f64 = terms.map(|(name, weight)| weight * term(name)).iter().sum();
                assert!((term("train/loss") - sum).abs() < 1e-9 * sum, "{line:?}");
                assert!(terms.iter().all(|(name, _)| term(name) > 0.0), "{line:?}");
                assert_eq!(line.get("train/tvd"), None, "it is off");
            }
        }
    }

    #[test]
    fn exports_are_whole_checkpoints_that_hold_the_mask_and_match_the_student() {
        let workshop = Workshop::new();
        let report = workshop.done(&["run", "chain.yaml", "--json"]).json();
        let export = workshop.folder("out/chain", "05-export");
        for (format, verified) in ["huggingface", "compressed-tensors"]
            .iter()
            .zip(report["exports"].as_array().unwrap())
        {
            assert_eq!(verified["format"], *format);
            assert!(
                number(verified, "max_logit_difference") <= 1e-3,
                "{verified}"
            );
            assert!((number(verified, "top1_agreement") - 1.0).abs() < 1e-12);
            let dir = export.join(format);
            for file in [
                "config.json",
                "generation_config.json",
                "tokenizer.json",
                "README.md",
                "recipe.yaml",
            ] {
                assert!(dir.join(file).metadata().unwrap().len() > 0, "{file}");
            }
            let card = fs::read_to_string(dir.join("README.md")).unwrap();
            assert!(PASSES.iter().all(|pass| card.contains(pass)), "{card}");

            let checkpoint = Checkpoint::open(&dir).unwrap();
            let num_quantized = if *format == "huggingface" { 0 } else { 7 };
            assert_eq!(checkpoint.schemes().len(), num_quantized);
            let specs = parameter_specs(checkpoint.config());
            let linear: Vec<_> = specs
                .iter()
                .filter(|spec| spec.kind() == ParameterKind::Linear)
                .collect();
            assert_eq!(linear.len(), 7);
            for spec in linear {
                let weight = checkpoint.values(spec).unwrap();
                let zeros = weight.iter().filter(|value| **value == 0.0).count();
                assert!(2 * zeros >= weight.len(), "{}: {zeros} zeros", spec.name);
                assert!(zeros < weight.len(), "{} is all zero", spec.name);
            }
        }
        // What ran, with nothing left to a default, runs again from where it lies, to the same artifacts; it does
        // not tell where its maker keeps their files.
        let recipe = export.join("huggingface/recipe.yaml");
        let text = fs::read_to_string(&recipe).unwrap();
        let home = workshop.path("").canonicalize().unwrap();
        assert!(!text.contains(home.to_str().unwrap()), "{text}");
        let ran = workshop.done(&["run", recipe.to_str().unwrap()]);
        assert!(ran.stderr.contains("05-export: done"), "{}", ran.stderr);
    }

    #[test]
    fn the_same_recipe_in_two_folders_gives_the_same_bytes() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml"]);
        workshop.done(&["run", "chain.yaml", "--set", "output=other"]);
        assert_same_results(&workshop.path("other"), &workshop.path("out"));
        assert_eq!(
            figures(&workshop.path("other/chain/report.json")),
            figures(&workshop.path("out/chain/report.json"))
        );
        let report = fs::read_to_string(workshop.path("other/chain/report.md")).unwrap();
        assert!(
            report.contains("chain.yaml --set output=other\n"),
            "{report}"
        );

        workshop.done(&[
            "run",
            "chain.yaml",
            "--set",
            "seed=4",
            "--set",
            "output=third",
        ]);
        let weights = |output: &str| {
            let dir = workshop.folder(&format!("{output}/chain"), "01-distill");
            fs::read(dir.join("student.safetensors")).unwrap()
        };
        assert_ne!(weights("third"), weights("out"), "another seed");
    }

    #[test]
    fn a_second_run_finds_all_done_and_changes_no_artifact() {
        let workshop = Workshop::new();
        let first = workshop.done(&["run", "chain.yaml"]);
        let before = files_below(&workshop.path("out"));
        // How often states are saved and lines are logged decides nothing that is kept.
        let second = workshop.done(&[
            "run",
            "chain.yaml",
            "--set",
            "distill.save_every=1",
            "--set",
            "distill.log_every=1",
        ]);
        assert_eq!(second.stdout, first.stdout);
        for stage in [&["data", "cache", "05-export"][..], &PASSES].concat() {
            let line = format!("{stage}: done");
            assert!(second.stderr.contains(&line), "{line}: {}", second.stderr);
        }
        assert!(!second.stderr.contains(" tokens/s"), "{}", second.stderr);
        let after = files_below(&workshop.path("out"));
        assert!(before.keys().eq(after.keys()));
        for (path, (bytes, modified)) in &before {
            if !is_of_artifact(path) {
                continue;
            }
            assert_eq!(&after[path].0, bytes, "{}", path.display());
            assert_eq!(&after[path].1, modified, "{}", path.display());
        }
    }

    /// Not the report, which is written each time and says by which command, nor the memory of hashes.
    fn is_of_artifact(path: &Path) -> bool {
        path.components().count() > 2
            || !(path.starts_with("chain") || path.ends_with("hashes.json"))
    }

    #[test]
    fn a_change_in_a_later_pass_runs_that_pass_and_what_follows() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml"]);
        let before = files_below(&workshop.path("out"));
        let ran = workshop.done(&[
            "run",
            "chain.yaml",
            "--set",
            "passes.2.distill.learning_rate=1e-3",
        ]);
        for (stage, is_done) in [
            ("data", true),
            ("cache", true),
            ("01-distill", true),
            ("02-prune", true),
            ("03-distill", false),
            ("04-quantize", false),
            ("05-export", false),
        ] {
            let line = format!("{stage}: done");
            assert_eq!(
                ran.stderr.contains(&line),
                is_done,
                "{line}: {}",
                ran.stderr
            );
            if stage.starts_with('0') {
                let found = folders(&workshop.path("out/chain"), stage).len();
                assert_eq!(found, if is_done { 1 } else { 2 }, "{stage}");
            }
        }
        assert_whole(&workshop.path("out/chain"));
        let after = files_below(&workshop.path("out"));
        let artifacts = before.iter().filter(|(path, _)| is_of_artifact(path));
        for (path, file) in artifacts {
            assert_eq!(after.get(path), Some(file), "{}", path.display());
        }
    }

    #[test]
    fn a_narrow_part_of_the_teacher_is_trained_and_exported_as_such() {
        let workshop = Workshop::new();
        let parts = "student={from_teacher: {highest_influence: 1, hidden_size: 12, intermediate_size: 24, calibration_tokens: 128}}";
        let args = ["--set", parts, "--set", "quantize.group_size=channel"];
        let ran = workshop.done(&[&["run", "chain.yaml"][..], &args].concat());
        assert!(
            ran.stderr
                .contains("student: layers of highest influence: 0 ("),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("student: 100 % · 128 of 128 tokens"),
            "{}",
            ran.stderr
        );
        let dir = workshop
            .folder("out/chain", "05-export")
            .join("huggingface");
        let config = Checkpoint::open(&dir).unwrap().config().clone();
        assert_eq!((config.hidden_size, config.intermediate_size), (12, 24));
        assert_eq!(
            (config.num_attention_heads, config.head_dim),
            (2, 8),
            "heads stay whole"
        );

        // A pass that needs no student finds all done and measures nothing.
        let again = workshop.done(&[&["run", "chain.yaml"][..], &args].concat());
        assert!(!again.stderr.contains("student"), "{}", again.stderr);
    }

    #[test]
    fn a_pass_with_an_adapter_leaves_it_and_hands_on_the_merged_student() {
        let workshop = Workshop::new();
        let adapter = "distill.adapter={rank: 4}";
        workshop.done(&["run", "chain.yaml", "--set", adapter]);
        let pass = |name: &str| workshop.folder("out/chain", name);
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            assert!(
                pass("01-distill").join("adapter").join(file).exists(),
                "{file}"
            );
        }
        assert!(!pass("03-distill").join("adapter").exists(), "masks hold");
        let card = fs::read_to_string(pass("05-export").join("huggingface/recipe.yaml")).unwrap();
        assert!(
            card.contains("rank: 4") && card.contains("alpha: 4.0"),
            "{card}"
        );
        let again = workshop.done(&["run", "chain.yaml", "--set", adapter]);
        assert!(again.stderr.contains("05-export: done"), "{}", again.stderr);
    }

    #[test]
    fn shared_layers_and_a_window_come_out_as_a_model_that_has_neither_word_for_it() {
        let workshop = Workshop::new();
        let sizes = "num_hidden_layers: 4, layer_repeats: 2, sliding_window: 6, hidden_size: 16, num_attention_heads: 2, intermediate_size: 32";
        let student = format!("student={{architecture: {{{sizes}}}}}");
        workshop.done(&["run", "chain.yaml", "--set", &student]);
        let export = workshop.folder("out/chain", "05-export");
        for format in ["huggingface", "compressed-tensors"] {
            let dir = export.join(format);
            let text = fs::read(dir.join("config.json")).unwrap();
            let config: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(config["architectures"][0], "MistralForCausalLM");
            assert_eq!(
                (&config["num_hidden_layers"], &config["sliding_window"]),
                (&4.into(), &6.into())
            );
            assert!(config.get("layer_repeats").is_none());
            let checkpoint = Checkpoint::open(&dir).unwrap();
            let specs = parameter_specs(checkpoint.config());
            let of_layer = |layer: usize| -> Vec<Vec<f32>> {
                let prefix = format!("model.layers.{layer}.");
                let of_layer = specs.iter().filter(|spec| spec.name.starts_with(&prefix));
                of_layer
                    .map(|spec| checkpoint.values(spec).unwrap())
                    .collect()
            };
            assert_eq!(of_layer(0).len(), 9);
            assert!(of_layer(0) == of_layer(1) && of_layer(2) == of_layer(3));
            assert!(of_layer(1) != of_layer(2));
        }
    }

    #[test]
    fn a_plan_tells_what_is_done_and_writes_nothing() {
        let workshop = Workshop::new();
        let stages = |args: &[&str]| -> Vec<(String, bool)> {
            let before: Vec<PathBuf> = files_below(&workshop.path("")).into_keys().collect();
            let plan = workshop.done(&[&["plan", "chain.yaml", "--json"], args].concat());
            let after: Vec<PathBuf> = files_below(&workshop.path("")).into_keys().collect();
            assert_eq!(before, after);
            let plan = plan.json();
            let entries = plan["stages"].as_array().unwrap().iter();
            let is_always_written = |entry: &Value| {
                for key in ["tokens", "memory_bytes", "disk_bytes", "secs"] {
                    assert!(number(entry, key) >= 0.0, "{entry}");
                }
                (
                    entry["name"].as_str().unwrap().to_owned(),
                    entry["done"].as_bool().unwrap(),
                )
            };
            entries.map(is_always_written).collect()
        };
        let all = |is_done: [bool; 8]| -> Vec<(String, bool)> {
            let names = [
                &["data", "cache", "00-teacher"][..],
                &PASSES,
                &["05-export"],
            ]
            .concat();
            names.into_iter().map(str::to_owned).zip(is_done).collect()
        };
        assert_eq!(sorted(stages(&[])), sorted(all([false; 8])));
        assert!(!workshop.path("out").exists(), "not even the output folder");

        workshop.done(&["run", "chain.yaml"]);
        assert_eq!(sorted(stages(&[])), sorted(all([true; 8])));
        let changed = stages(&["--set", "passes.1.prune.sparsity=0.25"]);
        let want = [true, true, true, true, false, false, false, false];
        assert_eq!(sorted(changed), sorted(all(want)));

        let text = workshop.done(&["plan", "chain.yaml"]).stdout;
        assert_eq!(text.matches(" yes ").count(), 8, "{text}");
    }

    fn sorted(mut stages: Vec<(String, bool)>) -> Vec<(String, bool)> {
        stages.sort();
        stages
    }
}
