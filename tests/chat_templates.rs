//! Chat templates and the tokens round a text leave with a tokenizer, from folders to GGUF files and back.

#[cfg(test)]
#[path = "common/mod.rs"]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use alambic::gguf::GgufFile;
    use serde_json::{Value, json};

    use crate::common::Workshop;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/hf-llama");

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn export(workshop: &Workshop, source: &str, format: &str, out: &str) -> PathBuf {
        let args = ["export", source, "--format", format, "--out", out];
        let text = ["--text", "text/validation.txt", "--sequence-length", "32"];
        workshop.done(&[&args[..], &text].concat());
        workshop.path(out)
    }

    /// The file that an export to GGUF makes.
    fn as_gguf(workshop: &Workshop, source: &str, out: &str) -> PathBuf {
        let dir = export(workshop, source, "gguf", out);
        let mut files = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files
            .find(|path| path.extension().is_some_and(|e| e == "gguf"))
            .unwrap()
    }

    /// A model without a template, whose tokenizer's files are then changed.
    fn workshop(edit: impl Fn(&mut Value, &mut Value), files: &[(&str, &str)]) -> Workshop {
        let workshop = Workshop::new();
        workshop.copy_files(Path::new(GOLDEN), "model");
        fs::remove_file(workshop.path("model/chat_template.jinja")).unwrap();
        let names = ["model/tokenizer.json", "model/tokenizer_config.json"];
        let [mut tokenizer, mut config] = names.map(|name| read(&workshop.path(name)));
        edit(&mut tokenizer, &mut config);
        for (name, json) in names.iter().zip([tokenizer, config]) {
            workshop.write(name, json.to_string().as_bytes());
        }
        for (name, text) in files {
            workshop.write(&format!("model/{name}"), text.as_bytes());
        }
        workshop
    }

    /// Default, `tool_use` and the names of a file.
    fn templates(path: &Path) -> [Option<String>; 3] {
        let file = GgufFile::open(path).unwrap();
        let text = |key: &str| file.text(key).unwrap().map(str::to_owned);
        let names = file.texts("tokenizer.chat_templates").unwrap();
        [
            text("tokenizer.chat_template"),
            text("tokenizer.chat_template.tool_use"),
            names.map(|names| names.join(" ")),
        ]
    }

    #[test]
    fn templates_reach_a_gguf_file_from_each_place_where_they_stand() {
        let list = json!([
            { "name": "default", "template": "listed" }, { "name": "tool_use", "template": "tools" },
        ]);
        let map = json!({ "default": "listed", "tool_use": "tools" });
        let both = [Some("listed"), Some("tools"), Some("tool_use")];
        let only = |text| [Some(text), None, None];
        let json_file = (
            "chat_template.json",
            r#"{"chat_template": "of processors"}"#,
        );
        let jinja = ("chat_template.jinja", "of a file");
        let folder = ("additional_chat_templates/tool_use.jinja", "of a folder");
        let text = json!("inline");
        for (inline, files, want) in [
            (&list, &[][..], both),
            (&map, &[], both),
            (&Value::Null, &[json_file], only("of processors")),
            (&text, &[json_file], only("inline")),
            (&list, &[json_file], both),
            (&text, &[jinja, json_file], only("of a file")),
            (&list, &[jinja], only("of a file")), // as in transformers: files stand in place of all that is inline
            (
                &Value::Null,
                &[jinja, folder],
                [Some("of a file"), Some("of a folder"), Some("tool_use")],
            ),
            (
                &text,
                &[folder],
                [Some("inline"), Some("of a folder"), Some("tool_use")],
            ),
            (&Value::Null, &[], [None; 3]),
        ] {
            let set = |_: &mut Value, config: &mut Value| config["chat_template"] = inline.clone();
            let workshop = workshop(set, files);
            let got = templates(&as_gguf(&workshop, "model", "file"));
            assert_eq!(
                got,
                want.map(|text| text.map(str::to_owned)),
                "{inline} {files:?}"
            );
        }
    }

    #[test]
    fn names_that_are_no_words_are_written_as_llama_cpp_writes_them() {
        let list = json!([{ "name": "tool use", "template": "a" }, { "name": "tool.use", "template": "b" }]);
        let workshop = workshop(|_, config| config["chat_template"] = list.clone(), &[]);
        let path = as_gguf(&workshop, "model", "file");
        assert_eq!(
            templates(&path),
            [
                None,
                Some("a".to_owned()),
                Some("tool_use tool_use_".to_owned())
            ]
        );
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(
            file.text("tokenizer.chat_template.tool_use_").unwrap(),
            Some("b")
        );
    }

    #[test]
    fn templates_come_back_out_of_a_gguf_file() {
        let list = json!([
            { "name": "default", "template": "listed" }, { "name": "tool_use", "template": "tools" },
        ]);
        let workshop = workshop(|_, config| config["chat_template"] = list.clone(), &[]);
        let file = as_gguf(&workshop, "model", "file");
        let back = export(&workshop, file.to_str().unwrap(), "huggingface", "back");
        assert_eq!(
            read(&back.join("tokenizer_config.json"))["chat_template"],
            list
        );
        let again = as_gguf(&workshop, "back", "again");
        assert_eq!(templates(&again), templates(&file));
    }

    #[test]
    fn each_file_of_templates_is_in_an_exported_folder() {
        let files = [
            ("chat_template.jinja", "of a file"),
            (
                "chat_template.json",
                r#"{"chat_template": "of processors"}"#,
            ),
            ("additional_chat_templates/tool_use.jinja", "tools"),
            ("additional_chat_templates/rag.jinja", "documents"),
        ];
        let workshop = workshop(|_, _| {}, &files);
        workshop.write("model/additional_chat_templates/notes.txt", b"no template");
        let made = export(&workshop, "model", "huggingface", "made");
        for (name, text) in files {
            assert_eq!(fs::read_to_string(made.join(name)).unwrap(), text, "{name}");
        }
        assert!(!made.join("additional_chat_templates/notes.txt").exists());
    }

    const RECIPE: &str = "\
name: short
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32 }
teacher: { checkpoint: teacher }
cache: { support: { top_k: 16 } }
student: { from_teacher: { layers: [0] } }
passes: [distill: { steps: 2, tokens_per_step: 64, learning_rate: 1e-3 }]
export: { formats: [huggingface], max_rounding_kl: 1 }
";

    #[test]
    fn a_template_of_the_folder_is_part_of_what_an_export_is_made_of() {
        let workshop = Workshop::new();
        workshop.write("short.yaml", RECIPE.as_bytes());
        let template = "teacher/additional_chat_templates/tool_use.jinja";
        for text in ["one", "two"] {
            workshop.write(template, text.as_bytes());
            let ran = workshop.done(&["run", "short.yaml"]);
            let told = ran
                .stderr
                .lines()
                .find_map(|line| line.split_once(": verified, in "));
            let (_, dir) = told.unwrap_or_else(|| panic!("{}", ran.stderr));
            let made = workshop
                .path(dir)
                .join("huggingface/additional_chat_templates/tool_use.jinja");
            assert_eq!(fs::read_to_string(made).unwrap(), text);
        }
    }

    #[test]
    fn files_beside_a_tokenizer_that_is_named_leave_with_it() {
        let workshop = Workshop::new();
        workshop.write("teacher/chat_template.jinja", b"of a file");
        workshop.write("short.yaml", RECIPE.as_bytes());
        let tokenizer = "data.tokenizer.file=teacher/tokenizer.json";
        workshop.done(&["run", "short.yaml", "--set", tokenizer]);
        let run = workshop.folder("out/short", "02-export");
        let command = [
            "export",
            "teacher",
            "--format",
            "huggingface",
            "--out",
            "made",
        ];
        workshop.done(&[&command[..], &["--tokenizer", "teacher/tokenizer.json"]].concat());
        for made in [run.join("huggingface"), workshop.path("made")] {
            assert_eq!(
                fs::read_to_string(made.join("chat_template.jinja")).unwrap(),
                "of a file"
            );
            let config = fs::read(made.join("tokenizer_config.json")).unwrap();
            assert_eq!(
                config,
                fs::read(workshop.path("teacher/tokenizer_config.json")).unwrap()
            );
        }
    }

    /// Puts tokens 1 and 2 round a text.
    fn puts_round(tokenizer: &mut Value) {
        let special = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
        let entry = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
        let round = [special("<|im_start|>"), text("A"), special("<|im_end|>")];
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing", "single": round, "pair": [text("A"), text("B")],
            "special_tokens": { "<|im_start|>": entry("<|im_start|>", 1), "<|im_end|>": entry("<|im_end|>", 2) },
        });
    }

    fn adds(path: &Path) -> [Option<bool>; 2] {
        let file = GgufFile::open(path).unwrap();
        ["bos", "eos"].map(|name| {
            file.flag(&format!("tokenizer.ggml.add_{name}_token"))
                .unwrap()
        })
    }

    #[test]
    fn tokens_round_a_text_leave_for_a_gguf_file_and_come_back() {
        let workshop = workshop(|tokenizer, _| puts_round(tokenizer), &[]);
        let file = as_gguf(&workshop, "model", "file");
        assert_eq!(adds(&file), [Some(true), Some(true)]);
        let back = export(&workshop, file.to_str().unwrap(), "huggingface", "back");
        let single = read(&back.join("tokenizer.json"))["post_processor"]["single"].clone();
        assert_eq!(single[0]["SpecialToken"]["id"], "<|im_start|>");
        assert_eq!(single[2]["SpecialToken"]["id"], "<|im_end|>");
        assert_eq!(
            adds(&as_gguf(&workshop, "back", "again")),
            [Some(true), Some(true)]
        );
    }

    #[test]
    fn the_config_of_a_tokenizer_decides_what_is_put_after_a_text() {
        for (adds_eos, want) in [(true, Some(true)), (false, None)] {
            let set = |tokenizer: &mut Value, config: &mut Value| {
                if !adds_eos {
                    puts_round(tokenizer);
                }
                config["add_eos_token"] = json!(adds_eos);
            };
            let workshop = workshop(set, &[]);
            let [_, got] = adds(&as_gguf(&workshop, "model", "file"));
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_token_after_a_text_that_ends_none_stays_behind_with_a_note() {
        let workshop = workshop(
            |tokenizer, _| {
                puts_round(tokenizer);
                tokenizer["post_processor"]["single"][2]["SpecialToken"]["id"] =
                    json!("<|im_start|>");
            },
            &[],
        );
        let args = ["export", "model", "--format", "gguf", "--out", "file"];
        let told = workshop.done(&args).stderr;
        let note =
            "note: a GGUF file cannot say that the tokenizer appends `<|im_start|>` to a text";
        assert!(told.contains(note), "{told}");
    }
}
