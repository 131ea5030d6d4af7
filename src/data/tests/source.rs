use std::fs;
use std::path::{Path, PathBuf};

use crate::data::{Documents, SkipReason, SourceError, content_hash, read_documents};
use crate::files;
use crate::hashes::Hashes;

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        files::write_atomically(&path, |out| out.write_all(bytes)).unwrap();
    }
    dir
}

fn read(dir: &tempfile::TempDir) -> Result<Documents, SourceError> {
    read_documents(&[dir.path().to_path_buf()])
}

fn hash_of(paths: &[PathBuf]) -> Result<String, SourceError> {
    let hash = content_hash(paths, &Hashes::of_this_process(0.0))?;
    assert_eq!(read_documents(paths).unwrap().content_hash, hash);
    Ok(hash)
}

/// The message without the folder's name.
fn message(dir: &tempfile::TempDir, error: &SourceError) -> String {
    let dir = format!("{}/", dir.path().display());
    error.to_string().replace(&dir, "")
}

#[test]
fn a_folder_is_read_in_the_byte_order_of_its_relative_paths() {
    let dir = folder(&[
        ("b.txt", b"6"),
        ("a/x.txt", b"4"),
        ("a/B.TXT", b"3"),
        (
            "a-b/x.jsonl",
            b"{\"text\": \"1\"}\n\n{\"id\": 7, \"text\": \"2\"}\r\n",
        ),
        ("a0.txt", b"5"),
        ("notes.md", b"passed over"),
        (".hidden/x.txt", b"passed over"),
        (".partial-x.txt", b"passed over"),
    ]);
    let read = read(&dir).unwrap();
    let texts: Vec<_> = read.documents.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(read.documents[1].line, Some(3));
    assert_eq!(read.documents[2].line, None);
    assert_eq!(read.skipped, []);
}

#[test]
fn paths_are_read_in_the_order_given() {
    let dir = folder(&[("a.txt", b"1"), ("b.txt", b"2")]);
    let paths = ["b.txt", "a.txt"].map(|name| dir.path().join(name));
    let read = read_documents(&paths).unwrap();
    assert_eq!(read.documents[0].text, "2");
    assert_eq!(read.documents[1].text, "1");
}

#[test]
fn all_faults_are_reported_together_with_path_and_line() {
    let dir = folder(&[
        ("a.txt", b"one\ntwo \xff\n"),
        (
            "b.jsonl",
            b"{\"text\": \"good\"}\n{\"text\": \n{\"txt\": \"x\"}\n{\"text\": 3}\n[1]\n{\"text\": \"\xc3\"}\n",
        ),
    ]);
    let csv = dir.path().join("c.csv");
    let missing = dir.path().join("missing.txt");
    files::write_atomically(&csv, |out| out.write_all(b"x")).unwrap();
    let error = read_documents(&[dir.path().to_path_buf(), csv, missing]).unwrap_err();
    assert_eq!(
        message(&dir, &error),
        "8 faults in the text\n  \
         c.csv: not a `.txt` or `.jsonl` file, nor a folder\n  \
         missing.txt: No such file or directory (os error 2)\n  \
         a.txt:2: not UTF-8 at byte 8 of the file\n  \
         b.jsonl:2: not JSON at column 9: EOF while parsing a value\n  \
         b.jsonl:3: an object without `text`\n  \
         b.jsonl:4: `text` is not a string\n  \
         b.jsonl:5: not an object with a string `text`\n  \
         b.jsonl:6: not UTF-8 at byte 66 of the file"
    );
}

#[test]
fn twenty_faults_are_named_and_the_rest_counted() {
    let dir = folder(&[("a.jsonl", &b"1\n".repeat(23))]);
    let message = message(&dir, &read(&dir).unwrap_err());
    assert!(
        message.starts_with("23 faults in the text\n  a.jsonl:1: "),
        "{message}"
    );
    assert!(
        message.ends_with("a.jsonl:20: not an object with a string `text`\n  and 3 more"),
        "{message}"
    );
}

#[test]
fn what_holds_no_text_is_skipped_and_said() {
    let dir = folder(&[
        ("a.txt", b""),
        ("b.txt", b" \n"),
        ("c.jsonl", b"{\"text\": \"\"}\n{\"text\": \"x\"}\n"),
        ("d.jsonl", b"\n"),
    ]);
    let read = read(&dir).unwrap();
    assert_eq!(read.documents.len(), 1);
    let skipped: Vec<_> = read
        .skipped
        .iter()
        .map(|s| {
            s.to_string()
                .replace(&format!("{}/", dir.path().display()), "")
        })
        .collect();
    assert_eq!(
        skipped,
        [
            "a.txt: no text; skipped",
            "b.txt: no text; skipped",
            "c.jsonl:1: no text; skipped",
            "d.jsonl: no text; skipped",
        ]
    );
}

#[test]
fn no_text_at_all_is_an_error() {
    let dir = folder(&[("a.txt", b""), ("x.md", b"text")]);
    assert!(matches!(
        read(&dir),
        Err(SourceError::NoText { num_files: 1, .. })
    ));
    assert!(matches!(
        read_documents(&[]),
        Err(SourceError::NoText { num_files: 0, .. })
    ));
    let error = read(&dir).unwrap_err().to_string();
    assert!(
        error.contains("1 `.txt` and `.jsonl` files, none with text"),
        "{error}"
    );
}

#[test]
fn a_byte_order_mark_is_not_text() {
    let dir = folder(&[
        ("a.txt", b"\xef\xbb\xbfx"),
        ("b.jsonl", b"\xef\xbb\xbf{\"text\": \"y\"}"),
    ]);
    let texts: Vec<_> = read(&dir)
        .unwrap()
        .documents
        .into_iter()
        .map(|d| d.text)
        .collect();
    assert_eq!(texts, ["x", "y"]);
}

#[cfg(unix)]
#[test]
fn a_loop_of_links_is_entered_once_and_said() {
    let dir = folder(&[("a/x.txt", b"1"), ("b/y.txt", b"2")]);
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("b/a")).unwrap();
    let read = read(&dir).unwrap();
    let texts: Vec<_> = read.documents.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(texts, ["1", "2"]);
    assert_eq!(read.skipped.len(), 2);
    assert!(
        read.skipped
            .iter()
            .all(|s| s.reason == SkipReason::ReadBefore)
    );
}

#[test]
fn the_content_hash_follows_bytes_order_and_kind_and_not_names() {
    let hash = |files: &[(&str, &[u8])]| hash_of(&[folder(files).path().to_path_buf()]).unwrap();
    let first = hash(&[("a.txt", b"1"), ("b.txt", b"2")]);
    assert_eq!(
        first,
        hash(&[("c.txt", b"1"), ("d.txt", b"2"), ("e.md", b"3")])
    );
    assert_ne!(first, hash(&[("a.txt", b"2"), ("b.txt", b"1")]));
    assert_ne!(first, hash(&[("a.txt", b"12"), ("b.txt", b" ")]));
    assert_ne!(
        first,
        hash(&[("a.txt", b"1"), ("b.jsonl", b"{\"text\":\"2\"}")])
    );
    assert!(matches!(hash_of(&[]), Err(SourceError::NoText { .. })));
}

#[test]
fn the_committed_novels_are_whole_and_unchanged() {
    let austen = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/austen");
    let sizes = |split: &str| -> Vec<usize> {
        let read = read_documents(&[austen.join(split)]).unwrap();
        assert_eq!(read.skipped, []);
        read.documents.iter().map(|d| d.text.len()).collect()
    };
    // Emma, Mansfield Park, Northanger Abbey, Pride and Prejudice, Sense and Sensibility; Persuasion.
    assert_eq!(
        sizes("train"),
        [883_028, 883_280, 433_411, 684_768, 673_688]
    );
    assert_eq!(sizes("validation"), [466_854]);
    assert_eq!(
        hash_of(&[austen]).unwrap(),
        "4f1c655ae1e198e02e4f89303f75f6b1081505d05bc3390acdf535c3a2071ce9"
    );
}
