//! The embedding and the output layer on grids of their own: by every method, through training, disk and exports.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::checkpoint::Checkpoint;
use alambic::data::TokenRows;
use alambic::export::{ExportError, ExportPlan};
use alambic::formats::gguf::GgufPlan;
use alambic::formats::{ExportDtype, Format};
use alambic::gguf::{GgufFile, TensorType};
use alambic::kernels::grid::Grid;
use alambic::model::{Decoder, DecoderConfig, Part, Scheme, WeightId};
use alambic::passes::{
    CalibratedPlan, GptqPlan, NumberType, PassPlan, QuantizeMethod, QuantizePlan, SchemePlan, apply,
};
use alambic::student::{STUDENT_FILE, Student};
use alambic::tensors::to_vec;
use alambic::train::{FitPlan, RateSchedule, fit::PassContext};

use super::exporting;
use super::passes::{assert_reads_back, int, run};
use super::tiny::{bits, config, context, device, fit_plan, random_decoder, random_rows};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The weight of this name.
fn id(name: &str) -> WeightId {
    WeightId::outside(match name {
        EMBEDDING => Part::Embedding,
        _ => Part::Head,
    })
}

/// Rows of whole groups of 32.
fn student(is_tied: bool) -> Student {
    let config = DecoderConfig {
        hidden_size: 32,
        intermediate_size: 64,
        head_dim: 8,
        query_pre_attn_scalar: 8,
        tie_word_embeddings: is_tied,
        ..config()
    };
    Student::new(random_decoder(config, 5))
}

fn rows() -> TokenRows {
    random_rows(16, &[16, 16, 9, 16, 16, 16], 6)
}

const GPTQ: CalibratedPlan = CalibratedPlan {
    awq: false,
    clip: false,
    gptq: Some(GptqPlan {
        act_order: true,
        damping: 0.01,
    }),
    calibration_tokens: 80,
};

const AWQ: CalibratedPlan = CalibratedPlan {
    awq: true,
    clip: true,
    gptq: None,
    ..GPTQ
};

fn qat(fit: FitPlan) -> QuantizeMethod {
    QuantizeMethod::Qat(Box::new(fit))
}

/// Projections on int4; the embedding on int8, an output layer of its own on int4, in groups of 32 alike.
fn plan(method: QuantizeMethod, is_tied: bool) -> QuantizePlan {
    QuantizePlan {
        method,
        scheme: int(4, Some(32)),
        overrides: vec![],
        embedding: Some(int(8, Some(32))),
        output: (!is_tied).then_some(int(4, Some(32))),
        sensitivity: None,
        learn_scales: false,
    }
}

fn weight(decoder: &Decoder, name: &str) -> Vec<f32> {
    let mut parameters = decoder.parameters().into_iter();
    to_vec(&parameters.find(|(spec, _)| spec.name == name).unwrap().1)
}

fn rounded(decoder: &Decoder, name: &str, grid: Grid) -> Vec<f32> {
    let mut parameters = decoder.parameters().into_iter();
    let (_, weight) = parameters.find(|(spec, _)| spec.name == name).unwrap();
    to_vec(&grid.fake_quantize(weight))
}

fn exported(
    student: &Student,
    format: Format,
    gguf: GgufPlan,
    dir: &Path,
) -> Result<f64, ExportError> {
    let plan = ExportPlan {
        max_logit_difference: 1e-4,
        gguf,
        ..exporting::plan(format, ExportDtype::F32)
    };
    let verified = exporting::exported(&plan, student, &rows(), dir)?;
    Ok(verified.max_logit_difference)
}

#[test]
fn every_method_puts_both_on_their_grids_and_mlx_and_gguf_hold_them() {
    let grids = [Grid::symmetric(8, Some(32)), Grid::symmetric(4, Some(32))];
    for is_tied in [false, true] {
        let before = student(is_tied);
        for (method, moves) in [
            (QuantizeMethod::RoundToNearest, false),
            (QuantizeMethod::Calibrated(GPTQ), false),
            (QuantizeMethod::Calibrated(AWQ), false),
            (qat(fit_plan()), true),
        ] {
            let label = format!("{method:?}, tied: {is_tied}");
            let is_calibrated = matches!(method, QuantizeMethod::Calibrated(_));
            let plan = PassPlan::Quantize(plan(method, is_tied));
            let after = run(&plan, before.clone(), &rows());
            let effective = after.effective();
            let is_on_grid = bits(&after.decoder) == bits(&effective);
            assert_eq!(is_on_grid, is_calibrated, "{label}: free weights");
            let names = [EMBEDDING, HEAD].into_iter().zip(grids);
            for (name, grid) in names.take(if is_tied { 1 } else { 2 }) {
                let scheme = Scheme {
                    weight: grid,
                    input: None,
                };
                assert_eq!(after.schemes[&id(name)], scheme, "{label}");
                let source = if moves { &after } else { &before };
                let want = rounded(&source.decoder, name, grid);
                assert!(weight(&effective, name) == want, "{label}: {name}");
                if moves {
                    let first = rounded(&before.decoder, name, grid);
                    assert!(first != want, "{label}: {name} has not been trained");
                }
            }
            let dir = tempfile::tempdir().unwrap();
            after.save(dir.path()).unwrap();
            let loaded = Student::load(dir.path(), &device()).unwrap();
            assert!(bits(&loaded.effective()) == bits(&effective), "{label}");

            for format in [Format::Mlx, Format::Gguf] {
                let gap = exported(&after, format, GgufPlan::default(), dir.path()).unwrap();
                assert_eq!(gap, 0.0, "{label}: {format:?}");
            }
            assert_reads_back(&dir.path().join("mlx"), &after);
            let path = dir.path().join("gguf/tiny-Q4_0.gguf");
            assert_reads_back(&path, &after);
            let file = GgufFile::open(&path).unwrap();
            let kind = |name: &str| file.info(name).map(|info| info.kind);
            assert_eq!(kind("token_embd.weight"), Some(TensorType::Q8_0));
            let head = (!is_tied).then_some(TensorType::Q4_0);
            assert_eq!(kind("output.weight"), head);
        }
    }
}

#[test]
fn layers_are_calibrated_on_what_the_rounded_embedding_gives() {
    let scheme = int(2, Some(32)); // whose values are bf16, so that they stay as they are without a scheme
    let quantized = |student: Student, embedding| {
        let method = QuantizeMethod::Calibrated(GPTQ);
        let plan = QuantizePlan {
            embedding,
            ..plan(method, true)
        };
        run(&PassPlan::Quantize(plan), student, &rows())
    };
    let free = student(true);
    let decoder = free.decoder.map(|spec, weight| match spec.name.as_str() {
        EMBEDDING => Grid::symmetric(2, Some(32)).fake_quantize(weight),
        _ => weight,
    });
    let at_once = quantized(free.clone(), Some(scheme));
    let before = quantized(Student::new(decoder), None);
    assert!(bits(&at_once.decoder) == bits(&before.decoder));
    let plain = quantized(free, None);
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert!(weight(&plain.decoder, name) != weight(&at_once.decoder, name));
}

#[test]
fn a_file_type_that_is_asked_for_rounds_them_again_and_grids_without_blocks_stay_plain() {
    let quantized = |scheme: SchemePlan| {
        let plan = QuantizePlan {
            embedding: Some(scheme),
            ..plan(QuantizeMethod::RoundToNearest, true)
        };
        run(&PassPlan::Quantize(plan), student(true), &rows())
    };
    let kind = |student: &Student, gguf: GgufPlan| {
        let dir = tempfile::tempdir().unwrap();
        let gap = exported(student, Format::Gguf, gguf, dir.path()).unwrap();
        let file = GgufFile::open(&dir.path().join("gguf/tiny-Q4_0.gguf")).unwrap();
        (file.info("token_embd.weight").unwrap().kind, gap == 0.0)
    };
    let asked = GgufPlan {
        embedding: Some(alambic::gguf::WrittenType::Q4_0),
        ..GgufPlan::default()
    };
    let eight = quantized(int(8, Some(32)));
    assert_eq!(kind(&eight, asked), (TensorType::Q4_0, false));
    let whole_rows = quantized(int(8, None));
    let plain = kind(&whole_rows, GgufPlan::default());
    assert_eq!(plain, (TensorType::F32, true));
}

#[test]
fn compressed_tensors_names_an_output_layer_of_its_own_and_refuses_an_embedding() {
    let asymmetric = SchemePlan {
        symmetric: false,
        ..int(3, Some(16))
    };
    let fp8 = SchemePlan {
        number: NumberType::Fp8,
        ..int(8, None)
    };
    for (output, num_groups) in [(int(4, Some(32)), 1), (asymmetric, 2), (fp8, 2)] {
        let plan = QuantizePlan {
            embedding: None,
            output: Some(output),
            ..plan(QuantizeMethod::RoundToNearest, false)
        };
        let student = run(&PassPlan::Quantize(plan), student(false), &rows());
        let dir = tempfile::tempdir().unwrap();
        let format = Format::CompressedTensors;
        let gap = exported(&student, format, GgufPlan::default(), dir.path()).unwrap();
        assert_eq!(gap, 0.0);
        let dir = dir.path().join("compressed-tensors");
        assert_reads_back(&dir, &student);
        let checkpoint = Checkpoint::open(&dir).unwrap();
        assert_eq!(checkpoint.schemes(), student.schemes);
        let json = fs::read(dir.join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let json = &json["quantization_config"];
        assert_eq!(json["ignore"], serde_json::json!([]));
        let groups = json["config_groups"].as_object().unwrap();
        let targets: BTreeSet<&str> = groups
            .values()
            .flat_map(|group| group["targets"].as_array().unwrap())
            .map(|target| target.as_str().unwrap())
            .collect();
        assert_eq!(groups.len(), num_groups);
        let named = ["lm_head", "re:.*lm_head$"];
        assert!(named.iter().any(|name| targets.contains(name)), "{json}");
    }

    let plan = plan(QuantizeMethod::RoundToNearest, true);
    let both = run(&PassPlan::Quantize(plan), student(true), &rows());
    for (format, want) in [
        (
            Format::CompressedTensors,
            "`compressed-tensors` cannot hold `model.embed_tokens.weight`, int8, groups of 32: its engines look up plain embeddings; \
             leave the embedding plain, or write `formats: [mlx]` or `[gguf]`",
        ),
        (
            Format::Awq,
            "`awq` cannot hold `model.embed_tokens.weight`, int8, groups of 32: its engines keep embedding and output matrix plain; \
             leave it plain, or write `formats: [mlx]`",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = exported(&both, format, GgufPlan::default(), dir.path()).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

/// What one step of AdamW adds to each free weight.
fn step(student: &Student, method: impl Fn(Box<FitPlan>) -> PassPlan) -> Vec<(String, Vec<f32>)> {
    let fit = FitPlan {
        steps: 1,
        warmup_steps: 0,
        schedule: RateSchedule::Constant,
        weight_decay: 0.0,
        ..fit_plan()
    };
    let after = run(&method(Box::new(fit)), student.clone(), &rows());
    let pairs = student.decoder.parameters().into_iter();
    pairs
        .zip(after.decoder.parameters())
        .map(|((spec, before), (_, after))| (spec.name, to_vec(&(after - before))))
        .collect()
}

#[test]
fn the_slope_passes_straight_through_the_lookup_and_the_product() {
    for is_tied in [false, true] {
        let free = student(is_tied);
        let plan = |fit: Box<FitPlan>| {
            PassPlan::Quantize(QuantizePlan {
                embedding: Some(int(2, Some(16))),
                output: (!is_tied).then_some(int(3, None)),
                ..plan(QuantizeMethod::Qat(fit), is_tied)
            })
        };
        let schemes = run(&plan(Box::new(fit_plan())), free.clone(), &rows()).schemes;
        // The same weights, but none behind them.
        let on_grids = Student {
            schemes,
            ..free.clone()
        };
        let plain = Student::new(on_grids.effective());
        let moved = step(&free, plan);
        let want = step(&plain, PassPlan::Distill);
        let mut num_moved = 0;
        for ((name, got), (_, want)) in moved.into_iter().zip(want) {
            let gaps = got.iter().zip(&want).map(|(got, want)| (got - want).abs());
            let largest = gaps.fold(0.0, f32::max);
            // Both differ from what was added by a rounding of the sum, of weights below 2.
            assert!(largest < 5e-7, "{name}: {largest}");
            if name == EMBEDDING || name == HEAD {
                num_moved += got.iter().filter(|step| step.abs() > 5e-3).count();
            }
        }
        assert!(num_moved > 320 * 32 / 2, "{num_moved}");
    }
}

#[test]
fn learned_scales_of_both_move_and_a_stopped_pass_ends_the_same_from_any_state() {
    let (rows, stop) = (rows(), AtomicBool::new(false));
    for learn_scales in [false, true] {
        let fit = FitPlan {
            save_every: 1,
            keep_states: 100,
            ..fit_plan()
        };
        let plan = PassPlan::Quantize(QuantizePlan {
            learn_scales,
            ..plan(qat(fit), false)
        });
        let dir = tempfile::tempdir().unwrap();
        let bytes = || {
            let context: PassContext<'_> = context(dir.path(), &rows, &stop);
            let after = apply(&plan, student(false), &context).unwrap();
            let saved = tempfile::tempdir().unwrap();
            after.save(saved.path()).unwrap();
            (after, fs::read(saved.path().join(STUDENT_FILE)).unwrap())
        };
        let (whole, want) = bytes();
        assert_eq!(whole.scales.len(), if learn_scales { 9 } else { 0 });
        for name in [EMBEDDING, HEAD].iter().filter(|_| learn_scales) {
            let scales = &whole.scales[&id(name)];
            assert!(
                to_vec(&scales.scales()) != to_vec(&scales.first()),
                "{name}"
            );
        }
        for num_updates in (1..5).rev() {
            for later in num_updates + 1..=5 {
                let _ = fs::remove_file(dir.path().join(format!("state-{later:010}.safetensors")));
            }
            assert!(bytes().1 == want, "{learn_scales}, from {num_updates}");
        }
    }
}
