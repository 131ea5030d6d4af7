//! The record of a training run: `metrics.jsonl` for programs, TensorBoard events for people.
//!
//! Both hold the same and belong to one pass. The lines of a step are written before the training
//! state of that step. Lines beyond the state from which a run resumes are dropped, since those
//! steps are about to run again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Number, Value as Json};

use super::tensorboard::{self, Event, EventError, EventWriter, Histogram, SummaryValue};
use crate::files::{self, with_path, write_atomically};

/// One JSON object per line: `{"step":10,"train/loss":3.21}`.
const METRICS_FILE: &str = "metrics.jsonl";

/// Part of the file name by which TensorBoard finds its files.
const EVENTS_PREFIX: &str = "events.out.tfevents.";

/// Errors of writing and reading metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The operating system reports an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An event file is damaged.
    #[error(transparent)]
    Events(#[from] EventError),
    /// A whole line has another format.
    #[error("{}:{line}: not a JSON object of numbers with a `step`", path.display())]
    Line {
        /// The metrics file.
        path: PathBuf,
        /// Number of the line, counted from 1.
        line: usize,
    },
}

/// Measurements at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsLine {
    /// Optimizer updates done.
    pub step: u64,
    /// Names and numbers, as they were logged; NaN for a number that was not finite.
    pub values: Vec<(String, f64)>,
}

impl MetricsLine {
    /// The number with this name, if it was measured at this step.
    pub fn get(&self, name: &str) -> Option<f64> {
        let (_, number) = self.values.iter().find(|(key, _)| key == name)?;
        Some(*number)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut object: Map<String, Json> = serde_json::from_str(text).ok()?;
        let step = object.shift_remove("step")?.as_u64()?;
        let number = |json: Json| match json {
            Json::Null => Some(f64::NAN), // JSON has no other word for it
            json => json.as_f64(),
        };
        let values = object
            .into_iter()
            .map(|(name, json)| Some((name, number(json)?)))
            .collect::<Option<_>>()?;
        Some(Self { step, values })
    }

    fn to_json(&self) -> String {
        let number = |value: f64| Number::from_f64(value).map_or(Json::Null, Json::Number);
        let step = ("step".to_owned(), Json::from(self.step));
        let values = self.values.iter();
        let values = values.map(|(name, value)| (name.clone(), number(*value)));
        let object: Map<String, Json> = [step].into_iter().chain(values).collect();
        Json::Object(object).to_string()
    }
}

/// The open record of one pass.
///
/// Every line reaches the operating system at once, so a killed process loses at most the line it was
/// writing. A power cut is another matter: call [`MetricsLog::sync`] before a training state is saved.
#[derive(Debug)]
pub struct MetricsLog {
    lines: File,
    path: PathBuf,
    events: EventWriter,
    start_wall_time: f64,
    since: Instant,
}

/// Copies the record of another run of a pass into its folder, unless it has one.
pub(super) fn copy_metrics(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.join(METRICS_FILE), to.join(METRICS_FILE));
    if to.exists() {
        return Ok(());
    }
    match files::read(&from) {
        Ok(bytes) => write_atomically(&to, |out| out.write_all(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(with_path(error, &from)),
    }
}

impl MetricsLog {
    /// Opens the record in a folder.
    ///
    /// With a `resume_step`, the record is kept up to and including that step; without, it is deleted.
    /// `start_wall_time` is now, in seconds since 1970; it reaches the event files and nothing else.
    pub fn open(
        dir: &Path,
        resume_step: Option<u64>,
        start_wall_time: f64,
    ) -> Result<Self, MetricsError> {
        let path = dir.join(METRICS_FILE);
        let mut kept = match resume_step {
            Some(_) if path.exists() => read_metrics(dir)?,
            _ => Vec::new(),
        };
        kept.retain(|line| Some(line.step) <= resume_step);
        write_atomically(&path, |out| {
            kept.iter()
                .try_for_each(|line| writeln!(out, "{}", line.to_json()))
        })?;
        for events_path in event_files(dir)? {
            if let Some(step) = resume_step {
                tensorboard::keep_until(&events_path, step)?;
            } else {
                fs::remove_file(&events_path).map_err(|error| with_path(error, &events_path))?;
            }
        }
        // A file of its own for each process: a TensorBoard that is watching goes on to the next name.
        let events_name = format!("{EVENTS_PREFIX}{:010}.alambic", resume_step.unwrap_or(0));
        let lines = files::open_to_append(&path).map_err(|error| with_path(error, &path))?;
        Ok(Self {
            lines,
            path,
            events: EventWriter::open(&dir.join(events_name), start_wall_time)?,
            start_wall_time,
            since: Instant::now(),
        })
    }

    /// Records measurements after `step` updates, under names such as `train/loss`.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), MetricsError> {
        let named = values.iter().map(|&(name, value)| (name.to_owned(), value));
        let line = MetricsLine {
            step,
            values: named.collect(),
        };
        let text = format!("{}\n", line.to_json());
        self.lines
            .write_all(text.as_bytes())
            .map_err(|error| with_path(error, &self.path))?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "TensorBoard stores f32; metrics.jsonl has all digits"
        )]
        let scalar = |(name, value)| (name, SummaryValue::Scalar(value as f32));
        self.write_event(step, line.values.into_iter().map(scalar).collect())
    }

    /// Records a histogram of numbers after `step` updates: in the TensorBoard events only, and only if one is finite.
    pub fn histogram(
        &mut self,
        step: u64,
        name: &str,
        numbers: &[f32],
    ) -> Result<(), MetricsError> {
        match Histogram::of(numbers) {
            None => Ok(()),
            Some(histogram) => self.write_event(
                step,
                vec![(name.to_owned(), SummaryValue::Histogram(histogram))],
            ),
        }
    }

    /// Waits until everything logged is on the disk.
    pub fn sync(&self) -> Result<(), MetricsError> {
        self.lines
            .sync_data()
            .map_err(|error| with_path(error, &self.path))?;
        Ok(self.events.sync()?)
    }

    fn write_event(
        &mut self,
        step: u64,
        values: Vec<(String, SummaryValue)>,
    ) -> Result<(), MetricsError> {
        Ok(self.events.write(&Event {
            wall_time: self.start_wall_time + self.since.elapsed().as_secs_f64(),
            step,
            file_version: None,
            values,
        })?)
    }
}

/// Lines of the record in a folder, in order.
///
/// A last line without its line end is left out: a killed process leaves such a line.
pub fn read_metrics(dir: &Path) -> Result<Vec<MetricsLine>, MetricsError> {
    let path = dir.join(METRICS_FILE);
    let bytes = files::read(&path).map_err(|error| with_path(error, &path))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
    let lines = bytes[..whole].split(|&byte| byte == b'\n');
    lines
        .enumerate()
        .filter(|_| whole > 0)
        .map(|(line_idx, line)| {
            let parsed = str::from_utf8(line).ok().and_then(MetricsLine::parse);
            parsed.ok_or_else(|| MetricsError::Line {
                path: path.clone(),
                line: line_idx + 1,
            })
        })
        .collect()
}

/// Paths of the TensorBoard files in a folder, in the order in which TensorBoard reads them.
fn event_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(EVENTS_PREFIX)
        {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_700_000_000.0;

    fn text(dir: &Path) -> String {
        fs::read_to_string(dir.join(METRICS_FILE)).unwrap()
    }

    /// Steps in all event files together.
    fn event_steps(dir: &Path) -> Vec<u64> {
        let files = event_files(dir).unwrap();
        let events = files
            .iter()
            .flat_map(|path| tensorboard::read_events(path).unwrap());
        let measured = events.filter(|event| !event.values.is_empty());
        measured.map(|event| event.step).collect()
    }

    fn log_steps(log: &mut MetricsLog, steps: impl IntoIterator<Item = u64>) {
        for step in steps {
            log.log(step, &[("train/loss", 1.0 / step as f64)]).unwrap();
        }
    }

    #[test]
    fn a_line_holds_the_step_and_every_digit_in_the_order_given() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(dir.path(), None, NOW).unwrap();
        let values = [("train/loss", 1.0 / 3.0), ("train/kl", f64::NAN)];
        log.log(7, &values).unwrap();
        log.histogram(7, "weights", &[1.0, 2.0]).unwrap();
        log.sync().unwrap();
        assert_eq!(
            text(dir.path()),
            "{\"step\":7,\"train/loss\":0.3333333333333333,\"train/kl\":null}\n"
        );
        let lines = read_metrics(dir.path()).unwrap();
        assert_eq!(lines[0].get("train/loss"), Some(1.0 / 3.0));
        assert!(lines[0].get("train/kl").unwrap().is_nan());
        assert_eq!(lines[0].get("eval/loss"), None);

        let files = event_files(dir.path()).unwrap();
        let events = tensorboard::read_events(&files[0]).unwrap();
        assert_eq!(
            events[1].values[0],
            ("train/loss".to_owned(), SummaryValue::Scalar(1.0 / 3.0))
        );
        assert!((NOW..NOW + 60.0).contains(&events[1].wall_time));
        assert!(
            matches!(&events[2].values[0].1, SummaryValue::Histogram(h) if h.buckets.len() == 30)
        );
    }

    #[test]
    fn a_resumed_record_equals_one_that_was_never_stopped() {
        let whole = tempfile::tempdir().unwrap();
        log_steps(
            &mut MetricsLog::open(whole.path(), None, NOW).unwrap(),
            1..=6,
        );

        let cut = tempfile::tempdir().unwrap();
        log_steps(&mut MetricsLog::open(cut.path(), None, NOW).unwrap(), 1..=5);
        let torn = text(cut.path()) + "{\"step\":6,\"tr";
        write_atomically(&cut.path().join(METRICS_FILE), |out| {
            out.write_all(torn.as_bytes())
        })
        .unwrap();
        log_steps(
            &mut MetricsLog::open(cut.path(), Some(3), NOW).unwrap(),
            4..=5,
        );
        log_steps(
            &mut MetricsLog::open(cut.path(), Some(3), NOW).unwrap(),
            4..=6,
        );

        assert_eq!(text(cut.path()), text(whole.path()));
        assert_eq!(event_steps(cut.path()), [1, 2, 3, 4, 5, 6]);
        assert_eq!(event_files(cut.path()).unwrap().len(), 2);
    }

    #[test]
    fn resuming_at_step_0_keeps_what_was_measured_before_the_first_update() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(dir.path(), None, NOW).unwrap();
        log.log(0, &[("eval/loss", 8.0)]).unwrap();
        log_steps(&mut log, 1..=2);
        log_steps(
            &mut MetricsLog::open(dir.path(), Some(0), NOW).unwrap(),
            1..=1,
        );
        assert_eq!(event_steps(dir.path()), [0, 1]);
        let steps: Vec<u64> = read_metrics(dir.path())
            .unwrap()
            .iter()
            .map(|line| line.step)
            .collect();
        assert_eq!(steps, [0, 1]);
    }

    #[test]
    fn a_fresh_record_deletes_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        log_steps(
            &mut MetricsLog::open(dir.path(), Some(4), NOW).unwrap(),
            1..=2,
        );
        MetricsLog::open(dir.path(), None, NOW).unwrap();
        assert_eq!(text(dir.path()), "");
        assert_eq!(read_metrics(dir.path()).unwrap(), []);
        assert_eq!(event_steps(dir.path()), [0; 0]);
    }

    #[test]
    fn a_whole_line_that_is_no_record_is_refused_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        for bad in [
            "",
            "{}",
            "[1]",
            "{\"step\":-1}",
            "{\"step\":1,\"a\":\"b\"}",
            "\u{0}",
        ] {
            let text = format!("{{\"step\":1}}\n{bad}\n{{\"step\":2}}\n");
            write_atomically(&path, |out| out.write_all(text.as_bytes())).unwrap();
            let error = read_metrics(dir.path()).unwrap_err().to_string();
            assert!(
                error.ends_with("metrics.jsonl:2: not a JSON object of numbers with a `step`"),
                "{error}"
            );
        }
    }
}
