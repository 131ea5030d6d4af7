//! Zeros and grids through training, and from training to the exported file.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::checkpoint::Checkpoint;
use alambic::data::TokenRows;
use alambic::formats::{ExportDtype, Format};
use alambic::model::ParameterKind;
use alambic::passes::{
    Activations, NumberType, PassPlan, PruneMethod, PrunePlan, QuantizeMethod, QuantizePlan,
    SchemePlan, apply,
};
use alambic::pruning::Zeros;
use alambic::student::Student;
use alambic::teacher::load_decoder;
use alambic::tensors::to_vec;
use alambic::train::fit::PassContext;

use super::exporting::{self, exported};
use super::tiny::{config, device, fit_plan, random_decoder, random_rows};

fn prune(method: PruneMethod, sparsity: f64) -> PassPlan {
    PassPlan::Prune(PrunePlan {
        method,
        zeros: Zeros::of_rows(sparsity),
        calibration_tokens: 64,
    })
}

pub(crate) const fn int(bits: u32, group_size: Option<usize>) -> SchemePlan {
    SchemePlan {
        bits,
        group_size,
        number: NumberType::Int,
        symmetric: true,
        activations: Activations::None,
    }
}

pub(crate) fn qat(scheme: SchemePlan) -> PassPlan {
    PassPlan::Quantize(QuantizePlan {
        method: QuantizeMethod::Qat(Box::new(fit_plan())),
        scheme,
        overrides: vec![],
        embedding: None,
        output: None,
        sensitivity: None,
        learn_scales: matches!(scheme.number, NumberType::Ternary | NumberType::Stretched),
    })
}

/// Runs a pass in a folder of its own.
pub(crate) fn run(plan: &PassPlan, student: Student, rows: &TokenRows) -> Student {
    let dir = tempfile::tempdir().unwrap();
    let context = PassContext {
        label: plan.name(),
        dir: dir.path(),
        key: "key",
        origin: None,
        begin: None,
        seed: 1,
        rows,
        cache: None,
        teacher: None,
        validation: rows,
        validation_cache: None,
        stop: &AtomicBool::new(false),
        wall_time: 0.0,
    };
    apply(plan, student, &context).unwrap()
}

/// Every masked weight is zero, free and effective; every row of the linear layers has this many zeros in its mask.
pub(crate) fn assert_zeros(when: &str, student: &Student, sparsity: f64) {
    let effective = student.effective().parameters();
    let free = student.decoder.parameters();
    let mut num_masked = 0;
    for ((spec, effective), (_, free)) in effective.into_iter().zip(free) {
        let mask = student.masks.get(&spec.id).map(to_vec);
        assert_eq!(
            mask.is_some(),
            spec.kind() == ParameterKind::Linear,
            "{when}: mask of {}",
            spec.name
        );
        let Some(mask) = mask else { continue };
        let [_, columns] = spec.shape;
        for row in mask.chunks(columns) {
            let zeros = row.iter().filter(|kept| **kept == 0.0).count();
            assert_eq!(
                zeros as f64,
                columns as f64 * sparsity,
                "{when}: {}",
                spec.name
            );
        }
        let (effective, free) = (to_vec(&effective), to_vec(&free));
        for idx in (0..mask.len()).filter(|&idx| mask[idx] == 0.0) {
            num_masked += 1;
            let both = (effective[idx], free[idx]);
            assert_eq!(both, (0.0, 0.0), "{when}: {}[{idx}]", spec.name);
        }
    }
    assert!(num_masked > 0, "{when}: nothing is masked");
}

/// Share of the kept linear weights that are not what they were.
fn moved(before: &Student, after: &Student) -> f64 {
    let pairs = before
        .decoder
        .parameters()
        .into_iter()
        .zip(after.decoder.parameters());
    let linear = pairs.filter(|((spec, _), _)| spec.kind() == ParameterKind::Linear);
    let values: Vec<(f32, f32)> = linear
        .flat_map(|((_, before), (_, after))| {
            to_vec(&before)
                .into_iter()
                .zip(to_vec(&after))
                .collect::<Vec<_>>()
        })
        .filter(|(_, after)| *after != 0.0)
        .collect();
    values
        .iter()
        .filter(|(before, after)| before != after)
        .count() as f64
        / values.len() as f64
}

fn pruned_twice_and_trained(rows: &TokenRows) -> Student {
    let student = Student::new(random_decoder(config(), 5));
    let student = run(&prune(PruneMethod::Wanda, 0.5), student, rows);
    assert_zeros("pruned", &student, 0.5);
    let trained = run(
        &PassPlan::Distill(Box::new(fit_plan())),
        student.clone(),
        rows,
    );
    assert_zeros("pruned, trained", &trained, 0.5);
    assert!(
        moved(&student, &trained) > 0.99,
        "training moves what is kept"
    );

    let student = run(&prune(PruneMethod::Magnitude, 0.75), trained.clone(), rows);
    assert_zeros("pruned again", &student, 0.75);
    for (id, mask) in &student.masks {
        let grown = to_vec(mask).into_iter().zip(to_vec(&trained.masks[id]));
        assert!(
            grown.into_iter().all(|(new, old)| new <= old),
            "{id:?}: a pruned weight came back"
        );
    }
    student
}

#[test]
fn pruned_weights_stay_exactly_zero_through_training_pruning_and_training_on_a_grid() {
    let rows = random_rows(16, &[16, 16, 16, 16, 16, 7], 6);
    let student = pruned_twice_and_trained(&rows);
    for (bits, group_size) in [(4, Some(16)), (8, None)] {
        let quantized = run(&qat(int(bits, group_size)), student.clone(), &rows);
        assert_zeros(&format!("trained on an int{bits} grid"), &quantized, 0.75);
        assert!(
            moved(&student, &quantized) > 0.99,
            "int{bits}: training moves the free weights"
        );
    }
}

/// The folder's weights equal those in memory in every bit but the sign of zero.
pub(crate) fn assert_reads_back(dir: &Path, student: &Student) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let reloaded = load_decoder(&checkpoint, &device()).unwrap();
    let want = student.effective().parameters();
    assert!(want.len() >= 11); // one layer, tied
    for ((spec, want), (_, got)) in want.into_iter().zip(reloaded.parameters()) {
        let (want, got) = (to_vec(&want), to_vec(&got));
        let first = want.iter().zip(&got).position(|(want, got)| want != got);
        assert_eq!(
            first.map(|idx| (idx, got[idx], want[idx])),
            None,
            "{}: place, read back, in memory",
            spec.name
        );
    }
}

/// Grids of every kind, with and without rounded activations, and what is stored beside them.
pub(crate) fn schemes() -> Vec<(SchemePlan, ExportDtype)> {
    let asymmetric = |bits, group_size| SchemePlan {
        symmetric: false,
        ..int(bits, group_size)
    };
    let fp8 = SchemePlan {
        number: NumberType::Fp8,
        ..int(8, None)
    };
    let of = |number| SchemePlan {
        number,
        ..int(2, Some(16))
    };
    let activated = |scheme| SchemePlan {
        activations: Activations::PerToken,
        ..scheme
    };
    vec![
        (int(2, Some(8)), ExportDtype::Bf16),
        (int(3, Some(16)), ExportDtype::F32),
        (int(4, Some(16)), ExportDtype::Bf16),
        (int(4, None), ExportDtype::F32),
        (int(8, Some(16)), ExportDtype::F32),
        (int(8, None), ExportDtype::Bf16),
        (asymmetric(2, Some(16)), ExportDtype::F32),
        (asymmetric(3, None), ExportDtype::Bf16),
        (asymmetric(4, Some(8)), ExportDtype::F32),
        (asymmetric(8, None), ExportDtype::F32),
        (fp8, ExportDtype::F32),
        (of(NumberType::Ternary), ExportDtype::F32),
        (activated(of(NumberType::Stretched)), ExportDtype::F32),
        (activated(fp8), ExportDtype::Bf16),
        (activated(int(4, Some(16))), ExportDtype::F32),
        (activated(int(8, None)), ExportDtype::F32),
    ]
}

#[test]
fn an_export_reads_back_as_the_weights_that_were_trained_on_the_grid() {
    let rows = random_rows(16, &[16, 16, 16, 16, 16, 7], 6);
    let student = pruned_twice_and_trained(&rows);
    for (scheme, dtype) in schemes() {
        let student = run(&qat(scheme), student.clone(), &rows);
        let rounds_inputs = scheme.activations != Activations::None;
        let dir = tempfile::tempdir().unwrap();
        let packed = exporting::plan(Format::CompressedTensors, dtype);
        let verified = exported(&packed, &student, &rows, dir.path()).unwrap();
        // Logits are computed with the rounded activations of the file on one side and those of training on the other.
        assert_eq!(verified.max_logit_difference, 0.0, "{scheme:?}");
        if !rounds_inputs {
            let plain = exporting::plan(Format::HuggingFace, dtype);
            exported(&plain, &student, &rows, dir.path()).unwrap();
        }
        assert_reads_back(&dir.path().join("compressed-tensors"), &student);
        if dtype == ExportDtype::F32 && !rounds_inputs {
            assert_reads_back(&dir.path().join("huggingface"), &student);
        }
    }
}
