//! The card of a folder of AWQ.

use crate::formats::card::{Card, gptqmodel};

pub(super) const CARD: Card = Card {
    library: "transformers",
    tag: Some("awq"),
    engines: gptqmodel,
};
