//! The card of a GPTQ folder.

use crate::formats::card::{Card, gptqmodel};

pub(super) const CARD: Card = Card {
    library: "transformers",
    tag: Some("gptq"),
    engines: gptqmodel,
};
