//! Documents of sources one after another, read by other threads while they are used.

use std::io;
use std::iter;
use std::panic;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::vec;

use serde::{Deserialize, Serialize};

use super::collected::Collected;
use super::fault::{BadRows, FaultKind, Faults, SourceError};
use super::plan::{OnBadRow, SourcePlan};
use super::skipped::Skipped;
use super::walk::{SourceFile, Walk};
use super::{Document, Reader, no_text};

/// Blocks that a reader is ahead.
const BLOCKS_AHEAD: usize = 2;

/// Most sources that are mixed: each has a reader of its own.
const MAX_MIXED: usize = 256;

/// Documents of sources, in an order that the sources alone decide.
///
/// Sources without weights are read one after another. If one has a weight, all are mixed: next comes a document of the
/// source that has given the fewest bytes of text for its weight (the first of several). The mixture ends where a source
/// does whose turn it is, so that the shares are those that were asked for.
pub struct DocumentStream {
    sources: Vec<SourcePlan>,
    walk: Walk,
    num_files: usize,
    lanes: Vec<Lane>,
    is_mixed: bool,
    has_ended: bool,
}

/// One or more sources that are read one after another.
struct Lane {
    receiver: Option<Receiver<Vec<Document>>>,
    thread: Option<io::Result<JoinHandle<Collected>>>,
    block: vec::IntoIter<Document>,
    weight: f64,
    count: SourceCount,
}

/// What a mixture took of a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceCount {
    /// Path as the plan has it.
    pub path: String,
    /// Share that was asked for.
    pub weight: f64,
    /// Documents that were taken.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// True if it was read to its end.
    pub has_ended: bool,
}

/// What reading has found beside the documents.
pub(in crate::data) struct ReadFacts {
    pub(in crate::data) skipped: Vec<Skipped>,
    pub(in crate::data) bad_rows: BadRows,
    pub(in crate::data) notes: Vec<String>,
    /// Counts of the sources, if they were mixed.
    pub(in crate::data) mixed: Vec<SourceCount>,
}

impl DocumentStream {
    /// Finds the files of all sources and begins to read them. What is wrong with them is told at the end.
    pub fn open(sources: &[SourcePlan], on_bad_row: OnBadRow) -> Self {
        let mut walk = Walk::default();
        let files = walk.find(sources);
        let num_files = files.len();
        let weighed = sources.iter().find(|source| source.weight.is_some());
        let is_mixed = sources.len() > 1 && weighed.is_some();
        if let Some(source) = weighed.filter(|_| sources.len() > MAX_MIXED) {
            let told = format!(
                "one of {} sources that are mixed by `weight`, and at most {MAX_MIXED} can be; put those of one weight into a folder",
                sources.len()
            );
            walk.faults.add(&source.path, None, FaultKind::Choice(told));
        }
        // The reader of the first source hands on nothing if there are faults already, and looks for more.
        let mut faults = Some(std::mem::take(&mut walk.faults));
        let lanes = if is_mixed && sources.len() <= MAX_MIXED {
            let mut files = files;
            let lane = |(idx, source): (usize, &SourcePlan)| {
                let later = files.split_off(files.partition_point(|file| file.source <= idx));
                let own = std::mem::replace(&mut files, later);
                Lane::new(sources, own, on_bad_row, (source, faults.take()))
            };
            sources.iter().enumerate().map(lane).collect()
        } else {
            let first = sources.first().cloned().unwrap_or_default();
            let begun = (&first, faults.take());
            vec![Lane::new(sources, files, on_bad_row, begun)]
        };
        Self {
            sources: sources.to_vec(),
            walk,
            num_files,
            lanes,
            is_mixed,
            has_ended: false,
        }
    }

    /// Ends reading, and tells all faults of what was read.
    pub(in crate::data) fn finish(mut self) -> Result<ReadFacts, SourceError> {
        let mut faults = Faults::default();
        let mut facts = ReadFacts {
            skipped: std::mem::take(&mut self.walk.skipped),
            bad_rows: Faults::default().into_bad_rows(),
            notes: std::mem::take(&mut self.walk.notes),
            mixed: Vec::new(),
        };
        let mut read = Vec::new();
        for lane in &mut self.lanes {
            lane.receiver = None; // a reader that has more to hand on ends
            let thread = lane
                .thread
                .take()
                .map(|thread| thread.map(JoinHandle::join));
            match thread {
                Some(Ok(Ok(collected))) => read.push(collected),
                Some(Ok(Err(panicked))) => panic::resume_unwind(panicked),
                Some(Err(error)) => {
                    let path = Path::new(&lane.count.path);
                    faults.add(path, None, FaultKind::Unreadable(error));
                }
                None => {}
            }
        }
        for collected in &mut read {
            faults.append(std::mem::take(&mut collected.faults));
        }
        faults.finish()?;
        let mut all = Collected::joined(read);
        all.check(|| no_text(&self.sources, self.num_files, self.walk.passed_over.clone()))?;
        facts.skipped.extend(all.skipped);
        facts.bad_rows = all.bad_rows.into_bad_rows();
        facts.notes.extend(all.choices.into_notes());
        if self.is_mixed {
            facts.mixed = self.lanes.into_iter().map(|lane| lane.count).collect();
        }
        Ok(facts)
    }
}

impl Iterator for DocumentStream {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        if self.has_ended {
            return None;
        }
        let given = |lane: &Lane| lane.count.bytes as f64 / lane.weight;
        let next = self.lanes.iter_mut().reduce(|best, lane| {
            if given(lane) < given(best) {
                lane
            } else {
                best
            }
        });
        let document = next.and_then(Lane::next);
        self.has_ended = document.is_none();
        document
    }
}

impl Lane {
    fn new(
        sources: &[SourcePlan],
        files: Vec<SourceFile>,
        on_bad_row: OnBadRow,
        (source, faults): (&SourcePlan, Option<Faults>),
    ) -> Self {
        let (sender, receiver) = sync_channel(BLOCKS_AHEAD);
        let sources = sources.to_vec();
        let thread = thread::Builder::new().spawn(move || {
            let mut reader = Reader::new(&sources, on_bad_row);
            // Faults of plans are told once, by the first reader.
            let of_plans = std::mem::take(&mut reader.found.faults);
            if let Some(mut faults) = faults {
                faults.append(of_plans);
                reader.found.faults = faults;
            }
            reader.found = reader.found.to(sender);
            for file in &files {
                if reader.found.is_closed() {
                    break;
                }
                if let Err(kind) = reader.read_whole(file) {
                    reader.found.faults.add(&file.path, None, kind);
                }
            }
            reader.found.end()
        });
        Self {
            receiver: Some(receiver),
            thread: Some(thread),
            block: Vec::new().into_iter(),
            weight: source.weight.unwrap_or(1.0),
            count: SourceCount {
                path: source.path.display().to_string(),
                weight: source.weight.unwrap_or(1.0),
                ..SourceCount::default()
            },
        }
    }

    fn next(&mut self) -> Option<Document> {
        let receiver = self.receiver.as_ref()?;
        let block = &mut self.block;
        let mut blocks = iter::from_fn(|| {
            if block.len() == 0 {
                *block = receiver.recv().ok()?.into_iter();
            }
            block.next()
        });
        let document = blocks.next();
        match &document {
            Some(document) => {
                self.count.documents += 1;
                self.count.bytes += document.num_bytes();
            }
            None => self.count.has_ended = true,
        }
        document
    }
}
