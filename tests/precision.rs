//! Products in bf16, as a user asks for them.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::Value;

    use crate::common::{Workshop, assert_same_results};

    const RECIPE: &str = "\
name: small
seed: 3
output: out
data: { train: [train.txt], validation: [held-out.txt], sequence_length: 32 }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 8 }, rows_per_shard: 4, tokens: 1k }
student: { from_teacher: { intermediate_size: 128 } }
passes:
  - distill: { steps: 6, tokens_per_step: 128, micro_batch: 1, learning_rate: 1e-3, save_every: 2 }
export: { formats: [huggingface], dtype: f32 }
";

    fn workshop() -> Workshop {
        let workshop = Workshop::empty();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf-llama-256");
        workshop.copy_files(&golden, "teacher");
        let prose = "The sea was calm, and nobody said a word. ".repeat(100);
        workshop.write("train.txt", prose.as_bytes());
        workshop.write("held-out.txt", &prose.as_bytes()[..800]);
        workshop.write("small.yaml", RECIPE.as_bytes());
        workshop
    }

    fn last_loss(report: &Value) -> f64 {
        let passes = report["passes"].as_array().unwrap();
        passes.last().unwrap()["loss_nats"].as_f64().unwrap()
    }

    #[test]
    fn both_orders_of_sums_run_on_any_machine_and_leave_f32_almost_where_it_was() {
        let workshop = workshop();
        let run = |precision: &str| {
            let output = format!("output={}", precision.replace('/', "-"));
            let args = [
                "run",
                "small.yaml",
                "--precision",
                precision,
                "--set",
                &output,
                "--json",
            ];
            workshop.done(&args).json()
        };
        let f32 = last_loss(&run("f32"));
        let mut weights = Vec::new();
        for precision in ["bf16/vdpbf16ps", "bf16/amx"] {
            let report = run(precision);
            assert!(
                (last_loss(&report) - f32).abs() < 0.02,
                "{precision}: {report}"
            );
            let output = workshop.path(&precision.replace('/', "-"));
            let recipe = fs::read_to_string(output.join("small/recipe.yaml")).unwrap();
            assert_eq!(recipe.matches(precision).count(), 2, "{recipe}");
            let cache = workshop.folder(output.to_str().unwrap(), "cache-");
            let manifest = fs::read_to_string(cache.join("train/manifest.json")).unwrap();
            assert!(manifest.contains(precision), "{manifest}");
            let verified = [
                "cache",
                "verify",
                cache.to_str().unwrap(),
                "--teacher",
                "teacher",
            ];
            workshop.done(&verified);
            let export = workshop.folder(output.join("small").to_str().unwrap(), "02-export");
            weights.push(fs::read(export.join("huggingface/model.safetensors")).unwrap());
        }
        assert!(weights[0] != weights[1], "the orders round alike");
    }

    #[test]
    fn the_word_bf16_means_the_fastest_order_of_this_machine() {
        let workshop = workshop();
        workshop.done(&[
            "run",
            "small.yaml",
            "--precision",
            "bf16",
            "--set",
            "output=one",
        ]);
        let recipe = fs::read_to_string(workshop.path("one/small/recipe.yaml")).unwrap();
        let named = ["bf16/vdpbf16ps", "bf16/amx"];
        let named = named
            .into_iter()
            .find(|name| recipe.contains(name))
            .unwrap();
        workshop.done(&[
            "run",
            "small.yaml",
            "--precision",
            named,
            "--set",
            "output=two",
        ]);
        assert_same_results(&workshop.path("two/small"), &workshop.path("one/small"));
    }

    #[test]
    fn a_measurement_in_bf16_says_so() {
        let workshop = workshop();
        let args = [
            "evaluate",
            "teacher",
            "--teacher",
            "teacher",
            "--text",
            "held-out.txt",
            "--json",
            "--precision",
        ];
        let exact = workshop.done(&[&args[..], &["f32"]].concat()).json();
        let rough = workshop.done(&[&args[..], &["bf16/amx"]].concat()).json();
        assert_eq!(rough["precision"], "bf16/amx");
        let kl = |found: &Value| found["kl_nats"].as_f64().unwrap();
        assert!(kl(&exact).abs() < 1e-9, "{exact}");
        assert!((1e-9..1e-3).contains(&kl(&rough)), "{rough}");
        workshop.fails(
            &[
                "evaluate",
                "teacher",
                "--text",
                "held-out.txt",
                "--precision",
                "fp8",
            ],
            2,
            &["[possible values: f32, bf16"],
        );
    }
}
