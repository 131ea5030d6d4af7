use std::fs;

use super::*;
use crate::files;
use crate::hashes::Hashes;

fn span(start: u32, end: u32) -> PositionSpan {
    PositionSpan { start, end }
}

/// Two streamed rows, the second padded, and two of documents: one of a single document, one of two.
fn filled(mut rows: RowsBuilder) -> RowsBuilder {
    let streamed = |tokens: &[u32], spans, separators: &[u32]| NewRow {
        tokens: tokens.to_vec(),
        starts: Vec::new(),
        spans,
        separators: separators.to_vec(),
        num_bytes: 6,
    };
    let documents = |tokens: &[u32], starts: &[u32], spans, separators: &[u32]| NewRow {
        starts: starts.to_vec(),
        num_bytes: 3,
        ..streamed(tokens, spans, separators)
    };
    for row in [
        streamed(&[0, 1, 2, 3, 4], vec![span(0, 4)], &[1]),
        streamed(&[4, 5, 6], vec![span(0, 2)], &[1]),
        documents(&[7, 12, 13], &[0], vec![span(1, 2)], &[1]),
        documents(
            &[7, 8, 9, 10, 11],
            &[0, 3],
            vec![span(0, 1), span(3, 4)],
            &[],
        ),
    ] {
        rows.push(row).unwrap();
    }
    rows
}

fn rows() -> TokenRows {
    filled(RowsBuilder::in_memory(4, 0)).into_rows()
}

fn positions(rows: &TokenRows) -> Vec<Vec<usize>> {
    let of_row = |row_idx| rows.mask(row_idx).positions().collect();
    (0..rows.num_rows()).map(of_row).collect()
}

#[test]
fn rows_hold_streams_and_documents_with_their_masks() {
    let rows = rows();
    assert_eq!(rows.row(2), [7, 12, 13, 0, 0]);
    assert_eq!([0, 1, 2, 3].map(|row| rows.length(row)), [4, 2, 2, 4]);
    let want = [vec![0, 1, 2, 3], vec![0, 1], vec![1], vec![0, 3]];
    assert_eq!(positions(&rows), want);
    assert_eq!((rows.num_positions(), rows.num_text_positions()), (9, 6));
    assert_eq!((rows.num_rows(), rows.num_bytes()), (4, 18));
    let rests = [0, 1, 2, 3].map(|row| rows.is_rest_of_stream(row));
    assert_eq!(rests, [false, true, false, false]);
    assert_eq!(rows.observed(3), [true; 4]);
    assert_eq!(rows.observed(2), [true, true, false, false]);
    let rows = rows.calibrated_on(CalibrateOn::Learnt);
    assert_eq!(rows.observed(3), [true, false, false, true]);
    assert_eq!(rows.only(&[2]).observed(0), [false, true, false, false]);
}

#[test]
fn models_read_a_stream_as_one_and_documents_and_their_padding_apart() {
    let rows = rows();
    let documents = |row_idx| {
        let documents = rows.sequence(row_idx).documents();
        documents.collect::<Vec<_>>()
    };
    assert_eq!(documents(1).first(), Some(&(0..5)));
    assert_eq!(documents(2), [0..3, 3..5]);
    assert_eq!(documents(3), [0..3, 3..5]);
    assert_eq!(rows.inputs(3).documents().last(), Some(3..4));
}

#[test]
fn a_part_of_rows_has_their_masks_documents_and_separators() {
    let rows = rows();
    let [before, rest] = rows.split_at(1);
    assert_eq!(positions(&before), positions(&rows)[..1]);
    assert_eq!(positions(&rest), positions(&rows)[1..]);
    assert!(rest.is_separator(0, 1) && !rest.is_separator(1, 0));
    assert_eq!(before.num_bytes() + rest.num_bytes(), rows.num_bytes());
    let chosen = rows.only(&[1, 3]);
    assert_eq!(positions(&chosen), [vec![0, 1], vec![0, 3]]);
    assert_eq!(chosen.sequence(1), rows.sequence(3));
    assert!(chosen.is_separator(0, 1) && !chosen.is_separator(1, 3));
    let all = rows.only(&[0, 1, 2, 3]);
    assert_eq!(all.hash(), rows.hash());
    assert_ne!(chosen.hash(), rows.hash());
}

#[test]
fn rows_in_a_file_are_those_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows");
    let hashes = Hashes::of_this_process(0.0);
    let builder = filled(RowsBuilder::in_folder(4, 0, dir.path()).unwrap());
    write(&path, "key", builder, &"facts").unwrap();
    let found = read::<String>(&path, "key", &hashes).unwrap().unwrap();
    assert_eq!((found.rows, found.facts.as_str()), (rows(), "facts"));
    assert!(read::<String>(&path, "another", &hashes).unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_file_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows");
    let hashes = Hashes::of_this_process(0.0);
    let builder = filled(RowsBuilder::in_folder(4, 0, dir.path()).unwrap());
    write(&path, "key", builder, &"facts").unwrap();
    let whole = fs::read(&path).unwrap();
    let is_read = |bytes: &[u8]| {
        files::write_atomically(&path, |out| out.write_all(bytes)).unwrap();
        read::<String>(&path, "key", &hashes).unwrap().is_some()
    };
    assert!(is_read(&whole));
    for at in 0..whole.len() {
        assert!(!is_read(&whole[..at]), "{at} bytes");
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        assert!(!is_read(&flipped), "byte {at}");
        // also with the right hash, nothing is read that is no rows
        let end = whole.len() - blake3::OUT_LEN;
        let hash = blake3::hash(&flipped[..end]);
        flipped[end..].copy_from_slice(hash.as_bytes());
        files::write_atomically(&path, |out| out.write_all(&flipped)).unwrap();
        if let Some(found) = read::<String>(&path, "key", &hashes).unwrap() {
            assert!(found.rows.are_sound());
            assert_eq!(positions(&found.rows).len(), found.rows.num_rows());
        }
    }
}
