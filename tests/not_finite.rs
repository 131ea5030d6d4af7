//! Numbers that are none, through the program itself: damaged weights are named wherever a checkpoint is loaded, and
//! weights that are finite but far too large are blamed where they are at fault.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;

    use alambic::student::{STUDENT_FILE, Student};
    use burn::tensor::Device;
    use safetensors::SafeTensors;

    use crate::common::Workshop;

    /// Numbers of a tensor of f32 become others, in the file where they are.
    fn change(workshop: &Workshop, file: &str, tensor: &str, of: impl Fn(usize, f32) -> f32) {
        let mut bytes = fs::read(workshop.path(file)).unwrap();
        let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let (start, end) = metadata.info(tensor).unwrap().data_offsets;
        let data = header_bytes + 8;
        let (numbers, _) = bytes[data + start..data + end].as_chunks_mut::<4>();
        for (idx, number) in numbers.iter_mut().enumerate() {
            *number = of(idx, f32::from_le_bytes(*number)).to_le_bytes();
        }
        workshop.write(file, &bytes);
    }

    const TEACHER: &str = "teacher/model.safetensors";
    const EMBEDDING: &str = "model.embed_tokens.weight";

    /// A workshop with a second model, `damaged`, like the teacher but for one number.
    fn with_damaged(tensor: &str, element_idx: usize, value: f32) -> Workshop {
        let workshop = Workshop::new();
        workshop.copy_files(&workshop.path("teacher"), "damaged");
        change(
            &workshop,
            "damaged/model.safetensors",
            tensor,
            |idx, number| {
                if idx == element_idx { value } else { number }
            },
        );
        workshop
    }

    fn words(line: &str) -> Vec<&str> {
        line.split(' ').collect()
    }

    /// A recipe that trains one model beside another.
    fn recipe(teacher: &str, student: &str) -> String {
        format!(
            "name: two\noutput: out\n\
             data: {{ train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, \
             validation_tokens: 320 }}\n\
             teacher: {{ checkpoint: {teacher} }}\ncache: {{ tokens: 640, support: {{ top_k: 8 }} }}\n\
             student: {{ checkpoint: {student} }}\n\
             passes: [{{ distill: {{ steps: 4, tokens_per_step: 64 }} }}]\nexport: {{ formats: [huggingface] }}\n"
        )
    }

    #[test]
    fn a_weight_that_is_no_number_is_named_alike_by_every_command_that_loads_it() {
        let embedding = 4_799; // of the last of 300 tokens
        for (tensor, element_idx, value) in [
            ("model.layers.0.mlp.down_proj.weight", 7, f32::NAN),
            ("model.layers.0.mlp.down_proj.weight", 7, f32::INFINITY),
            (EMBEDDING, embedding, f32::NAN),
        ] {
            let workshop = with_damaged(tensor, element_idx, value);
            for (name, [teacher, student]) in [
                ("teacher.yaml", ["damaged", "teacher"]),
                ("student.yaml", ["teacher", "damaged"]),
            ] {
                workshop.write(name, recipe(teacher, student).as_bytes());
            }
            let told = format!(
                "damaged`: element {element_idx} of `{tensor}` is {value}: the checkpoint is damaged\n  \
                 = help: download the checkpoint again, or fix the program that wrote it"
            );
            for line in [
                "evaluate damaged --text text/validation.txt",
                "evaluate damaged --text text/validation.txt --json",
                "evaluate teacher --text text/validation.txt --teacher damaged",
                "generate damaged --prompt Anne",
                "generate damaged --prompt Anne --json",
                "export damaged --format gguf --out made",
                "quantize damaged --method round-to-nearest --group-size 16 --out made",
                "run teacher.yaml",
                "run student.yaml",
                "cache build teacher.yaml",
                "cache bench teacher.yaml",
            ] {
                workshop.fails(&words(line), 2, &["error[checkpoint]: `", &told]);
            }
            let partial = fs::read_dir(workshop.path("out")).unwrap();
            let captured = partial.filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                let dir = workshop.path("out").join(&name);
                name.to_string_lossy().starts_with("cache") && dir.join("artifact.json").exists()
            });
            assert_eq!(
                captured.count(),
                0,
                "a student is looked at before the capture"
            );
        }
    }

    #[test]
    fn what_a_pass_left_is_looked_at_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let workshop = Workshop::new();
        workshop.done(&["run", "chain.yaml"]);
        let pass = workshop.folder("out/chain", "02-prune");
        let device = Device::flex();
        let student = Student::load(&pass, &device).unwrap();
        let ruined = student.decoder.map(|spec, weight| {
            let is_norm = spec.name == "model.norm.weight";
            if is_norm {
                weight.log().mul_scalar(f32::NAN)
            } else {
                weight
            }
        });
        Student::new(ruined).save(dir.path()).unwrap();
        let error = Student::load(dir.path(), &device).unwrap_err();
        let path = dir.path().join(STUDENT_FILE);
        let want = format!(
            "`{}`: element 0 of `model.norm.weight` is NaN: the checkpoint is damaged",
            path.display()
        );
        assert_eq!(error.to_string(), want);
    }

    /// Weights of the teacher that are finite, and so large that their products are not.
    fn overflow(workshop: &Workshop) {
        for part in ["up_proj", "down_proj"] {
            let tensor = format!("model.layers.0.mlp.{part}.weight");
            change(
                workshop,
                "damaged/model.safetensors",
                &tensor,
                |_, number| number * 1e30,
            );
        }
    }

    #[test]
    fn weights_that_are_finite_and_too_large_are_blamed_and_no_learning_rate() {
        let workshop = with_damaged(EMBEDDING, usize::MAX, 0.0);
        overflow(&workshop);
        let finite = "weights are checked when they are loaded, and are finite";
        for (line, needles) in [
            (
                "evaluate damaged --text text/validation.txt",
                [
                    "error[evaluate/not-finite]: the loss of `damaged` on this text is NaN",
                    finite,
                ],
            ),
            (
                "evaluate damaged --text text/validation.txt --losses losses --json",
                [
                    "error[evaluate/not-finite]: the loss of `damaged` on this text is NaN",
                    finite,
                ],
            ),
            (
                "evaluate teacher --text text/validation.txt --teacher damaged --json",
                [
                    "error[evaluate/not-finite]: the KL from the logits of `damaged` on this text is NaN",
                    finite,
                ],
            ),
            (
                "generate damaged --prompt Anne --json",
                [
                    "error[generate/not-finite]: the model's logits are NaN or infinite after ",
                    finite,
                ],
            ),
        ] {
            workshop.fails(&words(line), 1, &needles);
        }
        assert!(!workshop.path("losses").exists());

        workshop.write("recipe.yaml", recipe("damaged", "teacher").as_bytes());
        let support = "cache.support={samples: 8}";
        let nowhere = "error[cache/not-finite]: the teacher's logits are NaN or infinite in row 0";
        for args in [
            &["run", "recipe.yaml"][..],
            &["run", "recipe.yaml", "--set", support],
        ] {
            workshop.fails(args, 1, &[nowhere, finite]);
        }
        workshop.write("recipe.yaml", recipe("teacher", "damaged").as_bytes());
        let needles = [
            "error[train/not-finite]: the loss is NaN at step 0 of pass 01-distill; no state was saved yet",
            "help: no weight was updated yet, so it is not the learning rate: what the student computes, ",
        ];
        let told = workshop.fails(&["run", "recipe.yaml"], 1, &needles);
        assert!(!told.contains("learning_rate"), "{told}");
    }

    #[test]
    fn a_loss_too_large_for_the_exponential_has_no_perplexity() {
        let workshop = Workshop::new();
        change(&workshop, TEACHER, "model.norm.weight", |_, number| {
            number * 1e5
        });
        let args = ["evaluate", "teacher", "--text", "text/validation.txt"];
        let found = workshop.done(&args).stdout;
        assert!(found.contains("\nperplexity: -\n"), "{found}");
        let found = workshop.done(&[&args[..], &["--json"]].concat()).json();
        let loss = found["loss_nats"].as_f64().unwrap();
        assert!((1e3..1e9).contains(&loss), "{found}");
        assert!(found["perplexity"].is_null(), "{found}");

        workshop.write("recipe.yaml", recipe("teacher", "teacher").as_bytes());
        let passes = "passes=[{ prune: { method: magnitude, sparsity: 0.1 } }]";
        let dtype = "export.dtype=f32";
        let args = ["run", "recipe.yaml", "--set", passes, "--set", dtype];
        let table = workshop.done(&args).stdout;
        let row = table
            .lines()
            .find(|line| line.starts_with("01-prune"))
            .unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[2], "-", "{table}");
        let report = fs::read_to_string(workshop.path("out/two/report.json")).unwrap();
        assert!(
            report.contains("\"perplexity\":null") || report.contains("\"perplexity\": null"),
            "{report}"
        );
    }
}
