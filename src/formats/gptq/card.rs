//! The card of a folder of GPTQ.

use crate::formats::card::{Card, gptqmodel};

pub(super) const CARD: Card = Card {
    library: "transformers",
    tag: Some("gptq"),
    engines: gptqmodel,
};
