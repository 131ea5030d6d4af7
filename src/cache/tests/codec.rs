//! The entropy coder against itself, against the entropy, and against garbage.

use super::super::quantize::{RowCodes, dequantize, quantize};
use super::super::stream::StreamFields;
use super::super::tables::Tables;
use super::*;

/// Fingerprint of five ids, at temperature 1 only.
fn at_one() -> Fingerprint {
    Fingerprint {
        temperatures: vec![1.0],
        ..fingerprint()
    }
}

fn codes(of: &Fingerprint, num_rows: usize) -> Vec<RowCodes> {
    let rows = (0..num_rows).map(|row_idx| everywhere(row_idx, of));
    rows.map(|row| quantize(&row)).collect()
}

fn measured(of: &Fingerprint, rows: &[RowCodes]) -> (Tables, Vec<Vec<u8>>) {
    let written = Tables::measure(of, rows.iter());
    let ranks = written.ranks();
    let streams = rows.iter().map(|row| written.encode(row, &ranks)).collect();
    let read = Tables::from_bytes(&written.to_bytes(), of).unwrap();
    (read, streams)
}

#[test]
fn every_row_of_a_shard_comes_back_from_its_stream_alone() {
    for of in [fingerprint(), sampled()] {
        let rows = codes(&of, 7);
        let (tables, streams) = measured(&of, &rows);
        for (row, stream) in rows.iter().zip(&streams).rev() {
            assert_eq!(tables.decode(stream, 16).as_ref(), Some(row));
            assert_eq!(tables.decode(stream, 15), None, "more is there");
            assert_eq!(tables.decode(stream, 17), None, "less is there");
        }
    }
}

#[test]
fn what_came_back_is_stored_as_the_same_numbers() {
    for of in [fingerprint(), sampled()] {
        for row in codes(&of, 10) {
            let back = dequantize(row.clone(), &of);
            assert_eq!(quantize(&back), row);
        }
    }
}

#[test]
fn the_likeliest_ids_keep_the_mass_that_was_captured() {
    let of = fingerprint();
    for row_idx in 0..10 {
        let want = top_k_supports(row_idx, &of, 5);
        let codes = quantize(&Supports::TopK(want.clone()));
        let Supports::TopK(got) = dequantize(codes, &of) else {
            panic!("the likeliest ids");
        };
        for temperature in &of.temperatures {
            for (got, want) in got.positions().zip(want.positions()) {
                let log_odds = |mass: f64| (1.0 - mass).ln() - mass.ln();
                let difference =
                    log_odds(got.mass(*temperature)) - log_odds(want.mass(*temperature));
                assert!(
                    difference.abs() <= 1.0 / 32.0 + 1e-4,
                    "{difference} at {temperature}"
                );
            }
        }
    }
}

#[test]
fn what_comes_back_is_a_distribution_at_every_temperature() {
    let temperatures = vec![1e-300, 1e-6, 1e-4, 1e-3, 0.05, 1.0, 100.0];
    let of = Fingerprint {
        temperatures,
        ..fingerprint()
    };
    for row_idx in 0..10 {
        let want = top_k_supports(row_idx, &of, 5);
        let codes = quantize(&Supports::TopK(want.clone()));
        let Supports::TopK(back) = dequantize(codes, &of) else {
            panic!("the likeliest ids");
        };
        for &temperature in &of.temperatures {
            for (back, want) in back.positions().zip(want.positions()) {
                let masses = [back, want].map(|support| support.mass(temperature));
                assert!(masses[0] <= 1.0 + 1e-6, "{masses:?} at {temperature}");
                let difference = (masses[0] - masses[1]).abs();
                let bound = f64::from(MASS_ERROR_BOUND);
                assert!(difference <= bound, "{masses:?} at {temperature}");
            }
        }
    }
}

#[test]
fn the_likeliest_id_stays_the_likeliest_however_near_others_are() {
    let at_one = at_one();
    for (log_probs, top) in [
        ([-1.2_f32, -1.19, -1.191, -1.25, -3.0], 1),
        ([-1.5, -1.5, -1.5, -1.5, -1.5], 0),
        ([-1.6, -1.6, -1.6, -1.600_1, -1.599_9], 4),
    ] {
        let row = TopKSupports {
            top_k: 5,
            ids: vec![3, 4, 5, 6, 9],
            log_probs: log_probs.to_vec(),
            lse: vec![LogSumExps {
                temperature: 1.0,
                of_positions: vec![0.0],
            }],
        };
        let codes = quantize(&Supports::TopK(row));
        let Supports::TopK(back) = dequantize(codes, &at_one) else {
            panic!("the likeliest ids");
        };
        let others = back
            .log_probs
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != top);
        for (_, other) in others {
            assert!(*other < back.log_probs[top], "{:?}", back.log_probs);
        }
    }
}

#[test]
fn rounding_costs_less_than_a_thousandth_of_a_nat() {
    let of = Fingerprint {
        support: SupportPlan::TopK(32),
        ..fingerprint()
    };
    let (mut kl, mut positions) = (0.0, 0.0);
    for row_idx in 0..10 {
        let want = top_k_supports(row_idx, &of, 32);
        let codes = quantize(&Supports::TopK(want.clone()));
        let Supports::TopK(got) = dequantize(codes, &of) else {
            panic!("the likeliest ids");
        };
        for (got, want) in got.log_probs.chunks(32).zip(want.log_probs.chunks(32)) {
            let tail = |row: &[f32]| 1.0 - row.iter().map(|l| f64::from(*l).exp()).sum::<f64>();
            let pairs = want
                .iter()
                .zip(got)
                .map(|(p, q)| (f64::from(*p), f64::from(*q)));
            kl += pairs.map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            kl += tail(want) * (tail(want) / tail(got)).ln();
            positions += 1.0;
        }
    }
    assert!(
        (0.0..1e-3).contains(&(kl / positions)),
        "{}",
        kl / positions
    );
}

/// Simple reference implementation: ranks by sorting, numbers of bits by the definition of entropy.
#[test]
fn streams_are_as_long_as_the_entropy_of_their_contexts() {
    for of in [
        Fingerprint {
            sequence_length: 300,
            ..fingerprint()
        },
        Fingerprint {
            sequence_length: 300,
            ..sampled()
        },
    ] {
        let rows = codes(&of, 6);
        let (_, streams) = measured(&of, &rows);
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for id in rows.iter().flat_map(|row| &row.ids) {
            *counts.entry(*id).or_default() += 1;
        }
        let mut by_rank: Vec<u32> = counts.keys().copied().collect();
        by_rank.sort_by_key(|id| (std::cmp::Reverse(counts[id].ilog2()), *id));
        let ranks: BTreeMap<u32, u32> = by_rank.into_iter().zip(0..).collect();
        let fields = StreamFields::of(&of);
        let mut symbols: BTreeMap<usize, BTreeMap<u32, f64>> = BTreeMap::new();
        let mut raw_bits = 0;
        for row in &rows {
            let ranks: Vec<u32> = row.ids.iter().map(|id| ranks[id]).collect();
            fields.walk(row, &ranks, &mut |coded| {
                *symbols
                    .entry(coded.table)
                    .or_default()
                    .entry(coded.bin)
                    .or_default() += 1.0;
                raw_bits += coded.num_low_bits;
            });
        }
        let entropy = |counts: &BTreeMap<u32, f64>| {
            let total: f64 = counts.values().sum();
            counts
                .values()
                .map(|count| count * (total / count).log2())
                .sum::<f64>()
        };
        let want = f64::from(raw_bits) + symbols.values().map(entropy).sum::<f64>();
        let got = streams
            .iter()
            .map(|stream| stream.len() as f64 * 8.0 - 64.0)
            .sum::<f64>();
        assert!(
            (0.999 * want..1.01 * want + 200.0).contains(&got),
            "{got} bits for {want}"
        );
    }
}

#[test]
fn the_largest_numbers_come_back() {
    let of = Fingerprint {
        sequence_length: 2,
        vocab_size: 1 << 17,
        support: SupportPlan::Samples {
            num_draws: 1 << 16,
            sampling: Sampling::Independent,
        },
        ..sampled()
    };
    let last = (1 << 17) - 1;
    let row = Supports::Samples(SampledSupports {
        num_ids: vec![1, 3],
        ids: vec![last, 0, 1, last],
        counts: vec![1 << 16, 1, (1 << 16) - 3, 2],
        entropies: vec![0.0, 11.0],
    });
    let rows = [quantize(&row)];
    let (tables, streams) = measured(&of, &rows);
    assert_eq!(tables.decode(&streams[0], 2).as_ref(), Some(&rows[0]));
    assert_eq!(dequantize(rows[0].clone(), &of), row);
}

proptest! {
    #[test]
    fn flipped_bits_of_a_stream_end_in_an_answer(flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4), is_sampled in any::<bool>()) {
        let of = if is_sampled { sampled() } else { fingerprint() };
        let rows = codes(&of, 2);
        let (tables, mut streams) = measured(&of, &rows);
        for flip in flips {
            let bit = flip.index(streams[0].len() * 8);
            streams[0][bit / 8] ^= 1 << (bit % 8);
        }
        // Detected damage is refused; anything else is a row of the right shape.
        match tables.decode(&streams[0], 16) {
            None => {}
            Some(codes) if is_sampled => prop_assert_eq!(codes.num_ids.len(), 16),
            Some(codes) => prop_assert_eq!(codes.ids.len(), 80),
        }
    }

    #[test]
    fn any_bytes_are_tables_and_streams_or_are_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        stream in prop::collection::vec(any::<u8>(), 0..400),
        num_flips in 0usize..8,
    ) {
        for of in [fingerprint(), sampled()] {
            prop_assert!(Tables::from_bytes(&bytes, &of).is_none_or(|tables| tables.decode(&stream, 16).is_none_or(|_| true)));
            // The dangerous tables are the ones that are nearly right.
            let rows = codes(&of, 1);
            let mut near = Tables::measure(&of, rows.iter()).to_bytes();
            for flip in bytes.drain(..num_flips.min(bytes.len())) {
                let place = usize::from(flip) * near.len() / 256;
                near[place] ^= flip;
            }
            if let Some(tables) = Tables::from_bytes(&near, &of) {
                tables.decode(&stream, 16);
            }
        }
    }

    #[test]
    fn a_log_probability_comes_back_within_the_bound(log_odds in prop::collection::vec(-30.0f32..0.0, 5), tail in 0.0f64..0.9) {
        let norm = log_odds.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln() - (1.0 - tail).ln();
        let log_probs: Vec<f32> = log_odds.iter().map(|l| to_f32(f64::from(*l) - norm)).collect();
        let at_one = at_one();
        let row = TopKSupports { top_k: 5, ids: vec![0, 1, 2, 3, 4], log_probs, lse: vec![LogSumExps { temperature: 1.0, of_positions: vec![0.0] }] };
        let codes = quantize(&Supports::TopK(row.clone()));
        let Supports::TopK(back) = dequantize(codes, &at_one) else {
            panic!("the likeliest ids");
        };
        assert_top_k_close(&back, &row);
    }
}
