//! Passes that take something out, through the program itself: what is left, what the report says, what is refused.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;

    use alambic::checkpoint::Checkpoint;
    use alambic::model::parameter_specs;
    use serde_json::Value;

    use crate::common::Workshop;

    const PASSES: &str = "passes:
  - shrink: { intermediate_size: 24, calibration_tokens: 256 }
  - distill: { steps: 16, tokens_per_step: 256, learning_rate: 1e-2, save_every: 4, prune: { sparsity: 0.25, to_step: 10, every: 3 } }
  - prune: { method: sparsegpt, pattern: 2:4, calibration_tokens: 512 }
  - distill: { steps: 8, tokens_per_step: 256, learning_rate: 3e-3, save_every: 4 }
export: { formats: [huggingface], dtype: f32 }
";

    /// The chain with other passes, on the whole teacher.
    fn workshop() -> Workshop {
        let workshop = Workshop::new();
        let chain = fs::read_to_string(workshop.path("chain.yaml")).unwrap();
        let (head, _) = chain.split_once("student:").unwrap();
        let recipe = format!("{head}student: {{ checkpoint: teacher }}\n{PASSES}");
        workshop.write("removed_parts.yaml", recipe.as_bytes());
        workshop
    }

    #[test]
    fn less_text_to_measure_on_than_was_asked_for_is_said() {
        let workshop = workshop();
        let said = |keys: &str| {
            let passes = format!("passes=[prune: {{sparsity: 0.5, {keys}}}]");
            let args = ["run", "removed_parts.yaml", "--set", &passes];
            let ran = workshop.done(&[&args[..], &["--set", "cache.tokens=320"]].concat());
            ran.stderr
                .contains("calibrated on 320 of the 640 positions asked for")
        };
        assert!(said("method: wanda, calibration_tokens: 640"));
        assert!(said("method: sparsegpt, calibration_tokens: 640"));
        assert!(!said("method: wanda, calibration_tokens: 320"));
        assert!(!said("method: magnitude"), "it reads no text");
    }

    #[test]
    fn the_export_is_smaller_and_sparse_and_the_report_tells_what_went_and_what_it_cost() {
        let workshop = workshop();
        let report = workshop
            .done(&["run", "removed_parts.yaml", "--json"])
            .json();
        let removals = report["removals"].as_array().unwrap();
        assert_eq!(removals.len(), 2, "{removals:?}");
        let of = |value: &Value, key: &str| value[key].as_f64().unwrap();
        let rows = report["passes"].as_array().unwrap();
        // The student is the whole teacher, whose figures are the first row.
        let (before, teacher) = (&removals[0], &rows[0]);
        let gap = of(before, "loss_before_nats") - of(teacher, "loss_nats");
        assert!(gap.abs() < 1e-9, "{gap}");
        assert_eq!(removals[0]["loss_after_nats"], rows[1]["loss_nats"]);
        assert_eq!(removals[0]["recovery"]["loss_nats"], rows[2]["loss_nats"]);
        assert_eq!(removals[1]["loss_before_nats"], rows[2]["loss_nats"]);
        assert_eq!(removals[1]["recovery"]["pass"], "04-distill");
        let matrices = removals[1]["removed"]["weights"].as_array().unwrap();
        assert_eq!(matrices.len(), 7);
        assert!(matrices.iter().all(|one| of(one, "output_error") > 0.0));
        let sparsities: Vec<f64> = rows.iter().map(|row| of(row, "sparsity")).collect();
        assert_eq!(sparsities[..3], [0.0, 0.0, 0.25]);
        // Where three of four had gone before the pattern, three are gone after it.
        assert!((0.5..0.56).contains(&sparsities[3]), "{sparsities:?}");
        assert_eq!(rows[3]["sparsity"], rows[4]["sparsity"]);

        let text = fs::read_to_string(workshop.path("out/chain/report.md")).unwrap();
        for needle in ["## Pruned", "8 of 32 channels a layer", "### 03-prune"] {
            assert!(text.contains(needle), "no `{needle}` in:\n{text}");
        }
        let dir = workshop
            .folder("out/chain", "05-export")
            .join("huggingface");
        let exported = Checkpoint::open(&dir).unwrap();
        assert_eq!(exported.config().intermediate_size, 24);
        for spec in parameter_specs(exported.config()) {
            if spec.id.input().is_some() {
                let weights = exported.values(&spec).unwrap();
                for four in weights.chunks(4) {
                    let zeros = four.iter().filter(|weight| **weight == 0.0).count();
                    assert!(zeros >= 2, "{}: {four:?}", spec.name);
                }
            }
        }
        let again = workshop
            .done(&["run", "removed_parts.yaml", "--json"])
            .json();
        assert_eq!(
            again["removals"], report["removals"],
            "from what is on disk"
        );
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_before_anything_is_written() {
        let workshop = workshop();
        for (set, id, needles) in [
            (
                "passes.0.shrink={num_hidden_layers: 2}",
                "shrink/size",
                [
                    "`num_hidden_layers` is 2, but the student has 1",
                    "write at most 1",
                ],
            ),
            (
                "passes.0.shrink={hidden_size: 16}",
                "shrink/size",
                [
                    "nothing is removed",
                    "write smaller sizes, or delete the pass",
                ],
            ),
            (
                "passes.0.shrink={parameters: 0.01}",
                "shrink/size",
                ["no sizes leave", "write at least `parameters: 0."],
            ),
            (
                "passes.0.shrink={intermediate_size: 22}",
                "prune/uneven-pattern",
                [
                    "does not divide the 22 columns",
                    "write `sparsity: 0.5` instead",
                ],
            ),
        ] {
            let id = format!("error[{id}]");
            let needles = [id.as_str(), needles[0], needles[1], "  = help: "];
            for command in ["run", "plan"] {
                workshop.fails(&[command, "removed_parts.yaml", "--set", set], 2, &needles);
            }
        }
        assert!(!workshop.path("out").exists(), "something was written");
    }
}
