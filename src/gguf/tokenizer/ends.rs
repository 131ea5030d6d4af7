//! Keys of a file for the tokens that end a text.

/// Tokens that llama.cpp recognises by their text as the end of a turn.
const TURNS: [&str; 7] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
];

/// Token that it recognises as the end of a message within a turn.
const MESSAGE: &str = "<|eom_id|>";

/// Other tokens at which it always stops, recognised by their text.
const OTHERS: [&str; 2] = ["<|endoftext|>", "<|end_of_text|>"];

/// Tokens that end a text, by the keys of a file: llama.cpp stops at each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// `tokenizer.ggml.eos_token_id`: the first token, which separates texts.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: the end of a turn, if the model has a known one.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`.
    pub eom: Option<u32>,
    /// Tokens without a key that llama.cpp does not recognise by their text.
    pub left: Vec<u32>,
}

impl Ends {
    /// Assigns keys to the end tokens of a model, most likely first; `token` gives their texts.
    pub fn of<'a>(ids: &[u32], token: impl Fn(u32) -> Option<&'a str>) -> Self {
        let Some((&first, others)) = ids.split_first() else {
            return Self::default();
        };
        let mut others: Vec<u32> = others.to_vec();
        others.retain(|&id| id != first);
        let is = |id: u32, texts: &[&str]| token(id).is_some_and(|text| texts.contains(&text));
        let mut take = |texts: &[&str]| {
            let place = others.iter().position(|&id| is(id, texts))?;
            Some(others.remove(place))
        };
        let (eom, eot) = (take(&[MESSAGE]), take(&TURNS));
        // Tokens that would not be recognised by their text get the free keys first.
        let is_known = |&id: &u32| is(id, &[&TURNS[..], &[MESSAGE], &OTHERS].concat());
        others.sort_by_key(is_known);
        let mut others = others.into_iter();
        let eot = eot.or_else(|| others.next());
        let eom = eom.or_else(|| others.next());
        Self {
            eos: Some(first),
            eot,
            eom,
            left: others.filter(|id| !is_known(id)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_the_key_of_its_text_or_a_free_one() {
        let token = |id: u32| {
            let texts = [
                "<|end_of_text|>",
                "<|eom_id|>",
                "<|eot_id|>",
                "a",
                "b",
                "<|im_end|>",
                "<|endoftext|>",
            ];
            texts.get(id as usize).copied()
        };
        let ends = |eos, eot, eom, left: &[u32]| Ends {
            eos,
            eot,
            eom,
            left: left.to_vec(),
        };
        for (ids, want) in [
            (&[][..], Ends::default()),
            (&[0], ends(Some(0), None, None, &[])),
            (&[0, 0], ends(Some(0), None, None, &[])),
            (&[0, 1, 2], ends(Some(0), Some(2), Some(1), &[])), // Llama 3.1
            (&[5, 6], ends(Some(5), Some(6), None, &[])),       // Qwen 2.5
            (&[6, 5], ends(Some(6), Some(5), None, &[])),
            (&[0, 3, 2], ends(Some(0), Some(2), Some(3), &[])),
            (&[0, 6, 3, 4], ends(Some(0), Some(3), Some(4), &[])), // 6 is recognised by its text
            (&[6, 5, 3, 4, 9], ends(Some(6), Some(5), Some(3), &[4, 9])),
        ] {
            assert_eq!(Ends::of(ids, token), want, "{ids:?}");
        }
    }
}
