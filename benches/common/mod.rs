//! Options of benches, and what they read of this process.
#![allow(dead_code, reason = "each bench uses a part of these")]

use std::error::Error;
use std::fs;

use alambic::kernels::{Arithmetic, Sums};

/// Options of the command line.
pub(crate) struct Options(Vec<String>);

impl Options {
    /// Options of this process, without the one that `cargo bench` adds.
    pub(crate) fn of_this_process() -> Self {
        let arguments = std::env::args().skip(1);
        Self(arguments.filter(|argument| argument != "--bench").collect())
    }

    /// The first of them, which names what is measured.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|argument| argument == flag)
    }

    pub(crate) fn number(&self, name: &str, default: usize) -> Result<usize, String> {
        let Some(at) = self.0.iter().position(|argument| argument == name) else {
            return Ok(default);
        };
        let number = self.0.get(at + 1).and_then(|number| number.parse().ok());
        number.ok_or(format!("{name} needs a number"))
    }

    /// Arithmetic of products: f32, or that of this machine with `--bf16`.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        if self.has("--bf16") {
            Arithmetic::Bf16(Sums::of_this_machine())
        } else {
            Arithmetic::F32
        }
    }

    /// Starts `--threads` threads; without it, as many as alambic itself would.
    pub(crate) fn start_threads(&self) -> Result<(), Box<dyn Error>> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(self.number("--threads", 0)?);
        Ok(threads.build_global()?)
    }
}

/// A line of `/proc/self/status` in MiB.
pub(crate) fn status_mib(name: &str) -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .ok_or("no such line")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Seconds that all threads of this process have computed, those of the system for it included.
pub(crate) fn cpu_secs() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no name")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0) // what `getconf CLK_TCK` says on Linux
}

/// The upper one of the two in the middle, if their number is even.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the program computes in f32"
)]
pub(crate) fn single(value: f64) -> f32 {
    value as f32
}

/// A whole number below a bound, given a uniform number below one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounds are sizes of vocabularies"
)]
pub(crate) fn whole(uniform: f64, below: usize) -> u32 {
    (uniform * below as f64) as u32
}
