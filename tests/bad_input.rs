//! Wrong files: each is refused with exit code 2 before anything is written, and the message says which and what to do.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

    use crate::common::{Workshop, assert_refused, wait_for};

    fn golden(name: &str) -> String {
        format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    /// A copy of the teacher in `bad/` with a changed weights file.
    fn with_weights(workshop: &Workshop, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        workshop.copy_files(&workshop.path("teacher"), "bad");
        let bytes = fs::read(workshop.path("teacher/model.safetensors")).unwrap();
        workshop.write("bad/model.safetensors", &change(bytes));
    }

    /// The folder is refused as a teacher, as a student and by the commands that read a checkpoint.
    fn assert_bad_checkpoint(workshop: &Workshop, needle: &str) {
        for set in ["teacher.checkpoint=bad", "student={checkpoint: bad}"] {
            let needles = [
                "error[checkpoint/unreadable]",
                needle,
                "--> command line:1:",
            ];
            assert_refused(workshop, &[set], &needles);
        }
        workshop.fails(&["inspect", "bad"], 2, &[needle]);
        workshop.fails(&["generate", "bad", "--prompt", "a"], 2, &[needle]);
        let text = ["evaluate", "bad", "--text", "text"];
        workshop.fails(&text, 2, &[needle]);
        let teacher = ["evaluate", "teacher", "--text", "text", "--teacher", "bad"];
        workshop.fails(&teacher, 2, &[needle]);
    }

    #[test]
    fn a_run_larger_than_the_memory_is_refused_unless_told() {
        let workshop = Workshop::new();
        let vast = [
            "chain.yaml",
            "--set",
            "distill.tokens_per_step=3276800000",
            "--set",
            "distill.micro_batch=1048576",
            "--set",
            "student.architecture.intermediate_size=32768",
        ];
        let needles = [
            "error[run/memory]: stage `03-distill` needs about ",
            " TiB, but this machine has ",
            "--> command line:",
            "help: write a smaller `micro_batch` or `gradient_checkpointing: true`, or run with `--over-memory` to ignore this estimate",
        ];
        workshop.fails(&[&["run"][..], &vast].concat(), 2, &needles);
        assert!(!workshop.path("out").exists());
        let plan = workshop.done(&[&["plan"][..], &vast].concat()).stdout;
        assert!(
            plan.contains(": `run` will refuse without `--over-memory`"),
            "{plan}"
        );
        let plan = workshop.done(&["plan", "chain.yaml"]).stdout;
        assert!(plan.contains("\npeak memory: about "), "{plan}");
        assert!(!plan.contains("will refuse"), "{plan}");

        let mut told = workshop.start(&[&["run", "--over-memory"][..], &vast].concat());
        wait_for("the output", || workshop.path("out").exists());
        told.kill().unwrap();
        told.wait().unwrap();
    }

    #[test]
    fn losses_that_cannot_be_kept_are_told_of_before_the_work_and_leave_what_is_there() {
        let workshop = Workshop::new();
        workshop.write("kept/losses", b"mine");
        let args = [
            "evaluate",
            "absent",
            "--text",
            "text/validation.txt",
            "--losses",
            "kept/losses",
        ];
        workshop.fails(&args, 2, &["absent"]);
        let mut to = args;
        to[1] = "teacher";
        to[5] = "kept";
        workshop.fails(&to, 1, &["kept: ", "directory"]);
        to[5] = "kept/losses";
        let teacher = [&to[..], &["--teacher", "absent"]].concat();
        workshop.fails(&teacher, 2, &["absent"]);
        assert_eq!(fs::read(workshop.path("kept/losses")).unwrap(), b"mine");
    }

    #[test]
    fn a_path_that_does_not_exist_is_underlined() {
        let workshop = Workshop::new();
        for (set, told) in [
            (
                "data.train=[text/absent.txt]",
                "`train` names no file or folder",
            ),
            (
                "data.validation=[absent]",
                "`validation` names no file or folder",
            ),
            (
                "teacher.checkpoint=absent",
                "`checkpoint` names no model folder or `.gguf` file",
            ),
            (
                "student={checkpoint: absent}",
                "`checkpoint` names no model folder or `.gguf` file",
            ),
            ("data.tokenizer={file: absent.json}", "`file` names no file"),
        ] {
            assert_refused(&workshop, &[set], &[told, "not found", "^^^^^^"]);
        }
        let needle = "`teacher` has neither `model.safetensors` nor `model.safetensors.index.json`";
        fs::remove_file(workshop.path("teacher/model.safetensors")).unwrap();
        workshop.fails(&["inspect", "teacher"], 2, &[needle]);
    }

    #[test]
    fn vocabularies_that_differ_are_told_with_both_sizes() {
        let workshop = Workshop::new();
        let other = golden("hf-llama");
        let student = format!("student={{checkpoint: {other}}}");
        let told = "error[student/vocabulary]: the student has 320 tokens, but the teacher has 300";
        assert_refused(&workshop, &[&student], &[told, "must share one tokenizer"]);

        let tokenizer = format!("data.tokenizer={{file: {other}/tokenizer.json}}");
        let told =
            "error[data/vocabulary]: the tokenizer has 320 tokens, but the teacher knows 300";
        assert_refused(
            &workshop,
            &[&tokenizer],
            &[told, "use the teacher's own tokenizer"],
        );
    }

    #[test]
    fn a_tokenizer_beyond_a_student_that_learns_alone_is_refused_and_does_not_panic() {
        let workshop = Workshop::new();
        let recipe = |tokenizer: &str| {
            let text = format!(
                "name: alone\noutput: out\n\
                 data: {{ train: [text], validation: [text], sequence_length: 32, tokenizer: {tokenizer} }}\n\
                 student: {{ checkpoint: teacher }}\npasses: [distill: {{ steps: 2, tokens_per_step: 64 }}]\nexport: {{ dtype: f32 }}\n"
            );
            workshop.write("alone.yaml", text.as_bytes());
        };
        recipe(&format!(
            "{{ file: {}/tokenizer.json }}",
            golden("hf-llama")
        ));
        let told =
            "error[data/vocabulary]: the tokenizer has 320 tokens, but the student knows 300";
        let help = "help: use the student's own tokenizer";
        workshop.fails(
            &["run", "alone.yaml"],
            2,
            &[told, help, "--> alone.yaml:3:"],
        );
        recipe("{ train: { vocab_size: 301 } }");
        let told = "the tokenizer has 301 tokens, but the student knows 300";
        workshop.fails(
            &["run", "alone.yaml"],
            2,
            &[told, help, "--> alone.yaml:3:"],
        );
        assert!(!workshop.path("out").exists());
        recipe("{ file: teacher/tokenizer.json }");
        workshop.done(&["run", "alone.yaml"]);
    }

    #[test]
    fn a_group_size_that_does_not_divide_names_the_layer() {
        let workshop = Workshop::new();
        let told = "error[quantize/uneven-groups]: `group_size` 24 does not divide the 16 columns of \
                    `model.layers.0.self_attn.q_proj.weight`";
        for student in [
            "student={checkpoint: teacher}",
            "student={from_teacher: {layers: [0]}}",
        ] {
            let overrides = [student, "quantize.group_size=24"];
            let help = "help: use a divisor, or `channel`";
            assert_refused(&workshop, &overrides, &[told, "leaves 16 over", help]);
        }
        // 32 divides the columns of `down_proj` and of no other layer.
        let overrides = ["student={checkpoint: teacher}", "quantize.group_size=32"];
        assert_refused(
            &workshop,
            &overrides,
            &["`group_size` 32 does not divide the 16 columns"],
        );
    }

    #[test]
    fn a_student_of_more_than_its_teacher_has_is_refused_at_its_key() {
        let workshop = Workshop::new();
        for (parts, told) in [
            (
                "layers: [0, 1]",
                "layer 1 does not exist: the teacher has 1",
            ),
            (
                "highest_influence: 2",
                "`highest_influence` is 2, but the teacher has 1",
            ),
            (
                "hidden_size: 17",
                "`hidden_size` is 17, but the teacher has 16",
            ),
            (
                "intermediate_size: 48",
                "`intermediate_size` is 48, but the teacher has 32",
            ),
            (
                "num_key_value_heads: 2",
                "`num_key_value_heads` is 2, but the teacher has 1",
            ),
        ] {
            let student = format!("student={{from_teacher: {{{parts}}}}}");
            assert_refused(&workshop, &[&student], &[told, "^ ", "--> command line:1:"]);
        }
        // The sizes that are left decide which groups divide.
        let overrides = [
            "student={from_teacher: {hidden_size: 12}}",
            "quantize.group_size=16",
        ];
        let told = "`group_size` 16 does not divide the 12 columns of";
        assert_refused(&workshop, &overrides, &[told]);
    }

    #[test]
    fn a_width_by_which_transformers_would_count_other_rotary_factors_is_refused() {
        let workshop = Workshop::new();
        fs::remove_dir_all(workshop.path("teacher")).unwrap();
        let phi = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/hf-phi3");
        workshop.copy_files(phi.as_ref(), "teacher");
        let whole = "student={checkpoint: teacher}";
        let shrunk = |sizes| format!("passes.0={{shrink: {{{sizes}}}}}");
        let part = |sizes| format!("student={{from_teacher: {{{sizes}}}}}");
        for (sets, id, told) in [
            (
                [part("hidden_size: 96"), String::new()],
                "student/width",
                "96 dimensions over 4 query heads do not give the head size 32",
            ),
            (
                [whole.to_owned(), shrunk("num_key_value_heads: 1")],
                "shrink/size",
                "128 dimensions over 2 query heads do not give the head size 32",
            ),
            (
                [
                    whole.to_owned(),
                    shrunk("parameters: 0.8, along: [hidden_size]"),
                ],
                "shrink/size",
                "over 4 query heads do not give the head size 32",
            ),
        ] {
            let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
            let sets: Vec<&str> = sets.into_iter().filter(|set| !set.is_empty()).collect();
            let id = format!("error[{id}]");
            let needles = [&id, told, "help: keep 32 dimensions for each query head"];
            assert_refused(&workshop, &sets, &needles);
        }
        // Half of both is as wide a head.
        let half = part("hidden_size: 64, num_key_value_heads: 1");
        workshop.done(&["plan", "chain.yaml", "--set", &half]);
    }

    #[test]
    fn an_adapter_wider_than_its_weight_is_refused() {
        let workshop = Workshop::new();
        let overrides = ["passes.0.distill.adapter={rank: 9, targets: [q_proj, v_proj]}"];
        let told = "error[distill/rank]: `rank` is 9, but `model.layers.0.self_attn.v_proj.weight` has rank 8";
        assert_refused(&workshop, &overrides, &[told, "help: write at most 8"]);
    }

    #[test]
    fn hidden_states_of_layers_that_are_not_there_are_refused_at_their_key() {
        let workshop = Workshop::new();
        let help = "help: write `[student, teacher]` with layers from 0 to 0 and from 0 to 0";
        for (pass, layers, told) in [
            (
                "passes.0.distill",
                "[[0, 0], [1, 0]]",
                "pair 2 of `layers` names layer 1 of the student, which has 1",
            ),
            (
                "passes.3.quantize",
                "[[0, 3]]",
                "pair 1 of `layers` names layer 3 of the teacher, which has 1",
            ),
        ] {
            let set = format!(
                "{pass}.losses={{forward_kl: 1, hidden_mse: {{weight: 1, layers: {layers}}}}}"
            );
            let told = format!("error[losses/layers]: {told}");
            let place = "^^^^^^ past the last layer";
            assert_refused(&workshop, &[&set], &[&told, place, help]);
        }
    }

    #[test]
    fn a_truncated_weights_file_is_refused_by_name() {
        let workshop = Workshop::new();
        // Cut before anything, in the header, and one byte before the end.
        with_weights(&workshop, |_| Vec::new());
        let told = "bad/model.safetensors` (0 bytes) is not a whole safetensors file";
        assert_bad_checkpoint(&workshop, told);
        with_weights(&workshop, |bytes| bytes[..100].to_vec());
        assert_bad_checkpoint(&workshop, " bytes, but the file has 100");
        with_weights(&workshop, |bytes| bytes[..bytes.len() - 1].to_vec());
        assert_bad_checkpoint(&workshop, "is not a whole safetensors file");
    }

    #[test]
    fn an_oversized_header_is_refused_and_never_allocated() {
        let workshop = Workshop::new();
        for length in [u64::MAX, 1 << 40] {
            with_weights(&workshop, |mut bytes| {
                bytes[..8].copy_from_slice(&length.to_le_bytes());
                bytes
            });
            let told = format!("bad/model.safetensors` takes {length} bytes, but the file has ");
            assert_bad_checkpoint(&workshop, &told);
        }
    }

    #[test]
    fn a_weight_of_another_dtype_or_shape_is_refused_by_name() {
        let workshop = Workshop::new();
        let replaced = |bytes: &[u8], dtype: Dtype, shape: Vec<usize>| {
            let file = SafeTensors::deserialize(bytes).unwrap();
            let data = vec![0; dtype.bitsize() / 8 * shape.iter().product::<usize>()];
            let tensors = file.iter().map(|(name, tensor)| {
                let tensor = if name == "model.norm.weight" {
                    TensorView::new(dtype, shape.clone(), &data).unwrap()
                } else {
                    tensor
                };
                (name, tensor)
            });
            serialize(tensors, None).unwrap()
        };
        with_weights(&workshop, |bytes| replaced(&bytes, Dtype::I64, vec![16]));
        let told = "`model.norm.weight` must be F32 or F16 or BF16, but is I64";
        assert_bad_checkpoint(&workshop, told);
        with_weights(&workshop, |bytes| replaced(&bytes, Dtype::F32, vec![17]));
        let told = "`model.norm.weight` must have shape [16], but has [17]";
        assert_bad_checkpoint(&workshop, told);
    }

    #[test]
    fn a_missing_shard_of_a_checkpoint_is_named_with_a_tensor_it_holds() {
        let workshop = Workshop::new();
        workshop.copy_files(Path::new(&golden("hf-llama-sharded")), "bad");
        workshop.done(&["inspect", "bad"]);
        fs::remove_file(workshop.path("bad/model-00002-of-00004.safetensors")).unwrap();
        let told = "bad/model-00002-of-00004.safetensors` is missing; it holds `model.layers.0.";
        assert_bad_checkpoint(&workshop, told);
    }

    #[test]
    fn text_without_text_is_refused_with_the_key_to_change() {
        let workshop = Workshop::new();
        workshop.write("text/empty.txt", b"");
        workshop.write("text/blank.jsonl", b"{\"text\": \" \"}\n");
        for (split, file) in [
            ("train", "empty.txt"),
            ("validation", "empty.txt"),
            ("train", "blank.jsonl"),
        ] {
            let set = format!("data.{split}=[text/{file}]");
            let told = format!("error[data]: {split} text: no text in `");
            let help = format!("help: name files with text or conversations in `data.{split}`");
            let args = ["run", "chain.yaml", "--set", &set];
            workshop.fails(&args, 2, &[&told, file, &help]);
        }
        // The least text there is, a letter, gives two positions: the letter and the end.
        workshop.write("text/short.txt", b"a");
        let set = "data.validation=[text/short.txt]";
        let ran = workshop.done(&["run", "chain.yaml", "--set", set]);
        assert!(
            ran.stderr.contains(" training and 2 validation tokens"),
            "{}",
            ran.stderr
        );
        let folders = crate::common::folders(&workshop.path("out/chain"), "0");
        assert_eq!(
            folders.len(),
            6,
            "the refused texts left no stage: {folders:?}"
        );
    }

    #[test]
    fn a_plan_refuses_what_the_texts_begin_with_as_a_run_does_and_neither_leaves_a_folder() {
        let workshop = Workshop::new();
        let rows = "{\"messages\": []}\n".repeat(200);
        workshop.write("text/rows.jsonl", rows.as_bytes());
        workshop.write("text/table.jsonl", b"PAR1\x15\x04\x15");
        workshop.write("text/empty.txt", b"");
        workshop.write("more/a.txt", b"some text");
        workshop.write("more/table.csv", b"some,text");
        for (file, told) in [
            (
                "rows.jsonl",
                "rows.jsonl:1: `messages` has no turns; the same on 199 more lines of this file",
            ),
            (
                "table.jsonl",
                "table.jsonl: a Parquet file, not text; let its name end with `.parquet`",
            ),
            (
                "empty.txt",
                "empty.txt`: 1 file of text or data, none with text",
            ),
        ] {
            let set = format!("data.train=[text/{file}]");
            assert_refused(
                &workshop,
                &[&set],
                &["error[data]: train text: ", told, "--> command line:1:"],
            );
        }
        let set = "data.validation=[more]";
        let told = "note: 1 file in `";
        let passed_over = "more` is passed over, neither `.txt` nor `.jsonl`: `table.csv`";
        let plan = workshop.done(&["plan", "chain.yaml", "--set", set]).stdout;
        assert!(plan.contains(told) && plan.contains(passed_over), "{plan}");

        // A fault that only the whole text shows: there is nothing to keep, so there is no folder.
        let late = format!(
            "{}{{\"text\":",
            "{\"text\": \"a good line\"}\n".repeat(5_000)
        );
        workshop.write("text/late.jsonl", late.as_bytes());
        let set = "data.train=[text/late.jsonl]";
        workshop.done(&["plan", "chain.yaml", "--set", set]);
        workshop.fails(
            &["run", "chain.yaml", "--set", set],
            2,
            &["late.jsonl:5001: not JSON at column 8"],
        );
        assert!(!workshop.path("out").exists());
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_with_path_and_byte() {
        let workshop = Workshop::new();
        workshop.write("text/latin.txt", b"caf\xe9");
        let args = ["run", "chain.yaml", "--set", "data.train=[text]"];
        let help = "help: fix these places or remove the files from `data.train`";
        let needles = ["text/latin.txt", "not UTF-8 at byte 3 of the file", help];
        workshop.fails(&args, 2, &needles);
        assert!(!workshop.path("out/chain/01-distill").exists());
    }
}
