//! What `export` writes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use alambic::checkpoint::Checkpoint;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::{Workshop, folders};
use crate::tests::{assert_same_weights, gguf_in, words};

const TEXT: &str = "--text text/validation.txt --sequence-length 32 --json";

fn evaluated(workshop: &Workshop, checkpoint: &str) -> Value {
    let line = format!("evaluate {checkpoint} {TEXT}");
    workshop.done(&words(&line)).json()
}

#[test]
fn a_checkpoint_leaves_in_each_plain_format_and_comes_back_bit_for_bit() {
    let workshop = Workshop::new();
    let line = "export teacher --format gguf --dtype f32 --json";
    let found = workshop.done(&words(line)).json();
    assert_eq!(found["out"], "teacher-gguf");
    assert_eq!(found["export"]["max_logit_difference"], 0.0);
    let positions = found["export"]["positions"].as_u64().unwrap();
    assert!(positions > 1000, "{found}");
    let file = gguf_in(&workshop.path("teacher-gguf"));
    assert_same_weights(&file, &workshop.path("teacher"));

    let line = format!(
        "export {} --format huggingface --dtype f32 --out back/again",
        file.display()
    );
    let told = workshop.done(&words(&line)).stdout;
    assert!(told.starts_with("back/again: huggingface, "), "{told}");
    assert_same_weights(&workshop.path("back/again"), &workshop.path("teacher"));
    let card = fs::read_to_string(workshop.path("back/again/README.md")).unwrap();
    for told in [
        "This made it:\n\n```sh\nalambic export teacher-F32.gguf --format huggingface --dtype f32\n```",
        "- `teacher-F32`: unknown: check before publishing",
        "## Verified",
        "With MLX",
    ] {
        assert!(card.contains(told), "{told}: {card}");
    }
    assert!(!workshop.path("back/again/recipe.yaml").exists());
    assert!(folders(&workshop.path("back"), "unfinished-").is_empty());
    let again = evaluated(&workshop, "back/again");
    assert_eq!(again, evaluated(&workshop, "teacher"));
}

#[test]
fn a_licence_is_carried_over_from_file_to_file() {
    let workshop = Workshop::new();
    workshop.write(
        "teacher/README.md",
        b"---\nlicense: apache-2.0\n---\n# mine\n",
    );
    workshop.done(&words("export teacher --format gguf --out one"));
    let file = gguf_in(&workshop.path("one")).display().to_string();
    let line = format!("export {file} --format huggingface --out two");
    workshop.done(&words(&line));
    for made in ["one", "two"] {
        let card = fs::read_to_string(workshop.path(made).join("README.md")).unwrap();
        assert!(card.contains("\nlicense: \"apache-2.0\"\n"), "{card}");
        assert!(card.contains(": apache-2.0\n"), "{card}");
    }
}

#[test]
fn a_pass_of_a_run_leaves_with_its_own_tokenizer_or_the_one_that_is_named() {
    let workshop = Workshop::new();
    let sets = "run chain.yaml --set export.formats=[huggingface]";
    workshop.done(&words(sets));
    let pass = workshop.folder("out/chain", "03-distill");
    let pass = pass.display();
    let line = format!("export {pass} --format huggingface --dtype f32 --out mine");
    workshop.done(&words(&line));
    fs::rename(workshop.path("mine"), workshop.path("own")).unwrap();
    // Older versions wrote no tokenizer beside a pass.
    let pass = workshop.folder("out/chain", "03-distill");
    fs::remove_file(pass.join("tokenizer.json")).unwrap();
    let needles = ["has no tokenizer", "help: name one with `--tokenizer`"];
    workshop.fails(&words(&line), 2, &needles);
    assert!(!workshop.path("mine").exists());
    workshop.done(&words(&format!("{line} --tokenizer teacher")));
    for file in [
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
    ] {
        let [mine, own] = ["mine", "own"].map(|dir| fs::read(workshop.path(dir).join(file)));
        assert!(mine.unwrap() == own.unwrap(), "{file}");
    }
    let report = fs::read(workshop.path("out/chain/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let want = report["passes"][3]["loss_nats"].as_f64().unwrap();
    let found = evaluated(&workshop, "mine");
    let got = found["loss_nats"].as_f64().unwrap();
    assert!((got - want).abs() < 1e-6, "{got} {want}");
}

/// A teacher whose rows fall into groups of 32, which the workshop's do not.
const WIDE: &str = "\
name: wide
output: made
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, tokenizer: { file: teacher/tokenizer.json } }
student: { architecture: { num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2, intermediate_size: 64 } }
passes:
  - distill: { steps: 10, tokens_per_step: 256, learning_rate: 1e-2 }
  - quantize: { method: round-to-nearest, bits: 4 }
export: { formats: [compressed-tensors] }
";

#[test]
fn a_grid_goes_from_container_to_container_bit_for_bit() {
    let workshop = Workshop::new();
    workshop.write("wide.yaml", WIDE.as_bytes());
    for (bits, kind) in [(4, "Q4_0"), (8, "Q8_0")] {
        let sets = format!(
            "--set quantize.bits={bits} --set quantize.group_size=32 --set output=made{bits}"
        );
        workshop.done(&words(&format!("run wide.yaml {sets}")));
        let packed = workshop.folder(&format!("made{bits}/wide"), "03-export");
        let packed = packed.join("compressed-tensors");
        let line = format!("export {} --format gguf --json", packed.display());
        let found = workshop
            .done(&words(&format!("{line} --out q{bits}")))
            .json();
        let file = gguf_in(&workshop.path(&format!("q{bits}")));
        let name = file.display().to_string();
        assert!(name.ends_with(&format!("-{kind}.gguf")), "{name}");
        assert_eq!(found["export"]["max_logit_difference"], 0.0);
        assert_same_weights(&file, &packed);

        let back = format!("back{bits}");
        let line = format!("export {name} --format compressed-tensors --out {back}");
        workshop.done(&words(&line));
        assert_same_weights(&workshop.path(&back), &packed);
        let schemes = |dir: &Path| Checkpoint::open(dir).unwrap().schemes();
        assert_eq!(schemes(&workshop.path(&back)), schemes(&packed));

        let line = format!("export {back} --format huggingface --dtype f32 --out plain{bits}");
        workshop.done(&words(&line));
        assert_same_weights(&workshop.path(&format!("plain{bits}")), &packed);
    }
}

/// Every tensor of a folder is that of another: dtype, shape and bytes.
fn assert_same_tensors(dir: &Path, other: &Path) {
    let read = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    let (got, want) = (read(dir), read(other));
    let [got, want] = [&got, &want].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let mut names = got.names();
    names.sort_unstable();
    let mut wanted = want.names();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for name in names {
        assert_eq!(
            got.tensor(name).unwrap(),
            want.tensor(name).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn a_grid_that_no_pass_of_a_run_makes_leaves_code_for_code() {
    let workshop = Workshop::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");
    for (source, format) in [
        ("ct-fp8-dynamic", "compressed-tensors"),
        ("ct-w4a8-int", "compressed-tensors"),
        ("mlx-4bit-g32", "mlx"), // biases that are no multiples of their scales
        ("mlx-2bit-g32-tied", "mlx"),
        ("mlx-3bit-g64-tied", "mlx"),
    ] {
        let line = format!(
            "export {golden}{source} --format {format} --tokenizer {golden}hf-llama --out {source} --json"
        );
        let found = workshop.done(&words(&line)).json();
        assert_eq!(found["export"]["max_logit_difference"], 0.0, "{source}");
        assert_same_tensors(&workshop.path(source), &Path::new(golden).join(source));
    }
    let line =
        format!("export {golden}mlx-4bit-g32 --format awq --tokenizer {golden}hf-llama --out awq");
    let needle = "`awq` cannot hold `model.embed_tokens.weight`, int4 with biases, groups of 32: ";
    workshop.fails(&words(&line), 2, &[needle]);
}

#[test]
fn a_stretched_grid_goes_on_from_its_folder() {
    let workshop = Workshop::new();
    let recipe = WIDE.replace("bits: 4", "type: stretched");
    workshop.write("wide.yaml", recipe.as_bytes());
    workshop.done(&words("run wide.yaml"));
    let packed = workshop.folder("made/wide", "03-export");
    let packed = packed.join("compressed-tensors");
    let line = format!(
        "export {} --format compressed-tensors --out on",
        packed.display()
    );
    workshop.done(&words(&line));
    assert_same_tensors(&workshop.path("on"), &packed);
}

#[test]
fn weights_are_spread_over_files_of_a_size_and_stored_as_f16() {
    let workshop = Workshop::new();
    let line = "export teacher --format huggingface --dtype f16";
    let sharded = format!("{line} --set export.max_shard_size=6k --out made");
    workshop.done(&words(&sharded));
    let made = workshop.path("made");
    assert!(!made.join("model.safetensors").exists());
    let index = fs::read(made.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let files: BTreeSet<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
    assert!(files.len() > 1, "{index}");
    assert!(
        files.iter().all(|file| made.join(file).exists()),
        "{files:?}"
    );
    let checkpoint = Checkpoint::open(&made).unwrap();
    let total = index["metadata"]["total_size"].as_u64().unwrap();
    assert_eq!(checkpoint.num_bytes(), total);
    let dtypes: Vec<String> = checkpoint.num_tensors().into_keys().collect();
    assert_eq!(dtypes, ["F16"]);
    let config = fs::read_to_string(made.join("config.json")).unwrap();
    assert!(config.contains("\"float16\""), "{config}");
    workshop.done(&words(&format!("{line} --out whole")));
    assert_same_weights(&made, &workshop.path("whole"));
}

#[test]
fn activations_that_a_format_cannot_round_are_told_of_and_logits_compared_without() {
    let workshop = Workshop::new();
    for source in ["ct-w8a8-int8", "ct-fp8-dynamic"] {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");
        for (format, sets) in [
            ("huggingface", "--dtype f32"),
            ("gguf", "--set export.max_rounding_kl=1"),
        ] {
            let line = format!(
                "export {golden}{source} --format {format} {sets} --tokenizer {golden}hf-llama --out {source}-{format}"
            );
            let ran = workshop.done(&words(&line));
            let note = format!("note: `{format}` cannot record rounded activations");
            assert!(ran.stderr.contains(&note), "{}", ran.stderr);
        }
        let plain = workshop.path(&format!("{source}-huggingface"));
        assert_same_weights(&plain, &Path::new(golden).join(source));
    }
}

#[test]
fn scales_that_float16_alone_holds_leave_as_awq_in_float16() {
    let workshop = Workshop::new();
    workshop.write("wide.yaml", WIDE.as_bytes());
    workshop.done(&words(
        "run wide.yaml --set quantize.group_size=32 --set export.dtype=f16 --set output=made",
    ));
    let packed = workshop.folder("made/wide", "03-export");
    let packed = packed.join("compressed-tensors").display().to_string();
    workshop.done(&words(&format!(
        "export {packed} --format awq --dtype f16 --out awq"
    )));
    assert_same_weights(&workshop.path("awq"), Path::new(&packed));
    let made = Checkpoint::open(&workshop.path("awq")).unwrap();
    let name = "model.layers.0.mlp.up_proj.scales";
    let (dtype, _) = made.files().unwrap().info(name).unwrap();
    assert_eq!(dtype.to_string(), "F16");
}

#[test]
fn a_grid_that_no_blocks_hold_is_told_of() {
    let workshop = Workshop::new();
    workshop.write("wide.yaml", WIDE.as_bytes());
    let run = "run wide.yaml --set quantize.bits=8 --set export.formats=[gguf] --set output=made";
    let ran = workshop.done(&words(run));
    let note = "`gguf` has no blocks for int8, one scale per row: ";
    assert!(
        ran.stderr
            .contains(&format!("note: {note}projections are stored plain")),
        "{}",
        ran.stderr
    );
    let packed =
        "--set export.formats=[compressed-tensors] --set quantize.bits=8 --set output=packed";
    workshop.done(&words(&format!("run wide.yaml {packed}")));
    let packed = workshop
        .folder("packed/wide", "03-export")
        .join("compressed-tensors");
    let line = format!("export {} --format gguf --out plain", packed.display());
    let ran = workshop.done(&words(&line));
    assert!(ran.stderr.contains(note), "{}", ran.stderr);
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

#[test]
fn a_file_that_differs_too_much_is_told_with_the_key_that_rounds_most() {
    let workshop = Workshop::new();
    for (sets, help) in [
        ("", "write `export.dtype: f32` to round less"),
        (
            "--set export.gguf_type=q8_0",
            "write `export.gguf_embedding_type: f16` and `export.gguf_type: f16`",
        ),
        (
            "--dtype f32 --set export.gguf_type=q4_0",
            "write `export.gguf_type: q8_0` to round less",
        ),
        (
            "--dtype f32 --set export.gguf_type=q4_k",
            "write `export.gguf_type: q8_0` to round less",
        ),
        (
            "--dtype f32 --set export.gguf_embedding_type=q4_0",
            "write `export.gguf_embedding_type: q8_0` to round less",
        ),
    ] {
        let limits = "--set export.max_rounding_kl=1e-15 --dtype f16";
        let limits = if sets.contains("--dtype") {
            "--set export.max_rounding_kl=1e-15"
        } else {
            limits
        };
        let line = format!("export {GOLDEN}/hf-llama-256 --format gguf {sets} {limits} --out made");
        let advice = format!("nothing was published; {help}");
        let limit = ", or raise the limit, `export.max_rounding_kl`";
        workshop.fails(
            &words(&line),
            1,
            &["gguf differs from the student in memory", &advice, limit],
        );
    }
}

#[test]
fn projections_in_blocks_bring_their_embedding_into_q8_0_and_its_cost_is_told() {
    let workshop = Workshop::new();
    let line = format!("export {GOLDEN}/hf-llama-256 --format gguf --set export.gguf_type=q4_0");
    let found = workshop
        .done(&words(&format!("{line} --out small --json")))
        .json();
    let kl = found["export"]["embedding_kl_nats"].as_f64().unwrap();
    assert!(
        kl > 0.0 && kl < found["export"]["kl_nats"].as_f64().unwrap(),
        "{found}"
    );
    assert_eq!(found["export"]["budget"]["kl"], 0.5);
    let kinds = |dir: &str| {
        Checkpoint::open(&gguf_in(&workshop.path(dir)))
            .unwrap()
            .num_tensors()
    };
    assert_eq!(kinds("small")["Q8_0"], 1, "the tied embedding");
    assert!(!kinds("small").contains_key("BF16"));
    let plain = format!("{line} --set export.gguf_embedding_type=bf16 --out plain --json");
    let found = workshop.done(&words(&plain)).json();
    assert_eq!(found["export"].get("embedding_kl_nats"), None);
    assert_eq!(kinds("plain")["BF16"], 1);

    // A student that is on the grid of the blocks is not rounded, and keeps its embedding.
    workshop.write("wide.yaml", WIDE.as_bytes());
    let run = "run wide.yaml --set quantize.bits=8 --set quantize.group_size=32 --set export.formats=[gguf] --set output=held";
    workshop.done(&words(run));
    let held = workshop.folder("held/wide", "03-export").join("gguf");
    let held = Checkpoint::open(&gguf_in(&held)).unwrap().num_tensors();
    assert!(
        held.contains_key("BF16") && held.contains_key("Q8_0"),
        "{held:?}"
    );
}

#[test]
fn rows_without_whole_blocks_are_counted_and_the_file_is_named_by_most_weights() {
    let workshop = Workshop::new();
    let line =
        format!("export {GOLDEN}/hf-llama --format gguf --set export.gguf_type=q4_k --out made");
    let ran = workshop.done(&words(&line));
    let note = "note: in `gguf`, 12 of 14 projections have rows that are no multiple of 256 and are Q8_0, not Q4_K";
    assert!(ran.stderr.contains(note), "{}", ran.stderr);
    let file = gguf_in(&workshop.path("made"));
    assert!(file.ends_with("hf-llama-Q8_0.gguf"), "{}", file.display());
    let card = fs::read_to_string(workshop.path("made/README.md")).unwrap();
    assert!(card.contains("12 of 14 projections have rows"), "{card}");
}

#[test]
fn a_source_on_a_grid_is_named_wherever_it_is_rounded_again() {
    let workshop = Workshop::new();
    let source = format!("{GOLDEN}/gguf-q4_k_m/model.gguf");
    let note = "note: a second rounding: the weights are on a grid already (Q4_K, Q6_K)";
    let text = "--text text/validation.txt --sequence-length 32";
    for line in [
        format!("quantize {source} --bits 8 {text} --out a"),
        format!("export {source} --format gguf --set export.gguf_type=q8_0 {text} --out b"),
    ] {
        let ran = workshop.done(&words(&line));
        assert!(ran.stderr.contains(note), "{line}: {}", ran.stderr);
    }
    let same = format!("{GOLDEN}/gguf/hf-llama-q4_1.gguf");
    for line in [
        format!("export {source} --format gguf {text} --out c"),
        format!(
            "export {same} --tokenizer {GOLDEN}/hf-llama --format gguf --set export.gguf_type=q4_1 {text} --out d"
        ),
    ] {
        let ran = workshop.done(&words(&line));
        assert!(!ran.stderr.contains("second rounding"), "{}", ran.stderr);
    }
    let recipe = format!(
        "name: again\ndata: {{ train: text/train.txt, validation: text/validation.txt, sequence_length: 32, tokenizer: {{ file: \"{source}\" }} }}\n\
         student: {{ checkpoint: \"{source}\" }}\npasses: [quantize: {{ method: round-to-nearest, bits: 8 }}]\n"
    );
    workshop.write("again.yaml", recipe.as_bytes());
    for command in ["plan", "run"] {
        let ran = workshop.done(&[command, "again.yaml"]);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(told.contains(note), "{command}: {told}");
    }
}
