//! Sound folders that are damaged, and the commands that then read them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{Workshop, files_below};

/// Files of a folder by their names in it.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A sound folder.
pub(crate) struct Seed {
    pub(crate) name: String,
    pub(crate) files: Files,
    /// Names of the files that are damaged.
    pub(crate) damaged: Vec<String>,
    /// Command lines, each as often as it shall be drawn.
    pub(crate) commands: Vec<String>,
    /// Share of the cases.
    pub(crate) weight: usize,
}

const RECIPE: &str = "\
name: tiny
seed: 3
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 16 }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 8 }, temperatures: [1.0, 2.0], rows_per_shard: 32, tokens: 1k }
student:
  architecture: { num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32 }
passes:
  - distill: { steps: 4, tokens_per_step: 64, learning_rate: 1e-2, ema: 0.9, save_every: 1, temperature: 2.0, losses: { forward_kl: 0.5, cross_entropy: 0.5 }, prune: { sparsity: 0.5, from_step: 0, to_step: 3, every: 1 } }
  - quantize: { method: qat, bits: 4, group_size: 16, learn_scales: true, steps: 2, tokens_per_step: 64 }
export: { formats: [huggingface, compressed-tensors], dtype: f32 }
";

/// A decay that overthrows the weights, so that the run stops at its second step and leaves a state.
const STOPPED: &str = "run tiny.yaml --set passes.0.distill.weight_decay=1e38";

/// All seeds: models of every family and format, a recipe, a run, and a run that stopped.
pub(crate) fn seeds() -> Vec<Seed> {
    let mut seeds = models();
    seeds.extend(runs());
    seeds
}

fn golden(folder: &str) -> Files {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(folder);
    let files = files_below(&dir).into_iter();
    files
        .map(|(path, (bytes, _))| (path.display().to_string(), bytes))
        .filter(|(name, _)| !name.starts_with("expected"))
        .collect()
}

fn models() -> Vec<Seed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<String> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            ["hf-", "ct-", "gptq-", "awq-", "mlx-", "gguf"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .collect();
    folders.sort();
    let tokenizer = golden("hf-llama");
    let mut seeds = Vec::new();
    for folder in folders {
        let files = golden(&folder);
        let ggufs: Vec<&String> = files
            .keys()
            .filter(|name| {
                Path::new(name)
                    .extension()
                    .is_some_and(|kind| kind == "gguf")
            })
            .collect();
        for name in &ggufs {
            let file = Files::from([("model.gguf".to_owned(), files[*name].clone())]);
            seeds.push(model(format!("{folder}/{name}"), "model.gguf", file));
        }
        let weights = files.keys().any(|name| name.ends_with(".safetensors"));
        if ggufs.is_empty() && weights && files.contains_key("config.json") {
            let mut inside: Files = files
                .into_iter()
                .map(|(name, bytes)| (format!("model/{name}"), bytes))
                .collect();
            for name in ["tokenizer.json", "tokenizer_config.json"] {
                inside
                    .entry(format!("model/{name}"))
                    .or_insert_with(|| tokenizer[name].clone());
            }
            seeds.push(model(folder, "model", inside));
        }
    }
    assert!(seeds.len() > 35, "{}", seeds.len());
    seeds
}

fn model(name: String, path: &str, mut files: Files) -> Seed {
    let evaluate = format!("evaluate {path} --text text.txt --sequence-length 8 --json");
    let mut commands = vec![evaluate; 6];
    commands.extend([
        format!("inspect {path} --json"),
        format!("inspect {path}"),
        format!("generate {path} --prompt Anne --max-tokens 3 --temperature 0"),
        format!("export {path} --format huggingface --out result"),
        format!("export {path} --format gguf --out result"),
    ]);
    let damaged = files.keys().cloned().collect();
    files.insert(
        "text.txt".to_owned(),
        b"Anne could not immediately fall into a quotation again.\n".to_vec(),
    );
    Seed {
        name,
        files,
        damaged,
        commands,
        weight: 2,
    }
}

/// Files before a run, after it, and after one that stopped.
struct Runs {
    inputs: Files,
    done: Files,
    stopped: Files,
}

impl Runs {
    fn new() -> Self {
        let workshop = Workshop::new();
        let novel = fs::read_to_string(workshop.path("text/train.txt")).unwrap();
        workshop.write("text/train.txt", &novel.as_bytes()[..3_000]);
        workshop.write("text/validation.txt", &novel.as_bytes()[3_000..3_600]);
        workshop.write("tiny.yaml", RECIPE.as_bytes());
        fs::remove_file(workshop.path("chain.yaml")).unwrap();
        let read = || -> Files {
            let files = files_below(&workshop.path("")).into_iter();
            files
                .map(|(path, (bytes, _))| (path.display().to_string(), bytes))
                .collect()
        };
        let inputs = read();
        workshop.done(&["run", "tiny.yaml"]);
        let done = read();
        fs::remove_dir_all(workshop.path("out/tiny")).unwrap();
        let words: Vec<&str> = STOPPED.split(' ').collect();
        workshop.fails(&words, 1, &["error[train/not-finite]"]);
        Self {
            inputs,
            done,
            stopped: read(),
        }
    }
}

/// Names of the files that a run left, if they are chosen.
fn left(files: &Files, is_chosen: fn(&str) -> bool) -> Vec<String> {
    let names = files.keys().filter(|name| name.starts_with("out/"));
    let names: Vec<String> = names.filter(|name| is_chosen(name)).cloned().collect();
    assert!(!names.is_empty(), "{:?}", files.keys());
    names
}

/// The first folder that has this file.
fn folder_of<'a>(files: &'a Files, file: &str) -> &'a str {
    let mut names = files.keys();
    let found = names.find_map(|name| name.strip_suffix(file));
    found.unwrap_or_else(|| panic!("no {file} in {:?}", files.keys()))
}

/// A recipe, what a run of it left, and what one left that stopped.
fn runs() -> [Seed; 4] {
    let Runs {
        inputs,
        done,
        stopped,
    } = Runs::new();
    let pass = folder_of(&done, "/student.safetensors");
    let cache = folder_of(&done, "/train/manifest.json");
    let of_pass = [
        format!(
            "export {pass} --tokenizer teacher/tokenizer.json --format huggingface --out result"
        ),
        format!("cache verify {cache}"),
        "run tiny.yaml".to_owned(),
    ];
    let mut of_run = of_pass.to_vec();
    of_run.extend([format!("inspect {pass}"), format!("cache stat {cache}")]);
    of_run.extend(
        [
            "plan tiny.yaml",
            "inspect out/tiny",
            "inspect out/tiny --json",
        ]
        .map(str::to_owned),
    );
    let is_of_pass = |name: &str| name.ends_with("student.safetensors") || name.contains("/train/");
    [
        Seed {
            name: "recipe".to_owned(),
            files: inputs,
            damaged: vec!["tiny.yaml".to_owned()],
            commands: ["plan tiny.yaml", "plan tiny.yaml --json"]
                .map(str::to_owned)
                .to_vec(),
            weight: 16,
        },
        Seed {
            name: "run".to_owned(),
            damaged: left(&done, |name| {
                Path::new(name).file_name().is_some_and(|it| it != ".lock")
            }),
            commands: of_run,
            files: done.clone(),
            weight: 10,
        },
        Seed {
            name: "pass and cache".to_owned(),
            damaged: left(&done, is_of_pass),
            commands: of_pass.to_vec(),
            files: done,
            weight: 8,
        },
        Seed {
            name: "state".to_owned(),
            damaged: left(&stopped, |name| name.contains("state-")),
            files: stopped,
            commands: vec![STOPPED.to_owned()],
            weight: 5,
        },
    ]
}
