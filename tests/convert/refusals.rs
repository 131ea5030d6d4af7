//! What both commands refuse, and that a failure leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use alambic::checkpoint::Checkpoint;
use alambic::model::{ParameterKind, parameter_specs};

use crate::common::{Ran, Workshop, files_below, finished, folders, signal};
use crate::tests::words;

/// The last weight in the file, that of the last norm, becomes another number.
fn spoil(workshop: &Workshop, number: f32) {
    let mut bytes = fs::read(workshop.path("teacher/model.safetensors")).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&number.to_le_bytes());
    workshop.write("teacher/model.safetensors", &bytes);
}

#[test]
fn nothing_is_written_over_what_is_there() {
    let workshop = Workshop::new();
    workshop.write("kept/file", b"mine");
    let before = files_below(&workshop.path(""));
    let needles = [
        "error[convert]: `kept` already exists, and nothing is overwritten",
        "help: name another folder with `--out`, or delete `kept`",
    ];
    for line in [
        "export teacher --format huggingface --out kept",
        "quantize teacher --method round-to-nearest --out kept",
    ] {
        workshop.fails(&words(line), 2, &needles);
    }
    assert_eq!(files_below(&workshop.path("")), before);
}

/// Command lines, the exit code of each, and what its message holds.
const REFUSED: [(&str, i32, &[&str]); 27] = [
    (
        "export text --format gguf",
        2,
        &["error[checkpoint]: ", "config.json"],
    ),
    (
        "export absent --format gguf",
        2,
        &["error[checkpoint]: ", "absent"],
    ),
    (
        "export teacher --format bmp",
        2,
        &["[possible values: huggingface, "],
    ),
    (
        "export teacher --format gguf --set export.gguf_type=q9",
        2,
        &[
            "error[recipe/unknown-value]",
            "`gguf_type` must be",
            "gguf_type=q9",
        ],
    ),
    (
        "export teacher --format gguf --set seed=1",
        2,
        &["error[convert]: `--set seed=...` is not a key of this command"],
    ),
    (
        "export teacher --format compressed-tensors",
        2,
        &[
            "stores weights on a grid",
            "help: `alambic quantize` puts them on one",
        ],
    ),
    (
        "export teacher --format gguf --out chain.yaml/inside",
        1,
        &["chain.yaml", "help: name another folder with `--out`"],
    ),
    (
        "export teacher --format gguf --text absent.txt",
        2,
        &["error[data]: ", "absent.txt"],
    ),
    (
        "quantize teacher --method round-to-nearest --bits 5",
        2,
        &[
            "`bits` must be 2, 3, 4 or 8, or a map of `budget`, `widths`, but is 5",
            "--> the recipe of these arguments:",
            "bits: 5",
        ],
    ),
    (
        "quantize teacher --method round-to-nearest --group-size 24",
        2,
        &[
            "error[quantize/uneven-groups]",
            "does not divide the 16 columns of `model.layers.0.",
        ],
    ),
    (
        "quantize teacher --group-size 16 --set quantize.method=qat --set quantize.steps=3",
        2,
        &["`qat` trains", "help: write a recipe"],
    ),
    (
        "quantize teacher --method round-to-nearest --group-size 16 --set quantize.of_mine=3",
        2,
        &["error[recipe/unknown-key]", "--set quantize.of_mine=3"],
    ),
    (
        "quantize teacher --method gptq --group-size 16",
        2,
        &[
            "`gptq` with these options reads text to measure the inputs of projections, but none was given",
            "help: name a file or folder with `--text`, in the language and of the kind that the model is for",
        ],
    ),
    (
        "quantize teacher --method round-to-nearest --group-size 16 --set data.sequence_length=4",
        2,
        &[
            "`--set data.sequence_length=...` is not a key of this command",
            "help: use `export.*`, or with `alambic quantize` also `passes.0.*`",
        ],
    ),
    (
        "quantize teacher --method round-to-nearest --group-size 16 --set export.formats=[]",
        2,
        &["`--set export.formats=...` is not a key"],
    ),
    (
        "export teacher --format gguf --set export.formats=[huggingface,gguf]",
        2,
        &["`--set export.formats=...` is not a key"],
    ),
    (
        "quantize teacher --method round-to-nearest --bits 3 --group-size 16 --format gguf",
        2,
        &[
            "`gguf` has no blocks for int3, groups of 16: the file would hold plain weights",
            "help: write `--bits 4 --group-size 32` or `--bits 8 --group-size 32`",
        ],
    ),
    (
        concat!(
            "export ",
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/ct-fp8-dynamic --format mlx"
        ),
        2,
        &[
            "`mlx` cannot hold `model.layers.0.self_attn.q_proj.weight`, fp8, one scale per row, activations fp8",
            "help: write another `--format`, or put the weights on another grid",
        ],
    ),
    (
        concat!(
            "export ",
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/gptq-4bit-g32-sym-actorder --format mlx"
        ),
        2,
        &[
            "on one that cannot be kept", // groups of permuted columns
            "help: write `--format huggingface` or `gguf`, or round them again",
        ],
    ),
    (
        "quantize teacher --bits 3 --group-size 16 --format gguf --set export.gguf_type=q4_k",
        2,
        &[
            "`gguf_type` would round projections that are on int3, groups of 16 a second time, to Q4_K",
            "--format gguf --set export.gguf_type=q4_k`",
        ],
    ),
    (
        "quantize teacher --bits 8 --set quantize.bits=4",
        2,
        &[
            "error[convert]: `--set quantize.bits=4` sets what `--bits 8` sets, too",
            "help: keep one of them",
        ],
    ),
    (
        "quantize teacher --bits 8 --set passes.0.quantize.bits.budget=4",
        2,
        &["sets what `--bits 8` sets, too"],
    ),
    (
        "quantize teacher --method gptq --set quantize.method=qat",
        2,
        &["sets what `--method gptq` sets, too"],
    ),
    (
        "export teacher --format gguf --dtype f16 --set export.dtype=f32",
        2,
        &["`--set export.dtype=f32` sets what `--dtype f16` sets, too"],
    ),
    (
        "quantize teacher --group-size 16 --text absent.txt",
        2,
        &["error[data]: `--text absent.txt` cannot be read: No such file"],
    ),
    (
        "export HuggingFaceTB/SmolLM2-135M --format gguf",
        2,
        &[
            "error[hub/offline]: `HuggingFaceTB/SmolLM2-135M` is not complete in the cache",
            "help: take `HF_HUB_OFFLINE` away",
        ],
    ),
    (
        "quantize teacher --method mine",
        2,
        &["[possible values: round-to-nearest"],
    ),
];

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let workshop = Workshop::new();
    let before = files_below(&workshop.path(""));
    for (line, code, needles) in REFUSED {
        workshop.fails(&words(line), code, needles);
        assert_eq!(files_below(&workshop.path("")), before, "{line}");
        assert!(
            folders(&workshop.path(""), "unfinished-").is_empty(),
            "{line}"
        );
    }
}

#[test]
fn a_grid_without_0_is_refused_where_weights_were_pruned_and_others_keep_the_zeros() {
    let workshop = Workshop::new();
    let recipe = "
name: pruned
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, tokenizer: { file: teacher/tokenizer.json } }
student: { checkpoint: teacher }
passes:
  - prune: { method: magnitude, sparsity: 0.5 }
  - quantize: { method: round-to-nearest, bits: 8 }
export: { formats: [compressed-tensors] }
output: made
";
    workshop.write("pruned.yaml", recipe.as_bytes());
    workshop.done(&words("run pruned.yaml"));
    for pass in ["01-prune", "02-quantize"] {
        let dir = workshop.folder("made/pruned", pass).display().to_string();
        let line = format!("quantize {dir} --tokenizer teacher/tokenizer.json --group-size 16");
        let needles = [" was pruned, and stretched grids have no 0", "help: write "];
        let stretched = format!("{line} --method round-to-nearest --set quantize.type=stretched");
        workshop.fails(&words(&stretched), 2, &needles);
        let gptq =
            format!("{line} --method gptq --text text/train.txt --sequence-length 32 --out {pass}");
        workshop.done(&words(&gptq));
        let made = Checkpoint::open(&workshop.path(pass)).unwrap();
        let (mut zeros, mut total) = (0, 0);
        for spec in parameter_specs(made.config()) {
            if spec.kind() == ParameterKind::Linear {
                let values = made.values(&spec).unwrap();
                zeros += values.iter().filter(|&&value| value == 0.0).count();
                total += values.len();
            }
        }
        assert!(2 * zeros >= total, "{pass}: {zeros} of {total} are 0");
    }
}

#[test]
fn a_weight_that_no_file_should_hold_is_named() {
    let workshop = Workshop::new();
    spoil(&workshop, f32::NAN);
    for line in [
        "export teacher --format gguf --out made",
        "quantize teacher --method round-to-nearest --group-size 16 --out made",
    ] {
        let needles = ["of `model.norm.weight` is NaN: the checkpoint is damaged"];
        workshop.fails(&words(line), 2, &needles);
    }
    spoil(&workshop, 70_000.0);
    let line = "export teacher --format huggingface --dtype f16 --out made";
    let needles = ["of `model.norm.weight` is 70000, which float16 does not hold"];
    workshop.fails(&words(line), 1, &needles);
    assert!(!workshop.path("made").exists());
}

/// Runs a command where no file may grow beyond a number of 512-byte blocks, as on a disk that is full.
fn run_with_room(workshop: &Workshop, blocks: usize, args: &[&str]) -> Ran {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.current_dir(workshop.path("")).arg("-c").arg(script);
    command.arg(env!("CARGO_BIN_EXE_alambic")).args(args);
    command.output().unwrap().into()
}

#[test]
fn a_full_disk_leaves_nothing_behind_and_room_lets_it_pass() {
    let workshop = Workshop::new();
    let before = files_below(&workshop.path(""));
    for line in [
        "export teacher --format huggingface --out made",
        "export teacher --format gguf --out made",
        "quantize teacher --method round-to-nearest --group-size 16 --out made",
    ] {
        let ran = run_with_room(&workshop, 16, &words(line));
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
        let help = "help: make room, or name a folder on another disk";
        for told in ["error[io]: ", "File too large", help] {
            assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
        }
        assert_eq!(files_below(&workshop.path("")), before);
        assert!(folders(&workshop.path(""), "unfinished-").is_empty());
    }
    workshop.done(&words("export teacher --format gguf --out made"));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let workshop = Workshop::new();
    let locked = workshop.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::create_dir(locked.join("a")).is_ok() {
        println!("skipped: nothing is read-only to root");
        return;
    }
    let line = "export teacher --format gguf --out locked/inside";
    let needles = [
        "Permission denied",
        "help: name another folder with `--out`",
    ];
    workshop.fails(&words(line), 1, &needles);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_signal_ends_a_command_and_leaves_nothing_of_it() {
    let workshop = Workshop::new();
    let mut num_stopped = 0;
    for wait_ms in [5, 15, 30, 60, 100] {
        let child = workshop.start(&words("export teacher --format gguf --out made"));
        std::thread::sleep(Duration::from_millis(wait_ms));
        signal(&child, "INT");
        let ran = finished(child);
        assert!(folders(&workshop.path(""), "unfinished-").is_empty());
        if workshop.path("made").exists() {
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            fs::remove_dir_all(workshop.path("made")).unwrap();
        } else {
            num_stopped += 1;
        }
    }
    assert!(num_stopped > 0);
}
