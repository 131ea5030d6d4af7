//! `export` and `quantize`: what they write of checkpoints that no recipe made, and what they refuse.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;

    use alambic::checkpoint::Checkpoint;
    use alambic::model::parameter_specs;
    use serde_json::Value;

    use crate::common::{Ran, Workshop, files_below, finished, folders, signal};

    /// Both checkpoints have the same weights, bit for bit.
    fn assert_same_weights(got: &Path, want: &Path) {
        let (got, want) = (
            Checkpoint::open(got).unwrap(),
            Checkpoint::open(want).unwrap(),
        );
        let specs = parameter_specs(want.config());
        assert!(specs.len() > 5);
        for spec in specs {
            let bits = |checkpoint: &Checkpoint| -> Vec<u32> {
                let weight = checkpoint.weight(&spec).unwrap().into_iter();
                weight.map(f32::to_bits).collect()
            };
            assert!(bits(&got) == bits(&want), "{} differs", spec.name);
        }
    }

    fn gguf_in(dir: &Path) -> std::path::PathBuf {
        let mut files = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files
            .find(|path| path.extension().is_some_and(|e| e == "gguf"))
            .unwrap()
    }

    #[test]
    fn a_checkpoint_leaves_in_each_plain_format_and_comes_back_bit_for_bit() {
        let workshop = Workshop::new();
        let args = [
            "export", "teacher", "--format", "gguf", "--dtype", "f32", "--json",
        ];
        let found = workshop.done(&args).json();
        assert_eq!(found["out"], "teacher-gguf");
        assert_eq!(found["export"]["max_logit_difference"], 0.0);
        assert!(
            found["export"]["positions"].as_u64().unwrap() > 1000,
            "{found}"
        );
        let file = gguf_in(&workshop.path("teacher-gguf"));
        assert_same_weights(&file, &workshop.path("teacher"));

        let gguf = file.display().to_string();
        let args = [
            "export",
            &gguf,
            "--format",
            "huggingface",
            "--dtype",
            "f32",
            "--out",
            "back/again",
        ];
        let ran = workshop.done(&args);
        assert!(
            ran.stdout.starts_with("back/again: huggingface, "),
            "{}",
            ran.stdout
        );
        assert_same_weights(&workshop.path("back/again"), &workshop.path("teacher"));
        let card = fs::read_to_string(workshop.path("back/again/README.md")).unwrap();
        for told in [
            "This made it:\n\n```sh\nalambic export teacher-F32.gguf --format huggingface --dtype f32\n```",
            "- `teacher-F32`: unknown: check before publishing",
            "## Verified",
            "With MLX",
        ] {
            assert!(card.contains(told), "{told}: {card}");
        }
        assert!(!workshop.path("back/again/recipe.yaml").exists());
        assert!(folders(&workshop.path("back"), ".partial").is_empty());
        let text = ["--text", "text/validation.txt", "--sequence-length", "32"];
        let found = workshop.done(&[&["evaluate", "back/again", "--json"][..], &text].concat());
        let want = workshop.done(&[&["evaluate", "teacher", "--json"][..], &text].concat());
        assert_eq!(found.json(), want.json());
    }

    #[test]
    fn a_pass_of_a_run_leaves_with_the_tokenizer_that_is_named() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml", "--set", "export.formats=[huggingface]"]);
        let pass = workshop
            .folder("out/chain", "03-distill")
            .display()
            .to_string();
        let args = [
            "export",
            &pass,
            "--format",
            "huggingface",
            "--dtype",
            "f32",
            "--out",
            "mine",
        ];
        workshop.fails(
            &args,
            2,
            &["has no tokenizer", "help: name one with `--tokenizer`"],
        );
        assert!(!workshop.path("mine").exists());
        workshop.done(&[&args[..], &["--tokenizer", "teacher"]].concat());
        let text = [
            "--text",
            "text/validation.txt",
            "--sequence-length",
            "32",
            "--json",
        ];
        let found = workshop
            .done(&[&["evaluate", "mine"][..], &text].concat())
            .json();
        let report = fs::read(workshop.path("out/chain/report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        let want = report["passes"][3]["loss_nats"].as_f64().unwrap();
        let got = found["loss_nats"].as_f64().unwrap();
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }

    #[test]
    fn nothing_is_written_over_what_is_there() {
        let workshop = Workshop::new();
        workshop.write("kept/file", b"mine");
        let before = files_below(&workshop.path(""));
        let args = [
            "export",
            "teacher",
            "--format",
            "huggingface",
            "--out",
            "kept",
        ];
        let needles = [
            "error[convert]: `kept` is there already, and nothing is written over it",
            "help: name another folder with `--out`, or delete `kept`",
        ];
        workshop.fails(&args, 2, &needles);
        assert_eq!(files_below(&workshop.path("")), before);
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_before_anything_is_written() {
        let workshop = Workshop::new();
        let before = files_below(&workshop.path(""));
        let fails = |args: &[&str], code, needles: &[&str]| {
            let args = [&["export"], args].concat();
            workshop.fails(&args, code, needles);
        };
        fails(
            &["text", "--format", "gguf"],
            2,
            &["error[checkpoint]: ", "config.json"],
        );
        fails(
            &["absent", "--format", "gguf"],
            2,
            &["error[checkpoint]: ", "absent"],
        );
        fails(
            &["teacher", "--format", "bmp"],
            2,
            &["[possible values: huggingface, "],
        );
        let keys = ["teacher", "--format", "gguf", "--export", "gguf_type=q9"];
        fails(
            &keys,
            2,
            &[
                "error[recipe/unknown-value]",
                "`gguf_type` must be",
                "gguf_type=q9",
            ],
        );
        let packed = ["teacher", "--format", "compressed-tensors"];
        fails(
            &packed,
            2,
            &[
                "holds weights on a grid",
                "help: `alambic quantize` puts them on one",
            ],
        );
        let inside = ["teacher", "--format", "gguf", "--out", "chain.yaml/inside"];
        fails(
            &inside,
            1,
            &["chain.yaml", "help: name another folder with `--out`"],
        );
        let text = ["teacher", "--format", "gguf", "--text", "absent.txt"];
        fails(&text, 2, &["error[data]: ", "absent.txt"]);
        assert_eq!(files_below(&workshop.path("")), before);
    }

    #[test]
    fn a_weight_that_is_no_number_is_named() {
        let workshop = Workshop::new();
        let path = workshop.path("teacher/model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        workshop.write("teacher/model.safetensors", &bytes);
        let args = ["export", "teacher", "--format", "gguf"];
        let needles = [
            "error[convert]: element ",
            " is NaN: the checkpoint is damaged",
        ];
        let told = workshop.fails(&args, 2, &needles);
        assert!(told.contains("of `model.norm.weight`"), "{told}");
        assert!(!workshop.path("teacher-gguf").exists());
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
        for format in ["huggingface", "gguf"] {
            let args = ["export", "teacher", "--format", format];
            let ran = run_with_room(&workshop, 20, &args);
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert_eq!(ran.stdout, "");
            for told in [
                "error[io]: ",
                "File too large",
                "help: make room, or name a folder on another disk",
            ] {
                assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
            }
            assert_eq!(files_below(&workshop.path("")), before);
            assert!(folders(&workshop.path(""), ".partial").is_empty());
        }
        workshop.done(&["export", "teacher", "--format", "gguf"]);
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
        let args = [
            "export",
            "teacher",
            "--format",
            "gguf",
            "--out",
            "locked/inside",
        ];
        let needles = [
            "Permission denied",
            "help: name another folder with `--out`",
        ];
        workshop.fails(&args, 1, &needles);
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_signal_ends_a_command_and_leaves_nothing_of_it() {
        let workshop = Workshop::new();
        let mut num_stopped = 0;
        for wait_ms in [5, 15, 30, 60, 100] {
            let child = workshop.start(&["export", "teacher", "--format", "gguf", "--out", "made"]);
            std::thread::sleep(std::time::Duration::from_millis(wait_ms));
            signal(&child, "INT");
            let ran = finished(child);
            assert!(folders(&workshop.path(""), ".partial").is_empty());
            if workshop.path("made").exists() {
                assert_eq!(ran.code, Some(0), "{}", ran.stderr);
                fs::remove_dir_all(workshop.path("made")).unwrap();
            } else {
                num_stopped += 1;
            }
        }
        assert!(num_stopped > 0);
    }
}
