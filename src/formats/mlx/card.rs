//! The card of an MLX folder.

use crate::formats::card::{Card, mlx};

pub(super) const CARD: Card = Card {
    library: "mlx",
    tag: Some("mlx"),
    engines: |card, _| mlx(card),
};
