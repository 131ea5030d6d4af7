//! Models and data of the hub that a recipe or a command names by their ids: found in the cache, or fetched.
//!
//! Here alone an id becomes a path. Behind this module a plan has paths only, and [`hub::origin`](crate::hub::origin) tells
//! the commit of each that is the hub's.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::data::{SourcePlan, TokenizerPlan, files_of_plan, with_rows};
use crate::diag::Diagnostic;
use crate::hub::{
    Choose, Hub, HubError, HubEvent, HubFile, HubId, RepoKind, RepoPart, Snapshot, WantedFiles,
};
use crate::kept::{self, Kept};
use crate::plan::{self, Plan};
use crate::progress::{self, Progress};
use crate::recipe::RecipeFaults;
use crate::shell::quoted;
use crate::student::StudentSource;

/// Treatment of what is not on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is fetched.
    Fetch,
    /// It is told, with its size and the command that fetches it.
    Tell,
}

/// Use of an id.
#[derive(Debug, Clone, PartialEq)]
pub enum HubItem {
    /// A model.
    Model,
    /// A tokenizer alone.
    Tokenizer,
    /// The data that a source reads.
    Rows(SourcePlan),
    /// All data of a repository.
    AllRows,
}

impl HubItem {
    /// Kind of the repository.
    pub fn kind(&self) -> RepoKind {
        match self {
            Self::Model | Self::Tokenizer => RepoKind::Model,
            Self::Rows(_) | Self::AllRows => RepoKind::Dataset,
        }
    }

    /// Command that fetches it.
    fn command(&self, id: &HubId) -> String {
        let mut command = format!("alambic fetch {}", quoted(&id.to_string()));
        if self.kind() == RepoKind::Dataset {
            command.push_str(" --dataset");
        }
        if let Self::Rows(source) = self {
            for (option, value) in [("config", &source.config), ("split", &source.split)] {
                if let Some(value) = value {
                    command.extend([" --", option, " ", &quoted(value)]);
                }
            }
        }
        command
    }

    /// Calls a function with the part of a repository that is meant.
    fn part<T>(&self, id: &HubId, call: impl FnOnce(RepoPart<'_>) -> T) -> T {
        let of_plan = |plan: &SourcePlan, folder: &Path, files: &[HubFile]| {
            let files: Vec<(&str, u64)> = files
                .iter()
                .map(|file| (file.path.as_str(), file.num_bytes.unwrap_or_default()))
                .collect();
            files_of_plan(plan, folder, &files).map_err(|fault| HubError::Rows {
                repo: id.id.clone(),
                fact: fault.to_string(),
            })
        };
        let choose: Choose<'_> = match self {
            Self::Model => return call(RepoPart::Model),
            Self::Tokenizer => return call(RepoPart::Tokenizer),
            Self::Rows(plan) => &move |folder, files| of_plan(plan, folder, files),
            Self::AllRows => &|_, files| Ok(with_rows(files.iter().map(|file| file.path.as_str()))),
        };
        call(RepoPart::Data(choose))
    }
}

/// Downloads that are shown: one bar for the bytes of all, and lines for their waits.
#[derive(Debug, Default)]
pub struct Shown {
    bar: Option<Progress>,
    name: String,
    /// Bytes of all downloads.
    total: u64,
    /// Bytes of the finished downloads, and those of them that were there before.
    finished: [u64; 2],
    /// The same of the one that runs.
    running: [u64; 2],
    /// Time of the last line about a wait.
    told: Option<Instant>,
}

impl Shown {
    /// Time between two lines about a wait.
    const INTERVAL: Duration = Duration::from_secs(5);

    /// Shows what happens.
    fn show(&mut self, event: HubEvent<'_>) {
        let text = match event {
            HubEvent::Bytes {
                done,
                total,
                before,
            } => {
                let Some(bar) = &mut self.bar else {
                    return; // small files, which say which large ones are wanted
                };
                bar.message(&self.name);
                self.running = [total, before];
                let [finished, finished_before] = self.finished;
                let all = self.total.max(finished + total);
                return bar.set(finished + done, all, finished_before + before);
            }
            HubEvent::Waits { left, why } => {
                format!("{why}; the next try is in {} s", left.as_secs() + 1)
            }
            HubEvent::Locked { file } => {
                format!("another program fetches `{file}`; waiting for it")
            }
        };
        if let Some(bar) = &mut self.bar {
            bar.message(&text);
            bar.advance(0);
        } else if self
            .told
            .is_none_or(|told| told.elapsed() >= Self::INTERVAL)
        {
            self.told = Some(Instant::now());
            progress::log(&format!("fetch: {text}"));
        }
    }

    /// Fetches what is wanted of repositories, one after another, and writes the remarks on them.
    fn fetch(
        &mut self,
        wanted: Vec<WantedFiles<'_>>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Snapshot>, (usize, HubError)> {
        self.total = wanted.iter().map(|wanted| wanted.left().1).sum();
        let mut snapshots = Vec::new();
        for (place, wanted) in wanted.into_iter().enumerate() {
            if wanted.left().1 > 0 && self.bar.is_none() {
                self.bar = Some(Progress::of_bytes("fetch", self.total));
            }
            wanted.id().clone_into(&mut self.name);
            let fetched = wanted.fetch(&mut |event| self.watch(event, stop));
            snapshots.push(fetched.map_err(|error| (place, error))?);
            let running = std::mem::take(&mut self.running);
            for (finished, more) in self.finished.iter_mut().zip(running) {
                *finished += more;
            }
        }
        if let Some(mut bar) = self.bar.take() {
            bar.message("");
            bar.finish();
        }
        for snapshot in &snapshots {
            progress::log_notes(&snapshot.notes);
        }
        Ok(snapshots)
    }

    fn watch(&mut self, event: HubEvent<'_>, stop: &dyn Fn() -> bool) -> ControlFlow<()> {
        self.show(event);
        if stop() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Fetches an item, until `stop` is true.
pub fn fetch(
    id: &HubId,
    item: &HubItem,
    missing: Missing,
    stop: &dyn Fn() -> bool,
) -> Result<Snapshot, HubError> {
    let hub = hub(missing)?;
    let mut shown = Shown::default();
    let mut watch = |event: HubEvent<'_>| shown.watch(event, stop);
    let wanted = item.part(id, |part| hub.open(id, part, &mut watch))?;
    let fetched = shown.fetch(vec![wanted], stop);
    let mut snapshots = fetched.map_err(|(_, error)| error)?;
    Ok(snapshots.remove(0))
}

/// The path that an argument of a command means: itself, or that of a model or of data of the hub if it is an id.
pub fn argument(path: &Path, item: &HubItem, missing: Missing) -> Result<PathBuf, HubError> {
    let text = path.to_str();
    let id = text.and_then(|text| HubId::recognise(text, Path::new("")));
    let Some(id) = id else {
        return Ok(path.to_path_buf());
    };
    let id = id.map_err(|why| HubError::NoId {
        text: path.display().to_string(),
        why,
    })?;
    Ok(fetch(&id, item, missing, &|| false)?.path)
}

fn hub(missing: Missing) -> Result<Hub, HubError> {
    let hub = Hub::from_env()?;
    Ok(match missing {
        Missing::Fetch => hub,
        Missing::Tell => hub.looking(),
    })
}

/// Loads the plan of a recipe, as [`kept::load_plan`] does, with paths in the places of ids.
///
/// If nothing else is wrong with the recipe, every id is looked at before anything large is fetched, so that one that is
/// wrong is told at once. If a cache keeps what is needed of the teacher and the texts, these are not fetched.
pub fn load_plan(
    path: &Path,
    overrides: &[String],
    missing: Missing,
) -> Result<Plan, RecipeFaults> {
    let mut plan = kept::load_plan(path, overrides)?;
    let mut places = Vec::new();
    each_place(&mut plan, |path, keys, item| {
        let id = HubId::of_path(path);
        places.extend(id.map(|id| Place { keys, id, item }));
    });
    if places.is_empty() {
        return Ok(plan);
    }
    let search = Search {
        plan: &plan,
        overrides,
        places: &places,
        kept: Kept::find(&plan),
        missing,
    };
    let paths = search.paths()?;
    let kept = search.kept;
    let mut paths = paths.into_iter();
    each_place(&mut plan, |path, _, _| {
        if HubId::of_path(path).is_some()
            && let Some(Some(found)) = paths.next()
        {
            *path = found;
        }
    });
    if let Some(kept) = kept {
        kept.pin(&mut plan);
    }
    Ok(plan)
}

/// An id of a plan.
struct Place {
    /// Keys that it may stand at; the first that is written is meant.
    keys: Vec<String>,
    id: HubId,
    item: HubItem,
}

/// Visits each path of a plan that may be an id.
fn each_place(plan: &mut Plan, mut visit: impl FnMut(&mut PathBuf, Vec<String>, HubItem)) {
    let key = |key: &str| vec![key.to_owned()];
    if let Some(teacher) = &mut plan.teacher {
        let keys = key("teacher.checkpoint");
        visit(&mut teacher.checkpoint, keys, HubItem::Model);
    }
    if let StudentSource::Checkpoint(path) = &mut plan.student.source {
        visit(path, key("student.checkpoint"), HubItem::Model);
    }
    if let TokenizerPlan::File(path) = &mut plan.data.tokenizer {
        visit(path, key("data.tokenizer.file"), HubItem::Tokenizer);
    }
    let texts = [
        ("data.train", &mut plan.data.train),
        ("data.validation", &mut plan.data.validation),
    ];
    for (key, sources) in texts {
        for (idx, source) in sources.iter_mut().enumerate() {
            let keys = [
                format!("{key}.{idx}.path"),
                format!("{key}.{idx}"),
                key.to_owned(),
            ];
            let item = HubItem::Rows(source.clone());
            visit(&mut source.path, keys.to_vec(), item);
        }
    }
}

/// Search for the ids of a plan.
struct Search<'a> {
    plan: &'a Plan,
    overrides: &'a [String],
    places: &'a [Place],
    kept: Option<Kept>,
    missing: Missing,
}

impl Search<'_> {
    /// A path for each place; `None` for what need not be on this machine.
    fn paths(&self) -> Result<Vec<Option<PathBuf>>, RecipeFaults> {
        let hub = match hub(self.missing) {
            Ok(hub) => hub,
            Err(error) => return Err(self.fault(0, &error)),
        };
        let mut shown = Shown::default();
        let looked = self.look(&hub, &mut shown)?;
        let mut paths: Vec<Option<PathBuf>> = Vec::new();
        let (mut wanted, mut of_wanted) = (Vec::new(), Vec::new());
        for (idx, looked) in looked.into_iter().enumerate() {
            paths.push(None);
            if let Some(one) = looked {
                wanted.push(one);
                of_wanted.push(idx);
            }
        }
        let fetched = shown.fetch(wanted, &|| false);
        let fetched = fetched.map_err(|(place, error)| self.fault(of_wanted[place], &error))?;
        for (idx, snapshot) in of_wanted.into_iter().zip(fetched) {
            paths[idx] = Some(snapshot.path);
        }
        Ok(paths)
    }

    /// Looks at all ids; see [`Search::look_at`]. Ids of one repository and revision are of one commit.
    fn look<'h>(
        &self,
        hub: &'h Hub,
        shown: &mut Shown,
    ) -> Result<Vec<Option<WantedFiles<'h>>>, RecipeFaults> {
        let mut commits: Vec<(RepoKind, &HubId, String)> = Vec::new();
        let mut faults: Vec<RecipeFaults> = Vec::new();
        let mut found = Vec::new();
        for (idx, place) in self.places.iter().enumerate() {
            let Place { id, item, .. } = place;
            let is_same = |(kind, other, _): &&(RepoKind, &HubId, String)| {
                *kind == item.kind() && other.id == id.id && other.revision() == id.revision()
            };
            let asked = match commits.iter().find(is_same) {
                Some((_, _, commit)) => id.pinned(commit),
                None => id.clone(),
            };
            match self.look_at(hub, place, &asked, shown) {
                Ok(looked) => {
                    if let Some(wanted) = &looked {
                        commits.push((item.kind(), id, wanted.commit().to_owned()));
                    }
                    found.push(looked);
                }
                Err(error) => {
                    faults.push(self.fault(idx, &error));
                    if matches!(error, HubError::Unreachable { .. }) {
                        break; // the next one would be waited for, too
                    }
                }
            }
        }
        match faults.into_iter().reduce(RecipeFaults::and) {
            Some(faults) => Err(faults),
            None => Ok(found),
        }
    }

    /// Looks at an id, at the commit that is `asked` for; `None` if it is not on this machine, and need not be.
    fn look_at<'h>(
        &self,
        hub: &'h Hub,
        Place { id, item, .. }: &Place,
        asked: &HubId,
        shown: &mut Shown,
    ) -> Result<Option<WantedFiles<'h>>, HubError> {
        let is_input = self.is_teacher(id) || matches!(item, HubItem::Rows(_));
        if self.kept.is_some() && is_input && item.part(id, |part| hub.here(id, part))?.is_none() {
            return Ok(None);
        }
        let mut watch = |event: HubEvent<'_>| shown.watch(event, &|| false);
        let wanted = item.part(asked, |part| hub.open(asked, part, &mut watch))?;
        wanted.check()?;
        Ok(Some(wanted))
    }

    fn is_teacher(&self, id: &HubId) -> bool {
        let teacher = self.plan.teacher.as_ref();
        let teacher = teacher.and_then(|teacher| HubId::of_path(&teacher.checkpoint));
        teacher.is_some_and(|teacher| teacher == *id)
    }

    /// An error of the hub, at the key of the recipe.
    fn fault(&self, idx: usize, error: &HubError) -> RecipeFaults {
        let place = &self.places[idx];
        let mut label = "an id of the hub";
        let mut help = error.help();
        let message = match error {
            HubError::NotFetched {
                kind,
                num_files,
                num_bytes,
                ..
            } => {
                let command = place.item.command(&place.id);
                help = Some(format!(
                    "`{command}` fetches it, and so does `alambic run` before it begins"
                ));
                let error = HubError::NotFetched {
                    reference: place.id.to_string(),
                    kind: *kind,
                    num_files: *num_files,
                    num_bytes: *num_bytes,
                };
                error.to_string()
            }
            error => error.to_string(),
        };
        if let HubError::RepoNotFound { .. }
        | HubError::Unreachable { .. }
        | HubError::Offline { .. } = error
        {
            label = "no path of this name is here, so it is an id of the hub";
        }
        let id = error.id();
        let at = |key: &String| {
            let mut fault = Diagnostic::new(id, message.clone());
            if let Some(help) = &help {
                fault = fault.help(help);
            }
            plan::fault_at(self.plan, self.overrides, key, label, fault)
        };
        let mut faults = place.keys.iter().map(at);
        let has_place = |faults: &RecipeFaults| {
            let mut diagnostics = faults.diagnostics.iter();
            diagnostics.any(|fault| !fault.labels.is_empty())
        };
        faults.find(has_place).unwrap_or_else(|| at(&place.keys[0]))
    }
}
