//! Caches that have some of the positions of their rows.

use tempfile::tempdir;

use super::*;

/// The same rows, of which these positions are asked for.
fn asking(num_rows: usize, counts: impl Fn(usize, usize) -> bool) -> Rows {
    let mut rows = first_rows(&fingerprint(), num_rows);
    for (row_idx, spans) in rows.spans.iter_mut().enumerate() {
        *spans = spans_of((0..16).map(|position| counts(row_idx, position)));
    }
    rows
}

fn everything(num_rows: usize) -> Rows {
    asking(num_rows, |_, _| true)
}

/// A third of the positions; none in the third row.
fn turns(num_rows: usize) -> Rows {
    asking(num_rows, |row_idx, position| {
        row_idx != 2 && position % 6 >= 4
    })
}

fn assert_rows(cache: &Cache, rows: &Rows) {
    for row_idx in 0..rows.tokens.len() {
        let row = rows.row(row_idx);
        let want = everywhere(row_idx, &rows.of).at(row.mask.positions());
        let got = cache.rows(&[row_idx], |row_idx| rows.row(row_idx)).unwrap();
        assert_close(&got[0], &want);
        assert_eq!(got[0].num_positions(), row.mask.count());
    }
}

#[test]
fn tables_of_a_few_shards_are_in_memory_however_many_are_read() {
    let dir = tempdir().unwrap();
    let rows = everything(NUM_ROWS);
    rows.capture(dir.path());
    let cache = rows.open(dir.path()).unwrap();
    assert!(cache.manifest().shards.len() > 2);
    for _ in 0..2 {
        assert_rows(&cache, &rows);
        assert_eq!(cache.num_tables(), 2);
    }
    for row_idx in cache.row_idxs() {
        cache.captured_row(row_idx).unwrap();
        assert!(cache.num_tables() <= 2);
    }
}

#[test]
fn positions_that_do_not_count_are_not_stored() {
    let (dir, whole) = (tempdir().unwrap(), tempdir().unwrap());
    let (some, all) = (turns(NUM_ROWS), everything(NUM_ROWS));
    for (rows, dir) in [(&some, &dir), (&all, &whole)] {
        assert_eq!(rows.capture(dir.path()).len(), NUM_ROWS);
        assert_rows(&rows.open(dir.path()).unwrap(), rows);
        assert_eq!(verify(dir.path(), |_| {}).unwrap().num_rows, NUM_ROWS);
    }
    let stat = |dir: &Path| Cache::open_any(dir).unwrap().stat().unwrap();
    let [some, all] = [stat(dir.path()), stat(whole.path())];
    assert_eq!((some.num_counted, all.num_counted), (9 * 4, 160));
    assert_eq!((some.num_positions, all.num_positions), (160, 160));
    let supports = |stat: &CacheStat| stat.column_bytes["supports"];
    assert!(supports(&some) * 2 < supports(&all), "{some:?} {all:?}");
}

#[test]
fn a_cache_serves_whoever_asks_for_some_of_its_positions_and_nobody_who_asks_for_others() {
    let dir = tempdir().unwrap();
    everything(NUM_ROWS).capture(dir.path());
    let before = contents(dir.path());
    let some = turns(NUM_ROWS);
    assert_rows(&some.open(dir.path()).unwrap(), &some);
    assert_eq!(some.capture(dir.path()), [0_usize; 0]);
    assert!(contents(dir.path()) == before);
    // The last shard of a cache of more rows is asked for in part.
    let fewer = turns(9);
    assert_rows(&fewer.open(dir.path()).unwrap(), &fewer);

    let dir = tempdir().unwrap();
    some.capture(dir.path());
    let cache = some.open(dir.path()).unwrap();
    let all = everything(NUM_ROWS);
    let error = cache.rows(&[3], |row_idx| all.row(row_idx)).unwrap_err();
    assert!(
        matches!(error, CacheError::Positions { row_idx: 3, .. }),
        "{error}"
    );
    drop(cache);
    let error = all.open(dir.path()).unwrap_err();
    assert!(
        matches!(error, CacheError::Positions { row_idx: 0, .. }),
        "{error}"
    );
    assert!(error.is_unfinished());
}

#[test]
fn recipes_that_ask_for_other_positions_of_the_same_rows_add_to_one_cache() {
    let (dir, at_once) = (tempdir().unwrap(), tempdir().unwrap());
    let early = asking(NUM_ROWS, |row_idx, position| {
        position < 8 + 2 * usize::from(row_idx < 4)
    });
    let late = asking(NUM_ROWS, |row_idx, position| row_idx >= 4 && position > 5);
    assert_eq!(early.capture(dir.path()).len(), NUM_ROWS);
    // The first shard has what is asked for: nothing.
    assert_eq!(late.capture(dir.path()), [4, 5, 6, 7, 8, 9]);
    for rows in [&early, &late] {
        assert_rows(&rows.open(dir.path()).unwrap(), rows);
        assert_eq!(rows.capture(dir.path()), [0_usize; 0]);
    }
    let both = asking(NUM_ROWS, |row_idx, position| row_idx >= 4 || position < 10);
    both.capture(at_once.path());
    assert!(contents(dir.path()) == contents(at_once.path()));
}

#[test]
fn a_killed_capture_of_more_positions_loses_none_that_were_there() {
    let (dir, at_once) = (tempdir().unwrap(), tempdir().unwrap());
    let (some, all) = (turns(NUM_ROWS), everything(NUM_ROWS));
    some.capture(dir.path());
    let mut writer = all.writer(dir.path()).unwrap();
    assert_eq!(
        (writer.num_saved_rows(), writer.missing_rows().len()),
        (0, 10)
    );
    for row_idx in 0..6 {
        let row = all.row(row_idx);
        writer.push(row, &everywhere(row_idx, &all.of)).unwrap();
    }
    drop(writer);
    assert_eq!(some.capture(dir.path()), [0_usize; 0]);
    assert_rows(&some.open(dir.path()).unwrap(), &some);
    assert_eq!(all.capture(dir.path()), [4, 5, 6, 7, 8, 9]);
    all.capture(at_once.path());
    assert!(contents(dir.path()) == contents(at_once.path()));
}

#[test]
fn rows_behind_those_that_get_more_positions_stay_as_they_are() {
    let dir = tempdir().unwrap();
    let (some, more) = (turns(NUM_ROWS), everything(6));
    some.capture(dir.path());
    assert_eq!(more.capture(dir.path()), [0, 1, 2, 3, 4, 5]);
    assert_rows(&more.open(dir.path()).unwrap(), &more);
    assert_rows(&some.open(dir.path()).unwrap(), &some);
    assert_eq!(some.capture(dir.path()), [0_usize; 0]);
    assert_eq!(verify(dir.path(), |_| {}).unwrap().num_rows, NUM_ROWS);
    // A cache of fewer rows is captured again where it lacks positions, and goes on from there.
    let dir = tempdir().unwrap();
    turns(6).capture(dir.path());
    let all = everything(NUM_ROWS);
    assert_eq!(all.capture(dir.path()).len(), NUM_ROWS);
    assert_rows(&all.open(dir.path()).unwrap(), &all);
}

#[test]
fn a_row_keeps_its_documents() {
    let dir = tempdir().unwrap();
    let mut rows = turns(NUM_ROWS);
    rows.starts[5] = vec![0, 3, 9];
    rows.capture(dir.path());
    let cache = rows.open(dir.path()).unwrap();
    for row_idx in [4, 5] {
        let captured = cache.captured_row(row_idx).unwrap();
        assert_eq!(captured.row(), rows.row(row_idx));
    }
    let one = turns(NUM_ROWS);
    let error = cache.rows(&[4, 5], |row_idx| one.row(row_idx)).unwrap_err();
    assert!(
        matches!(error, CacheError::RowTokens { row_idx: 5, .. }),
        "{error}"
    );
}
