//! Rows of embedding and head for tokens that a model did not know.

use burn::tensor::{Tensor, TensorData};

use crate::model::Decoder;

/// Gives a model rows for new tokens: ids from `num_tokens` on, `num_new` of them. Each new row of the embedding, and of the head
/// if it is not tied, is the mean of the rows of the tokens before. Rows that no token used are replaced.
///
/// At the mean a new token is about as likely as an average one, so that the other predictions hardly change; a random row may
/// be likelier than all others (Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021).
pub fn with_new_tokens(decoder: Decoder, num_tokens: usize, num_new: usize) -> Decoder {
    if num_new == 0 {
        return decoder;
    }
    decoder.with_token_rows(|matrix| {
        let [num_rows, _] = matrix.dims();
        let known = matrix.clone().narrow(0, 0, num_tokens);
        let mut parts = vec![known.clone(), mean_row(&known).repeat_dim(0, num_new)];
        let behind = num_tokens + num_new;
        if num_rows > behind {
            parts.push(matrix.narrow(0, behind, num_rows - behind));
        }
        Tensor::cat(parts, 0)
    })
}

/// Mean of the rows of `[V, D]` as `[1, D]`, summed in f64: vocabularies have some hundred thousand rows.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn mean_row(rows: &Tensor<2>) -> Tensor<2> {
    let [num_rows, width] = rows.dims();
    let mut sums = vec![0.0; width];
    for (idx, value) in rows.to_data().iter::<f32>().enumerate() {
        sums[idx % width] += f64::from(value);
    }
    let mean: Vec<f32> = sums
        .iter()
        .map(|sum| (sum / num_rows as f64) as f32)
        .collect();
    Tensor::from_data(TensorData::new(mean, [1, width]), &rows.device())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::model::DecoderConfig;
    use crate::student::Student;

    fn decoder(tied: bool) -> Decoder {
        let config = DecoderConfig::from_json(&serde_json::json!({
            "model_type": "llama", "vocab_size": 6, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
            "num_key_value_heads": 1, "intermediate_size": 4, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "max_position_embeddings": 16, "rope_theta": 1e4, "tie_word_embeddings": tied,
        }));
        Student::fresh(&config.unwrap(), 1, 7, &Device::default()).decoder
    }

    fn rows(decoder: &Decoder, place: usize) -> Vec<Vec<f32>> {
        let (_, matrix) = decoder.parameters().swap_remove(place);
        let width = matrix.dims()[1];
        let values: Vec<f32> = matrix.to_data().iter::<f32>().collect();
        values.chunks(width).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn new_rows_are_the_mean_and_the_others_stay() {
        for tied in [true, false] {
            let before = decoder(tied);
            let places = if tied {
                vec![0]
            } else {
                vec![0, before.parameters().len() - 1]
            };
            // 4 of the 6 rows are tokens; the new ones take the 2 that are left, and one more
            let after = with_new_tokens(before.clone(), 4, 3);
            assert_eq!(after.config.vocab_size, 7);
            let within = with_new_tokens(before.clone(), 4, 1);
            assert_eq!(within.config.vocab_size, 6);
            for place in places {
                let (old, new) = (rows(&before, place), rows(&after, place));
                assert_eq!(new[..4], old[..4]);
                let mean: Vec<f32> = (0..4)
                    .map(|column| (0..4).map(|row| old[row][column]).sum::<f32>() / 4.0)
                    .collect();
                for row in &new[4..] {
                    for (got, want) in row.iter().zip(&mean) {
                        assert!((got - want).abs() < 1e-7, "{got} {want}");
                    }
                }
                let new = rows(&within, place);
                assert_eq!((&new[..4], &new[5]), (&old[..4], &old[5]));
                assert_ne!(new[4], old[4]);
            }
        }
    }
}
