use std::collections::BTreeMap;

use crate::data::pack::{Form, NewToken, PackOutcome, Packer, Packing};
use crate::data::plan::{Longer, PackingKind};
use crate::data::rows::{RowsBuilder, TokenRows};
use crate::random;

const EOT: u32 = 0;
const BOS: u32 = 1;

const STREAM: Form = Form {
    kind: PackingKind::Stream,
    longer: Longer::Split,
};

fn apart(longer: Longer) -> Form {
    Form {
        kind: PackingKind::Documents,
        longer,
    }
}

fn packing(sequence_length: usize, limit: Option<u64>) -> Packing {
    Packing {
        sequence_length,
        beginning_of_text: None,
        end_of_text: EOT,
        limit,
    }
}

/// Texts, given by their tokens and the bytes of these.
type Texts<'a> = &'a [(&'a [u32], &'a [u32])];

const TEXTS: Texts<'_> = &[(&[11, 12, 13], &[1, 2, 4]), (&[21, 22], &[8, 16])];

fn packed(texts: Texts<'_>, form: Form, packing: Packing) -> (TokenRows, Vec<PackOutcome>) {
    let rows = RowsBuilder::in_memory(packing.sequence_length, EOT);
    let mut packer = Packer::new(packing, rows);
    let mut outcomes = Vec::new();
    for (ids, num_bytes) in texts {
        packer.begin(form);
        packer.begin_text();
        for (&id, &num_bytes) in ids.iter().zip(*num_bytes) {
            let token = NewToken {
                id,
                num_bytes,
                counts: true,
                is_separator: false,
                is_end: false,
            };
            packer.push(token).unwrap();
        }
        packer.end_text().unwrap();
        outcomes.push(packer.end().unwrap());
    }
    (packer.finish().unwrap().into_rows(), outcomes)
}

fn streamed(texts: Texts<'_>, packing: Packing) -> TokenRows {
    packed(texts, STREAM, packing).0
}

#[test]
fn streamed_rows_overlap_by_one_token_and_predict_each_token_and_each_end_once() {
    let rows = streamed(TEXTS, packing(3, None));
    assert_eq!(rows.num_rows(), 3);
    assert_eq!(rows.row(0), [EOT, 11, 12, 13]);
    assert_eq!(rows.row(1), [13, EOT, 21, 22]);
    assert_eq!(rows.row(2), [22, EOT, EOT, EOT]);
    assert_eq!([0, 1, 2].map(|row| rows.mask(row).count()), [3, 3, 1]);
    assert_eq!((rows.num_positions(), rows.num_bytes()), (7, 31));
}

/// Places of separators, by row and position.
fn separators(rows: &TokenRows) -> Vec<(usize, usize)> {
    let length = rows.sequence_length();
    let all = (0..rows.num_rows()).flat_map(|row| (0..length).map(move |at| (row, at)));
    all.filter(|&(row, at)| rows.is_separator(row, at))
        .collect()
}

#[test]
fn separators_are_what_packing_put_behind_documents_and_nothing_that_is_written_in_them() {
    let texts: Texts<'_> = &[(&[11, EOT, 13], &[1, 2, 4]), TEXTS[1]]; // in the text, it counts as bytes
    let rows = streamed(texts, packing(3, None));
    assert_eq!(rows.row(0), [EOT, 11, EOT, 13]);
    assert_eq!(separators(&rows), [(1, 0), (2, 0)]);
    assert_eq!((rows.num_positions(), rows.num_text_positions()), (7, 5));
    assert_eq!(separators(&streamed(texts, packing(3, Some(3)))), []);
    let [before, rest] = rows.split_at(1);
    assert_eq!(separators(&before), []);
    assert_eq!(separators(&rest), [(0, 0), (1, 0)]);
    assert_eq!((before.num_bytes(), rest.num_bytes()), (18, 13)); // of 31, by 3 and 2 positions of text
}

#[test]
fn a_limit_cuts_a_stream_at_a_row_and_counts_the_bytes_before_the_cut() {
    let rows = streamed(TEXTS, packing(3, Some(5)));
    assert_eq!((rows.num_rows(), rows.num_positions()), (1, 3));
    assert_eq!(rows.num_bytes(), 7);
    let rows = streamed(TEXTS, packing(3, Some(2)));
    assert_eq!(rows.row(0), [EOT, 11, 12, EOT]);
    assert_eq!((rows.num_positions(), rows.num_bytes()), (2, 3));
    assert_eq!(
        streamed(TEXTS, packing(3, Some(7))),
        streamed(TEXTS, packing(3, None))
    );
}

#[test]
fn a_stream_that_fills_its_rows_is_not_padded() {
    let rows = streamed(TEXTS, packing(7, None));
    assert_eq!(rows.row(0), [EOT, 11, 12, 13, EOT, 21, 22, EOT]);
    assert_eq!((rows.num_rows(), rows.mask(0).count()), (1, 7));
    assert_eq!(streamed(&[], packing(7, None)).num_rows(), 0);
}

#[test]
fn a_token_before_every_text_begins_every_streamed_row_and_each_token_is_still_predicted_once() {
    let with_bos = Packing {
        beginning_of_text: Some(BOS),
        ..packing(3, None)
    };
    let rows = streamed(TEXTS, with_bos);
    assert_eq!(rows.row(0), [BOS, 11, 12, 13]);
    assert_eq!(rows.row(1), [BOS, EOT, 21, 22]);
    assert_eq!(rows.row(2), [BOS, EOT, EOT, EOT]);
    assert_eq!([0, 1, 2].map(|row| rows.mask(row).count()), [3, 3, 1]);
    assert_eq!((rows.num_positions(), rows.num_bytes()), (7, 31));
}

#[test]
fn documents_side_by_side_do_not_predict_each_other() {
    let (rows, outcomes) = packed(TEXTS, apart(Longer::Truncate), packing(10, None));
    assert_eq!(rows.num_rows(), 1);
    assert_eq!(
        rows.row(0),
        [EOT, 11, 12, 13, EOT, EOT, 21, 22, EOT, EOT, EOT]
    );
    let documents: Vec<_> = rows.sequence(0).documents().collect();
    assert_eq!(documents, [0..5, 5..9, 9..11]);
    let counted: Vec<_> = rows.mask(0).positions().collect();
    assert_eq!(counted, [0, 1, 2, 3, 5, 6, 7]);
    assert_eq!(separators(&rows), [(0, 3), (0, 7)]);
    assert_eq!((rows.num_bytes(), rows.length(0)), (31, 8));
    assert!(outcomes.iter().all(|outcome| !outcome.is_longer));
}

#[test]
fn a_document_longer_than_a_row_is_cut_split_or_dropped() {
    let long: Texts<'_> = &[(&[11, 12, 13, 14, 15], &[1, 2, 4, 8, 16]), TEXTS[1]];
    let of = |longer| {
        let (rows, outcomes) = packed(long, apart(longer), packing(3, None));
        let mut tokens: Vec<_> = (0..rows.num_rows())
            .map(|row| rows.row(row)[..=rows.length(row)].to_vec())
            .collect();
        tokens.sort();
        (tokens, outcomes[0].is_longer, rows.num_bytes())
    };
    let short = vec![EOT, 21, 22, EOT];
    let begin = vec![EOT, 11, 12, 13];
    assert_eq!(
        of(Longer::Truncate),
        (vec![begin.clone(), short.clone()], true, 31)
    );
    assert_eq!(of(Longer::Drop), (vec![short.clone()], true, 24));
    // the second piece begins with the last token of the first, so that each token is predicted once
    assert_eq!(
        of(Longer::Split),
        (vec![begin, short, vec![13, 14, 15, EOT]], true, 55)
    );
}

#[test]
fn a_piece_of_a_split_document_begins_with_the_token_before_every_text() {
    let with_bos = Packing {
        beginning_of_text: Some(BOS),
        ..packing(3, None)
    };
    let long: Texts<'_> = &[(&[11, 12, 13, 14], &[1; 4])];
    let (rows, _) = packed(long, apart(Longer::Split), with_bos);
    let mut tokens: Vec<_> = (0..2).map(|row| rows.row(row).to_vec()).collect();
    tokens.sort();
    assert_eq!(tokens, [[BOS, 11, 12, 13], [BOS, 14, EOT, EOT]]);
}

/// Texts of 1 to 40 tokens, each with tokens of its own.
fn many(count: u32) -> Vec<(Vec<u32>, Vec<u32>)> {
    let text = |idx: u32| {
        let length = random::derive(u64::from(idx), "length") % 40 + 1;
        let ids: Vec<u32> = (0..length).map(|_| idx + 10).collect();
        let num_bytes = vec![1; ids.len()];
        (ids, num_bytes)
    };
    (0..count).map(text).collect()
}

fn borrowed(texts: &[(Vec<u32>, Vec<u32>)]) -> Vec<(&[u32], &[u32])> {
    texts
        .iter()
        .map(|(ids, num_bytes)| (ids.as_slice(), num_bytes.as_slice()))
        .collect()
}

#[test]
fn packing_loses_no_token_and_little_room() {
    let texts = many(5_000); // more than a window
    let (rows, _) = packed(
        &borrowed(&texts),
        apart(Longer::Truncate),
        packing(63, None),
    );
    let mut found: BTreeMap<u32, usize> = BTreeMap::new();
    for row_idx in 0..rows.num_rows() {
        let sequence = rows.sequence(row_idx);
        for document in sequence.documents() {
            let [begin, text @ .., end] = &sequence.tokens()[document] else {
                continue;
            };
            let Some(&first) = text.first().filter(|&&id| id != EOT) else {
                continue; // padding
            };
            assert_eq!((*begin, *end), (EOT, EOT));
            assert!(text.iter().all(|&id| id == first), "a document of its own");
            *found.entry(first).or_default() += text.len();
        }
    }
    let want: BTreeMap<u32, usize> = (10..)
        .zip(&texts)
        .map(|(id, (ids, _))| (id, ids.len()))
        .collect();
    assert_eq!(found, want);
    let used: usize = texts.iter().map(|(ids, _)| ids.len() + 2).sum();
    let fill = used as f64 / (rows.num_rows() * 64) as f64;
    assert!(fill > 0.99, "{fill}");
}

#[test]
fn more_of_a_text_leaves_its_first_rows_as_they_are() {
    let texts = many(9_000);
    let texts = borrowed(&texts);
    for form in [STREAM, apart(Longer::Split)] {
        let (all, _) = packed(&texts, form, packing(31, None));
        for limit in [1, 30, 31, 1_000, 40_000, 100_000, 150_000] {
            let (rows, _) = packed(&texts, form, packing(31, Some(limit)));
            let num_rows = rows.num_rows();
            if limit >= 31 {
                let first: Vec<usize> = (0..num_rows).collect();
                assert_eq!(rows.hash(), all.only(&first).hash(), "{form:?} {limit}");
                assert!(rows.num_positions() <= limit);
            }
            assert!(num_rows > 0);
        }
    }
}

#[test]
fn streamed_rows_lie_between_those_of_documents_in_proportion() {
    let texts = many(900);
    let texts = borrowed(&texts);
    let rows = RowsBuilder::in_memory(31, EOT);
    let mut packer = Packer::new(packing(31, None), rows);
    for (place, (ids, _)) in texts.iter().enumerate() {
        packer.begin(if place % 3 == 0 {
            STREAM
        } else {
            apart(Longer::Split)
        });
        packer.begin_text();
        for &id in *ids {
            let token = NewToken {
                id,
                num_bytes: 1,
                counts: true,
                is_separator: false,
                is_end: false,
            };
            packer.push(token).unwrap();
        }
        packer.end_text().unwrap();
        packer.end().unwrap();
    }
    let rows = packer.finish().unwrap().into_rows();
    let is_streamed = |row_idx: usize| rows.sequence(row_idx).num_documents() == 1;
    let count = |rows: std::ops::Range<usize>| rows.filter(|&row| is_streamed(row)).count();
    let half = rows.num_rows() / 2;
    let (first, second) = (count(0..half), count(half..rows.num_rows()));
    assert!(
        first > 50 && first.abs_diff(second) < 20,
        "{first} {second}"
    );
}
