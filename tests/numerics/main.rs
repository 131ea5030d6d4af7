//! Numbers: equal to PyTorch's where it has an answer (`tests/golden`), and true to their laws where it has none.
#![cfg(feature = "flex")]
#![expect(
    clippy::float_cmp,
    reason = "codes, scales and masked weights are exact or wrong"
)]

#[cfg(test)]
mod adapter;
#[cfg(test)]
mod cache;
#[cfg(test)]
mod calibrated;
#[cfg(test)]
mod checkpointing;
#[cfg(test)]
mod decoder;
#[cfg(test)]
mod exporting;
#[cfg(test)]
mod families;
#[cfg(test)]
mod from_teacher;
#[cfg(test)]
mod going_on;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod gradient;
#[cfg(test)]
mod gradual;
#[cfg(test)]
mod grid;
#[cfg(test)]
mod hidden;
#[cfg(test)]
mod hidden_passes;
#[cfg(test)]
mod learned_scales;
#[cfg(test)]
mod matrices;
#[cfg(test)]
mod not_finite;
#[cfg(test)]
mod optimizer;
#[cfg(test)]
mod packing;
#[cfg(test)]
mod passes;
#[cfg(test)]
mod pruning;
#[cfg(test)]
mod rotary;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod schemes;
#[cfg(test)]
mod sensitivity;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod shrink;
#[cfg(test)]
mod states;
#[cfg(test)]
mod tiny;
#[cfg(test)]
mod training;
#[cfg(test)]
mod zeros;
