//! Caches that get more rows.

use tempfile::tempdir;

use super::*;

#[test]
fn a_cache_that_grew_has_the_bytes_of_one_captured_at_once() {
    for (few, many) in [(3, 10), (4, 10), (6, 7), (1, 9), (9, 10)] {
        let (whole, dir) = (tempdir().unwrap(), tempdir().unwrap());
        build_rows(whole.path(), &fingerprint(), many);
        build_rows(dir.path(), &fingerprint(), few);
        let error = open_for(dir.path(), &fingerprint(), many).unwrap_err();
        assert!(error.is_unfinished(), "{error}");
        let mut writer = try_writer(dir.path(), &fingerprint(), many).unwrap();
        assert_eq!(
            writer.missing_rows(),
            (few..many).collect::<Vec<_>>(),
            "nothing twice"
        );
        capture(&mut writer, &fingerprint(), usize::MAX);
        writer.finish().unwrap();
        assert!(
            contents(dir.path()) == contents(whole.path()),
            "{few} rows, then {many}"
        );
    }
}

#[test]
fn a_capture_killed_while_it_grows_keeps_what_was_there() {
    let (whole, dir) = (tempdir().unwrap(), tempdir().unwrap());
    build(whole.path(), &fingerprint());
    build_rows(dir.path(), &fingerprint(), 6);
    let mut writer = try_writer(dir.path(), &fingerprint(), NUM_ROWS).unwrap();
    capture(&mut writer, &fingerprint(), 1);
    drop(writer);
    // The earlier rows are still a complete cache,
    let writer = try_writer(dir.path(), &fingerprint(), 6).unwrap();
    assert_eq!(writer.missing_rows(), [0_usize; 0]);
    writer.finish().unwrap();
    assert_eq!(
        open_for(dir.path(), &fingerprint(), 6)
            .unwrap()
            .manifest()
            .num_rows,
        6
    );
    // and the rest is captured normally.
    let mut writer = try_writer(dir.path(), &fingerprint(), NUM_ROWS).unwrap();
    assert_eq!(
        capture(&mut writer, &fingerprint(), usize::MAX),
        [6, 7, 8, 9]
    );
    writer.finish().unwrap();
    assert!(contents(dir.path()) == contents(whole.path()));
}

#[test]
fn a_larger_cache_serves_who_wants_less() {
    let dir = tempdir().unwrap();
    let of = fingerprint();
    build(dir.path(), &of);
    let before = contents(dir.path());
    for num_rows in [1, 4, 6, 9] {
        let cache = open_for(dir.path(), &of, num_rows).unwrap();
        assert_close(
            &read(&cache, &[num_rows - 1]).unwrap()[0],
            &supports(num_rows - 1, &of),
        );
    }
    // A shard is lost: a run that wants fewer rows repairs it and removes nothing.
    fs::remove_file(dir.path().join("shard-00000.parquet")).unwrap();
    let mut writer = try_writer(dir.path(), &of, 6).unwrap();
    assert_eq!(capture(&mut writer, &of, usize::MAX), [0, 1, 2, 3]);
    writer.finish().unwrap();
    assert!(contents(dir.path()) == before);
}

#[test]
fn a_shard_that_is_lost_behind_what_is_wanted_is_no_reason_to_give_up_those_after_it() {
    let dir = tempdir().unwrap();
    let of = fingerprint();
    build(dir.path(), &of);
    fs::remove_file(dir.path().join("shard-00001.parquet")).unwrap();
    let before = contents(dir.path());
    for num_rows in [1, 4] {
        let cache = open_for(dir.path(), &of, num_rows).unwrap();
        assert_close(
            &read(&cache, &[num_rows - 1]).unwrap()[0],
            &supports(num_rows - 1, &of),
        );
    }
    assert!(contents(dir.path()) == before);
    for num_rows in [5, NUM_ROWS] {
        let error = open_for(dir.path(), &of, num_rows).unwrap_err();
        assert!(matches!(error, CacheError::ShardMissing { .. }), "{error}");
    }
    let mut writer = try_writer(dir.path(), &of, NUM_ROWS).unwrap();
    assert_eq!(capture(&mut writer, &of, usize::MAX), [4, 5, 6, 7]);
}

#[test]
fn a_capture_of_fewer_rows_that_mends_the_last_of_them_loses_none_of_the_others() {
    let (whole, dir) = (tempdir().unwrap(), tempdir().unwrap());
    let of = fingerprint();
    let many = 4 * ROWS_PER_SHARD + 1;
    build_rows(whole.path(), &of, many);
    build_rows(dir.path(), &of, many);
    change(&dir.path().join("shard-00001.parquet"), |bytes| {
        bytes[99] ^= 1;
    });
    // The last of six rows is in that shard, whose other rows are lost with it.
    let mut writer = try_writer(dir.path(), &of, 6).unwrap();
    assert_eq!(capture(&mut writer, &of, usize::MAX), [4, 5]);
    writer.finish().unwrap();
    let cache = open_for(dir.path(), &of, 6).unwrap();
    assert_eq!(cache.manifest().num_rows, 6);
    let waiting = cache.manifest().beyond.iter().map(|shard| &*shard.file);
    let names = [
        "shard-00002.parquet",
        "shard-00003.parquet",
        "shard-00004.parquet",
    ];
    assert_eq!(waiting.collect::<Vec<_>>(), names);
    drop(cache);

    // A capture that needs some of them, killed or not, keeps them, too; one that closes the gap takes them up.
    let mut writer = try_writer(dir.path(), &of, 7).unwrap();
    assert_eq!(capture(&mut writer, &of, usize::MAX), [6]);
    drop(writer);
    let writer = try_writer(dir.path(), &of, 6).unwrap();
    writer.finish().unwrap();
    let mut writer = try_writer(dir.path(), &of, 8).unwrap();
    let captured = capture(&mut writer, &of, usize::MAX);
    assert!(captured == [6, 7] || captured == [7], "{captured:?}");
    writer.finish().unwrap();
    assert!(contents(dir.path()) == contents(whole.path()));
}

#[test]
fn rows_of_another_text_are_refused_and_left_alone() {
    let dir = tempdir().unwrap();
    let of = fingerprint();
    build_rows(dir.path(), &of, 6);
    let before = contents(dir.path());
    for (changed, num_rows) in [(2, 6), (5, 10), (4, 5)] {
        let mut other_tokens = first_rows(&of, num_rows);
        other_tokens.tokens[changed][0] ^= 1;
        let mut other_documents = first_rows(&of, num_rows);
        other_documents.starts[changed] = vec![0, 7];
        for rows in [other_tokens, other_documents] {
            let opened = rows.open(dir.path()).unwrap_err();
            let written = rows.writer(dir.path()).unwrap_err();
            for error in [opened, written] {
                assert!(matches!(error, CacheError::OtherRows { .. }), "{error}");
                assert!(error.help().is_some());
            }
        }
    }
    assert!(contents(dir.path()) == before);
}

#[test]
fn no_rows_are_added_while_another_reads() {
    let dir = tempdir().unwrap();
    let cache = build_rows(dir.path(), &fingerprint(), 6);
    let error = try_writer(dir.path(), &fingerprint(), NUM_ROWS).unwrap_err();
    assert!(matches!(error, CacheError::Locked { .. }), "{error}");
    drop(cache);
    assert_eq!(open_writer(dir.path()).next_row(), Some(6));
}
