//! Statistics of a cache, compared with those of its teacher.

use tempfile::tempdir;

use super::*;

#[test]
fn the_whole_vocabulary_leaves_no_tail() {
    let dir = tempdir().unwrap();
    let whole = Fingerprint {
        support: SupportPlan::TopK(64),
        ..fingerprint()
    };
    let cache = build(dir.path(), &whole);
    assert_close(&read(&cache, &[7]).unwrap()[0], &supports(7, &whole));
    let stat = cache.stat().unwrap();
    assert!((stat.mean_support_mass - 1.0).abs() < 1e-5, "{stat:?}");
    assert!((0.0..1e-5).contains(&stat.mean_tail_mass), "{stat:?}");
}

#[test]
fn the_statistics_are_those_of_the_teacher() {
    let dir = tempdir().unwrap();
    let of = fingerprint();
    let stat = build(dir.path(), &of).stat().unwrap();
    let (mut mass, mut entropy, mut top) = (0.0, 0.0, 0.0);
    for row_idx in 0..NUM_ROWS {
        let row = top_k_supports(row_idx, &of, 5);
        for position in counted(row_idx, &of) {
            let log_probs = &row.log_probs[5 * position..][..5];
            let probs: Vec<f64> = log_probs.iter().map(|l| f64::from(*l).exp()).collect();
            let tail = 1.0 - probs.iter().sum::<f64>();
            mass += 1.0 - tail;
            top += probs.iter().copied().fold(0.0, f64::max);
            entropy -= probs.iter().map(|p| p * p.ln()).sum::<f64>() + tail * tail.ln();
        }
    }
    let near = |got: f64, want: f64| assert!((got - want / 155.0).abs() < 3e-3, "{stat:?}");
    assert_eq!(
        (stat.num_positions, stat.num_counted, stat.num_rows),
        (160, 155, 10)
    );
    near(stat.mean_support_mass, mass);
    near(stat.mean_tail_mass, 155.0 - mass);
    near(stat.mean_entropy_nats, entropy);
    near(stat.mean_mass_by_k[&1], top);
    assert!(stat.mean_mass_by_k.keys().eq(&[1, 2, 4]));
    assert!((stat.mean_num_ids - 5.0).abs() < 1e-12);
    assert_eq!(stat.column_bytes.len(), 7);
    let bytes = stat.bytes_per_counted * 155.0;
    assert!((bytes - stat.total_bytes as f64).abs() < 1e-6, "{stat:?}");
    assert!(stat.column_bytes.values().sum::<u64>() < stat.total_bytes);
}

#[test]
fn the_statistics_of_samples_are_theirs() {
    let dir = tempdir().unwrap();
    let of = sampled();
    let stat = build(dir.path(), &of).stat().unwrap();
    let (mut num_ids, mut entropy) = (0.0, 0.0);
    for row_idx in 0..NUM_ROWS {
        let row = sampled_supports(row_idx, &of, 20);
        for position in counted(row_idx, &of) {
            num_ids += f64::from(row.num_ids[position]);
            entropy += f64::from(row.entropies[position]);
        }
    }
    assert!(
        (stat.mean_num_ids - num_ids / 155.0).abs() < 1e-9,
        "{stat:?}"
    );
    assert!(
        (stat.mean_entropy_nats - entropy / 155.0).abs() < 3e-3,
        "{stat:?}"
    );
    assert!(
        (stat.mean_support_mass - 1.0).abs() < 1e-9 && stat.mean_tail_mass == 0.0,
        "{stat:?}"
    );
}

#[test]
fn a_zipf_like_teacher_takes_less_than_75_bytes_per_position_that_counts() {
    let dir = tempdir().unwrap();
    let large = Fingerprint {
        sequence_length: 256,
        vocab_size: 4096,
        support: SupportPlan::TopK(32),
        temperatures: vec![1.0],
        ..fingerprint()
    };
    let stat = build_rows(dir.path(), &large, 4).stat().unwrap();
    assert!(stat.bytes_per_counted < 75.0, "{stat:?}");
}
