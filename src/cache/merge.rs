//! Parts of a cache → the cache.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::journal::{lock, remove_if_there};
use super::manifest::{CachePart, MANIFEST, Manifest, PROGRESS};
use super::{CacheError, ShardRecord};
use crate::files::{self, with_path};

/// Most missing parts that an error message lists.
const MOST_NAMED: usize = 8;

/// Joins the parts of one capture, given in any order, into a cache.
///
/// Each shard is compared with its checksum and copied unchanged, so the files equal those of an unsplit capture. The
/// manifest is written last: a merge that was killed is simply run again. Nothing is written unless the parts are
/// exactly those of one cache.
pub fn merge(parts: &[PathBuf], into: &Path) -> Result<Manifest, CacheError> {
    let manifests = parts
        .iter()
        .map(|dir| Ok((dir.as_path(), Manifest::load(dir)?)));
    let manifests: Vec<(&Path, Manifest)> = manifests.collect::<Result<_, CacheError>>()?;
    check_parts(&manifests)?;
    let shards = shards_in_order(&manifests);
    for (dir, shard) in &shards {
        shard.check_bytes(dir)?;
    }
    let (_, first) = &manifests[0];
    let whole = Manifest {
        part: None,
        shards: shards.iter().map(|(_, shard)| (*shard).clone()).collect(),
        beyond: Vec::new(),
        ..first.clone()
    };
    fs::create_dir_all(into).map_err(|error| with_path(error, into))?;
    let _lock = lock(into)?;
    let occupied = || CacheError::Occupied {
        dir: into.to_path_buf(),
    };
    match Manifest::load(into) {
        // An interrupted capture leaves shards that its journal lists.
        Err(CacheError::NoManifest { .. }) if into.join(PROGRESS).exists() => {
            return Err(occupied());
        }
        Err(CacheError::NoManifest { .. }) => {}
        Ok(there) if there == whole => {}
        Ok(_) => return Err(occupied()),
        Err(error) => return Err(error),
    }
    for (dir, shard) in shards {
        let path = dir.join(&shard.file);
        let mut from = files::open(&path).map_err(|error| with_path(error, &path))?;
        files::write_atomically(&into.join(&shard.file), |out| {
            io::copy(&mut from, out).map(drop)
        })?;
        shard.check_bytes(into)?; // a part may have changed since it was checked
    }
    files::write_json(&into.join(MANIFEST), &whole)?;
    remove_if_there(&into.join(PROGRESS))?;
    Ok(whole)
}

/// The shards of all parts by their numbers, each with its folder.
pub(super) fn shards_in_order<'a>(
    manifests: &'a [(&'a Path, Manifest)],
) -> Vec<(&'a Path, &'a ShardRecord)> {
    let numbered = manifests.iter().flat_map(|(dir, manifest)| {
        let shards = manifest.layout().shard_idxs().zip(&manifest.shards);
        shards.map(|(shard_idx, shard)| (shard_idx, (*dir, shard)))
    });
    let numbered: BTreeMap<usize, _> = numbered.collect();
    numbered.into_values().collect()
}

/// Checks that these are the parts of one cache, each once.
fn check_parts(manifests: &[(&Path, Manifest)]) -> Result<(), CacheError> {
    let refuse = |what: String| Err(CacheError::NotParts { what });
    let Some((first_dir, first)) = manifests.first() else {
        return refuse("no parts were given".to_owned());
    };
    let mut seen: Vec<(CachePart, &Path)> = Vec::new();
    for (dir, manifest) in manifests {
        let fields = first.fingerprint.differences(&manifest.fingerprint);
        if !fields.is_empty() {
            let dir = first_dir.to_path_buf();
            return Err(CacheError::Stale { dir, fields });
        }
        let (Some(part), Some(of)) = (manifest.part, first.part.map(|part| part.of)) else {
            return refuse(format!("`{}` is a whole cache, not a part", dir.display()));
        };
        let sizes = |manifest: &Manifest| (manifest.num_rows, manifest.rows_per_shard);
        if part.of != of || sizes(manifest) != sizes(first) {
            return refuse(format!(
                "`{}` is one of {of} parts of {} rows in shards of {}, `{}` one of {} of {} in {}",
                first_dir.display(),
                first.num_rows,
                first.rows_per_shard,
                dir.display(),
                part.of,
                manifest.num_rows,
                manifest.rows_per_shard
            ));
        }
        if let Some((_, other)) = seen.iter().find(|(other, _)| *other == part) {
            return refuse(format!(
                "`{}` and `{}` are both part {} of {of}",
                other.display(),
                dir.display(),
                part.part
            ));
        }
        seen.push((part, dir));
    }
    let of = first.part.map_or(0, |part| part.of);
    let is_there = |part: &usize| seen.iter().any(|(seen, _)| seen.part == *part);
    let num_missing = of - seen.len();
    if num_missing == 0 {
        return Ok(());
    }
    let named: Vec<String> = (1..=of)
        .filter(|part| !is_there(part))
        .take(MOST_NAMED)
        .map(|part| part.to_string())
        .collect();
    let more = match num_missing - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    refuse(format!(
        "of {of} parts, {}{more} is missing",
        named.join(", ")
    ))
}
