//! Vocabularies: padded ones train, and those that disagree are refused with the ids.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::tensor::{SafeTensors, TensorView, serialize};
    use serde_json::Value;

    use crate::common::{Workshop, figures};

    const PADDING: usize = 20;

    /// A copy of the teacher in `padded/` whose embedding has 20 more rows, of large numbers that no token may be
    /// given.
    fn pad_teacher(workshop: &Workshop) {
        workshop.copy_files(&workshop.path("teacher"), "padded");
        let config = fs::read(workshop.path("teacher/config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["tie_word_embeddings"], true);
        let rows = config["vocab_size"].as_u64().unwrap() + PADDING as u64;
        config["vocab_size"] = rows.into();
        workshop.write("padded/config.json", config.to_string().as_bytes());

        let bytes = fs::read(workshop.path("teacher/model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let embedding = tensors.tensor("model.embed_tokens.weight").unwrap();
        let hidden = embedding.shape()[1];
        let width = embedding.data().len() / embedding.shape()[0] / hidden;
        let one = match width {
            4 => 1f32.to_le_bytes().to_vec(),
            _ => vec![0x80, 0x3f], // 1 in bf16
        };
        let padded = [embedding.data(), &one.repeat(PADDING * hidden)].concat();
        let shape = vec![embedding.shape()[0] + PADDING, hidden];
        let padded = TensorView::new(embedding.dtype(), shape, &padded).unwrap();
        let all = tensors.tensors().into_iter().map(|(name, tensor)| {
            let tensor = if name == "model.embed_tokens.weight" {
                padded.clone()
            } else {
                tensor
            };
            (name, tensor)
        });
        let bytes = serialize(all, None).unwrap();
        workshop.write("padded/model.safetensors", &bytes);
    }

    #[test]
    fn a_padded_teacher_teaches_what_it_teaches_without_padding() {
        let workshop = Workshop::new();
        pad_teacher(&workshop);
        workshop.done(&["run", "chain.yaml", "--set", "name=plain"]);
        let padded = ["--set", "name=padded", "--set", "teacher.checkpoint=padded"];
        let ran = workshop.done(&[&["run", "chain.yaml"][..], &padded].concat());
        let note = "note: the teacher has 320 rows for 300 tokens; the other rows are unused and left out of \
                    the cache";
        assert!(ran.stderr.contains(note), "{}", ran.stderr);
        let passes = |name: &str| {
            let report = figures(&workshop.path(&format!("out/{name}/report.json")));
            let passes = report["passes"].as_array().unwrap()[1..].to_vec();
            assert_eq!(passes.len(), 4);
            passes
        };
        assert_eq!(passes("padded"), passes("plain"));
    }

    #[test]
    fn a_padded_student_learns_from_a_teacher_without_padding() {
        let workshop = Workshop::new();
        pad_teacher(&workshop);
        workshop.done(&["run", "chain.yaml", "--set", "student={checkpoint: padded}"]);
        let args = [
            "evaluate",
            "padded",
            "--text",
            "text/validation.txt",
            "--teacher",
            "teacher",
            "--json",
        ];
        let untrained = workshop.done(&args).json()["kl_nats"].as_f64().unwrap();
        let report = figures(&workshop.path("out/chain/report.json"));
        let trained = report["passes"][1]["kl_nats"].as_f64().unwrap();
        // The student's 20 rows of ones hold mass that the teacher gives to no token; training takes it back.
        assert!(
            untrained > 0.0 && trained < untrained,
            "{trained} {untrained}"
        );
    }

    #[test]
    fn rows_longer_than_the_teacher_was_made_for_are_worth_a_note() {
        let workshop = Workshop::new();
        let config = fs::read(workshop.path("teacher/config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let known = config["max_position_embeddings"].as_u64().unwrap();
        assert_eq!(known, 32);
        let planned = |length: u64| {
            let set = format!("data.sequence_length={length}");
            workshop.done(&["plan", "chain.yaml", "--set", &set]).stdout
        };
        let note = "note: rows have 64 positions, but the teacher was made for 32: its predictions for later ones are unreliable";
        assert!(planned(64).contains(note), "{}", planned(64));
        assert!(!planned(32).contains("note: rows have"), "{}", planned(32));
    }

    #[test]
    fn rows_that_no_token_uses_do_not_count_for_a_support() {
        let workshop = Workshop::new();
        pad_teacher(&workshop);
        let set = ["teacher.checkpoint=padded", "cache.support={top_k: 301}"];
        let args = ["plan", "chain.yaml", "--set", set[0], "--set", set[1]];
        let needles = ["error[cache/top-k]: `top_k` is 301, but the teacher has 300 tokens"];
        workshop.fails(&args, 2, &needles);
    }

    #[test]
    fn special_ids_of_a_config_that_no_row_has_are_refused() {
        let workshop = Workshop::new();
        workshop.copy_files(&workshop.path("teacher"), "odd");
        let edit = |name: &str, change: &dyn Fn(&mut Value)| {
            let text = fs::read(workshop.path(name)).unwrap();
            let mut json = serde_json::from_slice(&text).unwrap();
            change(&mut json);
            workshop.write(name, json.to_string().as_bytes());
        };
        edit("odd/config.json", &|config| {
            config["eos_token_id"] = 128_001.into();
            config["bos_token_id"] = 128_000.into();
        });
        edit("odd/tokenizer.json", &|tokenizer| {
            tokenizer["added_tokens"][0]["content"] = "<other>".into();
            let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("<|endoftext|>").unwrap();
            vocab.insert("<other>".to_owned(), id);
        });
        let args = ["evaluate", "odd", "--text", "text/validation.txt"];
        let needle = "end-of-text id 128001 is outside the tokenizer's 300 tokens";
        workshop.fails(&args, 2, &[needle]);
        let needle = "the prompt has no token, and the model no first token";
        workshop.fails(&["generate", "odd", "--prompt", ""], 2, &[needle]);
    }

    #[test]
    fn inspect_compares_two_vocabularies() {
        let workshop = Workshop::new();
        pad_teacher(&workshop);
        let same = workshop.done(&["inspect", "teacher", "--against", "padded"]);
        let want = "padded: 300 tokens, 320 rows (20 not used by any token)";
        assert!(same.stdout.contains(want), "{}", same.stdout);
        assert!(same.stdout.contains("every id means the same to both"));

        let other = format!(
            "{}/tests/golden/hf-llama/tokenizer.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let found = workshop
            .done(&["inspect", "teacher", "--against", &other, "--json"])
            .json();
        assert_eq!(found["agree"], false);
        let first = found["differing"][0].clone();
        assert_ne!(first["a"], first["b"]);
        assert_eq!(found["b"]["num_rows"], Value::Null);
    }

    #[test]
    fn a_tokenizer_of_other_words_is_refused_with_the_first_ids() {
        let workshop = Workshop::new();
        let text = fs::read_to_string(workshop.path("teacher/tokenizer.json")).unwrap();
        let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let [one, other] = [40, 41].map(|id| {
            let found = vocab.iter().find(|(_, value)| **value == id);
            found.unwrap().0.clone()
        });
        vocab.insert(one.clone(), 41.into());
        vocab.insert(other.clone(), 40.into());
        workshop.write("swapped.json", tokenizer.to_string().as_bytes());
        let told = format!(
            "error[data/other-tokenizer]: token 40 is `{other}` to the tokenizer and `{one}` to the teacher; token 41"
        );
        let set = "data.tokenizer={file: swapped.json}";
        let needles = [
            told.as_str(),
            "use the teacher's own tokenizer",
            "--> command line:1:",
        ];
        workshop.fails(&["run", "chain.yaml", "--set", set], 2, &needles);
    }

    #[test]
    fn all_faults_that_headers_show_are_told_at_once() {
        let workshop = Workshop::new();
        let other = format!("{}/tests/golden/hf-llama", env!("CARGO_MANIFEST_DIR"));
        let sets = [
            format!("data.tokenizer={{file: {other}/tokenizer.json}}"),
            "cache.support={top_k: 301}".to_owned(),
            format!("student={{checkpoint: {other}}}"),
        ];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let needles = [
            "error[data/vocabulary]",
            "error[cache/top-k]",
            "error[student/vocabulary]",
            "error: 3 faults in chain.yaml; nothing was run",
        ];
        workshop.fails(&[&["plan", "chain.yaml"][..], &sets].concat(), 2, &needles);
    }
}
