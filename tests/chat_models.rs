//! What makes a chat model one leaves with it: the ends of its turns, its sampling defaults, its chat templates.

#[cfg(test)]
#[path = "common/mod.rs"]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use alambic::checkpoint::Checkpoint;
    use alambic::formats::{ExportDtype, write_folder};
    use alambic::gguf::GgufFile;
    use alambic::model::{ParameterKind, ParameterSpec};
    use serde_json::{Value, json};

    use crate::common::{Ran, Workshop};

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");

    /// Texts that are short enough for the model, and tell what is read back.
    const TEXT: &str = "--text text/validation.txt --sequence-length 32";

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn done(workshop: &Workshop, line: &str) -> Ran {
        workshop.done(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The one GGUF file of a folder.
    fn gguf_in(dir: &Path) -> PathBuf {
        let entries = fs::read_dir(dir).unwrap();
        let mut files = entries.map(|entry| entry.unwrap().path());
        files
            .find(|path| path.extension().is_some_and(|e| e == "gguf"))
            .unwrap()
    }

    /// Sets keys of a JSON file; `null` takes one out.
    fn edit(workshop: &Workshop, file: &str, changes: &Value) {
        let mut json = read(&workshop.path(file));
        let keys = json.as_object_mut().unwrap();
        for (key, value) in changes.as_object().unwrap() {
            if value.is_null() {
                keys.shift_remove(key);
            } else {
                keys.insert(key.clone(), value.clone());
            }
        }
        workshop.write(file, json.to_string().as_bytes());
    }

    /// A chat model: its turns end with token 2, as its generation config alone says, and its texts with token 0.
    fn chat_model() -> Workshop {
        let workshop = Workshop::new();
        workshop.copy_files(&Path::new(GOLDEN).join("hf-llama"), "model");
        edit(
            &workshop,
            "model/config.json",
            &json!({ "eos_token_id": 0 }),
        );
        let generation = json!({
            "eos_token_id": [2, 0], "temperature": 0.6, "top_p": 0.9, "top_k": 20, "do_sample": true,
            "repetition_penalty": 1.05, "max_new_tokens": 512,
        });
        edit(&workshop, "model/generation_config.json", &generation);
        workshop
    }

    /// What an exported folder says of generation, without `null`s.
    fn generation(dir: &Path) -> Value {
        let mut json = read(&dir.join("generation_config.json"));
        json.as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        json
    }

    /// What [`chat_model`] should leave with.
    fn carried() -> Value {
        json!({
            "bos_token_id": 1, "eos_token_id": [0, 2], "pad_token_id": 0, "temperature": 0.6, "top_p": 0.9,
            "top_k": 20, "do_sample": true, "repetition_penalty": 1.05, "max_new_tokens": 512,
        })
    }

    #[test]
    fn generation_stops_at_an_end_that_the_generation_config_alone_names() {
        let workshop = chat_model();
        let source = Checkpoint::open(&workshop.path("model")).unwrap();
        let says_2 = |spec: &ParameterSpec| {
            let [rows, columns] = spec.shape;
            let mut weight = source.values(spec).unwrap();
            let fills = |value: f32| vec![value; rows * columns];
            match spec.kind() {
                ParameterKind::Norm => fills(1.0),
                ParameterKind::Linear => fills(0.0), // nothing but the embedding counts
                ParameterKind::Embedding => {
                    weight
                        .iter_mut()
                        .step_by(columns)
                        .for_each(|first| *first = 4.0);
                    weight
                }
                _ => {
                    let mut weight = fills(0.0);
                    weight[2 * columns] = 5.0;
                    weight
                }
            }
        };
        let dir = workshop.path("says-2");
        workshop.copy_files(&workshop.path("model"), "says-2");
        let no_codes = |_: &_, _| unreachable!("nothing is on a grid");
        let (config, dtype) = (source.config(), ExportDtype::F32);
        write_folder(&*dir, config, None, dtype, says_2, no_codes).unwrap();
        workshop.copy_files(&workshop.path("model"), "kept");
        for file in ["config.json", "generation_config.json"] {
            fs::copy(workshop.path("kept").join(file), dir.join(file)).unwrap();
        }
        let said = |model: &str| {
            let args = [
                "generate",
                model,
                "--prompt",
                "Anne",
                "--max-tokens",
                "20",
                "--temperature",
                "0",
                "--json",
            ];
            workshop.done(&args).json()["ids"].clone()
        };
        assert_eq!(said("says-2"), json!([]));
        done(
            &workshop,
            "export says-2 --format gguf --dtype f32 --out file",
        );
        let file = gguf_in(&workshop.path("file"));
        assert_eq!(said(file.to_str().unwrap()), json!([]));
        edit(
            &workshop,
            "says-2/generation_config.json",
            &json!({ "eos_token_id": 0 }),
        );
        assert_eq!(said("says-2"), json!(vec![2; 20]));
    }

    #[test]
    fn ends_and_sampling_defaults_leave_in_each_format_of_folders() {
        let workshop = chat_model();
        for (made, line) in [
            ("plain", "export model --format huggingface"),
            ("packed", "quantize model --method round-to-nearest"),
            (
                "gptq",
                "quantize model --method round-to-nearest --format gptq",
            ),
            ("again", "export packed --format mlx"),
        ] {
            done(&workshop, &format!("{line} {TEXT} --out {made}"));
            assert_eq!(generation(&workshop.path(made)), carried(), "{made}");
            let config = read(&workshop.path(made).join("config.json"));
            assert_eq!(config["eos_token_id"], json!([0, 2]), "{made}");
        }
    }

    #[test]
    fn ends_and_sampling_defaults_leave_as_keys_of_a_gguf_file_and_come_back() {
        let workshop = chat_model();
        done(
            &workshop,
            &format!("export model --format gguf {TEXT} --out file"),
        );
        let path = gguf_in(&workshop.path("file"));
        let file = GgufFile::open(&path).unwrap();
        let id = |name: &str| {
            file.unsigned(&format!("tokenizer.ggml.{name}_token_id"))
                .unwrap()
        };
        let ids = ["bos", "eos", "eot", "eom", "padding"].map(id);
        assert_eq!(ids, [Some(1), Some(0), Some(2), None, Some(0)]);
        for (name, want) in [("temp", 0.6), ("top_p", 0.9), ("penalty_repeat", 1.05)] {
            let got = file.float(&format!("general.sampling.{name}")).unwrap();
            assert!((got.unwrap() - want).abs() < 1e-6, "{name}: {got:?}");
        }
        assert_eq!(file.unsigned("general.sampling.top_k").unwrap(), Some(20));
        let back = format!(
            "export {} --format huggingface {TEXT} --out back",
            path.display()
        );
        done(&workshop, &back);
        let mut want = carried();
        want.as_object_mut().unwrap().shift_remove("max_new_tokens"); // no file of llama.cpp says it
        assert_eq!(generation(&workshop.path("back")), want);
    }

    #[test]
    fn an_end_that_is_no_token_is_not_named_in_a_gguf_file() {
        let workshop = chat_model();
        let file = "model/generation_config.json";
        edit(&workshop, file, &json!({ "eos_token_id": [999, 2] }));
        done(
            &workshop,
            &format!("export model --format gguf {TEXT} --out file"),
        );
        let file = GgufFile::open(&gguf_in(&workshop.path("file"))).unwrap();
        let id = |name: &str| file.unsigned(&format!("tokenizer.ggml.{name}_token_id"));
        assert_eq!(
            ["eos", "eot", "eom"].map(|name| id(name).unwrap()),
            [Some(0), Some(2), None]
        );
    }

    #[test]
    fn ids_of_a_generation_config_alone_go_before_defaults_of_a_class() {
        let workshop = chat_model();
        let none = json!({ "bos_token_id": null, "eos_token_id": null, "pad_token_id": null });
        edit(&workshop, "model/config.json", &none);
        done(
            &workshop,
            &format!("export model --format huggingface {TEXT} --out made"),
        );
        let config = read(&workshop.path("made/config.json"));
        let ids = ["bos_token_id", "eos_token_id", "pad_token_id"].map(|key| config[key].clone());
        assert_eq!(ids, [json!(1), json!([2, 0]), json!(0)]);
        assert_eq!(
            generation(&workshop.path("made"))["eos_token_id"],
            json!([2, 0])
        );
    }

    #[test]
    fn a_generation_config_that_cannot_be_read_is_refused_by_its_name() {
        let workshop = chat_model();
        let refused = |text: &str, needle: &str| {
            workshop.write("model/generation_config.json", text.as_bytes());
            let line = format!("export model --format huggingface {TEXT} --out made");
            let args: Vec<&str> = line.split_whitespace().collect();
            workshop.fails(&args, 2, &["generation_config.json", needle]);
        };
        refused("{", "EOF");
        refused("[]", "a table");
        refused(
            r#"{"eos_token_id": [2, "x"]}"#,
            "`eos_token_id` must be a token id",
        );
    }

    /// A student that is trained for two steps.
    fn recipe(student: &str) -> String {
        format!(
            "\
name: short
output: out
data: {{ train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32 }}
teacher: {{ checkpoint: teacher }}
cache: {{ support: {{ top_k: 16 }} }}
student: {{ {student} }}
passes: [distill: {{ steps: 2, tokens_per_step: 64, learning_rate: 1e-3 }}]
export: {{ formats: [huggingface, gguf], max_rounding_kl: 1 }}
"
        )
    }

    const FRESH: &str = "architecture: { num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, intermediate_size: 32 }";

    /// The newest export of the chain.
    fn export_of(ran: &Ran) -> PathBuf {
        let told = ran
            .stderr
            .lines()
            .rev()
            .find_map(|line| line.split_once(": verified, in "));
        let (_, dir) = told.unwrap_or_else(|| panic!("{}", ran.stderr));
        PathBuf::from(dir)
    }

    #[test]
    fn a_student_leaves_with_what_its_teacher_says_of_generation() {
        let workshop = Workshop::new();
        workshop.write("short.yaml", recipe(FRESH).as_bytes());
        let said = json!({ "eos_token_id": [5, 0], "temperature": 0.6, "do_sample": true });
        edit(&workshop, "teacher/generation_config.json", &said);
        let fresh = done(&workshop, "run short.yaml");
        let made = workshop.path(".").join(export_of(&fresh));
        assert_eq!(
            generation(&made.join("huggingface")),
            json!({
                "bos_token_id": 0, "eos_token_id": [0, 5], "temperature": 0.6, "do_sample": true,
            })
        );
        let file = GgufFile::open(&gguf_in(&made.join("gguf"))).unwrap();
        assert_eq!(
            file.unsigned("tokenizer.ggml.eot_token_id").unwrap(),
            Some(5)
        );

        // Another default makes another export, and nothing else.
        edit(
            &workshop,
            "teacher/generation_config.json",
            &json!({ "temperature": 0.7 }),
        );
        let again = done(&workshop, "run short.yaml");
        assert!(
            again.stderr.contains("01-distill: done"),
            "{}",
            again.stderr
        );
        let made = workshop.path(".").join(export_of(&again));
        assert_eq!(
            generation(&made.join("huggingface"))["temperature"],
            json!(0.7)
        );
        assert!(
            done(&workshop, "run short.yaml")
                .stderr
                .contains("02-export: done")
        );
    }

    #[test]
    fn a_student_ends_at_the_token_that_its_texts_were_separated_with() {
        let workshop = Workshop::new();
        edit(
            &workshop,
            "teacher/config.json",
            &json!({ "eos_token_id": 5 }),
        );
        edit(
            &workshop,
            "teacher/generation_config.json",
            &json!({ "eos_token_id": 5 }),
        );
        let part = "from_teacher: { layers: [0] }";
        workshop.write("short.yaml", recipe(part).as_bytes());
        let ran = done(&workshop, "run short.yaml");
        let made = workshop.path(".").join(export_of(&ran));
        assert_eq!(
            generation(&made.join("huggingface"))["eos_token_id"],
            json!([5, 0])
        );

        // The folder of a pass leaves with the same ends.
        let pass = workshop.folder("out/short", "01-distill");
        let line = format!(
            "export {} --format huggingface --tokenizer teacher {TEXT} --out pass",
            pass.display()
        );
        done(&workshop, &line);
        assert_eq!(
            generation(&workshop.path("pass"))["eos_token_id"],
            json!([5, 0])
        );
    }
}
