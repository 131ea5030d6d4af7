//! The grid against the reference quantiser of compressed-tensors.

use std::collections::BTreeMap;
use std::fs;

use alambic::checkpoint::Checkpoint;
use alambic::model::grid::{Grid, Levels, Quantized};
use alambic::model::{ParameterKind, parameter_specs};
use burn::tensor::{Tensor, TensorData};
use half::bf16;
use safetensors::SafeTensors;
use serde::Deserialize;

use super::golden;
use super::tiny::{device, tensor};

/// A packed folder, the plain one it was made from, and its grid.
const FOLDERS: [(&str, &str, u32, Option<usize>); 4] = [
    ("ct-w4a16-channel-sym", "hf-llama", 4, None),
    ("ct-w4a16-g32-sym", "hf-llama", 4, Some(32)),
    ("ct-w4a16-g32-sym-tied", "hf-smollm2-tied", 4, Some(32)),
    ("ct-w8a16-g32-sym", "hf-llama", 8, Some(32)),
];

fn values(tensor: &Tensor<3>) -> Vec<f32> {
    tensor.try_to_vec_as::<f32>().unwrap()
}

/// Codes of a packed tensor: little-endian words, lowest column in the lowest bits, 2^(bits − 1) is zero.
/// Rows of the golden models are whole words.
fn unpack(bytes: &[u8], bits: u32) -> Vec<f32> {
    let zero = 1_u32 << (bits - 1);
    let mask = (1_u32 << bits) - 1;
    let words = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    let stored = words.flat_map(|word| {
        (0..32)
            .step_by(bits as usize)
            .map(move |low| (word >> low) & mask)
    });
    stored
        .map(|code| f32::from(u8::try_from(code).unwrap()) - f32::from(u8::try_from(zero).unwrap()))
        .collect()
}

/// Codes of the reference that are not ours, because it rounds `weight / scale` to bf16 on the way.
#[derive(Default)]
struct Differences {
    codes: usize,
    differing: usize,
}

impl Differences {
    /// Ours must be the nearest code to the quotient in f32, theirs the nearest to the quotient in bf16.
    fn add(&mut self, name: &str, weight: &[f32], quantized: &Quantized, want: &[f32], bits: u32) {
        let (codes, scales) = (values(&quantized.codes), values(&quantized.scaling.scales));
        assert_eq!(codes.len(), want.len(), "{name}");
        let per_scale = codes.len() / scales.len();
        let limit = f32::from(1_u8 << (bits - 1));
        let nearest = |quotient: f32| quotient.round_ties_even().clamp(-limit, limit - 1.0);
        for (idx, (&got, &want)) in codes.iter().zip(want).enumerate() {
            let quotient = weight[idx] / scales[idx / per_scale];
            let rounded = bf16::from_f32(quotient).to_f32();
            assert!(
                got == nearest(quotient) && want == nearest(rounded),
                "{name}[{idx}]: got code {got}, want {want}; weight {}, quotient {quotient}, in bf16 {rounded}",
                weight[idx]
            );
            let from_half = (quotient.abs().fract() - 0.5).abs();
            assert!(
                got == want || from_half <= (rounded - quotient).abs(),
                "{name}[{idx}]: codes {got} and {want} differ, but quotient {quotient} is not near a half"
            );
            self.codes += 1;
            self.differing += usize::from(got != want);
        }
    }

    /// A bf16 quotient keeps five fractional bits from 4 to 8, but one from 64 to 128: there, every quotient
    /// within a quarter of a half becomes a tie. Evenly spread quotients give 1 % and 10 %.
    fn assert_few(&self, name: &str, bits: u32) {
        let allowed = if bits == 4 { 0.015 } else { 0.13 };
        let share = self.differing as f64 / self.codes as f64;
        assert!(
            share > 0.0 && share <= allowed,
            "{name}: {} of {} codes differ",
            self.differing,
            self.codes
        );
    }
}

#[test]
fn scales_equal_the_reference_and_codes_differ_only_where_bf16_moves_a_tie() {
    for (folder, source, bits, group_size) in FOLDERS {
        let source = Checkpoint::open(&golden::path(source)).unwrap();
        let bytes = fs::read(golden::path(folder).join("model.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        let grid = Grid::symmetric(bits, group_size);
        let mut found = Differences::default();
        for spec in parameter_specs(source.config()) {
            if spec.kind() != ParameterKind::Linear {
                continue;
            }
            let name = format!("{folder}: {}", spec.name);
            let weight = source.values(&spec).unwrap();
            let quantized = grid.quantize(tensor(weight.clone(), spec.shape));
            let scales = stored.tensor(&format!("{}_scale", spec.name)).unwrap();
            let want: Vec<f32> = scales
                .data()
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                .collect();
            assert_eq!(values(&quantized.scaling.scales), want, "{name}: scales");
            let packed = stored.tensor(&format!("{}_packed", spec.name)).unwrap();
            let want = unpack(packed.data(), bits);
            found.add(&name, &weight, &quantized, &want, bits);
        }
        assert!(found.codes >= 100_000, "{folder}: {} codes", found.codes);
        found.assert_few(folder, bits);
    }
}

#[derive(Deserialize)]
struct Activations {
    shape: [usize; 3],
    x: Vec<f32>,
}

#[test]
fn rounded_activations_equal_the_reference_to_the_bit() {
    let golden =
        golden::read::<Activations, BTreeMap<String, Vec<f32>>>("rounded_activations.json");
    let Activations { shape, x } = golden.inputs;
    assert_eq!(golden.expected.len(), 2);
    for (kind, want) in golden.expected {
        let levels = match kind.as_str() {
            "int8" => Levels::Symmetric { bits: 8 },
            _ => Levels::Fp8,
        };
        let given = Tensor::<3>::from_data(TensorData::new(x.clone(), shape), &device());
        assert_eq!(values(&levels.round_positions(given)), want, "{kind}");
    }
}

#[derive(Deserialize)]
struct Inputs {
    shape: [usize; 2],
    weight: Vec<f32>,
}

#[derive(Deserialize)]
struct Expected {
    scales: Vec<f32>,
    codes: Vec<f32>,
}

#[test]
fn int8_with_a_scale_per_row_equals_the_reference() {
    let golden = golden::read::<Inputs, Expected>("grid_int8_channel.json");
    let Inputs { shape, weight } = golden.inputs;
    let [rows, columns] = shape;
    let grid = Grid::symmetric(8, None);
    let quantized = grid.quantize(tensor(weight.clone(), shape));
    let scales = values(&quantized.scaling.scales);
    assert_eq!(scales.len(), rows);
    let mut zero_rows = 0;
    for (row, (got, want)) in scales.iter().zip(&golden.expected.scales).enumerate() {
        let is_zero = weight[row * columns..(row + 1) * columns]
            .iter()
            .all(|w| *w == 0.0);
        zero_rows += usize::from(is_zero);
        // Any scale will do for a row of zeros: the reference takes the smallest step of bf16, we take 1.
        let want = if is_zero { 1.0 } else { *want };
        assert_eq!(*got, want, "scale of row {row}");
    }
    assert_eq!(zero_rows, 1, "the golden file has such a row");
    let mut found = Differences::default();
    found.add("int8", &weight, &quantized, &golden.expected.codes, 8);
    assert_eq!(found.codes, rows * columns);
    found.assert_few("int8", 8);
}
