//! The command line: help texts, exit codes, and which stream gets what.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Stdio;

    use alambic::cli::Cli;
    use alambic::device;
    use clap::Parser;

    use crate::common::Workshop;

    /// Every command, as it is typed.
    const COMMANDS: [&str; 26] = [
        "",
        "new",
        "run",
        "plan",
        "compare",
        "clean",
        "cache",
        "cache build",
        "cache merge",
        "cache bench",
        "cache stat",
        "cache verify",
        "data",
        "data show",
        "data build",
        "data render",
        "fetch",
        "export",
        "quantize",
        "evaluate",
        "generate",
        "inspect",
        "schema",
        "completions",
        "man",
        "help",
    ];

    fn help(workshop: &Workshop, command: &str) -> String {
        let mut args: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
        args.push("--help");
        workshop.done(&args).stdout
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        let workshop = Workshop::empty();
        let mut command = workshop.command(&["schema"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
    }

    #[test]
    fn the_help_of_every_command_is_as_in_its_snapshot() {
        let workshop = Workshop::empty();
        for command in COMMANDS.iter().filter(|command| **command != "help") {
            let name = format!("help {command}").trim_end().replace(' ', "_");
            insta::assert_snapshot!(name, help(&workshop, command));
        }
    }

    #[test]
    fn the_help_lists_every_command_that_has_a_snapshot_and_no_other() {
        let workshop = Workshop::empty();
        let listed = |command: &str| -> Vec<String> {
            let help = help(&workshop, command);
            let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
            lines
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
                .collect()
        };
        let want: Vec<&str> = COMMANDS
            .into_iter()
            .filter(|command| !command.is_empty() && !command.contains(' '))
            .collect();
        assert_eq!(listed(""), want);
        assert_eq!(
            listed("cache"),
            ["build", "merge", "bench", "stat", "verify", "help"]
        );
        assert_eq!(listed("data"), ["show", "build", "render", "help"]);
    }

    /// Words of a command line whose only quotes are single ones.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (part_idx, part) in line.split('\'').enumerate() {
            if part_idx % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn every_help_has_examples_that_can_be_parsed() {
        let workshop = Workshop::empty();
        for command in COMMANDS.iter().filter(|command| **command != "help") {
            let help = help(&workshop, command);
            let (_, examples) = help.split_once("\nExamples:\n").expect(command);
            let lines = examples.lines().take_while(|line| !line.is_empty());
            let lines: Vec<&str> = lines.collect();
            assert!(!lines.is_empty(), "{command}");
            for line in lines {
                let (line, _) = line.split_once(" > ").unwrap_or((line, ""));
                let parsed = Cli::try_parse_from(words(line));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                assert!(
                    line.trim().starts_with(&format!("alambic {command}")),
                    "{line}"
                );
            }
        }
    }

    #[test]
    fn the_version_names_the_package_the_commit_and_the_features() {
        let workshop = Workshop::empty();
        let version = workshop.done(&["--version"]).stdout;
        let begin = concat!("alambic ", env!("CARGO_PKG_VERSION"), " (");
        let build = version.strip_prefix(begin).unwrap();
        let build = build.strip_suffix(")\n").unwrap();
        let features = build.split_once(", ").map_or(build, |(commit, features)| {
            let is_hash =
                commit.len() >= 9 && commit.chars().all(|letter| letter.is_ascii_hexdigit());
            assert!(is_hash, "{version}");
            features
        });
        let mut linked = device::linked();
        linked.sort_unstable();
        let mut named: Vec<&str> = features.split(' ').collect();
        named.sort_unstable();
        assert_eq!(named, linked);
    }

    #[test]
    fn completions_know_the_commands_and_their_words() {
        let workshop = Workshop::empty();
        for shell in ["bash", "zsh", "fish"] {
            let script = workshop.done(&["completions", shell]).stdout;
            for word in ["quantize", "--over-memory", "compressed-tensors"] {
                let word = if shell == "fish" {
                    word.trim_start_matches('-')
                } else {
                    word
                };
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        workshop.fails(&["completions", "cmd"], 2, &["invalid value 'cmd'"]);
    }

    #[test]
    fn every_command_has_a_man_page() {
        let workshop = Workshop::empty();
        workshop.done(&["man", "share/man1"]);
        for command in COMMANDS.iter().filter(|command| **command != "help") {
            let name = format!("alambic {command}").trim_end().replace(' ', "-");
            let page = fs::read_to_string(workshop.path(&format!("share/man1/{name}.1"))).unwrap();
            assert!(page.contains(".SH NAME"), "{name}");
            assert!(page.contains("Examples:"), "{name}");
        }
    }

    #[test]
    fn colours_follow_the_environment() {
        let workshop = Workshop::empty();
        let stderr = |variables: &[(&str, &str)], args: &[&str]| {
            let mut command = workshop.command(args);
            command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
            let output = command.envs(variables.iter().copied()).output().unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        for args in [["plan", "absent.yaml"], ["inspect", "absent"]] {
            assert!(
                !stderr(&[], &args).contains('\u{1b}'),
                "no terminal, no colours"
            );
            assert!(stderr(&[("CLICOLOR_FORCE", "1")], &args).contains("\u{1b}["));
            assert!(!stderr(&[("NO_COLOR", "1")], &args).contains('\u{1b}'));
        }
    }

    #[test]
    fn a_log_has_progress_notes_and_errors_with_their_times() {
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml", "--quiet", "--log", "run.log"]);
        workshop.fails(&["plan", "absent.yaml", "--log", "run.log"], 2, &[]);
        let log = fs::read_to_string(workshop.path("run.log")).unwrap();
        for line in log.lines() {
            let (time, _) = line.split_once(' ').unwrap();
            assert_eq!(time.len(), "2026-01-02T03:04:05Z".len(), "{line}");
            assert!(time.ends_with('Z') && time.starts_with("20"), "{line}");
        }
        for needle in [
            " data: made, ",
            " 01-distill: 100 %",
            " 05-export: verified, in ",
            " error[recipe/unreadable]: absent.yaml",
        ] {
            assert!(log.contains(needle), "{needle}: {log}");
        }
        assert!(!log.contains('\u{1b}'), "{log}");
        let args = ["plan", "chain.yaml", "--log", "text"];
        workshop.fails(&args, 2, &["error[cli/log]: text: "]);
    }

    #[test]
    fn what_cannot_be_parsed_exits_with_2_and_prints_no_data() {
        let workshop = Workshop::empty();
        for (args, needle) in [
            (&["destill"][..], "unrecognized subcommand 'destill'"),
            (&[], "Usage: alambic"),
            (&["run"], "<RECIPE>"),
            (&["run", "a.yaml", "--frob"], "unexpected argument '--frob'"),
            (&["cache", "purge"], "unrecognized subcommand 'purge'"),
            (
                &["generate", "a", "--prompt", "b", "--seed", "x"],
                "invalid value 'x' for '--seed <SEED>'",
            ),
            (&["evaluate", "teacher"], "--text <TEXT>"),
            (
                &["evaluate", "a", "--text", "b", "--sequence-length", "0"],
                "0 is not in 1..",
            ),
            (
                &["run", "absent.yaml"],
                "error[recipe/unreadable]: absent.yaml: ",
            ),
            (&["evaluate", "absent", "--text", "b"], "absent/config.json"),
        ] {
            workshop.fails(args, 2, &[needle]);
        }
    }

    #[test]
    fn a_device_that_is_not_linked_or_known_says_how_to_get_one() {
        let workshop = Workshop::new();
        let linked = device::linked();
        let missing = device::DEVICE_NAMES
            .into_iter()
            .find(|name| !linked.contains(name));
        if let Some(name) = missing {
            let told = format!("error[device]: device `{name}` is not linked into this binary");
            let build = format!("cargo build --release --features {name}");
            let needles = [told.as_str(), &build];
            workshop.fails(&["run", "chain.yaml", "--device", name], 2, &needles);
            let key = format!("device={name}");
            workshop.fails(&["plan", "chain.yaml", "--set", &key], 2, &needles);
            let text = ["--text", "text", "--device", name];
            workshop.fails(&[&["evaluate", "teacher"][..], &text].concat(), 2, &needles);
        }
        let needles = ["`cdua` is not a device; known devices: flex, wgpu, vulkan, tch, cuda"];
        workshop.fails(&["run", "chain.yaml", "--device", "cdua"], 2, &needles);
        let prompt = ["generate", "teacher", "--prompt", "a", "--device", "cdua"];
        workshop.fails(&prompt, 2, &needles);
        assert!(!workshop.path("out").exists());
    }

    #[test]
    fn data_goes_to_stdout_and_everything_else_to_stderr() {
        let workshop = Workshop::new();
        let ran = workshop.done(&["run", "chain.yaml"]);
        assert!(ran.stdout.starts_with("pass "), "{}", ran.stdout);
        assert!(!ran.stdout.contains("tokens/s"), "{}", ran.stdout);
        for line in [
            "data: made, ",
            "cache, train: 100 %",
            "01-distill: 100 %",
            "05-export: verified, in ",
        ] {
            let told = ran.stderr.lines().filter(|told| told.starts_with(line));
            assert_eq!(told.count(), 1, "{line}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains('\u{1b}'), "no escapes off a terminal");

        let quiet = workshop.done(&["run", "chain.yaml", "--quiet", "--set", "seed=9"]);
        assert_eq!(quiet.stderr, "");
        assert!(quiet.stdout.starts_with("pass "), "{}", quiet.stdout);
        let json = workshop.done(&["--json", "run", "chain.yaml"]);
        assert_eq!(json.json()["recipe"], "chain");
        // A failure is told in words, also where data would have been JSON.
        let args = ["run", "chain.yaml", "--json", "--set", "seed=-1"];
        workshop.fails(&args, 2, &["error[recipe/"]);
    }
}
