//! What `evaluate` measures: what a run measures, token by token, and text apart from what packing puts between documents.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;

    use alambic::train::read_metrics;
    use serde_json::{Value, json};

    use crate::common::{Workshop, assert_close};

    #[test]
    fn an_export_evaluates_to_the_last_row_of_its_run() {
        let workshop = Workshop::new();
        let report = workshop.done(&["run", "chain.yaml", "--json"]).json();
        let row = report["passes"].as_array().unwrap().last().unwrap().clone();
        let export = workshop.folder("out/chain", "05-export");
        for format in ["huggingface", "compressed-tensors"] {
            let dir = export.join(format).display().to_string();
            let args = [
                "evaluate",
                &dir,
                "--text",
                "text/validation.txt",
                "--sequence-length",
                "32",
                "--losses",
                "losses.jsonl",
                "--json",
            ];
            let alone = workshop.done(&args).json();
            assert_losses(&workshop, &alone);
            for key in ["loss_nats", "perplexity", "bits_per_byte"] {
                assert_close(&alone[key], &row[key], 1e-6, key);
            }
            assert_close(&alone["calibration_error"], &row["ece"], 1e-6, "ece");
            assert_eq!(alone["kl_nats"], Value::Null);

            let beside = [&args[..], &["--teacher", "teacher"]].concat();
            let beside = workshop.done(&beside).json();
            assert_eq!(beside["loss_nats"], alone["loss_nats"]);
            // Rounded log-probabilities of the cache may tie where the teacher's own do not.
            assert_close(
                &beside["top1_agreement"],
                &row["top1_agreement"],
                0.01,
                "top-1",
            );
            let (exact, pooled) = (
                beside["kl_nats"].as_f64().unwrap(),
                row["kl_nats"].as_f64().unwrap(),
            );
            assert!(
                exact >= pooled - 1e-3,
                "pooling the tail cannot add to {exact}, but gave {pooled}"
            );
        }
    }

    /// The losses written token by token are those of the means, each of a token that has one before it; where one is of a
    /// separator, its row says so.
    fn assert_losses(workshop: &Workshop, evaluation: &Value) {
        let lines = fs::read_to_string(workshop.path("losses.jsonl")).unwrap();
        let (mut text, mut separators) = (Vec::new(), Vec::new());
        for line in lines.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let losses: Vec<f64> = serde_json::from_value(row["loss_nats"].clone()).unwrap();
            assert_eq!(row["tokens"].as_array().unwrap().len(), losses.len() + 1);
            let places: Vec<usize> = serde_json::from_value(row["separators"].clone()).unwrap();
            for (place, loss) in losses.into_iter().enumerate() {
                if places.contains(&place) {
                    separators.push(loss);
                } else {
                    text.push(loss);
                }
            }
        }
        let mean = |losses: &[f64]| json!(losses.iter().sum::<f64>() / losses.len() as f64);
        assert_eq!(evaluation["positions"], text.len());
        assert_eq!(evaluation["separators"], separators.len());
        let name = "mean of the losses";
        assert_close(&mean(&text), &evaluation["loss_nats"], 1e-9, name);
        let (all, with) = ([text, separators].concat(), &evaluation["with_separators"]);
        assert_eq!(with["positions"], all.len());
        assert_close(&mean(&all), &with["loss_nats"], 1e-9, name);
    }

    /// Chats of a few words: what ends them is a large part of all tokens.
    const CHATS: [&str; 4] = [
        "Anne was tired.",
        "He smiled & left<|endoftext|>She did not.",
        "No.",
        "It rained.",
    ];

    #[test]
    fn what_stands_between_documents_is_predicted_and_told_apart() {
        let workshop = Workshop::new();
        let lines = CHATS.map(|text| format!("{}\n", json!({ "text": text })));
        workshop.write("chats.jsonl", lines.concat().as_bytes());
        let evaluate = |text: &str| {
            let line = format!(
                "evaluate teacher --text {text} --sequence-length 8 --teacher teacher --losses losses.jsonl --json"
            );
            let args: Vec<&str> = line.split(' ').collect();
            workshop.done(&args).json()
        };
        let found = evaluate("chats.jsonl");
        assert_losses(&workshop, &found);
        assert_eq!(found["separators"], 4, "the one written out is text");
        let with = &found["with_separators"];
        let number = |value: &Value| value.as_f64().unwrap();
        assert!(
            (number(&with["loss_nats"]) - number(&found["loss_nats"])).abs() > 0.05,
            "{found}"
        );
        for measures in [&found, with] {
            let loss = number(&measures["loss_nats"]);
            let num_bytes: usize = CHATS.iter().map(|text| text.len()).sum();
            let bits = loss * number(&measures["positions"]) / 2_f64.ln() / num_bytes as f64;
            assert_close(
                &measures["bits_per_byte"],
                &json!(bits),
                1e-9,
                "bits per byte",
            );
            assert_close(
                &measures["perplexity"],
                &json!(loss.exp()),
                1e-6 * loss.exp(),
                "perplexity",
            );
            assert_close(&measures["kl_nats"], &json!(0.0), 1e-6, "KL");
            assert_eq!(measures["top1_agreement"], 1.0);
        }
        let args = ["evaluate", "teacher", "--text", "chats.jsonl"];
        let told = workshop.done(&args).stdout;
        assert!(
            told.contains("\nseparators: 4\nwith_separators:\n  loss_nats: "),
            "{told}"
        );
    }

    #[test]
    fn a_run_measures_text_as_evaluate_does() {
        let workshop = Workshop::new();
        let lines = CHATS.map(|text| format!("{}\n", json!({ "text": text })));
        workshop.write("chats.jsonl", lines.concat().as_bytes());
        let set = [
            "data.validation=[chats.jsonl]",
            "passes=[{ distill: { steps: 2, tokens_per_step: 64, evaluate_every: 1 } }]",
            "export.formats=[huggingface]",
        ];
        let sets = set.iter().flat_map(|set| ["--set", set]);
        let args: Vec<&str> = ["run", "chain.yaml", "--json"]
            .into_iter()
            .chain(sets)
            .collect();
        let report = workshop.done(&args).json();
        let kept = workshop.done(&args).json(); // rows come from the disk
        assert_eq!(
            kept["passes"][0]["loss_nats"],
            report["passes"][0]["loss_nats"]
        );
        let dir = workshop
            .folder("out/chain", "02-export")
            .join("huggingface");
        let dir = dir.display().to_string();
        let text = ["--text", "chats.jsonl", "--sequence-length", "32", "--json"];
        let alone = workshop
            .done(&[&["evaluate", &dir][..], &text].concat())
            .json();
        let row = &report["passes"][1];
        for key in ["loss_nats", "perplexity", "bits_per_byte"] {
            assert_close(&alone[key], &row[key], 1e-6, key);
        }
        let metrics = read_metrics(&workshop.folder("out/chain", "01-distill")).unwrap();
        let last = metrics
            .iter()
            .rev()
            .find_map(|line| line.get("validation/loss"));
        assert_close(
            &json!(last),
            &row["loss_nats"],
            1e-6,
            "measured in the pass",
        );
    }
}
