//! The card of a compressed-tensors folder.

use crate::formats::card::{Card, Loading, transformers, vllm};

pub(super) const CARD: Card = Card {
    library: "transformers",
    tag: Some("compressed-tensors"),
    engines,
};

fn engines(card: &mut String, loading: &Loading<'_>) {
    transformers(card, "transformers torch compressed-tensors", loading);
    vllm(card, loading);
}
