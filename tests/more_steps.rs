//! A pass with more steps than before goes on where the shorter one kept its state, and ends in the bytes of one that ran alone.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::common::{Workshop, files_below, folders, results};

    /// Everything that a run alone has made is in the other output folder, too, to the byte.
    fn assert_among(alone: &Path, output: &Path) {
        let (alone, output) = (results(alone), results(output));
        let differs = |path: &&std::path::PathBuf| output.get(*path) != alone.get(*path);
        let different: Vec<_> = alone.keys().filter(differs).collect();
        assert!(different.is_empty(), "{different:?}");
        assert!(alone.len() > 8, "{:?}", alone.keys());
    }

    fn with<'a>(sets: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        let all = sets.iter().chain(more);
        let sets = all.flat_map(|set| ["--set", set]);
        ["run", "chain.yaml"].into_iter().chain(sets).collect()
    }

    #[test]
    fn a_pass_of_more_steps_ends_in_the_bytes_of_one_that_ran_alone() {
        let constant = ["distill.schedule=constant", "distill.warmup_steps=2"];
        let stable = [
            "distill.schedule=warmup_stable_decay",
            "distill.warmup_steps=2",
            "distill.decay_steps=6",
        ];
        let rich = [
            "distill.schedule=constant",
            "distill.warmup_steps=2",
            "distill.ema=0.9",
            "distill.evaluate_every=7",
            "passes.0.distill.prune={ sparsity: 0.3, from_step: 2, to_step: 9, every: 3 }",
            "passes.0.distill.losses={ forward_kl: { from: 1.0, to: 0.2, over: 11 }, cross_entropy: 0.5 }",
        ];
        for (sets, kept) in [(&constant[..], 20), (&stable, 14), (&rich, 20)] {
            let workshop = Workshop::new();
            workshop.done(&with(sets, &["passes.0.distill.steps=20"]));
            let longer = "passes.0.distill.steps=33";
            let told = format!("01-distill goes on after step {kept} of an earlier run");
            let plan = [&["plan"], &with(sets, &[longer])[1..]].concat();
            let planned = workshop.done(&plan).stdout;
            assert!(planned.contains(&told), "{planned}");
            let ran = workshop.done(&with(sets, &[longer])).stderr;
            let told = told.replace("01-distill", "01-distill:");
            assert!(
                ran.contains(&told) && ran.contains("01-distill: resumed at "),
                "{ran}"
            );
            workshop.done(&with(sets, &[longer, "output=alone"]));
            assert_among(&workshop.path("alone"), &workshop.path("out"));
            // The longer one has kept its state, too; and the record of the shorter one goes on.
            let metrics = files_below(&workshop.path("out/chain")).into_iter();
            let first_lines = metrics.filter(|(path, _)| path.ends_with("metrics.jsonl"));
            let first_lines = first_lines.filter(|(path, _)| path.starts_with("01-distill"));
            for (path, (bytes, _)) in first_lines {
                let text = String::from_utf8(bytes).unwrap();
                assert!(
                    text.starts_with("{\"step\":") && text.contains("\"step\":10"),
                    "{path:?}"
                );
            }
        }
    }

    #[test]
    fn training_on_a_grid_goes_on_too_and_a_damaged_state_costs_the_steps_alone() {
        let workshop = Workshop::new();
        let sets = [
            "quantize.schedule=constant",
            "quantize.warmup_steps=1",
            "quantize.start_step=3",
        ];
        workshop.done(&with(&sets, &[]));
        let ran = workshop.done(&with(&sets, &["quantize.steps=22"])).stderr;
        assert!(
            ran.contains("04-quantize: goes on after step 15 of an earlier run"),
            "{ran}"
        );
        workshop.done(&with(&sets, &["quantize.steps=22", "output=alone"]));
        assert_among(&workshop.path("alone"), &workshop.path("out"));

        for dir in folders(&workshop.path("out/chain"), "04-quantize") {
            for path in files_below(&dir)
                .into_keys()
                .filter(|path| path.to_string_lossy().starts_with("more-"))
            {
                let relative = dir.strip_prefix(workshop.path("")).unwrap().join(&path);
                let mut bytes = std::fs::read(dir.join(&path)).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                workshop.write(relative.to_str().unwrap(), &bytes);
            }
        }
        let ran = workshop.done(&with(&sets, &["quantize.steps=25"])).stderr;
        assert!(ran.contains(": the pass begins at its first step"), "{ran}");
        workshop.done(&with(&sets, &["quantize.steps=25", "output=alone"]));
        assert_among(&workshop.path("alone"), &workshop.path("out"));
    }

    #[test]
    fn a_pass_whose_steps_depend_on_their_number_begins_anew_and_says_which_key_it_is() {
        for (sets, because) in [
            (&[][..], "`schedule: cosine` depends on `steps`"),
            (
                &["distill.schedule=constant"],
                "`warmup_steps` changed from 1 to 3",
            ),
            (
                &[
                    "distill.schedule=constant",
                    "distill.evaluate_every=5",
                    "distill.hand_on=best",
                ],
                "`hand_on: best` depends on `steps`",
            ),
        ] {
            let workshop = Workshop::new();
            workshop.done(&with(sets, &["passes.0.distill.steps=20"]));
            let ran = workshop
                .done(&with(sets, &["passes.0.distill.steps=60"]))
                .stderr;
            let told = format!("01-distill: begins at its first step: {because}");
            assert!(ran.contains(&told), "{told}\n{ran}");
        }
    }
}
