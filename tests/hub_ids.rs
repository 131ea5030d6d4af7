//! Recipes and commands that name models and data by their ids on the hub, against a server on loopback.

#[cfg(test)]
mod common;

#[cfg(test)]
#[path = "../src/hub/tests/server.rs"]
#[expect(dead_code, reason = "the tests of the hub itself use more of it")]
mod server;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::Value;

    use crate::common::{Ran, Workshop};
    use crate::server::{COMMIT, FakeHub, Reply};

    const OTHER: &str = "bbbbbbbbbbccccccccccddddddddddeeeeeeeeee";

    const RECIPE: &str = "\
name: hub
output: out
data:
  train: [{ path: a/b, split: train }]
  validation: [{ path: a/b, split: validation }]
  sequence_length: 32
teacher: { checkpoint: a/b }
student: { from_teacher: { layers: [0] } }
passes:
  - distill: { steps: 3, tokens_per_step: 256, learning_rate: 1e-3 }
export: { formats: [huggingface], dtype: f32 }
";

    /// A workshop, and a hub with one repository, which is a model and data at once.
    struct Desk {
        workshop: Workshop,
        hub: FakeHub,
    }

    impl Desk {
        fn new() -> Self {
            let workshop = Workshop::new();
            let mut files = Vec::new();
            for folder in ["teacher", "text"] {
                for entry in fs::read_dir(workshop.path(folder)).unwrap() {
                    let path = entry.unwrap().path();
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    files.push((name, fs::read(path).unwrap()));
                }
            }
            let files: Vec<(&str, &[u8])> = files
                .iter()
                .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
                .collect();
            let hub = FakeHub::new(&files);
            workshop.write("hub.yaml", RECIPE.as_bytes());
            Self { workshop, hub }
        }

        /// A desk at which the recipe has run.
        fn ran() -> Self {
            let desk = Self::new();
            desk.done(&["run", "hub.yaml"]);
            desk.hub.seen("");
            desk
        }

        fn run(&self, args: &[&str]) -> Ran {
            let mut command = self.workshop.command(args);
            for name in [
                "HF_HUB_OFFLINE",
                "HTTP_PROXY",
                "http_proxy",
                "ALL_PROXY",
                "all_proxy",
            ] {
                command.env_remove(name);
            }
            command.env("HF_ENDPOINT", &self.hub.endpoint);
            command.output().unwrap().into()
        }

        fn done(&self, args: &[&str]) -> Ran {
            let ran = self.run(args);
            assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
            ran
        }

        fn fails(&self, args: &[&str], needles: &[&str]) -> String {
            let ran = self.run(args);
            assert_eq!(
                (ran.code, ran.stdout.as_str()),
                (Some(2), ""),
                "{}",
                ran.stderr
            );
            for needle in needles {
                assert!(
                    ran.stderr.contains(needle),
                    "no `{needle}` in:\n{}",
                    ran.stderr
                );
            }
            ran.stderr
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.workshop.path(path)).unwrap()
        }
    }

    /// Text of the one file of this name below a folder.
    fn below(folder: &Path, name: &str) -> String {
        let mut folders = vec![folder.to_path_buf()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|other| other == name) {
                    found.push(fs::read_to_string(path).unwrap());
                }
            }
        }
        assert_eq!(found.len(), 1, "{name}");
        found.remove(0)
    }

    #[test]
    fn a_plan_fetches_nothing_and_says_at_each_id_what_is_to_be_fetched() {
        let desk = Desk::new();
        let told = desk.fails(
            &["plan", "hub.yaml"],
            &[
                "error[hub/not-fetched]: `a/b` is not on this machine",
                "hub.yaml:7:24",
                "files of ",
                "`alambic fetch a/b` fetches it",
                "`alambic fetch a/b --dataset --split train` fetches it",
                "3 faults in hub.yaml",
            ],
        );
        let fetched = desk.hub.seen("/resolve/");
        let is_readme = |path: &str| path.ends_with("/README.md");
        assert!(fetched.iter().all(|seen| is_readme(&seen.path)), "{told}");
    }

    #[test]
    fn a_run_of_ids_names_their_commits_in_recipe_report_and_card() {
        let desk = Desk::new();
        let pinned = format!("a/b@{COMMIT}");
        let ran = desk.done(&["run", "hub.yaml"]);
        assert!(ran.stderr.contains("fetch: 100 %"), "{}", ran.stderr);
        assert!(desk.text("out/hub/recipe.yaml").matches(&pinned).count() == 3);
        let report: Value = serde_json::from_str(&desk.text("out/hub/report.json")).unwrap();
        let origins = report["origins"].as_array().unwrap();
        assert_eq!(origins.len(), 3);
        assert!(
            origins.iter().all(|origin| origin["id"] == pinned.as_str()),
            "{origins:?}"
        );
        assert!(
            desk.text("out/hub/report.md")
                .contains(&format!("- teacher: `{pinned}`"))
        );
        let card = below(&desk.workshop.path("out/hub"), "README.md");
        for part in [
            "base_model: \"a/b\"\n",
            "datasets:\n- \"a/b\"\n",
            &format!("Made by alambic from `a/b` at commit `{COMMIT}`."),
            &format!("tokens of `{pinned}`"),
        ] {
            assert!(card.contains(part), "no {part} in:\n{card}");
        }
    }

    #[test]
    fn ids_that_are_here_run_again_without_a_network() {
        let desk = Desk::ran();
        // What is there is not fetched again, and a commit needs no network.
        let again = desk.done(&["run", "hub.yaml"]);
        assert_eq!(desk.hub.seen("").len(), 2, "of the model and of the data");
        for stage in [
            "data: done",
            "cache: done",
            "01-distill: done",
            "02-export: done",
        ] {
            assert!(again.stderr.contains(stage), "{}", again.stderr);
        }
        let resolved = desk.done(&["plan", "out/hub/recipe.yaml", "--json"]).json();
        let stages = resolved["stages"].as_array().unwrap().iter();
        assert!(
            stages.clone().all(|stage| stage["done"] == true),
            "{resolved}"
        );
        assert!(desk.hub.seen("").is_empty());
        desk.workshop.done(&["run", "hub.yaml"]); // with `HF_HUB_OFFLINE`
        let tokenizer = "data.tokenizer={file: a/b}";
        desk.workshop
            .done(&["plan", "hub.yaml", "--set", tokenizer]);
    }

    #[test]
    fn a_branch_that_has_moved_to_the_same_bytes_makes_nothing_again() {
        let desk = Desk::ran();
        desk.hub.move_to(OTHER);
        let moved = desk.done(&["run", "hub.yaml"]);
        assert!(
            moved
                .stderr
                .contains("`main` of `a/b` has moved from commit aaaaaaaaaa to bbbbbbbbbb")
        );
        assert!(moved.stderr.contains("02-export: done"), "{}", moved.stderr);
        assert!(
            desk.text("out/hub/recipe.yaml")
                .contains(&format!("a/b@{OTHER}"))
        );
        desk.workshop.done(&[
            "plan",
            "hub.yaml",
            "--set",
            &format!("teacher.checkpoint=a/b@{COMMIT}"),
        ]);
    }

    #[test]
    fn where_neither_teacher_nor_text_is_the_cache_of_predictions_is_enough() {
        let desk = Desk::ran();
        fs::remove_dir_all(desk.workshop.path(".cache/huggingface")).unwrap();
        let away = desk.workshop.done(&["plan", "hub.yaml"]);
        assert!(
            away.stdout.contains("the teacher is not here"),
            "{}",
            away.stdout
        );
        let more = ["run", "hub.yaml", "--set", "data.sequence_length=16"];
        desk.workshop
            .fails(&more, 2, &["hub/offline", "HF_HUB_OFFLINE"]);
    }

    #[test]
    fn ids_that_are_wrong_are_told_at_their_line_before_anything_is_fetched() {
        let desk = Desk::new();
        let set = |value: &str| ["run", "hub.yaml", "--set", value].map(str::to_owned);
        let fails = |value: &str, needles: &[&str]| {
            let args = set(value);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let told = desk.fails(&args, needles);
            assert!(!desk.workshop.path("out").exists(), "{told}");
            assert!(desk.hub.seen("model.safetensors").is_empty(), "{told}");
        };
        fails(
            "teacher.checkpoint=a/absent",
            &[
                "error[hub/not-found]",
                "no path of this name is here",
                "command line:1",
            ],
        );
        fails("teacher.checkpoint=a/b@v9", &["error[hub/no-revision]"]);
        fails(
            "teacher.checkpoint=a/b:Q4_0",
            &["error[hub/choice]", "no GGUF file"],
        );
        fails("teacher.checkpoint=hf://a", &["error[hub/id]", "one slash"]);
        fails(
            "data.train=[{path: a/b, split: other}, {path: a/b, config: x}]",
            &["error[hub/choice]: `a/b`: no configuration `x`", "2 faults"],
        );
        // A folder that is there makes it a path.
        fails(
            "teacher.checkpoint=text/none",
            &["recipe/no-such-path", "`hf://text/none`"],
        );
    }

    #[test]
    fn refusals_of_the_hub_are_told_at_the_id() {
        for (request, reply, needles) in [
            (
                "HEAD /a/b/resolve",
                Reply::of(403, &[("X-Error-Code", "GatedRepo")], b""),
                ["error[hub/gated]", "ask for access"],
            ),
            (
                "GET /api/models",
                Reply::html(),
                ["error[hub/not-a-hub]", "a web page instead of JSON"],
            ),
            (
                "GET /api/models",
                Reply::of(429, &[("Retry-After", "3600")], b""),
                ["error[hub/too-many-requests]", "3600 s"],
            ),
            (
                "GET /api/models",
                Reply::of(403, &[("X-Error-Message", "no right")], b""),
                ["error[hub/forbidden]", "no right"],
            ),
        ] {
            let desk = Desk::new();
            desk.hub.plan(request, 9, reply);
            let told = desk.fails(&["run", "hub.yaml"], &needles);
            assert!(told.contains("7 | teacher: { checkpoint: a/b }"), "{told}");
            assert!(!desk.workshop.path("out").exists(), "{told}");
            assert!(desk.hub.seen("model.safetensors").is_empty(), "{told}");
        }
    }

    #[test]
    fn commands_take_ids() {
        let desk = Desk::new();
        desk.fails(
            &["inspect", "a/b"],
            &["error[hub/not-fetched]", "`alambic fetch a/b`"],
        );
        let generated = [
            "generate",
            "a/b",
            "--prompt",
            "Anne",
            "--max-tokens",
            "2",
            "--quiet",
        ];
        let ran = desk.done(&generated);
        assert!(
            ran.stderr.is_empty() && !ran.stdout.is_empty(),
            "{}",
            ran.stderr
        );
        desk.done(&["inspect", "a/b"]);
        desk.done(&[
            "evaluate",
            "a/b",
            "--text",
            "a/b",
            "--sequence-length",
            "32",
        ]);
        desk.done(&["export", "a/b", "--format", "gguf"]);
        let card = desk.text("b-gguf/README.md");
        assert!(
            card.contains(&format!("alambic export a/b@{COMMIT} --format gguf")),
            "{card}"
        );
        assert!(card.contains("base_model: \"a/b\""), "{card}");

        desk.done(&["new", "fresh", "--teacher", "a/b", "--data", "text"]);
        let recipe = desk.text("fresh.yaml");
        assert!(
            recipe.contains(&format!("checkpoint: \"a/b@{COMMIT}\"")),
            "{recipe}"
        );
        desk.workshop.done(&["plan", "fresh.yaml"]);
    }

    #[test]
    fn a_gguf_file_of_the_hub_is_named_by_its_id_or_by_its_path_in_the_cache() {
        let desk = Desk::new();
        // Its content has no ending in the cache.
        desk.done(&["export", "a/b", "--format", "gguf"]);
        let made = fs::read_dir(desk.workshop.path("b-gguf")).unwrap();
        let mut made = made.map(|entry| entry.unwrap().path());
        let gguf = made.find(|path| path.extension().is_some_and(|ending| ending == "gguf"));
        desk.hub
            .put("b-own.gguf", &fs::read(gguf.unwrap()).unwrap());
        desk.hub.move_to(OTHER);
        let path = desk.done(&["fetch", "a/b:own", "--quiet"]);
        let path = path.stdout.trim().to_owned();
        for name in ["a/b:own", path.as_str()] {
            let set = format!("teacher.checkpoint={name}");
            let planned = desk.done(&["run", "hub.yaml", "--set", &set, "--set", "name=gguf"]);
            let told = "the checkpoint";
            assert!(!planned.stderr.contains(told), "{}", planned.stderr);
            let pinned = format!("a/b@{OTHER}:b-own.gguf");
            assert!(desk.text("out/gguf/recipe.yaml").contains(&pinned));
        }
        let refused = ["fetch", "a/b", "--dataset", "--split", "dev"];
        desk.done(&refused);
        desk.fails(
            &["fetch", "a/b", "--dataset", "--config", "x"],
            &["error[hub/choice]: `a/b`: no configuration `x`"],
        );
    }
}
