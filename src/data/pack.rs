//! Packing of tokenized documents into rows of one length.

use serde::Serialize;

use super::rows::TokenRows;
use super::tokenizer::TokenizedText;

/// Settings for packing documents into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Packing {
    /// Predicted positions of a row.
    pub sequence_length: usize,
    /// Token expected before every text ([`Tokenizer::beginning_of_text`](super::Tokenizer::beginning_of_text)).
    pub beginning_of_text: Option<u32>,
    /// The token after each document.
    pub end_of_text: u32,
    /// Maximum number of counted positions: as many whole rows as fit, or one partial row if it is smaller than a row.
    pub limit: Option<u64>,
}

/// Packs the stream `doc eot doc eot … doc eot` into rows so that each token is predicted exactly once.
///
/// A row begins with the last token of the previous row, the first row with end-of-text. If the model expects a token
/// before every text, each row begins with that token instead: such a model attends to it and is another model without.
/// Attention crosses document ends within a row. The last row is padded with end-of-text; documents without tokens are
/// skipped.
///
/// The rows' `num_bytes` is the sum of the predicted tokens' bytes ([`TokenizedText::num_bytes`]), 0 for end-of-text:
/// without a limit this is the length of the text. The end-of-text after each document is a separator of the rows
/// ([`TokenRows::is_separator`]); an end-of-text written in the text counts as text.
///
/// # Panics
///
/// If the sequence length is 0.
pub fn pack(documents: &[TokenizedText], packing: Packing) -> TokenRows {
    let Packing {
        sequence_length,
        beginning_of_text,
        end_of_text,
        limit,
    } = packing;
    assert!(sequence_length > 0, "positions per row");
    let documents = || documents.iter().filter(|text| !text.ids.is_empty());
    let num_labels: usize = documents().map(|text| text.ids.len() + 1).sum();
    let num_positions = allowed(num_labels, sequence_length, limit);

    let labels = documents().flat_map(|text| {
        let ids = text.ids.iter().copied().zip(text.num_bytes.iter().copied());
        let ids = ids.map(|(id, num_bytes)| (id, num_bytes, false));
        ids.chain([(end_of_text, 0, true)])
    });
    let mut tokens = Vec::with_capacity(num_positions + num_positions / sequence_length + 2);
    let mut num_bytes = 0;
    let mut separators = Vec::new();
    let mut last = end_of_text;
    for (position, (id, id_bytes, is_separator)) in labels.take(num_positions).enumerate() {
        if position % sequence_length == 0 {
            tokens.push(beginning_of_text.unwrap_or(last));
        }
        tokens.push(id);
        num_bytes += u64::from(id_bytes);
        if is_separator {
            separators.push(position);
        }
        last = id;
    }
    let num_rows = num_positions.div_ceil(sequence_length);
    tokens.resize(num_rows * (sequence_length + 1), end_of_text);
    let counted = (0..num_rows)
        .map(|row_idx| (num_positions - row_idx * sequence_length).min(sequence_length))
        .map(|count| u32::try_from(count).expect("a row is shorter than 2^32 tokens"))
        .collect();
    TokenRows::new(sequence_length, tokens, counted, num_bytes).with_separators(separators)
}

/// Number of positions within the limit, cut at the last row end before it, if any.
fn allowed(num_positions: usize, sequence_length: usize, limit: Option<u64>) -> usize {
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    if limit >= num_positions {
        num_positions
    } else if limit >= sequence_length {
        limit - limit % sequence_length
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOT: u32 = 0;

    fn documents() -> Vec<TokenizedText> {
        let text = |ids: &[u32], num_bytes: &[u32]| TokenizedText {
            ids: ids.to_vec(),
            num_bytes: num_bytes.to_vec(),
        };
        vec![
            text(&[11, 12, 13], &[1, 2, 4]),
            text(&[], &[]),
            text(&[21, 22], &[8, 16]),
        ]
    }

    fn packing(sequence_length: usize, limit: Option<u64>) -> Packing {
        Packing {
            sequence_length,
            beginning_of_text: None,
            end_of_text: EOT,
            limit,
        }
    }

    #[test]
    fn rows_overlap_by_one_token_and_predict_each_token_and_each_end_once() {
        let rows = pack(&documents(), packing(3, None));
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
        let mut documents = documents();
        documents[0].ids[1] = EOT; // in the text, it counts as bytes
        let rows = pack(&documents, packing(3, None));
        assert_eq!(rows.row(0), [EOT, 11, EOT, 13]);
        assert_eq!(separators(&rows), [(1, 0), (2, 0)]);
        assert_eq!((rows.num_positions(), rows.num_text_positions()), (7, 5));
        let cut = pack(&documents, packing(3, Some(3)));
        assert_eq!(separators(&cut), []);

        let [before, rest] = rows.split_at(1);
        assert_eq!(separators(&before), []);
        assert_eq!(separators(&rest), [(0, 0), (1, 0)]);
        assert_eq!((before.num_bytes(), rest.num_bytes()), (18, 13)); // of 31, by 3 and 2 positions of text
        let bytes = rows.to_bytes();
        assert_eq!(TokenRows::from_bytes(&bytes), Some(rows));
        for (damaged, to) in [(48, 7), (56, 0), (40, 3), (32, 2), (16, 9)] {
            let mut bytes = bytes.clone();
            bytes[damaged] = to;
            assert_eq!(TokenRows::from_bytes(&bytes), None, "byte {damaged}");
        }
    }

    #[test]
    fn a_limit_cuts_at_a_row_and_counts_the_bytes_before_the_cut() {
        let rows = pack(&documents(), packing(3, Some(5)));
        assert_eq!((rows.num_rows(), rows.num_positions()), (1, 3));
        assert_eq!(rows.num_bytes(), 7);
        let rows = pack(&documents(), packing(3, Some(2)));
        assert_eq!(rows.row(0), [EOT, 11, 12, EOT]);
        assert_eq!((rows.num_positions(), rows.num_bytes()), (2, 3));
        assert_eq!(
            pack(&documents(), packing(3, Some(7))),
            pack(&documents(), packing(3, None))
        );
    }

    #[test]
    fn a_stream_that_fills_its_rows_is_not_padded() {
        let rows = pack(&documents(), packing(7, None));
        assert_eq!(rows.row(0), [EOT, 11, 12, 13, EOT, 21, 22, EOT]);
        assert_eq!((rows.num_rows(), rows.mask(0).count()), (1, 7));
        assert_eq!(pack(&[], packing(7, None)).num_rows(), 0);
    }

    #[test]
    fn a_token_before_every_text_begins_every_row_and_each_token_is_still_predicted_once() {
        const BOS: u32 = 1;
        let with_bos = Packing {
            beginning_of_text: Some(BOS),
            ..packing(3, None)
        };
        let rows = pack(&documents(), with_bos);
        assert_eq!(rows.row(0), [BOS, 11, 12, 13]);
        assert_eq!(rows.row(1), [BOS, EOT, 21, 22]);
        assert_eq!(rows.row(2), [BOS, EOT, EOT, EOT]);
        assert_eq!([0, 1, 2].map(|row| rows.mask(row).count()), [3, 3, 1]);
        assert_eq!((rows.num_positions(), rows.num_bytes()), (7, 31));
    }
}
