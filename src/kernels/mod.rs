//! Operations of models in two forms, each with both forms and the test that they are equal.
//!
//! On a CPU, a norm, a gated activation, a rotation or an attention costs as much as its memory traffic. A chain of
//! tensor operations passes through memory once for each of them and makes a new tensor each time. On `flex` these
//! operations run as one pass each (the modules `host`), forward and backward; on every other device they are a chain,
//! whose kernels the device fuses by itself. Both give the same numbers up to rounding.

mod attention;
#[cfg(feature = "flex")]
mod flex;
pub mod grid;
mod product;
mod rms_norm;
mod rotation;
mod soft_cap;
mod swiglu;
#[cfg(test)]
#[cfg(feature = "flex")]
mod twins;
#[cfg(feature = "flex")]
mod views;

pub use self::attention::{QUERIES_AT_ONCE, Sight, attention};
pub(crate) use self::product::PRECISION;
pub use self::product::{Arithmetic, Passes, Sums, Weight, add_product, product};
pub use self::rms_norm::rms_norm;
pub use self::rotation::rotate;
pub use self::soft_cap::{soft_cap, soft_cap_slope};
pub use self::swiglu::swiglu;

/// Numbers given to a core at a time: enough that handing them out costs nothing, few enough for the core's own cache.
#[cfg(feature = "flex")]
const TASK: usize = 1 << 15;
