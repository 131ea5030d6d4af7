//! A capture that is interrupted, repaired or disturbed.

use std::fs;

use tempfile::tempdir;

use super::*;

#[test]
fn a_capture_that_stops_at_any_row_ends_in_the_same_bytes() {
    let whole = tempdir().unwrap();
    build(whole.path(), &fingerprint());
    let want = contents(whole.path());
    let shards = (0..3).map(manifest::shard_file);
    let names: Vec<String> = [manifest::MANIFEST.to_owned()]
        .into_iter()
        .chain(shards)
        .collect();
    assert!(want.keys().eq(&names), "{:?}", want.keys());
    for stop in 0..=10 {
        let dir = tempdir().unwrap();
        let mut writer = open_writer(dir.path());
        capture(&mut writer, &fingerprint(), stop);
        drop(writer);
        let error = Cache::open_any(dir.path()).unwrap_err();
        assert!(matches!(error, CacheError::NoManifest { .. }), "{error}");

        // Another shard size does not move the borders of an existing cache.
        let mut writer = {
            let rows = first_rows(&fingerprint(), NUM_ROWS);
            let writer = |wanted: Wanted<'_>| CacheWriter::open(dir.path(), wanted, 7, None);
            rows.wanted(writer).unwrap()
        };
        let kept = if stop == 10 {
            10
        } else {
            stop - stop % ROWS_PER_SHARD
        };
        assert_eq!(writer.missing_rows(), (kept..10).collect::<Vec<_>>());
        capture(&mut writer, &fingerprint(), usize::MAX);
        writer.finish().unwrap();
        assert!(contents(dir.path()) == want, "stopped after {stop} rows");
    }
}

#[test]
fn what_a_killed_process_wrote_in_part_is_captured_again() {
    let dir = tempdir().unwrap();
    let mut writer = open_writer(dir.path());
    capture(&mut writer, &fingerprint(), 8);
    drop(writer);
    change(&dir.path().join(manifest::PROGRESS), |bytes| {
        bytes.truncate(bytes.len() - 9);
    });
    let part = dir.path().join(".partial-shard-00001.parquet");
    fs::copy(dir.path().join("shard-00001.parquet"), &part).unwrap();
    let writer = open_writer(dir.path());
    assert_eq!(writer.missing_rows(), [4, 5, 6, 7, 8, 9]);
    assert!(!part.exists());
}

#[test]
fn missing_and_damaged_shards_are_captured_anew() {
    let dir = tempdir().unwrap();
    build(dir.path(), &fingerprint());
    let want = contents(dir.path());
    let shard = |shard_idx| dir.path().join(manifest::shard_file(shard_idx));
    fs::remove_file(shard(0)).unwrap();
    let error = open_for(dir.path(), &fingerprint(), NUM_ROWS).unwrap_err();
    assert!(
        matches!(&error, CacheError::ShardMissing { path } if *path == shard(0)),
        "{error}"
    );
    assert!(error.is_unfinished());

    change(&shard(2), |bytes| bytes[100] ^= 1);
    let mut writer = open_writer(dir.path());
    assert_eq!(writer.missing_rows(), [0, 1, 2, 3, 8, 9]);
    assert_eq!(
        capture(&mut writer, &fingerprint(), usize::MAX),
        [0, 1, 2, 3, 8, 9]
    );
    writer.finish().unwrap();
    assert!(contents(dir.path()) == want);
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempdir().unwrap();
    let writer = open_writer(dir.path());
    let error = try_writer(dir.path(), &fingerprint(), NUM_ROWS).unwrap_err();
    assert!(matches!(error, CacheError::Locked { .. }), "{error}");
    drop(writer);
    assert_eq!(open_writer(dir.path()).next_row(), Some(0));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn a_row_that_does_not_fit_is_refused_and_changes_nothing() {
    type Change = fn(&mut Vec<u32>, &mut Vec<PositionSpan>, &mut TopKSupports);
    let cases: [(Change, &str); 12] = [
        (|_, spans, _| spans[0].end = 15, "80 ids instead of 75"),
        (
            |tokens, _, _| tokens.truncate(16),
            "16 tokens instead of 17",
        ),
        (
            |tokens, _, _| tokens[3] = 64,
            "token 64 in a vocabulary of 64",
        ),
        (
            |_, spans, _| spans[0].end = 17,
            "counts the positions 0..17 of 16",
        ),
        (
            |_, _, row| row.ids.swap(5, 6),
            "token ids of position 1 do not ascend",
        ),
        (
            |_, _, row| row.ids[4] = 64,
            "token 64 in a vocabulary of 64",
        ),
        (
            |_, _, row| row.log_probs[0] = f32::NAN,
            "a probability of NaN",
        ),
        (
            |_, _, row| row.log_probs[0] = 0.1,
            "position 0 holds a probability of",
        ),
        (
            |_, _, row| row.lse[1].of_positions[0] = -0.1,
            "at temperature 2",
        ),
        (
            |_, _, row| row.lse[1].of_positions[2] = f32::INFINITY,
            "a log-sum-exp of inf",
        ),
        (
            |_, _, row| row.lse.truncate(1),
            "1 temperatures instead of 2",
        ),
        (
            |tokens, _, _| tokens[3] = 5,
            "its tokens differ from the text's",
        ),
    ];
    let dir = tempdir().unwrap();
    let mut writer = open_writer(dir.path());
    capture(&mut writer, &fingerprint(), 1);
    for (change, want) in cases {
        let (mut tokens, mut spans) = (tokens(1, &fingerprint()), spans(0, &fingerprint()));
        let mut row = top_k_supports(1, &fingerprint(), 5);
        change(&mut tokens, &mut spans, &mut row);
        let counted = CountedRow {
            sequence: Sequence::document(&tokens),
            mask: LossMask::checked(&spans),
        };
        let error = writer.push(counted, &Supports::TopK(row)).unwrap_err();
        assert!(
            matches!(error, CacheError::Refused { row_idx: 1, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(want), "{error}");
    }
    assert_eq!(writer.next_row(), Some(1));
    let error = writer.finish().unwrap_err();
    assert!(
        matches!(error, CacheError::Unfinished { missing: 9, .. }),
        "{error}"
    );
}

#[test]
fn samples_that_do_not_fit_are_refused() {
    type Change = fn(&mut SampledSupports);
    let cases: [(Change, &str); 7] = [
        (
            |row| row.counts[0] += 1,
            "21 draws at position 0 instead of 20",
        ),
        (|row| row.counts[0] = 0, "draws at position 0 instead of 20"),
        (
            |row| row.ids.swap(0, 1),
            "token ids of position 0 do not ascend",
        ),
        (
            |row| row.ids[row.num_ids[0] as usize - 1] = 64,
            "token 64 in a vocabulary of 64",
        ),
        (|row| row.entropies[3] = f32::NAN, "an entropy of NaN"),
        (|row| row.entropies[3] = 4.2, "an entropy of 4.2"), // ln 64 = 4.16
        (
            |row| *row.num_ids.last_mut().unwrap() += 1,
            "no ids for position 15",
        ),
    ];
    let dir = tempdir().unwrap();
    let of = sampled();
    let rows = first_rows(&of, NUM_ROWS);
    let mut writer = rows.writer(dir.path()).unwrap();
    for (change, want) in cases {
        let mut row = sampled_supports(0, &of, 20);
        change(&mut row);
        let error = writer.push(rows.row(0), &Supports::Samples(row));
        let error = error.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
    let error = writer.push(rows.row(0), &supports(0, &fingerprint()));
    let error = error.unwrap_err();
    assert!(error.to_string().contains("instead of samples"), "{error}");
}

#[test]
fn no_row_is_taken_beyond_the_last() {
    let dir = tempdir().unwrap();
    let mut writer = open_writer(dir.path());
    capture(&mut writer, &fingerprint(), usize::MAX);
    let row = supports(0, &fingerprint());
    let rows = first_rows(&fingerprint(), 1);
    let error = writer.push(rows.row(0), &row).unwrap_err();
    assert!(
        matches!(error, CacheError::Refused { row_idx: 10, .. }),
        "{error}"
    );
}
