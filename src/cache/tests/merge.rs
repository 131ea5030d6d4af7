//! A capture that is split and merged.

use std::path::PathBuf;

use tempfile::{TempDir, tempdir};

use super::*;
use crate::cache::merge::shards_in_order;
use crate::files::write_atomically;

fn part_writer(dir: &Path, of: &Fingerprint, num_rows: usize, part: CachePart) -> CacheWriter {
    let rows = first_rows(of, num_rows);
    let writer = |wanted: Wanted<'_>| CacheWriter::open(dir, wanted, ROWS_PER_SHARD, Some(part));
    rows.wanted(writer).unwrap()
}

fn build_part(dir: &Path, of: &Fingerprint, num_rows: usize, part: CachePart) -> Vec<usize> {
    let mut writer = part_writer(dir, of, num_rows, part);
    let captured = capture(&mut writer, of, usize::MAX);
    writer.finish().unwrap();
    captured
}

fn parts(of: usize) -> Vec<TempDir> {
    let dirs: Vec<TempDir> = (0..of).map(|_| tempdir().unwrap()).collect();
    for (place, dir) in dirs.iter().enumerate() {
        build_part(
            dir.path(),
            &fingerprint(),
            NUM_ROWS,
            CachePart {
                part: place + 1,
                of,
            },
        );
    }
    dirs
}

fn paths(dirs: &[TempDir]) -> Vec<PathBuf> {
    dirs.iter().map(|dir| dir.path().to_path_buf()).collect()
}

#[test]
fn merged_parts_have_the_bytes_of_one_capture() {
    let whole = tempdir().unwrap();
    build(whole.path(), &fingerprint());
    // Three shards: one part, two parts, and more parts than shards.
    for of in 1..=5 {
        let (dirs, into) = (parts(of), tempdir().unwrap());
        let mut paths = paths(&dirs);
        paths.reverse();
        let manifest = merge(&paths, into.path()).unwrap();
        assert_eq!((manifest.num_rows, manifest.part), (10, None));
        assert!(
            contents(into.path()) == contents(whole.path()),
            "{of} parts"
        );
        merge(&paths, into.path()).unwrap(); // a second merge changes nothing
        let cache = open_for(into.path(), &fingerprint(), NUM_ROWS).unwrap();
        assert_close(
            &read(&cache, &[9]).unwrap()[0],
            &supports(9, &fingerprint()),
        );
    }
}

#[test]
fn a_part_has_its_own_rows_resumes_and_is_verified_but_not_trained_on() {
    let dir = tempdir().unwrap();
    let part = CachePart { part: 2, of: 2 };
    let mut writer = part_writer(dir.path(), &fingerprint(), NUM_ROWS, part);
    assert_eq!(writer.missing_rows(), [4, 5, 6, 7]);
    capture(&mut writer, &fingerprint(), 2);
    drop(writer);
    assert_eq!(
        build_part(dir.path(), &fingerprint(), NUM_ROWS, part),
        [4, 5, 6, 7]
    );
    assert_eq!(verify(dir.path(), |_| {}).unwrap().num_rows, 4);
    assert_eq!(
        Cache::open_any(dir.path())
            .unwrap()
            .stat()
            .unwrap()
            .num_rows,
        4
    );
    let error = open_for(dir.path(), &fingerprint(), NUM_ROWS).unwrap_err();
    assert!(matches!(error, CacheError::OnlyPart { .. }), "{error}");
    assert!(error.help().unwrap().contains("cache merge"));
    let error = try_writer(dir.path(), &fingerprint(), NUM_ROWS).unwrap_err();
    assert!(matches!(error, CacheError::OtherPart { .. }), "{error}");
}

#[test]
fn what_is_not_exactly_the_parts_of_one_cache_is_refused() {
    let (two, three) = (parts(2), parts(3));
    let (two, three) = (paths(&two), paths(&three));
    let others = tempdir().unwrap();
    let last = CachePart { part: 2, of: 2 };
    build_part(others.path(), &sampled(), NUM_ROWS, last);
    let shorter = tempdir().unwrap();
    build_part(shorter.path(), &fingerprint(), 9, last);
    let whole = tempdir().unwrap();
    build(whole.path(), &fingerprint());
    let path = |dir: &TempDir| dir.path().to_path_buf();
    let cases = [
        (vec![], "no parts were given"),
        (vec![two[0].clone()], "of 2 parts, 2 is missing"),
        (vec![three[1].clone()], "of 3 parts, 1, 3 is missing"),
        (
            vec![two[0].clone(), two[1].clone(), two[0].clone()],
            "are both part 1 of 2",
        ),
        (
            vec![two[0].clone(), three[1].clone()],
            "one of 3 of 10 in 4",
        ),
        (vec![two[0].clone(), path(&shorter)], "one of 2 of 9 in 4"),
        (vec![two[0].clone(), path(&others)], "`support` is"),
        (
            vec![two[0].clone(), path(&whole)],
            "is a whole cache, not a part",
        ),
        (
            vec![two[0].clone(), two[1].join("nowhere")],
            "holds no finished cache",
        ),
    ];
    let into = tempdir().unwrap();
    for (parts, want) in cases {
        let error = merge(&parts, into.path()).unwrap_err();
        assert!(error.to_string().contains(want), "{want}: {error}");
        assert!(contents(into.path()).is_empty(), "nothing was written");
    }
    let error = merge(&two, whole.path()).map(|manifest| manifest.num_rows);
    assert_eq!(error.unwrap(), 10, "the same cache is there already");
    let error = merge(&two, others.path()).unwrap_err();
    assert!(matches!(error, CacheError::Occupied { .. }), "{error}");
    let unfinished = tempdir().unwrap();
    write_atomically(&unfinished.path().join("progress.jsonl"), |out| {
        out.write_all(b"{}\n")
    })
    .unwrap();
    let error = merge(&two, unfinished.path()).unwrap_err();
    assert!(matches!(error, CacheError::Occupied { .. }), "{error}");
    assert_eq!(contents(unfinished.path()).len(), 1, "nothing was written");

    let shard = two[0].join("shard-00000.parquet");
    change(&shard, |bytes| bytes[100] ^= 1);
    let error = merge(&two, into.path()).unwrap_err();
    assert!(matches!(error, CacheError::ShardChecksum { .. }), "{error}");
    assert!(contents(into.path()).is_empty(), "nothing was written");
}

#[test]
fn a_part_of_a_larger_cache_is_neither_cut_short_nor_left_unreadable() {
    // The first part has rows 0 to 3, 8 and 9, the second 4 to 7.
    for (part, num_rows) in [(1, 2), (1, 4), (1, 6), (1, 9), (2, 4), (2, 7)] {
        let dir = tempdir().unwrap();
        let part = CachePart { part, of: 2 };
        build_part(dir.path(), &fingerprint(), NUM_ROWS, part);
        let before = contents(dir.path());
        let outcome = first_rows(&fingerprint(), num_rows)
            .wanted(|wanted| CacheWriter::open(dir.path(), wanted, ROWS_PER_SHARD, Some(part)));
        let error = outcome.and_then(CacheWriter::finish).unwrap_err();
        assert!(
            matches!(error, CacheError::LargerPart { .. }),
            "{num_rows}: {error}"
        );
        assert!(error.help().is_some());
        assert!(contents(dir.path()) == before, "{num_rows}");
    }
}

#[test]
fn a_part_that_grew_has_the_bytes_of_one_captured_at_once() {
    for part in [1, 2] {
        let part = CachePart { part, of: 2 };
        let (whole, dir) = (tempdir().unwrap(), tempdir().unwrap());
        build_part(whole.path(), &fingerprint(), NUM_ROWS, part);
        build_part(dir.path(), &fingerprint(), 6, part);
        build_part(dir.path(), &fingerprint(), NUM_ROWS, part);
        assert!(contents(dir.path()) == contents(whole.path()), "{part:?}");
    }
}

#[test]
fn shards_stay_in_order_when_their_numbers_get_longer() {
    let num_rows = 100_002;
    let manifest = |part: usize| Manifest {
        fingerprint: fingerprint(),
        rows_per_shard: 1,
        num_rows,
        part: Some(CachePart { part, of: 2 }),
        shards: (part - 1..num_rows)
            .step_by(2)
            .map(|shard_idx| ShardRecord {
                file: manifest::shard_file(shard_idx),
                rows: 1,
                tokens_blake3: String::new(),
                counted_blake3: String::new(),
                bytes: 0,
                blake3: String::new(),
            })
            .collect(),
        beyond: Vec::new(),
    };
    let manifests = [(Path::new("b"), manifest(2)), (Path::new("a"), manifest(1))];
    let files: Vec<&str> = shards_in_order(&manifests)
        .iter()
        .map(|(_, shard)| shard.file.as_str())
        .collect();
    let want: Vec<String> = (0..num_rows).map(manifest::shard_file).collect();
    assert!(files == want, "{:?}", &files[..3]);
}

#[test]
fn of_many_missing_parts_a_few_are_named() {
    let dir = tempdir().unwrap();
    let part = CachePart { part: 2, of: 1000 };
    build_part(dir.path(), &fingerprint(), NUM_ROWS, part);
    let error = merge(&[dir.path().to_path_buf()], Path::new("nowhere")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "these are not the parts of one cache: of 1000 parts, 1, 3, 4, 5, 6, 7, 8, 9 and 991 more is missing"
    );
}
