//! Every family goes through the whole chain: captured, trained, pruned, put on a grid, exported and read back.
#![cfg(feature = "flex")]

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use alambic::checkpoint::Checkpoint;
    use alambic::model::{Architecture, LayerType, ParameterKind, parameter_specs};
    use serde_json::Value;

    use crate::common::Workshop;

    /// The teacher's own weights as the student, through every kind of pass and export.
    const RECIPE: &str = "\
name: chain
seed: 3
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 64, validation_tokens: 1k }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { tokens: 2k, support: { top_k: 16 } }
student: { checkpoint: teacher }
passes:
  - prune: { method: wanda, sparsity: 0.3 }
  - distill: { steps: 2, tokens_per_step: 256, learning_rate: 1e-4, losses: { forward_kl: 0.5, cross_entropy: 0.5 } }
  - quantize: { method: qat, bits: 4, group_size: 32, steps: 2, tokens_per_step: 256, learning_rate: 1e-4 }
export: { formats: [huggingface, compressed-tensors, gguf, gptq, awq, mlx], dtype: f32 }
";

    fn golden(name: &str) -> std::path::PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        root.join("tests/golden").join(name)
    }

    /// A workshop with a golden model as its teacher and this recipe.
    fn workshop(teacher: &str, recipe: &str) -> Workshop {
        let workshop = Workshop::new();
        fs::remove_dir_all(workshop.path("teacher")).unwrap();
        workshop.copy_files(&golden(teacher), "teacher");
        workshop.write("chain.yaml", recipe.as_bytes());
        workshop
    }

    /// One grid in many containers: the projections are the same numbers as in compressed-tensors.
    fn assert_one_grid(export: &Path, containers: &[&str]) {
        let packed = Checkpoint::open(&export.join("compressed-tensors")).unwrap();
        let specs = parameter_specs(packed.config());
        let linear = specs
            .iter()
            .filter(|spec| spec.kind() == ParameterKind::Linear);
        assert_eq!(
            linear.clone().count(),
            7 * packed.config().num_hidden_layers
        );
        for name in containers {
            let other = Checkpoint::open(&export.join(name)).unwrap();
            for spec in linear.clone() {
                let (want, got) = (packed.values(spec).unwrap(), other.values(spec).unwrap());
                assert!(want == got, "{}: {name}: {}", export.display(), spec.name);
            }
        }
    }

    #[test]
    fn a_teacher_of_any_family_is_captured_trained_quantised_and_exported() {
        for (name, architecture) in [
            ("hf-mistral", Architecture::Mistral),
            ("hf-qwen2-tied", Architecture::Qwen2),
            ("hf-qwen3-tied", Architecture::Qwen3),
            ("hf-gemma", Architecture::Gemma),
            ("hf-gemma2", Architecture::Gemma2),
            ("hf-gemma3", Architecture::Gemma3),
            ("hf-phi3", Architecture::Phi3),
            ("hf-olmo2", Architecture::Olmo2),
            ("hf-smollm3", Architecture::SmolLm3),
        ] {
            let workshop = workshop(name, RECIPE);
            let report = workshop.done(&["run", "chain.yaml", "--json"]).json();
            let passes = report["passes"].as_array().unwrap();
            let last = passes.last().unwrap();
            // Four bits cost a random model of this size hundredths of a nat.
            let kl = last["kl_nats"].as_f64().unwrap();
            assert!(kl > 0.0 && kl < 0.1, "{name}: {kl} nats");
            let export = workshop.folder("out/chain", "04-export");
            for format in ["huggingface", "compressed-tensors"] {
                let dir = export.join(format);
                let exported = Checkpoint::open(&dir).unwrap();
                let teacher = Checkpoint::open(&golden(name)).unwrap();
                let mut want = teacher.config().clone();
                want.eos_token_ids = vec![2, 0]; // and the token between the texts it was trained on
                assert_eq!(exported.config(), &want, "{name}");
                assert_eq!(exported.config().architecture, architecture);
                let json: Value =
                    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
                assert_eq!(json["model_type"], architecture.model_type());
            }
            assert_one_grid(&export, &["gguf/chain-Q4_0.gguf", "gptq", "awq", "mlx"]);
            let dir = export.join("compressed-tensors").display().to_string();
            let args = ["generate", &dir, "--prompt", "It was", "--max-tokens", "4"];
            assert!(!workshop.done(&args).stdout.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_student_of_eight_bits_leaves_in_every_container_that_has_them() {
        let recipe = RECIPE
            .replace("bits: 4", "bits: 8")
            .replace("gptq, awq, mlx], dtype: f32", "gptq, mlx]");
        let workshop = workshop("hf-llama", &recipe);
        workshop.done(&["run", "chain.yaml"]);
        let export = workshop.folder("out/chain", "04-export");
        assert!(!export.join("awq").exists());
        assert_one_grid(&export, &["gguf/chain-Q8_0.gguf", "gptq", "mlx"]);
    }

    #[test]
    fn a_student_with_chosen_layers_keeps_their_types() {
        let student = "student: { from_teacher: { layers: [1] } }";
        let recipe = RECIPE.replace("student: { checkpoint: teacher }", student);
        assert_ne!(recipe, RECIPE);
        let workshop = workshop("hf-gemma3", &recipe);
        workshop.done(&["run", "chain.yaml"]);
        let export = workshop.folder("out/chain", "04-export");
        let exported = Checkpoint::open(&export.join("compressed-tensors")).unwrap();
        assert_eq!(exported.config().layer_types, [LayerType::Full]);
    }

    #[test]
    fn a_student_of_another_family_learns_from_a_capped_teacher() {
        let sizes = "student: { architecture: { num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2, \
                     num_key_value_heads: 1, intermediate_size: 32 } }";
        let recipe = RECIPE.replace("student: { checkpoint: teacher }", sizes);
        assert_ne!(recipe, RECIPE);
        let workshop = workshop("hf-gemma2", &recipe);
        workshop.done(&["run", "chain.yaml"]);
        let export = workshop.folder("out/chain", "04-export");
        let exported = Checkpoint::open(&export.join("huggingface")).unwrap();
        assert_eq!(exported.config().architecture, Architecture::Llama);
        assert_eq!(exported.config().final_logit_softcapping, None);
    }
}
