//! Conversations from their file to an exported student, as a user runs them.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use serde_json::{Value, json};

    use crate::common::{Workshop, files_below, folders};

    const RECIPE: &str = "\
name: chat
seed: 3
output: out
data: { train: [chats.jsonl], validation: [held-out.jsonl], sequence_length: 96 }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 8 }, rows_per_shard: 8 }
student: { from_teacher: { intermediate_size: 128 } }
passes:
  - distill: { steps: 6, tokens_per_step: 768, learning_rate: 1e-3, losses: { forward_kl: 0.5, cross_entropy: 0.5 } }
  - prune: { method: wanda, sparsity: 0.5, calibration_tokens: 500 }
  - quantize: { method: gptq, bits: 4, group_size: 32, calibration_tokens: 500 }
export: { formats: [huggingface, compressed-tensors], dtype: f32 }
";

    /// So many conversations of two turns.
    fn chats(from: usize, count: usize) -> String {
        let chat = |number: usize| {
            let messages = json!([
                {"role": "user", "content": format!("{number}?")},
                {"role": "assistant", "content": format!("yes {number}")},
                {"role": "user", "content": "and"},
                {"role": "assistant", "content": "no"},
            ]);
            format!("{}\n", json!({ "messages": messages }))
        };
        (from..from + count).map(chat).collect()
    }

    fn workshop() -> Workshop {
        let workshop = Workshop::empty();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf-llama-256");
        workshop.copy_files(&golden, "teacher");
        workshop.write("chats.jsonl", chats(10, 40).as_bytes());
        workshop.write("held-out.jsonl", chats(60, 10).as_bytes());
        workshop.write("chat.yaml", RECIPE.as_bytes());
        workshop
    }

    #[test]
    fn a_student_learns_the_turns_of_conversations_and_is_measured_on_them_alone() {
        let workshop = workshop();
        let report = workshop.done(&["run", "chat.yaml", "--json"]).json();
        assert_eq!(report["passes"].as_array().unwrap().len(), 4, "{report}");
        let cache = glob(&workshop, "out/cache-*");
        let stat = workshop
            .done(&["cache", "stat", &format!("{cache}/train"), "--json"])
            .json();
        assert_eq!(stat["num_rows"], 40);
        let (counted, all) = (&stat["num_counted"], &stat["num_positions"]);
        assert_eq!(all, 40 * 96);
        let bytes = stat["total_bytes"].as_f64().unwrap() / counted.as_f64().unwrap();
        assert!(
            (stat["bytes_per_counted"].as_f64().unwrap() - bytes).abs() < 1e-9,
            "{stat}"
        );
        assert!(
            counted.as_u64() < Some(40 * 20) && counted.as_u64() > Some(40 * 4),
            "{stat}"
        );

        // The same measure over the same file, by another command.
        let args = [
            "evaluate",
            "teacher",
            "--text",
            "held-out.jsonl",
            "--sequence-length",
            "96",
            "--json",
            "--losses",
            "losses.jsonl",
        ];
        let found = workshop.done(&args).json();
        let of_run = report["passes"][0]["loss_nats"].as_f64().unwrap();
        assert!(
            (found["loss_nats"].as_f64().unwrap() - of_run).abs() < 1e-5,
            "{found} {report}"
        );
        let losses = std::fs::read_to_string(workshop.path("losses.jsonl")).unwrap();
        let first: Value = serde_json::from_str(losses.lines().next().unwrap()).unwrap();
        let spans = first["counted"].as_array().unwrap();
        assert_eq!(spans.len(), 2, "{first}");
        let learnt: u64 = spans
            .iter()
            .map(|span| span[1].as_u64().unwrap() - span[0].as_u64().unwrap())
            .sum();
        assert_eq!(first["loss_nats"].as_array().unwrap().len() as u64, learnt);

        // A finished run has nothing to do, and other turns are other rows.
        let again = workshop.done(&["run", "chat.yaml"]);
        assert!(again.stderr.contains("data: done"), "{}", again.stderr);
        let changed = workshop
            .done(&[
                "plan",
                "chat.yaml",
                "--set",
                "data.learn=last_turn",
                "--json",
            ])
            .json();
        assert_eq!(changed["stages"][0]["done"], false, "{changed}");
    }

    fn glob(workshop: &Workshop, pattern: &str) -> String {
        let (folder, name) = pattern.rsplit_once('/').unwrap();
        let start = name.trim_end_matches('*');
        let entries = std::fs::read_dir(workshop.path(folder)).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let found = names.find(|name| name.starts_with(start)).unwrap();
        format!("{folder}/{found}")
    }

    /// Shards of a cache with their bytes.
    fn shards(workshop: &Workshop, cache: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = files_below(&workshop.path(cache)).into_iter();
        let shards = files.filter(|(path, _)| path.extension().is_some_and(|end| end == "parquet"));
        shards.map(|(path, (bytes, _))| (path, bytes)).collect()
    }

    #[test]
    fn a_cache_of_all_positions_serves_who_learns_the_turns_alone() {
        let workshop = workshop();
        let all = ["cache", "build", "chat.yaml", "--set", "data.learn=all"];
        workshop.done(&all);
        let cache = glob(&workshop, "out/cache-*");
        let before = shards(&workshop, &cache);
        let ran = workshop.done(&["run", "chat.yaml"]);
        assert!(
            ran.stderr
                .contains("has all positions that are learnt here"),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("cache, train"), "{}", ran.stderr);
        assert_eq!(folders(&workshop.path("out"), "cache").len(), 1);
        assert!(shards(&workshop, &cache) == before);

        // From now on it is known before the rows are.
        let plan = workshop.done(&["plan", "chat.yaml", "--json"]).json();
        let stages = plan["stages"].as_array().unwrap();
        assert!(stages.iter().all(|stage| stage["done"] == true), "{plan}");
        let text = workshop.done(&["plan", "chat.yaml"]).stdout;
        assert!(text.contains("another `data.learn`"), "{text}");
        let again = workshop.done(&["run", "chat.yaml"]);
        assert!(again.stderr.contains("cache: done"), "{}", again.stderr);
        let other = workshop.done(&all);
        assert!(other.stderr.contains("cache: done"), "{}", other.stderr);

        // The student is that of a cache of its own.
        workshop.done(&["run", "chat.yaml", "--set", "output=own"]);
        let student = |output: &str| {
            let dir = glob(&workshop, &format!("{output}/chat/01-distill-*"));
            std::fs::read(workshop.path(&dir).join("student.safetensors")).unwrap()
        };
        assert!(student("out") == student("own"));
    }

    #[test]
    fn a_cache_of_the_turns_does_not_serve_who_learns_all() {
        let workshop = workshop();
        workshop.done(&["cache", "build", "chat.yaml"]);
        let turns = glob(&workshop, "out/cache-*");
        let before = shards(&workshop, &turns);
        let ran = workshop.done(&["cache", "build", "chat.yaml", "--set", "data.learn=all"]);
        assert!(ran.stderr.contains("cache, train"), "{}", ran.stderr);
        assert_eq!(folders(&workshop.path("out"), "cache").len(), 2);
        assert!(shards(&workshop, &turns) == before);
        let stat = |cache: &str| {
            let args = ["cache", "stat", &format!("{cache}/train"), "--json"];
            workshop.done(&args).json()["num_counted"].as_u64().unwrap()
        };
        let both = folders(&workshop.path("out"), "cache");
        let counts: Vec<u64> = both
            .iter()
            .map(|cache| stat(cache.to_str().unwrap()))
            .collect();
        assert!(
            2 * counts.iter().min().unwrap() < *counts.iter().max().unwrap(),
            "{counts:?}"
        );
        // Each is found by its own recipe.
        let args = ["cache", "verify", &turns, "--teacher", "teacher", "--json"];
        let found = workshop.done(&args).json();
        assert_eq!(found["train"]["teacher"]["num_different"], 0, "{found}");
    }

    #[test]
    fn data_show_marks_what_is_learnt_and_writes_nothing() {
        let workshop = workshop();
        let shown = workshop.done(&["data", "show", "chat.yaml", "--rows", "1"]);
        // Which conversation comes first is random, but always the same.
        let parts = [
            "?<|im_end|>\n<|im_start|>assistant\n⟦yes ",
            "<|im_end|>⟧\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n⟦no<|im_end|>⟧\n",
        ];
        for part in parts {
            assert!(shown.stdout.contains(part), "{}", shown.stdout);
        }
        assert!(shown.stdout.contains("ids: 1 "), "{}", shown.stdout);
        assert!(!workshop.path("out").exists());
        let args = [
            "data",
            "show",
            "chat.yaml",
            "--split",
            "validation",
            "--rows",
            "2",
            "--json",
        ];
        let found = workshop.done(&args).json();
        assert_eq!(found["rows"].as_array().unwrap().len(), 2);
        let parts = found["rows"][0]["parts"].as_array().unwrap();
        let learnt = parts.iter().filter(|part| part["learnt"] == true);
        let learnt: String = learnt.map(|part| part["text"].as_str().unwrap()).collect();
        assert!(
            learnt.starts_with("yes ") && learnt.ends_with("<|im_end|>no<|im_end|>"),
            "{learnt}"
        );
    }

    #[test]
    fn data_render_and_generate_chat_take_the_template_of_the_model() {
        let workshop = workshop();
        workshop.write(
            "one.jsonl",
            br#"{"messages": [{"role": "user", "content": "Hi"}]}"#,
        );
        let prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        let args = [
            "data",
            "render",
            "teacher",
            "one.jsonl",
            "--generation-prompt",
            "--json",
        ];
        assert_eq!(workshop.done(&args).json()["text"], prompt);
        let template = ["data", "render", "teacher/chat_template.jinja", "one.jsonl"];
        let rendered = workshop.done(&template).stdout;
        assert_eq!(rendered, "<|im_start|>user\nHi<|im_end|>\n");
        let args = [
            "generate",
            "teacher",
            "--chat",
            "--prompt",
            "Hi",
            "--max-tokens",
            "3",
            "--json",
        ];
        let found = workshop.done(&args).json();
        assert_eq!(found["prompt"], prompt);
        assert!(found["tokens"].as_u64() <= Some(3));

        std::fs::remove_file(workshop.path("teacher/chat_template.jinja")).unwrap();
        let refused = workshop.run(&["generate", "teacher", "--chat", "--prompt", "Hi"]);
        assert_eq!(refused.code, Some(2));
        assert!(
            refused.stderr.contains("the model has no chat template"),
            "{}",
            refused.stderr
        );
        let refused = workshop.run(&["run", "chat.yaml"]);
        assert_eq!(refused.code, Some(2));
        assert!(
            refused
                .stderr
                .contains("chats.jsonl:1: a conversation, and the model has no chat template"),
            "{}",
            refused.stderr
        );
    }

    #[test]
    fn bad_rows_end_a_run_or_are_left_out_and_told() {
        let workshop = workshop();
        let mut lines = chats(10, 20);
        lines += "{\"messages\": []}\n{\"messages\": [{\"role\": \"user\"}]}\n";
        workshop.write("chats.jsonl", lines.as_bytes());
        let refused = workshop.run(&["run", "chat.yaml"]);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("chats.jsonl:21"),
            "{}",
            refused.stderr
        );
        let args = [
            "data",
            "show",
            "chat.yaml",
            "--set",
            "data.on_bad_row=skip",
            "--rows",
            "40",
        ];
        let shown = workshop.done(&args);
        for note in [
            "1 row is bad and left out",
            "1 conversations that the chat template refuses are left out",
        ] {
            assert!(shown.stdout.contains(note), "{}", shown.stdout);
        }
    }

    fn json_of(workshop: &Workshop, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(workshop.path(path)).unwrap()).unwrap()
    }

    const TURNS: &str = "{% for message in messages %}<|turn|>{{ message.role }} {{ message.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|turn|>assistant {% endif %}";

    const GIVEN_TURNS: &str = "\
name: turns
seed: 3
output: out
data: { train: [chats.jsonl], validation: [held-out.jsonl], sequence_length: 96, tokenizer: { file: plain/tokenizer.json } }
student: { checkpoint: plain, add_tokens: [<|turn|>, <|end|>], eos_token: <|end|>, chat_template: turns.jinja, max_position_embeddings: 300 }
passes:
  - distill: { steps: 4, tokens_per_step: 768, learning_rate: 1e-3, losses: { cross_entropy: 1.0 } }
export: { formats: [huggingface, gguf], dtype: f32 }
";

    /// A model that knows no turns, and a template.
    fn without_turns() -> Workshop {
        let workshop = workshop();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf-llama-256");
        workshop.copy_files(&golden, "plain");
        for name in ["chat_template.jinja", "tokenizer_config.json"] {
            let _ = std::fs::remove_file(workshop.path("plain").join(name));
        }
        workshop.write("turns.jinja", TURNS.as_bytes());
        workshop.write("turns.yaml", GIVEN_TURNS.as_bytes());
        workshop
    }

    #[test]
    fn a_model_is_given_turns_that_its_exports_have_too() {
        let workshop = without_turns();
        let before = json_of(&workshop, "plain/config.json");
        let num_tokens = before["vocab_size"].as_u64().unwrap();
        workshop.done(&["run", "turns.yaml"]);
        let exports = glob(&workshop, "out/turns/02-export-*");
        let export = format!("{exports}/huggingface");
        let config = json_of(&workshop, &format!("{export}/config.json"));
        assert_eq!(config["vocab_size"], num_tokens + 2, "{config}");
        assert_eq!(config["max_position_embeddings"], 300);
        let generation = json_of(&workshop, &format!("{export}/generation_config.json"));
        assert_eq!(
            generation["eos_token_id"][0],
            num_tokens + 1,
            "{generation}"
        );
        let tokenizer = json_of(&workshop, &format!("{export}/tokenizer_config.json"));
        assert_eq!(
            (&tokenizer["eos_token"], &tokenizer["chat_template"]),
            (&json!("<|end|>"), &json!(TURNS))
        );
        for model in [
            export,
            glob(&workshop, &format!("{exports}/gguf/turns*")),
            "out/turns".to_owned(),
        ] {
            let args = [
                "generate",
                &model,
                "--chat",
                "--prompt",
                "2?",
                "--json",
                "--max-tokens",
                "3",
            ];
            let said = workshop.done(&args).json();
            assert_eq!(
                said["prompt"], "<|turn|>user 2?<|end|><|turn|>assistant ",
                "{said}"
            );
        }

        let is_done =
            || workshop.done(&["plan", "turns.yaml", "--json"]).json()["stages"][0]["done"].clone();
        assert_eq!(is_done(), true);
        workshop.write(
            "turns.jinja",
            TURNS.replace("<|end|>", "<|end|>\\n").as_bytes(),
        );
        assert_eq!(
            is_done(),
            false,
            "the template's text is part of what was made with it"
        );
    }

    #[test]
    fn a_student_has_the_turns_of_its_teacher() {
        let workshop = without_turns();
        workshop.done(&["run", "turns.yaml"]);
        let args = [
            "run",
            "chat.yaml",
            "--set",
            "teacher.checkpoint=out/turns",
            "--set",
            "name=of-turns",
        ];
        workshop.done(&args);
        let export = glob(&workshop, "out/of-turns/04-export-*");
        let export = format!("{export}/huggingface");
        let tokenizer = json_of(&workshop, &format!("{export}/tokenizer_config.json"));
        assert_eq!(tokenizer["chat_template"], TURNS);
    }

    #[test]
    fn changes_of_a_model_that_cannot_be_are_told_before_anything_runs() {
        let workshop = without_turns();
        let refused = |recipe: &str, setting: &str, needles: &[&str]| {
            workshop.fails(&["run", recipe, "--set", setting], 2, needles);
        };
        refused(
            "turns.yaml",
            "student.eos_token=<|stop|>",
            &["[student/tokens]", "`<|stop|>`", "turns.yaml"],
        );
        refused(
            "turns.yaml",
            "student.add_tokens=[<|a|>, <|a|>]",
            &["[recipe/repeated-entry]"],
        );
        refused(
            "turns.yaml",
            "student.add_token=[<|a|>]",
            &["[recipe/unknown-key]", "write `add_tokens`"],
        );
        refused(
            "chat.yaml",
            "student.add_tokens=[<|a|>]",
            &[
                "[student/new-tokens]",
                "`<|a|>`",
                "recipe without a teacher",
            ],
        );
        workshop.write(
            "turns.jinja",
            b"{% for message in messages %}\n{{ message.content",
        );
        refused(
            "turns.yaml",
            "seed=4",
            &["[student/chat-template]", "line 2"],
        );
        workshop.write("turns.jinja", b"\xff");
        refused(
            "turns.yaml",
            "seed=4",
            &["[student/chat-template]", "turns.jinja"],
        );
        refused(
            "turns.yaml",
            "student.chat_template=none.jinja",
            &["none.jinja"],
        );
        assert!(!workshop.path("out").exists(), "something was written");
    }
}
