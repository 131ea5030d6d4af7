//! SmolLM2-135M out of a GGUF file: ids, losses and likeliest tokens equal those of transformers.
//!
//! The file is not committed; `scripts/fetch_smollm2.sh` gets it. Without it the test says so and passes.
#![cfg(feature = "flex")]

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    use alambic::checkpoint::Checkpoint;
    use alambic::data::Tokenizer;
    use alambic::model::{Decoder, TokenBatch};
    use alambic::teacher::load_decoder;
    use burn::tensor::Device;
    use serde::Deserialize;

    const MODEL: &str = "checkpoints/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";

    /// `tests/golden/smollm2.json`, by transformers in f32 from the same file, dequantised.
    #[derive(Deserialize)]
    struct Reference {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        text: String,
        /// The first tokens of the text.
        ids: Vec<u32>,
        /// Loss at position t, about token t + 1, in nats.
        nll: Vec<f64>,
        mean_nll: f64,
        positions: Vec<usize>,
        /// The likeliest eight at each of these positions.
        topk_ids: Vec<Vec<u32>>,
        topk_logprobs: Vec<Vec<f64>>,
        logsumexp: Vec<f64>,
    }

    /// Natural log-probabilities at one position, and the log-sum-exp of its logits.
    fn log_probs(logits: &[f32]) -> (Vec<f64>, f64) {
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let exp = logits.iter().map(|&logit| f64::from(logit - largest).exp());
        let log_sum = exp.sum::<f64>().ln() + f64::from(largest);
        let log_probs = logits.iter().map(|&logit| f64::from(logit) - log_sum);
        (log_probs.collect(), log_sum)
    }

    fn assert_close(what: &str, got: f64, want: f64, tolerance: f64) {
        let is_close = (got - want).abs() <= tolerance;
        assert!(
            is_close,
            "{what}: got {got}, want {want} within {tolerance}"
        );
    }

    fn check(decoder: &Decoder, case: &Case) {
        let device = Device::flex();
        let hidden = decoder.hidden(&TokenBatch::document(&case.ids, &device));
        let logits = decoder.logits(hidden).try_into_vec_as::<f32>().unwrap();
        let rows: Vec<_> = logits
            .chunks(decoder.config.vocab_size)
            .map(log_probs)
            .collect();
        assert_eq!((rows.len(), case.nll.len()), (256, 255));
        let mut sum = 0.0;
        for (position, ((row, _), &want)) in rows.iter().zip(&case.nll).enumerate() {
            let got = -row[case.ids[position + 1] as usize];
            assert_close(&format!("loss at {position}"), got, want, 2e-3);
            sum += got;
        }
        assert_close("mean loss", sum / 255.0, case.mean_nll, 2e-4);

        let tops = case.topk_ids.iter().zip(&case.topk_logprobs);
        assert_eq!(case.positions.len(), 16);
        for ((&position, (ids, want)), &log_sum) in
            case.positions.iter().zip(tops).zip(&case.logsumexp)
        {
            let (row, got_log_sum) = &rows[position];
            assert_close(
                &format!("log-sum-exp at {position}"),
                *got_log_sum,
                log_sum,
                2e-3,
            );
            let mut order: Vec<u32> = (0..).take(row.len()).collect();
            order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
            assert_eq!(order[0], ids[0], "likeliest at {position}");
            for (rank, (&id, &want)) in ids.iter().zip(want).enumerate() {
                let what = format!("log-probability of {id} at {position}");
                assert_close(&what, row[id as usize], want, 2e-3);
                let what = format!("log-probability of rank {rank} at {position}");
                assert_close(&what, row[order[rank] as usize], want, 2e-3);
            }
        }
    }

    #[test]
    fn smollm2_says_what_it_says_in_transformers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
        if !path.exists() {
            println!("skipped: no {MODEL}; scripts/fetch_smollm2.sh gets it");
            return;
        }
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2.json");
        let reference: Reference = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
        assert_eq!(reference.cases.len(), 3);

        let since = Instant::now();
        let tokenizer = Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.vocab_size(), 49_152);
        assert_eq!(tokenizer.end_of_text(), Some(0));
        for case in &reference.cases {
            let ids = tokenizer.encode(&case.text).unwrap();
            assert_eq!(ids[..256], case.ids);
            assert_eq!(tokenizer.decode(&ids).unwrap(), case.text);
        }
        println!("tokenizer: {:.1} s", since.elapsed().as_secs_f64());

        let since = Instant::now();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let decoder = load_decoder(&checkpoint, &Device::flex()).unwrap();
        println!("weights: {:.1} s", since.elapsed().as_secs_f64());
        let since = Instant::now();
        for case in &reference.cases {
            check(&decoder, case);
        }
        println!(
            "forward of 3 x 256 tokens: {:.1} s",
            since.elapsed().as_secs_f64()
        );
    }
}
