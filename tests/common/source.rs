//! The repository's own source, for tests that read it.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder of the repository, sorted.
pub(crate) fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of the folders that a file stands in below the root, and its own without the ending.
pub(crate) fn names_on_the_way(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(root()).unwrap().with_extension("");
    let names = inside.components();
    names
        .map(|name| name.as_os_str().to_str().unwrap().to_owned())
        .collect()
}

/// Tells whether a file of `src/` holds nothing but tests.
pub(crate) fn is_test(path: &Path) -> bool {
    let names = names_on_the_way(path);
    names
        .iter()
        .any(|name| name == "tests" || name.ends_with("_tests"))
}

/// Code without comments and without the tests of the file, which stand at its end.
pub(crate) fn shipped_code(text: &str) -> String {
    let text = text.split("\nmod tests {").next().unwrap();
    let text = text.split("\npub(super) mod tests {").next().unwrap();
    let code = text.lines().map(|line| line.split("//").next().unwrap());
    code.collect::<Vec<_>>().join("\n")
}
