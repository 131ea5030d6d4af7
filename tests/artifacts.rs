//! Keys tell what was read, and finished work is what was written: inputs that change under a run, results that are lost or
//! damaged, and links, pipes and locks in the place of files.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::{self, File};
    use std::mem::MaybeUninit;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command};

    use rustix::fs::inotify;
    use serde_json::Value;

    use crate::common::{
        PASSES, Ran, Workshop, assert_no_parts, assert_same_results, assert_whole, files_below,
        finished, folders, signal, until_it_waits, wait_for,
    };

    const RUN: [&str; 2] = ["run", "chain.yaml"];

    /// Folder of a stage of the chain, by the start of its name, as `plan` tells it.
    fn stage_dir(workshop: &Workshop, name: &str, sets: &[&str]) -> PathBuf {
        let plan = workshop.done(&[&["plan", "chain.yaml", "--json"], sets].concat());
        let plan: Value = plan.json();
        let stages = plan["stages"].as_array().unwrap();
        let is_it = |stage: &&Value| stage["name"].as_str().unwrap().starts_with(name);
        let stage = stages.iter().find(is_it).unwrap();
        PathBuf::from(stage["dir"].as_str().unwrap())
    }

    /// A run that has hashed its inputs and waits for the rows, which somebody else holds: what is done meanwhile is done
    /// between the hash and the use.
    fn while_waiting(
        workshop: &Workshop,
        sets: &[&str],
        meanwhile: impl FnOnce(&mut Child),
    ) -> Ran {
        let rows = stage_dir(workshop, "data", sets);
        fs::create_dir_all(&rows).unwrap();
        let held = File::create_new(rows.join(".lock"))
            .or_else(|_| File::options().append(true).open(rows.join(".lock")))
            .unwrap();
        held.lock().unwrap();
        let mut child = workshop.start(&[&RUN[..], sets].concat());
        let told = until_it_waits(&mut child);
        meanwhile(&mut child);
        drop(held);
        let rest: Vec<String> = told.map(Result::unwrap).collect();
        let ran = finished(child);
        Ran {
            stderr: rest.join("\n"),
            ..ran
        }
    }

    /// Another teacher of the same sizes, under another name.
    fn other_weights(workshop: &Workshop) -> Vec<u8> {
        let mut bytes = fs::read(workshop.path("teacher/model.safetensors")).unwrap();
        let end = bytes.len();
        for value in bytes[end - 4096..].chunks_exact_mut(4) {
            value.copy_from_slice(&0.01_f32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_teacher_that_is_replaced_after_it_was_hashed_is_not_captured_under_that_hash() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml", "--set", "output=whole"]);
        workshop.write("other.safetensors", &other_weights(&workshop));
        let ran = while_waiting(&workshop, &[], |_| {
            let (from, to) = ("other.safetensors", "teacher/model.safetensors");
            fs::rename(workshop.path(from), workshop.path(to)).unwrap();
        });
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_same_results(&workshop.path("out"), &workshop.path("whole"));
        let told = workshop.done(&RUN).stderr;
        assert!(told.contains("the teacher has changed"), "{told}");
        assert_eq!(folders(&workshop.path("out"), "cache-").len(), 2);
    }

    #[test]
    fn models_that_are_written_to_after_they_were_hashed_are_refused() {
        for (sets, file) in [
            (&[][..], "teacher/model.safetensors"),
            (
                &["--set", "student={checkpoint: student}"],
                "student/model.safetensors",
            ),
        ] {
            let workshop = Workshop::new();
            workshop.copy_files(&workshop.path("teacher"), "student");
            let other = other_weights(&workshop);
            let ran = while_waiting(&workshop, sets, |_| workshop.write(file, &other));
            assert_eq!(ran.code, Some(2), "{}", ran.stderr);
            let folder = Path::new(file).parent().unwrap().display();
            for told in [
                "error[run/input-changed]",
                &format!("{folder}` was written to while its weights were read"),
                "help: ",
            ] {
                assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
            }
            for pass in PASSES {
                assert!(folders(&workshop.path("out/chain"), pass).is_empty());
            }
            if sets.is_empty() {
                let cache = stage_dir(&workshop, "cache", &[]);
                assert!(!cache.exists(), "nothing of it is kept");
            }
        }
    }

    /// How often the files of a folder were opened meanwhile, by name, as the kernel counts.
    #[cfg(target_os = "linux")]
    fn num_opened(dir: &Path, meanwhile: impl FnOnce()) -> BTreeMap<String, usize> {
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        // Like events in a row are one: what closes stands between two that open.
        let events = inotify::WatchFlags::OPEN | inotify::WatchFlags::CLOSE_NOWRITE;
        inotify::add_watch(&inotify, dir, events).unwrap();
        meanwhile();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let mut counts = BTreeMap::new();
        while let Ok(event) = events.next() {
            assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW));
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let name = name.filter(|_| event.events().contains(inotify::ReadFlags::OPEN));
            if let Some(name) = name {
                *counts.entry(name.to_owned()).or_insert(0) += 1;
            }
        }
        counts
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_run_opens_the_headers_of_each_model_once() {
        let own = "student={checkpoint: teacher}";
        let given = "student={checkpoint: student}";
        let part = "student={from_teacher: {intermediate_size: 16, calibration_tokens: 64}}";
        let in_gguf = "teacher.checkpoint=gguf/teacher-F32.gguf";
        let along = [
            "passes=[distill: {steps: 2, losses: {forward_kl: 1.0, hidden_mse: 1.0}}]",
            "export={formats: [huggingface]}",
        ];
        let folder = &["config.json", "generation_config.json", "model.safetensors"][..];
        for (model, files, sets) in [
            ("teacher", folder, vec![]),
            ("teacher", folder, vec![own, along[0], along[1]]),
            ("teacher", folder, vec![given, along[0], along[1]]),
            ("student", folder, vec![given, along[0], along[1]]),
            ("teacher", folder, vec![part, along[0], along[1]]),
            ("gguf", &["teacher-F32.gguf"], vec![in_gguf, part]),
        ] {
            let workshop = Workshop::new();
            workshop.copy_files(&workshop.path("teacher"), "student");
            if model == "gguf" {
                let to_gguf = ["--format", "gguf", "--dtype", "f32", "--out", "gguf"];
                workshop.done(&[&["export", "teacher"], &to_gguf[..]].concat());
            }
            let sets: Vec<&str> = sets.iter().flat_map(|&set| ["--set", set]).collect();
            for command in ["plan", "run", "run"] {
                let args = [&[command, "chain.yaml"], sets.as_slice()].concat();
                let counts = num_opened(&workshop.path(model), || {
                    workshop.done(&args);
                });
                for &file in files {
                    assert_eq!(counts.get(file), Some(&1), "{args:?}: {file} of {counts:?}");
                }
            }
        }
    }

    #[test]
    fn texts_and_tokenizers_that_change_after_they_were_hashed_are_refused() {
        for (file, from, to, told) in [
            ("text/train.txt", "the", "thy", "the training text was"),
            (
                "text/validation.txt",
                "the",
                "thy",
                "the validation text was",
            ),
            (
                "teacher/tokenizer.json",
                "null",
                " null",
                "the tokenizer were",
            ),
        ] {
            let workshop = Workshop::new();
            let text = fs::read_to_string(workshop.path(file)).unwrap();
            let other = text.replacen(from, to, 1);
            assert_ne!(text, other);
            let ran = while_waiting(&workshop, &[], |_| workshop.write(file, other.as_bytes()));
            assert_eq!(ran.code, Some(2), "{file}: {}", ran.stderr);
            assert!(
                ran.stderr.contains("error[run/input-changed]"),
                "{}",
                ran.stderr
            );
            assert!(ran.stderr.contains(told), "{}", ran.stderr);
            let artifacts = files_below(&workshop.path("out")).into_keys();
            let sealed: Vec<_> = artifacts
                .filter(|path| path.ends_with("artifact.json"))
                .collect();
            assert!(sealed.is_empty(), "{sealed:?}");
        }
    }

    #[test]
    fn waiting_for_another_run_ends_on_a_signal() {
        let workshop = Workshop::new();
        let ran = while_waiting(&workshop, &[], |child| {
            signal(child, "TERM");
            wait_for("end", || child.try_wait().unwrap().is_some());
        });
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        workshop.done(&RUN);
    }

    /// Overwrites one byte, keeping length and time of change.
    fn flip(path: &Path, offset: usize) {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let mut bytes = fs::read(path).unwrap();
        bytes[offset] ^= 1;
        let file = File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        file.set_modified(modified).unwrap();
    }

    #[test]
    fn what_is_lost_or_damaged_of_a_finished_run_is_named_and_made_again() {
        let workshop = Workshop::new();
        workshop.done(&RUN);
        workshop.done(&["run", "chain.yaml", "--set", "output=whole"]);
        let out = workshop.path("out");
        let before = files_below(&out.join("chain"));
        let told = workshop.done(&RUN).stderr;
        for done in PASSES {
            assert!(told.contains(&format!("{done}: done")), "{told}");
        }
        assert!(told.contains("05-export: done"), "{told}");

        // What is lost whole, or has a byte of it flipped.
        for (name, file, flipped) in [
            ("05-export", "huggingface/README.md", None),
            (
                "05-export",
                "compressed-tensors/model.safetensors",
                Some(2000),
            ),
            ("05-export", "artifact.json", Some(40)),
            ("03-distill", "student.safetensors", Some(5000)),
            ("01-distill", "metrics.jsonl", None),
            ("00-teacher", "artifact.json", Some(30)),
        ] {
            let path = stage_dir(&workshop, name, &[]).join(file);
            let what = if let Some(offset) = flipped {
                flip(&path, offset);
                format!("{file}` was changed since it was written")
            } else if file.contains('/') {
                fs::remove_dir_all(path.parent().unwrap()).unwrap();
                format!("{file}` is missing")
            } else {
                fs::remove_file(&path).unwrap();
                format!("{file}` is missing")
            };
            assert_made_again(&workshop, name, &what);
        }
        assert!(before.keys().eq(files_below(&out.join("chain")).keys()));
        assert_no_parts(&out);
    }

    /// The chain is told as damaged, by `plan` too, and runs to the same results; afterwards it is done.
    fn assert_made_again(workshop: &Workshop, name: &str, what: &str) {
        let told = format!("{name} runs again, because its `{what}");
        let plan = workshop.done(&["plan", "chain.yaml"]).stdout;
        assert!(plan.contains(&told), "{told}: {plan}");
        let ran = workshop.done(&RUN).stderr;
        let told = format!("{name}: running again, because its `{what}");
        assert!(ran.contains(&told), "{told}: {ran}");
        assert_eq!(ran.matches("running again").count(), 1, "{ran}");
        assert_same_results(&workshop.path("out"), &workshop.path("whole"));
        assert_whole(&workshop.path("out/chain"));
        let again = workshop.done(&RUN).stderr;
        assert!(
            !again.contains("running again") && !again.contains("runs again"),
            "{again}"
        );
    }

    #[test]
    fn rows_and_shards_that_are_lost_are_told_by_plan_and_named_by_run() {
        let workshop = Workshop::new();
        workshop.done(&RUN);
        workshop.done(&["run", "chain.yaml", "--set", "output=whole"]);
        let lost = |stage: &str, prefix: &str| {
            let dir = stage_dir(&workshop, stage, &[]);
            let found = files_below(&dir).into_keys();
            let mut found = found.filter(|path| path.to_string_lossy().contains(prefix));
            let path = found.next().unwrap();
            fs::remove_file(dir.join(&path)).unwrap();
            path.display().to_string()
        };
        for (stage, prefix) in [
            ("cache", "train/shard-00001"),
            ("cache", "validation/manifest"),
            ("data", "rows-"),
            ("data", "artifact"),
        ] {
            let file = lost(stage, prefix);
            let told = format!("its `{file}` is missing");
            if file != "artifact.json" {
                let plan = workshop.done(&["plan", "chain.yaml"]).stdout;
                let line = plan.lines().find(|line| line.starts_with(stage)).unwrap();
                assert!(line.contains(" no "), "{plan}");
                assert!(
                    plan.contains(&format!("{stage} runs again, because {told}")),
                    "{plan}"
                );
                let ran = workshop.done(&RUN).stderr;
                assert!(
                    ran.contains(&format!("{stage}: running again, because {told}")),
                    "{ran}"
                );
            }
            workshop.done(&RUN);
            assert_same_results(&workshop.path("out"), &workshop.path("whole"));
            let again = workshop.done(&RUN).stderr;
            assert!(
                !again.contains("running again") && !again.contains("runs again"),
                "{again}"
            );
        }
    }

    #[test]
    fn other_things_in_the_place_of_results_are_told_at_once_or_made_good() {
        let workshop = Workshop::new();
        workshop.done(&RUN);
        let dir = |name: &str| stage_dir(&workshop, name, &[]);
        let relative = |path: &Path| {
            let inside = path.strip_prefix(workshop.path("")).unwrap();
            inside.to_str().unwrap().to_owned()
        };
        let stderr = || workshop.done(&RUN).stderr;

        let export = dir("05-export");
        fs::remove_dir_all(export.join("huggingface")).unwrap();
        workshop.write(&relative(&export.join("huggingface")), b"a file");
        let told = stderr();
        assert!(
            told.contains("05-export: running again, because its `huggingface/"),
            "{told}"
        );

        let prune = dir("02-prune");
        fs::remove_file(prune.join("artifact.json")).unwrap();
        let told = stderr();
        assert!(
            told.contains("02-prune: running again, because its `artifact.json` is missing"),
            "{told}"
        );
        fs::remove_file(prune.join("artifact.json")).unwrap();
        fs::create_dir_all(prune.join("artifact.json/inside")).unwrap();
        let told = stderr();
        assert!(
            told.contains("02-prune: running again, because its `artifact.json` was changed"),
            "{told}"
        );

        fs::remove_file(workshop.path("out/hashes.json")).unwrap();
        fs::create_dir_all(workshop.path("out/hashes.json/inside")).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3)); // inputs are old enough to be remembered
        let told = stderr();
        assert!(told.contains("hashes are not remembered"), "{told}");

        fs::remove_dir_all(&prune).unwrap();
        workshop.write(&relative(&prune), b"a file");
        let told = workshop.fails(&RUN, 1, &["error[io]", "02-prune", "remove it"]);
        assert!(!told.contains("tokens/s"), "{told}");
        fs::remove_file(&prune).unwrap();
        let name = prune.file_name().unwrap().to_str().unwrap();
        let unfinished = workshop.path(&format!("out/chain/unfinished-{name}"));
        fs::create_dir_all(&unfinished).unwrap();
        symlink(workshop.path("text"), unfinished.join("inside")).unwrap();
        workshop.fails(
            &RUN,
            1,
            &["error[io]", "inside", "a symbolic link is in the place"],
        );
        fs::remove_file(unfinished.join("inside")).unwrap();
        stderr();
    }

    #[test]
    fn a_run_waits_for_another_that_captures_the_same_cache() {
        let workshop = Workshop::new();
        workshop.done(&["cache", "build", "chain.yaml"]);
        let cache = stage_dir(&workshop, "cache", &[]);
        let shard = cache.join("train/shard-00001.parquet");
        fs::remove_file(shard).unwrap();
        let held = File::open(cache.join("train")).unwrap();
        held.lock().unwrap();
        let mut child = workshop.start(&RUN);
        let told = until_it_waits(&mut child);
        drop(held);
        let rest: Vec<String> = told.map(Result::unwrap).collect();
        assert_eq!(finished(child).code, Some(0), "{rest:?}");
    }

    #[test]
    fn settings_of_a_tokenizer_that_are_no_json_are_refused_before_any_work() {
        let workshop = Workshop::new();
        workshop.write("teacher/tokenizer_config.json", b"[1,2");
        for command in ["run", "plan"] {
            let told = workshop.fails(
                &[command, "chain.yaml"],
                2,
                &["teacher/tokenizer_config.json: not the settings of a tokenizer"],
            );
            assert!(!told.contains("tokens/s"), "{told}");
        }
        assert!(!workshop.path("out").exists());
    }

    #[test]
    fn verify_reads_what_length_times_and_inode_vouch_for() {
        let workshop = Workshop::new();
        workshop.done(&RUN);
        let memory = workshop.path("out/hashes.json");
        let record = |hash: &str| {
            let text = fs::read_to_string(&memory).unwrap();
            let mut memory: Value = serde_json::from_str(&text).unwrap();
            let entries = memory["entries"].as_array_mut().unwrap();
            let entry = entries.iter_mut().find(|entry| entry["blake3"] == hash);
            entry.map(|entry| std::mem::take(&mut entry["files"]))
        };
        let dir = stage_dir(&workshop, "05-export", &[]);
        let weights = dir.join("huggingface/model.safetensors");
        let hash = alambic::files::hash_file(&weights).unwrap();
        assert!(record(&hash).is_some(), "what was written is remembered");

        // A disk that gives back other bytes under the same inode and times, as far as a test can make one.
        flip(&weights, 3000);
        let flipped = alambic::files::hash_file(&weights).unwrap();
        let identity = alambic::hashes::Identity::of(&fs::metadata(&weights).unwrap());
        let text = fs::read_to_string(&memory).unwrap();
        let mut stored: Value = serde_json::from_str(&text).unwrap();
        let entries = stored["entries"].as_array_mut().unwrap();
        let entry = entries
            .iter_mut()
            .find(|entry| entry["blake3"] == hash.as_str());
        entry.unwrap()["files"][0][1] = serde_json::to_value(identity).unwrap();
        workshop.write("out/hashes.json", stored.to_string().as_bytes());
        assert!(workshop.done(&RUN).stderr.contains("05-export: done"));
        let told = workshop.done(&["run", "chain.yaml", "--verify"]).stderr;
        let what = "05-export: running again, because its `huggingface/model.safetensors` was changed since it was written";
        assert!(told.contains(what), "{told}");
        let mended = alambic::files::hash_file(&weights).unwrap();
        assert_eq!(mended, hash);
        assert_ne!(mended, flipped);
    }

    #[test]
    fn links_where_alambic_writes_are_refused_or_replaced_and_never_followed() {
        let workshop = Workshop::new();
        let (prune, run_dir) = (stage_dir(&workshop, "02-prune", &[]), "out/chain");
        fs::create_dir_all(workshop.path(run_dir)).unwrap();
        workshop.write("elsewhere/precious.txt", b"precious");
        let outside = workshop.path("elsewhere");
        let name = prune.file_name().unwrap().to_str().unwrap();
        let link = workshop.path(&format!("{run_dir}/unfinished-{name}"));
        symlink(&outside, &link).unwrap();
        for old in [".partial-report.md", "report.md"] {
            let place = workshop.path(&format!("{run_dir}/{old}"));
            symlink(outside.join("precious.txt"), place).unwrap();
        }
        let told = "a symbolic link is in the place of a file or folder that alambic writes";
        workshop.fails(&RUN, 1, &["error[io]", name, told]);
        fs::remove_file(&link).unwrap();
        workshop.done(&RUN);
        let report = workshop.path("out/chain/report.md");
        assert!(fs::symlink_metadata(report).unwrap().is_file());
        assert!(
            files_below(&outside)
                .into_keys()
                .eq([PathBuf::from("precious.txt")])
        );
        assert_eq!(fs::read(outside.join("precious.txt")).unwrap(), b"precious");

        fs::remove_file(workshop.path("out/chain/.lock")).unwrap();
        symlink(outside.join("new"), workshop.path("out/chain/.lock")).unwrap();
        workshop.fails(&RUN, 1, &["error[io]", ".lock", told]);
        assert!(!outside.join("new").exists());
    }

    #[test]
    fn pipes_in_the_place_of_files_are_refused_at_once() {
        for (file, args) in [
            ("chain.yaml", &RUN[..]),
            ("text/train.txt", &RUN),
            ("teacher/config.json", &RUN),
            ("teacher/model.safetensors", &RUN),
            ("teacher/tokenizer.json", &RUN),
            ("teacher/tokenizer_config.json", &RUN),
            (
                "teacher/tokenizer.json",
                &["generate", "teacher", "--prompt", "a"],
            ),
            ("teacher/model.safetensors", &["inspect", "teacher"]),
            (
                "text/train.txt",
                &["evaluate", "teacher", "--text", "text/train.txt"],
            ),
        ] {
            let workshop = Workshop::new();
            let path = workshop.path(file);
            fs::remove_file(&path).unwrap();
            assert!(
                Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .unwrap()
                    .success()
            );
            let mut child = workshop.start(args);
            for _ in 0..600 {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            let is_waiting = child.try_wait().unwrap().is_none();
            let _ = child.kill();
            let ran = finished(child);
            assert!(!is_waiting, "{file} of {args:?} is waited for");
            assert_eq!(ran.code, Some(2), "{file} of {args:?}: {}", ran.stderr);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(ran.stderr.contains(name), "{}", ran.stderr);
        }
    }
}
