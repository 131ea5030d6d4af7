//! Valid folders that say the same in other words: each has the weights of its twin, bit for bit.

use super::containers::{edit_tensor, edit_tensors, weights};
use super::*;
use crate::kernels::grid::Grid;
use crate::model::parameter_specs;

const CT: &str = "ct-w4a16-g32-sym";
const GPTQ: &str = "gptq-4bit-g32-sym";

/// A copy with another value at one place of its `quantization_config`.
fn with_setting(folder: &str, pointer: &str, value: Value) -> tempfile::TempDir {
    let dir = copy(folder);
    edit_json(&dir.path().join("config.json"), |config| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = config["quantization_config"].pointer_mut(parent).unwrap();
        parent[key] = value;
    });
    dir
}

fn assert_same(dir: &Path, twin: &str) {
    assert!(weights(dir) == weights(&golden(twin)), "{}", dir.display());
}

const ORDER: &str = "/config_groups/group_0/weights/actorder";

#[test]
fn an_order_that_only_gptq_went_by_changes_nothing() {
    for value in [json!("static"), json!("weight"), json!(false), json!(null)] {
        assert_same(with_setting(CT, ORDER, value).path(), CT);
    }
}

/// Adds the group of each column to every packed weight.
fn list_groups(dir: &Path, group: impl Fn(usize) -> i32) {
    edit_tensors(dir, |tensors| {
        let mut lists = Vec::new();
        for (name, _, shape, _) in tensors.iter() {
            if let Some(weight) = name.strip_suffix("_packed") {
                let cols = shape[1] * 8; // codes of 4 bits
                let bytes = (0..cols).flat_map(|column| group(column).to_le_bytes());
                let dtype = ::safetensors::Dtype::I32;
                lists.push((
                    format!("{weight}_g_idx"),
                    dtype,
                    vec![cols],
                    bytes.collect(),
                ));
            }
        }
        tensors.extend(lists);
    });
}

#[test]
fn groups_of_columns_are_read_from_their_list_and_asked_for_by_name() {
    let in_order = |column: usize| i32::try_from(column / 32).unwrap();
    for value in [json!("group"), json!("dynamic"), json!(true)] {
        let dir = with_setting(CT, ORDER, value);
        let want = "has no tensor `model.layers.0.self_attn.q_proj.weight_g_idx`";
        let message = refusal(dir.path());
        assert!(message.contains(want), "{message}");
        list_groups(dir.path(), in_order);
        assert_same(dir.path(), CT);
    }
    let dir = with_setting(CT, ORDER, json!("group"));
    list_groups(dir.path(), |_| -1); // no order was chosen
    assert_same(dir.path(), CT);
    let dir = with_setting(CT, ORDER, json!("group"));
    list_groups(dir.path(), |column| if column == 5 { 9 } else { 0 });
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("weight_g_idx`[5] is 9, but there are 4 groups"),
        "{message}"
    );
}

#[test]
fn groups_of_permuted_columns_have_the_scale_that_the_list_names() {
    let dir = with_setting(CT, ORDER, json!("group"));
    let num_groups = |cols: usize| cols / 32;
    // Columns take turns: column c belongs to group c mod the number of groups of a row of 128.
    list_groups(dir.path(), |column| i32::try_from(column % 4).unwrap());
    let [ours, plain] = [dir.path(), &golden(CT)].map(|dir| Checkpoint::open(dir).unwrap());
    let specs = parameter_specs(plain.config());
    let spec = &specs[2];
    assert_eq!(spec.name, "model.layers.0.self_attn.q_proj.weight");
    let StoredWeight::OnGrid(stored) = plain.weight(spec).unwrap() else {
        panic!("in order")
    };
    let [_, cols] = spec.shape;
    let groups = num_groups(cols);
    let want = stored.codes.iter().enumerate().map(|(idx, code)| {
        let (row, column) = (idx / cols, idx % cols);
        code * stored.scaling.scales[row * groups + column % 4]
    });
    assert!(matches!(ours.weight(spec).unwrap(), StoredWeight::Plain(_)));
    assert_eq!(ours.values(spec).unwrap(), want.collect::<Vec<f32>>());
}

#[test]
fn settings_that_say_nothing_are_passed_over() {
    let dense = json!({ "format": "dense", "global_sparsity": 0.1429, "ignore": [], "sparsity_structure": "unstructured" });
    assert_same(with_setting(CT, "/sparsity_config", dense).path(), CT);
    assert_same(
        with_setting(CT, "/quantization_status", json!("frozen")).path(),
        CT,
    );
    for empty in [json!({}), json!(null)] {
        let dir = copy("hf-llama");
        edit_json(&dir.path().join("config.json"), |config| {
            config["quantization_config"] = empty.clone();
            config["quantization"] = empty;
        });
        assert_same(dir.path(), "hf-llama");
    }
}

#[test]
fn settings_are_found_under_their_older_names() {
    let golden_json = read_json(&golden(CT).join("config.json")).unwrap();
    let section = golden_json["quantization_config"].clone();
    let mut nameless = section.clone();
    nameless.as_object_mut().unwrap().remove("quant_method");
    let sections = [
        json!({ "compression_config": section }),
        json!({ "compression_config": nameless }),
        json!({ "compression_config": { "quantization_config": nameless, "sparsity_config": { "format": "dense" } } }),
        json!({ "quantization_config": { "quant_method": "compressed-tensors", "quantization_config": nameless } }),
    ];
    for sections in sections {
        let dir = copy(CT);
        edit_json(&dir.path().join("config.json"), |config| {
            let config = config.as_object_mut().unwrap();
            config.remove("quantization_config");
            config.extend(sections.as_object().unwrap().clone());
        });
        assert_same(dir.path(), CT);
    }
}

#[test]
fn settings_in_a_file_of_their_own_are_read_if_weights_are_codes() {
    const AWQ: &str = "awq-4bit-g32-gemm";
    let awq = json!({ "zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM" });
    let gptq = json!({ "bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": false, "sym": true });
    let without_section = |folder: &str, file: &str, settings: &Value| {
        let dir = copy(folder);
        edit_json(&dir.path().join("config.json"), |config| {
            config
                .as_object_mut()
                .unwrap()
                .remove("quantization_config");
        });
        let text = serde_json::to_vec(settings).unwrap();
        damage(&dir.path().join(file), |bytes| *bytes = text);
        dir
    };
    let (of_gptq, of_awq) = ("quantize_config.json", "quant_config.json");
    assert_same(without_section(GPTQ, of_gptq, &gptq).path(), GPTQ);
    assert_same(without_section(AWQ, of_awq, &awq).path(), AWQ);
    // The settings are part of what the model is, wherever they stand.
    let dir = without_section(GPTQ, of_gptq, &gptq);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let settings = &checkpoint.quantization_json().unwrap()["quantization_config"];
    assert_eq!(settings["bits"], 4);
    // A fault is looked for in the file that has it.
    let three = without_section(
        GPTQ,
        of_gptq,
        &json!({ "bits": 3, "group_size": 32, "sym": true }),
    );
    let message = refusal(three.path());
    assert!(
        message.contains("quantize_config.json`: `quantization_config.bits` must be"),
        "{message}"
    );
    // A file that stayed behind.
    let plain = without_section("hf-llama", of_gptq, &gptq);
    assert_same(plain.path(), "hf-llama");
    // The section counts.
    let dir = copy(GPTQ);
    damage(&dir.path().join(of_gptq), |bytes| {
        *bytes = br#"{"bits":8}"#.to_vec();
    });
    assert_same(dir.path(), GPTQ);
}

#[test]
fn a_last_group_that_is_not_full_has_its_own_scale() {
    // 128 columns in groups of 96 are two groups, 256 columns three: the first scales and zeros of each.
    let dir = with_setting(GPTQ, "/group_size", json!(96));
    edit_tensors(dir.path(), |tensors| {
        for (name, _, shape, bytes) in tensors.iter_mut() {
            if name.ends_with(".g_idx") {
                let groups = (0..shape[0])
                    .flat_map(|column| i32::try_from(column / 96).unwrap().to_le_bytes());
                *bytes = groups.collect();
            } else if name.ends_with(".scales") || name.ends_with(".qzeros") {
                let kept = (shape[0] * 32).div_ceil(96);
                bytes.truncate(bytes.len() / shape[0] * kept);
                shape[0] = kept;
            }
        }
    });
    let [ours, golden] = [dir.path(), &golden(GPTQ)].map(|dir| Checkpoint::open(dir).unwrap());
    for spec in parameter_specs(golden.config()) {
        let StoredWeight::OnGrid(stored) = golden.weight(&spec).unwrap() else {
            continue;
        };
        let [_, cols] = spec.shape;
        let want = stored.codes.iter().enumerate().map(|(idx, code)| {
            code * stored.scaling.scales[idx / cols * (cols / 32) + idx % cols / 96]
        });
        assert_eq!(
            ours.values(&spec).unwrap(),
            want.collect::<Vec<f32>>(),
            "{}",
            spec.name
        );
        assert!(matches!(
            ours.weight(&spec).unwrap(),
            StoredWeight::Plain(_)
        ));
    }
    // The list of groups may be left out.
    let with_list = weights(dir.path());
    edit_tensors(dir.path(), |tensors| {
        tensors.retain(|(name, ..)| !name.ends_with(".g_idx"));
    });
    assert!(weights(dir.path()) == with_list);
}

#[test]
fn modules_of_mlx_without_a_group_size_have_that_of_their_tensors() {
    for folder in ["mlx-4bit-g32", "mlx-3bit-g64-tied"] {
        let dir = copy(folder);
        edit_json(&dir.path().join("config.json"), |config| {
            let bits = config["quantization"]["bits"].clone();
            for module in ["model.embed_tokens", "model.layers.1.mlp.down_proj"] {
                config["quantization"][module] =
                    json!({ "bits": bits, "group_size": null, "mode": "affine" });
            }
        });
        assert_same(dir.path(), folder);
    }
    for (mode, group_size, bits) in [("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)] {
        let dir = copy("mlx-4bit-g32");
        edit_json(&dir.path().join("config.json"), |config| {
            config["quantization"] =
                json!({ "group_size": group_size, "bits": bits, "mode": mode });
        });
        let message = refusal(dir.path());
        assert!(message.contains("mode` must be `\"affine\"`"), "{message}");
    }
}

/// Splits the one file of a folder into shards with these names, tensor after tensor in turn, without an index.
fn split(dir: &Path, shards: &[&str]) {
    let file = dir.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors();
    for (number, shard) in shards.iter().enumerate() {
        let of_shard = tensors.iter().enumerate();
        let of_shard = of_shard.filter(|(idx, _)| idx % shards.len() == number);
        let of_shard = of_shard.map(|(_, (name, view))| (name, view));
        let bytes = ::safetensors::serialize(of_shard, None).unwrap();
        damage(&dir.join(shard), |old| *old = bytes);
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn shards_without_an_index_are_read_if_all_are_there() {
    let names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let dir = copy("hf-llama");
    split(dir.path(), &names);
    assert_same(dir.path(), "hf-llama");
    let alone = copy("hf-llama");
    split(alone.path(), &["model-00001-of-00001.safetensors"]);
    assert_same(alone.path(), "hf-llama");

    let second = dir.path().join(names[1]);
    fs::copy(
        dir.path().join(names[0]),
        dir.path().join("model-00001-of-00003.safetensors"),
    )
    .unwrap();
    let message = refusal(dir.path());
    assert!(
        message.contains("has shards of several models (of 2 and of 3)"),
        "{message}"
    );
    fs::remove_file(dir.path().join("model-00001-of-00003.safetensors")).unwrap();
    fs::copy(dir.path().join(names[0]), &second).unwrap();
    let message = refusal(dir.path());
    assert!(
        message.contains("is in `") && message.contains("and in a shard before it"),
        "{message}"
    );
    fs::remove_file(&second).unwrap();
    let message = refusal(dir.path());
    assert!(
        message.contains("model-00002-of-00002.safetensors` is missing: 1 of 2 shards are there"),
        "{message}"
    );
}

#[test]
fn a_tied_matrix_may_be_stored_under_its_other_name_or_twice_in_other_dtypes() {
    const TIED: &str = "hf-smollm2-tied";
    let dir = copy(TIED);
    edit_tensors(dir.path(), |tensors| {
        for (name, ..) in tensors.iter_mut().filter(|(name, ..)| name == EMBEDDING) {
            HEAD.clone_into(name);
        }
    });
    assert_same(dir.path(), TIED);
    let hash = |dir: &Path| Checkpoint::open(dir).unwrap().content_hash();
    assert_eq!(hash(dir.path()), hash(&golden(TIED)));

    let dir = copy(TIED);
    edit_tensors(dir.path(), |tensors| {
        let (_, _, shape, bytes) = tensors.iter().find(|(name, ..)| name == EMBEDDING).unwrap();
        let (halves, _) = bytes.as_chunks::<2>();
        let wide = halves.iter().flat_map(|&[low, high]| [0, 0, low, high]); // bf16 is the upper half of f32
        let head = (
            HEAD.to_owned(),
            ::safetensors::Dtype::F32,
            shape.clone(),
            wide.collect(),
        );
        tensors.push(head);
    });
    assert_same(dir.path(), TIED);
    edit_tensor(dir.path(), HEAD, |bytes| bytes[0] = 1);
    let message = refusal(dir.path());
    assert!(
        message.contains("has a `lm_head.weight` that is not its embedding"),
        "{message}"
    );
}

#[test]
fn zeros_that_are_all_in_the_middle_are_a_symmetric_grid() {
    // AWQ stores every zero; 8 is that of a grid around 0.
    let dir = copy("awq-4bit-g32-gemm");
    let spread = Checkpoint::open(dir.path()).unwrap().schemes();
    edit_tensors(dir.path(), |tensors| {
        for (_, _, _, bytes) in tensors
            .iter_mut()
            .filter(|(name, ..)| name.ends_with(".qzeros"))
        {
            bytes.fill(0x88);
        }
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let schemes = checkpoint.schemes();
    assert_eq!(schemes.len(), spread.len());
    assert!(
        schemes
            .values()
            .all(|scheme| scheme.weight == Grid::symmetric(4, Some(32)))
    );
    for spec in parameter_specs(checkpoint.config()) {
        if let StoredWeight::OnGrid(weight) = checkpoint.weight(&spec).unwrap() {
            assert_eq!((weight.scaling.zeros, weight.scaling.biases), (None, None));
        }
    }
    // One zero elsewhere, in any weight, and the grid has zeros.
    edit_tensor(dir.path(), "model.layers.1.mlp.down_proj.qzeros", |bytes| {
        bytes[3] = 0x89;
    });
    assert_eq!(Checkpoint::open(dir.path()).unwrap().schemes(), spread);

    // GPTQ whose config allows any zero.
    let dir = with_setting(GPTQ, "/sym", json!(false));
    assert_eq!(
        Checkpoint::open(dir.path()).unwrap().schemes(),
        Checkpoint::open(&golden(GPTQ)).unwrap().schemes()
    );
    assert_same(dir.path(), GPTQ);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one folder, changed step by step")]
fn biases_of_the_middle_code_are_a_symmetric_grid() {
    const MLX: &str = "mlx-4bit-g32";
    let dir = copy(MLX);
    let module = "model.layers.0.mlp.up_proj";
    let mut values = None;
    edit_tensors(dir.path(), |tensors| {
        let scales = tensors
            .iter()
            .find(|(name, ..)| *name == format!("{module}.scales"))
            .unwrap();
        let (halves, _) = scales.3.as_chunks::<2>();
        let scales: Vec<f32> = halves
            .iter()
            .map(|&le| half::bf16::from_le_bytes(le).to_f32().abs())
            .collect();
        let of = |factor: f32| -> Vec<u8> {
            let numbers = scales
                .iter()
                .map(|scale| half::bf16::from_f32(factor * scale));
            numbers.flat_map(half::bf16::to_le_bytes).collect()
        };
        for (name, _, _, bytes) in tensors.iter_mut() {
            match name.strip_prefix(module) {
                Some(".biases") => *bytes = of(-8.0),
                Some(".scales") => *bytes = of(1.0),
                _ => {}
            }
        }
        values = Some(scales);
    });
    let scales = values.unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let specs = parameter_specs(checkpoint.config());
    let spec = specs
        .iter()
        .find(|spec| spec.name == format!("{module}.weight"))
        .unwrap();
    let schemes = checkpoint.schemes();
    let around_0 = schemes
        .iter()
        .filter(|(_, scheme)| scheme.weight == Grid::symmetric(4, Some(32)));
    assert_eq!(
        around_0.map(|(id, _)| *id).collect::<Vec<_>>(),
        [spec.id],
        "the others are as MLX chose them"
    );
    let StoredWeight::OnGrid(weight) = checkpoint.weight(spec).unwrap() else {
        panic!("on its grid")
    };
    assert_eq!(
        (&weight.scaling.zeros, &weight.scaling.biases),
        (&None, &None)
    );
    // The same numbers, bit for bit, as by the formula of MLX.
    let got = checkpoint.values(spec).unwrap();
    for ((code, got), scale) in weight
        .codes
        .iter()
        .zip(&got)
        .zip(scales.iter().flat_map(|scale| [scale; 32]))
    {
        assert_eq!(
            got.to_bits(),
            ((code + 8.0) * scale - 8.0 * scale).to_bits()
        );
    }
}
