//! What `inspect` tells of models, of runs and of what a run left.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use crate::common::Workshop;

    fn inspect(workshop: &Workshop, path: &str) -> Value {
        workshop.done(&["inspect", path, "--json"]).json()
    }

    fn shown(workshop: &Workshop, path: &str) -> String {
        workshop.done(&["inspect", path]).stdout
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn a_model_is_told_with_its_types_its_tokenizer_and_its_template() {
        let workshop = Workshop::new();
        let facts = inspect(&workshop, "teacher");
        assert_eq!(facts["chat_template"], json!({ "present": false }));
        assert_eq!(facts["tokenizer"]["kind"], "byte-level BPE");
        assert_eq!(facts["tokenizer"]["tokens"], 300);
        assert_eq!(facts["tokenizer"]["special"], json!(["<|endoftext|> (0)"]));
        assert_eq!(facts["types"]["q_proj"], json!({ "F32": 1 }));
        let text = shown(&workshop, "teacher");
        assert_lines(
            &text,
            &[
                "\ntensors: F32 x 11\n",
                "\n  q_proj: F32 x 1\n",
                "\n  ends_with: <|endoftext|> (0)\n",
                "\n  layer_types: full_attention\n",
            ],
        );

        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        workshop.write("teacher/chat_template.jinja", template.as_bytes());
        let facts = inspect(&workshop, "teacher");
        let want = json!({
            "present": true, "where": "a file beside the tokenizer",
            "text_bytes": { "default": template.len() },
        });
        assert_eq!(facts["chat_template"], want);
        workshop.done(&["export", "teacher", "--format", "gguf", "--out", "made"]);
        let files = fs::read_dir(workshop.path("made")).unwrap();
        let mut files = files.map(|entry| entry.unwrap().path());
        let file = files.find(|path| path.extension() == Some("gguf".as_ref()));
        let file = file.unwrap().display().to_string();
        let facts = inspect(&workshop, &file);
        assert_eq!(facts["chat_template"]["present"], true);
        let place = &facts["chat_template"]["where"];
        assert_eq!(place, "key `tokenizer.chat_template` of the file");
        assert!(facts["types"]["q_proj"].is_object(), "{facts}");
        fs::remove_file(workshop.path("teacher/tokenizer.json")).unwrap();
        let facts = inspect(&workshop, "teacher");
        assert!(facts["tokenizer"]["error"].is_string(), "{facts}");
    }

    #[test]
    fn a_run_is_told_stage_by_stage_also_while_it_is_unfinished() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml"]);
        let facts = inspect(&workshop, "out/chain");
        assert_eq!(
            (&facts["finished"], &facts["name"]),
            (&json!(true), &json!("chain"))
        );
        let model = facts["model_path"].as_str().unwrap();
        assert!(model.ends_with("/compressed-tensors"), "{model}");
        assert_eq!(
            facts["model"]["quantization"],
            json!({ "int4, groups of 16": 7 })
        );
        let text = shown(&workshop, "out/chain");
        assert_lines(
            &text,
            &[
                "kind: run\nname: chain\nfinished: yes\n",
                ": loss ",
                "huggingface of ",
            ],
        );
        assert!(!text.contains("curves"), "{text}");
        assert!(text.lines().count() < 90, "{text}");

        fs::remove_dir_all(workshop.folder("out/chain", "05-export")).unwrap();
        let last = workshop.folder("out/chain", "04-");
        let name = format!("unfinished-{}", last.file_name().unwrap().display());
        fs::rename(&last, last.with_file_name(name)).unwrap();
        let text = shown(&workshop, "out/chain");
        assert_lines(
            &text,
            &[
                "finished: no\n",
                ": unfinished\n",
                ": missing\n",
                "model_path: out/chain/03-distill",
            ],
        );
        for prefix in ["01-", "02-", "03-"] {
            fs::remove_dir_all(workshop.folder("out/chain", prefix)).unwrap();
        }
        let text = shown(&workshop, "out/chain");
        assert_lines(
            &text,
            &["no_model: the run `out/chain` has no finished pass yet"],
        );
    }

    const SHRUNK: &str = "\
name: shrunk
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, tokenizer: { file: teacher/tokenizer.json } }
student: { architecture: { num_hidden_layers: 3, hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32 } }
passes:
  - shrink: { num_hidden_layers: 2, layers_by: influence, calibration_tokens: 64 }
export: { formats: [huggingface] }
";

    #[test]
    fn layers_that_a_shrink_took_out_are_told_with_the_influence_of_all() {
        let workshop = Workshop::new();
        workshop.write("shrunk.yaml", SHRUNK.as_bytes());
        workshop.done(&["run", "shrunk.yaml"]);
        let facts = inspect(&workshop, "out/shrunk");
        let removed = &facts["removed"][0]["removed"];
        assert_eq!(removed["layers"].as_array().unwrap().len(), 1);
        assert_eq!(removed["of_layers"], 3);
        let influence = removed["influence"].as_array().unwrap();
        assert_eq!(influence.len(), 3);
        let scores: Vec<f64> = influence
            .iter()
            .map(|score| score.as_f64().unwrap())
            .collect();
        let gone = removed["layers"][0].as_u64().unwrap();
        let lowest = scores.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(
            scores[usize::try_from(gone).unwrap()].to_bits(),
            lowest.to_bits()
        );
        let pass = workshop
            .folder("out/shrunk", "01-shrink")
            .display()
            .to_string();
        assert_eq!(inspect(&workshop, &pass)["removed"], *removed);
        assert_lines(
            &shown(&workshop, "out/shrunk"),
            &["\n    influence: ", "\n    of_layers: 3"],
        );
    }
}
