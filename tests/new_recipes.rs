//! `alambic new`: recipes that `plan` accepts as they are, and what it refuses.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use crate::common::Workshop;

    const NEW: [&str; 6] = ["new", "small", "--teacher", "teacher", "--data", "text"];

    #[test]
    fn a_new_recipe_is_accepted_by_plan_and_runs() {
        let workshop = Workshop::new();
        let made = workshop.done(&[&NEW[..], &["--json"]].concat()).json();
        assert_eq!(made["recipe"], "small.yaml");
        let text = fs::read_to_string(workshop.path("small.yaml")).unwrap();
        assert!(text.starts_with("# yaml-language-server: $schema=recipe.schema.json\n"));
        let schema = fs::read(workshop.path("recipe.schema.json")).unwrap();
        let schema: Value = serde_json::from_slice(&schema).unwrap();
        assert_eq!(schema["title"], "alambic recipe");

        let plan = workshop.done(&["plan", "small.yaml", "--json"]).json();
        let peak = plan["peak_memory_bytes"].as_u64().unwrap();
        assert_eq!(made["peak_memory_bytes"], peak);
        let difference = plan["secs_to_do"].as_f64().unwrap() - made["secs"].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{difference}");
        // The last file of the text is held out.
        assert!(text.contains("train: [text/train.txt]\n"), "{text}");
        assert!(
            text.contains("validation: [text/validation.txt] #"),
            "{text}"
        );
        workshop.done(&["run", "small.yaml"]);
    }

    #[test]
    fn time_and_size_are_met_and_paths_start_at_the_recipe() {
        let workshop = Workshop::new();
        let args = [
            "--validation",
            "text/validation.txt",
            "--size",
            "7k",
            "--hours",
            "0.001",
        ];
        workshop.done(
            &[
                "new",
                "sub/small",
                "--teacher",
                "teacher",
                "--data",
                "text/train.txt",
            ]
            .iter()
            .chain(&args)
            .copied()
            .collect::<Vec<_>>(),
        );
        let text = fs::read_to_string(workshop.path("sub/small.yaml")).unwrap();
        assert!(text.contains("checkpoint: ../teacher\n"), "{text}");
        assert!(text.contains("train: [../text/train.txt]\n"), "{text}");
        assert!(text.contains("tokens: 50k"), "the least there is: {text}");
        assert!(text.contains("      parameters: 0."), "{text}");
        workshop.done(&["plan", "sub/small.yaml"]);

        // No folder is left of a recipe that is refused.
        let args = [&["new", "other/two words"], &NEW[2..]].concat();
        workshop.fails(&args, 2, &["error[recipe/"]);
        assert!(!workshop.path("other").exists());

        // A student need not be quantised, but then it is smaller.
        let plain = [&["new", "plain"], &NEW[2..], &["--no-quantize"]].concat();
        workshop.done(&plain);
        let text = fs::read_to_string(workshop.path("plain.yaml")).unwrap();
        assert!(
            !text.contains("quantize") && text.contains("[huggingface]"),
            "{text}"
        );
        workshop.done(&["plan", "plain.yaml"]);
        let nothing = [
            &["new", "same"],
            &NEW[2..],
            &["--no-quantize", "--size", "1"],
        ]
        .concat();
        workshop.fails(&nothing, 2, &["error[new/size]", "is the teacher"]);

        // A whole teacher is only quantised.
        let args = [&NEW[2..], &["--size", "1"]].concat();
        workshop.done(&[&["new", "whole.yml"], &args[..]].concat());
        let text = fs::read_to_string(workshop.path("whole.yml")).unwrap();
        assert!(!text.contains("shrink"), "{text}");
        workshop.done(&["plan", "whole.yml"]);
    }

    #[test]
    fn a_new_recipe_is_refused_with_the_reason() {
        let workshop = Workshop::new();
        let with = |changes: &[(usize, &'static str)]| {
            let mut args = NEW;
            for (place, word) in changes {
                args[*place] = word;
            }
            args
        };
        workshop.fails(
            &["new", "a"],
            2,
            &["error[new/teacher]", "help: add `--teacher PATH`"],
        );
        let args = ["new", "a", "--teacher", "teacher"];
        workshop.fails(&args, 2, &["error[new/data]", "help: add `--data PATH`"]);
        workshop.fails(
            &with(&[(3, "absent")]),
            2,
            &["error[new/teacher]: `absent` names no"],
        );
        workshop.fails(
            &with(&[(3, "text")]),
            2,
            &["error[checkpoint]", "text/config.json"],
        );
        workshop.fails(&with(&[(5, "absent")]), 2, &["error[new/data]", "absent"]);
        let one_file = [
            "error[new/validation]: text/train.txt is one file",
            "--validation PATH",
        ];
        workshop.fails(&with(&[(5, "text/train.txt")]), 2, &one_file);
        workshop.fails(&with(&[(1, "two words")]), 2, &["error[recipe/", "`name`"]);
        let large = [&NEW[..], &["--size", "7B"]].concat();
        workshop.fails(
            &large,
            2,
            &["error[new/size]", "is not smaller than the teacher"],
        );
        workshop.fails(
            &[&NEW[..], &["--size", "half"]].concat(),
            2,
            &["write a share such as 0.5"],
        );
        assert!(!workshop.path("small.yaml").exists());
        workshop.done(&NEW);
        workshop.fails(&NEW, 2, &["error[new/exists]: small.yaml exists"]);
    }
}
