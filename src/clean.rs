//! What runs have left in their output folders, and no recipe needs any more.
//!
//! Only folders and files are named here that alambic made: a stage's folder says by its own `artifact.json` or `stage.json` which
//! stage of which key it is, and its name must agree.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::{self, CacheError};
use crate::estimate::size_of;
use crate::files::{UnfinishedDir, with_path};
use crate::opened::{ARTIFACT_FILE, STAGE_FILE};
use crate::plan::Plan;
use crate::run::{FolderLock, RunError, lock};
use crate::stages::{Stages, stage_of};
use crate::train::state::is_state;

/// Names of the folders in which a cache's rows are locked while a run reads them.
const SPLITS: [&str; 2] = ["train", "validation"];

/// Something that can be removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leftover {
    /// Folder or file.
    pub path: PathBuf,
    /// Kind of it, in words.
    pub what: &'static str,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// What was found in the folders of some recipes.
#[derive(Debug, Default, Serialize)]
pub struct Leftovers {
    /// Everything that none of the recipes needs, by path.
    pub found: Vec<Leftover>,
    /// Facts that the user should know.
    pub notes: Vec<String>,
    /// Locks on the folders that were searched, so that no run fills them until this value is dropped.
    #[serde(skip)]
    locks: Vec<FolderLock>,
    #[serde(skip)]
    cache_locks: Vec<File>,
}

/// Looks for what none of these recipes needs, and holds the folders of the recipes meanwhile.
///
/// Rows and caches are shared by all recipes of an output folder. So they are only listed if every run there is of a recipe that
/// is given.
///
/// # Errors
///
/// [`RunError::Locked`] if a run of one of the recipes is at work.
pub fn find(recipes: &[(Plan, Stages)]) -> Result<Leftovers, RunError> {
    let mut leftovers = Leftovers::default();
    let run_dirs: BTreeSet<&Path> = recipes.iter().map(|(_, stages)| &*stages.run_dir).collect();
    let outputs: BTreeSet<&Path> = recipes.iter().map(|(plan, _)| &*plan.output).collect();
    let needed: BTreeSet<&Path> = recipes
        .iter()
        .flat_map(|(_, stages)| stages.all())
        .map(|stage| &*stage.dir)
        .collect();
    for dir in run_dirs.iter().filter(|dir| dir.is_dir()) {
        leftovers.locks.push(lock(dir)?);
        for path in folders_in(dir)? {
            leftovers.found.extend(of_run(&path, &needed)?);
        }
    }
    for output in outputs.iter().filter(|output| output.is_dir()) {
        leftovers.of_output(output, &run_dirs, &needed)?;
    }
    leftovers.found.sort();
    Ok(leftovers)
}

impl Leftovers {
    /// Adds the rows and caches of an output folder that no recipe needs.
    fn of_output(
        &mut self,
        output: &Path,
        run_dirs: &BTreeSet<&Path>,
        needed: &BTreeSet<&Path>,
    ) -> Result<(), RunError> {
        let (mut shared, mut others) = (Vec::new(), Vec::new());
        for path in folders_in(output)? {
            match stage_of(&path).as_deref() {
                Some(stage @ ("data" | "cache")) if !needed.contains(&*path) => {
                    let what = if stage == "data" { "rows" } else { "cache" };
                    shared.push((path, what));
                }
                None if is_run(&path)? && !run_dirs.contains(&*path) => others.push(path),
                Some(_) | None => {}
            }
        }
        if let (Some(other), false) = (others.first(), shared.is_empty()) {
            self.notes.push(format!(
                "rows and caches in `{}` are kept: `{}` belongs to a recipe that was not named, and may need them",
                output.display(),
                other.display()
            ));
            return Ok(());
        }
        for (path, what) in shared {
            match holds(&path) {
                Ok((lock, of_cache)) => {
                    self.locks.push(lock);
                    self.cache_locks.extend(of_cache);
                    let bytes = size_of(&path);
                    self.found.push(Leftover { path, what, bytes });
                }
                Err(RunError::Locked { dir } | RunError::Cache(CacheError::Locked { dir })) => {
                    self.notes.push(format!("`{}` is in use", dir.display()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Bytes of everything that was found.
    pub fn num_bytes(&self) -> u64 {
        self.found.iter().map(|found| found.bytes).sum()
    }

    /// Deletes everything that was found.
    pub fn remove(&self) -> io::Result<()> {
        for Leftover { path, .. } in &self.found {
            if path.is_dir() {
                remove_folder(path)?;
            } else {
                fs::remove_file(path).map_err(|error| with_path(error, path))?;
            }
        }
        Ok(())
    }
}

/// What a folder in that of a recipe has which no recipe needs: all of it, or the states of a finished pass.
fn of_run(path: &Path, needed: &BTreeSet<&Path>) -> io::Result<Vec<Leftover>> {
    if let Some(target) = unfinished_target(path) {
        let is_needed = needed.contains(&*target) && !target.join(ARTIFACT_FILE).exists();
        return Ok(Vec::from_iter((!is_needed).then(|| Leftover {
            path: path.to_path_buf(),
            what: "unfinished stage",
            bytes: size_of(path),
        })));
    }
    if stage_of(path).is_none() {
        return Ok(Vec::new());
    }
    if !needed.contains(path) {
        return Ok(vec![Leftover {
            path: path.to_path_buf(),
            what: "stage",
            bytes: size_of(path),
        }]);
    }
    if !path.join(ARTIFACT_FILE).exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(path).map_err(|error| with_path(error, path))?;
    let states = entries.flatten().filter(|entry| {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        is_file && is_state(Path::new(&entry.file_name()))
    });
    Ok(states
        .map(|entry| Leftover {
            bytes: size_of(&entry.path()),
            path: entry.path(),
            what: "state of a finished pass",
        })
        .collect())
}

/// Folder that an unfinished one would become, if it is a stage's.
fn unfinished_target(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_prefix("unfinished-")?;
    let target = path.with_file_name(name);
    let is_its = UnfinishedDir::at(&target).is_ok_and(|unfinished| unfinished == path);
    (is_its && crate::stages::is_noted_as(path, name)).then_some(target)
}

/// True if a folder is that of a recipe's own stages.
fn is_run(path: &Path) -> io::Result<bool> {
    let folders = folders_in(path)?;
    Ok(folders
        .iter()
        .any(|folder| stage_of(folder).is_some() || unfinished_target(folder).is_some()))
}

/// Folders in a folder; links are none.
fn folders_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Locks of the rows or the cache in a folder.
fn holds(dir: &Path) -> Result<(FolderLock, Vec<File>), RunError> {
    let lock = lock(dir)?;
    let splits = SPLITS.map(|split| dir.join(split)).into_iter();
    let of_cache = splits.filter(|split| split.is_dir());
    let of_cache = of_cache.map(|split| cache::hold(&split));
    Ok((lock, of_cache.collect::<Result<_, _>>()?))
}

/// Deletes a folder, and last the files by which it is known: what a killed process leaves is found again.
fn remove_folder(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        if name == ARTIFACT_FILE || name == STAGE_FILE {
            continue;
        }
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|error| with_path(error, &path))?;
    }
    fs::remove_dir_all(dir).map_err(|error| with_path(error, dir))
}
