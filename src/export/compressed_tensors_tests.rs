use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::{Checkpoint, unpack};

const GOLDEN: [(&str, PackScheme); 4] = [
    ("ct-w4a16-g32-sym", scheme(4, Some(32))),
    ("ct-w4a16-g32-sym-tied", scheme(4, Some(32))),
    ("ct-w4a16-channel-sym", scheme(4, None)),
    ("ct-w8a16-g32-sym", scheme(8, Some(32))),
];

const fn scheme(bits: u32, group_size: Option<usize>) -> PackScheme {
    PackScheme { bits, group_size }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn packed_shape([rows, cols]: [usize; 2], bits: u32) -> [usize; 2] {
    [rows, cols.div_ceil(32 / bits as usize)]
}

/// Codes and scales of one projection, as a golden file holds them.
fn stored(source: &Checkpoint, spec: &ParameterSpec, scheme: PackScheme) -> QuantizedWeight {
    let files = source.files().unwrap();
    let shape = packed_shape(spec.shape, scheme.bits);
    let name = format!("{}_packed", spec.name);
    let packed = files.raw(&name, Dtype::I32, &shape).unwrap();
    let [rows, cols] = spec.shape;
    let num_groups = cols / scheme.group_size.unwrap_or(cols);
    let name = format!("{}_scale", spec.name);
    QuantizedWeight {
        codes: unpack(packed, spec.shape, scheme.bits),
        scales: files.f32s(&name, &[rows, num_groups]).unwrap(),
    }
}

fn bytes_of(words: &[i32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn every_packed_tensor_of_the_reference_repacks_to_the_same_bytes() {
    let mut num_tensors = 0;
    for (name, scheme) in GOLDEN {
        let source = Checkpoint::open(&golden(name)).unwrap();
        for spec in parameter_specs(source.config()) {
            if spec.kind != ParameterKind::Linear {
                continue;
            }
            let codes = stored(&source, &spec, scheme).codes;
            let got = bytes_of(&pack(&codes, spec.shape, scheme.bits));
            let shape = packed_shape(spec.shape, scheme.bits);
            let name = format!("{}_packed", spec.name);
            let want = source
                .files()
                .unwrap()
                .raw(&name, Dtype::I32, &shape)
                .unwrap();
            assert!(got == want, "{name}");
            num_tensors += 1;
        }
    }
    assert_eq!(num_tensors, 4 * 14);
}

#[test]
fn an_export_of_the_reference_codes_equals_the_reference_file_byte_for_byte() {
    for (name, scheme) in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let source = Checkpoint::open(&golden(name)).unwrap();
        write_model(
            dir.path(),
            source.config(),
            scheme,
            ExportDtype::Bf16,
            |spec| source.weight(spec).unwrap(),
            |spec| stored(&source, spec, scheme),
        )
        .unwrap();
        let got = fs::read(dir.path().join("model.safetensors")).unwrap();
        let want = fs::read(golden(name).join("model.safetensors")).unwrap();
        assert!(
            got == want,
            "{name}: {} and {} bytes",
            got.len(),
            want.len()
        );
        let read_back = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(read_back.config(), source.config(), "{name}");
        assert_eq!(read_back.scheme(), source.scheme(), "{name}");
    }
}

#[test]
fn what_is_written_reads_back_as_code_times_scale() {
    let config = Checkpoint::open(&golden("hf-smollm2-tied"))
        .unwrap()
        .config()
        .clone();
    for scheme in [
        scheme(4, Some(16)),
        scheme(4, None),
        scheme(8, Some(64)),
        scheme(8, None),
    ] {
        let range = 1_usize << scheme.bits;
        let weight_of = |spec: &ParameterSpec| {
            let [rows, cols] = spec.shape;
            let num_groups = cols / scheme.group_size.unwrap_or(cols);
            let code = |at: usize| i8::try_from(at * 7 % range).unwrap_or(-1);
            let half = |code: i8| if scheme.bits == 4 { code - 8 } else { code };
            QuantizedWeight {
                codes: (0..rows * cols).map(|at| half(code(at))).collect(),
                scales: (0..rows * num_groups)
                    .map(|at| [1.0, 0.5, 0.25, 0.125, 0.0625][at % 5])
                    .collect(),
            }
        };
        let dir = tempfile::tempdir().unwrap();
        write_model(
            dir.path(),
            &config,
            scheme,
            ExportDtype::F32,
            |spec| vec![0.1; spec.num_elements()],
            weight_of,
        )
        .unwrap();
        let read_back = Checkpoint::open(dir.path()).unwrap();
        for spec in parameter_specs(&config) {
            let got = read_back.weight(&spec).unwrap();
            if spec.kind != ParameterKind::Linear {
                assert_eq!(got, vec![0.1; spec.num_elements()]);
                continue;
            }
            let QuantizedWeight { codes, scales } = weight_of(&spec);
            let group_size = scheme.group_size.unwrap_or(spec.shape[1]);
            for (at, (&got, &code)) in got.iter().zip(&codes).enumerate() {
                let want = f32::from(code) * scales[at / group_size];
                assert_eq!(got.to_bits(), want.to_bits(), "{} [{at}]", spec.name);
            }
        }
    }
}

/// Message of a refused export in which one weight, of [256, 128], is changed.
fn refusal(scheme: PackScheme, change: impl Fn(&mut QuantizedWeight)) -> String {
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let quantized = |spec: &ParameterSpec| {
        let [rows, cols] = spec.shape;
        let num_groups = cols / scheme.group_size.unwrap_or(cols);
        let mut weight = QuantizedWeight {
            codes: vec![1; rows * cols],
            scales: vec![0.5; rows * num_groups],
        };
        if spec.name == CHANGED {
            change(&mut weight);
        }
        weight
    };
    let plain = |spec: &ParameterSpec| vec![0.5; spec.num_elements()];
    let dir = tempfile::tempdir().unwrap();
    let dtype = ExportDtype::Bf16;
    let error = write_model(dir.path(), &config, scheme, dtype, plain, quantized).unwrap_err();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    error.to_string()
}

const CHANGED: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn scales_that_bfloat16_cannot_hold_are_refused() {
    for (scale, shown) in [(0.1, "0.1"), (f32::INFINITY, "inf"), (f32::NAN, "NaN")] {
        assert_eq!(
            refusal(scheme(4, Some(32)), |weight| weight.scales[2] = scale),
            format!("scale 2 of `{CHANGED}` is {shown}, which bfloat16 does not hold exactly")
        );
    }
}

#[test]
fn codes_that_do_not_fit_are_refused() {
    for code in [8, -9] {
        assert_eq!(
            refusal(scheme(4, Some(32)), |weight| weight.codes[9] = code),
            format!("code 9 of `{CHANGED}` is {code}, which does not fit 4 bits")
        );
    }
    assert_eq!(
        refusal(scheme(4, Some(32)), |weight| weight.scales.truncate(1023)),
        format!("`{CHANGED}_scale` has 1024 elements, but 1023 were given")
    );
    assert_eq!(
        refusal(scheme(8, None), |weight| weight.codes.truncate(5)),
        format!("`{CHANGED}` has 32768 elements, but 5 were given")
    );
}

#[test]
fn schemes_that_the_format_does_not_have_are_refused() {
    assert_eq!(
        refusal(scheme(4, Some(48)), |_| ()),
        "`group_size` 48 does not divide the 128 columns of `model.layers.0.self_attn.q_proj.weight`"
    );
    assert_eq!(
        refusal(scheme(3, None), |_| ()),
        "`bits` must be 4 or 8, but is 3"
    );
}

#[test]
fn the_quantization_config_says_what_the_reference_says() {
    for (name, scheme) in GOLDEN {
        let text = fs::read(golden(name).join("config.json")).unwrap();
        let want: Value = serde_json::from_slice(&text).unwrap();
        let want = &want["quantization_config"];
        let got = quantization_config(scheme);
        for pointer in [
            "/quant_method",
            "/format",
            "/quantization_status",
            "/ignore",
        ] {
            assert_eq!(
                got.pointer(pointer),
                want.pointer(pointer),
                "{name}: {pointer}"
            );
        }
        let weights = "/config_groups/group_0/weights";
        let got = got.pointer(weights).unwrap().as_object().unwrap();
        assert_eq!(got.len(), 8);
        for (key, value) in got {
            let want = want.pointer(&format!("{weights}/{key}"));
            assert_eq!(Some(value), want, "{name}: {key}");
        }
    }
}

#[test]
fn codes_pack_as_in_the_worked_example() {
    // Layer 0, q_proj, row 0 of a reference file.
    let words = pack(&[-3, 2, -1, -1, 3, 4, -2, -5], [1, 8], 4);
    assert_eq!(words, [0x36CB_77A5]);
    assert_eq!(pack(&[0, 7, -1, 0, -8, 7], [2, 3], 4), [0x7F8, 0xF08]);
}

proptest! {
    #[test]
    fn packed_codes_unpack_to_themselves(
        (rows, cols, is_int4) in (1_usize..5, 1_usize..40, any::<bool>()),
        seed in proptest::collection::vec(any::<i8>(), 160),
    ) {
        let bits = if is_int4 { 4 } else { 8 };
        let codes: Vec<i8> = seed[..rows * cols].iter().map(|code| code >> (8 - bits)).collect();
        let words = pack(&codes, [rows, cols], bits);
        prop_assert_eq!(words.len(), rows * cols.div_ceil(32 / bits as usize));
        prop_assert_eq!(unpack(&bytes_of(&words), [rows, cols], bits), codes);
    }
}
