//! Recipes that must load, and what they load to.

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "a plan holds the numbers as written")]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use alambic::cache::SupportPlan;
    use alambic::data::TokenizerPlan;
    use alambic::diag::Diagnostic;
    use alambic::formats::Format;
    use alambic::loss::Term;
    use alambic::passes::{PassPlan, QuantizeMethod};
    use alambic::plan::{self, Plan};
    use alambic::recipe::{RecipeFaults, Scheduled};
    use alambic::student::{FromTeacherPlan, LayersPlan, StudentSource};
    use alambic::train::FitPlan;

    const FETCHED_TEACHER: &str = "checkpoints/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";

    const MINIMAL: &str = "name: small\ndata: { train: [.], validation: [.] }\nteacher: { checkpoint: . }\n\
                           student: { checkpoint: . }\npasses: [{ distill: { steps: 7 } }]\n";

    fn load_text(text: &str, overrides: &[&str]) -> Result<Plan, RecipeFaults> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.yaml");
        #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
        fs::write(&path, text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        plan::load(&path, &overrides)
    }

    fn fit(pass: &PassPlan) -> &FitPlan {
        match pass {
            PassPlan::Distill(fit) => fit,
            PassPlan::Quantize(plan) => match &plan.method {
                QuantizeMethod::Qat(fit) => fit,
                _ => panic!("a pass that trains"),
            },
            PassPlan::Prune(_) | PassPlan::Shrink(_) => panic!("a pass that trains"),
        }
    }

    #[test]
    fn every_committed_recipe_loads() {
        let folders = ["recipes", "recipes/cookbook"].into_iter();
        let mut paths: Vec<PathBuf> = folders
            .flat_map(|folder| fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
            .collect();
        paths.sort();
        assert_eq!(paths.len(), 13);
        for path in paths {
            // A teacher that is fetched may be absent: the rest of its recipe is checked with one that is committed.
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_fetched = name.starts_with("smollm2-");
            let is_absent = if is_fetched && !Path::new(FETCHED_TEACHER).exists() {
                told_to_fetch(&plan::load(&path, &[]).unwrap_err());
                true
            } else {
                name == "chat.yaml" && !Path::new("checkpoints/chat-teacher").exists() // another recipe makes it
            };
            let other = "teacher.checkpoint=../checkpoints/austen-teacher".to_owned();
            let overrides = Vec::from_iter(is_absent.then_some(other));
            let plan = plan::load(&path, &overrides).unwrap_or_else(|faults| panic!("{faults}"));
            let stem = path.file_stem().unwrap().to_str().unwrap();
            assert!(plan.name.ends_with(stem), "{stem}: {}", plan.name);
        }
    }

    /// The recipe's one fault is that its teacher is not there, and the help says how to get it.
    fn told_to_fetch(told: &RecipeFaults) {
        let text = told.to_string();
        assert_eq!(told.diagnostics.len(), 1, "{text}");
        assert!(text.contains("no-such-path"), "{text}");
        assert!(text.contains("run `scripts/fetch_smollm2.sh`"), "{text}");
    }

    #[test]
    fn an_absent_fetched_teacher_is_told_how_to_get() {
        let text = MINIMAL.replace(
            "{ checkpoint: . }\nstudent",
            "{ checkpoint: checkpoints/smollm2-135m/some.gguf }\nstudent",
        );
        told_to_fetch(&load_text(&text, &[]).unwrap_err());
    }

    #[test]
    fn a_checkpoint_is_a_folder_or_a_gguf_file() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf-q4_k_m");
        let teacher = |path: &Path| {
            load_text(
                MINIMAL,
                &[&format!("teacher.checkpoint={}", path.display())],
            )
        };
        let file = golden.join("model.gguf");
        assert_eq!(teacher(&file).unwrap().teacher.unwrap().checkpoint, file);
        assert!(teacher(&golden).is_ok());
        let told = teacher(&golden.join("expected/logits.safetensors"))
            .unwrap_err()
            .to_string();
        assert!(
            told.contains("`checkpoint` names no model folder or `.gguf` file"),
            "{told}"
        );
    }

    #[test]
    fn a_minimal_recipe_is_completed_with_the_documented_defaults() {
        let plan = load_text(MINIMAL, &[]).unwrap();
        assert_eq!((plan.seed, plan.device.as_str()), (0, "flex"));
        assert!(plan.output.is_absolute() && plan.output.ends_with("checkpoints"));
        assert_eq!(plan.data.tokenizer, TokenizerPlan::Teacher);
        assert_eq!(
            (plan.data.sequence_length, plan.data.validation_tokens),
            (256, None)
        );
        let cache = plan.cache.unwrap();
        assert_eq!(
            (plan.data.train_tokens, cache.support, cache.rows_per_shard),
            (None, SupportPlan::TopK(32), 128)
        );
        assert_eq!(cache.temperatures, [1.0]);
        let fit = fit(&plan.passes[0]);
        assert_eq!(
            (fit.steps, fit.tokens_per_step, fit.micro_batch),
            (7, 4096, 4)
        );
        assert_eq!(
            (fit.warmup_steps, fit.save_every, fit.log_every),
            (1, 50, 10)
        );
        assert_eq!(fit.betas, [0.9, 0.999]);
        assert_eq!(
            [Term::ForwardKl, Term::CrossEntropy].map(|term| fit.losses.weights[term]),
            [Scheduled::Constant(1.0), Scheduled::Constant(0.0)]
        );
        assert_eq!(plan.export.formats, [Format::HuggingFace]);
    }

    #[test]
    fn without_a_teacher_the_default_loss_is_cross_entropy() {
        let text = "name: t\ndata: { train: [.], validation: [.], tokenizer: { train: { vocab_size: 300 } } }\n\
                    student: { architecture: { num_hidden_layers: 1, hidden_size: 64, num_attention_heads: 4, intermediate_size: 96 } }\n\
                    passes: [{ distill: { steps: 60 } }]\n";
        let plan = load_text(text, &[]).unwrap();
        assert_eq!((plan.teacher, plan.cache), (None, None));
        let fit = fit(&plan.passes[0]);
        assert_eq!(
            [Term::ForwardKl, Term::CrossEntropy].map(|term| fit.losses.weights[term]),
            [Scheduled::Constant(0.0), Scheduled::Constant(1.0)]
        );
        assert_eq!(fit.warmup_steps, 3, "a twentieth of the steps");
        let StudentSource::Architecture(sizes) = plan.student.source else {
            panic!("an architecture")
        };
        assert_eq!((sizes.head_dim, sizes.num_key_value_heads), (16, 4));
        assert!(sizes.tie_word_embeddings);
    }

    #[test]
    fn the_group_size_follows_the_bits() {
        let group_size = |keys: &str| {
            let text = MINIMAL.replace("distill: { steps: 7 }", &format!("quantize: {{ {keys} }}"));
            match &load_text(&text, &[]).unwrap().passes[0] {
                PassPlan::Quantize(plan) => plan.scheme.group_size,
                _ => panic!("a quantize pass"),
            }
        };
        assert_eq!(group_size("method: round-to-nearest"), Some(32));
        assert_eq!(group_size("method: round-to-nearest, bits: 8"), None);
        assert_eq!(
            group_size("method: qat, steps: 3, group_size: channel"),
            None
        );
        assert_eq!(
            group_size("method: qat, steps: 3, bits: 8, group_size: 64"),
            Some(64)
        );
    }

    #[test]
    fn overrides_replace_values_of_every_kind() {
        let plan = load_text(
            MINIMAL,
            &[
                "distill.steps=200",
                "passes.0.distill.losses={forward_kl: 0.5, cross_entropy: 0.5}",
                "data.sequence_length=128",
                "cache.tokens=1.5M",
                "name=other",
                "student={from_teacher: {layers: [0, 2]}}",
                "distill.steps=300",
            ],
        )
        .unwrap();
        assert_eq!(
            (plan.name.as_str(), plan.data.sequence_length),
            ("other", 128)
        );
        assert_eq!(plan.data.train_tokens, Some(1_500_000));
        assert_eq!(fit(&plan.passes[0]).steps, 300, "the last one holds");
        assert_eq!(
            fit(&plan.passes[0]).losses.weights[Term::CrossEntropy],
            Scheduled::Constant(0.5)
        );
        assert_eq!(
            plan.student.source,
            StudentSource::FromTeacher(FromTeacherPlan {
                layers: Some(LayersPlan::Layers(vec![0, 2])),
                hidden_size: None,
                intermediate_size: None,
                num_key_value_heads: None,
                calibration_tokens: None,
            })
        );
    }

    #[test]
    fn a_bare_pass_name_reaches_every_pass_of_that_kind() {
        let text = MINIMAL.replace(
            "passes: [",
            "passes: [{ distill: { steps: 1 } }, { prune: { sparsity: 0.1 } }, ",
        );
        let plan = load_text(&text, &["distill.steps=9", "prune.sparsity=0.25"]).unwrap();
        assert_eq!(
            (fit(&plan.passes[0]).steps, fit(&plan.passes[2]).steps),
            (9, 9)
        );
        assert!(
            matches!(&plan.passes[1], PassPlan::Prune(prune) if prune.zeros.sparsity() == 0.25)
        );
    }

    /// Recipes that write keys of every kind.
    fn texts() -> Vec<String> {
        let mut texts = vec![MINIMAL.to_owned()];
        texts.push(MINIMAL.replace(
            "passes: [",
            "cache: { tokens: 3k, temperatures: [2.0, 1.0] }\nseed: 18446744073709551615\npasses: [{ prune: { method: magnitude, sparsity: 0.3 } }, ",
        ).replace("distill: { steps: 7 }", "quantize: { method: qat, bits: 8, steps: 7, temperature: 2.0, save_every: 3 }"));
        texts.push(MINIMAL.replace(
            "passes: [",
            "cache: { temperatures: [4.0, 1.0, 2.0] }\npasses: [{ distill: { steps: 9, schedule: constant, ema: 0.9, decay_embeddings: false } }, ",
        ).replace("distill: { steps: 7 }", "distill: { steps: 100, schedule: warmup_stable_decay, decay_shape: cosine, \
                   temperature: { from: 4.0, to: 1.0, over: 0.3 }, losses: { forward_kl: { from: 0.5, to: 1.0, over: 60, shape: cosine } }, \
                   evaluate_every: 10, early_stop: { patience: 3, min_delta: 0.01 }, keep_states: 5 }"));
        let learned = "quantize: { method: qat, steps: 7, type: stretched, learn_scales: true }";
        texts.push(MINIMAL.replace("distill: { steps: 7 }", learned));
        texts.push(
            fs::read_to_string("recipes/austen-teacher.yaml")
                .unwrap()
                .replace("../datasets/austen/", "."),
        );
        texts.extend(
            [
                "losses: { forward_kl: 0.5, reverse_kl: 1, jsd: { weight: 2, beta: 0.3 }, skew_forward_kl: 1, \
                 skew_reverse_kl: { weight: 1, alpha: 0.2 }, tvd: 0.5, adaptive_kl: 0.25, cross_entropy: { weight: 1, label_smoothing: 0.1 } }",
                "losses: { hidden_mse: { weight: { from: 1.0, to: 0.5, over: 3 }, layers: [[0, 1], [2, 5]] } }",
                "losses: { forward_kl: 1, hidden_mse: 0.25 }",
                "adapter: { rank: 8, targets: [o_proj, up_proj] }",
            ]
            .map(|keys| MINIMAL.replace("steps: 7", &format!("steps: 7, {keys}"))),
        );
        texts.extend(
            [
                "round-to-nearest, type: fp8, activations: per_token",
                "round-to-nearest, clip: true, calibration_tokens: 2k",
                "gptq, bits: 2, symmetric: false, group_size: channel, act_order: false, damping: 0.1",
                "awq-gptq, type: fp8, clip: true, damping: 0.02",
                "awq, type: ternary, overrides: [{ type: stretched, activations: per_token }]",
                "round-to-nearest, bits: 3, overrides: [{ modules: [o_proj, down_proj], bits: 8, activations: per_token }, \
                 { layers: [0, 2], keep: true }, { type: fp8, group_size: 64 }]",
                "gptq, embedding: { bits: 8, group_size: 32 }, output: { type: fp8 }",
                "round-to-nearest, bits: 2, embedding: {}, output: { bits: 3, group_size: channel, symmetric: false }",
            ]
            .map(|keys| {
                let quantize = format!("quantize: {{ method: {keys} }}");
                MINIMAL.replace("distill: { steps: 7 }", &quantize)
            }),
        );
        texts.extend(
            [
                "every: 2",
                "highest_influence: 3, hidden_size: 8",
                "layers: [1], num_key_value_heads: 1, calibration_tokens: 5",
            ]
            .map(|parts| {
                MINIMAL.replace(
                    "student: { checkpoint: . }",
                    &format!("student: {{ from_teacher: {{ {parts} }} }}"),
                )
            }),
        );
        texts
    }

    #[test]
    fn a_resolved_recipe_loads_to_the_same_plan() {
        let mut texts = texts();
        for text in &mut texts {
            *text = text
                .replace("[.train]", "[.]")
                .replace("[.validation]", "[.]");
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("recipe.yaml");
            #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
            fs::write(&path, &text).unwrap();
            let plan = plan::load(&path, &[]).unwrap_or_else(|faults| panic!("{faults}"));
            let folder = fs::canonicalize(dir.path()).unwrap();
            let resolved = plan::resolved_yaml(&plan, &folder);
            #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
            fs::write(&path, &resolved).unwrap();
            let again =
                plan::load(&path, &[]).unwrap_or_else(|faults| panic!("{faults}\n{resolved}"));
            assert_eq!(again, plan, "{resolved}");
        }
    }

    #[test]
    fn a_later_fault_points_at_its_key() {
        let path = Path::new("tests/bad_recipes/overrides.yaml");
        let plan = plan::load(path, &[]).unwrap();
        let fault = Diagnostic::new("preflight/vocabulary", "the vocabularies differ");
        let told = |overrides: &[String], key| {
            plan::fault_at(&plan, overrides, key, "here", fault.clone()).to_string()
        };
        let line = "overrides.yaml:12:24\n   |\n12 |   - prune: { sparsity: 0.5 }\n   |                        ^^^ here";
        assert!(told(&[], "passes.1.prune.sparsity").contains(line));
        let overridden = told(
            &["prune.sparsity=0.6".to_owned()],
            "passes.1.prune.sparsity",
        );
        assert!(overridden.contains("command line:1:22"), "{overridden}");
        let absent = told(&[], "cache.tokens");
        assert!(
            absent.starts_with(
                "error[preflight/vocabulary]: the vocabularies differ\n\nerror: 1 fault"
            ),
            "{absent}"
        );
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark_move_no_span() {
        let text = format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n"));
        assert_eq!(load_text(&text, &[]).unwrap().name, "small");
        let told = load_text(&text.replace("steps: 7", "steps: -7"), &[]).unwrap_err();
        let label = &told.diagnostics[0].labels[0];
        assert_eq!(&told.sources.recipe[label.span.range.clone()], "-7");
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let page = plan::reference_markdown();
        let path = Path::new("docs/recipe.md");
        if fs::read_to_string(path).is_ok_and(|found| found == page) {
            return;
        }
        let proposal = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recipe.md");
        #[expect(
            clippy::disallowed_methods,
            reason = "a proposal for the reader of this failure"
        )]
        fs::write(&proposal, page).unwrap();
        panic!("copy {} to docs/recipe.md", proposal.display());
    }

    #[test]
    fn the_schema_knows_every_key_and_default() {
        let schema = plan::schema();
        let at = |pointer: &str| {
            schema
                .pointer(pointer)
                .unwrap_or_else(|| panic!("{pointer}"))
        };
        assert_eq!(
            at("/properties/data/properties/sequence_length/default"),
            256
        );
        assert_eq!(at("/properties/cache/properties/support/default/top_k"), 32);
        assert_eq!(at("/additionalProperties"), false);
        let pass = "/properties/passes/items/oneOf/3/properties/quantize";
        assert_eq!(
            at(&format!("{pass}/required")),
            &serde_json::json!(["method"])
        );
        assert_eq!(
            at(&format!("{pass}/properties/bits/oneOf/0/enum")),
            &serde_json::json!([2, 3, 4, 8])
        );
        assert_eq!(
            at(&format!("{pass}/properties/learning_rate/exclusiveMinimum")),
            0.0
        );
    }
}
