//! The card of an AWQ folder.

use crate::formats::card::{Card, gptqmodel};

pub(super) const CARD: Card = Card {
    library: "transformers",
    tag: Some("awq"),
    engines: gptqmodel,
};
