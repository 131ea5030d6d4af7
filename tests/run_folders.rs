//! The folder of a run and the folders of its passes stand wherever a model folder does.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::Value;

    use crate::common::{Workshop, assert_close};

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    fn evaluated(workshop: &Workshop, path: &str) -> Value {
        let line =
            format!("evaluate {path} --text text/validation.txt --sequence-length 32 --json");
        workshop.done(&words(&line)).json()
    }

    fn told(workshop: &Workshop, line: &str) -> String {
        workshop.done(&words(line)).stderr
    }

    /// A finished chain, and the row of each pass in its report.
    fn chain() -> (Workshop, Vec<Value>) {
        let workshop = Workshop::new();
        let report = workshop.done(&words("run chain.yaml --json")).json();
        let rows = report["passes"].as_array().unwrap().clone();
        (workshop, rows)
    }

    fn name(path: &Path) -> String {
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_run_is_its_export_and_a_pass_is_the_student_that_its_report_measured() {
        let (workshop, rows) = chain();
        let export = workshop.folder("out/chain", "05-export");
        let folder = export.join("compressed-tensors").display().to_string();
        let of_run = evaluated(&workshop, "out/chain");
        assert_eq!(of_run, evaluated(&workshop, &folder));
        assert_eq!(of_run, evaluated(&workshop, &export.display().to_string()));
        for key in ["loss_nats", "bits_per_byte"] {
            assert_close(&of_run[key], &rows.last().unwrap()[key], 1e-6, key);
        }
        let note = format!(
            "note: run `chain`: reading its export `{}/compressed-tensors`",
            name(&export)
        );
        let line = "evaluate out/chain --text text/validation.txt";
        assert!(told(&workshop, line).contains(&note), "{note}");

        for row in &rows[1..] {
            let pass = workshop.folder("out/chain", row["pass"].as_str().unwrap());
            let found = evaluated(&workshop, &pass.display().to_string());
            for key in ["loss_nats", "perplexity", "bits_per_byte"] {
                assert_close(&found[key], &row[key], 1e-6, key);
            }
        }
    }

    #[test]
    fn every_command_takes_a_run_and_a_pass_without_a_tokenizer() {
        let (workshop, _) = chain();
        let export = workshop.folder("out/chain", "05-export");
        let pass = workshop.folder("out/chain", "02-prune");
        let pass = pass.display();
        let model = export.join("compressed-tensors");
        let model = model.display();
        let generate = |path: &str| {
            let line = format!("generate {path} --prompt Anne --max-tokens 8 --seed 3");
            workshop.done(&words(&line)).stdout
        };
        assert_eq!(generate("out/chain"), generate(&model.to_string()));
        assert!(!generate(&pass.to_string()).is_empty());

        let export_as = |path: &str, out: &str| {
            let line = format!("export {path} --format huggingface --dtype f32 --out {out}");
            workshop.done(&words(&line));
            fs::read(workshop.path(out).join("model.safetensors")).unwrap()
        };
        assert!(export_as("out/chain", "one") == export_as(&model.to_string(), "two"));
        export_as(&pass.to_string(), "three");
        for file in ["tokenizer.json", "generation_config.json"] {
            let got = fs::read(workshop.path("three").join(file)).unwrap();
            assert!(
                got == fs::read(export.join("huggingface").join(file)).unwrap(),
                "{file}"
            );
        }
        let told = told(
            &workshop,
            &format!("quantize {pass} --method round-to-nearest --group-size 8 --out four"),
        );
        assert!(told.contains("reading 02-prune"), "{told}");
        workshop.done(&words(
            "quantize out/chain --method round-to-nearest --group-size 8 --out five",
        ));
        workshop.done(&words(&format!("inspect {pass} --against out/chain")));
        workshop.done(&words(&format!(
            "new made.yaml --teacher {pass} --data text/train.txt --validation text/validation.txt"
        )));
    }

    /// A recipe that starts from a model of another run and learns from it.
    const NEXT: &str = "\
name: next
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32 }
teacher: { checkpoint: TEACHER }
cache: { tokens: 512, support: { top_k: 8 } }
student: { checkpoint: STUDENT }
passes:
  - distill: { steps: 2, tokens_per_step: 64, learning_rate: 1e-3 }
export: { formats: [huggingface] }
";

    #[test]
    fn a_recipe_goes_on_from_a_run_and_notices_when_the_run_went_on() {
        let (workshop, _) = chain();
        let next = |student: &str| {
            let recipe = NEXT
                .replace("TEACHER", "out/chain")
                .replace("STUDENT", student);
            workshop.write("next.yaml", recipe.as_bytes());
        };
        next("out/chain");
        let first = workshop.done(&words("run next.yaml"));
        assert!(
            first
                .stderr
                .contains("note: run `chain`: reading its export"),
            "{}",
            first.stderr
        );
        let again = workshop.done(&words("run next.yaml")).stderr;
        assert!(again.contains("01-distill: done"), "{again}");
        workshop.done(&words("run chain.yaml --set passes.0.distill.steps=5"));
        let changed = workshop.done(&words("run next.yaml")).stderr;
        assert!(
            changed.contains("because the teacher has changed"),
            "{changed}"
        );
        workshop.done(&words("run chain.yaml")); // its old folders are done
        let back = workshop.done(&words("plan next.yaml --json")).json();
        let stages = back["stages"].as_array().unwrap();
        assert!(stages.iter().all(|stage| stage["done"] == true), "{back}");

        let pruned = workshop.path("out/chain");
        let pruned = crate::common::folders(&pruned, "02-prune").remove(0);
        next(&pruned.display().to_string());
        let report = workshop.done(&words("run next.yaml --json")).json();
        let sparsity = report["passes"][1]["sparsity"].as_f64().unwrap();
        assert!(sparsity > 0.4, "pruned weights stay pruned: {sparsity}");

        workshop.fails(
            &words("plan chain.yaml --set teacher.checkpoint=out/chain"),
            2,
            &[
                "error[checkpoint/own-run]",
                "is the folder of this very run",
            ],
        );
    }

    #[test]
    fn an_unfinished_run_is_its_last_finished_pass() {
        let (workshop, rows) = chain();
        let run = workshop.path("out/chain");
        fs::remove_dir_all(workshop.folder("out/chain", "05-export")).unwrap();
        let last = workshop.folder("out/chain", "04-");
        let unfinished = last.with_file_name(format!("unfinished-{}", name(&last)));
        fs::rename(&last, &unfinished).unwrap();
        let third = workshop.folder("out/chain", "03-");
        let found = evaluated(&workshop, "out/chain");
        assert_close(&found["loss_nats"], &rows[3]["loss_nats"], 1e-6, "loss");
        let note = format!(
            "note: run `chain` is unfinished: reading its last finished pass `{}`",
            name(&third)
        );
        let line = "generate out/chain --prompt Anne --max-tokens 2";
        assert!(told(&workshop, line).contains(&note), "{note}");

        let line = format!("generate {} --prompt Anne", unfinished.display());
        let needles = [
            "holds the state of an unfinished stage",
            "help: go on with `alambic run`",
        ];
        workshop.fails(&words(&line), 2, &needles);
        for prefix in ["01-", "02-", "03-"] {
            fs::remove_dir_all(workshop.folder("out/chain", prefix)).unwrap();
        }
        let needle = format!("has no finished pass yet: `{}` is begun", name(&last));
        for line in [
            "evaluate out/chain --text text/validation.txt",
            "generate out/chain --prompt Anne",
            "export out/chain --format gguf",
        ] {
            workshop.fails(
                &words(line),
                2,
                &[&needle, "help: go on with `alambic run`"],
            );
        }
        fs::remove_file(run.join("run.json")).unwrap();
        workshop.fails(&words("generate out/chain --prompt Anne"), 2, &[&needle]);
    }

    #[test]
    fn a_run_that_listed_no_stages_is_its_latest_ones() {
        let (workshop, _) = chain();
        let want = evaluated(&workshop, "out/chain");
        fs::remove_file(workshop.path("out/chain/run.json")).unwrap();
        assert_eq!(evaluated(&workshop, "out/chain"), want);
        let list = br#"{"stages": ["../../teacher", "..", "", "05-export-00000000"]}"#;
        workshop.write("out/chain/run.json", list);
        workshop.fails(
            &words("generate out/chain --prompt Anne"),
            2,
            &["has no finished pass yet"],
        );
    }
}
