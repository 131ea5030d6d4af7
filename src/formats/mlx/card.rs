//! The card of a folder of MLX.

use crate::formats::card::{Card, mlx};

pub(super) const CARD: Card = Card {
    library: "mlx",
    tag: Some("mlx"),
    engines: |card, _| mlx(card),
};
