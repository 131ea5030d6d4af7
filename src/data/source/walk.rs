//! Paths to the files that are read, in one fixed order.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::container::{Compression, Container};
use super::fault::{FaultKind, Faults, shown};
use super::hub::{self, Config};
use super::plan::SourcePlan;
use super::saved;
use super::shards;
use super::skipped::{PassedOver, SkipReason, Skipped};

/// A file that is read.
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) container: Container,
    pub(super) compression: Compression,
    /// Index of the source that it is of.
    pub(super) source: usize,
}

/// Result of a search for files.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) faults: Faults,
    pub(super) skipped: Vec<Skipped>,
    pub(super) passed_over: Vec<PassedOver>,
    pub(super) notes: Vec<String>,
    /// Folders that were read, each with the plan that it was read by: another split of one folder is another source.
    folders: HashSet<(Vec<u8>, PathBuf)>,
    key: Vec<u8>,
}

/// A file of a folder that may be read.
struct Candidate {
    path: PathBuf,
    container: Container,
    compression: Compression,
    num_bytes: u64,
    fault: Option<FaultKind>,
    split: Option<String>,
}

/// Files of a folder.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    others: Vec<PathBuf>,
}

impl Walk {
    /// Files of all sources, in their order.
    pub(super) fn find(&mut self, sources: &[SourcePlan]) -> Vec<SourceFile> {
        let mut files = Vec::new();
        for (source, plan) in sources.iter().enumerate() {
            let path = &plan.path;
            self.key = plan.key();
            match fs::metadata(path) {
                Err(error) => self.faults.add(path, None, error.into()),
                Ok(metadata) if metadata.is_dir() => {
                    let candidates = self.folder(plan).unwrap_or_else(|fault| {
                        self.faults.add(path, None, fault);
                        Vec::new()
                    });
                    for candidate in candidates {
                        match candidate.fault {
                            Some(fault) => self.faults.add(&candidate.path, None, fault),
                            None => files.push(candidate.of(source)),
                        }
                    }
                }
                Ok(metadata) => match file(plan, metadata.is_file()) {
                    Ok(candidate) => files.push(candidate.of(source)),
                    Err(fault) => self.faults.add(path, None, fault),
                },
            }
        }
        files
    }

    /// Files of a folder that are read, in the byte order of their relative paths.
    fn folder(&mut self, plan: &SourcePlan) -> Result<Vec<Candidate>, FaultKind> {
        let folder = &plan.path;
        if let Some(splits) = saved::splits(folder)? {
            let names = splits.into_iter().collect();
            let split = choose_split(plan.split.as_deref(), &names)?;
            let inside = match split {
                None => folder.clone(),
                Some(split) => saved::split_folder(folder, &split)?,
            };
            if !self.enter(&inside) {
                return Ok(Vec::new());
            }
            return match saved::data_files(&inside)? {
                Some(saved) => Ok(of_saved(saved)),
                None => Err(FaultKind::Damaged(format!(
                    "`{}` has no files of `save_to_disk`",
                    inside.display()
                ))),
            };
        }
        let mut found = Found::default();
        if !self.enter(folder) {
            return Ok(Vec::new());
        }
        self.list(folder, &mut found);
        let read = self.choose(plan, found)?;
        let paths = read.iter().map(|candidate| candidate.path.as_path());
        for fault in shards::missing(folder, paths) {
            self.faults.add(folder, None, fault);
        }
        Ok(read)
    }

    /// Files of a repository that would be read if all of them were in the folder of a plan, which has the README.
    pub(super) fn wanted(
        plan: &SourcePlan,
        files: &[(PathBuf, u64)],
    ) -> Result<Vec<PathBuf>, FaultKind> {
        let mut found = Found::default();
        for (inside, num_bytes) in files {
            let path = plan.path.join(inside);
            match Container::of(inside) {
                Some(kind) => found
                    .candidates
                    .push(Candidate::new(path, kind, *num_bytes)),
                None => found.others.push(path),
            }
        }
        let read = Self::default().choose(plan, found)?;
        Ok(read.into_iter().map(|candidate| candidate.path).collect())
    }

    /// Files that are read, of those that were found: of one configuration, kind and split.
    fn choose(&mut self, plan: &SourcePlan, mut found: Found) -> Result<Vec<Candidate>, FaultKind> {
        let folder = &plan.path;
        // Sorted by the whole relative path: `a-b/x.txt` comes before `a/x.txt`.
        let key = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        found
            .candidates
            .sort_by_cached_key(|candidate| key(&candidate.path));
        let mut found = self.of_configs(plan, found)?;
        let chosen = chosen_kind(&found.candidates);
        let (mut read, rest) = partition(found.candidates, |candidate| {
            chosen.has(candidate.container)
        });
        found
            .others
            .extend(rest.into_iter().map(|candidate| candidate.path));
        found.others.sort_by_cached_key(|path| key(path));
        self.pass_over(folder, chosen.others(), found.others);
        let unpacked: HashSet<_> = read
            .iter()
            .map(|candidate| candidate.path.clone())
            .collect();
        let is_twin = |candidate: &Candidate| {
            candidate.compression != Compression::None
                && unpacked.contains(&candidate.path.with_extension(""))
        };
        let twins;
        (twins, read) = partition(read, is_twin);
        let twins = twins.into_iter().map(|candidate| candidate.path);
        self.pass_over(
            folder,
            "compressed, and read unpacked beside it",
            twins.collect(),
        );
        self.of_split(plan, read, chosen)
    }

    /// Files of the configuration that is named, or that is the only one, with their splits.
    fn of_configs(&mut self, plan: &SourcePlan, mut found: Found) -> Result<Found, FaultKind> {
        let configs = hub::configs(&plan.path)?;
        if configs.is_empty() {
            if let Some(named) = &plan.config {
                return Err(FaultKind::Choice(format!(
                    "no configuration `{}`: the folder has no README.md that lists any",
                    shown(named)
                )));
            }
            for candidate in &mut found.candidates {
                let inside = candidate.path.strip_prefix(&plan.path);
                // A saved split has said its name itself.
                let by_name = || hub::split_of(inside.unwrap_or(&candidate.path));
                candidate.split = candidate.split.take().or_else(by_name);
            }
            return Ok(found);
        }
        let num_configs = configs.len();
        let config = Config::choose(configs, plan.config.as_deref())?;
        if num_configs > 1 && plan.config.is_none() {
            self.notes.push(format!(
                "`{}` is read in its default configuration `{}`, one of {num_configs}; `config` picks another",
                plan.path.display(),
                shown(config.name())
            ));
        }
        let (mut own, mut rest) = (Vec::new(), Vec::new());
        for mut candidate in found.candidates {
            let inside = candidate.path.strip_prefix(&plan.path);
            candidate.split = config.split_of(inside.unwrap_or(&candidate.path));
            match candidate.split {
                Some(_) => own.push(candidate),
                None => rest.push(candidate.path),
            }
        }
        let reason = format!("not of configuration `{}`", shown(config.name()));
        self.pass_over(&plan.path, &reason, rest);
        let names: BTreeSet<_> = own.iter().filter_map(|found| found.split.clone()).collect();
        let wanted = plan.split.as_deref();
        let mut missing = config.splits().filter(|split| !names.contains(*split));
        if let Some(split) = missing.find(|split| own.is_empty() || wanted == Some(split)) {
            return Err(FaultKind::Choice(format!(
                "its README.md has files for split `{}`, and none that can be read is here; fetch the whole folder",
                shown(split)
            )));
        }
        if plan.split.is_none() && names.len() > 1 {
            choose_split(None, &names)?;
        }
        let is_read = |split: &&String| {
            wanted.is_none_or(|wanted| *split == hub::canonical(wanted) || *split == wanted)
        };
        for split in names.iter().filter(is_read) {
            let has = |path: &Path| {
                let mut all = own.iter().map(|candidate| &candidate.path);
                all.any(|own| own == path) || found.others.iter().any(|other| other == path)
            };
            check_listed(&config, split, &plan.path, has)?;
        }
        found.candidates = own;
        Ok(found)
    }

    /// Files of the split that is named. Where none is, a folder that has several is refused, unless it is one of texts: such
    /// folders have always been read with everything below them.
    fn of_split(
        &mut self,
        plan: &SourcePlan,
        read: Vec<Candidate>,
        chosen: Chosen,
    ) -> Result<Vec<Candidate>, FaultKind> {
        let names: BTreeSet<_> = read
            .iter()
            .filter_map(|found| found.split.clone())
            .collect();
        if plan.split.is_none() && chosen.is_lines() {
            if names.len() > 1 {
                self.notes.push(format!(
                    "all of `{}` is read, splits {} together; `split` picks one",
                    plan.path.display(),
                    listed(&names)
                ));
            }
            return Ok(read);
        }
        let Some(split) = choose_split(plan.split.as_deref(), &names)? else {
            return Ok(read);
        };
        let (own, others) = partition(read, |found| found.split.as_ref() == Some(&split));
        if plan.split.is_none() {
            // One split alone is named, and files that name none belong to it as well as to any other.
            return Ok(merged(own, others));
        }
        let others = others.into_iter().map(|candidate| candidate.path);
        let reason = format!("not of split `{}`", shown(&split));
        self.pass_over(&plan.path, &reason, others.collect());
        Ok(own)
    }

    fn pass_over(&mut self, folder: &Path, reason: &str, paths: Vec<PathBuf>) {
        let mut passed_over = PassedOver::new(folder, reason);
        for path in &paths {
            passed_over.add(path);
        }
        let found = Some(passed_over).filter(|found| found.num_files > 0);
        self.passed_over.extend(found);
    }

    /// True for a folder that was not read before, under this or another name.
    fn enter(&mut self, folder: &Path) -> bool {
        match fs::canonicalize(folder) {
            Err(error) => {
                self.faults.add(folder, None, error.into());
                false
            }
            Ok(real) => {
                let is_new = self.folders.insert((self.key.clone(), real));
                if !is_new {
                    self.skipped.push(Skipped {
                        path: folder.to_path_buf(),
                        row: None,
                        reason: SkipReason::ReadBefore,
                        num_more: 0,
                    });
                }
                is_new
            }
        }
    }

    fn walk(&mut self, folder: &Path, found: &mut Found) {
        if self.enter(folder) {
            self.list(folder, found);
        }
    }

    fn list(&mut self, folder: &Path, found: &mut Found) {
        match saved::data_files(folder) {
            Ok(None) => {}
            Ok(Some(saved)) => return found.candidates.extend(of_saved(saved)),
            Err(fault) => return self.faults.add(folder, None, fault),
        }
        let entries = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut entries: Vec<PathBuf> = match entries {
            Ok(entries) => entries,
            Err(error) => return self.faults.add(folder, None, error.into()),
        };
        entries.sort(); // decides under which name a linked folder is entered
        for path in entries.into_iter().filter(|path| !is_hidden(path)) {
            match (fs::metadata(&path), Container::of(&path)) {
                (Ok(metadata), _) if metadata.is_dir() => self.walk(&path, found),
                (Ok(metadata), Some(kind)) if metadata.is_file() => {
                    found
                        .candidates
                        .push(Candidate::new(path, kind, metadata.len()));
                }
                (Err(error), Some(kind)) => found.candidates.push(Candidate {
                    fault: Some(error.into()),
                    ..Candidate::new(path, kind, 0)
                }),
                (Ok(_), _) | (Err(_), None) => found.others.push(path),
            }
        }
    }
}

impl Candidate {
    fn new(
        path: PathBuf,
        (container, compression): (Container, Compression),
        num_bytes: u64,
    ) -> Self {
        Self {
            path,
            container,
            compression,
            num_bytes,
            fault: None,
            split: None,
        }
    }

    fn of(self, source: usize) -> SourceFile {
        SourceFile {
            path: self.path,
            container: self.container,
            compression: self.compression,
            source,
        }
    }
}

/// A file that was named itself.
fn file(plan: &SourcePlan, is_file: bool) -> Result<Candidate, FaultKind> {
    let kind = Container::of(&plan.path).filter(|_| is_file);
    let kind = kind.ok_or(FaultKind::UnknownFormat)?;
    for (key, value) in [("split", &plan.split), ("config", &plan.config)] {
        if let Some(value) = value {
            return Err(FaultKind::Choice(format!(
                "a file, of which `{key}: {}` picks nothing; name its folder, or take `{key}` out",
                shown(value)
            )));
        }
    }
    Ok(Candidate::new(plan.path.clone(), kind, 0))
}

/// Refuses a split that lists a file by its name which is not there.
fn check_listed(
    config: &Config,
    split: &str,
    folder: &Path,
    has: impl Fn(&Path) -> bool,
) -> Result<(), FaultKind> {
    let mut listed = config.listed(split);
    match listed.find(|path| !has(&folder.join(path))) {
        None => Ok(()),
        Some(path) => Err(FaultKind::Missing(format!(
            "its README.md lists `{}`, which is not here; {}",
            path.display(),
            shards::MEND
        ))),
    }
}

fn of_saved(saved: saved::Saved) -> Vec<Candidate> {
    let kind = (Container::Arrow, Compression::None);
    let of = |path: PathBuf| {
        let found = fs::metadata(&path);
        let num_bytes = found.as_ref().map_or(0, fs::Metadata::len);
        Candidate {
            fault: found.err().map(saved::unread),
            split: saved.split.clone(),
            ..Candidate::new(path, kind, num_bytes)
        }
    };
    saved.files.into_iter().map(of).collect()
}

/// Split that is meant; `None` if there are none to choose from.
fn choose_split(
    named: Option<&str>,
    names: &BTreeSet<String>,
) -> Result<Option<String>, FaultKind> {
    let Some(named) = named else {
        return match names.len() {
            0 | 1 => Ok(names.first().cloned()),
            _ => Err(FaultKind::Choice(format!(
                "has several splits; name one of them with `split`: {}",
                listed(names)
            ))),
        };
    };
    let found = [named, hub::canonical(named)]
        .into_iter()
        .find_map(|name| names.get(name));
    if found.is_some() {
        return Ok(found.cloned());
    }
    if names.is_empty() && hub::canonical(named) == "train" {
        return Ok(None); // what names no split is all for training, as `datasets` has it
    }
    Err(FaultKind::Choice(if names.is_empty() {
        format!("no split `{}`: its files name none", shown(named))
    } else {
        format!("no split `{}`; it has {}", shown(named), listed(names))
    }))
}

fn listed(names: &BTreeSet<String>) -> String {
    let names: Vec<_> = names
        .iter()
        .map(|name| format!("`{}`", shown(name)))
        .collect();
    names.join(", ")
}

/// Kinds of files that a folder is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Lines,
    One(Container),
}

impl Chosen {
    fn has(self, container: Container) -> bool {
        match self {
            Self::Lines => container.is_lines(),
            Self::One(own) => container == own,
        }
    }

    fn is_lines(self) -> bool {
        self == Self::Lines
    }

    /// Reason for passing over the others.
    fn others(self) -> &'static str {
        match self {
            Self::One(Container::Parquet) => "not `.parquet`",
            Self::One(Container::Arrow) => "not `.arrow`",
            Self::One(Container::Json) => "not `.json`",
            Self::Lines | Self::One(_) => "neither `.txt` nor `.jsonl`",
        }
    }
}

/// Chooses what a folder is read for: one kind, since many folders hold the same rows in several. It is the kind with the
/// most bytes; on a tie, and against `.json`, which describes data more often than it holds them, lines of text.
fn chosen_kind(candidates: &[Candidate]) -> Chosen {
    let bytes_of = |chosen: Chosen| {
        let own = candidates
            .iter()
            .filter(|found| chosen.has(found.container));
        own.clone().next()?;
        Some(own.map(|found| found.num_bytes).sum::<u64>())
    };
    let kinds = [
        Chosen::Lines,
        Chosen::One(Container::Parquet),
        Chosen::One(Container::Arrow),
    ];
    let mut best = None;
    for kind in kinds {
        if let Some(bytes) = bytes_of(kind)
            && best.is_none_or(|(_, most)| bytes > most)
        {
            best = Some((kind, bytes));
        }
    }
    let json = Chosen::One(Container::Json);
    match best {
        Some((kind, _)) => kind,
        None if bytes_of(json).is_some() => json,
        None => Chosen::Lines,
    }
}

fn partition(
    candidates: Vec<Candidate>,
    is_first: impl Fn(&Candidate) -> bool,
) -> (Vec<Candidate>, Vec<Candidate>) {
    candidates.into_iter().partition(is_first)
}

/// Two lists in the order of their paths.
fn merged(mut one: Vec<Candidate>, other: Vec<Candidate>) -> Vec<Candidate> {
    one.extend(other);
    one.sort_by_cached_key(|found| found.path.as_os_str().as_encoded_bytes().to_vec());
    one
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
