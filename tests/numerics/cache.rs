//! A capture of a random teacher: independent of its batches, and told from another teacher's.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::cache::{Cache, Fingerprint, Sampling, SupportPlan, TokenHashes, Wanted};
use alambic::data::{Sequence, TokenRows};
use alambic::model::Decoder;
use alambic::support::Supports;
use alambic::teacher::{CaptureJob, Selection, capture, compare, supports};

use crate::tiny::{config, random_decoder, random_rows};

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
        tokenizer: "2".to_owned(),
        sequence_length: 16,
        vocab_size: 320,
        support,
        temperatures: vec![1.0],
    }
}

fn captured(decoder: &Decoder, rows: &TokenRows, support: SupportPlan, dir: &Path) -> Cache {
    let fingerprint = fingerprint(support);
    let tokens = TokenHashes::of((0..rows.num_rows()).map(|row_idx| rows.row(row_idx)));
    let wanted = Wanted {
        fingerprint: &fingerprint,
        tokens: &tokens,
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
            (5, 80, 0)
        );
        assert!(
            found.agrees() && found.max_difference_nats < 1.0 / 16.0 + 1e-3,
            "{found:?}"
        );
        let found = compare(&other, &cache, 3, |_| {}).unwrap();
        assert!(!found.agrees() && found.num_rows == 3, "{found:?}");
        assert!(found.num_different > 40, "{found:?}");
    }
}

#[test]
fn draws_do_not_depend_on_what_stands_beside_a_row() {
    let rows = random_rows(16, &[16; 6], 4);
    let decoder = random_decoder(config(), 1);
    for support in SUPPORTS {
        let fingerprint = fingerprint(support);
        let selection = Selection::of(&fingerprint);
        let all: Vec<Sequence<'_>> = (0..6).map(|row_idx| rows.sequence(row_idx)).collect();
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
