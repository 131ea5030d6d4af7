//! A folder with texts, a small teacher and recipes, in which tests run the program as a user does.
#![allow(dead_code, reason = "each test binary uses a part of these")]

pub(crate) mod source;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

/// Text alone makes the teacher: tokenizer and weights are trained from nothing.
const TEACHER_RECIPE: &str = "\
name: teacher
seed: 1
output: made
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, tokenizer: { train: { vocab_size: 300 } } }
student:
  architecture: { num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32 }
passes:
  - distill: { steps: 150, tokens_per_step: 256, learning_rate: 2e-2 }
export: { formats: [huggingface], dtype: f32 }
";

/// Every kind of pass and export, small enough to take about a second.
const CHAIN_RECIPE: &str = "\
name: chain
seed: 3
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32 }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 16 }, temperatures: [1.0, 2.0], rows_per_shard: 32 }
student:
  architecture: { num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32 }
passes:
  - distill: { steps: 30, tokens_per_step: 256, learning_rate: 1e-2, temperature: 2.0, save_every: 4, losses: { forward_kl: 0.5, cross_entropy: 0.5 } }
  - prune: { method: wanda, sparsity: 0.5 }
  - distill: { steps: 15, tokens_per_step: 256, learning_rate: 3e-3, save_every: 4 }
  - quantize: { method: qat, bits: 4, group_size: 16, steps: 15, tokens_per_step: 256, save_every: 4 }
export: { formats: [huggingface, compressed-tensors], dtype: f32 }
";

/// Passes of the recipe, as they are named in folders and tables.
pub(crate) const PASSES: [&str; 4] = ["01-distill", "02-prune", "03-distill", "04-quantize"];

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The one JSON object that `--json` prints.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        let json: Value = serde_json::from_str(&self.stdout).unwrap();
        assert!(json.is_object(), "{json}");
        json
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A folder of its own for one test: `text/`, `teacher/`, `chain.yaml`.
#[derive(Debug)]
pub(crate) struct Workshop {
    dir: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let workshop = Self::without_teacher();
        for (name, bytes) in teacher_files() {
            workshop.write(&format!("teacher/{name}"), bytes);
        }
        workshop.write("chain.yaml", CHAIN_RECIPE.as_bytes());
        workshop
    }

    /// A folder with nothing in it.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn without_teacher() -> Self {
        let workshop = Self::empty();
        let novel =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/austen/validation/persuasion.txt");
        let novel = fs::read_to_string(novel).unwrap();
        let (train, rest) = novel.split_at(novel.floor_char_boundary(12_000));
        let validation = &rest[..rest.floor_char_boundary(4_000)];
        workshop.write("text/train.txt", train.as_bytes());
        workshop.write("text/validation.txt", validation.as_bytes());
        workshop
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
    pub(crate) fn write(&self, relative: &str, bytes: &[u8]) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Copies the files of a folder, not those of its folders, into one of the workshop.
    pub(crate) fn copy_files(&self, source: &Path, relative: &str) {
        for entry in fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.file_name().unwrap().to_str().unwrap();
                self.write(&format!("{relative}/{name}"), &fs::read(&path).unwrap());
            }
        }
    }

    /// The program with the workshop as its working folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alambic"));
        command.current_dir(self.dir.path()).args(args);
        // Estimates must not depend on what other runs of this user have measured.
        command.env("XDG_CACHE_HOME", self.path(".cache"));
        // Nor may a test use a network, or what this user has fetched from the hub.
        for name in ["HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT"] {
            command.env_remove(name);
        }
        command.env("HF_HUB_OFFLINE", "1");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    /// Runs a command that must succeed.
    pub(crate) fn done(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        ran
    }

    /// Runs a command that must fail with this exit code and print no data; its message, which must hold `needles`.
    pub(crate) fn fails(&self, args: &[&str], code: i32, needles: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
        for needle in needles {
            let stderr = &ran.stderr;
            assert!(
                stderr.contains(needle),
                "{args:?}: no `{needle}` in:\n{stderr}"
            );
        }
        ran.stderr
    }

    /// Starts the program and does not wait for it.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The one folder with this prefix in a folder.
    pub(crate) fn folder(&self, relative: &str, prefix: &str) -> PathBuf {
        let found = folders(&self.path(relative), prefix);
        assert_eq!(found.len(), 1, "{prefix} in {relative}: {found:?}");
        found[0].clone()
    }
}

/// Folders in a folder whose name has this prefix, sorted.
pub(crate) fn folders(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| {
            path.is_dir()
                && path
                    .file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with(prefix)
        })
        .collect();
    found.sort();
    found
}

/// Every file below a folder with its bytes and its time of change, by relative path; empty if there is no folder.
pub(crate) fn files_below(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                let relative = path.strip_prefix(dir).unwrap().to_path_buf();
                found.insert(relative, (fs::read(&path).unwrap(), modified));
            }
        }
    }
    found
}

/// What two runs of one recipe must agree in to the byte: weights, caches and rows, by relative path.
///
/// The rest holds seconds or paths.
pub(crate) fn results(output: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files_below(output);
    files.retain(|path, _| {
        let name = path.file_name().unwrap().to_string_lossy();
        let exact = [
            "student.safetensors",
            "model.safetensors",
            "manifest.json",
            "config.json",
            "tokenizer.json",
        ];
        let inside = path.parent().unwrap().to_string_lossy();
        let is_exported = inside.contains("-export-") && name != "artifact.json";
        let is_kept = exact.contains(&name.as_ref())
            || is_exported && name != "stage.json"
            || name.ends_with(".parquet")
            || name.starts_with("rows-");
        is_kept && !inside.contains("unfinished-")
    });
    files
        .into_iter()
        .map(|(path, (bytes, _))| (path, bytes))
        .collect()
}

/// Compares what [`results`] found, telling names instead of bytes.
pub(crate) fn assert_same_results(got: &Path, want: &Path) {
    let (got, want) = (results(got), results(want));
    let names =
        |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<PathBuf>>();
    assert_eq!(names(&got), names(&want));
    let different: Vec<&PathBuf> = want
        .keys()
        .filter(|path| got[*path] != want[*path])
        .collect();
    assert!(different.is_empty(), "bytes differ: {different:?}");
    assert!(want.len() >= PASSES.len() + 4, "{:?}", names(&want));
}

/// Nothing below this folder bears a final name without being whole: each pass and export has its `artifact.json`.
pub(crate) fn assert_whole(run_dir: &Path) {
    for folder in folders(run_dir, "0") {
        assert!(
            folder.join("artifact.json").exists(),
            "{} is not whole",
            folder.display()
        );
    }
}

/// The run's `report.json` without what the clock and the place decide.
pub(crate) fn figures(report: &Path) -> Value {
    let mut report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    for pass in report["passes"].as_array_mut().unwrap() {
        pass.as_object_mut().unwrap().shift_remove("secs");
    }
    report.as_object_mut().unwrap().shift_remove("command");
    report
}

/// The chain with these overrides is refused, by `run`, `plan` and `cache build` alike, before anything is written.
pub(crate) fn assert_refused(workshop: &Workshop, overrides: &[&str], needles: &[&str]) {
    let sets: Vec<&str> = overrides.iter().flat_map(|set| ["--set", set]).collect();
    for command in [&["run"][..], &["plan"], &["cache", "build"]] {
        let args = [command, &["chain.yaml"], &sets].concat();
        let told = workshop.fails(&args, 2, needles);
        assert!(told.contains("  = help: "), "{told}");
        assert!(!told.contains("panicked"), "{told}");
    }
    assert!(!workshop.path("out").exists(), "something was written");
}

/// What a started program left behind, when it has ended.
pub(crate) fn finished(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

/// Sends a signal to a started program.
pub(crate) fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
}

/// No file or folder of an unfinished stage is below this folder.
pub(crate) fn assert_no_parts(dir: &Path) {
    let is_part = |path: &Path| {
        let path = path.to_string_lossy();
        path.contains(".partial-") || path.contains("unfinished-")
    };
    let parts: Vec<_> = files_below(dir)
        .into_keys()
        .filter(|path| is_part(path))
        .collect();
    assert!(parts.is_empty(), "left behind: {parts:?}");
}

/// Two numbers of JSON differ by no more than this.
pub(crate) fn assert_close(got: &Value, want: &Value, tolerance: f64, name: &str) {
    let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
    assert!(
        (got - want).abs() <= tolerance,
        "{name}: got {got}, want {want}"
    );
}

/// Reads what a program tells until it waits for another run; the lines that follow.
pub(crate) fn until_it_waits(child: &mut Child) -> Lines<BufReader<ChildStderr>> {
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits = told.find(|line| line.as_ref().unwrap().contains("waiting for another run"));
    assert!(waits.is_some(), "it did not wait");
    told
}

/// Waits until something is there, for at most a minute.
pub(crate) fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_there() {
        assert!(since.elapsed() < Duration::from_mins(1), "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Files of the teacher's folder; it is made once by the program itself.
fn teacher_files() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let workshop = Workshop::without_teacher();
        workshop.write("teacher.yaml", TEACHER_RECIPE.as_bytes());
        workshop.done(&["run", "teacher.yaml"]);
        let dir = workshop
            .folder("made/teacher", "02-export")
            .join("huggingface");
        let files = files_below(&dir).into_iter();
        files
            .map(|(path, (bytes, _))| (path.display().to_string(), bytes))
            .collect()
    })
}
