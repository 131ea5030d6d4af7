//! GPTQ, AWQ and MLX checkpoints.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::*;
use crate::kernels::grid::Grid;
use crate::model::parameter_specs;

/// Folders of the reference writers, and the grid reported for their projections.
const FOLDERS: [(&str, Grid); 9] = [
    ("gptq-4bit-g32-sym", Grid::symmetric(4, Some(32))),
    ("gptq-4bit-g32-sym-actorder", Grid::symmetric(4, Some(32))),
    ("gptq-4bit-g32-asym", Grid::asymmetric(4, Some(32))),
    ("gptq-8bit-g32-sym", Grid::symmetric(8, Some(32))),
    ("awq-4bit-g32-gemm", Grid::asymmetric(4, Some(32))),
    ("mlx-4bit-g32", Grid::asymmetric(4, Some(32))),
    ("mlx-2bit-g32-tied", Grid::asymmetric(2, Some(32))),
    ("mlx-3bit-g64-tied", Grid::asymmetric(3, Some(64))),
    ("mlx-8bit-g64-tied", Grid::asymmetric(8, Some(64))),
];

/// Number of weights with the digests of another decoder, which `expected` holds by name.
pub(super) fn num_equal(dir: &Path, expected: &Value) -> usize {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let mut num_equal = 0;
    for spec in parameter_specs(checkpoint.config()) {
        let Some(want) = expected.get(&spec.name) else {
            continue; // plain weights of MLX were not hashed
        };
        let got = checkpoint.values(&spec).unwrap();
        let bytes: Vec<u8> = got.iter().flat_map(|value| value.to_le_bytes()).collect();
        let digest = format!("{:x}", Sha256::digest(bytes));
        assert_eq!(want, digest.as_str(), "{}: {}", dir.display(), spec.name);
        num_equal += 1;
    }
    num_equal
}

/// All weights of a folder, decoded.
pub(super) fn weights(dir: &Path) -> Vec<Vec<f32>> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let specs = parameter_specs(checkpoint.config());
    let weights = specs.iter().map(|spec| checkpoint.values(spec).unwrap());
    weights.collect()
}

pub(super) fn expected(name: &str) -> Value {
    let expected = read_json(&golden(name).join("expected/expected.json")).unwrap();
    expected["sha256_dequant_f32"].clone()
}

#[test]
fn weights_decode_to_what_another_decoder_makes_of_them() {
    let mut counts = BTreeMap::new();
    for (name, _) in FOLDERS {
        counts.insert(name, num_equal(&golden(name), &expected(name)));
    }
    let of = |name: &str| counts[name];
    assert_eq!(counts.values().sum::<usize>(), 5 * 21 + 16 + 3 * 15);
    assert_eq!((of("mlx-4bit-g32"), of("mlx-2bit-g32-tied")), (16, 15));
}

#[test]
fn projections_have_the_grid_of_the_config() {
    for (name, grid) in FOLDERS {
        let checkpoint = Checkpoint::open(&golden(name)).unwrap();
        let schemes = checkpoint.schemes();
        let want = match name {
            "mlx-4bit-g32" => 16, // embedding and output matrix, too
            name if name.starts_with("mlx") => 15,
            _ => 14,
        };
        assert_eq!(schemes.len(), want, "{name}");
        let scheme = Scheme {
            weight: grid,
            input: None,
        };
        assert!(schemes.values().all(|found| *found == scheme), "{name}");
    }
}

/// Changes the bytes of a tensor in place.
pub(super) fn edit_tensor(dir: &Path, name: &str, change: impl FnOnce(&mut [u8])) {
    damage(&dir.join("model.safetensors"), |bytes| {
        let (length, metadata) = ::safetensors::SafeTensors::read_metadata(bytes).unwrap();
        let (start, end) = metadata.info(name).unwrap().data_offsets;
        change(&mut bytes[8 + length + start..8 + length + end]);
    });
}

#[test]
fn zeros_of_the_second_version_of_gptq_stand_as_they_are() {
    // The reference wrote this folder with other zeros and the same weights.
    let dir = copy("gptq-4bit-g32-sym");
    let config = Checkpoint::open(dir.path()).unwrap().config().clone();
    for spec in parameter_specs(&config)
        .iter()
        .filter(|spec| spec.id.input().is_some())
    {
        edit_tensor(
            dir.path(),
            &format!("{}.qzeros", spec.name.trim_end_matches(".weight")),
            |bytes| {
                assert!(bytes.iter().all(|&byte| byte == 0x77));
                bytes.fill(0x88);
            },
        );
    }
    for key in ["checkpoint_format", "format"] {
        edit_json(&dir.path().join("config.json"), |config| {
            config["quantization_config"][key] = json!("gptq_v2");
        });
    }
    assert_eq!(num_equal(dir.path(), &expected("gptq-4bit-g32-sym")), 21);
}

#[test]
fn codes_of_worked_examples_stand_where_they_do() {
    // Layer 0, q_proj: u[0:8, 0] = [6, 9, 8, 8, 11, 12, 6, 4] of GPTQ is word 0x46CB8896; u[0, 0:8] of AWQ is
    // [6, 1, 0, 5, 1, 9, 10, 8], word 0x8951A106.
    for (name, word) in [
        ("gptq-4bit-g32-sym", 0x46CB_8896_u32),
        ("awq-4bit-g32-gemm", 0x8951_A106),
    ] {
        let files = TensorFiles::open(&golden(name)).unwrap();
        let tensor = "model.layers.0.self_attn.q_proj.qweight";
        let shape = files.info(tensor).unwrap().1.to_vec();
        let bytes = files
            .raw(tensor, ::safetensors::Dtype::I32, &shape)
            .unwrap();
        assert_eq!(bytes[..4], word.to_le_bytes(), "{name}");
    }
    let weight = |name: &str| {
        let checkpoint = Checkpoint::open(&golden(name)).unwrap();
        let spec = &parameter_specs(checkpoint.config())[2];
        checkpoint.values(spec).unwrap()
    };
    let scale = 0.027_862_549; // of row 0 and group 0
    let want = [-2.0, 1.0, 0.0, 0.0, 3.0, 4.0, -2.0, -4.0].map(|code: f32| code * scale);
    assert_eq!(weight("gptq-4bit-g32-sym")[..8], want);
}

/// Name, dtype, shape and bytes of a tensor.
pub(super) type RawTensor = (String, ::safetensors::Dtype, Vec<usize>, Vec<u8>);

/// Changes the list of tensors of a folder with one file.
pub(super) fn edit_tensors(dir: &Path, change: impl FnOnce(&mut Vec<RawTensor>)) {
    let file = dir.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let raw = |(name, view): (String, ::safetensors::tensor::TensorView<'_>)| {
        let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
        (name, view.dtype(), shape, bytes)
    };
    let mut all: Vec<RawTensor> = tensors.tensors().into_iter().map(raw).collect();
    change(&mut all);
    let views = all.iter().map(|(name, dtype, shape, bytes)| {
        let view = ::safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    let bytes = ::safetensors::serialize(views, None).unwrap();
    damage(&file, |old| *old = bytes);
}

/// A copy of a folder in which some tensors are replaced by others, of a dtype, shape and bytes.
fn with_tensors(
    folder: &str,
    gone: &str,
    others: &[(String, ::safetensors::Dtype, Vec<usize>, Vec<u8>)],
) -> tempfile::TempDir {
    let dir = copy(folder);
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all = tensors.tensors();
    all.retain(|(name, _)| !name.starts_with(gone));
    for (name, dtype, shape, bytes) in others {
        let view = ::safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
        all.push((name.clone(), view.unwrap()));
    }
    let bytes = ::safetensors::serialize(all, None).unwrap();
    damage(&file, |old| *old = bytes);
    dir
}

#[test]
fn what_a_folder_keeps_plain_is_read_plain() {
    let module = "model.layers.1.mlp.down_proj";
    let name = format!("{module}.weight");
    let plain = Checkpoint::open(&golden("hf-llama")).unwrap();
    let (dtype, shape) = plain.files().unwrap().info(&name).unwrap();
    let bytes = plain.files().unwrap().raw(&name, dtype, shape).unwrap();
    let weight = (name.clone(), dtype, shape.to_vec(), bytes.to_vec());
    let dir = with_tensors("gptq-4bit-g32-sym", module, &[weight]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.schemes().len(), 13);
    let specs = parameter_specs(checkpoint.config());
    let spec = specs.iter().find(|spec| spec.name == name).unwrap();
    let (got, want) = (
        checkpoint.values(spec).unwrap(),
        plain.values(spec).unwrap(),
    );
    assert_eq!(got, want);
}

#[test]
fn biases_of_zeros_that_the_model_does_not_have_are_passed_over_and_others_are_not() {
    let name = "model.layers.1.mlp.down_proj.bias".to_owned();
    let mut bytes = vec![0; 2 * 128];
    let bias = |bytes: &[u8]| {
        let dtype = ::safetensors::Dtype::F16;
        [(name.clone(), dtype, vec![128], bytes.to_vec())]
    };
    let dir = with_tensors("gptq-4bit-g32-sym", "none", &bias(&bytes));
    assert_eq!(num_equal(dir.path(), &expected("gptq-4bit-g32-sym")), 21);
    bytes[17] = 0x3C;
    let dir = with_tensors("gptq-4bit-g32-sym", "none", &bias(&bytes));
    let message = refusal(dir.path());
    assert!(
        message.contains("has a tensor `model.layers.1.mlp.down_proj.bias`"),
        "{message}"
    );
}

/// Message for a copy of a folder with another value in its config.
fn refusal_of(folder: &str, block: &str, key: &str, value: Value) -> String {
    let dir = copy(folder);
    edit_json(&dir.path().join("config.json"), |config| {
        config[block][key] = value;
    });
    refusal(dir.path())
}

const GPTQ: &str = "gptq-4bit-g32-sym";
const AWQ: &str = "awq-4bit-g32-gemm";
const MLX: &str = "mlx-4bit-g32";

#[test]
fn settings_of_gptq_and_awq_that_are_not_implemented_are_refused_by_their_key() {
    let per_layer = json!({ "+:.*mlp": { "bits": 8 } });
    for (folder, key, value, want) in [
        (GPTQ, "bits", json!(3), "`2` or `4` or `8`, but is `3`"),
        (GPTQ, "group_size", json!(0), "a positive number or -1"),
        (GPTQ, "sym", json!(null), "`true` or `false`"),
        (GPTQ, "checkpoint_format", json!("x"), r#""gptq_v2"`"#),
        (GPTQ, "dynamic", per_layer, "`null` or `{}`"),
        (GPTQ, "pack_dtype", json!("int64"), r#"`"int32"`"#),
        (AWQ, "bits", json!(8), "`4`, but is `8`"),
        (AWQ, "version", json!("gemv"), r#"`"gemm"`"#),
        (AWQ, "zero_point", json!(false), "`true`, but is `false`"),
    ] {
        let message = refusal_of(folder, "quantization_config", key, value);
        let at = format!("`quantization_config.{key}` must be ");
        assert!(message.contains(&at), "got:  {message}\nwant: {at}");
        assert!(message.contains(want), "got:  {message}\nwant: {want}");
    }
}

#[test]
fn settings_of_mlx_that_are_not_implemented_are_refused_by_their_key() {
    for (key, value, want) in [
        ("bits", json!(7), "bits` must be `2` or `3`"),
        ("group_size", json!(48), "`32` or `64` or `128`"),
        ("mode", json!("mxfp4"), r#"mode` must be `"affine"`"#),
        ("lm_head", json!({ "bits": 4 }), "lm_head.group_size` must"),
    ] {
        let message = refusal_of(MLX, "quantization", key, value);
        assert!(message.contains(want), "got:  {message}\nwant: {want}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_config_are_refused_by_name() {
    let block = "quantization_config";
    for (folder, block, key, value, want) in [
        (
            GPTQ,
            block,
            "bits",
            json!(8),
            "qweight` must have shape [32, 128], but has [16, 128]",
        ),
        (
            GPTQ,
            block,
            "group_size",
            json!(64),
            "qzeros` must have shape [2, 16], but has [4, 16]",
        ),
        (
            AWQ,
            block,
            "group_size",
            json!(48),
            "does not divide the 128 columns of",
        ),
        (
            GPTQ,
            block,
            "quant_method",
            json!("awq"),
            "quantization_config.checkpoint_format` must be",
        ),
        (
            MLX,
            "quantization",
            "model.layers.0.self_attn.q_proj",
            json!({ "bits": 8, "group_size": 32 }),
            "q_proj.weight` must have shape [128, 32], but has [128, 16]",
        ),
        (
            "hf-llama",
            "quantization",
            "bits",
            json!(4),
            "`quantization_config.group_size` must be `32`",
        ),
    ] {
        let message = refusal_of(folder, block, key, value);
        assert!(message.contains(want), "got:  {message}\nwant: {want}");
    }
    // A plain folder that calls itself packed.
    let dir = copy("hf-llama");
    edit_json(&dir.path().join("config.json"), |config| {
        config["quantization"] = json!({ "bits": 4, "group_size": 32 });
    });
    let want =
        "`model.embed_tokens.weight` is stored plain, as are all weights, but `config.json` says";
    let message = refusal(dir.path());
    assert!(message.starts_with(want), "{message}");
}

#[test]
fn groups_of_columns_that_are_not_there_are_refused() {
    let dir = copy("gptq-4bit-g32-sym-actorder");
    let tensor = "model.layers.0.self_attn.q_proj.g_idx";
    edit_tensor(dir.path(), tensor, |bytes| {
        bytes[4..8].copy_from_slice(&4_i32.to_le_bytes());
    });
    let want = format!("`{tensor}`[1] is 4, but there are 4 groups, counted from 0");
    assert_eq!(refusal(dir.path()), want);
}
