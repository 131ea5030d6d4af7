//! Plain checkpoints: files, shards, shapes and dtypes.

use super::*;
use crate::kernels::grid::Levels;
use crate::model::parameter_specs;

#[test]
fn every_golden_folder_opens_and_gives_every_weight() {
    for name in PLAIN.into_iter().chain(PACKED) {
        let checkpoint = Checkpoint::open(&golden(name)).unwrap();
        let specs = parameter_specs(checkpoint.config());
        let num_stored = checkpoint.files().unwrap().names().count();
        let num_extra: usize = checkpoint
            .schemes()
            .values()
            .map(|scheme| match (scheme.weight.levels, scheme.input) {
                (Levels::Asymmetric { .. }, _) => 3,
                (Levels::Symmetric { .. }, None) => 2,
                _ => 1, // a scale beside the weight
            })
            .sum();
        assert_eq!(num_extra > 0, PACKED.contains(&name), "{name}");
        let num_tensors = tensor_specs(checkpoint.config()).len();
        assert_eq!(num_tensors + num_extra, num_stored, "{name}");
        for spec in specs {
            let weight = checkpoint.values(&spec).unwrap();
            assert_eq!(weight.len(), spec.num_elements(), "{name}: {}", spec.name);
            assert!(
                weight.iter().all(|value| value.is_finite()),
                "{name}: {}",
                spec.name
            );
        }
    }
}

#[test]
fn a_sharded_checkpoint_holds_what_its_shards_hold() {
    let dir = golden("hf-llama-sharded");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let index = read_json(&dir.join("model.safetensors.index.json")).unwrap();
    assert_eq!(
        checkpoint.files().unwrap().num_bytes(),
        index["metadata"]["total_size"].as_u64().unwrap()
    );
    assert_eq!(
        checkpoint.files().unwrap().names().count(),
        index["weight_map"].as_object().unwrap().len()
    );
}

#[test]
fn the_content_hash_sees_bytes_names_and_shapes_but_not_files() {
    let hash = |dir: &Path| TensorFiles::open(dir).unwrap().content_hash();
    let original = hash(&golden("hf-llama"));
    assert_eq!(original.len(), 64);
    let changed = copy("hf-llama");
    damage(&changed.path().join("model.safetensors"), |bytes| {
        *bytes.last_mut().unwrap() ^= 1;
    });
    assert_ne!(hash(changed.path()), original);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let header = |name: &str, shape: &str, at: usize| {
        format!(
            r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{at},{}]}}"#,
            at + 8
        )
    };
    let hash_of = |first: String, second: String| {
        write_raw(&file, &format!("{{{first},{second}}}"), 16);
        hash(dir.path())
    };
    let base = hash_of(header("a", "[2]", 0), header("b", "[2]", 8));
    let reordered = hash_of(header("b", "[2]", 0), header("a", "[2]", 8));
    let renamed = hash_of(header("a", "[2]", 0), header("c", "[2]", 8));
    let reshaped = hash_of(header("a", "[2,1]", 0), header("b", "[2]", 8));
    assert_eq!(base, reordered);
    assert_ne!(base, renamed);
    assert_ne!(base, reshaped);
}

#[test]
fn half_precision_is_widened_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let header = r#"{"b":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"h":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}"#;
    write_raw(&file, header, 4);
    damage(&file, |bytes| {
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&[0xC0, 0xBF, 0x00, 0x3E]); // -1.5 in bf16, 1.5 in f16
    });
    let files = TensorFiles::open(dir.path()).unwrap();
    assert_eq!(files.f32s("b", &[1]).unwrap(), [-1.5]);
    assert_eq!(files.f32s("h", &[1]).unwrap(), [1.5]);
}

#[test]
fn a_truncated_file_is_refused_with_its_length() {
    let dir = copy("hf-llama");
    let file = dir.path().join("model.safetensors");
    damage(&file, |bytes| bytes.truncate(700_000));
    let message = refusal(dir.path());
    assert!(
        message.contains("model.safetensors` (700000 bytes) is not a whole safetensors file"),
        "{message}"
    );
    for length in [7, 0] {
        damage(&file, |bytes| bytes.truncate(length));
        let message = refusal(dir.path());
        assert!(message.contains(&format!("({length} bytes)")), "{message}");
    }
}

#[test]
fn a_header_longer_than_the_file_is_refused_with_both_lengths() {
    let dir = copy("hf-llama");
    let file = dir.path().join("model.safetensors");
    for length in [757_129, u64::MAX] {
        damage(&file, |bytes| {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        });
        let message = refusal(dir.path());
        assert!(
            message.ends_with(&format!(
                "model.safetensors` takes {length} bytes, but the file has 757136"
            )),
            "{message}"
        );
    }
}

#[test]
fn overlapping_tensors_gaps_and_wrong_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let entry = |name: &str, shape: &str, start: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    for second in [
        entry("b", "[2]", 4, 12),
        entry("b", "[1]", 12, 16),
        entry("b", "[3]", 8, 16),
        entry("b", "[4611686018427387904,4]", 8, 16),
        entry("b", "[2]", 16, 8),
    ] {
        write_raw(
            &file,
            &format!("{{{},{second}}}", entry("a", "[2]", 0, 8)),
            16,
        );
        let error = TensorFiles::open(dir.path()).unwrap_err();
        assert!(
            matches!(error, CheckpointError::NotSafetensors { .. }),
            "{second}: {error}"
        );
    }
}

#[test]
fn a_missing_shard_is_named_with_a_tensor_it_holds() {
    let dir = copy("hf-llama-sharded");
    fs::remove_file(dir.path().join("model-00002-of-00004.safetensors")).unwrap();
    let message = refusal(dir.path());
    assert!(
        message.contains("model-00002-of-00004.safetensors` is missing; it holds `model.layers."),
        "{message}"
    );
}

#[test]
fn an_index_that_leaves_the_folder_is_refused() {
    for file in [
        "../weights.safetensors",
        "/etc/passwd",
        "a/b",
        "..",
        "",
        "./x",
    ] {
        let dir = copy("hf-llama-sharded");
        edit_json(&dir.path().join("model.safetensors.index.json"), |index| {
            index["weight_map"]["model.norm.weight"] = json!(file);
        });
        let message = refusal(dir.path());
        assert!(
            message.contains(&format!(
                "looks for `model.norm.weight` in `{file}`, which is not the name of a file"
            )),
            "{message}"
        );
    }
}

#[test]
fn a_tensor_that_is_not_in_its_shard_is_refused() {
    let dir = copy("hf-llama-sharded");
    let index = dir.path().join("model.safetensors.index.json");
    edit_json(&index, |index| {
        index["weight_map"]["lm_head.weight"] = json!("model-00001-of-00004.safetensors");
    });
    let message = refusal(dir.path());
    assert!(
        message.starts_with("`lm_head.weight` is not in `"),
        "{message}"
    );
    assert!(message.contains("model-00001-of-00004"), "{message}");
    damage(&index, |bytes| *bytes = b"[]".to_vec());
    assert!(refusal(dir.path()).contains("no `weight_map`"));
    damage(&index, |bytes| *bytes = b"{".to_vec());
    assert!(refusal(dir.path()).contains("is not JSON"));
}

#[test]
fn a_folder_without_weights_or_config_is_refused() {
    let dir = copy("hf-llama");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refusal(dir.path()).contains("has neither `model.safetensors` nor"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("config.json"));
}

#[test]
fn weights_that_do_not_fit_the_config_are_refused_with_both_shapes() {
    let dir = copy("hf-llama");
    edit_json(&dir.path().join("config.json"), |config| {
        config["intermediate_size"] = json!(192);
    });
    assert_eq!(
        refusal(dir.path()),
        "`model.layers.0.mlp.gate_proj.weight` must have shape [192, 128], but has [256, 128]"
    );
    edit_json(&dir.path().join("config.json"), |config| {
        config["intermediate_size"] = json!(256);
        config["num_hidden_layers"] = json!(3);
    });
    let message = refusal(dir.path());
    assert!(
        message.ends_with("has no tensor `model.layers.2.input_layernorm.weight`"),
        "{message}"
    );
}

#[test]
fn a_weight_of_another_dtype_is_refused_with_both_dtypes() {
    let dir = copy("hf-llama");
    damage(&dir.path().join("model.safetensors"), |bytes| {
        // Same length and element size, so only the dtype of every tensor changes.
        let header = String::from_utf8_lossy(&bytes[8..8 + 4000]).into_owned();
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        assert!(length <= 4000, "header of {length} bytes");
        let changed = header[..length].replace(r#""BF16""#, r#""I16" "#);
        bytes[8..8 + length].copy_from_slice(changed.as_bytes());
    });
    assert_eq!(
        refusal(dir.path()),
        "`model.embed_tokens.weight` must be F32 or F16 or BF16, but is I16"
    );
}

#[test]
fn tensors_that_would_change_the_model_are_refused_and_others_ignored() {
    for part in [
        "mlp.up_proj.bias",
        "mlp.up_proj.weight_g_idx",
        "mlp.up_proj.weight_zero_point",
        "self_attn.q_norm.weight", // of a family that the config does not name
    ] {
        let dir = copy("ct-w4a16-g32-sym");
        let added = format!("model.layers.1.{part}");
        let ignored = [
            "model.rotary.inv_freq",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.2.self_attn.q_norm.weight", // past the last layer
        ];
        let source = golden("ct-w4a16-g32-sym").join("model.safetensors");
        fs::rename(
            dir.path().join("model.safetensors"),
            dir.path().join("one.safetensors"),
        )
        .unwrap();
        let bytes = fs::read(source).unwrap();
        let (_, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let mut map: Map<String, Value> = metadata
            .offset_keys()
            .into_iter()
            .map(|name| (name, json!("one.safetensors")))
            .collect();
        // A second shard holds the additional tensors.
        let names = [&ignored[..], &[&added]].concat();
        let entries = names.iter().zip(0..).map(|(name, idx): (_, usize)| {
            let (start, end) = (4 * idx, 4 * idx + 4);
            map.insert((*name).to_owned(), json!("two.safetensors"));
            format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{start},{end}]}}"#)
        });
        let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
        write_raw(
            &dir.path().join("two.safetensors"),
            &header,
            4 * names.len(),
        );
        let index = dir.path().join("model.safetensors.index.json");
        damage(&index, |bytes| {
            *bytes = serde_json::to_vec(&json!({ "weight_map": map })).unwrap();
        });
        let message = refusal(dir.path());
        assert!(
            message.contains(&format!("has a tensor `{added}`")),
            "{message}"
        );
        edit_json(&index, |index| {
            index["weight_map"].as_object_mut().unwrap().remove(&added);
        });
        Checkpoint::open(dir.path()).unwrap();
    }
}

/// The tied model with an output matrix in a second shard: its embedding, changed.
fn with_head(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let dir = copy("hf-smollm2-tied");
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let embedding = tensors.tensor("model.embed_tokens.weight").unwrap();
    let mut head = embedding.data().to_vec();
    change(&mut head);
    let view = ::safetensors::tensor::TensorView::new;
    let head = view(embedding.dtype(), embedding.shape().to_vec(), &head).unwrap();
    let mut all = tensors.tensors();
    all.push((name.to_owned(), head));
    let bytes = ::safetensors::serialize(all, None).unwrap();
    damage(&file, |file| *file = bytes);
    dir
}

#[test]
fn an_output_matrix_beside_a_tied_embedding_must_be_the_same() {
    let same = Checkpoint::open(with_head("lm_head.weight", |_| ()).path()).unwrap();
    assert!(same.config().tie_word_embeddings);
    for part in ["lm_head.weight_packed", "lm_head.qweight", "lm_head.bias"] {
        let message = refusal(with_head(part, |_| ()).path());
        assert!(
            message.contains(&format!("has a tensor `{part}`")),
            "{message}"
        );
    }
    let other = with_head("lm_head.weight", |head| *head.last_mut().unwrap() ^= 1);
    let message = refusal(other.path());
    assert!(
        message.ends_with(
            "has a `lm_head.weight` that is not its embedding, though `tie_word_embeddings` is true: write \
             `\"tie_word_embeddings\": false` in `config.json` if both were trained, or delete the tensor"
        ),
        "{message}"
    );
}
