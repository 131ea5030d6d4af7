//! Exported files in the engine that people load them with: llama.cpp, out of the wheel `xllamacpp`.
//!
//! `scripts/verify_in_engines.py` does the same with other engines, which take gigabytes to install.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::common::Workshop;

    fn root(relative: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
    }

    /// The committed teacher as it is, as one file.
    fn recipe() -> String {
        let (teacher, text) = (
            root("checkpoints/austen-teacher"),
            root("datasets/austen/validation"),
        );
        format!(
            "\
name: engines
output: out
data: {{ train: [text/train.txt], validation: [{text:?}], sequence_length: 64, validation_tokens: 1k }}
student: {{ checkpoint: {teacher:?} }}
teacher: {{ checkpoint: {teacher:?} }}
cache: {{ tokens: 2k, support: {{ top_k: 8 }} }}
passes: [distill: {{ steps: 1, tokens_per_step: 256, learning_rate: 1e-6 }}]
export: {{ formats: [gguf], dtype: f32 }}
"
        )
    }

    #[test]
    fn llama_cpp_computes_from_our_files_what_we_compute() {
        let has_engine = Command::new("python3")
            .args(["-c", "import xllamacpp"])
            .output();
        if !has_engine.is_ok_and(|ran| ran.status.success()) {
            println!("skipped: python3 has no package `xllamacpp` (`pip install xllamacpp`)");
            return;
        }
        let workshop = Workshop::new();
        workshop.write("engines.yaml", recipe().as_bytes());
        for kind in ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k"] {
            let set = format!("export.gguf_type={kind}");
            // Without training, four bits cost more than exports may by default.
            let limit = "export.max_rounding_kl=0.2";
            workshop.done(&["run", "engines.yaml", "--set", &set, "--set", limit]);
            let found = Command::new("python3")
                .arg(root("scripts/verify_in_engines.py"))
                .args(["--tokens", "24", "--engines", "llama.cpp", "--binary"])
                .arg(env!("CARGO_BIN_EXE_alambic"))
                .arg("--")
                .arg(export_of(&workshop, kind))
                .output()
                .unwrap();
            let (table, log) = (
                String::from_utf8_lossy(&found.stdout),
                String::from_utf8_lossy(&found.stderr),
            );
            println!("{table}");
            assert!(found.status.success(), "{kind}: {table}{log}");
            assert_eq!(table.lines().count(), 3, "{kind}: {table}{log}");
            if kind == "f32" {
                assert!(table.contains("32 of 32"), "greedy text: {table}");
            }
        }
    }

    /// The file of this type; each run left one of its own.
    fn export_of(workshop: &Workshop, kind: &str) -> PathBuf {
        let name = format!("engines-{}.gguf", kind.to_uppercase());
        let runs = super::common::folders(&workshop.path("out/engines"), "02-export");
        let mut files = runs.into_iter().map(|run| run.join("gguf").join(&name));
        files
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("no {name}"))
    }
}
