//! Weights that no file can hold are not written.

use std::fs;

use super::tests::{INT8, config_of, scheme, schemes};
use crate::formats::tests::write;
use crate::formats::{ExportDtype, Format};
use crate::kernels::grid::{Grid, Levels};
use crate::model::{OnGrid, ParameterSpec, Scheme};

const CHANGED: &str = "model.layers.1.mlp.up_proj.weight";

/// Message of a refused export with one changed weight, of [256, 128].
fn refusal(scheme: Scheme, change: impl Fn(&mut OnGrid)) -> String {
    let config = config_of("hf-llama");
    let quantized = |spec: &ParameterSpec, scheme: Scheme| {
        let [rows, cols] = spec.shape;
        let num_groups = cols / scheme.weight.group_size.unwrap_or(cols);
        let (codes, scales) = (vec![1.0; rows * cols], vec![0.5; rows * num_groups]);
        let mut weight = OnGrid::new(codes, scales, None);
        if spec.name == CHANGED {
            change(&mut weight);
        }
        weight
    };
    let dir = tempfile::tempdir().unwrap();
    let error = write(
        (Format::CompressedTensors, &schemes([scheme; 2], &config)),
        dir.path(),
        &config,
        ExportDtype::Bf16,
        |spec| vec![0.5; spec.num_elements()],
        quantized,
    )
    .unwrap_err();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    error.to_string()
}

const INT4: Scheme = scheme(Grid::symmetric(4, Some(32)), None);

#[test]
fn scales_that_bfloat16_cannot_hold_are_refused() {
    for (scale, shown) in [(0.1, "0.1"), (f32::INFINITY, "inf"), (f32::NAN, "NaN")] {
        assert_eq!(
            refusal(INT4, |weight| weight.scaling.scales[2] = scale),
            format!("scale 2 of `{CHANGED}` is {shown}, which bfloat16 does not hold exactly")
        );
    }
}

#[test]
fn codes_that_do_not_fit_are_refused() {
    for (code, shown) in [(8.0, "8"), (-9.0, "-9"), (0.5, "0.5"), (f32::NAN, "NaN")] {
        assert_eq!(
            refusal(INT4, |weight| weight.codes[9] = code),
            format!("code 9 of `{CHANGED}` is {shown}, which does not fit 4 bits")
        );
    }
    assert_eq!(
        refusal(scheme(Grid::fp8(None), None), |weight| weight.codes[9] =
            1.03),
        format!("code 9 of `{CHANGED}` is 1.03, which does not fit 8 bits")
    );
    assert_eq!(
        refusal(INT4, |weight| weight.scaling.scales.truncate(1023)),
        format!("`{CHANGED}_scale` has 1024 elements, but 1023 were given")
    );
    assert_eq!(
        refusal(INT4, |weight| weight.scaling.zeros = Some(vec![0.0; 1024])),
        format!("`{CHANGED}_zero_point` has 0 elements, but 1024 were given")
    );
    assert_eq!(
        refusal(scheme(Grid::symmetric(8, None), None), |weight| {
            weight.codes.truncate(5);
        }),
        format!("`{CHANGED}` has 32768 elements, but 5 were given")
    );
}

#[test]
fn schemes_that_the_format_does_not_have_are_refused() {
    assert_eq!(
        refusal(scheme(Grid::symmetric(4, Some(48)), None), |_| ()),
        "`group_size` 48 does not divide the 128 columns of `model.layers.0.self_attn.q_proj.weight`"
    );
    for (weight, input, told) in [
        (Grid::fp8(None), INT8, "fp8 and activations of int8"),
        (
            Grid::symmetric(4, None),
            Some(Levels::Fp8),
            "int4 and activations of fp8",
        ),
    ] {
        assert_eq!(
            refusal(scheme(weight, input), |_| ()),
            format!(
                "`model.layers.0.self_attn.q_proj.weight` has weights of {told}, for which compressed-tensors has no format"
            )
        );
    }
}
