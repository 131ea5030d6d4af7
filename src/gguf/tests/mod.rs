//! Sound files give the reference's values; damaged ones are refused.

mod hostile;
mod tokenizer_write;
mod tokenizers;
mod values;

use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A file with a value of every type and two tensors.
fn sound() -> Draft {
    let mut draft = Draft::new();
    draft
        .text("general.architecture", "llama")
        .u32("a.count", 7)
        .f32("a.eps", 1e-5)
        .flag("a.flag", true)
        .texts("a.texts", &["one", "zwei", "三"])
        .i32s("a.ints", &[1, -2, 3])
        .f32s("a.floats", &[0.5, -1.25]);
    for (kind, bytes) in [(0, 1), (1, 1), (2, 2), (3, 2), (10, 8), (11, 8), (12, 8)] {
        let value = [&u32::to_le_bytes(kind)[..], &[1; 8][..bytes]].concat();
        draft.raw(&format!("a.type{kind}"), value);
    }
    draft
        .tensor("first", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor("second", &[4], &[7.0, 8.0, 9.0, 10.0]);
    draft
}

fn opened(bytes: &[u8]) -> Result<GgufFile, GgufError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    #[expect(clippy::disallowed_methods, reason = "a test file need not be atomic")]
    std::fs::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

/// Reason for which a file is refused, without its path.
fn refusal(draft: &Draft) -> String {
    match opened(&draft.bytes()) {
        Err(GgufError::Content { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    }
}
