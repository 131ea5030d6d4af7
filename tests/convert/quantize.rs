//! What `quantize` writes.

use std::fs;
use std::path::Path;

use crate::common::{Workshop, folders};
use crate::tests::{assert_same_weights, gguf_in, words};

const RECIPE: &str = "\
name: one
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, tokenizer: { file: teacher/tokenizer.json } }
student: { checkpoint: teacher }
passes: [quantize: { method: round-to-nearest, bits: 3, group_size: channel, symmetric: false }]
export: { formats: [compressed-tensors] }
";

fn bytes(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("model.safetensors")).unwrap()
}

#[test]
fn quantising_is_what_a_recipe_of_one_pass_does() {
    let workshop = Workshop::new();
    workshop.write("one.yaml", RECIPE.as_bytes());
    workshop.done(&["run", "one.yaml"]);
    let want = workshop.folder("out/one", "02-export");
    let want = bytes(&want.join("compressed-tensors"));
    let line =
        "quantize teacher --method round-to-nearest --bits 3 --group-size channel --asymmetric";
    let found = workshop.done(&words(&format!("{line} --json"))).json();
    assert_eq!(found["out"], "teacher-round-to-nearest");
    let got = workshop.path("teacher-round-to-nearest");
    assert!(bytes(&got) == want, "other bytes than the recipe's");
    let number = |key: &str| found["quantized"][key].as_f64().unwrap();
    // On a small text, rounding may lower the loss by chance.
    let added = number("loss_after_nats") - number("loss_before_nats");
    assert!(added != 0.0 && added.abs() < 0.1, "{found}");
    assert!(
        number("kl_nats") > 0.0 && number("top1_agreement") < 1.0,
        "{found}"
    );
    let before = found["size_before_bytes"].as_u64().unwrap();
    assert!(found["export"]["size_bytes"].as_u64().unwrap() < before);
    let card = fs::read_to_string(got.join("README.md")).unwrap();
    for told in [
        &format!("{line} --format compressed-tensors\n"),
        "| weights | loss (nats) | KL (nats) | top-1 (%) |",
        "| before | ",
        "int3 asymmetric, one scale per row",
    ] {
        assert!(card.contains(told), "{told}: {card}");
    }

    let text = "--out again --text text/validation.txt --sequence-length 32";
    let told = workshop.done(&words(&format!("{line} {text}"))).stdout;
    assert!(told.starts_with("loss on "), "{told}");
    assert!(told.contains(" nats ("), "{told}");
    let again = bytes(&workshop.path("again"));
    assert!(again == want, "a text decides nothing of a rounding");
    assert!(folders(&workshop.path(""), "unfinished-").is_empty());
}

#[test]
fn what_calibrates_reads_the_text_and_is_kept_if_the_export_fails() {
    let workshop = Workshop::new();
    let line = "quantize teacher --method gptq --bits 3 --group-size 16 --text text/train.txt --sequence-length 32 \
                --set quantize.calibration_tokens=1k --out made";
    let strict = format!(
        "{line} --format huggingface --set export.max_rounding_kl=1e-15 --set export.max_logit_difference=1e-15"
    );
    let needles = [
        "differs from the student in memory",
        "nothing was published; write `export.dtype: f32` to round less",
        "note: finished work is kept in `unfinished-made",
    ];
    workshop.fails(&words(&strict), 1, &needles);
    assert!(!workshop.path("made").exists());
    let partial = workshop.folder("", "unfinished-made").join("quantize");
    assert!(
        fs::read_dir(partial).unwrap().count() > 0,
        "layers are kept"
    );

    let found = workshop.done(&words(&format!("{line} --json"))).json();
    assert_eq!(found["quantized"]["measured_on_calibration_text"], false);
    assert!(folders(&workshop.path(""), "unfinished-").is_empty());
    let card = fs::read_to_string(workshop.path("made/README.md")).unwrap();
    let told = "- calibration text: ";
    assert!(
        card.contains(told) && card.contains(" tokens of `train.txt`"),
        "{card}"
    );
    let whole = workshop.done(&words(&line.replace("--out made", "--out whole")));
    assert!(whole.stdout.contains("loss on "), "{}", whole.stdout);
    let same = bytes(&workshop.path("made")) == bytes(&workshop.path("whole"));
    assert!(same, "going on from kept layers gives other bytes");
}

#[test]
fn weights_that_are_all_zero_survive() {
    let workshop = Workshop::new();
    let bytes = fs::read(workshop.path("teacher/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let header = 8 + usize::try_from(length).unwrap();
    let mut zeros = bytes[..header].to_vec();
    zeros.resize(bytes.len(), 0);
    workshop.write("teacher/model.safetensors", &zeros);
    let line = "quantize teacher --method round-to-nearest --group-size 16 --out packed --json";
    let found = workshop.done(&words(line)).json();
    let kl = found["quantized"]["kl_nats"].as_f64().unwrap();
    assert!(kl.abs() < 1e-6, "{found}");
    assert_same_weights(&workshop.path("packed"), &workshop.path("teacher"));
    workshop.done(&words("export packed --format gguf --out made"));
    let made = gguf_in(&workshop.path("made"));
    assert_same_weights(&made, &workshop.path("teacher"));
}
