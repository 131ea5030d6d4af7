//! Weights that are not finite, in every form that a checkpoint can hold.

use ::safetensors::Dtype;

use super::*;
use crate::gguf::{GgufFile, TensorType};

/// A folder of each container, and a tensor of floats in it that stores a weight or a part of one.
const STORED: [(&str, &str); 12] = [
    ("hf-llama-256", "model.layers.0.mlp.down_proj.weight"),
    ("hf-llama-256", "model.norm.weight"),
    ("hf-llama-256", "model.embed_tokens.weight"),
    ("hf-llama-sharded", "lm_head.weight"),
    (
        "ct-w4a16-g32-sym",
        "model.layers.0.mlp.down_proj.weight_scale",
    ),
    (
        "ct-w4a16-g32-asym",
        "model.layers.0.self_attn.q_proj.weight_scale",
    ),
    ("ct-fp8-dynamic", "model.layers.0.mlp.up_proj.weight_scale"),
    ("ct-w8a8-int8", "model.layers.0.mlp.up_proj.weight_scale"),
    (
        "gptq-4bit-g32-sym-actorder",
        "model.layers.0.self_attn.o_proj.scales",
    ),
    ("awq-4bit-g32-gemm", "model.layers.0.mlp.gate_proj.scales"),
    ("mlx-4bit-g32", "model.embed_tokens.scales"),
    ("mlx-4bit-g32", "model.layers.0.mlp.down_proj.biases"),
];

/// Bytes of a number as a float tensor stores it.
fn stored(dtype: Dtype, value: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        other => panic!("{other} holds no such number"),
    }
}

/// The file of a folder that holds a tensor, where the tensor's bytes lie in it, and its dtype.
fn place(dir: &Path, tensor: &str) -> (PathBuf, Range<usize>, Dtype) {
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let found = files.find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let (header_bytes, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let info = metadata.info(tensor)?;
        let (start, end) = info.data_offsets;
        let data = header_bytes + 8;
        Some((path, data + start..data + end, info.dtype))
    });
    found.unwrap_or_else(|| panic!("no {tensor} in {}", dir.display()))
}

/// Message for a checkpoint that opens, but not all of whose weights can be read.
fn unread(path: &Path) -> String {
    let error = Checkpoint::open(path).unwrap().check_weights().unwrap_err();
    let help = error.help().unwrap();
    assert_eq!(
        help,
        "download the checkpoint again, or fix the program that wrote it"
    );
    error.to_string()
}

#[test]
fn a_number_that_is_none_is_refused_by_its_tensor_and_element_in_every_container() {
    for (folder, tensor) in STORED {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let dir = copy(folder);
            Checkpoint::open(dir.path())
                .unwrap()
                .check_weights()
                .unwrap();
            let (file, bytes, dtype) = place(dir.path(), tensor);
            let number = stored(dtype, value);
            let last = bytes.len() / number.len() - 1;
            damage(&file, |all| {
                all[bytes.end - number.len()..bytes.end].copy_from_slice(&number);
            });
            let want = format!(
                "`{}`: element {last} of `{tensor}` is {value}: the checkpoint is damaged",
                dir.path().display()
            );
            assert_eq!(unread(dir.path()), want, "{folder}");
        }
    }
}

#[test]
fn a_code_that_is_no_number_and_a_product_beyond_f32_are_refused_where_every_scale_is_finite() {
    let dir = copy("ct-fp8-dynamic");
    let tensor = "model.layers.0.mlp.down_proj.weight";
    let (file, bytes, dtype) = place(dir.path(), tensor);
    assert_eq!(dtype, Dtype::F8_E4M3);
    damage(&file, |all| all[bytes.start + 5] = 0x7F);
    let want = format!("element 5 of `{tensor}` is NaN: the checkpoint is damaged");
    assert!(unread(dir.path()).ends_with(&want));

    let dir = copy("mlx-4bit-g32");
    let scales = "model.layers.0.mlp.down_proj.scales";
    let (file, bytes, dtype) = place(dir.path(), scales);
    assert_eq!(dtype, Dtype::BF16);
    let large = stored(dtype, 3e38);
    damage(&file, |all| {
        all[bytes.start..bytes.start + large.len()].copy_from_slice(&large);
    });
    let told = unread(dir.path());
    assert!(
        told.contains("of `model.layers.0.mlp.down_proj.weight` is inf: "),
        "{told}"
    );
}

#[test]
fn blocks_of_a_gguf_file_with_a_scale_that_is_no_number_are_refused_by_the_name_in_the_file() {
    let mut kinds = Vec::new();
    for name in ["gguf-q8_0-tied", "gguf-q4_k_m"] {
        let sound = golden(name).join("model.gguf");
        let file = GgufFile::open(&sound).unwrap();
        for (tensor, info) in file.tensors() {
            if kinds.contains(&info.kind) {
                continue;
            }
            kinds.push(info.kind);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("model.gguf");
            fs::copy(&sound, &path).unwrap();
            let start = file.place(tensor).start;
            // The scale of the first block: Q6_K has it at the end of its 210 bytes, the others at the beginning.
            let at = start
                + if info.kind == TensorType::Q6_K {
                    208
                } else {
                    0
                };
            let number = if info.kind == TensorType::F32 {
                f32::NAN.to_le_bytes().to_vec()
            } else {
                half::f16::NAN.to_le_bytes().to_vec()
            };
            damage(&path, |all| {
                all[at..at + number.len()].copy_from_slice(&number);
            });
            let want =
                format!("model.gguf`: element 0 of `{tensor}` is NaN: the checkpoint is damaged");
            let told = unread(&path);
            assert!(told.ends_with(&want), "{told}");
        }
    }
    assert!(kinds.len() >= 4, "{kinds:?}");
}
