use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ::safetensors::{Dtype, SafeTensors};
use burn::tensor::{Device, Tensor, TensorData};

use serde_json::Value;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::kernels::grid::{Grid, Levels};
use crate::model::{ParameterKind, parameter_specs};
use crate::tensors;

pub(in crate::formats) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

pub(super) const fn scheme(weight: Grid) -> Scheme {
    Scheme {
        weight,
        input: None,
    }
}

pub(super) fn schemes(grid: Grid, config: &DecoderConfig) -> Schemes {
    let specs = parameter_specs(config).into_iter();
    let linear = specs.filter(|spec| spec.kind() == ParameterKind::Linear);
    linear.map(|spec| (spec.id, scheme(grid))).collect()
}

/// Dtype, shape and bytes of each tensor of a folder.
fn stored(dir: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let one = |(name, view): (String, ::safetensors::tensor::TensorView<'_>)| {
        let stored = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name, stored)
    };
    tensors.into_iter().map(one).collect()
}

/// Codes of a stored weight, from its decoded values: `w = (q − zero) · scale`, with scales and zeros of `[out, G]`.
fn codes(weight: &[f32], scales: Vec<f32>, zeros: Option<Vec<f32>>, levels: Levels) -> OnGrid {
    let group_size = weight.len() / scales.len();
    let groups = weight.chunks(group_size).zip(&scales).enumerate();
    let codes = groups.flat_map(|(group, (weights, scale))| {
        let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[group]);
        weights
            .iter()
            .map(move |weight| (weight / scale).round() + zero)
    });
    let codes = codes.collect();
    OnGrid::new(codes, scales, zeros.filter(|_| levels.has_zeros()))
}

fn turned(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| matrix.iter().skip(column).step_by(columns).copied())
        .collect()
}

#[test]
fn codes_and_scales_of_gptq_folders_give_their_tensors_byte_for_byte() {
    for (name, bits) in [("gptq-4bit-g32-sym", 4), ("gptq-8bit-g32-sym", 8)] {
        let source = Checkpoint::open(&golden(name)).unwrap();
        let files = source.files().unwrap();
        let grid = Grid::symmetric(bits, Some(32));
        let wanted = schemes(grid, source.config());
        let dir = tempfile::tempdir().unwrap();
        write(
            (Format::Gptq, &wanted),
            dir.path(),
            source.config(),
            ExportDtype::Bf16,
            |spec| source.values(spec).unwrap(),
            |spec, _| {
                let [rows, cols] = spec.shape;
                let scales = format!("{}.scales", spec.name.trim_end_matches(".weight"));
                let scales = turned(&files.f32s(&scales, &[cols / 32, rows]).unwrap(), rows);
                codes(&source.values(spec).unwrap(), scales, None, grid.levels)
            },
        )
        .unwrap();
        assert!(stored(dir.path()) == stored(&golden(name)), "{name}");
        let ours = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(ours.config(), source.config());
        assert_eq!(ours.schemes(), source.schemes());
    }
}

/// Zeros in the reference's words, one for each group and row, as signed codes of `[out, G]`.
fn awq_zeros(files: &TensorFiles, spec: &ParameterSpec) -> Vec<f32> {
    let [rows, cols] = spec.shape;
    let name = format!("{}.qzeros", spec.name.trim_end_matches(".weight"));
    let words = files
        .raw(&name, Dtype::I32, &[cols / 32, rows / 8])
        .unwrap();
    let zero = |row: usize, group: usize| {
        let word = 4 * (group * rows / 8 + row / 8);
        let word = u32::from_le_bytes(words[word..word + 4].try_into().unwrap());
        let place = [0, 2, 4, 6, 1, 3, 5, 7]
            .iter()
            .position(|&at| at == row % 8);
        f32::from(u8::try_from(word >> (4 * place.unwrap()) & 15).unwrap()) - 8.0
    };
    let rows = 0..rows;
    rows.flat_map(|row| (0..cols / 32).map(move |group| (row, group)))
        .map(|(row, group)| zero(row, group))
        .collect()
}

#[test]
fn codes_scales_and_zeros_of_an_awq_folder_give_its_tensors_byte_for_byte() {
    let name = "awq-4bit-g32-gemm";
    let source = Checkpoint::open(&golden(name)).unwrap();
    let files = source.files().unwrap();
    let grid = Grid::asymmetric(4, Some(32));
    let wanted = schemes(grid, source.config());
    let dir = tempfile::tempdir().unwrap();
    let mut num_zeros = 0;
    write(
        (Format::Awq, &wanted),
        dir.path(),
        source.config(),
        ExportDtype::Bf16,
        |spec| source.values(spec).unwrap(),
        |spec, _| {
            let [rows, cols] = spec.shape;
            let scales = format!("{}.scales", spec.name.trim_end_matches(".weight"));
            let scales = turned(&files.f32s(&scales, &[cols / 32, rows]).unwrap(), rows);
            let zeros = awq_zeros(files, spec);
            num_zeros += zeros.iter().filter(|&&zero| zero != 0.0).count();
            codes(
                &source.values(spec).unwrap(),
                scales,
                Some(zeros),
                grid.levels,
            )
        },
    )
    .unwrap();
    assert!(
        num_zeros > 1000,
        "the zeros are not all in the middle: {num_zeros}"
    );
    assert!(stored(dir.path()) == stored(&golden(name)));
    let ours = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(ours.schemes(), source.schemes());
}

#[test]
fn codes_of_mlx_folders_give_their_words_byte_for_byte() {
    for (name, bits, group_size) in [
        ("mlx-4bit-g32", 4, 32),
        ("mlx-2bit-g32-tied", 2, 32),
        ("mlx-3bit-g64-tied", 3, 64),
        ("mlx-8bit-g64-tied", 8, 64),
    ] {
        let source = Checkpoint::open(&golden(name)).unwrap();
        let files = source.files().unwrap();
        let wanted: Schemes = source
            .schemes()
            .into_keys()
            .map(|name| (name, scheme(Grid::symmetric(bits, Some(group_size)))))
            .collect();
        let middle = f32::from(1_u8 << (bits - 1));
        let dir = tempfile::tempdir().unwrap();
        write(
            (Format::Mlx, &wanted),
            dir.path(),
            source.config(),
            ExportDtype::Bf16,
            |spec| source.values(spec).unwrap(),
            |spec, _| {
                let [rows, cols] = spec.shape;
                let shape = [rows, cols / group_size];
                let module = spec.name.trim_end_matches(".weight");
                let part = |part| files.f32s(&format!("{module}.{part}"), &shape).unwrap();
                let (scales, biases) = (part("scales"), part("biases"));
                // MLX chooses its biases freely: without them, the codes are the ones of a grid around the middle.
                let weight = source.values(spec).unwrap();
                let groups = weight.chunks(group_size).zip(scales.iter().zip(&biases));
                let codes = groups.flat_map(|(weights, (scale, bias))| {
                    let code = move |weight: &f32| ((weight - bias) / scale).round() - middle;
                    weights.iter().map(code)
                });
                OnGrid::new(codes.collect(), scales, None)
            },
        )
        .unwrap();
        let (got, want) = (stored(dir.path()), stored(&golden(name)));
        assert!(got.keys().eq(want.keys()), "{name}");
        let mut num_compared = 0;
        for (tensor, got) in got.iter().filter(|(name, _)| !name.ends_with(".biases")) {
            assert!(*got == want[tensor], "{name}: {tensor}");
            num_compared += 1;
        }
        let num_plain = 5; // norms
        assert_eq!(num_compared, 2 * wanted.len() + num_plain, "{name}");
        let said = |dir: &Path| -> Value {
            let text = fs::read(dir.join("config.json")).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()["quantization"].clone()
        };
        assert_eq!(said(dir.path()), said(&golden(name)), "{name}");
    }
}

/// The weights of a golden model on a grid.
pub(super) fn on_grid(source: &Checkpoint, spec: &ParameterSpec, grid: Grid) -> (OnGrid, Vec<f32>) {
    let data = TensorData::new(source.values(spec).unwrap(), spec.shape);
    let weight: Tensor<2> = Tensor::from_data(data, &Device::flex());
    let rounded = tensors::to_vec(&grid.fake_quantize(weight.clone()));
    (OnGrid::from(&grid.quantize(weight)), rounded)
}

#[test]
fn one_grid_is_the_same_numbers_in_every_format() {
    use Format::{Awq, CompressedTensors, Gptq, Mlx};
    let source = Checkpoint::open(&golden("hf-llama")).unwrap();
    let bf16 = ExportDtype::Bf16;
    for (grid, formats, dtype) in [
        (Grid::symmetric(4, Some(32)), &[Gptq, Awq, Mlx][..], bf16),
        (Grid::symmetric(8, Some(32)), &[Gptq, Mlx], bf16),
        (Grid::symmetric(4, None), &[Gptq, Awq], bf16),
        (Grid::asymmetric(4, Some(64)), &[Awq, Mlx], ExportDtype::F32),
        (Grid::asymmetric(4, Some(128)), &[Awq], bf16),
        (Grid::symmetric(3, Some(64)), &[Mlx], bf16),
        (Grid::symmetric(2, Some(128)), &[Mlx], bf16),
        (
            Grid {
                levels: Levels::Ternary,
                group_size: Some(32),
            },
            &[Mlx],
            bf16,
        ),
        (
            Grid {
                levels: Levels::Stretched,
                group_size: Some(32),
            },
            &[Mlx],
            bf16,
        ),
    ] {
        let schemes = schemes(grid, source.config());
        for &format in formats.iter().chain(&[CompressedTensors]) {
            let dir = tempfile::tempdir().unwrap();
            write(
                (format, &schemes),
                dir.path(),
                source.config(),
                dtype,
                |spec| source.values(spec).unwrap(),
                |spec, _| on_grid(&source, spec, grid).0,
            )
            .unwrap();
            assert_holds(dir.path(), &source, grid, format);
        }
    }
}

/// Checks that each projection is the source's on the grid, bit for bit, and that all else is the source's.
fn assert_holds(dir: &Path, source: &Checkpoint, grid: Grid, format: Format) {
    let read_back = Checkpoint::open(dir).unwrap();
    let mut num_linear = 0;
    for spec in parameter_specs(source.config()) {
        let got = read_back.values(&spec).unwrap();
        let want = if spec.kind() == ParameterKind::Linear {
            num_linear += 1;
            on_grid(source, &spec, grid).1
        } else {
            source.values(&spec).unwrap()
        };
        assert!(got == want, "{format}, {grid}: {}", spec.name);
    }
    assert_eq!(num_linear, 14);
}
