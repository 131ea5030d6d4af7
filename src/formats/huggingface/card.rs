//! The card of a plain folder.

use crate::formats::card::{Card, Loading, mistral_rs, mlx, transformers, vllm};

pub(super) const CARD: Card = Card {
    library: "transformers",
    tag: None,
    engines,
};

fn engines(card: &mut String, loading: &Loading<'_>) {
    transformers(card, "transformers torch", loading);
    vllm(card, loading);
    mistral_rs(card, "Runner(which=Which.Plain(model_id=\".\"))");
    mlx(card);
}
