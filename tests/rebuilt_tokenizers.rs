//! Tokenizers that transformers would build anew: told of where they are read, and not written.
//!
//! What it does with the folders here was seen in transformers 5.23.0 with tokenizers 0.23.3.

#[cfg(test)]
#[path = "common/mod.rs"]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};

    use crate::common::Workshop;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");

    /// A golden model whose `tokenizer_config.json` names a class; its `tokenizer.json` splits text as GPT-2, in digits.
    fn model(golden: &str, class: &Value) -> Workshop {
        let workshop = Workshop::new();
        workshop.copy_files(&Path::new(GOLDEN).join(golden), "model");
        let path = "model/tokenizer.json";
        let mut tokenizer = read(&workshop, path);
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let steps = json!([digits, tokenizer["pre_tokenizer"]]);
        tokenizer["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": steps });
        workshop.write(path, tokenizer.to_string().as_bytes());
        let path = "model/tokenizer_config.json";
        let mut config = read(&workshop, path);
        config["tokenizer_class"] = class.clone();
        workshop.write(path, config.to_string().as_bytes());
        workshop
    }

    fn read(workshop: &Workshop, path: &str) -> Value {
        serde_json::from_slice(&fs::read(workshop.path(path)).unwrap()).unwrap()
    }

    /// What a command says that reads the model.
    fn told(workshop: &Workshop, command: &[&str]) -> String {
        let text = ["--text", "text/validation.txt", "--sequence-length", "32"];
        workshop.done(&[command, &text].concat()).stderr
    }

    const EXPORT: [&str; 6] = [
        "export",
        "model",
        "--format",
        "huggingface",
        "--out",
        "made",
    ];
    const NOTE: &str = "note: transformers 5 loads this tokenizer as";

    #[test]
    fn an_export_has_a_class_that_loads_its_tokenizer_as_it_is() {
        for (golden, class, is_rebuilt) in [
            ("hf-llama", json!("GPT2TokenizerFast"), true),
            ("hf-llama", json!("Qwen2Tokenizer"), true),
            ("hf-llama", json!("TokenizersBackend"), false),
            ("hf-llama", Value::Null, false),
            ("hf-mistral", json!("GPT2Tokenizer"), false),
            ("hf-phi3", json!("GPT2Tokenizer"), false),
            ("hf-olmo2", json!("GPT2Tokenizer"), false),
            ("hf-smollm3", json!("GPT2Tokenizer"), true),
            ("hf-gemma3", Value::Null, true),
            ("hf-gemma3", json!("GemmaTokenizer"), true),
            ("hf-qwen3-tied", Value::Null, true),
            ("hf-qwen3-tied", json!("PreTrainedTokenizerFast"), false),
        ] {
            let workshop = model(golden, &class);
            let said = told(&workshop, &EXPORT);
            assert_eq!(said.contains(NOTE), is_rebuilt, "{golden} {class}: {said}");
            let mut want = read(&workshop, "model/tokenizer_config.json");
            if is_rebuilt {
                want["tokenizer_class"] = json!("PreTrainedTokenizerFast");
            }
            assert_eq!(
                read(&workshop, "made/tokenizer_config.json"),
                want,
                "{golden} {class}"
            );
            for name in ["tokenizer.json", "chat_template.jinja"] {
                let bytes = |dir: &str| fs::read(workshop.path(dir).join(name)).unwrap();
                assert!(bytes("made") == bytes("model"), "{name}");
            }
        }
    }

    #[test]
    fn each_command_that_reads_such_a_folder_tells_of_it() {
        let workshop = model("hf-llama", &json!("GPT2Tokenizer"));
        let note = format!(
            "{NOTE} `GPT2Tokenizer` and ignores `pre_tokenizer` of its `tokenizer.json`, which alambic uses: ids may differ in transformers"
        );
        let quantize = [
            "quantize",
            "model",
            "--method",
            "round-to-nearest",
            "--out",
            "packed",
        ];
        for command in [&EXPORT[..], &quantize, &["evaluate", "model"]] {
            let said = told(&workshop, command);
            assert!(said.contains(&note), "{command:?}: {said}");
        }
        // What they have written is loaded as it is.
        for command in [&["evaluate", "made"], &["evaluate", "packed"]] {
            let said = told(&workshop, command);
            assert!(!said.contains(NOTE), "{command:?}: {said}");
        }
        let recipe = "name: a\noutput: out\ndata: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32 }\nteacher: { checkpoint: model }\ncache: { support: { top_k: 8 } }\nstudent: { from_teacher: { layers: [0] } }\npasses: [distill: { steps: 2 }]\n";
        workshop.write("a.yaml", recipe.as_bytes());
        let ran = workshop.done(&["plan", "a.yaml"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            said.contains("of the teacher, transformers 5 loads this tokenizer as `GPT2Tokenizer`"),
            "{said}"
        );
    }

    #[test]
    fn a_family_whose_tokenizers_are_always_built_anew_is_told_of_in_the_export_and_its_card() {
        let workshop = model("hf-qwen2-tied", &json!("TokenizersBackend"));
        let said = told(&workshop, &EXPORT);
        let note = "no `tokenizer_class` changes that for this family: load it with `PreTrainedTokenizerFast`";
        assert!(said.contains(note), "{said}");
        let card = fs::read_to_string(workshop.path("made/README.md")).unwrap();
        let needles = [
            "does not build the tokenizer of `tokenizer.json` for this family",
            "import AutoModelForCausalLM, PreTrainedTokenizerFast\n",
            "tokenizer = PreTrainedTokenizerFast.from_pretrained(\".\")",
        ];
        for needle in needles {
            assert!(card.contains(needle), "{needle}: {card}");
        }
        let config = read(&workshop, "made/tokenizer_config.json");
        assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
    }

    #[test]
    fn special_tokens_that_the_class_brought_along_are_named() {
        let workshop = model("hf-llama", &json!("GPT2Tokenizer"));
        let path = "model/tokenizer_config.json";
        let mut config = read(&workshop, path);
        for key in ["bos_token", "eos_token", "pad_token"] {
            config.as_object_mut().unwrap().shift_remove(key);
        }
        workshop.write(path, config.to_string().as_bytes());
        told(&workshop, &EXPORT);
        let made = read(&workshop, "made/tokenizer_config.json");
        let tokens = ["bos_token", "eos_token", "pad_token"].map(|key| made[key].clone());
        assert_eq!(tokens, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]);
    }
}
