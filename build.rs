//! Puts the commit of the source and the Cargo features into the binary, for `alambic --version`.

use std::env;
use std::path::Path;
use std::process::Command;

/// Features of `Cargo.toml`, in its order.
const FEATURES: [&str; 5] = ["flex", "wgpu", "vulkan", "tch", "cuda"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_on = |feature: &&str| {
        let name = format!("CARGO_FEATURE_{}", feature.to_uppercase());
        env::var_os(name).is_some()
    };
    let features: Vec<&str> = FEATURES.into_iter().filter(is_on).collect();
    let mut parts = vec![features.join(" ")];
    parts.splice(0..0, commit());
    println!("cargo:rustc-env=ALAMBIC_BUILD={}", parts.join(", "));
}

/// Short hash of the commit that is checked out, or `ALAMBIC_COMMIT` where the source is built without its history; `None`
/// without either.
fn commit() -> Option<String> {
    println!("cargo:rerun-if-env-changed=ALAMBIC_COMMIT");
    let given = env::var_os("ALAMBIC_COMMIT").and_then(|commit| commit.into_string().ok());
    if let Some(commit) = given.filter(|commit| !commit.is_empty()) {
        return Some(commit);
    }
    // A package that was unpacked below another project's clone must not name that project's commit.
    if !Path::new(".git").exists() {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=9", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
