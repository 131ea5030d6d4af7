//! Damaged inputs by the thousand: every command ends with its result or with a message, whatever it reads.
//!
//! A case is a sound folder with damage to one of its files, and a command. Seed and number decide all of it, so a
//! case can be repeated alone. CONTRIBUTING.md says how to run more of them.

#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod seals;
#[cfg(test)]
mod seeds;

#[cfg(test)]
mod tests {
    use std::env::set_current_dir;
    use std::fs;
    use std::io::Write;
    use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
    use std::path::Path;
    use std::process::{Command, abort};
    use std::sync::Mutex;
    use std::thread;
    use std::time::{Duration, Instant};

    use alambic::cli::{Cli, execute};
    use clap::Parser;
    use serde_json::Value;

    use crate::common::Ran;
    use crate::damage::{Dice, damage};
    use crate::seals;
    use crate::seeds::{Files, Seed, seeds};

    /// Cases of a run of the tests.
    const COUNT: usize = 5_000;

    /// One case of so many goes through the binary, where signals and exit codes are seen; the others through the
    /// library, which is faster.
    const PER_PROCESS: usize = 16;

    /// Memory that a case may take, in kB. Addresses are limited instead where a process is its own.
    const MEMORY_KB: u64 = 1 << 20;
    const ADDRESSES_KB: u64 = 6 << 20;

    /// Time of the processor after which a case counts as hung, and time on a clock, for one that waits; cases take some
    /// milliseconds, and the machine may be busy.
    const WORK: Duration = Duration::from_mins(1);
    const PATIENCE: Duration = Duration::from_mins(10);

    /// The case in work, with the times at which it began, and the text of the last panic.
    static IN_WORK: Mutex<Option<(String, Instant, Duration)>> = Mutex::new(None);
    static PANIC: Mutex<String> = Mutex::new(String::new());

    /// A number from the environment, which is for runs by hand.
    #[expect(
        clippy::disallowed_methods,
        reason = "a setting of the tests, not of the program"
    )]
    fn setting(name: &str) -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")),
        )
    }

    /// A damaged folder and a command.
    struct Case {
        files: Files,
        command: String,
        through_binary: bool,
        /// Its number, the damage, and how to repeat it.
        told: String,
    }

    fn case(seeds: &[Seed], seed: u64, number: usize) -> Case {
        let mut dice = Dice::of_case(seed, number);
        let mut at = dice.below(seeds.iter().map(|seed| seed.weight).sum());
        let chosen = seeds.iter().find(|seed| {
            let is_it = at < seed.weight;
            at = at.saturating_sub(seed.weight);
            is_it
        });
        let chosen = chosen.expect("a weight below the sum");
        let mut files = chosen.files.clone();
        let name = dice.pick(&chosen.damaged).clone();
        let bytes = files.get_mut(&name).expect("a file of the seed");
        let done = damage(&name, bytes, &mut dice);
        let is_sealed = dice.percent(80);
        if is_sealed {
            seals::renew(&mut files);
        }
        let command = dice.pick(&chosen.commands).clone();
        let sealed = if is_sealed {
            ", checksums made anew"
        } else {
            ""
        };
        Case {
            files,
            through_binary: number.is_multiple_of(PER_PROCESS),
            told: format!(
                "case {number} ({}): {name}: {done}{sealed}; `alambic {command}`\n  again: ALAMBIC_FUZZ_SEED={seed} \
                 ALAMBIC_FUZZ_CASE={number} cargo test --release --test fuzz",
                chosen.name
            ),
            command,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
    fn write(files: &Files, dir: &Path) {
        for (name, bytes) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// Runs a case in this process.
    fn in_process(case: &Case, dir: &Path) -> Result<Ran, String> {
        let words = ["alambic", "--quiet"]
            .into_iter()
            .chain(case.command.split(' '));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        set_current_dir(dir).unwrap();
        let mut stdout = Vec::new();
        let ended = catch_unwind(AssertUnwindSafe(|| execute(&cli, &mut stdout)));
        let Ok(ended) = ended else {
            return Err(format!("panicked: {}", PANIC.lock().unwrap()));
        };
        let peak = peak_kb();
        if peak > MEMORY_KB {
            return Err(format!("took {peak} kB"));
        }
        let (code, stderr) = match ended {
            Ok(()) => (0, String::new()),
            Err(failure) => (i32::from(failure.code), plain(&failure.message)),
        };
        Ok(Ran {
            code: Some(code),
            stdout: String::from_utf8(stdout).map_err(|error| error.to_string())?,
            stderr,
        })
    }

    /// Runs a case through the binary.
    fn in_binary(case: &Case, dir: &Path) -> Result<Ran, String> {
        let script = format!("ulimit -v {ADDRESSES_KB}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command
            .current_dir(dir)
            .args(["-c", &script, env!("CARGO_BIN_EXE_alambic")]);
        let output = command.args(case.command.split(' ')).output().unwrap();
        if output.status.code().is_none() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {stderr}", output.status));
        }
        Ok(output.into())
    }

    /// Text without the codes of colours.
    fn plain(text: &str) -> String {
        let mut parts = text.split('\u{1b}');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            text + part.split_once('m').map_or("", |(_, rest)| rest)
        })
    }

    /// Most memory that this process has had since it was last asked, in kB; 0 where the system does not say.
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the system that takes commands"
    )]
    fn peak_kb() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        let _ = fs::write("/proc/self/clear_refs", "5");
        peak.unwrap_or(0)
    }

    /// What is wrong with how a case ended.
    fn fault(case: &Case, ran: &Ran) -> Result<(), String> {
        let whole = format!("exit code {:?}: {}", ran.code, ran.stderr);
        if ["panicked at", "RUST_BACKTRACE", "/registry/src/", "rustc/"]
            .iter()
            .any(|trace| ran.stderr.contains(trace))
        {
            return Err(format!("a trace: {whole}"));
        }
        match ran.code {
            Some(0) if case.command.starts_with("evaluate") => {
                let json: Value =
                    serde_json::from_str(&ran.stdout).map_err(|error| error.to_string())?;
                let loss = json["loss_nats"].as_f64().filter(|loss| loss.is_finite());
                loss.map(drop)
                    .ok_or_else(|| format!("no loss: {}", ran.stdout))
            }
            Some(0) => Ok(()),
            Some(1 | 2) if ran.stderr.contains("error[") => Ok(()),
            _ => Err(whole),
        }
    }

    fn run(case: &Case) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        write(&case.files, dir.path());
        let ran = if case.through_binary {
            in_binary(case, dir.path())
        } else {
            in_process(case, dir.path())
        };
        fault(case, &ran?)
    }

    /// Time of the processor that this process has used, in the unit of Linux; 0 where the system does not say.
    fn worked() -> Duration {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks = after_name.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Ends the process with the case that hangs, which no thread can be made to leave.
    fn watch() {
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(1));
                let in_work = IN_WORK.lock().unwrap();
                if let Some((told, since, before)) = &*in_work
                    && (since.elapsed() > PATIENCE || worked().saturating_sub(*before) > WORK)
                {
                    let _ = writeln!(std::io::stderr(), "no end of {told}");
                    abort();
                }
            }
        });
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "the note of a test need not be atomic"
    )]
    fn every_damaged_input_ends_with_a_result_or_a_message() {
        let seed = setting("ALAMBIC_FUZZ_SEED").unwrap_or(1);
        let count =
            setting("ALAMBIC_FUZZ_COUNT").map_or(COUNT, |count| usize::try_from(count).unwrap());
        let only = setting("ALAMBIC_FUZZ_CASE").map(|case| usize::try_from(case).unwrap());
        let seeds = seeds();
        set_hook(Box::new(|info| *PANIC.lock().unwrap() = info.to_string()));
        watch();
        // An abort leaves no other trace.
        let note = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-case.txt");
        let mut faults = Vec::new();
        let cases = only.map_or(0..count, |only| only..only + 1);
        for number in cases.clone() {
            let case = case(&seeds, seed, number);
            fs::write(&note, &case.told).unwrap();
            *IN_WORK.lock().unwrap() = Some((case.told.clone(), Instant::now(), worked()));
            if let Err(fault) = run(&case) {
                faults.push(format!("{}\n  {fault}", case.told));
            }
            *IN_WORK.lock().unwrap() = None;
            if faults.len() == 20 {
                break;
            }
        }
        set_current_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
        let _ = std::panic::take_hook();
        assert!(
            faults.is_empty(),
            "{} of {cases:?}:\n{}",
            faults.len(),
            faults.join("\n")
        );
        assert_eq!(cases.len(), only.map_or(count, |_| 1));
    }
}
