use super::*;
use crate::checkpoint::Checkpoint;
use crate::gguf::GgufFile;
use crate::kernels::grid::Grid;
use crate::model::{Architecture, RopeScaling, parameter_specs};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::of_model(&golden(name)).unwrap()
}

/// Writes the weights of a golden folder, with one type for all matrices.
fn export(
    name: &str,
    kind: WrittenType,
    change: impl FnOnce(&mut DecoderConfig),
) -> Result<(tempfile::TempDir, PathBuf), WriteError> {
    let source = Checkpoint::open(&golden(name)).unwrap();
    let mut config = source.config().clone();
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    let model = GgufModel {
        name,
        config: &config,
        types: BlockTypes {
            linear: kind,
            embedding: kind,
            output: kind,
        },
        tokenizer: &tokenizer(name),
        template_dir: Some(&golden(name)),
        generation: source.generation(),
        license: None,
    };
    let weight = |spec: &ParameterSpec| source.values(spec).unwrap();
    let path = write_model(dir.path(), &model, weight, |_| None)?;
    Ok((dir, path))
}

#[test]
fn tensors_equal_those_of_the_reference_writer_byte_for_byte() {
    for (name, kind) in [
        ("hf-llama-q4_0", WrittenType::Q4_0),
        ("hf-llama-q4_1", WrittenType::Q4_1),
        ("hf-llama-q8_0", WrittenType::Q8_0),
    ] {
        let (_dir, path) = export("hf-llama", kind, |_| ()).unwrap();
        assert_eq!(
            path.file_name().unwrap(),
            format!("hf-llama-{}.gguf", kind.name()).as_str()
        );
        let got = GgufFile::open(&path).unwrap();
        let want = GgufFile::open(&golden(&format!("gguf/{name}.gguf"))).unwrap();
        assert_eq!(got.content_hash(), want.content_hash(), "{name}");
    }
}

#[test]
fn keys_equal_those_of_the_reference_writer() {
    let (_dir, path) = export("hf-llama", WrittenType::Q8_0, |_| ()).unwrap();
    let got = GgufFile::open(&path).unwrap();
    let want = GgufFile::open(&golden("gguf/hf-llama-q8_0.gguf")).unwrap();
    let mut num_keys = 0;
    for (key, value) in want.metadata() {
        if key == "tokenizer.ggml.tokens" || key == "tokenizer.ggml.merges" {
            assert_eq!(got.texts(key).unwrap(), want.texts(key).unwrap());
        } else if key == "tokenizer.ggml.token_type" {
            assert_eq!(got.unsigneds(key).unwrap(), want.unsigneds(key).unwrap());
        } else {
            assert_eq!(got.value(key), Some(value), "{key}");
        }
        num_keys += 1;
    }
    assert!(num_keys > 24, "{num_keys}");
}

#[test]
fn models_of_every_family_read_back_as_they_were() {
    for name in [
        "hf-gemma",
        "hf-gemma2",
        "hf-gemma3",
        "hf-llama",
        "hf-llama3-rope",
        "hf-mistral",
        "hf-olmo2",
        "hf-phi3",
        "hf-qwen2-tied",
        "hf-qwen3-tied",
        "hf-smollm2-tied",
        "hf-smollm3",
    ] {
        for kind in [WrittenType::F32, WrittenType::Bf16, WrittenType::Q8_0] {
            let (_dir, path) = export(name, kind, |_| ()).unwrap();
            let (source, written) = (
                Checkpoint::open(&golden(name)).unwrap(),
                Checkpoint::open(&path).unwrap(),
            );
            let mut want = source.config().clone();
            if want.architecture == Architecture::Mistral {
                want.architecture = Architecture::Llama; // its name in llama.cpp
            }
            assert_eq!(*written.config(), want, "{name}");
            let types = BlockTypes {
                linear: kind,
                embedding: kind,
                output: kind,
            };
            for spec in parameter_specs(source.config()) {
                let want = stored(&spec, source.values(&spec).unwrap(), types, source.config());
                assert_eq!(
                    written.values(&spec).unwrap(),
                    want,
                    "{name}: {}",
                    spec.name
                );
                if kind == WrittenType::F32
                    && added_to_gains(spec.kind(), source.config()).is_none()
                {
                    assert_eq!(want, source.values(&spec).unwrap());
                }
            }
        }
    }
}

#[test]
fn a_window_that_llama_cpp_does_not_compute_bounds_the_context() {
    use crate::model::LayerType;
    let (_dir, path) = export("hf-mistral", WrittenType::F32, |config| {
        config.sliding_window = Some(48);
        config.layer_types.fill(LayerType::Sliding);
    })
    .unwrap();
    let written = Checkpoint::open(&path).unwrap();
    assert_eq!(written.config().max_position_embeddings, 48);
}

#[test]
fn factors_of_rotary_frequencies_stand_in_two_tensors_and_are_read_again() {
    let long = RopeScaling::LongRope {
        short_factor: (0..16_u8)
            .map(|pair| 1.0 + f32::from(pair) / 10.0)
            .collect(),
        long_factor: (0..16_u8).map(|pair| 1.0 + f32::from(pair) / 3.0).collect(),
        attention_factor: 1.25,
        original_max_position_embeddings: 64,
    };
    let change = |config: &mut DecoderConfig| config.rope.scaling = long.clone();
    let (_dir, path) = export("hf-llama", WrittenType::F32, change).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let kind = file.text("llama.rope.scaling.type").unwrap();
    assert_eq!(kind, Some("longrope"));
    let written = Checkpoint::open(&path).unwrap();
    assert_eq!(written.config().rope.scaling, long);
}

#[test]
fn codes_and_scales_of_the_grid_are_what_the_blocks_hold() {
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let source = Checkpoint::open(&golden("hf-llama")).unwrap();
    for (bits, kind) in [(4, WrittenType::Q4_0), (8, WrittenType::Q8_0)] {
        let grid = Grid::symmetric(bits, Some(32));
        let quantize = |spec: &ParameterSpec| {
            let data = burn::tensor::TensorData::new(source.values(spec).unwrap(), spec.shape);
            let weight = burn::tensor::Tensor::from_data(data, &burn::tensor::Device::flex());
            (
                OnGrid::from(&grid.quantize(weight.clone())),
                grid.fake_quantize(weight),
            )
        };
        let types = BlockTypes {
            linear: kind,
            embedding: WrittenType::F32,
            output: WrittenType::F32,
        };
        assert!(types.holds(ParameterKind::Linear, grid));
        let model = GgufModel {
            name: "grid",
            config: &config,
            types,
            tokenizer: &tokenizer("hf-llama"),
            template_dir: None,
            generation: source.generation(),
            license: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = write_model(
            dir.path(),
            &model,
            |spec| source.values(spec).unwrap(),
            |spec| (spec.kind() == ParameterKind::Linear).then(|| quantize(spec).0),
        )
        .unwrap();
        let written = Checkpoint::open(&path).unwrap();
        for spec in parameter_specs(&config) {
            let want = match spec.kind() {
                ParameterKind::Linear => crate::tensors::to_vec(&quantize(&spec).1),
                _ => source.values(&spec).unwrap(),
            };
            assert_eq!(written.values(&spec).unwrap(), want, "{}", spec.name);
        }
    }
}

#[test]
fn what_llama_cpp_would_compute_otherwise_is_refused() {
    let refused = |name, change: fn(&mut DecoderConfig)| {
        export(name, WrittenType::F32, change)
            .unwrap_err()
            .to_string()
    };
    let message = refused("hf-gemma3", |config| config.query_pre_attn_scalar = 7);
    assert_eq!(
        message,
        "llama.cpp has no key for `query_pre_attn_scalar`, which is 7 in this model, and would compute something else"
    );
    let message = refused("hf-smollm3", |config| config.layers_without_rope.clear());
    assert!(
        message.contains("`no_rope_layers`, which is [1, 1, 1, 1] in this model"),
        "{message}"
    );
    let message = refused("hf-gemma2", |config| config.layer_types.reverse());
    assert!(message.contains("`layer_types`"), "{message}");
    let message = refused("hf-llama", |config| {
        config.rope.scaling = RopeScaling::Yarn {
            factor: 4.0,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position_embeddings: 64,
            truncate: true,
        };
    });
    assert!(message.contains("`rope_scaling`"), "{message}");
}

#[test]
fn a_number_that_blocks_cannot_hold_is_refused() {
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let spec = &tensor_specs(&config)[0];
    let mut weight = vec![0.0; spec.num_elements()];
    weight[3] = 1e6;
    let error = encode(spec, weight, WrittenType::Q4_0, &config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "element 3 of `model.embed_tokens.weight` is 1000000, which Q4_0 does not hold as a finite number"
    );
}

#[test]
fn rows_that_blocks_do_not_divide_are_stored_in_smaller_ones_or_as_halves() {
    let storage = BlockTypes {
        linear: WrittenType::Q4_K,
        embedding: WrittenType::Q4_0,
        output: WrittenType::Q4_0,
    };
    for (columns, linear, embedding) in [
        (512, WrittenType::Q4_K, WrittenType::Q4_0),
        (96, WrittenType::Q8_0, WrittenType::Q4_0),
        (40, WrittenType::F16, WrittenType::F16),
    ] {
        for (kind, want) in [
            (ParameterKind::Linear, linear),
            (ParameterKind::Embedding, embedding),
            (ParameterKind::Bias, WrittenType::F32),
        ] {
            assert_eq!(storage.kind(kind, columns), want, "{columns}");
        }
    }
}
