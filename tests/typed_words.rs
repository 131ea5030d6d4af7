//! What people type who know other programs, and the word that the message about it names.

#[cfg(test)]
mod tests {
    use alambic::plan;

    /// A recipe without faults, next to `tests/bad_recipes/text`.
    const RECIPE: &str = "\
name: typed
data: { train: [text], validation: [text], tokenizer: { train: { vocab_size: 300 } } }
student: { architecture: { num_hidden_layers: 1, hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 64 } }
passes:
  - distill: { steps: 2, losses: { cross_entropy: 1.0 } }
  - quantize: { method: round-to-nearest }
";

    /// Faults of the recipe with some text in place of another; none is "".
    fn told(from: &str, to: &str) -> String {
        assert!(RECIPE.contains(from), "{from}");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("text")).unwrap();
        std::fs::create_dir_all(dir.path().join("model-small")).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
        for (name, text) in [
            ("text/a.txt", "Anne Elliot."),
            ("typed.yaml", &RECIPE.replacen(from, to, 1)),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        match plan::load(&dir.path().join("typed.yaml"), &[]) {
            Ok(_) => String::new(),
            Err(faults) => faults.to_string(),
        }
    }

    /// What is typed in place of what, and what the help says.
    const TYPED: &[(&str, &str, &str)] = &[
        // Keys of a pass.
        ("steps: 2,", "steps: 2, lr: 1e-3,", "write `learning_rate`"),
        ("steps: 2,", "steps: 2, LR: 1e-3,", "write `learning_rate`"),
        (
            "steps: 2,",
            "steps: 2, learning-rate: 1e-3,",
            "write `learning_rate`",
        ),
        ("steps: 2,", "epochs: 3,", "write `steps`"),
        ("steps: 2,", "max_steps: 3,", "write `steps`"),
        (
            "steps: 2,",
            "steps: 2, batch: 8,",
            "write `tokens_per_step`",
        ),
        (
            "steps: 2,",
            "steps: 2, batch_size: 8,",
            "write `tokens_per_step`",
        ),
        ("steps: 2,", "steps: 2, temp: 2,", "write `temperature`"),
        ("steps: 2,", "steps: 2, warmup: 2,", "write `warmup_steps`"),
        ("steps: 2,", "steps: 2, lora: {},", "write `adapter`"),
        (
            "steps: 2,",
            "steps: 2, grad_clip: 1,",
            "write `max_grad_norm`",
        ),
        ("steps: 2,", "steps: 2, max_grad_norm: off,", "write `none`"),
        (
            "steps: 2,",
            "steps: 2, schedule: wsd,",
            "write `warmup_stable_decay`",
        ),
        (
            "steps: 2,",
            "steps: 2, seq_len: 64,",
            "`sequence_length` is a key of `data`",
        ),
        (
            "steps: 2,",
            "steps: 2, max_length: 64,",
            "`sequence_length` is a key of `data`",
        ),
        (
            "steps: 2,",
            "steps: 2, top_k: 64,",
            "`top_k` is a key of `support`",
        ),
        // Keys elsewhere.
        (
            "validation: [text],",
            "validation: [text], seq_len: 64,",
            "write `sequence_length`",
        ),
        (
            "validation: [text],",
            "validation: [text], max_length: 64,",
            "write `sequence_length`",
        ),
        (
            "validation: [text],",
            "valid: [text],",
            "write `validation`",
        ),
        (
            "name: typed",
            "name: typed\nlr: 1",
            "`learning_rate` is a key of `distill`",
        ),
        ("name: typed", "name: typed\ndevice: gpu", "write `wgpu`"),
        ("name: typed", "name: typed\ndevice: cpu", "write `flex`"),
        (
            "name: typed",
            "name: typed\noutput_dir: x",
            "write `output`",
        ),
        // Passes and terms.
        ("- distill:", "- distil:", "write `distill`"),
        ("- distill:", "- kd:", "write `distill`"),
        ("- quantize:", "- quantise:", "write `quantize`"),
        ("cross_entropy: 1.0", "kl: 1.0", "write `forward_kl`"),
        ("cross_entropy: 1.0", "ce: 1.0", "write `cross_entropy`"),
        ("cross_entropy: 1.0", "mse: 1.0", "write `hidden_mse`"),
        // Words of the quantiser.
        (
            "method: round-to-nearest",
            "method: rtn",
            "write `round-to-nearest`",
        ),
        (
            "method: round-to-nearest",
            "method: RTN",
            "write `round-to-nearest`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, bits: 5 }",
            "write `4` or `8`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, bits: 16 }",
            "write `8`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, bits: 1 }",
            "write `2`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, group_size: -1 }",
            "write `channel`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, groupsize: 32 }",
            "write `group_size`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, type: w4a16 }",
            "write `int`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, wbits: 4 }",
            "write `bits`",
        ),
        (
            "round-to-nearest }",
            "round-to-nearest, sym: true }",
            "write `symmetric`",
        ),
        // The export.
        (
            "name: typed",
            "name: typed\nexport: { formats: [hf] }",
            "write `huggingface`",
        ),
        (
            "name: typed",
            "name: typed\nexport: { formats: [vllm] }",
            "write `compressed-tensors`",
        ),
        (
            "name: typed",
            "name: typed\nexport: { formats: [w4a16] }",
            "write `compressed-tensors`",
        ),
        (
            "name: typed",
            "name: typed\nexport: { formats: [llama.cpp] }",
            "write `gguf`",
        ),
        (
            "name: typed",
            "name: typed\nexport: { dtype: fp16 }",
            "write `f16`",
        ),
        (
            "name: typed",
            "name: typed\nexport: { dtype: bfloat16 }",
            "write `bf16`",
        ),
        (
            "name: typed",
            "name: typed\nexport: { dtype: float32 }",
            "write `f32`",
        ),
        (
            "name: typed",
            "name: typed\nexport: { gguf_type: Q4_K_M }",
            "write `q4_k`",
        ),
        // Paths.
        (
            "train: [text]",
            "train: [txt]",
            "write `text`, which is there",
        ),
        (
            "train: [text]",
            "train: [text/b.txt]",
            "write `text/a.txt`, which is there",
        ),
        (
            "student: { architecture: { num_hidden_layers: 1, hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 64 } }",
            "student: { checkpoint: text/SmolLM2-135M }",
            "write `hf://text/SmolLM2-135M`",
        ),
        (
            "student: { architecture: { num_hidden_layers: 1, hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 64 } }",
            "student: { checkpoint: model-smal }",
            "write `model-small`, which is there",
        ),
    ];

    #[test]
    fn the_help_names_the_word_that_was_meant() {
        assert_eq!(told("name", "name"), "");
        let mut wrong = Vec::new();
        for (from, to, help) in TYPED {
            let told = told(from, to);
            let helps: Vec<&str> = told
                .lines()
                .filter(|line| line.contains("= help: "))
                .collect();
            if !helps.iter().any(|line| line.contains(help)) {
                wrong.push(format!("`{to}`: not `{help}`, but\n{told}"));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} wrong\n{}",
            wrong.len(),
            wrong.join("\n\n")
        );
        assert!(TYPED.len() > 45);
    }

    #[test]
    fn a_whole_number_may_be_a_float_and_a_list_of_one_its_entry() {
        for (from, to) in [
            ("steps: 2,", "steps: 1e3,"),
            ("steps: 2,", "steps: 2.0,"),
            ("train: [text]", "train: text"),
            ("name: typed", "name: typed\nexport: { formats: gguf }"),
            ("name: typed", "name: typed\nseed: 1e3"),
        ] {
            assert_eq!(told(from, to), "", "{to}");
        }
        for (from, to, why) in [
            ("steps: 2,", "steps: 2.5,", "must be a whole number"),
            ("steps: 2,", "steps: 1e300,", "must be a whole number"),
            ("steps: 2,", "steps: -1e3,", "must be a whole number"),
        ] {
            let told = told(from, to);
            assert!(told.contains(why), "{to}: {told}");
        }
    }

    #[test]
    fn one_key_of_many_is_told_with_the_nearest_and_not_with_all() {
        let told = told("steps: 2,", "steps: 2, learning: 1,");
        assert!(told.contains("`distill` has "), "{told}");
        assert!(told.contains(" keys, such as `learning_rate`"), "{told}");
        assert!(told.contains("`alambic schema` lists all"), "{told}");
        assert!(!told.contains("`gradient_checkpointing`"), "{told}");
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn yaml_that_means_something_else_is_refused_with_its_line() {
        let mut wrong = Vec::new();
        for (from, to, line, why) in [
            (
                "name: typed",
                "name: !!python/object:os.system typed",
                1,
                "tag",
            ),
            ("name: typed", "name: !foo typed", 1, "tag"),
            ("steps: 2,", "steps: !foo 2,", 5, "tag"),
            (
                "name: typed",
                "base: &base { a: 1 }\n<<: *base\nname: typed",
                2,
                "merge",
            ),
            (
                "name: typed",
                "name: typed\nname: again",
                2,
                "written twice",
            ),
            ("name: typed", "name: typed\nexport:\n\tformats: []", 3, ""),
            (
                "steps: 2,",
                "steps: 2, learning_rate: .nan,",
                5,
                "must be a number",
            ),
            (
                "steps: 2,",
                "steps: 2, learning_rate: .inf,",
                5,
                "must be a number",
            ),
            (
                "steps: 2,",
                "steps: 2, learning_rate: 1e999,",
                5,
                "must be a number",
            ),
            (
                "steps: 2,",
                "steps: 2, weight_decay: 1e-310,",
                5,
                "must be a number",
            ),
            ("steps: 2,", "steps: 1_000,", 5, "must be a whole number"),
            ("steps: 2,", "steps: .nan,", 5, "must be a whole number"),
            (
                "steps: 2,",
                "steps: 99999999999999999999999999,",
                5,
                "must be a whole number",
            ),
        ] {
            let told = told(from, to);
            let place = format!("typed.yaml:{line}:");
            if !told.contains(&place) || !told.contains(why) {
                wrong.push(format!("`{to}`: {told}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
        // Anchors mean what YAML says.
        assert_eq!(
            told(
                "train: [text], validation: [text]",
                "train: &text [text], validation: *text"
            ),
            ""
        );
    }
}
