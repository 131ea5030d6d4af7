//! Bad files and bad rows.

use std::io::Write;

use super::*;
use crate::data::source::compressed::{FileStream, Limit};
use crate::data::source::container::Compression;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What is told about a file of these bytes.
fn told(name: &str, bytes: &[u8]) -> String {
    let dir = folder(&[(name, bytes)]);
    let error = read_paths(&[dir.path().join(name)]).unwrap_err();
    message(&dir, &error)
        .strip_prefix("1 fault in the text\n  ")
        .unwrap()
        .to_owned()
}

#[test]
fn a_compressed_file_that_is_none_or_is_cut_or_damaged_is_told() {
    let lines = "{\"text\": \"some words that are not the same\"}\n".repeat(200);
    let packed = gzip(lines.as_bytes());
    let zst = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    let mut damaged = packed.clone();
    let end = damaged.len() - 8;
    damaged[end] ^= 1; // the checksum
    for (name, bytes, expected) in [
        (
            "a.jsonl.gz",
            lines.as_bytes(),
            "a.jsonl.gz: not compressed by gzip, as its name says; take the last ending off its name",
        ),
        (
            "a.jsonl.zst",
            &packed,
            "a.jsonl.zst: not compressed by zstd, as its name says; take the last ending off its name",
        ),
        (
            "a.txt.gz",
            b"",
            "a.txt.gz: not compressed by gzip, as its name says; take the last ending off its name",
        ),
        (
            "a.jsonl.gz",
            &packed[..packed.len() - 9],
            "a.jsonl.gz: ends in the middle of its gzip data; fetch it again",
        ),
        (
            "a.jsonl.zst",
            &zst[..zst.len() - 5],
            "a.jsonl.zst: ends in the middle of its zstd data; fetch it again",
        ),
        (
            "a.jsonl.gz",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a.jsonl.gz: a pointer of Git LFS and not the file; fetch the file with `git lfs pull`",
        ),
        (
            "a.jsonl.gz",
            &gzip(&gzip(b"x")),
            "a.jsonl.gz: compressed by gzip, not text; let its name end with `.gz`, or unpack it",
        ),
        (
            "a.jsonl.gz",
            &gzip(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n"),
            "a.jsonl.gz:2: not UTF-8 at byte 24 of the unpacked file",
        ),
        (
            "a.json",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a.json: a pointer of Git LFS and not the file; fetch the file with `git lfs pull`",
        ),
    ] {
        assert_eq!(told(name, bytes), expected);
    }
    let told = told("a.jsonl.gz", &damaged);
    assert!(
        told.starts_with("a.jsonl.gz: damaged gzip data: ") && told.ends_with("; fetch it again"),
        "{told}"
    );
}

#[test]
fn a_file_that_unpacks_to_more_than_any_text_is_refused() {
    let dir = folder(&[("a.txt.gz", &gzip(&[b'a'; 5_000]))]);
    for (is_memory, expected) in [
        (
            false,
            "unpacks to more than 0 MiB, over 1000 times its size, as no text does; unpack it and look at it before you name it",
        ),
        (
            true,
            "unpacks to more than the 0 MiB of memory that are free; name some of its texts, or use a machine with more memory",
        ),
    ] {
        let open = |bytes: u64| {
            let file = files::open(&dir.path().join("a.txt.gz")).unwrap();
            FileStream::with_limit(file, Compression::Gzip, Limit::of_bytes(bytes, is_memory))
                .unwrap()
        };
        let mut text = Vec::new();
        let mut stream = open(4_999);
        let error = std::io::Read::read_to_end(&mut stream, &mut text).unwrap_err();
        assert_eq!(stream.fault(error).to_string(), expected);
        assert_eq!(
            std::io::Read::read_to_end(&mut open(5_000), &mut text).unwrap(),
            5_000
        );
    }
}

#[test]
fn rows_that_are_bad_are_left_out_counted_and_named_if_the_plan_says_so() {
    let rows: Vec<_> = (0..100)
        .map(|row| match row {
            row if row % 20 == 3 => "{\"text\": 3}\n".to_owned(),
            50 => "{\"text\": \n".to_owned(),
            row => format!("{{\"text\": \"text {row}\"}}\n"),
        })
        .collect();
    let dir = folder(&[("a.jsonl", rows.concat().as_bytes())]);
    let sources = [plan(dir.path())];
    let read = read_documents(&sources, OnBadRow::Skip).unwrap();
    assert_eq!(read.documents.len(), 94);
    assert_eq!(read.bad_rows.num_rows, 6);
    let told = read
        .bad_rows
        .to_string()
        .replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(
        told,
        "6 rows are bad and left out\n  \
         a.jsonl:4: `text` is a number, not a string; the same on 4 more lines of this file\n  \
         a.jsonl:51: not JSON at column 9: EOF while parsing a value"
    );
    assert!(
        look_at(&sources, OnBadRow::Skip).is_ok() && look_at(&sources, OnBadRow::Fail).is_err()
    );
    assert!(read_documents(&sources, OnBadRow::Fail).is_err());
    // A file that is damaged is no bad row, and a source of bad rows alone is told as what it is.
    let damaged = folder(&[("a.jsonl.gz", b"text"), ("b.jsonl", b"{\"text\": \"a\"}\n")]);
    assert!(read_documents(&[plan(damaged.path())], OnBadRow::Skip).is_err());
    let bad = folder(&[("a.jsonl", b"3\n4\n")]);
    let error = read_documents(&[plan(bad.path())], OnBadRow::Skip).unwrap_err();
    assert!(
        error.to_string().starts_with("2 faults in the text"),
        "{error}"
    );
}

#[test]
fn rows_of_another_kind_than_the_first_are_told() {
    let rows =
        "{\"prompt\": \"p\", \"completion\": \"c\"}\n{\"messages\": []}\n{\"messages\": []}\n";
    let dir = folder(&[("a.jsonl", rows.as_bytes())]);
    assert_eq!(
        message(&dir, &read(&dir).unwrap_err()),
        "2 faults in the text\n  a.jsonl: 2 lines without `prompt` and `completion`, the first is line 2; they have `messages`"
    );
    let dir = folder(&[("a.jsonl", b"{\"body\": \"a\"}\n{\"body\": \"b\"}\n")]);
    assert_eq!(
        message(&dir, &read(&dir).unwrap_err()),
        "2 faults in the text\n  a.jsonl: 2 lines without `text`, `messages` or another column that says what it holds, the first is line 1; they have `body`"
    );
}

#[test]
fn what_changes_the_rows_changes_the_hash() {
    let dir = folder(&[("a.jsonl", b"{\"text\": \"a\", \"body\": \"b\"}\n")]);
    let hash = |change: &dyn Fn(&mut SourcePlan)| {
        let mut source = plan(&dir.path().join("a.jsonl"));
        change(&mut source);
        let sources = [source];
        let hash = content_hash(&sources, &Hashes::of_this_process(0.0)).unwrap();
        assert_eq!(
            read_documents(&sources, OnBadRow::Fail)
                .unwrap()
                .content_hash,
            hash
        );
        hash
    };
    let plain = hash(&|_| {});
    let named = hash(&|source| source.format = Some(RowFormat::Text));
    let other =
        hash(&|source| source.fields = FieldsPlan(vec![(RowField::Text, "body".to_owned())]));
    assert!(plain != named && plain != other && named != other);
    let packed = folder(&[("a.jsonl.gz", &gzip(b"{\"text\": \"a\"}\n"))]);
    let sources = [plan(packed.path())];
    let hash = content_hash(&sources, &Hashes::of_this_process(0.0)).unwrap();
    assert_eq!(
        read_documents(&sources, OnBadRow::Fail)
            .unwrap()
            .content_hash,
        hash
    );
}

#[test]
fn fields_of_another_format_and_rows_of_a_text_are_refused() {
    let dir = folder(&[("a.txt", b"words")]);
    let told = |change: &dyn Fn(&mut SourcePlan)| {
        let mut source = plan(&dir.path().join("a.txt"));
        change(&mut source);
        let error = read_documents(&[source], OnBadRow::Fail).unwrap_err();
        message(&dir, &error)
    };
    assert!(
        told(&|source| source.format = Some(RowFormat::Messages))
            .ends_with("a.txt: a text file, which has no rows for `format: messages`")
    );
    assert!(
        told(&|source| {
            source.format = Some(RowFormat::Text);
            source.fields = FieldsPlan(vec![(RowField::Role, "x".to_owned())]);
        })
        .contains("which `format: text` has not")
    );
    assert!(told(&|source| source.split = Some("train".to_owned()))
        .ends_with("a.txt: a file, of which `split: train` picks nothing; name its folder, or take `split` out"));
}
