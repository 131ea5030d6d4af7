//! SVG picture of each layer's cost at each width: a panel for each width, a line of cells for each layer, a colour for each
//! power of ten.

use std::fmt::Write;

use super::svg;
use crate::passes::{Choice, Cost, LayerPart, Sensitivity, WIDTHS};
use crate::progress::exponential;

/// Sizes in pixels.
const CELL_WIDTH: f64 = 30.0;
const CELL_HEIGHT: f64 = 14.0;
const LEFT: f64 = 48.0;
const TOP: f64 = 84.0;
const BETWEEN: f64 = 18.0;
const LEGEND: f64 = 96.0;
const BOTTOM: f64 = 24.0;

/// Height of a legend with all its entries.
const LEGEND_HEIGHT: f64 = 144.0;

/// Colours from little to much: a light tint of one hue to its darkest (ColorBrewer's YlGnBu, Brewer 2013,
/// <https://colorbrewer2.org>), so that order survives print and all kinds of colour vision.
const COLOURS: [[f64; 3]; 5] = [
    [255.0, 255.0, 217.0],
    [199.0, 233.0, 180.0],
    [65.0, 182.0, 196.0],
    [34.0, 94.0, 168.0],
    [8.0, 29.0, 88.0],
];

/// Columns of a panel.
const PARTS: [LayerPart; 5] = [
    LayerPart::Qkv,
    LayerPart::Output,
    LayerPart::GateUp,
    LayerPart::Down,
    LayerPart::Layer,
];

/// Picture of a sensitivity as a whole SVG file; chosen cells have a frame.
pub fn sensitivity_svg(sensitivity: &Sensitivity, choice: Option<&Choice>) -> String {
    let scale = Scale::of(sensitivity);
    let num_layers = sensitivity.num_layers();
    let panel = CELL_WIDTH * PARTS.len() as f64 + BETWEEN;
    let width = LEFT + panel * WIDTHS.len() as f64 + LEGEND;
    let rows = (CELL_HEIGHT * num_layers as f64).max(LEGEND_HEIGHT);
    let height = TOP + rows + BOTTOM;
    let mut svg = svg::begin((width, height), 11);
    let row = |layer: usize| TOP + CELL_HEIGHT * layer as f64;
    for layer in 0..num_layers {
        let label = layer.to_string();
        svg::label(&mut svg, (LEFT - 6.0, row(layer) + 11.0), "end", &label);
    }
    let middle = TOP + CELL_HEIGHT * num_layers as f64 / 2.0;
    svg::upward_label(&mut svg, (14.0, middle), "middle", "layer");
    for (panel_idx, bits) in WIDTHS.into_iter().enumerate() {
        let left = LEFT + panel * panel_idx as f64;
        let centre = left + CELL_WIDTH * PARTS.len() as f64 / 2.0;
        svg::label(&mut svg, (centre, 14.0), "middle", &format!("{bits} bits"));
        for (column, part) in PARTS.into_iter().enumerate() {
            let x = left + CELL_WIDTH * column as f64;
            let foot = (x + CELL_WIDTH / 2.0 + 4.0, TOP - 6.0);
            svg::upward_label(&mut svg, foot, "start", &part.to_string());
            for cost in sensitivity
                .costs
                .iter()
                .filter(|cost| (cost.part, cost.bits) == (part, bits))
            {
                let is_chosen =
                    choice.is_some_and(|choice| choice.bits_of(cost.layer, part) == Some(bits));
                cell(
                    &mut svg,
                    (x, row(cost.layer)),
                    &scale.colour(cost.kl_nats),
                    cost,
                    is_chosen,
                );
            }
        }
    }
    let left = LEFT + panel * WIDTHS.len() as f64;
    draw_legend(&mut svg, left, &scale, choice.is_some());
    svg::end(&mut svg);
    svg
}

/// Draws one part at one width; a pointer on it shows its number.
fn cell(svg: &mut String, (x, y): (f64, f64), colour: &str, cost: &Cost, is_chosen: bool) {
    let Cost {
        layer,
        part,
        bits,
        kl_nats,
        ..
    } = cost;
    let (width, height) = (CELL_WIDTH - 1.0, CELL_HEIGHT - 1.0);
    let kl = exponential(*kl_nats, 2);
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width}\" height=\"{height}\" fill=\"{colour}\">\
         <title>layer {layer}, {part}, {bits} bits: {kl} nats</title></rect>"
    );
    if is_chosen {
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#d55e00\" stroke-width=\"2\"/>",
            x + 1.0,
            y + 1.0,
            width - 2.0,
            height - 2.0
        );
    }
}

fn draw_legend(svg: &mut String, left: f64, scale: &Scale, has_choice: bool) {
    svg::label(svg, (left, TOP - 20.0), "start", "KL (nats)");
    for (place, exponent) in (scale.least..=scale.most).rev().enumerate() {
        let y = TOP + 16.0 * place as f64 - 8.0;
        let colour = scale.colour(10.0_f64.powi(exponent));
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"18\" height=\"14\" fill=\"{colour}\" stroke=\"#c0c0c0\"/>"
        );
        svg::label(
            svg,
            (left + 24.0, y + 11.0),
            "start",
            &format!("1e{exponent}"),
        );
    }
    if has_choice {
        let y = TOP + 16.0 * f64::from(scale.most - scale.least + 1);
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"18\" height=\"12\" fill=\"none\" stroke=\"#d55e00\" stroke-width=\"2\"/>"
        );
        svg::label(svg, (left + 24.0, y + 10.0), "start", "chosen");
    }
}

/// Powers of ten and their colours.
struct Scale {
    least: i32,
    most: i32,
}

impl Scale {
    /// Powers that enclose all costs, at most eight; a smaller cost looks like the least.
    fn of(sensitivity: &Sensitivity) -> Self {
        let costs = sensitivity.costs.iter().map(|cost| cost.kl_nats);
        let positive = costs.filter(|kl| *kl > 0.0);
        let (least, most) = positive.fold((f64::INFINITY, 0.0_f64), |(least, most), kl| {
            (least.min(kl), most.max(kl))
        });
        if most == 0.0 {
            return Self { least: -1, most: 0 };
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the exponent of an f64 lies within ±324"
        )]
        let [least, most] = [least.log10().floor() as i32, most.log10().ceil() as i32];
        Self {
            least: least.max(most - 7).min(most - 1),
            most,
        }
    }

    fn colour(&self, kl_nats: f64) -> String {
        let span = f64::from(self.most - self.least);
        let height = (kl_nats.max(f64::MIN_POSITIVE).log10() - f64::from(self.least)) / span;
        let last = COLOURS.len() - 1;
        let place = height.clamp(0.0, 1.0) * last as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a short list"
        )]
        let below = (place as usize).min(last - 1);
        let way = place - below as f64;
        let mixed = |channel: usize| {
            let [from, to] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
            (from + (to - from) * way).round()
        };
        format!("rgb({},{},{})", mixed(0), mixed(1), mixed(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensitivity(kls: &[f64]) -> Sensitivity {
        let cost = |(layer, &kl_nats)| Cost {
            layer,
            part: LayerPart::Down,
            bits: 3,
            num_weights: 8,
            kl_nats,
        };
        Sensitivity {
            positions: 1,
            costs: kls.iter().enumerate().map(cost).collect(),
        }
    }

    #[test]
    fn powers_of_ten_enclose_the_costs_and_are_eight_at_most() {
        let ends = |kls: &[f64]| {
            let scale = Scale::of(&sensitivity(kls));
            (scale.least, scale.most)
        };
        assert_eq!(ends(&[0.2, 3e-4]), (-4, 0));
        assert_eq!(ends(&[2.0, 1e-12, 0.0, -1e-9]), (-6, 1));
        assert_eq!(ends(&[0.01]), (-3, -2));
        assert_eq!(ends(&[0.0]), (-1, 0));
        assert_eq!(ends(&[]), (-1, 0));
    }

    #[test]
    fn more_is_darker_from_end_to_end() {
        let scale = Scale { least: -4, most: 0 };
        assert_eq!(scale.colour(1e-4), "rgb(255,255,217)");
        assert_eq!(scale.colour(0.0), "rgb(255,255,217)");
        assert_eq!(scale.colour(1e-2), "rgb(65,182,196)");
        assert_eq!(scale.colour(7.0), "rgb(8,29,88)");
    }

    #[test]
    fn every_cost_is_a_cell_and_what_was_chosen_has_a_frame() {
        let found = sensitivity(&[0.2, 3e-4]);
        let plain = sensitivity_svg(&found, None);
        assert_eq!(plain.matches("<title>").count(), 2, "{plain}");
        assert!(
            plain.contains("layer 1, down, 3 bits: 3.00e-4 nats"),
            "{plain}"
        );
        assert!(!plain.contains("chosen"), "{plain}");
        let choice = Choice {
            budget: 3.0,
            average_bits: 3.0,
            kl_nats: 0.2,
            uniform: [].into(),
            parts: found.costs[..1].to_vec(),
        };
        let framed = sensitivity_svg(&found, Some(&choice));
        assert_eq!(
            framed.matches("#d55e00").count(),
            2,
            "one, and the legend's"
        );
    }
}
