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
#[expect(clippy::too_many_lines, reason = "one table of files")]
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
            "a.txt.gz: an empty file, without even the beginning of gzip data; fetch it again, or remove it",
        ),
        (
            "a.jsonl.zst",
            b"",
            "a.jsonl.zst: an empty file, without even the beginning of zstd data; fetch it again, or remove it",
        ),
        (
            "a.jsonl.gz",
            &[&packed[..], b"<html>"].concat(),
            "a.jsonl.gz: behind its gzip data stand bytes that are no gzip data; fetch it again, or cut them off",
        ),
        (
            "a.jsonl.gz",
            &[&packed[..], &[0; 4_096]].concat(),
            "a.jsonl.gz: behind its gzip data stand bytes that are no gzip data; fetch it again, or cut them off",
        ),
        (
            "a.jsonl.gz",
            &[&packed[..], &packed[..packed.len() / 2]].concat(),
            "a.jsonl.gz: ends in the middle of its gzip data; fetch it again",
        ),
        (
            "a.jsonl.zst",
            &[&zst[..], b"<html> and more"].concat(),
            "a.jsonl.zst: behind its zstd data stand bytes that are no zstd data; fetch it again, or cut them off",
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
    let told = message(&bad, &error);
    let list = "\n  a.jsonl:1: not an object; the same on 1 more line of this file";
    assert!(
        told.starts_with("2 of 2 rows of ") && told.ends_with(list),
        "{told}"
    );
}

#[test]
fn a_source_of_more_bad_rows_than_good_ones_is_refused_also_where_bad_rows_are_left_out() {
    let turns = "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}]}\n";
    let rows = |num_texts: usize| "{\"text\": \"t\"}\n".repeat(num_texts) + &turns.repeat(30);
    let of = |num_texts: usize| {
        let dir = folder(&[
            ("a/x.jsonl", rows(num_texts).as_bytes()),
            ("b.txt", b"words"),
        ]);
        let sources = [plan(&dir.path().join("a")), plan(&dir.path().join("b.txt"))];
        let read = read_documents(&sources, OnBadRow::Skip);
        let told = read.as_ref().map_err(|error| message(&dir, error));
        let told = told.map(|read| (read.documents.len(), read.bad_rows.num_rows));
        let looked = look_at(&sources, OnBadRow::Skip).map_err(|error| message(&dir, &error));
        assert_eq!(
            looked.map(drop),
            told.clone().map(drop),
            "a look tells it, too"
        );
        let help = read.err().and_then(|error| error.help("data.train"));
        (
            told.map_err(|told| told.replace(dir.path().to_str().unwrap(), "DIR")),
            help,
        )
    };
    assert_eq!(of(30), (Ok((31, 30)), None), "as many");
    let (told, help) = of(1);
    assert_eq!(
        told.unwrap_err(),
        "30 of 31 rows of `a` are bad, and `on_bad_row: skip` leaves out half of a source at most; \
         the first row of a/x.jsonl decided that its rows are `text`\n  \
         a/x.jsonl: 30 lines without `text`, the first is line 2; they have `messages`"
    );
    assert_eq!(
        help.as_deref(),
        Some("say in `data.train` which fields are meant: `{ path: …, format: messages }`")
    );
    // A beginning says nothing about the rest of a file.
    let good = "{\"text\": \"some more words of a text\"}\n".repeat(5_000);
    let dir = folder(&[("a.jsonl", (rows(1) + &good).as_bytes())]);
    let sources = [plan(dir.path())];
    assert!(look_at(&sources, OnBadRow::Skip).is_ok());
    assert_eq!(
        read_documents(&sources, OnBadRow::Skip)
            .unwrap()
            .documents
            .len(),
        5_001
    );
}

#[test]
fn rows_that_are_not_json_for_other_reasons_are_told_apart() {
    let dir = folder(&[(
        "a.jsonl",
        b"{\"text\": \"a\"}\nwords\n{\"text\": \"half \\ud83d\"}\n   more words\n{\"text\": \"\\ude00 half\"}\n{\"text\": \"cut",
    )]);
    assert_eq!(
        message(&dir, &read(&dir).unwrap_err()),
        "5 faults in the text\n  \
         a.jsonl:2: not JSON at column 1: expected value; the same on 1 more line of this file\n  \
         a.jsonl:3: not JSON at column 16: `\\ud83d` is half of a surrogate pair, as in a text that was cut inside an emoji; the same on 1 more line of this file\n  \
         a.jsonl:6: not JSON at column 13: EOF while parsing a string"
    );
}

#[test]
fn the_help_offers_the_format_that_is_nearest_to_the_columns() {
    let help = |rows: &[u8], on_bad_row| {
        let dir = folder(&[("a.jsonl", rows)]);
        let error = read_documents(&[plan(dir.path())], on_bad_row).unwrap_err();
        error.help("data.train").unwrap()
    };
    let dolly =
        b"{\"instruction\": \"i\", \"context\": \"\", \"response\": \"r\", \"category\": \"c\"}\n";
    assert_eq!(
        help(dolly, OnBadRow::Fail),
        "name rows with such fields in `data.train`, or say which fields are meant: \
         `{ path: …, format: alpaca, fields: { input: context, output: response } }`"
    );
    assert!(
        help(b"{\"a\": 1}\n", OnBadRow::Fail)
            .ends_with("`{ path: …, format: text, fields: { text: body } }`")
    );
    assert_eq!(
        help(b"3\n", OnBadRow::Skip),
        "fix these places or remove the files from `data.train`"
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
        assert!(read_documents(&sources, OnBadRow::Fail).is_ok());
        content_hash(&sources, &Hashes::of_this_process(0.0)).unwrap()
    };
    let plain = hash(&|_| {});
    let named = hash(&|source| source.format = Some(RowFormat::Text));
    let other =
        hash(&|source| source.fields = FieldsPlan(vec![(RowField::Text, "body".to_owned())]));
    assert!(plain != named && plain != other && named != other);
    let weighed = hash(&|source| source.weight = Some(2.0));
    assert!(weighed != plain);
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

#[test]
fn a_key_that_stands_twice_inside_of_a_field_that_is_read_is_told() {
    let of = |line: String| {
        let told = told("a.jsonl", line.as_bytes());
        told.strip_prefix("a.jsonl:1: ").unwrap().to_owned()
    };
    let end = "stands twice in one object, and which one is meant is not known";
    let good = r#"{"role": "user", "content": "a"}"#;
    let bad = r#"{"role": "user", "content": "a", "content": "b"}"#;
    assert_eq!(
        of(format!(r#"{{"messages": [{good}, {bad}]}}"#)),
        format!("message 2: `content` {end}")
    );
    let as_text = |json: &str| format!("\"{}\"", json.replace('"', "\\\""));
    assert_eq!(
        of(format!(
            r#"{{"messages": {}}}"#,
            as_text(&format!("[{bad}]"))
        )),
        format!("message 1: `content` {end}")
    );
    let tool = r#"{"a": 1, "a": 2}"#;
    let tools = [
        format!("[{tool}]"),
        as_text(&format!("[{tool}]")),
        format!("[{}]", as_text(tool)),
    ];
    for tools in tools {
        assert_eq!(
            of(format!(r#"{{"messages": [{good}], "tools": {tools}}}"#)),
            format!("in `tools`, `a` {end}")
        );
    }
    let call = format!(r#"{{"from": "function_call", "value": {}}}"#, as_text(tool));
    assert_eq!(
        of(format!(r#"{{"conversations": [{call}]}}"#)),
        format!("message 1: in `value` of a function call, `a` {end}")
    );
    let line = format!(r#"{{"x": [{bad}], "messages": [{good}]}}"#);
    let dir = folder(&[("a.jsonl", line.as_bytes())]);
    assert!(read(&dir).is_ok(), "a field that nobody reads");
}
