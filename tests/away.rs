//! A run goes on where neither teacher nor text is, from the cache and the rows alone.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use crate::common::{Workshop, assert_same_results, files_below};

    /// Copies folders of one workshop into another.
    fn copy(from: &Workshop, to: &Workshop, folders: &[&Path]) {
        for folder in folders {
            let inside = folder.strip_prefix(from.path("")).unwrap();
            for (path, (bytes, _)) in files_below(folder) {
                to.write(inside.join(path).to_str().unwrap(), &bytes);
            }
        }
    }

    /// A machine that has the recipe, the rows, the cache and the figures of the teacher, and neither teacher nor text.
    fn second_machine(first: &Workshop) -> Workshop {
        let second = Workshop::empty();
        second.write("chain.yaml", &fs::read(first.path("chain.yaml")).unwrap());
        let [data, cache] = ["data", "cache"].map(|stage| first.folder("out", stage));
        let teacher = first.folder("out/chain", "00-teacher");
        copy(first, &second, &[&data, &cache, &teacher]);
        second
    }

    #[test]
    fn a_machine_without_teacher_and_text_ends_in_the_same_bytes() {
        let first = Workshop::new();
        first.write("teacher/README.md", b"---\nlicense: mit\n---\n");
        first.done(&["run", "chain.yaml"]);
        let second = second_machine(&first);
        let planned = second.done(&["plan", "chain.yaml"]).stdout;
        let ran = second.done(&["run", "chain.yaml"]).stderr;
        for told in [
            "the teacher is not here; its cached predictions are used (`",
            "the text is not here; the token rows that were made of it are used (`",
        ] {
            assert!(planned.contains(&format!("note: {told}")), "{planned}");
            assert!(ran.contains(told), "{ran}");
        }
        assert!(
            ran.contains("data: done, ") && ran.contains("cache: done"),
            "{ran}"
        );
        assert_same_results(&second.path("out"), &first.path("out"));
        let again = second.done(&["run", "chain.yaml"]).stderr;
        assert!(again.contains("05-export: done"), "{again}");
    }

    #[test]
    fn a_machine_with_the_text_alone_or_the_teacher_alone_goes_on_too() {
        let first = Workshop::new();
        first.done(&["run", "chain.yaml"]);
        for (there, told) in [
            ("teacher", "the text is not here"),
            ("text", "the teacher is not here"),
        ] {
            let second = second_machine(&first);
            copy(&first, &second, &[&first.path(there)]);
            let ran = second.done(&["run", "chain.yaml"]).stderr;
            assert!(ran.contains(told), "{ran}");
            assert_eq!(ran.matches(" is not here").count(), 1, "{ran}");
            assert_same_results(&second.path("out"), &first.path("out"));
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn what_needs_the_teacher_or_the_text_is_refused_with_what_is_missing() {
        let first = Workshop::new();
        first.done(&["run", "chain.yaml"]);
        let second = second_machine(&first);
        fs::create_dir(second.path("aside")).unwrap();
        let refused = |sets: &[&str], needles: &[&str]| {
            let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
            for command in ["plan", "run"] {
                second.fails(&[&[command, "chain.yaml"], &sets[..]].concat(), 2, needles);
            }
        };
        let teacher = "error[run/teacher-away]: the teacher is not here, and ";
        let at = "teacher: { checkpoint: teacher";
        // Another recipe takes the figures of the teacher from the folder of the first, and is refused without them.
        let other = second.done(&[
            "run",
            "chain.yaml",
            "--set",
            "name=other",
            "--set",
            "seed=9",
        ]);
        assert!(other.stdout.contains("teacher "), "{}", other.stdout);
        for run in ["out/other", "out/chain"] {
            fs::rename(
                second.path(run),
                second.path("aside").join(run.replace('/', "-")),
            )
            .unwrap();
        }
        refused(&[], &[teacher, "its own figures are not measured yet", at]);
        fs::rename(second.path("aside/out-chain"), second.path("out/chain")).unwrap();
        refused(
            &["student={from_teacher: {intermediate_size: 16, calibration_tokens: 64}}"],
            &[
                teacher,
                "the student is made of its weights: 01-distill is not done",
            ],
        );
        refused(
            &["passes.0.distill.losses={ forward_kl: 1.0, hidden_mse: 1.0 }"],
            &[teacher, "01-distill runs it along for `hidden_mse`"],
        );
        refused(
            &["cache.tokens=2k"],
            &[
                teacher,
                "error[run/text-away]: the text is not here, nor are the rows",
            ],
        );
        // Another cache is none of this one's inputs: the paths name nothing.
        refused(
            &["cache.support.top_k=8"],
            &["error[recipe/no-such-path]", at],
        );
        refused(
            &["data.sequence_length=16"],
            &["error[recipe/no-such-path]"],
        );
        let build = ["cache", "build", "chain.yaml", "--shard", "1/2"];
        second.fails(
            &build,
            2,
            &["error[run/teacher-away]", "help: copy the teacher"],
        );

        // A shard that is lost has to be captured again.
        let shard = second
            .folder("out", "cache")
            .join("train/shard-00001.parquet");
        fs::remove_file(shard).unwrap();
        refused(
            &[],
            &[
                teacher,
                "its predictions are not all cached",
                "captures them",
            ],
        );
        // What is kept is of no use if it is not as it was written.
        let config = second.folder("out", "cache").join("inputs.json");
        let text = fs::read_to_string(&config)
            .unwrap()
            .replace("\"seq", "\"Seq");
        second.write(
            config
                .strip_prefix(second.path(""))
                .unwrap()
                .to_str()
                .unwrap(),
            text.as_bytes(),
        );
        refused(&[], &["error[recipe/no-such-path]", at]);
    }
}
