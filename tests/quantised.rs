//! Passes that quantise, through the program itself: what rounding alone costs is measured once and told.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use crate::common::{Workshop, finished, folders, signal, wait_for};

    #[test]
    fn a_pass_says_what_rounding_alone_costs_before_it_trains_and_measures_that_once() {
        let workshop = Workshop::new();
        let args = ["run", "chain.yaml", "--json", "--set", "quantize.steps=120"];
        let child = workshop.start(&args);
        let begun = || folders(&workshop.path("out/chain"), ".partial-04-quantize");
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
}
