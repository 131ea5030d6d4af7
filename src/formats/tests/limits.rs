//! Weights that a format cannot hold are not written.

use std::fs;

use serde_json::json;

use super::codes::{golden, on_grid, scheme, schemes};
use super::*;
use crate::checkpoint::Checkpoint;
use crate::kernels::grid::{Grid, Levels};
use crate::model::{Part, WeightId, parameter_specs};

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

fn refused(format: Format, grid: Grid) -> Option<String> {
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let found = format.refusal(&schemes(grid, &config), ExportDtype::Bf16, &config);
    found.map(|refusal| refusal.to_string())
}

/// Grids that a format cannot hold, and the messages about them.
const REFUSED: [(Format, Grid, &str); 9] = [
    (
        Format::Gptq,
        Grid::asymmetric(4, Some(32)),
        "int4 asymmetric, groups of 32: vLLM loads no GPTQ with zeros; write `symmetric: true`, or `formats: [awq]` for 4 bits",
    ),
    (
        Format::Gptq,
        Grid::symmetric(3, Some(32)),
        "int3, groups of 32: vLLM loads GPTQ of 4 and 8 bits only; write `bits: 4` or `bits: 8`, or `formats: [compressed-tensors]`",
    ),
    (
        Format::Gptq,
        Grid {
            levels: Levels::Stretched,
            group_size: None,
        },
        "vLLM loads GPTQ of 4 and 8 bits only",
    ),
    (
        Format::Gptq,
        Grid::symmetric(4, Some(16)),
        "int4, groups of 16: vLLM loads groups of 32, 64 and 128, and whole rows; write one of these or `channel` as `group_size`",
    ),
    (
        Format::Awq,
        Grid::symmetric(3, Some(32)),
        "int3, groups of 32: its codes have 4 bits; write `bits: 4`",
    ),
    (
        Format::Awq,
        Grid::symmetric(4, Some(16)),
        "vLLM loads groups of 32, 64 and 128, and whole rows",
    ),
    (
        Format::Mlx,
        Grid::fp8(None),
        "its codes are whole numbers of 2, 3, 4, 5, 6 or 8 bits",
    ),
    (
        Format::Mlx,
        Grid::symmetric(4, None),
        "int4, one scale per row: MLX loads groups of 32, 64 and 128; write one of these as `group_size`",
    ),
    (
        Format::Mlx,
        Grid::asymmetric(4, Some(32)),
        "the bias of a group, zero times scale, is not exact in bf16; write `dtype: f32` under `export`, or `symmetric: true`",
    ),
];

#[test]
fn what_a_format_cannot_hold_is_refused_with_the_weight_and_the_way_out() {
    use Format::{Awq, Gptq, Mlx};
    for (format, grid, want) in REFUSED {
        let told = refused(format, grid).unwrap();
        let begin = format!("`{format}` cannot hold `{Q_PROJ}`, ");
        assert!(
            told.starts_with(&begin) && told.contains(want),
            "got:  {told}\nwant: {want}"
        );
    }
    for (format, grid) in [
        (Gptq, Grid::symmetric(8, None)),
        (Gptq, Grid::symmetric(4, Some(128))),
        (Awq, Grid::asymmetric(4, Some(64))),
        (Mlx, Grid::symmetric(3, Some(32))),
    ] {
        assert_eq!(refused(format, grid), None, "{grid}");
    }
}

#[test]
fn unlike_schemes_are_refused_where_the_format_has_one() {
    let source = Checkpoint::open(&golden("hf-llama")).unwrap();
    let config = source.config();
    let down = WeightId::of_layer(1, Part::Down);
    let down_proj = config.family().name_of(down);
    let mut mixed = schemes(Grid::symmetric(4, Some(32)), config);
    mixed.insert(down, scheme(Grid::symmetric(4, Some(64))));
    let told = |format: Format, schemes: &Schemes| {
        let found = format.refusal(schemes, ExportDtype::Bf16, config);
        found.map(|refusal| refusal.to_string())
    };
    let want = format!(
        "`gptq` has one scheme for all projections, but `{Q_PROJ}` is int4, groups of 32, and `{down_proj}` is int4, groups of 64; \
         delete the overrides, or write `formats: [compressed-tensors]` or `[mlx]`"
    );
    assert_eq!(told(Format::Gptq, &mixed), Some(want));
    mixed.remove(&down);
    let want = format!("`{down_proj}` is not quantised");
    assert!(told(Format::Awq, &mixed).unwrap().contains(&want));
    assert_eq!(told(Format::Mlx, &mixed), None);
    mixed.insert(
        WeightId::outside(Part::Embedding),
        scheme(Grid::symmetric(4, Some(32))),
    );
    let want = "its engines keep embedding and output matrix plain";
    assert!(told(Format::Awq, &mixed).unwrap().contains(want));
    assert_eq!(told(Format::Mlx, &mixed), None);
    let told = told(Format::Awq, &Schemes::new()).unwrap();
    assert!(
        told.contains("holds quantised weights, but this model has none"),
        "{told}"
    );
}

#[test]
fn biases_leave_as_mlx_alone() {
    let source = Checkpoint::open(&golden("hf-llama")).unwrap();
    let config = source.config();
    let affine = schemes(Grid::affine(4, Some(32)), config);
    let refused = |format: Format| format.refusal(&affine, ExportDtype::Bf16, config);
    for format in [Format::Gptq, Format::Awq, Format::CompressedTensors] {
        let fact = refused(format).unwrap().fact;
        let want = format!(
            "cannot hold `{Q_PROJ}`, int4 with biases, groups of 32: its groups have integer zeros, not biases"
        );
        assert!(fact.contains(&want), "{fact}");
    }
    for format in [Format::Mlx, Format::HuggingFace, Format::Gguf] {
        assert_eq!(refused(format), None);
    }
}

#[test]
fn mlx_folders_say_which_modules_differ() {
    let source = Checkpoint::open(&golden("hf-llama")).unwrap();
    let config = source.config();
    let grid = Grid::symmetric(4, Some(32));
    let mut mixed = schemes(grid, config);
    mixed.insert(
        WeightId::of_layer(1, Part::Down),
        scheme(Grid::symmetric(8, Some(64))),
    );
    mixed.remove(&WeightId::of_layer(0, Part::Down));
    mixed.insert(WeightId::outside(Part::Head), scheme(grid));
    let dir = tempfile::tempdir().unwrap();
    write(
        (Format::Mlx, &mixed),
        dir.path(),
        config,
        ExportDtype::Bf16,
        |spec| source.values(spec).unwrap(),
        |spec, scheme| on_grid(&source, spec, scheme.weight).0,
    )
    .unwrap();
    let text = fs::read(dir.path().join("config.json")).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        said["quantization"],
        json!({
            "bits": 4, "group_size": 32, "mode": "affine",
            "model.embed_tokens": false,
            "model.layers.0.mlp.down_proj": false,
            "model.layers.1.mlp.down_proj": { "bits": 8, "group_size": 64 },
        })
    );
    let read_back = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(read_back.schemes().len(), mixed.len());
    for spec in parameter_specs(config) {
        let want = match mixed.get(&spec.id) {
            Some(scheme) => on_grid(&source, &spec, scheme.weight).1,
            None => source.values(&spec).unwrap(),
        };
        assert_eq!(read_back.values(&spec).unwrap(), want, "{}", spec.name);
    }
}

#[test]
fn what_a_file_cannot_say_exactly_is_not_written() {
    let source = Checkpoint::open(&golden("hf-llama")).unwrap();
    let schemes = schemes(Grid::symmetric(4, Some(32)), source.config());
    for (format, change, want) in [
        (
            Format::Gptq,
            0.1,
            "is 0.1, which float16 does not hold exactly",
        ),
        (
            Format::Awq,
            1.003_906_3,
            "which bfloat16 does not hold exactly",
        ),
        (
            Format::Mlx,
            f32::NAN,
            "is NaN, which bfloat16 does not hold exactly",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let written = write(
            (format, &schemes),
            dir.path(),
            source.config(),
            ExportDtype::Bf16,
            |spec| source.values(spec).unwrap(),
            |spec, scheme| {
                let (mut codes, _) = on_grid(&source, spec, scheme.weight);
                codes.scaling.scales[5] = change;
                codes
            },
        );
        let told = written.unwrap_err().to_string();
        assert!(told.contains(want), "{told}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
