//! The keys under which a file names the tokens that end a text.

/// Tokens that llama.cpp takes for the end of a turn, by their text.
const TURNS: [&str; 7] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
];

/// The token that it takes for the end of a message after which the turn goes on.
const MESSAGE: &str = "<|eom_id|>";

/// Other tokens at which it stops by their text, whatever keys say.
const OTHERS: [&str; 2] = ["<|endoftext|>", "<|end_of_text|>"];

/// The tokens that end a text, by the keys of a file: llama.cpp stops at each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// `tokenizer.ggml.eos_token_id`: the first, which stands between texts.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: the end of a turn, if one of them is known for it.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`.
    pub eom: Option<u32>,
    /// Those for which there is no key, and which llama.cpp does not know by their text.
    pub left: Vec<u32>,
}

impl Ends {
    /// The ends of a model, likeliest first, whose texts `token` tells.
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
        // What would not be found by its text has the free keys first.
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
            (&[0, 6, 3, 4], ends(Some(0), Some(3), Some(4), &[])), // 6 is known by its text
            (&[6, 5, 3, 4, 9], ends(Some(6), Some(5), Some(3), &[4, 9])),
        ] {
            assert_eq!(Ends::of(ids, token), want, "{ids:?}");
        }
    }
}
