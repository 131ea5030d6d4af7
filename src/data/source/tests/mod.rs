//! Tests of sources that are too long for their modules.

mod columns;
mod conversations;
mod faults;
mod folders;
mod json;
mod mixing;

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    Content, Document, Documents, FieldsPlan, OnBadRow, RowField, RowFormat, SkipReason, Skipped,
    SourceError, SourcePlan, content_hash, look_at, read_documents,
};
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
    read_paths(&[dir.path().to_path_buf()])
}

fn read_paths(paths: &[PathBuf]) -> Result<Documents, SourceError> {
    read_documents(&SourcePlan::of_paths(paths), OnBadRow::Fail)
}

fn look_at_dir(dir: &tempfile::TempDir) -> Result<super::Looked, SourceError> {
    look_at(&[plan(dir.path())], OnBadRow::Fail)
}

fn plan(path: &Path) -> SourcePlan {
    SourcePlan::from(path.to_path_buf())
}

/// Texts of documents, none of which may be anything else.
fn texts(documents: &[Document]) -> Vec<&str> {
    let text = |document| Document::text(document).unwrap_or_else(|| panic!("{document:?}"));
    documents.iter().map(text).collect()
}

fn hash_of(paths: &[PathBuf]) -> Result<String, SourceError> {
    let sources = SourcePlan::of_paths(paths);
    content_hash(&sources, &Hashes::of_this_process(0.0))
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
    assert_eq!(texts(&read.documents), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(read.documents[1].row, Some(3));
    assert_eq!(read.documents[2].row, None);
    assert_eq!(read.skipped, []);
}

#[test]
fn paths_are_read_in_the_order_given() {
    let dir = folder(&[("a.txt", b"1"), ("b.txt", b"2")]);
    let paths = ["b.txt", "a.txt"].map(|name| dir.path().join(name));
    let read = read_paths(&paths).unwrap();
    assert_eq!(texts(&read.documents), ["2", "1"]);
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
    let error = read_paths(&[dir.path().to_path_buf(), csv, missing]).unwrap_err();
    assert_eq!(
        message(&dir, &error),
        "8 faults in the text\n  \
         c.csv: neither a folder nor a file that can be read: `.txt`, `.jsonl`, `.json` (also with `.gz` or `.zst`), `.parquet`, `.arrow`\n  \
         missing.txt: No such file or directory (os error 2)\n  \
         a.txt:2: not UTF-8 at byte 8 of the file\n  \
         b.jsonl:2: not JSON at column 9: EOF while parsing a value\n  \
         b.jsonl:3: an object without `text`; it has `txt`\n  \
         b.jsonl:4: `text` is a number, not a string\n  \
         b.jsonl:5: not an object with a string `text`\n  \
         b.jsonl:6: not UTF-8 at byte 66 of the file"
    );
}

#[test]
fn twenty_faults_are_named_and_the_rest_counted() {
    let names: Vec<_> = (0..23).map(|file| format!("{file:02}.jsonl")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), b"1\n1\n".as_slice()))
        .collect();
    let dir = folder(&files);
    let message = message(&dir, &read(&dir).unwrap_err());
    assert!(
        message.starts_with("46 faults in the text\n  00.jsonl:1: "),
        "{message}"
    );
    assert!(
        message.ends_with(
            "19.jsonl:1: not an object; the same on 1 more line of this file\n  and 6 more"
        ),
        "{message}"
    );
}

#[test]
fn a_fault_that_repeats_is_told_in_one_line() {
    let rows = "{\"id\": 1, \"messages\": []}\n".repeat(200);
    let list = "[{\"text\": \"a\"},\n{\"text\": \"b\"},\n{\"text\": \"c\"}]\n";
    let dir = folder(&[
        (
            "a.jsonl",
            format!("{{\"text\": \"good\"}}\n{rows}").as_bytes(),
        ),
        ("b.jsonl", list.as_bytes()),
    ]);
    let error = read(&dir).unwrap_err();
    assert_eq!(
        message(&dir, &error),
        "203 faults in the text\n  \
         a.jsonl: 200 lines without `text`, the first is line 2; they have `id`, `messages`\n  \
         b.jsonl:1: not JSON at column 15: a list that goes on in the next line; each line is one object\n  \
         b.jsonl:2: not JSON at column 14: trailing characters; the same on 1 more line of this file"
    );
}

#[test]
fn a_file_of_another_format_is_told_by_its_first_bytes() {
    let utf_16 = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect::<Vec<_>>()
    };
    let wide = utf_16("Anne could not help thinking");
    for (name, bytes, told) in [
        (
            "a.jsonl",
            b"\x1f\x8b\x08\0rest".as_slice(),
            "compressed by gzip, not text; let its name end with `.gz`, or unpack it",
        ),
        (
            "a.txt",
            b"\x28\xb5\x2f\xfdrest",
            "compressed by zstd, not text; let its name end with `.zst`, or unpack it",
        ),
        (
            "a.jsonl",
            b"PK\x03\x04rest",
            "a zip file, not text; unpack it first",
        ),
        (
            "a.jsonl",
            b"PAR1\x15\x04rest",
            "a Parquet file, not text; let its name end with `.parquet`",
        ),
        (
            "a.txt",
            b"\xff\xfeA\0",
            "UTF-16, not UTF-8; save it as UTF-8",
        ),
        ("a.jsonl", &wide, "UTF-16, not UTF-8; save it as UTF-8"),
    ] {
        let dir = folder(&[(name, bytes)]);
        let error = read(&dir).unwrap_err();
        assert_eq!(
            message(&dir, &error),
            format!("1 fault in the text\n  {name}: {told}")
        );
    }
    let plain = folder(&[("a.txt", b"PAR1 is a name, and PK, and BZh")]);
    assert_eq!(read(&plain).unwrap().documents.len(), 1);
}

#[test]
fn a_look_at_the_beginnings_refuses_what_reading_would_refuse_there() {
    let look = |files: &[(&str, &[u8])]| {
        let dir = folder(files);
        let looked = look_at_dir(&dir);
        let told = looked.map(|looked| looked.passed_over);
        let told = told.map_err(|error| message(&dir, &error));
        let read = read(&dir).map_err(|error| message(&dir, &error));
        (told, read.map(|read| read.documents.len()))
    };
    for files in [
        [("a.txt", b"caf\xe9".as_slice())].as_slice(),
        &[("a.jsonl", b"{\"messages\": []}\n{\"messages\": []}\n")],
        &[("a.jsonl", b"PAR1\x15\x04")],
        &[(
            "a.jsonl",
            b"{\"text\": \"good\"}\n\xef\xbb\xbf{\"text\": \"good\"}\n",
        )],
        &[("a.txt", b""), ("b.jsonl", b"{\"text\": null}\n")],
        &[("a.md", b"words")],
    ] {
        let (told, read) = look(files);
        assert_eq!(told.unwrap_err(), read.unwrap_err());
    }
    // What is cut off after 64 KiB is no fault: half a character, half a line, a text after much white space.
    let long = |before: &str, repeated: &str, after: &str| {
        format!("{before}{}{after}", repeated.repeat(40_000)).into_bytes()
    };
    for (name, bytes) in [
        ("a.txt", long("a", "é", "")),
        ("a.txt", long("", "  ", "a")),
        ("a.jsonl", long("{\"text\": \"a", "é", "\"}\n")),
        (
            "a.jsonl",
            long("{\"x\": \"a", "\\n", "\", \"text\": \"a\"}\n"),
        ),
        ("a.jsonl", long("{\"x\": [1", ",1", "], \"text\": \"a\"}\n")),
    ] {
        let (told, read) = look(&[(name, &bytes)]);
        assert_eq!((told, read), (Ok(Vec::new()), Ok(1)), "{name}");
    }
    let beyond = long("{\"text\": \"a\"}\n", " \n", "{");
    let (told, read) = look(&[("a.jsonl", &beyond)]);
    assert!(told.is_ok() && read.unwrap_err().contains("a.jsonl:40002: not JSON"));
    assert!(
        look_at(&[plan(Path::new("/absent"))], OnBadRow::Fail).is_ok(),
        "whoever needs it opens it"
    );
}

#[test]
fn files_of_a_folder_that_are_passed_over_are_named_and_counted() {
    let dir = folder(&[
        ("a.txt", b"x"),
        ("b/c.json", b"{}"),
        ("b/d.parquet", b"x"),
        ("README", b"x"),
        (".gitignore", b"x"),
    ]);
    let told = |dir: &tempfile::TempDir| {
        let found = look_at_dir(dir).unwrap().passed_over;
        let told: Vec<_> = found.iter().map(ToString::to_string).collect();
        told.join("\n")
            .replace(dir.path().to_str().unwrap(), "texts")
    };
    assert_eq!(
        told(&dir),
        "3 files in `texts` are passed over, neither `.txt` nor `.jsonl`: `README`, `b/c.json`, `b/d.parquet`"
    );
    for number in 0..9 {
        let path = dir.path().join(format!("{number}.csv"));
        files::write_atomically(&path, |out| out.write_all(b"x")).unwrap();
    }
    let told = told(&dir);
    assert!(
        told.starts_with("12 files in `texts` are") && told.ends_with("`4.csv` and 7 more"),
        "{told}"
    );
    let only = folder(&[("a.csv", b"x")]);
    let error = read(&only).unwrap_err().to_string();
    assert!(error.ends_with("none with text; 1 file in `FOLDER` is passed over, neither `.txt` nor `.jsonl`: `a.csv`".replace("FOLDER", only.path().to_str().unwrap()).as_str()), "{error}");
}

#[test]
fn what_holds_no_text_is_skipped_and_said() {
    let dir = folder(&[
        ("a.txt", b""),
        ("b.txt", b" \n"),
        (
            "c.jsonl",
            b"{\"text\": \"\"}\n{\"text\": \"x\"}\n{\"text\": null}\n{\"text\": \" \"}\n",
        ),
        ("d.jsonl", b"\n"),
    ]);
    let read = read(&dir).unwrap();
    assert_eq!(read.documents.len(), 1);
    let inside = format!("{}/", dir.path().display());
    let skipped: Vec<_> = read
        .skipped
        .iter()
        .map(|s| s.to_string().replace(&inside, ""))
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
    let sentences: Vec<_> = Skipped::sentences(&read.skipped)
        .iter()
        .map(|s| s.replace(&inside, ""))
        .collect();
    assert_eq!(
        sentences,
        [
            "a.txt: no text; skipped",
            "b.txt: no text; skipped",
            "c.jsonl:1: no text; skipped, as are 2 more lines of this file",
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
        read_paths(&[]),
        Err(SourceError::NoText { num_files: 0, .. })
    ));
    let error = read(&dir).unwrap_err().to_string();
    assert!(
        error.contains("1 file of text or data, none with text"),
        "{error}"
    );
}

#[test]
fn a_byte_order_mark_is_not_text() {
    let dir = folder(&[
        ("a.txt", b"\xef\xbb\xbfx"),
        ("b.jsonl", b"\xef\xbb\xbf{\"text\": \"y\"}"),
    ]);
    assert_eq!(texts(&read(&dir).unwrap().documents), ["x", "y"]);
}

#[cfg(unix)]
#[test]
fn a_loop_of_links_is_entered_once_and_said() {
    let dir = folder(&[("a/x.txt", b"1"), ("b/y.txt", b"2")]);
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("b/a")).unwrap();
    let read = read(&dir).unwrap();
    assert_eq!(texts(&read.documents), ["1", "2"]);
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
        let read = read_paths(&[austen.join(split)]).unwrap();
        assert_eq!(read.skipped, []);
        texts(&read.documents)
            .iter()
            .map(|text| text.len())
            .collect()
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
