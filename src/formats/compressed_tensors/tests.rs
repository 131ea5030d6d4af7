use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::reference;
use super::write::quantization_config;
use crate::checkpoint::Checkpoint;
use crate::formats::read::unpack;
use crate::formats::tests::write;
use crate::formats::write::pack;
use crate::formats::{ExportDtype, Format};
use crate::kernels::grid::{Grid, Levels};
use crate::model::{
    DecoderConfig, OnGrid, ParameterKind, ParameterSpec, Part, Scheme, Schemes, WeightId,
    parameter_specs,
};

pub(super) const INT8: Option<Levels> = Some(Levels::Symmetric { bits: 8 });

/// Folders of the reference writer, the plain folder that each was made from, and the schemes of its attention and of
/// its feed-forward layers.
const GOLDEN: [(&str, &str, [Scheme; 2]); 14] = [
    (
        "ct-w3a16-g32-sym",
        "hf-llama",
        both(Grid::symmetric(3, Some(32)), None),
    ),
    (
        "ct-w4a16-channel-sym",
        "hf-llama",
        both(Grid::symmetric(4, None), None),
    ),
    (
        "ct-w4a16-g32-sym",
        "hf-llama",
        both(Grid::symmetric(4, Some(32)), None),
    ),
    (
        "ct-w4a16-g32-asym",
        "hf-llama",
        both(Grid::asymmetric(4, Some(32)), None),
    ),
    (
        "ct-w4a16-g32-sym-tied",
        "hf-smollm2-tied",
        both(Grid::symmetric(4, Some(32)), None),
    ),
    (
        "ct-w4a16-g128-sym",
        "hf-llama",
        both(Grid::symmetric(4, Some(128)), None),
    ),
    (
        "ct-w4a16-g128-asym",
        "hf-llama",
        both(Grid::asymmetric(4, Some(128)), None),
    ),
    (
        "ct-w8a16-g32-sym",
        "hf-llama",
        both(Grid::symmetric(8, Some(32)), None),
    ),
    (
        "ct-w8a16-g32-asym",
        "hf-llama",
        both(Grid::asymmetric(8, Some(32)), None),
    ),
    (
        "ct-w8a8-int8",
        "hf-llama",
        both(Grid::symmetric(8, None), INT8),
    ),
    (
        "ct-w4a8-int",
        "hf-llama",
        both(Grid::symmetric(4, Some(128)), INT8),
    ),
    (
        "ct-fp8-dynamic",
        "hf-llama",
        both(Grid::fp8(None), Some(Levels::Fp8)),
    ),
    (
        "ct-fp8-w8a16-channel",
        "hf-llama",
        both(Grid::fp8(None), None),
    ),
    (
        "ct-mixed-w4-w8a8",
        "hf-llama",
        [
            scheme(Grid::symmetric(8, None), INT8),
            scheme(Grid::symmetric(4, Some(32)), None),
        ],
    ),
];

pub(super) const fn scheme(weight: Grid, input: Option<Levels>) -> Scheme {
    Scheme { weight, input }
}

const fn both(weight: Grid, input: Option<Levels>) -> [Scheme; 2] {
    [scheme(weight, input); 2]
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

pub(super) fn config_of(name: &str) -> DecoderConfig {
    Checkpoint::open(&golden(name)).unwrap().config().clone()
}

pub(super) fn schemes([attention, mlp]: [Scheme; 2], config: &DecoderConfig) -> Schemes {
    let specs = parameter_specs(config).into_iter();
    let linear = specs.filter(|spec| spec.kind() == ParameterKind::Linear);
    linear
        .map(|spec| {
            let is_mlp = spec.name.contains(".mlp.");
            (spec.id, if is_mlp { mlp } else { attention })
        })
        .collect()
}

fn bytes_of(words: &[i32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn the_weights_that_the_reference_rounded_give_its_files_byte_for_byte() {
    for (name, source, pair) in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let source = Checkpoint::open(&golden(source)).unwrap();
        let wanted = schemes(pair, source.config());
        write(
            (Format::CompressedTensors, &wanted),
            dir.path(),
            source.config(),
            ExportDtype::Bf16,
            |spec| source.values(spec).unwrap(),
            |spec, scheme| {
                let weight = source.values(spec).unwrap();
                reference::quantize(scheme.weight, &weight, spec.shape[1])
            },
        )
        .unwrap();
        let got = fs::read(dir.path().join("model.safetensors")).unwrap();
        // The tensors do not show whether activations are rounded.
        let folder = name.replace("fp8-w8a16-channel", "fp8-dynamic");
        let want = fs::read(golden(&folder).join("model.safetensors")).unwrap();
        assert!(
            got == want,
            "{name}: {} and {} bytes",
            got.len(),
            want.len()
        );
        // The config has the same meaning: with the reference's tensors beside it, the weights read the same.
        let ours = Checkpoint::open(dir.path()).unwrap();
        fs::copy(
            golden(name).join("config.json"),
            dir.path().join("config.json"),
        )
        .unwrap();
        let theirs = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(ours.config(), theirs.config(), "{name}");
        assert_eq!(ours.schemes(), theirs.schemes(), "{name}");
        assert_eq!(ours.schemes(), wanted, "{name}");
    }
}

#[test]
fn the_quantization_config_says_what_the_reference_says() {
    for (name, source, pair) in GOLDEN {
        let text = fs::read(golden(name).join("config.json")).unwrap();
        let want: Value = serde_json::from_slice(&text).unwrap();
        let want = &want["quantization_config"];
        let config = config_of(source);
        let got = quantization_config(&schemes(pair, &config), &config).unwrap();
        let mut num_compared = 0;
        let mut compare = |pointer: &str, keys: &Value| {
            for (key, value) in keys.as_object().into_iter().flatten() {
                if value.is_object() || key == "targets" {
                    continue;
                }
                let pointer = format!("{pointer}/{key}");
                assert_eq!(Some(value), want.pointer(&pointer), "{name}: {pointer}");
                num_compared += 1;
            }
        };
        compare("", &got);
        for (group, keys) in got["config_groups"].as_object().unwrap() {
            let at = format!("/config_groups/{group}");
            compare(&at, keys);
            compare(&format!("{at}/weights"), &keys["weights"]);
            let inputs = &keys["input_activations"];
            compare(&format!("{at}/input_activations"), inputs);
        }
        assert!(num_compared >= 15, "{name}: {num_compared}");
    }
}

#[test]
fn targets_are_patterns_where_all_layers_are_alike_and_names_elsewhere() {
    let config = config_of("hf-llama");
    let mut mixed = schemes(both(Grid::symmetric(4, Some(32)), None), &config);
    let eight = scheme(Grid::symmetric(8, None), None);
    for layer in 0..2 {
        mixed.insert(WeightId::of_layer(layer, Part::Down), eight);
    }
    for part in [Part::Gate, Part::Up] {
        mixed.insert(WeightId::of_layer(1, part), eight);
        mixed.remove(&WeightId::of_layer(0, part));
    }
    let written = quantization_config(&mixed, &config).unwrap();
    assert_eq!(
        written["config_groups"]["group_1"]["targets"],
        serde_json::json!([
            "re:.*mlp\\.down_proj$",
            "model.layers.1.mlp.gate_proj",
            "model.layers.1.mlp.up_proj"
        ])
    );
    assert_eq!(
        written["ignore"],
        serde_json::json!([
            "lm_head",
            "model.layers.0.mlp.gate_proj",
            "model.layers.0.mlp.up_proj"
        ])
    );
    assert_eq!(written["format"], "pack-quantized");
    assert_eq!(
        written["config_groups"]["group_0"]["format"],
        "pack-quantized"
    );
    let targets = &written["config_groups"]["group_0"]["targets"];
    assert_eq!(targets.as_array().unwrap().len(), 4, "{targets}");
}

/// A weight with every level of the grid, and scales and zeros that are not all alike.
fn patterned(spec: &ParameterSpec, grid: Grid) -> OnGrid {
    let [rows, cols] = spec.shape;
    let num_groups = rows * (cols / grid.group_size.unwrap_or(cols));
    let integer = |at: usize| {
        let [lowest, highest] = grid.levels.limits();
        let count = highest - lowest + 1.0;
        #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
        let level = (lowest + (at as f64 * 7.0).rem_euclid(count)) as f32;
        level
    };
    let level = |at: usize| match grid.levels {
        Levels::Fp8 => [0.0, 448.0, -0.001_953_125, 1.125, -13.0][at % 5],
        _ => integer(at),
    };
    let scale = |at: usize| [1.0, 0.5, 0.25, 0.125, 0.0625][at % 5];
    let zeros = (0..num_groups).map(|at| integer(at * 3 + 1)).collect();
    OnGrid::new(
        (0..rows * cols).map(level).collect(),
        (0..num_groups).map(scale).collect(),
        grid.levels.has_zeros().then_some(zeros),
    )
}

#[test]
fn what_is_written_reads_back_as_code_less_zero_times_scale() {
    let config = config_of("hf-smollm2-tied");
    for grid in [
        Grid::symmetric(2, Some(16)),
        Grid::asymmetric(2, None),
        Grid::asymmetric(3, Some(32)),
        Grid::symmetric(4, Some(16)),
        Grid::symmetric(4, None),
        Grid::asymmetric(4, None),
        Grid::symmetric(8, Some(64)),
        Grid::asymmetric(8, None),
        Grid::fp8(Some(32)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(
            (
                Format::CompressedTensors,
                &schemes(both(grid, None), &config),
            ),
            dir.path(),
            &config,
            ExportDtype::F32,
            |spec| vec![0.1; spec.num_elements()],
            |spec, scheme| patterned(spec, scheme.weight),
        )
        .unwrap();
        let read_back = Checkpoint::open(dir.path()).unwrap();
        for spec in parameter_specs(&config) {
            let got = read_back.values(&spec).unwrap();
            if spec.kind() != ParameterKind::Linear {
                assert_eq!(got, vec![0.1; spec.num_elements()]);
                continue;
            }
            let weight = patterned(&spec, grid);
            let group_size = grid.group_size.unwrap_or(spec.shape[1]);
            for (at, (&got, &code)) in got.iter().zip(&weight.codes).enumerate() {
                let group = at / group_size;
                let zero = weight
                    .scaling
                    .zeros
                    .as_ref()
                    .map_or(0.0, |zeros| zeros[group]);
                let want = (code - zero) * weight.scaling.scales[group];
                assert_eq!(
                    got.to_bits(),
                    want.to_bits(),
                    "{grid}: {} [{at}]",
                    spec.name
                );
            }
        }
    }
}

#[test]
fn codes_pack_as_in_the_worked_examples() {
    // Layer 0, q_proj, row 0 of reference files.
    let words = pack(&[-3, 2, -1, -1, 3, 4, -2, -5], [1, 8], 4);
    assert_eq!(words, [0x36CB_77A5]);
    assert_eq!(pack(&[0, 7, -1, 0, -8, 7], [2, 3], 4), [0x7F8, 0xF08]);
}

proptest! {
    #[test]
    fn packed_codes_unpack_to_themselves(
        (rows, cols, bits) in (1_usize..5, 1_usize..40, 2_u32..=8),
        seed in proptest::collection::vec(any::<i8>(), 160),
    ) {
        let codes: Vec<i8> = seed[..rows * cols].iter().map(|code| code >> (8 - bits)).collect();
        let words = pack(&codes, [rows, cols], bits);
        prop_assert_eq!(words.len(), rows * (cols * bits as usize).div_ceil(32));
        prop_assert_eq!(unpack(&bytes_of(&words), [rows, cols], bits), codes);
    }
}
