//! The commands beside `run`: what they measure agrees with the run and with each other.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};

    use crate::common::{Workshop, assert_close, folders};

    #[test]
    fn a_model_agrees_with_itself() {
        let workshop = Workshop::new();
        let found = workshop
            .done(&[
                "evaluate",
                "teacher",
                "--text",
                "text",
                "--sequence-length",
                "32",
                "--teacher",
                "teacher",
                "--json",
            ])
            .json();
        assert!(found["kl_nats"].as_f64().unwrap().abs() < 1e-6, "{found}");
        assert_eq!(found["top1_agreement"], 1.0);
        let golden = format!("{}/tests/golden/hf-llama", env!("CARGO_MANIFEST_DIR"));
        let args = [
            "evaluate",
            "teacher",
            "--text",
            "text",
            "--teacher",
            &golden,
        ];
        let needles = ["the checkpoint has 300 tokens, but the teacher has 320: token 1 is"];
        workshop.fails(&args, 2, &needles);
    }

    /// Sixteen-position rows, ten steps: what a student learns here does not matter, but where all comes from.
    const GGUF_RECIPE: &str = "\
name: gguf
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 16, validation_tokens: 256 }
teacher: { checkpoint: model.gguf }
cache: { tokens: 2k, support: { top_k: 8 } }
student: { from_teacher: { layers: [0] } }
passes: [{ distill: { steps: 10, tokens_per_step: 64 } }]
export: { formats: [huggingface] }
";

    #[test]
    fn a_gguf_file_stands_wherever_a_model_folder_does() {
        let workshop = Workshop::new();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let model = fs::read(golden.join("gguf-q4_k_m/model.gguf")).unwrap();
        workshop.write("model.gguf", &model);
        workshop.write("gguf.yaml", GGUF_RECIPE.as_bytes());

        let facts = workshop.done(&["inspect", "model.gguf", "--json"]).json();
        assert_eq!(facts["kind"], "checkpoint");
        assert_eq!(
            facts["tensors"],
            serde_json::json!({ "F32": 3, "Q4_K": 5, "Q6_K": 3 })
        );
        let prompt = [
            "generate",
            "model.gguf",
            "--prompt",
            "the quick",
            "--max-tokens",
            "5",
            "--json",
        ];
        let generated = workshop.done(&prompt).json();
        assert_eq!(generated["ids"].as_array().unwrap().len(), 5);

        // Its folder in bf16 is another model, by as much as four bits round.
        let folder = golden.join("hf-llama-256").display().to_string();
        let text = [
            "--text",
            "text/validation.txt",
            "--sequence-length",
            "16",
            "--json",
        ];
        let beside = [&["evaluate", "model.gguf", "--teacher", &folder], &text[..]].concat();
        let beside = workshop.done(&beside).json();
        let kl = beside["kl_nats"].as_f64().unwrap();
        assert!((1e-6..0.1).contains(&kl), "{kl}");

        workshop.done(&["plan", "gguf.yaml"]);
        let report = workshop.done(&["run", "gguf.yaml", "--json"]).json();
        assert_eq!(report["passes"].as_array().unwrap().len(), 2);
        let export = workshop.folder("out/gguf", "02-export").join("huggingface");
        let original: Value =
            serde_json::from_slice(&fs::read(golden.join("hf-llama-256/tokenizer.json")).unwrap())
                .unwrap();
        let tokenizer: Value =
            serde_json::from_slice(&fs::read(export.join("tokenizer.json")).unwrap()).unwrap();
        for part in ["vocab", "merges"] {
            assert_eq!(tokenizer["model"][part], original["model"][part], "{part}");
        }
        assert_eq!(tokenizer["added_tokens"], original["added_tokens"]);
        let config: Value =
            serde_json::from_slice(&fs::read(export.join("tokenizer_config.json")).unwrap())
                .unwrap();
        assert_eq!(config["eos_token"], "<|im_end|>");
        assert!(
            config["chat_template"]
                .as_str()
                .unwrap()
                .contains("<|im_start|>")
        );
        let again = workshop.done(&["run", "gguf.yaml"]);
        assert!(again.stderr.contains("02-export: done"), "{}", again.stderr);
    }

    #[test]
    fn a_gguf_file_that_is_cut_off_is_refused_with_its_place() {
        let workshop = Workshop::new();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let model = fs::read(golden.join("gguf-q4_k_m/model.gguf")).unwrap();
        workshop.write("model.gguf", &model[..200_000]);
        workshop.write("gguf.yaml", GGUF_RECIPE.as_bytes());
        let needles = [
            "error[checkpoint]",
            "model.gguf",
            "it is cut off or damaged",
        ];
        workshop.fails(&["generate", "model.gguf", "--prompt", "a"], 2, &needles);
        let needles = [
            "error[checkpoint/unreadable]",
            "gguf.yaml:4:24",
            "this file",
            "cut off",
        ];
        workshop.fails(&["run", "gguf.yaml"], 2, &needles);
        workshop.fails(
            &["inspect", "absent.gguf"],
            2,
            &["absent.gguf", "No such file"],
        );
    }

    #[test]
    fn a_cache_built_alone_is_the_cache_of_the_run() {
        let workshop = Workshop::new();
        let built = workshop
            .done(&["cache", "build", "chain.yaml", "--json"])
            .json();
        let cache = workshop.folder("out", "cache");
        assert_eq!(built["cache"].as_str().unwrap(), cache.to_str().unwrap());
        let stages = folders(&workshop.path("out/chain"), "");
        assert!(stages.is_empty(), "no pass has run: {stages:?}");

        let dir = cache.display().to_string();
        let stat = workshop.done(&["cache", "stat", &dir, "--json"]).json();
        let verified = workshop.done(&["cache", "verify", &dir, "--json"]).json();
        for split in ["train", "validation"] {
            let manifest = fs::read(cache.join(split).join("manifest.json")).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            let stat = &stat[split];
            assert_eq!(stat["fingerprint"], manifest["fingerprint"]);
            assert_eq!(stat["fingerprint"]["support"]["top_k"], 16);
            let mass = stat["mean_support_mass"].as_f64().unwrap();
            assert!((0.1..1.0).contains(&mass), "{mass}");
            assert_close(
                &stat["mean_tail_mass"],
                &Value::from(1.0 - mass),
                1e-6,
                "tail",
            );
            let verified = &verified[split];
            assert_eq!(verified["sound"], true);
            assert_eq!(verified["report"]["num_rows"], stat["num_rows"]);
            let shards = manifest["shards"].as_array().unwrap().len();
            assert_eq!(verified["report"]["num_shards"], shards);
        }
        let one = cache.join("train").display().to_string();
        let alone = workshop.done(&["cache", "stat", &one, "--json"]).json();
        assert_eq!(alone, stat["train"]);
        assert_eq!(
            workshop.done(&["inspect", &one, "--json"]).json()["kind"],
            "cache"
        );

        let ran = workshop.done(&["run", "chain.yaml"]);
        assert!(ran.stderr.contains("cache: done"), "{}", ran.stderr);
        let text = workshop.done(&["cache", "stat", &dir]).stdout;
        assert!(text.contains("\n  mean_support_mass: 0."), "{text}");
        workshop.fails(
            &["cache", "stat", "text"],
            2,
            &["`text` holds no finished cache"],
        );
    }

    #[test]
    fn a_plan_counts_the_teacher_that_runs_along_with_a_pass() {
        let workshop = Workshop::new();
        let estimate = |sets: &[&str]| {
            let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
            let args = [&["plan", "chain.yaml", "--json"][..], &sets].concat();
            let plan = workshop.done(&args).json();
            let stages = plan["stages"].as_array().unwrap();
            let pass = stages.iter().find(|stage| stage["name"] == "01-distill");
            let number = |key: &str| pass.unwrap()[key].as_f64().unwrap();
            (number("memory_bytes"), number("secs"))
        };
        let losses = |hidden: &str| format!("passes.0.distill.losses={{forward_kl: 1{hidden}}}");
        let wider = "student.architecture.hidden_size=32";
        let alone = estimate(&[&losses("")]);
        let along = estimate(&[&losses(", hidden_mse: 1")]);
        let teacher_bytes =
            workshop.done(&["inspect", "teacher", "--json"]).json()["weights_bytes"].as_f64();
        assert!(
            along.0 > alone.0 + teacher_bytes.unwrap(),
            "{along:?}, {alone:?}"
        );
        assert!(along.1 > alone.1, "{along:?}, {alone:?}");
        // The projection of [16, 32], its moments, and what is made of it.
        let alone = estimate(&[wider, &losses("")]);
        let projected = estimate(&[wider, &losses(", hidden_mse: 1")]);
        let projection_bytes = 4.0 * 16.0 * 32.0 * 5.0;
        assert!(
            projected.0 - alone.0 > along.0 - estimate(&[&losses("")]).0 + projection_bytes - 1.0
        );
    }

    #[test]
    fn a_plan_gives_a_range_until_a_run_has_measured_the_machine_and_then_one_time() {
        let workshop = Workshop::new();
        let plan = || {
            let told = workshop
                .done(&["plan", "chain.yaml", "--set", "output=other"])
                .stdout;
            let json = workshop
                .done(&["plan", "chain.yaml", "--set", "output=other", "--json"])
                .json();
            let number = |key: &str| json[key].as_f64().unwrap();
            let range = ["secs_to_do_least", "secs_to_do", "secs_to_do_most"].map(number);
            (told, range)
        };
        let (told, [least, likely, most]) = plan();
        assert!(told.contains("no run has measured the speed"), "{told}");
        assert!(least < likely && likely < most && most > 4.0 * least);
        // Enough steps that each kind of work takes long enough to be measured, and so few that the test is short.
        workshop.done(&["run", "chain.yaml"]);
        let files = folders(&workshop.path(".cache"), "alambic");
        let [dir] = &files[..] else {
            panic!("{files:?}")
        };
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
        let (_, [least, likely, most]) = plan();
        assert!(least <= likely && likely <= most && most < 6.0 * least);
        // A damaged file is a remark, and the next run makes it anew.
        let file = fs::read_dir(dir).unwrap().next().unwrap().unwrap();
        let name = file.file_name().into_string().unwrap();
        workshop.write(&format!(".cache/alambic/{name}"), b"{");
        let (told, _) = plan();
        assert!(
            told.contains("passed over") && told.contains(&name),
            "{told}"
        );
    }

    #[test]
    fn a_plan_sees_what_an_interrupted_run_has_done_of_a_pass_and_counts_the_rest() {
        let workshop = Workshop::new();
        let stages = || {
            let plan = workshop.done(&["plan", "chain.yaml", "--json"]).json();
            plan["stages"].as_array().unwrap().clone()
        };
        let before = &stages()[3];
        assert_eq!(before["name"], "01-distill");
        assert!(before["part_done"].is_null(), "{before}");
        workshop.done(&["run", "chain.yaml"]);
        // The folder of the pass as a run leaves it that is killed after its states of steps 4 and 8.
        let done = workshop.folder("out/chain", "01-distill");
        let name = done.file_name().unwrap().to_str().unwrap();
        for step in ["0000000004", "0000000008"] {
            let state = format!("out/chain/unfinished-{name}/state-{step}.safetensors");
            workshop.write(&state, b"");
        }
        fs::remove_dir_all(&done).unwrap();
        let after = &stages()[3];
        assert_eq!(after["done"], false);
        assert_eq!(after["part_done"]["done"], 8);
        assert_eq!(after["part_done"]["of"], 30);
        let tokens = |stage: &Value| stage["tokens"].as_f64().unwrap();
        assert!(
            ((tokens(before) - tokens(after)) - 8.0 * 256.0).abs() < 1.0,
            "{before} {after}"
        );
        let told = workshop.done(&["plan", "chain.yaml"]).stdout;
        assert!(told.contains("8 of 30 steps"), "{told}");
    }

    #[test]
    fn a_plan_counts_the_rows_that_a_cache_has_and_captures_only_the_rest() {
        let workshop = Workshop::new();
        let cache = |set: &str| {
            let plan = workshop
                .done(&["plan", "chain.yaml", "--json", "--set", set])
                .json();
            plan["stages"][1].clone()
        };
        let whole = cache("cache.tokens=2048");
        assert!(
            whole["part_done"].is_null() && whole["name"] == "cache",
            "{whole}"
        );
        workshop.done(&["cache", "build", "chain.yaml", "--set", "cache.tokens=1024"]);
        let rest = cache("cache.tokens=2048");
        let number = |value: &Value| value.as_f64().unwrap();
        let saved = number(&rest["part_done"]["done"]);
        assert!(saved >= 1024.0, "{rest}");
        assert!(
            (number(&whole["tokens"]) - saved - number(&rest["tokens"])).abs() < 1.0,
            "{whole} {rest}"
        );
        let done = cache("cache.tokens=1024");
        assert!(
            done["done"] == true && done["part_done"].is_null(),
            "{done}"
        );
    }

    #[test]
    fn inspect_knows_checkpoints_runs_and_artifacts() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml"]);
        let inspect = |path: &str| workshop.done(&["inspect", path, "--json"]).json();
        let teacher = inspect("teacher");
        assert_eq!(teacher["kind"], "checkpoint");
        assert_eq!(teacher["config"]["vocab_size"], 300);
        assert_eq!(teacher["quantization"], Value::Null);
        assert_eq!(
            teacher["weights_bytes"],
            4 * teacher["parameters"].as_u64().unwrap()
        );

        let export = workshop.folder("out/chain", "05-export");
        let packed = inspect(export.join("compressed-tensors").to_str().unwrap());
        assert_eq!(packed["quantization"], json!({ "int4, groups of 16": 7 }));

        let run = inspect("out/chain");
        assert_eq!(
            (&run["kind"], &run["facts"]["recipe"]),
            (&"run".into(), &"chain".into())
        );
        let pass = workshop.folder("out/chain", "02-prune");
        let pass = inspect(pass.to_str().unwrap());
        assert_eq!(
            (&pass["kind"], &pass["facts"]["stage"]),
            (&"artifact".into(), &"02-prune".into())
        );
        assert_eq!(pass["model"]["pruned_matrices"], 7);
        let text = workshop.done(&["inspect", "teacher"]).stdout;
        assert!(text.starts_with("kind: checkpoint\nparameters: "), "{text}");
        workshop.fails(&["inspect", "text"], 2, &["`text` is neither a checkpoint"]);
    }

    #[test]
    fn the_schema_is_json_and_knows_the_keys_of_the_recipe() {
        let workshop = Workshop::new();
        let pretty: Value = serde_json::from_str(&workshop.done(&["schema"]).stdout).unwrap();
        assert_eq!(pretty, workshop.done(&["schema", "--json"]).json());
        let keys = pretty["properties"].as_object().unwrap();
        for key in [
            "name", "seed", "output", "device", "data", "teacher", "cache", "student", "passes",
            "export",
        ] {
            assert!(keys.contains_key(key), "{key}");
        }
    }
}
