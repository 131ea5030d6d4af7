//! Scales that are trained with the weights: their slopes are PyTorch's, and no stop changes where they end.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicBool;

use alambic::kernels::grid::{Grid, Levels, Scaling};
use alambic::model::{DecoderConfig, LayerType};
use alambic::passes::{
    Activations, NumberType, PassPlan, QuantizeMethod, QuantizePlan, SchemePlan, apply,
};
use alambic::student::{STUDENT_FILE, Student};
use alambic::tensors::to_vec;
use alambic::train::{FitPlan, RateSchedule};
use serde::Deserialize;

use super::golden::{self, assert_close};
use super::tiny::{config, context, device, fit_plan, random_decoder, random_rows, tensor};

#[derive(Deserialize)]
struct Inputs {
    shape: [usize; 2],
    groups: usize,
    weight: Vec<f32>,
    slope: Vec<f32>,
    scales: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct Slopes {
    weight: Vec<f64>,
    of_weight: Vec<f64>,
    of_scale: Vec<f64>,
}

#[test]
fn weights_and_slopes_on_given_scales_equal_those_of_pytorch() {
    let golden = golden::read::<Inputs, BTreeMap<String, Slopes>>("learned_scales.json");
    let inputs = &golden.inputs;
    let [rows, columns] = inputs.shape;
    assert_eq!(golden.expected.len(), 5);
    for (kind, want) in &golden.expected {
        let levels = match kind.as_str() {
            "int2" => Levels::Symmetric { bits: 2 },
            "int3" => Levels::Symmetric { bits: 3 },
            "int4" => Levels::Symmetric { bits: 4 },
            "ternary" => Levels::Ternary,
            _ => Levels::Stretched,
        };
        let grid = Grid {
            levels,
            group_size: Some(columns / inputs.groups),
        };
        let weight = || tensor(inputs.weight.clone(), inputs.shape);
        let scales = tensor(inputs.scales[kind].clone(), [rows, inputs.groups]);
        let scaling = || -> Scaling<3> { Grid::kept(scales.clone()) };
        assert_eq!(
            scaling().scales.try_into_vec_as::<f32>().unwrap(),
            inputs.scales[kind],
            "{kind}: exact in both halves"
        );
        let on_grid = grid.round(weight(), scaling());
        let mut codes: Vec<f32> = on_grid.codes.try_to_vec_as().unwrap();
        codes.sort_by(f32::total_cmp);
        codes.dedup();
        let all: &[f32] = match kind.as_str() {
            "int2" => &[-2.0, -1.0, 0.0, 1.0],
            "int3" => &[-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0],
            "int4" => &codes.clone(),
            "stretched" => &[-3.0, -1.0, 1.0, 3.0],
            _ => &[-1.0, 0.0, 1.0],
        };
        assert_eq!(codes, all, "{kind}");
        let values = on_grid.scaling.values(on_grid.codes).reshape(inputs.shape);
        assert_close(kind, &to_vec(&values), &want.weight, golden.tolerance);
        let slope = tensor(inputs.slope.clone(), inputs.shape);
        let (of_weight, of_scale) = grid.slopes(weight(), &scaling(), slope);
        assert_close(kind, &to_vec(&of_weight), &want.of_weight, golden.tolerance);
        assert_close(kind, &to_vec(&of_scale), &want.of_scale, golden.tolerance);
        assert!(
            want.of_weight.contains(&0.0),
            "{kind}: some weights are out of reach"
        );
    }
}

fn plan(number: NumberType, bits: u32, start_step: usize) -> PassPlan {
    PassPlan::Quantize(QuantizePlan {
        method: QuantizeMethod::Qat(Box::new(FitPlan {
            steps: 6,
            ema: Some(0.5),
            save_every: 1,
            keep_states: 100,
            start_step,
            ..fit_plan()
        })),
        scheme: SchemePlan {
            bits,
            group_size: Some(8),
            number,
            symmetric: true,
            activations: Activations::None,
        },
        overrides: vec![],
        embedding: None,
        output: None,
        sensitivity: None,
        learn_scales: true,
    })
}

fn student(layer_repeats: usize) -> Student {
    let config = DecoderConfig {
        num_hidden_layers: 2,
        layer_types: vec![LayerType::Full; 2],
        ..config()
    };
    Student {
        layer_repeats,
        ..Student::new(random_decoder(config, 5))
    }
}

#[test]
fn learned_scales_move_and_end_the_same_from_any_state() {
    let rows = random_rows(16, &[16, 16, 9, 16, 16, 16], 6);
    for (number, bits, layer_repeats, start_step) in [
        (NumberType::Int, 3, 1, 0),
        (NumberType::Ternary, 2, 2, 0),
        (NumberType::Stretched, 2, 1, 0),
        (NumberType::Int, 3, 2, 2),
        (NumberType::Stretched, 2, 1, 5),
    ] {
        let plan = plan(number, bits, start_step);
        let dir = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let run = || {
            let context = context(dir.path(), &rows, &stop);
            apply(&plan, student(layer_repeats), &context).unwrap()
        };
        let file = |student: &Student| {
            let dir = tempfile::tempdir().unwrap();
            student.save(dir.path()).unwrap();
            fs::read(dir.path().join(STUDENT_FILE)).unwrap()
        };
        let whole = run();
        assert_eq!(whole.scales.len(), 14);
        let mut fitted = student(layer_repeats);
        fitted.schemes = whole.schemes.clone();
        fitted.learn_scales();
        for (name, learned) in &whole.scales {
            let first = to_vec(&fitted.scales[name].scales());
            let pairs = to_vec(&learned.scales()).into_iter().zip(first);
            let mut ratios = pairs.map(|(scale, first)| scale / first);
            assert!(
                ratios.all(|ratio| ratio != 1.0 && (0.8..1.2).contains(&ratio)),
                "{name:?}"
            );
        }
        for num_updates in (1..6).rev() {
            for later in num_updates + 1..=6 {
                let _ = fs::remove_file(dir.path().join(format!("state-{later:010}.safetensors")));
            }
            assert!(
                file(&run()) == file(&whole),
                "{number:?} from {num_updates}, on its grid from {start_step}"
            );
        }

        let saved = tempfile::tempdir().unwrap();
        whole.save(saved.path()).unwrap();
        let loaded = Student::load(saved.path(), &device()).unwrap();
        let pairs = loaded.effective().parameters();
        let unrolled = whole.unrolled();
        assert_eq!(unrolled.scales.len(), 14 * layer_repeats);
        for other in [whole.effective(), unrolled.effective()] {
            for ((spec, got), (_, want)) in pairs.iter().zip(other.parameters()) {
                assert_eq!(to_vec(got), to_vec(&want), "{}", spec.name);
            }
        }
    }
}

#[test]
fn before_its_start_a_grid_changes_nothing_and_scales_begin_where_the_weights_are_by_then() {
    let rows = random_rows(16, &[16, 16, 9, 16, 16, 16], 6);
    let stop = AtomicBool::new(false);
    let trained = |plan: &PassPlan| {
        let dir = tempfile::tempdir().unwrap();
        apply(plan, student(1), &context(dir.path(), &rows, &stop)).unwrap()
    };
    let steps = |steps: usize, start_step: usize| {
        let PassPlan::Quantize(mut plan) = plan(NumberType::Int, 2, start_step) else {
            panic!("a pass that quantises");
        };
        let QuantizeMethod::Qat(fit) = &mut plan.method else {
            panic!("a pass that trains");
        };
        (fit.steps, fit.ema, fit.schedule) = (steps, None, RateSchedule::Constant);
        plan
    };
    let quantized = |num, start| trained(&PassPlan::Quantize(steps(num, start)));
    let QuantizeMethod::Qat(float) = steps(3, 0).method else {
        panic!("a pass that trains");
    };
    let float = trained(&PassPlan::Distill(float));
    let late = quantized(4, 3);
    // The last step alone was on the grid: at a rate of 1e-2 no weight has moved further.
    for ((spec, late), (_, float)) in late
        .decoder
        .parameters()
        .iter()
        .zip(float.decoder.parameters())
    {
        let gaps = to_vec(late).into_iter().zip(to_vec(&float));
        let largest = gaps.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!((1e-4..0.05).contains(&largest), "{}: {largest}", spec.name);
    }
    let mut fitted = Student {
        schemes: late.schemes.clone(),
        ..float
    };
    fitted.learn_scales();
    for (name, learned) in &late.scales {
        assert_eq!(
            to_vec(&learned.first()),
            to_vec(&fitted.scales[name].scales()),
            "{name:?}"
        );
        // One step of AdamW moves a factor by the learning rate, and not by the many that went before.
        let ratios = to_vec(&learned.scales())
            .into_iter()
            .zip(to_vec(&learned.first()));
        let largest = ratios
            .map(|(now, first)| (now / first - 1.0).abs())
            .fold(0.0, f32::max);
        assert!((5e-3..1.05e-2).contains(&largest), "{name:?}: {largest}");
    }
    let early = quantized(4, 0);
    let of = |student: &Student| to_vec(&student.decoder.parameters()[2].1);
    assert!(
        of(&early) != of(&late),
        "the grid was on from the beginning"
    );
}
