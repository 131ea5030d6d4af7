//! Speed of this machine at each kind of work: what runs have measured of it, and what is assumed of a machine that has
//! measured nothing.
//!
//! What a stage does is counted as [`Work`]: operations (or bytes) of a kind, on a model of some size. A run notes how
//! long each piece took, and adds it to a file in the user's cache folder. A plan divides its work by these speeds.
//! Nothing of this reaches the results of a run.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::iter::Sum;
use std::ops::Add;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files::{self, with_path};
use crate::progress::duration_text;

/// Format of the file; raised when a number in it changes its meaning.
const FORMAT: u32 = 1;

/// Largest file that is read: about forty times what [`MOST_SPEEDS`] take.
const MOST_BYTES: u64 = 1 << 20;

/// Most speeds in a file: every kind in each octave of model sizes is fewer.
const MOST_SPEEDS: usize = 512;

/// Most files of other processors and versions that are kept.
const MOST_FILES: usize = 8;

/// Shortest time that tells a speed.
const SHORTEST_SECS: f64 = 0.1;

/// Time up to which earlier measurements count: beyond it they would outweigh every later run.
const LONGEST_SECS: f64 = 300.0;

/// Factor by which a machine whose speed is unknown may be faster or slower than assumed: measured between processors
/// with and without wide vectors.
const UNKNOWN: f64 = 2.5;

/// A kind of work with a speed of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// Text to tokens, in bytes of text.
    Tokenize,
    /// The teacher forward, the choice of what is kept, and its encoding; in operations.
    Capture,
    /// A model forward, and figures of its predictions; in operations.
    Evaluate,
    /// Steps of training with their updates, in operations.
    Train,
    /// The same as `Capture`, with products in bf16.
    CaptureBf16,
    /// The same as `Train`, with products in bf16.
    TrainBf16,
    /// A model forward layer by layer, moments of inputs, and the solution for each weight; in operations.
    Calibrate,
    /// Weights to disk and from disk, in bytes of weights in f32.
    Store,
}

/// Speed of one core by the size of a model, in units a second, on an Intel Xeon with AVX-512: pairs of parameters and
/// speed, ascending. Small models have products too small for a core's units.
const ASSUMED: &[(WorkKind, &[(f64, f64)])] = &[
    (WorkKind::Tokenize, &[(1.0, 1e6)]),
    (
        WorkKind::Capture,
        &[(1e5, 60e9), (5e6, 100e9), (1.3e8, 115e9)],
    ),
    (
        WorkKind::Evaluate,
        &[(3e5, 25e9), (5e6, 78e9), (1.3e8, 95e9)],
    ),
    (WorkKind::Train, &[(3e5, 57e9), (3e7, 90e9)]),
    // By an EPYC with `vdpbf16ps`, beside the same processor in f32.
    (
        WorkKind::CaptureBf16,
        &[(1e5, 75e9), (5e6, 150e9), (1.3e8, 195e9)],
    ),
    (WorkKind::TrainBf16, &[(3e5, 65e9), (3e7, 145e9)]),
    (
        WorkKind::Calibrate,
        &[(1e5, 40e9), (5e6, 64e9), (1.3e8, 85e9)],
    ),
    (WorkKind::Store, &[(1.0, 1e8)]),
];

/// An amount of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Its kind.
    pub kind: WorkKind,
    /// Parameters of the model that runs; 1 if none does.
    pub parameters: u64,
    /// Operations or bytes, as the kind says.
    pub amount: f64,
}

impl Work {
    /// Work that no model does.
    pub fn bytes(kind: WorkKind, bytes: u64) -> Self {
        Self {
            kind,
            parameters: 1,
            amount: bytes as f64,
        }
    }

    /// The same work with products in bf16.
    #[must_use]
    pub fn in_bf16(self) -> Self {
        let kind = match self.kind {
            WorkKind::Capture => WorkKind::CaptureBf16,
            WorkKind::Train => WorkKind::TrainBf16,
            other => other,
        };
        Self { kind, ..self }
    }

    /// A share of the work.
    #[must_use]
    pub fn part(self, share: f64) -> Self {
        Self {
            amount: self.amount * share,
            ..self
        }
    }
}

/// A time as far as it is known: all three are equal where the machine's speed was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Secs {
    /// Likely seconds.
    #[serde(rename = "secs")]
    pub likely: f64,
    /// Seconds on a fast machine.
    #[serde(rename = "secs_least")]
    pub least: f64,
    /// Seconds on a slow machine.
    #[serde(rename = "secs_most")]
    pub most: f64,
}

impl Secs {
    /// True if the speeds that it comes from were measured, but for a part too small to matter.
    pub fn is_known(&self) -> bool {
        self.most <= 1.1 * self.least
    }
}

/// One time, or the shortest and the longest.
impl fmt::Display for Secs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, likely, most] = [self.least, self.likely, self.most].map(duration_text);
        if self.is_known() || least == most {
            write!(f, "{likely}")
        } else {
            write!(f, "{least} to {most}")
        }
    }
}

impl Add for Secs {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            likely: self.likely + other.likely,
            least: self.least + other.least,
            most: self.most + other.most,
        }
    }
}

impl Sum for Secs {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}

/// Speed that was measured: of one kind, at about one size of model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Speed {
    kind: WorkKind,
    parameters: u64,
    per_sec: f64,
    /// Seconds that the measurement took, those before it included.
    secs: f64,
}

impl Speed {
    fn is_sound(&self) -> bool {
        let numbers = [self.per_sec, self.secs];
        let are_sound = numbers.iter().all(|it| it.is_finite() && *it > 0.0);
        are_sound && self.parameters > 0
    }

    /// Sizes are told apart by octave.
    fn place(&self) -> (WorkKind, u32) {
        (self.kind, self.parameters.max(1).ilog2())
    }

    /// Both measurements, the newer with its whole weight.
    fn with_newer(self, newer: Self) -> Self {
        let kept = (self.secs / 2.0).min(LONGEST_SECS);
        let secs = kept + newer.secs;
        let log = (self.per_sec.ln() * kept + newer.per_sec.ln() * newer.secs) / secs;
        Self {
            per_sec: log.exp(),
            secs,
            ..newer
        }
    }
}

/// Facts that a speed depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Threads that compute.
    pub cores: usize,
    /// Device that computes, as in recipes.
    pub device: String,
    /// Version of this program.
    pub version: String,
}

impl Machine {
    /// This machine, with a version of the program that computes on a device.
    pub fn here(version: &str, device: &str) -> Self {
        Self {
            processor: processor(),
            cores: rayon::current_num_threads(),
            device: device.to_owned(),
            version: version.to_owned(),
        }
    }

    /// File of the machine's speeds; `None` if the user has no cache folder.
    pub fn file(&self) -> Option<PathBuf> {
        let key = files::hash_json(self);
        Some(folder()?.join(format!("{PREFIX}{}.json", &key[..8])))
    }
}

const PREFIX: &str = "rates-";

/// Contents of the file.
#[derive(Debug, Serialize, Deserialize)]
struct StoredRates {
    format: u32,
    machine: Machine,
    measured: Vec<Speed>,
}

/// Speeds of a machine.
#[derive(Debug)]
pub struct Rates {
    measured: Vec<Speed>,
    cores: usize,
}

impl Rates {
    /// Speeds of a machine that has measured none.
    pub fn unknown(cores: usize) -> Self {
        let measured = Vec::new();
        Self { measured, cores }
    }

    /// Speeds that earlier runs measured on a machine, and a remark if they cannot be read.
    pub fn of(machine: &Machine) -> (Self, Option<String>) {
        let unknown = Self::unknown(machine.cores);
        let Some(path) = machine.file() else {
            return (unknown, None);
        };
        match stored(&path, machine) {
            Ok(measured) => (
                Self {
                    measured,
                    ..unknown
                },
                None,
            ),
            Err(error) => {
                let path = path.display();
                let note = format!(
                    "the measured speeds in {path} are passed over: {error}; the next run replaces them"
                );
                (unknown, Some(note))
            }
        }
    }

    /// True if nothing was measured on this machine.
    pub fn is_empty(&self) -> bool {
        self.measured.is_empty()
    }

    /// Seconds that a piece of work takes.
    ///
    /// Between two measured sizes of model the speed goes evenly from one to the other (in logarithms); outside them it
    /// follows what is assumed of all machines. A kind that was never measured is taken to be as fast as the others.
    pub fn secs(&self, work: &Work) -> Secs {
        if work.amount <= 0.0 {
            return Secs::default();
        }
        let known = self.ratio(work, |speed| speed.kind == work.kind);
        let others = || self.ratio(work, |speed| speed.kind != WorkKind::Store); // a disk tells nothing of a processor
        let ratio = known.or_else(others).unwrap_or(1.0);
        let likely = work.amount / (ratio * self.assumed(work.kind, work.parameters));
        let factor = if known.is_some() { 1.0 } else { UNKNOWN };
        Secs {
            likely,
            least: likely / factor,
            most: likely * factor,
        }
    }

    /// Speed of the whole machine that is assumed before any is measured.
    fn assumed(&self, kind: WorkKind, parameters: u64) -> f64 {
        self.cores.max(1) as f64 * assumed(kind, parameters)
    }

    /// Speed over the assumed one, of the measured speeds that count, at the size of the work.
    fn ratio(&self, work: &Work, counts: impl Fn(&Speed) -> bool) -> Option<f64> {
        let size = (work.parameters.max(1) as f64).ln();
        let mut points: Vec<(f64, f64, f64)> = self
            .measured
            .iter()
            .filter(|speed| counts(speed))
            .map(|speed| {
                let at = (speed.parameters.max(1) as f64).ln();
                let ratio = speed.per_sec / self.assumed(speed.kind, speed.parameters);
                (at, ratio.ln(), speed.secs.min(LONGEST_SECS))
            })
            .collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        let below = points.iter().rev().find(|point| point.0 <= size);
        let above = points.iter().find(|point| point.0 >= size);
        let log = match (below, above) {
            (Some(&below), Some(&above)) if above.0 > below.0 => {
                let share = (size - below.0) / (above.0 - below.0);
                below.1 + share * (above.1 - below.1)
            }
            (Some(at), _) | (_, Some(at)) => mean_at(&points, at.0),
            (None, None) => return None,
        };
        Some(log.exp())
    }
}

/// Mean of the measurements at one size, by their time.
fn mean_at(points: &[(f64, f64, f64)], size: f64) -> f64 {
    let here = || {
        points
            .iter()
            .filter(|point| point.0.total_cmp(&size).is_eq())
    };
    let secs: f64 = here().map(|point| point.2).sum();
    here().map(|point| point.1 * point.2).sum::<f64>() / secs
}

/// Speed of a core that is assumed of all machines.
fn assumed(kind: WorkKind, parameters: u64) -> f64 {
    let size = (parameters.max(1) as f64).ln();
    let mut kinds = ASSUMED.iter();
    let points = kinds.find(|(of, _)| *of == kind).map(|(_, points)| *points);
    let points = points.expect("each kind has an assumed speed");
    let (first, last) = (points[0], points[points.len() - 1]);
    let between = points.windows(2).find_map(|pair| {
        let [below, above] = [pair[0], pair[1]].map(|(at, speed)| (at.ln(), speed.ln()));
        (below.0 <= size && size <= above.0).then(|| {
            let share = (size - below.0) / (above.0 - below.0);
            (below.1 + share * (above.1 - below.1)).exp()
        })
    });
    between.unwrap_or(if size < first.0.ln() { first.1 } else { last.1 })
}

/// Pieces of work that this process has done, with their times.
///
/// One list for the process, as the log is: a stage does not choose what becomes of its times.
static NOTED: Mutex<Vec<(Work, f64)>> = Mutex::new(Vec::new());

/// Notes how long a piece of work took.
pub fn note(work: Work, elapsed: Duration) {
    if let Ok(mut noted) = NOTED.lock() {
        noted.push((work, elapsed.as_secs_f64()));
    }
}

/// Adds what this process has noted to the file of the machine's speeds; what is too short to tell a speed is dropped.
pub fn save(machine: &Machine) -> io::Result<()> {
    let noted = NOTED.lock().map(|mut noted| std::mem::take(&mut *noted));
    let mut measured = speeds(&noted.unwrap_or_default());
    measured.retain(|speed| speed.is_sound() && speed.secs >= SHORTEST_SECS);
    match machine.file() {
        Some(path) if !measured.is_empty() => add(&path, machine, measured),
        _ => Ok(()),
    }
}

/// Adds speeds to a file; a damaged one is replaced.
fn add(path: &Path, machine: &Machine, measured: Vec<Speed>) -> io::Result<()> {
    let dir = files::parent(path);
    fs::create_dir_all(dir).map_err(|error| with_path(error, dir))?;
    let mut all = stored(path, machine).unwrap_or_default();
    for newer in measured {
        match all.iter_mut().find(|speed| speed.place() == newer.place()) {
            Some(speed) => *speed = speed.with_newer(newer),
            None => all.push(newer),
        }
    }
    all.sort_by_key(Speed::place);
    all.truncate(MOST_SPEEDS);
    let stored = StoredRates {
        format: FORMAT,
        machine: machine.clone(),
        measured: all,
    };
    files::write_json(path, &stored)?;
    forget_old(dir, path)
}

/// One speed for each kind and octave of sizes.
fn speeds(noted: &[(Work, f64)]) -> Vec<Speed> {
    let mut sums: Vec<(Speed, f64)> = Vec::new();
    for (work, secs) in noted {
        let speed = Speed {
            kind: work.kind,
            parameters: work.parameters,
            per_sec: 1.0,
            secs: *secs,
        };
        match sums
            .iter_mut()
            .find(|(sum, _)| sum.place() == speed.place())
        {
            Some((sum, amount)) => {
                sum.secs += secs;
                *amount += work.amount;
            }
            None => sums.push((speed, work.amount)),
        }
    }
    let speed = |(speed, amount): (Speed, f64)| Speed {
        per_sec: amount / speed.secs,
        ..speed
    };
    sums.into_iter().map(speed).collect()
}

/// Speeds in a file; none if it does not exist.
fn stored(path: &Path, machine: &Machine) -> io::Result<Vec<Speed>> {
    if path.metadata().is_ok_and(|file| file.len() > MOST_BYTES) {
        return Err(damage("it is too large"));
    }
    let Some(stored) = files::read_json::<StoredRates>(path)? else {
        return Ok(Vec::new());
    };
    if stored.format != FORMAT || stored.machine != *machine {
        return Err(damage("it is of another machine or version"));
    }
    if stored.measured.len() > MOST_SPEEDS || !stored.measured.iter().all(Speed::is_sound) {
        return Err(damage("it holds a speed that is none"));
    }
    Ok(stored.measured)
}

fn damage(fact: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fact)
}

/// Deletes the oldest files of other processors and versions.
fn forget_old(dir: &Path, own: &Path) -> io::Result<()> {
    let mut others = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let stem = path.file_stem().and_then(OsStr::to_str);
        let is_of_rates = stem.is_some_and(|stem| stem.starts_with(PREFIX))
            && path.extension().is_some_and(|kind| kind == "json");
        if is_of_rates && entry.path() != own && entry.file_type()?.is_file() {
            others.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    others.sort();
    let num_old = others.len().saturating_sub(MOST_FILES);
    others[..num_old]
        .iter()
        .try_for_each(|(_, path)| fs::remove_file(path))
}

/// Folder of what the program remembers for a user on this machine.
fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(caches?.join("alambic"))
}

/// Name of the processor, as the system tells it; its architecture if it tells none.
fn processor() -> String {
    let told = files::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let name = told.lines().find_map(|line| {
        let (key, name) = line.split_once(':')?;
        (key.trim() == "model name").then(|| name.trim().to_owned())
    });
    name.unwrap_or_else(|| env::consts::ARCH.to_owned())
}

#[cfg(test)]
mod tests;
