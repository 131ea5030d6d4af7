//! Passes that quantise, through the program itself: what rounding alone costs is measured once and told.

#[cfg(test)]
mod common;

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "one number, found in two places")]
mod tests {
    use std::fs;

    use alambic::passes::PassPlan;
    use alambic::plan;
    use serde_json::Value;

    use crate::common::{Workshop, finished, folders, signal, wait_for};

    #[test]
    fn a_pass_says_what_rounding_alone_costs_before_it_trains_and_measures_that_once() {
        let workshop = Workshop::new();
        let args = ["run", "chain.yaml", "--json", "--set", "quantize.steps=120"];
        let child = workshop.start(&args);
        let begun = || folders(&workshop.path("out/chain"), "unfinished-04-quantize");
        let file = || begun().first().map(|dir| dir.join("rounding.json"));
        wait_for("measurement", || file().is_some_and(|path| path.exists()));
        let first = fs::read(file().unwrap()).unwrap();
        signal(&child, "TERM");
        let ran = finished(child);
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        let told = |stderr: &str| {
            let line = stderr.lines().find(|line| line.contains("rounding alone"));
            line.unwrap_or_else(|| panic!("{stderr}")).to_owned()
        };

        let again = workshop.done(&args);
        assert_eq!(told(&again.stderr), told(&ran.stderr));
        let report = again.json();
        let (quantizations, rows) = (&report["quantizations"], &report["passes"]);
        assert_eq!(quantizations.as_array().unwrap().len(), 1);
        let nats = |value: &Value, key: &str| value[key].as_f64().unwrap();
        let [before, rounded, after] = ["before", "rounded", "after"]
            .map(|at| nats(&quantizations[0], &format!("loss_{at}_nats")));
        let gap = before - nats(&rows[3], "loss_nats");
        assert!(gap.abs() < 1e-9, "03-distill left this student: {gap}");
        assert!(rounded > before, "{rounded} {before}");
        assert_eq!(after, nats(&rows[4], "loss_nats"));
        let kept = workshop.folder("out/chain", "04-quantize");
        assert_eq!(fs::read(kept.join("rounding.json")).unwrap(), first);
        let metrics = fs::read_to_string(kept.join("metrics.jsonl")).unwrap();
        let line = metrics.lines().next().unwrap();
        assert!(
            line.starts_with("{\"step\":0,\"rounding/loss_before\":"),
            "{line}"
        );

        // Rounding alone gives that very loss.
        let sets = [
            "--set",
            "passes.3.quantize={method: round-to-nearest, bits: 4, group_size: 16}",
        ];
        let plain = workshop.done(&[&args[..3], &sets].concat()).json();
        let plain = &plain["quantizations"][0];
        assert_eq!(nats(plain, "loss_after_nats"), rounded);
        assert_eq!(nats(plain, "loss_rounded_nats"), rounded);
        assert!((nats(plain, "loss_before_nats") - before).abs() < 1e-9);
        let text = fs::read_to_string(workshop.path("out/chain/report.md")).unwrap();
        for needle in ["## Quantised", "04-quantize: rounding alone costs"] {
            assert!(text.contains(needle), "no `{needle}` in:\n{text}");
        }
    }

    #[test]
    fn a_teacher_that_rounds_activations_is_measured_as_it_was_captured() {
        let workshop = Workshop::new();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");
        for file in [
            "ct-fp8-dynamic/config.json",
            "ct-fp8-dynamic/model.safetensors",
            "hf-llama/tokenizer.json",
        ] {
            let (_, name) = file.split_once('/').unwrap();
            let bytes = fs::read(format!("{golden}{file}")).unwrap();
            workshop.write(&format!("rounding/{name}"), &bytes);
        }
        let recipe = "
name: rounded
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, validation_tokens: 512 }
teacher: { checkpoint: rounding }
cache: { tokens: 1k, support: { top_k: 320 } }
student: { checkpoint: rounding }
passes:
  - distill: { steps: 1, tokens_per_step: 64 }
export: { formats: [huggingface], dtype: f32 }
output: out
";
        workshop.write("rounded.yaml", recipe.as_bytes());
        let report = workshop.done(&["run", "rounded.yaml", "--json"]).json();
        let teacher = &report["passes"][0];
        assert_eq!(teacher["pass"], "teacher", "{report}");
        let kl = teacher["kl_nats"].as_f64().unwrap();
        assert!(kl.abs() < 1e-4, "{kl}: only the cache's rounding is left");
        assert!(
            teacher["top1_agreement"].as_f64().unwrap() > 0.98,
            "{teacher}"
        );
    }

    #[test]
    fn widths_under_a_budget_are_in_the_export_and_in_the_report_with_what_they_follow_from() {
        let workshop = Workshop::new();
        let pass = "passes.3.quantize={method: qat, steps: 15, tokens_per_step: 256, bits: {budget: 3.5}, group_size: 16, sensitivity: {tokens: 512}}";
        let args = ["run", "chain.yaml", "--json", "--set", pass];
        let report = workshop.done(&args).json();
        let picture = &report["quantizations"][0]["sensitivity"];
        assert_eq!(picture["costs"]["positions"], 512);
        let costs = picture["costs"]["costs"].as_array().unwrap();
        assert_eq!(costs.len(), 20, "one layer");
        let choice = &picture["choice"];
        assert!(choice["average_bits"].as_f64().unwrap() <= 3.5, "{choice}");
        let dir = workshop.folder("out/chain", "04-quantize");
        for name in [
            "sensitivity.json",
            "sensitivity.csv",
            "sensitivity.svg",
            "widths.json",
        ] {
            assert!(dir.join(name).exists(), "{name}");
        }
        let text = fs::read_to_string(workshop.path("out/chain/report.md")).unwrap();
        let svg = picture["svg"].as_str().unwrap();
        assert!(workshop.path("out/chain").join(svg).exists(), "{svg}");
        for needle in [svg, "Chosen: 3.", "| layer | q, k, v | o |"] {
            assert!(text.contains(needle), "no `{needle}` in:\n{text}");
        }
        let config = workshop
            .folder("out/chain", "05-export")
            .join("compressed-tensors/config.json");
        let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
        let groups = config["quantization_config"]["config_groups"]
            .as_object()
            .unwrap();
        let mut widths: Vec<u64> = groups
            .values()
            .map(|group| group["weights"]["num_bits"].as_u64().unwrap())
            .collect();
        widths.sort_unstable();
        let parts = choice["parts"].as_array().unwrap();
        let mut chosen: Vec<u64> = parts
            .iter()
            .map(|part| part["bits"].as_u64().unwrap())
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(widths, chosen);
        assert!(widths.len() > 1, "{widths:?}");
        let again = workshop.done(&args).json();
        assert_eq!(
            again["quantizations"], report["quantizations"],
            "from what is on disk"
        );
    }

    #[test]
    fn an_override_that_names_a_part_of_what_engines_join_is_refused_under_a_budget() {
        let workshop = Workshop::new();
        let pass = "passes.3.quantize={method: round-to-nearest, bits: {budget: 3.5}, group_size: 16, overrides: [{modules: [q_proj], group_size: 16}]}";
        let needles = [
            "error[quantize/unlike-parts]",
            "`model.layers.0.self_attn.q_proj.weight`",
            "  = help: ",
        ];
        workshop.fails(&["run", "chain.yaml", "--set", pass], 2, &needles);
    }

    #[test]
    fn a_budget_measures_on_as_many_tokens_as_the_key_says_by_itself_and_is_resolved_as_written() {
        let workshop = Workshop::new();
        let load = |set: &str| plan::load(&workshop.path("chain.yaml"), &[set.to_owned()]).unwrap();
        let plan = |keys: &str| {
            let pass =
                format!("passes.3.quantize={{ method: round-to-nearest, group_size: 16, {keys} }}");
            load(&pass)
        };
        let implied = plan("bits: { budget: 3.5 }");
        let written = plan("bits: { widths: [8, 2, 4, 3], budget: 3.5 }, sensitivity: {}");
        assert_eq!(implied.passes, written.passes);
        let PassPlan::Quantize(pass) = &implied.passes[3] else {
            panic!("a quantize pass");
        };
        let sensitivity = pass.sensitivity.as_ref().unwrap();
        assert_eq!(sensitivity.tokens, 2048);
        assert_eq!(sensitivity.budget.as_ref().unwrap().widths, [2, 3, 4, 8]);
        let measured = plan("bits: 3, sensitivity: { tokens: 4k }");
        let late = load("quantize.start_step=7");
        for plan in [implied, measured, late] {
            let text = plan::resolved_yaml(&plan, &workshop.path(""));
            workshop.write("resolved.yaml", text.as_bytes());
            let again = plan::load(&workshop.path("resolved.yaml"), &[]).unwrap();
            assert_eq!(again.passes, plan.passes, "{text}");
        }
    }
}
