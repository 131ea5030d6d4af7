//! `export` and `quantize`: what they write of checkpoints that no recipe made, and what they refuse.

#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod export;
#[cfg(test)]
mod quantize;
#[cfg(test)]
mod refusals;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use alambic::checkpoint::Checkpoint;
    use alambic::model::parameter_specs;

    /// A command line, cut into its words.
    pub(crate) fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    /// Both checkpoints have the same weights, bit for bit.
    pub(crate) fn assert_same_weights(got: &Path, want: &Path) {
        let open = |path| Checkpoint::open(path).unwrap();
        let (got, want) = (open(got), open(want));
        let specs = parameter_specs(want.config());
        assert!(specs.len() > 5);
        for spec in specs {
            let values = |checkpoint: &Checkpoint| checkpoint.values(&spec).unwrap();
            assert!(values(&got) == values(&want), "{} differs", spec.name);
        }
    }

    /// The one GGUF file of a folder.
    pub(crate) fn gguf_in(dir: &Path) -> PathBuf {
        let entries = fs::read_dir(dir).unwrap();
        let mut files = entries.map(|entry| entry.unwrap().path());
        let is_gguf = |path: &PathBuf| path.extension().is_some_and(|e| e == "gguf");
        files.find(is_gguf).unwrap()
    }
}
