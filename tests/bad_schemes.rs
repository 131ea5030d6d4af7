//! Schemes that a student, an engine or a format cannot have: refused with exit code 2 before anything is written, by layer.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use crate::common::{Workshop, assert_refused};

    #[test]
    fn schemes_that_no_engine_or_format_takes_are_refused_with_the_layer() {
        let workshop = Workshop::new();
        for (set, needles) in [
            (
                "quantize.overrides=[{modules: [k_proj], bits: 8}]",
                [
                    "error[quantize/unlike-parts]: `model.layers.0.self_attn.q_proj.weight` and `model.layers.0.self_attn.k_proj.weight` \
                     are one matrix in engines, but have two schemes: int4, groups of 16, and int8, one scale per row",
                    "help: name both in one override: `q_proj`, `k_proj` and `v_proj`, or `gate_proj` and `up_proj`",
                ],
            ),
            (
                "quantize.overrides=[{modules: [up_proj], keep: true}]",
                [
                    "have two schemes: int4, groups of 16, and not quantised",
                    "",
                ],
            ),
            (
                "quantize.overrides=[{layers: [1], bits: 8}]",
                [
                    "error[quantize/layers]: the student has no layer 1",
                    "past the last layer",
                ],
            ),
            (
                "quantize.overrides=[{modules: [down_proj], group_size: 24}]",
                [
                    "error[quantize/uneven-groups]: `group_size` 24 does not divide the 32 columns of `model.layers.0.mlp.down_proj.weight`",
                    "32 / 24 leaves 8 over",
                ],
            ),
            (
                "quantize.activations=per_token",
                [
                    "error[export/activations]: `huggingface` cannot record rounded inputs of `model.layers.0.mlp.down_proj.weight`: \
                     int4, groups of 16, activations int8",
                    "help: write `formats: [compressed-tensors]`, or `activations: none`",
                ],
            ),
            (
                "export.formats=[compressed-tensors, gptq]",
                [
                    "error[export/scheme]: `gptq` cannot hold `model.layers.0.self_attn.q_proj.weight`, int4, groups of 16: vLLM loads groups of \
                     32, 64 and 128, and whole rows",
                    "help: write one of these or `channel` as `group_size`",
                ],
            ),
            (
                "export.formats=[mlx]",
                [
                    "groups of 16: MLX loads groups of 32, 64 and 128",
                    "help: write one of these as `group_size`",
                ],
            ),
        ] {
            assert_refused(&workshop, &[set], &needles);
        }
    }

    #[test]
    fn schemes_of_embedding_and_output_layer_that_nothing_holds_are_refused_with_the_weight() {
        let workshop = Workshop::new();
        for (set, needles) in [
            (
                "quantize.embedding={group_size: 32}",
                [
                    "error[quantize/uneven-groups]: `group_size` 32 does not divide the 16 columns of `model.embed_tokens.weight`",
                    "help: use a divisor, or `channel`\n",
                ],
            ),
            (
                "quantize.embedding={bits: 8}",
                [
                    "error[export/scheme]: `compressed-tensors` cannot hold `model.embed_tokens.weight`, int8, one scale per row: its engines \
                     look up plain embeddings",
                    "help: leave the embedding plain, or write `formats: [mlx]` or `[gguf]`",
                ],
            ),
            (
                "quantize.output={bits: 8}",
                [
                    "error[recipe/tied-output]: `output` has no matrix: the output layer is the embedding",
                    "help: write `embedding` instead, or `tie_word_embeddings: false`",
                ],
            ),
        ] {
            assert_refused(&workshop, &[set], &needles);
        }
        let sets = ["student={checkpoint: teacher}", "quantize.output={bits: 8}"];
        let needles = [
            "error[quantize/tied-output]: the student's output layer has no matrix of its own: it is `model.embed_tokens.weight`",
            "help: write `embedding` in place of `output`",
        ];
        assert_refused(&workshop, &sets, &needles);
    }

    #[test]
    fn a_fused_matrix_has_one_scheme_and_one_width() {
        let workshop = Workshop::new();
        std::fs::remove_dir_all(workshop.path("teacher")).unwrap();
        let phi = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/hf-phi3");
        workshop.copy_files(phi.as_ref(), "teacher");
        for (set, needles) in [
            (
                "quantize.overrides=[{modules: [v_proj], bits: 8}]",
                [
                    "error[quantize/unlike-parts]: `model.layers.0.self_attn.q_proj.weight` and `model.layers.0.self_attn.v_proj.weight` \
                     are one matrix in engines, but have two schemes: ",
                    "help: name both in one override",
                ],
            ),
            (
                "quantize.overrides=[{modules: [gate_proj], keep: true}]",
                [
                    "error[quantize/unlike-parts]: `model.layers.0.mlp.gate_proj.weight` and `model.layers.0.mlp.up_proj.weight`",
                    "not quantised",
                ],
            ),
            (
                "passes.3.quantize={method: round-to-nearest, bits: {budget: 3.5}, group_size: 16, overrides: [{modules: [k_proj], group_size: 16}]}",
                ["error[quantize/unlike-parts]", "separates them"],
            ),
        ] {
            let sets = ["student={checkpoint: teacher}", set];
            assert_refused(&workshop, &sets, &needles);
        }
    }
}
