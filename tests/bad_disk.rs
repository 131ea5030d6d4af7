//! Damaged caches, full and read-only disks, losses that are no numbers: the run fails, says where, and loses nothing.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::SystemTime;

    use alambic::train::state::newest;

    use crate::common::{
        PASSES, Ran, Workshop, assert_same_results, assert_whole, files_below, folders, wait_for,
    };

    /// The cache of the chain, built.
    fn built(workshop: &Workshop) -> PathBuf {
        workshop.done(&["cache", "build", "chain.yaml"]);
        workshop.folder("out", "cache")
    }

    fn assert_no_pass(workshop: &Workshop) {
        for pass in PASSES {
            let found = folders(&workshop.path("out/chain"), pass);
            assert!(found.is_empty(), "{found:?}");
        }
    }

    fn is_root() -> bool {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
        fs::create_dir(dir.path().join("a")).is_ok()
    }

    #[test]
    fn a_cache_made_from_something_else_is_refused_with_the_field_that_differs() {
        let workshop = Workshop::new();
        let train = built(&workshop).join("train");
        let manifest = fs::read_to_string(train.join("manifest.json")).unwrap();
        let value = |field: &str| {
            let (_, after) = manifest.split_once(&format!("\"{field}\": ")).unwrap();
            after.split(',').next().unwrap().to_owned()
        };
        let relative = train.strip_prefix(workshop.path("")).unwrap();
        let relative = relative.join("manifest.json").display().to_string();
        for field in ["teacher_weights", "tokenizer", "sequence_length"] {
            let own = value(field);
            let foreign = if own.starts_with('"') {
                format!("\"{}\"", "0123456789abcdef".repeat(4))
            } else {
                "8".to_owned()
            };
            let key = |value: &str| format!("\"{field}\": {value},");
            let edited = manifest.replacen(&key(&own), &key(&foreign), 1);
            assert_ne!(edited, manifest, "{field}");
            workshop.write(&relative, edited.as_bytes());
            let told = format!("has another fingerprint: `{field}` is ");
            let help = "help: delete `";
            for command in [&["run"][..], &["cache", "build"]] {
                let args = [command, &["chain.yaml"]].concat();
                workshop.fails(&args, 2, &["error[cache]", &told, "is wanted", help]);
            }
            assert_no_pass(&workshop);
        }
        workshop.write(&relative, manifest.as_bytes());
        workshop.done(&["run", "chain.yaml"]);
    }

    #[test]
    fn the_cache_of_another_text_is_refused_also_under_the_right_name() {
        let workshop = Workshop::new();
        let train = built(&workshop).join("train");
        let other = ["cache", "build", "chain.yaml", "--set"];
        let swapped = "data.train=[text/validation.txt]";
        workshop.done(&[&other[..], &[swapped, "--set", "output=other"]].concat());
        let source = workshop.folder("other", "cache").join("train");
        fs::remove_dir_all(&train).unwrap();
        let relative = train.strip_prefix(workshop.path("")).unwrap();
        workshop.copy_files(&source, relative.to_str().unwrap());
        let needles = [
            "error[cache]",
            "rows 0 to 31 in ",
            "were captured from other tokens",
            "help: delete `",
        ];
        workshop.fails(&["run", "chain.yaml"], 2, &needles);
        assert_no_pass(&workshop);
    }

    /// Times at which the shards of a cache were written.
    fn times(cache: &Path) -> BTreeMap<PathBuf, SystemTime> {
        let mut files = files_below(cache);
        files.retain(|path, _| path.extension().is_some_and(|e| e == "parquet"));
        files
            .into_iter()
            .map(|(path, (_, modified))| (path, modified))
            .collect()
    }

    #[test]
    fn a_damaged_shard_is_named_and_captured_again_and_no_other() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml", "--set", "output=whole"]);
        let cache = built(&workshop);
        let name = "train/shard-00002.parquet";
        let shard = cache.join(name);
        let relative = shard.strip_prefix(workshop.path("")).unwrap();
        let relative = relative.to_str().unwrap();
        let bytes = fs::read(&shard).unwrap();
        let mut flipped = bytes.clone();
        let middle = bytes.len() / 2;
        flipped[middle] ^= 1;

        let warning = format!("warning: shard `{}` has ", shard.display());
        for (bad, told) in [
            (&flipped[..], "BLAKE3 "),
            (&bytes[..100], "100 bytes, the manifest lists "),
        ] {
            workshop.write(relative, bad);
            let dir = cache.display().to_string();
            workshop.fails(
                &["cache", "verify", &dir],
                2,
                &[name, told, "help: delete `"],
            );
            let before = times(&cache);
            let ran = workshop.done(&["run", "chain.yaml"]);
            assert!(
                ran.stderr.contains(&format!("{warning}{told}")),
                "{}",
                ran.stderr
            );
            let after = times(&cache);
            assert_eq!(after.len(), before.len());
            for (path, modified) in before {
                let is_same = after[&path] == modified;
                assert_eq!(is_same, !path.ends_with(name), "{}", path.display());
            }
            assert_same_results(&workshop.path("out"), &workshop.path("whole"));
        }
    }

    /// With so few file handles that reading fails in one place after the other, a run says so, and no more: what is whole is
    /// neither called damaged, nor made again.
    #[test]
    fn a_run_without_file_handles_takes_nothing_that_is_whole_for_damaged() {
        let workshop = Workshop::new();
        let ran = workshop.done(&["run", "chain.yaml"]);
        let before = files_below(&workshop.path("out"));
        let limited = |handles: usize| -> Ran {
            let binary = env!("CARGO_BIN_EXE_alambic");
            let script =
                format!("ulimit -n {handles}; exec {binary} run chain.yaml --verify --set seed=4");
            let mut command = Command::new("sh");
            let command = command.args(["-c", &script]).current_dir(workshop.path(""));
            command.output().unwrap().into()
        };
        let mut num_failed = 0;
        for handles in (4..40).step_by(3) {
            let Ran { code, stderr, .. } = limited(handles);
            if code == Some(0) {
                break;
            }
            num_failed += 1;
            for wrong in [
                "damaged",
                "delete `",
                "was changed",
                "missing",
                "running again, because its",
            ] {
                assert!(!stderr.contains(wrong), "{handles} handles: {stderr}");
            }
        }
        assert!(num_failed > 0, "{}", ran.stderr);
        let after = files_below(&workshop.path("out"));
        for (path, (bytes, modified)) in before {
            let is_shared =
                path.starts_with(PathBuf::from("chain")) || path.ends_with("manifest.json");
            if is_shared && path.components().count() > 2 {
                assert!(after[&path] == (bytes, modified), "{}", path.display());
            }
        }
    }

    /// Runs the chain where no file may grow beyond a number of 512-byte blocks, as on a disk that is full.
    fn run_with_room(workshop: &Workshop, blocks: usize, sets: &[&str]) -> Ran {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" run chain.yaml \"$@\"");
        let mut command = Command::new("sh");
        command.current_dir(workshop.path("")).arg("-c").arg(script);
        command.arg(env!("CARGO_BIN_EXE_alambic"));
        for set in sets {
            command.args(["--set", set]);
        }
        command.output().unwrap().into()
    }

    #[test]
    fn a_full_disk_fails_the_run_by_the_name_of_the_file_and_room_lets_it_go_on() {
        let workshop = Workshop::new();
        // In kB: rows 35, the larger shard 75, weights 120, a state 360.
        let sets = [
            "student.architecture.intermediate_size=512",
            "cache.rows_per_shard=192",
        ];
        let args = ["run", "chain.yaml", "--set", sets[0], "--set", sets[1]];
        workshop.done(&[&args[..], &["--set", "output=whole"]].concat());
        let help = "help: make room and run the same command: what is complete is kept";
        for (blocks, set, path) in [
            (20, "seed=3", "/rows-"),
            (100, "seed=3", ".parquet"),
            (200, "seed=3", "/state-0000000004.safetensors"),
            (200, "distill.save_every=100", "/student.safetensors"),
        ] {
            let sets = [&sets[..], &[set]].concat();
            let ran = run_with_room(&workshop, blocks, &sets);
            assert_eq!(ran.code, Some(1), "{blocks} blocks: {}", ran.stderr);
            assert_eq!(ran.stdout, "");
            let message = ran.stderr.split("error[").nth(1).unwrap();
            assert!(message.starts_with("io]: "), "{message}");
            assert!(
                message.contains(path) && message.contains(help),
                "{message}"
            );
            assert_no_pass(&workshop);
            for file in files_below(&workshop.path("out")).into_keys() {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                assert!(!name.starts_with(".partial-"), "{}", file.display());
                let inside = file.to_string_lossy().contains("unfinished-");
                assert!(!(inside && name == "artifact.json"), "{}", file.display());
            }
        }
        let ran = workshop.done(&args);
        assert!(ran.stderr.contains("data: done"), "{}", ran.stderr);
        assert!(ran.stderr.contains("cache: done"), "{}", ran.stderr);
        assert_same_results(&workshop.path("out"), &workshop.path("whole"));
    }

    #[test]
    fn a_run_larger_than_the_disk_is_refused_before_any_work() {
        let workshop = Workshop::new();
        let vast = [
            "run",
            "chain.yaml",
            "--set",
            "student.architecture.num_hidden_layers=1024",
            "--set",
            "student.architecture.hidden_size=262144",
            "--set",
            "student.architecture.intermediate_size=262144",
        ];
        let needles = [
            "error[run/disk]: the run needs about ",
            ", but the disk has ",
            "help: free some space, or name a folder on another disk",
        ];
        workshop.fails(&vast, 2, &needles);
        assert!(!workshop.path("out").exists());
    }

    #[test]
    fn an_output_that_cannot_be_a_folder_is_refused_before_any_work() {
        let workshop = Workshop::new();
        let before = files_below(&workshop.path(""));
        for command in [&["run"][..], &["plan"], &["cache", "build"]] {
            let args = [command, &["chain.yaml", "--set", "output=chain.yaml"]].concat();
            let told = "`chain.yaml` is not a folder";
            workshop.fails(&args, 2, &["error[recipe/no-such-path]", told, "^^^^"]);
            let inside = "output=chain.yaml/inside";
            let args = [command, &["chain.yaml", "--set", inside]].concat();
            let told = "chain.yaml/inside` cannot be written to: Not a directory";
            let help = "help: name another folder";
            workshop.fails(&args, 2, &["error[run/read-only]", told, "^^^^", help]);
        }
        assert!(before.keys().eq(files_below(&workshop.path("")).keys()));
    }

    #[test]
    fn a_read_only_output_folder_is_refused_before_any_work() {
        if is_root() {
            println!("skipped: nothing is read-only to root");
            return;
        }
        let workshop = Workshop::new();
        let locked = workshop.path("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
        for output in ["locked", "locked/deep/inside"] {
            let set = format!("output={output}");
            let told = format!("{output}` cannot be written to: Permission denied");
            let help = "help: name another folder";
            let args = ["run", "chain.yaml", "--set", &set];
            workshop.fails(&args, 2, &["error[run/read-only]", &told, help]);
        }
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(fs::read_dir(&locked).unwrap().count(), 0);
    }

    /// The state of an unfinished pass.
    fn state(run_dir: &Path, pass: &str) -> Vec<u8> {
        let partial = folders(run_dir, &format!("unfinished-{pass}"));
        assert_eq!(partial.len(), 1, "{partial:?}");
        assert!(!partial[0].join("artifact.json").exists());
        fs::read(newest(&partial[0]).unwrap()).unwrap()
    }

    #[test]
    fn a_loss_that_is_no_number_names_the_step_and_leaves_the_last_state_intact() {
        let workshop = Workshop::new();
        // A decay of this size overthrows the weights in the first update, so the second step cannot be taken.
        let ruin = "passes.0.distill.weight_decay=1e38";
        let args = [
            "run",
            "chain.yaml",
            "--set",
            ruin,
            "--set",
            "distill.save_every=1",
        ];
        let needles = [
            "error[train/not-finite]: the ",
            " at step 1 of pass 01-distill; the last saved state, ",
            "/state-0000000001.safetensors, is intact",
            "help: run again with a smaller `learning_rate`",
        ];
        let run_dir = workshop.path("out/chain");
        workshop.fails(&args, 1, &needles);
        let left = state(&run_dir, "01-distill");
        workshop.fails(&args, 1, &needles);
        assert_eq!(
            state(&run_dir, "01-distill"),
            left,
            "the state did not move"
        );
        assert_no_pass(&workshop);

        let args = ["run", "chain.yaml", "--set", ruin];
        let needles = ["at step 1 of pass 01-distill"];
        workshop.fails(&args, 1, &needles);
        workshop.done(&["run", "chain.yaml"]);
        assert_whole(&run_dir);
    }

    #[test]
    fn a_damaged_state_is_named_and_the_one_before_it_taken_up() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml", "--set", "output=whole"]);
        let args = ["run", "chain.yaml"];
        let stopped = |num_states: usize| {
            let mut child = workshop.start(&args);
            let partial = || folders(&workshop.path("out/chain"), "unfinished-01-distill").pop();
            // Names alone: the run replaces its files while they are listed.
            let states = || {
                let entries = partial().and_then(|dir| fs::read_dir(dir).ok());
                let names = entries.into_iter().flatten().filter_map(Result::ok);
                let mut names: Vec<_> = names.map(|entry| entry.file_name()).collect();
                names.retain(|name| name.to_string_lossy().starts_with("state-"));
                names.sort();
                names
            };
            wait_for("states", || states().len() >= num_states);
            child.kill().unwrap();
            child.wait().unwrap();
            let dir = partial().unwrap();
            states()
                .into_iter()
                .map(move |name| dir.join(name))
                .collect::<Vec<PathBuf>>()
        };
        let states = stopped(2);
        let damage = |path: &Path| {
            let relative = path.strip_prefix(workshop.path("")).unwrap();
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            workshop.write(relative.to_str().unwrap(), &bytes);
        };
        let newest = states.last().unwrap();
        damage(newest);
        let ran = workshop.done(&args);
        let told = format!(
            "warning: {} is damaged (the checksum does not match): resuming from the state before it, after ",
            newest.display()
        );
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
        assert_same_results(&workshop.path("out"), &workshop.path("whole"));

        fs::remove_dir_all(workshop.path("out")).unwrap();
        for path in stopped(2) {
            damage(&path);
        }
        let needles = [
            "error[train/state]: ",
            "the checksum does not match; delete the folder",
        ];
        workshop.fails(&args, 2, &needles);
    }
}
