//! Cost of each layer at each width, measured against the float student itself.

use std::fmt::{self, Write};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{read_json, write_atomically, write_json};
use crate::model::{ParameterSpec, Site};
use crate::progress::{exponential, log};

/// Widths that are measured: the ones that a recipe may ask for.
pub const WIDTHS: [u32; 4] = [2, 3, 4, 8];

/// Files in the folder of the pass.
const FILE: &str = "sensitivity.json";
const TABLE: &str = "sensitivity.csv";

/// Projections of a layer that engines join and that therefore have one scheme; or all of the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerPart {
    /// `q_proj`, `k_proj` and `v_proj`.
    Qkv,
    /// `o_proj`.
    Output,
    /// `gate_proj` and `up_proj`.
    GateUp,
    /// `down_proj`.
    Down,
    /// All of them together.
    Layer,
}

/// Cost of rounding one part of a student and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Layer, counted from 0.
    pub layer: usize,
    /// Part that is rounded.
    pub part: LayerPart,
    /// Width that it is rounded to, on the pass's kind of grid.
    pub bits: u32,
    /// Number of weights in the part.
    pub num_weights: u64,
    /// KL(float student ‖ student with this part rounded), in nats, the mean over the positions.
    pub kl_nats: f64,
}

/// Cost of every part of a student at every width.
///
/// Only weights are rounded, not their inputs. Parts that an override of the pass names are not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// Number of positions of training text in the means.
    pub positions: u64,
    /// Costs, ordered by layer, then part, then width.
    pub costs: Vec<Cost>,
}

/// Contents of the file.
#[derive(Serialize, Deserialize)]
struct Keyed<T> {
    /// Key of the stage.
    #[serde(default)]
    key: String,
    #[serde(flatten)]
    sensitivity: T,
}

impl LayerPart {
    /// The parts that have schemes.
    pub const CHOSEN: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// Name in files.
    fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::Output => "output",
            Self::GateUp => "gate-up",
            Self::Down => "down",
            Self::Layer => "layer",
        }
    }

    /// The layer and part that a projection belongs to.
    pub fn of(spec: &ParameterSpec) -> Option<(usize, Self)> {
        let (layer, site) = spec.id.input()?;
        let part = match site {
            Site::AttentionInput => Self::Qkv,
            Site::AttentionOutput => Self::Output,
            Site::MlpInput => Self::GateUp,
            Site::MlpHidden => Self::Down,
            Site::Residual | Site::HeadInput => return None,
        };
        Some((layer, part))
    }
}

/// Heading, such as `q, k, v`.
impl fmt::Display for LayerPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qkv => "q, k, v",
            Self::Output => "o",
            Self::GateUp => "gate, up",
            Self::Down => "down",
            Self::Layer => "whole layer",
        })
    }
}

impl Sensitivity {
    /// Costs of a part at each of [`WIDTHS`], if it was measured.
    pub fn costs_of(&self, layer: usize, part: LayerPart) -> Option<&[Cost]> {
        let is_part = |cost: &Cost| (cost.layer, cost.part) == (layer, part);
        let start = self.costs.iter().position(is_part)?;
        self.costs.get(start..start + WIDTHS.len())
    }

    /// Number of layers that were measured.
    pub fn num_layers(&self) -> usize {
        self.costs.last().map_or(0, |cost| cost.layer + 1)
    }

    /// Sensitivity that a pass wrote, if it measured it.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        read_json(&dir.join(FILE))
    }

    /// Sensitivity that a pass of this key wrote. One of another key in the same folder is reported, and measured again.
    pub(super) fn read_of(dir: &Path, key: &str) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        let found: Option<Keyed<Self>> = read_json(&path)?;
        Ok(found.and_then(|found| {
            if found.key == key {
                return Some(found.sensitivity);
            }
            let path = path.display();
            log(&format!(
                "warning: {path}: belongs to another stage; it is measured again"
            ));
            None
        }))
    }

    pub(super) fn write(&self, dir: &Path, key: &str) -> io::Result<()> {
        let (key, sensitivity) = (key.to_owned(), self);
        write_json(&dir.join(FILE), &Keyed { key, sensitivity })
    }

    /// Also writes it as a table.
    pub(super) fn write_table(&self, dir: &Path) -> io::Result<()> {
        let text = self.csv();
        write_atomically(&dir.join(TABLE), |out| out.write_all(text.as_bytes()))
    }

    /// Table with a header line, for spreadsheets.
    fn csv(&self) -> String {
        let mut text = "layer,part,bits,weights,kl_nats\n".to_owned();
        for cost in &self.costs {
            let part = cost.part.name();
            let Cost {
                layer,
                bits,
                num_weights,
                kl_nats,
                part: _,
            } = cost;
            let _ = writeln!(
                text,
                "{layer},{part},{bits},{num_weights},{}",
                digits(*kl_nats)
            ); // writing to a `String` cannot fail
        }
        text
    }
}

/// A number with five digits, which is more than a measurement on a short text means.
fn digits(value: f64) -> String {
    let text = exponential(value, 4);
    text.parse()
        .map_or(text, |rounded: f64| format!("{rounded:e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_part_and_width() {
        let cost = |part, bits, kl_nats| Cost {
            layer: 3,
            part,
            bits,
            num_weights: 96,
            kl_nats,
        };
        let costs = vec![
            cost(LayerPart::Qkv, 2, 0.25),
            cost(LayerPart::GateUp, 3, 1.500_004e-7),
            cost(LayerPart::Down, 8, -0.0),
        ];
        let text = Sensitivity {
            positions: 7,
            costs,
        }
        .csv();
        let want = "layer,part,bits,weights,kl_nats\n3,qkv,2,96,2.5e-1\n3,gate-up,3,96,1.5e-7\n3,down,8,96,0e0\n";
        assert_eq!(text, want);
    }
}
