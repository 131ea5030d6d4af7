//! Loss curves as an SVG picture, drawn without a plotting library: two axes, one line per pass, and rings where a pass was
//! measured on the validation text.

use std::fmt::Write;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::svg;
use crate::progress::{decimals, thousands};

/// Size of the picture in pixels, and its margins around the axes; the right margin holds the legend.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 160.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 48.0;

/// Length of the marks in the legend.
const MARK: f64 = 18.0;

/// Number of intervals between ticks that an axis aims at.
const NUM_INTERVALS: f64 = 5.0;

/// Colours that all common kinds of colour vision can distinguish (Okabe, Ito 2008, <https://jfly.uni-koeln.de/color/>).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// A named series of losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Name, shown in the legend.
    pub name: String,
    /// Steps and losses (nats) on the training text, by step. Losses that are not finite are not drawn.
    pub points: Vec<(u64, f64)>,
    /// Steps and losses on the validation text while the pass ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<(u64, f64)>,
}

impl Curve {
    /// True if there is anything to draw.
    pub fn has_points(&self) -> bool {
        let mut all = self.points.iter().chain(&self.validation);
        all.any(|(_, loss)| loss.is_finite())
    }
}

/// Picture of the losses over the steps, as a whole SVG file.
pub fn loss_curve_svg(curves: &[Curve]) -> String {
    let all = |curve: &'_ Curve| [finite(&curve.points), finite(&curve.validation)].concat();
    let points = || curves.iter().flat_map(all);
    let x_axis = PlotAxis::around(points().map(|(step, _)| step), LEFT..=WIDTH - RIGHT);
    let y_axis = PlotAxis::around(points().map(|(_, loss)| loss), HEIGHT - BOTTOM..=TOP);
    let mut svg = svg::begin((WIDTH, HEIGHT), 12);
    draw_axes(&mut svg, &x_axis, &y_axis);
    for (curve_idx, curve) in curves.iter().enumerate() {
        let colour = COLOURS[curve_idx % COLOURS.len()];
        draw_curve(&mut svg, curve, colour, (&x_axis, &y_axis));
        let place = legend_place(curve_idx);
        line(&mut svg, place, (place.0 + MARK, place.1), colour);
        svg::label(&mut svg, beside(place), "start", &curve.name);
    }
    if curves
        .iter()
        .any(|curve| !finite(&curve.validation).is_empty())
    {
        let place = legend_place(curves.len());
        ring(&mut svg, (place.0 + MARK / 2.0, place.1), "#404040");
        svg::label(&mut svg, beside(place), "start", "validation");
    }
    svg::end(&mut svg);
    svg
}

fn finite(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let points = points.iter().map(|&(step, loss)| (step as f64, loss));
    points.filter(|(_, loss)| loss.is_finite()).collect()
}

fn draw_axes(svg: &mut String, x_axis: &PlotAxis, y_axis: &PlotAxis) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for tick in &y_axis.ticks {
        let (y, label) = (y_axis.pixel(*tick), y_axis.label(*tick));
        line(svg, (LEFT, y), (right, y), "#e0e0e0");
        svg::label(svg, (LEFT - 8.0, y + 4.0), "end", &label);
    }
    for tick in &x_axis.ticks {
        let (x, label) = (x_axis.pixel(*tick), x_axis.label(*tick));
        line(svg, (x, bottom), (x, bottom + 5.0), "#404040");
        svg::label(svg, (x, bottom + 18.0), "middle", &label);
    }
    line(svg, (LEFT, bottom), (right, bottom), "#404040");
    line(svg, (LEFT, TOP), (LEFT, bottom), "#404040");
    svg::label(
        svg,
        (f64::midpoint(LEFT, right), HEIGHT - 10.0),
        "middle",
        "step",
    );
    let middle = f64::midpoint(TOP, bottom);
    svg::upward_label(svg, (16.0, middle), "middle", "loss (nats)");
}

fn draw_curve(
    svg: &mut String,
    curve: &Curve,
    colour: &str,
    (x_axis, y_axis): (&PlotAxis, &PlotAxis),
) {
    let place = |(step, loss)| (x_axis.pixel(step), y_axis.pixel(loss));
    let places: Vec<(f64, f64)> = finite(&curve.points).into_iter().map(place).collect();
    if let Some((x, y)) = places.last() {
        let points = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
        let points = points.collect::<Vec<String>>().join(" ");
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>\n\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"
        );
    }
    for measured in finite(&curve.validation) {
        ring(svg, place(measured), colour);
    }
}

/// Place of the mark of a legend entry.
fn legend_place(entry_idx: usize) -> (f64, f64) {
    (WIDTH - RIGHT + 16.0, TOP + 8.0 + 18.0 * entry_idx as f64)
}

/// Start of the text of a legend entry.
fn beside((x, y): (f64, f64)) -> (f64, f64) {
    (x + MARK + 6.0, y + 4.0)
}

fn ring(svg: &mut String, (x, y): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"white\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
    );
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

/// Round numbers along one side of the picture.
struct PlotAxis {
    pixels: RangeInclusive<f64>,
    ticks: Vec<f64>,
    num_decimals: usize,
}

impl PlotAxis {
    /// An axis whose first and last tick enclose the values.
    fn around(values: impl Iterator<Item = f64>, pixels: RangeInclusive<f64>) -> Self {
        let range = values.fold(None, |range: Option<(f64, f64)>, value| {
            let (low, high) = range.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        });
        let (low, high) = range.unwrap_or((0.0, 1.0));
        let span = if low < high { high - low } else { 1.0 };
        let (spacing, exponent) = round_up(span / NUM_INTERVALS);
        let first = (low / spacing).floor();
        let num_intervals = ((high / spacing).ceil() - first).clamp(1.0, 2.0 * NUM_INTERVALS);
        let mut ticks = vec![first * spacing];
        while (ticks.len() as f64) < num_intervals + 1.0 {
            ticks.push((first + ticks.len() as f64) * spacing);
        }
        Self {
            pixels,
            ticks,
            num_decimals: usize::try_from(-exponent).unwrap_or(0),
        }
    }

    fn pixel(&self, value: f64) -> f64 {
        let (low, high) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let (start, end) = (self.pixels.start(), self.pixels.end());
        start + (value - low) / (high - low) * (end - start)
    }

    fn label(&self, tick: f64) -> String {
        let text = decimals(tick, self.num_decimals);
        text.parse().map_or(text, thousands) // only counts have separators
    }
}

/// Smallest of 1, 2, 5 times a power of ten that is not below `value`, and the exponent of that power.
fn round_up(value: f64) -> (f64, i32) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the exponent of an f64 lies within ±324"
    )]
    let exponent = value.log10().floor() as i32;
    let power = 10.0_f64.powi(exponent);
    for factor in [1.0, 2.0, 5.0] {
        if factor * power >= value {
            return (factor * power, exponent);
        }
    }
    (10.0 * power, exponent + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64]) -> PlotAxis {
        PlotAxis::around(values.iter().copied(), 0.0..=100.0)
    }

    fn labels(values: &[f64]) -> Vec<String> {
        let axis = axis(values);
        axis.ticks.iter().map(|&tick| axis.label(tick)).collect()
    }

    fn curve(name: &str, points: &[(u64, f64)]) -> Curve {
        Curve {
            name: name.to_owned(),
            points: points.to_vec(),
            validation: Vec::new(),
        }
    }

    #[test]
    fn ticks_are_round_numbers_that_enclose_the_values() {
        assert_eq!(labels(&[2.13, 8.31]), ["2", "4", "6", "8", "10"]);
        assert_eq!(
            labels(&[0.0, 1.0]),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(&[1.0, 4_000.0]),
            ["0", "1,000", "2,000", "3,000", "4,000"]
        );
        assert_eq!(labels(&[0.0123, 0.0125])[0], "0.01230");
        assert_eq!(
            labels(&[3.3]),
            ["3.2", "3.4"],
            "a single value lies between two ticks"
        );
        assert_eq!(labels(&[]).len(), 6, "no value: 0 to 1");
    }

    #[test]
    fn a_value_lands_where_the_axis_says() {
        let axis = axis(&[2.13, 8.31]);
        for (value, want) in [(2.0, 0.0), (6.0, 50.0), (10.0, 100.0)] {
            let got = axis.pixel(value);
            assert!((got - want).abs() < 1e-9, "{value}: got {got}, want {want}");
        }
    }

    #[test]
    fn extreme_values_still_give_a_few_distinct_ticks() {
        for values in [
            [0.0, 1e300],
            [1e16, 1e16 + 4.0],
            [-1e-300, 1e-300],
            [1e17, 1e17],
        ] {
            let num_ticks = axis(&values).ticks.len();
            assert!(
                (2..=11).contains(&num_ticks),
                "{values:?}: {num_ticks} ticks"
            );
        }
    }

    #[test]
    fn every_finite_point_is_drawn_and_every_curve_named() {
        let curves = [
            curve("01-distill", &[(0, 8.0), (50, f64::NAN), (100, 4.0)]),
            curve("<&>", &[(0, 6.0)]),
            curve("empty", &[]),
        ];
        let svg = loss_curve_svg(&curves);
        // Steps 0 to 100 span x 64 to 600; losses 4 to 8 span y 312 to 16.
        assert!(svg.contains("points=\"64.0,16.0 600.0,312.0\""), "{svg}");
        assert!(svg.contains("<circle cx=\"64.0\" cy=\"164.0\""), "{svg}");
        for name in [">01-distill<", ">&lt;&amp;><", ">empty<"] {
            assert!(svg.contains(name), "{name} in {svg}");
        }
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("validation"), "nothing was measured: {svg}");
    }

    #[test]
    fn what_was_measured_on_validation_text_is_a_ring_in_the_colour_of_its_pass() {
        let curves = [
            curve("01-distill", &[(0, 8.0), (100, 4.0)]),
            Curve {
                validation: vec![(50, 10.0), (75, f64::NAN), (100, 5.0)],
                ..curve("02-quantize", &[(0, 6.0)])
            },
        ];
        let svg = loss_curve_svg(&curves);
        // Losses 4 to 10 span y 312 to 16: the axis also has room for measured losses.
        for (x, y) in [("332.0", "16.0"), ("600.0", "262.7")] {
            let ring = format!(
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"white\" stroke=\"{}\"",
                COLOURS[1]
            );
            assert!(svg.contains(&ring), "{ring} in {svg}");
        }
        assert_eq!(svg.matches("r=\"4\"").count(), 3, "two, and the legend's");
        assert_eq!(svg.matches(">validation<").count(), 1);
    }
}
