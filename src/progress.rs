//! Progress of long steps on stderr: a bar on a terminal, plain lines elsewhere, and the same lines in a log file.
//!
//! Also formats quantities for people: counts with thousands separators, sizes in binary units,
//! durations. This module does not know the purpose of the tokens.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::files::open_to_append;

/// Shortest time between two plain lines: the log of an hour's training stays readable.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

static QUIET: AtomicBool = AtomicBool::new(false);

/// The log file, if there is one.
///
/// One for the process, as [`QUIET`] is: a stage does not choose where its progress goes.
static LOG: Mutex<Option<File>> = Mutex::new(None);

/// Hides (`true`) or shows the progress of every step that starts from now on.
///
/// One switch for the process, because it is the user's choice for the whole run: passing it through
/// every stage would add an argument that no stage uses.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Appends every line from now on to a file, too, each with its time in UTC, even if progress is hidden.
///
/// A log that can no longer be written, on a full disk say, stops no run.
pub fn log_to(path: &Path) -> io::Result<()> {
    let file = open_to_append(path)?;
    if let Ok(mut log) = LOG.lock() {
        *log = Some(file);
    }
    Ok(())
}

/// Appends a text to the log file, if there is one, and writes nothing on stderr.
pub fn record(text: &str) {
    let Ok(mut log) = LOG.lock() else {
        return;
    };
    let Some(file) = log.as_mut() else {
        return;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the time of a line in the log, which nothing reads"
    )]
    let now = DateTime::<Utc>::from(SystemTime::now());
    let now = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let stamped: Vec<String> = text.lines().map(|line| format!("{now} {line}\n")).collect();
    let _ = file.write_all(stamped.concat().as_bytes()); // in one piece: other processes may append, too
}

fn is_logged() -> bool {
    LOG.lock().is_ok_and(|log| log.is_some())
}

/// Writes a line on stderr, unless progress is hidden, and in the log file.
pub fn log(text: &str) {
    record(text);
    if !QUIET.load(Ordering::Relaxed) {
        let _ = writeln!(io::stderr(), "{text}"); // a closed stderr must not stop a run
    }
}

/// Writes remarks on stderr, unless progress is hidden, and in the log file.
pub fn log_notes(notes: &[String]) {
    for note in notes {
        log(&format!("note: {note}"));
    }
}

/// Things that progress is counted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Unit {
    #[default]
    Tokens,
    Bytes,
}

impl Unit {
    fn count(self, number: u64) -> String {
        match self {
            Self::Tokens => format!("{} tokens", thousands(number)),
            Self::Bytes => bytes_text(number),
        }
    }

    /// So much of so much.
    fn part(self, done: u64, total: u64) -> String {
        let done = match self {
            Self::Tokens => thousands(done),
            Self::Bytes => bytes_text(done),
        };
        format!("{done} of {}", self.count(total))
    }
}

/// Progress of one step, counted in tokens or bytes.
///
/// If dropped without [`Progress::finish`], it leaves the bar at its last position, because that is
/// where an error occurred.
#[derive(Debug)]
pub struct Progress {
    pace: Pace,
    since: Instant,
    display: Display,
    /// Time of the last line in the log file, if there is one.
    logged: Option<Instant>,
}

impl Progress {
    /// Starts the clock and prints the total.
    pub fn new(label: &str, total_tokens: u64) -> Self {
        Self::started(label, total_tokens, Unit::Tokens)
    }

    /// The same for bytes.
    pub fn of_bytes(label: &str, total_bytes: u64) -> Self {
        Self::started(label, total_bytes, Unit::Bytes)
    }

    fn started(label: &str, total: u64, unit: Unit) -> Self {
        let display = if QUIET.load(Ordering::Relaxed) {
            Display::Hidden
        } else if io::stderr().is_terminal() {
            Display::Bar(bar(label, total))
        } else {
            Display::Lines(Instant::now())
        };
        let mut progress = Self::shown(label, total, display);
        progress.pace.unit = unit;
        progress.logged = is_logged().then(Instant::now);
        progress.write_line(&unit.count(total));
        progress
    }

    /// Counts as [`Progress::new`] does, but shows and logs nothing.
    pub fn hidden(label: &str, total_tokens: u64) -> Self {
        Self::shown(label, total_tokens, Display::Hidden)
    }

    fn shown(label: &str, total_tokens: u64, display: Display) -> Self {
        Self {
            pace: Pace {
                label: label.to_owned(),
                total: total_tokens,
                ..Pace::default()
            },
            since: Instant::now(),
            display,
            logged: None,
        }
    }

    /// Writes a line where lines are shown, and in the log.
    fn write_line(&self, text: &str) {
        let line = format!("{}: {text}", self.pace.label);
        if self.logged.is_some() {
            record(&line);
        }
        if let Display::Lines(_) = self.display {
            // A closed stderr must not stop the work that is reported on.
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Counts `done_tokens` as the work of an earlier process; they do not affect the speed.
    pub fn resume_at(&mut self, done_tokens: u64) {
        self.since = Instant::now();
        self.pace.before = done_tokens;
        self.pace.done = done_tokens;
        if done_tokens > 0 {
            let text = self.pace.text(Duration::ZERO, Form::Line);
            self.write_line(&format!("resumed at {text}"));
        }
        self.draw();
    }

    /// Sets what is done and how much there is in all, where either may change; `before` of it was done by others.
    pub fn set(&mut self, done: u64, total: u64, before: u64) {
        (self.pace.done, self.pace.total, self.pace.before) = (done, total, before);
        if let Display::Bar(bar) = &self.display {
            bar.set_length(total);
        }
        self.draw();
    }

    /// Adds `tokens` to the finished ones.
    pub fn advance(&mut self, tokens: u64) {
        self.pace.done = self.pace.done.saturating_add(tokens);
        self.draw();
    }

    /// Sets a short text for the following displays, such as the last loss.
    pub fn message(&mut self, text: &str) {
        text.clone_into(&mut self.pace.message);
    }

    /// Prints the final count and the time taken.
    pub fn finish(self) {
        let elapsed = self.since.elapsed();
        self.write_line(&self.pace.final_text(elapsed, Form::Line));
        if let Display::Bar(bar) = &self.display {
            bar.set_position(self.pace.done);
            bar.abandon_with_message(self.pace.final_text(elapsed, Form::BesideBar));
        }
    }

    fn draw(&mut self) {
        let elapsed = self.since.elapsed();
        if let Display::Bar(bar) = &self.display {
            bar.set_message(self.pace.text(elapsed, Form::BesideBar));
            bar.set_position(self.pace.done);
        }
        let last = match &mut self.display {
            Display::Lines(last) => Some(last),
            Display::Hidden | Display::Bar(_) => self.logged.as_mut(),
        };
        if let Some(last) = last.filter(|last| last.elapsed() >= LINE_INTERVAL) {
            *last = Instant::now();
            self.write_line(&self.pace.text(elapsed, Form::Line));
        }
    }
}

#[derive(Debug)]
enum Display {
    Hidden,
    Bar(ProgressBar),
    /// Lines, with the time of the last one.
    Lines(Instant),
}

/// Counts and their text. Time is an argument, so that the text can be tested.
#[derive(Debug, Default)]
struct Pace {
    label: String,
    message: String,
    unit: Unit,
    total: u64,
    done: u64,
    /// Part of `done` that an earlier process did.
    before: u64,
}

/// Place of a text, which tells how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Line,
    /// Without counts: on 80 columns they would push the time left off the edge.
    BesideBar,
}

impl Pace {
    fn text(&self, elapsed: Duration, form: Form) -> String {
        let mut parts = self.counts(elapsed, form);
        if let Some(rate) = self.per_sec(elapsed) {
            let left = self.total.saturating_sub(self.done) as f64 / rate;
            parts.push(format!("{} left", duration_text(left)));
        }
        self.join(parts)
    }

    fn final_text(&self, elapsed: Duration, form: Form) -> String {
        let mut parts = self.counts(elapsed, form);
        parts.push(format!("took {}", duration_text(elapsed.as_secs_f64())));
        self.join(parts)
    }

    fn counts(&self, elapsed: Duration, form: Form) -> Vec<String> {
        let mut parts = vec![format!("{} %", self.percent())];
        if form == Form::Line {
            parts.push(self.unit.part(self.done, self.total));
        }
        if let Some(rate) = self.per_sec(elapsed) {
            parts.push(format!("{}/s", self.unit.count(rounded(rate))));
        }
        parts
    }

    fn join(&self, mut parts: Vec<String>) -> String {
        if !self.message.is_empty() {
            parts.push(self.message.clone());
        }
        parts.join(" · ")
    }

    /// Percentage, rounded down so that 100 % means done.
    fn percent(&self) -> u128 {
        let total = u128::from(self.total.max(1));
        let done = if self.total == 0 { 1 } else { self.done };
        (u128::from(done) * 100 / total).min(100)
    }

    /// Speed of this process; `None` until it has done something.
    fn per_sec(&self, elapsed: Duration) -> Option<f64> {
        let done = self.done.saturating_sub(self.before);
        (done > 0 && !elapsed.is_zero()).then(|| done as f64 / elapsed.as_secs_f64())
    }
}

fn bar(label: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:24} {wide_msg}")
        .expect("the template is a constant with known keys");
    ProgressBar::new(total)
        .with_style(style)
        .with_prefix(label.to_owned())
        .with_finish(ProgressFinish::Abandon)
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (digit_idx, digit) in digits.chars().enumerate() {
        if digit_idx > 0 && (digits.len() - digit_idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with so many decimals; a number that rounds to zero has no sign.
pub fn decimals(value: f64, num_decimals: usize) -> String {
    unsigned_zero(format!("{value:.num_decimals$}"))
}

/// A number with an exponent and so many decimals before it; zero has no sign.
pub fn exponential(value: f64, num_decimals: usize) -> String {
    unsigned_zero(format!("{value:.num_decimals$e}"))
}

/// A share in percent with so many decimals, without the sign `%`.
pub fn percent(share: f64, num_decimals: usize) -> String {
    decimals(100.0 * share, num_decimals)
}

fn unsigned_zero(text: String) -> String {
    let digits = text.split('e').next().unwrap_or_default();
    match text.strip_prefix('-') {
        Some(plain)
            if !digits.contains(|digit| ('1'..='9').contains(&digit)) && digits.contains('0') =>
        {
            plain.to_owned()
        }
        _ => text,
    }
}

/// A size as the cell of a table: `-` where there is nothing.
pub fn bytes_cell(bytes: u64) -> String {
    if bytes == 0 {
        "-".to_owned()
    } else {
        bytes_text(bytes)
    }
}

/// A size in the largest binary unit that leaves at least 1: `512 B`, `1.5 KiB`, `18.2 GiB`.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    // One decimal would show 1,023.95 and more as 1,024.0, which is 1.0 of the next unit.
    const LIMIT: f64 = 1023.95;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit_idx = 0;
    while size >= LIMIT && unit_idx + 1 < UNITS.len() {
        size /= 1024.0;
        unit_idx += 1;
    }
    format!("{size:.1} {}", UNITS[unit_idx])
}

/// A duration to the two units that matter: `0.4 s`, `9 s`, `2 min 05 s`, `1 h 02 min`.
pub fn duration_text(secs: f64) -> String {
    if secs < 0.95 {
        return format!("{:.1} s", secs.max(0.0));
    }
    let secs = rounded(secs);
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, secs) => format!("{secs} s"),
        (0, mins, secs) => format!("{mins} min {secs:02} s"),
        (hours, mins, _) => format!("{} h {mins:02} min", thousands(hours)),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a quantity for people: the cast saturates, and NaN becomes 0"
)]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(done: u64, before: u64) -> Pace {
        Pace {
            total: 65_536,
            done,
            before,
            ..Pace::default()
        }
    }

    #[test]
    fn a_line_gives_share_counts_speed_and_time_left() {
        let mut pace = pace(8_192, 0);
        assert_eq!(
            pace.text(Duration::from_millis(1_600), Form::Line),
            "12 % · 8,192 of 65,536 tokens · 5,120 tokens/s · 11 s left"
        );
        pace.message = "loss 3.21".to_owned();
        assert_eq!(
            pace.final_text(Duration::from_millis(1_600), Form::Line),
            "12 % · 8,192 of 65,536 tokens · 5,120 tokens/s · took 2 s · loss 3.21"
        );
    }

    #[test]
    fn bytes_are_counted_in_the_units_of_sizes() {
        let pace = Pace {
            unit: Unit::Bytes,
            total: 3 << 30,
            done: 3 << 29,
            before: 1 << 29,
            message: "a/b".to_owned(),
            ..Pace::default()
        };
        let text = pace.text(Duration::from_secs(8), Form::Line);
        assert_eq!(
            text,
            "50 % · 1.5 GiB of 3.0 GiB · 128.0 MiB/s · 12 s left · a/b"
        );
    }

    #[test]
    fn beside_a_bar_the_time_left_fits_on_80_columns() {
        let pace = pace(8_192, 0);
        let text = pace.text(Duration::from_millis(1_600), Form::BesideBar);
        assert_eq!(text, "12 % · 5,120 tokens/s · 11 s left");
        assert!("01-distill".len() + 24 + 2 + text.chars().count() <= 80);
    }

    #[test]
    fn what_an_earlier_process_did_does_not_enter_the_speed() {
        assert_eq!(
            pace(32_768, 30_768).text(Duration::from_secs(1), Form::Line),
            "50 % · 32,768 of 65,536 tokens · 2,000 tokens/s · 16 s left"
        );
        assert_eq!(
            pace(32_768, 32_768).text(Duration::from_secs(1), Form::Line),
            "50 % · 32,768 of 65,536 tokens"
        );
    }

    #[test]
    fn a_share_stays_between_0_and_100_percent_and_reaches_100_only_when_done() {
        assert_eq!(pace(65_535, 0).percent(), 99);
        assert_eq!(pace(65_536, 0).percent(), 100);
        assert_eq!(pace(u64::MAX, 0).percent(), 100);
        assert_eq!(Pace::default().percent(), 100, "nothing to do is done");
    }

    #[test]
    fn quantities_read_as_people_write_them() {
        let counts = [0, 999, 1_000, 1_234_567, u64::MAX].map(thousands);
        assert_eq!(
            counts,
            [
                "0",
                "999",
                "1,000",
                "1,234,567",
                "18,446,744,073,709,551,615"
            ]
        );
        let sizes = [1023, 1536, 1024 * 1024 - 1, 19_541_100_000, u64::MAX].map(bytes_text);
        assert_eq!(
            sizes,
            ["1023 B", "1.5 KiB", "1.0 MiB", "18.2 GiB", "16777216.0 TiB"]
        );
        let durations = [0.42, 0.97, 9.4, 59.6, 125.0, 3_720.0, f64::NAN].map(duration_text);
        assert_eq!(
            durations,
            [
                "0.4 s",
                "1 s",
                "9 s",
                "1 min 00 s",
                "2 min 05 s",
                "1 h 02 min",
                "0 s"
            ]
        );
    }

    #[test]
    fn what_rounds_to_zero_has_no_sign_and_no_number_has_more_digits_than_it_means() {
        let shown = [-0.0, -4e-5, -6e-5, 0.1 + 0.2].map(|value| decimals(value, 4));
        assert_eq!(shown, ["0.0000", "0.0000", "-0.0001", "0.3000"]);
        assert_eq!(decimals(f64::NEG_INFINITY, 2), "-inf");
        assert_eq!(exponential(-0.0, 1), "0.0e0");
        assert_eq!(exponential(-1.25e-7, 1), "-1.2e-7");
        assert_eq!(percent(-1e-9, 1), "0.0");
        assert_eq!([0, 2048].map(bytes_cell), ["-", "2.0 KiB"]);
    }

    #[test]
    fn a_quiet_progress_shows_nothing_and_still_counts() {
        set_quiet(true);
        let mut progress = Progress::new("capture", 100);
        set_quiet(false);
        assert!(matches!(progress.display, Display::Hidden));
        progress.resume_at(40);
        progress.advance(10);
        assert_eq!((progress.pace.done, progress.pace.before), (50, 40));
        progress.finish();
    }
}
