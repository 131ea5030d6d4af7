//! A capture of a random teacher: independent of its batches, and told from another teacher's.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::cache::{Cache, Fingerprint, Sampling, SupportPlan, TokenHashes, Wanted};
use alambic::data::{LossMask, PositionSpan, Sequence, TokenRows, spans_of};
use alambic::kernels::Arithmetic;
use alambic::model::{Decoder, DecoderConfig, LayerType};
use alambic::random::Stream;
use alambic::support::{CountedRow, Supports};
use alambic::teacher::{CaptureJob, Selection, capture, compare, supports};

use crate::tiny::{all_positions, config, random_decoder, random_rows, tensor};
use alambic::tensors::to_vec;

const SUPPORTS: [SupportPlan; 3] = [
    SupportPlan::TopK(8),
    SupportPlan::Samples {
        num_draws: 20,
        sampling: Sampling::Systematic,
    },
    SupportPlan::Samples {
        num_draws: 20,
        sampling: Sampling::Independent,
    },
];

fn fingerprint(support: SupportPlan) -> Fingerprint {
    Fingerprint {
        version: Fingerprint::VERSION,
        teacher_weights: "1".to_owned(),
        precision: Arithmetic::F32,
        tokenizer: "2".to_owned(),
        sequence_length: 16,
        vocab_size: 320,
        support,
        temperatures: vec![1.0],
    }
}

fn captured(decoder: &Decoder, rows: &TokenRows, support: SupportPlan, dir: &Path) -> Cache {
    let fingerprint = fingerprint(support);
    let tokens = TokenHashes::of((0..rows.num_rows()).map(|row_idx| rows.sequence(row_idx)));
    let wanted = Wanted {
        fingerprint: &fingerprint,
        tokens: &tokens,
        mask: &|row_idx| rows.mask(row_idx),
    };
    let job = CaptureJob {
        dir,
        batch_size: 2,
        rows_per_shard: 4,
        part: None,
        label: "cache",
        stop: &AtomicBool::new(false),
    };
    capture(decoder, rows, wanted, &job).unwrap();
    Cache::open(dir, wanted).unwrap()
}

#[test]
fn a_cache_agrees_with_its_teacher_and_not_with_another() {
    let rows = random_rows(16, &[16, 16, 3, 16, 16], 3);
    let (teacher, other) = (random_decoder(config(), 1), random_decoder(config(), 2));
    for support in SUPPORTS {
        let dir = tempfile::tempdir().unwrap();
        let cache = captured(&teacher, &rows, support, dir.path());
        let found = compare(&teacher, &cache, 100, |_| {}).unwrap();
        assert_eq!(
            (found.num_rows, found.num_positions, found.num_different),
            (5, 16 * 4 + 3, 0)
        );
        assert!(
            found.agrees() && found.max_difference_nats < 1.0 / 16.0 + 1e-3,
            "{found:?}"
        );
        let found = compare(&other, &cache, 3, |_| {}).unwrap();
        assert!(!found.agrees() && found.num_rows == 3, "{found:?}");
        assert!(found.num_different > 33, "{found:?}");
    }
}

#[test]
fn draws_do_not_depend_on_what_stands_beside_a_row() {
    let rows = random_rows(16, &[16; 6], 4);
    let decoder = random_decoder(config(), 1);
    for support in SUPPORTS {
        let fingerprint = fingerprint(support);
        let selection = Selection::of(&fingerprint);
        let all: Vec<CountedRow<'_>> = (0..6)
            .map(|row_idx| CountedRow::of(&rows, row_idx))
            .collect();
        let together = supports(&decoder, &all, &selection);
        let alone: Vec<Supports> = all
            .iter()
            .flat_map(|&row| supports(&decoder, &[row], &selection))
            .collect();
        let mut reversed = all.clone();
        reversed.reverse();
        let mut reversed = supports(&decoder, &reversed, &selection);
        reversed.reverse();
        for (together, others) in together.iter().zip(alone.iter().zip(&reversed)) {
            let ids = |row: &Supports| match row {
                Supports::TopK(row) => (row.ids.clone(), Vec::new()),
                Supports::Samples(row) => (row.ids.clone(), row.counts.clone()),
            };
            assert_eq!(ids(together), ids(others.0));
            assert_eq!(ids(together), ids(others.1));
        }
    }
}

/// Random masks of rows, with rows of one position, of none, and of positions in the middle alone among them.
fn masks(num_rows: usize, num_positions: usize, seed: u64) -> Vec<Vec<PositionSpan>> {
    let mut stream = Stream::new(seed, "masks");
    let mask = |row_idx: usize| {
        let share = [0.3, 0.0, 0.1, 1.0, 0.6][row_idx % 5];
        let end = num_positions - num_positions / 3 * (row_idx % 2);
        let counts = |position: usize| stream.uniform() < share && position < end;
        spans_of((0..num_positions).map(counts))
    };
    let mut masks: Vec<_> = (0..num_rows).map(mask).collect();
    masks.push(spans_of((0..num_positions).map(|position| position == 5)));
    masks
}

/// The plain twin computes the logits of all positions of whole rows.
#[test]
fn supports_of_counted_positions_are_those_of_all_bit_for_bit() {
    let config = DecoderConfig {
        hidden_size: 96,
        intermediate_size: 160,
        num_hidden_layers: 2,
        layer_types: vec![LayerType::Full; 2],
        head_dim: 24,
        ..config()
    };
    let decoder = random_decoder(config, 5);
    let num_positions = 150;
    let rows = random_rows(num_positions, &[150; 6], 6);
    let (all, starts) = (all_positions(num_positions), [0, 7, 64, 65, 130]);
    let masks = masks(5, num_positions, 7);
    for plan in SUPPORTS {
        let selection = Selection {
            support: plan,
            temperatures: &[1.0],
        };
        for starts in [&starts[..1], &starts] {
            let row = |row_idx: usize, spans| CountedRow {
                sequence: Sequence::packed(rows.row(row_idx), starts),
                mask: LossMask::new(spans, num_positions).unwrap(),
            };
            let whole: Vec<_> = (0..6).map(|row_idx| row(row_idx, &all)).collect();
            let whole = supports(&decoder, &whole, &selection);
            let counted: Vec<_> = (0..6)
                .map(|row_idx| row(row_idx, &masks[row_idx]))
                .collect();
            for pass in [6, 2, 1] {
                let passes = counted.chunks(pass);
                let got: Vec<Supports> = passes
                    .flat_map(|rows| supports(&decoder, rows, &selection))
                    .collect();
                for ((got, whole), counted) in got.iter().zip(&whole).zip(&counted) {
                    assert_eq!(got, &whole.at(counted.mask.positions()), "{plan:?}, {pass}");
                }
            }
        }
    }
}

/// Why the test above holds: no other product depends on how many rows it has, neither by its kernel nor by its threads.
#[test]
fn a_row_of_a_product_does_not_depend_on_how_many_there_are() {
    let mut stream = Stream::new(8, "product");
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    let mut random = |shape: [usize; 2]| {
        let values = (0..shape[0] * shape[1]).map(|_| stream.normal() as f32);
        tensor(values.collect(), shape)
    };
    for [inner, columns] in [[96, 320], [577, 1030]] {
        let (left, right) = (random([300, inner]), random([columns, inner]).transpose());
        let whole = to_vec(&left.clone().matmul(right.clone()));
        for num_rows in (2..40).chain([63, 64, 65, 100, 171, 299]) {
            let first = 300 - num_rows;
            let some = left.clone().narrow(0, first, num_rows);
            let got = to_vec(&some.matmul(right.clone()));
            assert!(
                got == whole[first * columns..],
                "{num_rows} rows of {inner}"
            );
        }
    }
}
