//! Zeros in the files of an export, bit for bit, after everything that may come between pruning and them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use alambic::data::TokenRows;
use alambic::formats::{ExportDtype, Format};
use alambic::model::{Architecture, Part};
use alambic::passes::{PassPlan, PruneMethod, PrunePlan};
use alambic::pruning::{Pattern, Zeros};
use alambic::student::AdapterPlan;
use alambic::student::Student;
use alambic::tensors::to_vec;
use alambic::train::FitPlan;
use safetensors::{Dtype, SafeTensors};

use super::exporting::{self, exported};
use super::passes::{int, qat, run};
use super::tiny::{config, fit_plan, random_decoder, random_rows};

/// By parameter name, whether each weight is masked.
type Masked = BTreeMap<String, Vec<bool>>;

fn pruned(pattern: Pattern, rows: &TokenRows) -> (Student, Masked) {
    let plan = PassPlan::Prune(PrunePlan {
        method: PruneMethod::Wanda,
        zeros: Zeros::Pattern { pattern },
        calibration_tokens: 64,
    });
    let student = run(&plan, Student::new(random_decoder(config(), 5)), rows);
    let masked: Masked = student
        .masks
        .iter()
        .map(|(&id, mask)| {
            let mask = to_vec(mask);
            let name = Architecture::Llama.family().name_of(id);
            (name, mask.iter().map(|kept| *kept == 0.0).collect())
        })
        .collect();
    assert_eq!(masked.len(), 7);
    for (name, masked) in &masked {
        for neighbours in masked.chunks(pattern.width()) {
            let num_zeros = neighbours.iter().filter(|masked| **masked).count();
            assert_eq!(num_zeros, pattern.num_zeros(), "{name}");
        }
    }
    (student, masked)
}

fn write(format: Format, dtype: ExportDtype, student: &Student, rows: &TokenRows, dir: &Path) {
    exported(&exporting::plan(format, dtype), student, rows, dir).unwrap();
}

/// Whether each weight of a tensor is stored as 0: no bit set in a float, the code of 0 in packed integers of 4 bits.
fn stored_zeros(file: &SafeTensors<'_>, name: &str) -> Vec<bool> {
    if let Ok(packed) = file.tensor(&name.replace(".weight", ".weight_packed")) {
        assert_eq!(packed.dtype(), Dtype::I32);
        let (words, []) = packed.data().as_chunks::<4>() else {
            panic!("{name} has whole words")
        };
        let codes = words.iter().flat_map(|word| {
            let word = u32::from_le_bytes(*word);
            (0..8).map(move |place| (word >> (4 * place)) & 15)
        });
        return codes.map(|code| code == 8).collect();
    }
    let floats = file.tensor(name).unwrap();
    let width = floats.dtype().bitsize() / 8;
    let is_zero = |float: &[u8]| float.iter().all(|byte| *byte == 0);
    floats.data().chunks(width).map(is_zero).collect()
}

/// Every masked weight is zero in the file; of the others at most `num_others`.
fn assert_stored(when: &str, dir: &Path, masked: &Masked, num_others: usize) {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut others = 0;
    for (name, masked) in masked {
        let zeros = stored_zeros(&file, name);
        assert_eq!(zeros.len(), masked.len(), "{when}: {name}");
        for (idx, (zero, masked)) in zeros.iter().zip(masked).enumerate() {
            assert!(
                *zero || !masked,
                "{when}: {name}[{idx}] is masked and not 0"
            );
            others += usize::from(*zero && !masked);
        }
    }
    assert!(others <= num_others, "{when}: {others} other zeros");
}

#[test]
fn zeros_are_bit_exact_in_files_after_an_adapter_was_merged_and_after_training_on_a_grid() {
    let rows = random_rows(16, &[16, 16, 16, 16, 16, 7], 6);
    for pattern in [Pattern::TwoOfFour, Pattern::FourOfEight] {
        let (student, masked) = pruned(pattern, &rows);
        let adapted = PassPlan::Distill(Box::new(FitPlan {
            adapter: Some(AdapterPlan {
                rank: 2,
                alpha: 4.0,
                targets: Part::PROJECTIONS.to_vec(),
            }),
            ..fit_plan()
        }));
        let merged = run(&adapted, student.clone(), &rows);
        let trained = run(
            &PassPlan::Distill(Box::new(fit_plan())),
            merged.clone(),
            &rows,
        );
        let quantized = run(&qat(int(4, Some(16))), trained.clone(), &rows);
        let (plain, packed) = (Format::HuggingFace, Format::CompressedTensors);
        let num_rounded = 1000; // small weights round to 0, too: about every seventh of those that stay
        for (when, student, format, num_others) in [
            ("pruned", &student, plain, 0),
            ("merged", &merged, plain, 0),
            ("trained", &trained, plain, 0),
            ("on a grid", &quantized, plain, num_rounded),
            ("packed", &quantized, packed, num_rounded),
        ] {
            for dtype in [ExportDtype::F32, ExportDtype::Bf16] {
                let dir = tempfile::tempdir().unwrap();
                write(format, dtype, student, &rows, dir.path());
                let folder = match format {
                    Format::HuggingFace => "huggingface",
                    _ => "compressed-tensors",
                };
                assert_stored(when, &dir.path().join(folder), &masked, num_others);
            }
        }
    }
}
