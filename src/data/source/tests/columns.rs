//! Files that other libraries wrote (`scripts/make_source_golden.py`).

use std::sync::Arc;

use arrow_array::builder::{MapBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampSecondArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sources")
}

fn bytes_of(name: &str) -> Vec<u8> {
    files::read(&golden().join(name)).unwrap()
}

fn as_json(content: &Content) -> Value {
    match content {
        Content::File(_) => panic!("no row is a file"),
        Content::Text(text) => json!(text),
        Content::Completion { prompt, completion } => {
            json!({"prompt": prompt, "completion": completion})
        }
        Content::Chat(chat) => json!({
            "messages": chat.messages,
            "tools": chat.tools,
            "variables": chat.variables,
            "num_prompt": chat.num_prompt,
            "unlearnt": chat.unlearnt,
        }),
    }
}

#[test]
fn files_of_other_libraries_hold_the_rows_that_were_meant() {
    let expected = files::read_to_string(&golden().join("expected.json")).unwrap();
    let mut expected: serde_json::Map<String, Value> = serde_json::from_str(&expected).unwrap();
    expected.remove("versions");
    assert!(expected.len() >= 24, "{} sources", expected.len());
    for (name, rows) in expected {
        let (path, split) = match name.split_once(':') {
            Some((path, split)) => (path, Some(split.to_owned())),
            None => (name.as_str(), None),
        };
        let sources = [SourcePlan {
            split,
            ..plan(&golden().join(path))
        }];
        let read = read_documents(&sources, OnBadRow::Fail);
        let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        let found: Vec<_> = read.documents.iter().map(|d| as_json(&d.content)).collect();
        assert_eq!(Value::Array(found), rows, "{name}");
        let looked = look_at(&sources, OnBadRow::Fail);
        assert!(looked.is_ok(), "{name}: {looked:?}");
    }
}

#[test]
fn a_hub_folder_and_a_saved_dictionary_want_a_split() {
    for name in ["hub", "saved_dict"] {
        let told = read_paths(&[golden().join(name)]).unwrap_err().to_string();
        assert!(
            told.ends_with("has several splits; name one of them with `split`: `test`, `train`"),
            "{told}"
        );
    }
}

/// A Parquet file of texts, as Hadoop compresses it (`LZ4`, not `LZ4_RAW`), which no writer of Python makes any more.
fn written(codec: Compression, texts: &[&str]) -> Vec<u8> {
    let column = Arc::new(StringArray::from(texts.to_vec()));
    let batch = RecordBatch::try_from_iter([("text", column as _)]).unwrap();
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn both_kinds_of_lz4_are_read() {
    for codec in [Compression::LZ4, Compression::LZ4_RAW] {
        let dir = folder(&[("a.parquet", &written(codec, &["one", "two"]))]);
        assert_eq!(
            texts(&read(&dir).unwrap().documents),
            ["one", "two"],
            "{codec}"
        );
    }
}

#[test]
fn the_rows_of_a_file_of_columns_have_their_numbers() {
    let many: Vec<_> = (0..1_500)
        .map(|row| if row == 1_233 { " " } else { "words" })
        .collect();
    let dir = folder(&[("a.parquet", &written(Compression::SNAPPY, &many))]);
    let read = read(&dir).unwrap();
    assert_eq!(read.documents.len(), 1_499);
    assert_eq!(read.documents[0].row, Some(1));
    assert_eq!(read.documents[1_498].row, Some(1_500));
    assert_eq!(read.skipped[0].row, Some(1_234));
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
fn a_damaged_file_of_columns_is_told_and_none_ends_the_program() {
    for name in [
        "codec_snappy.parquet",
        "codec_zstd.parquet",
        "types.parquet",
        "types.arrow",
        "views.arrow",
    ] {
        let bytes = bytes_of(name);
        for end in [0, 3, 11, bytes.len() / 2, bytes.len() - 1] {
            let told = told(name, &bytes[..end]);
            assert!(
                ["damaged", "not a", "an empty file", "ends after"]
                    .iter()
                    .any(|word| told.contains(word)),
                "{name} cut at {end}: {told}"
            );
        }
        // A page or a length that is wrong is told, or its text is; the decoder's panics are caught.
        for at in (4..bytes.len()).step_by(101) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x55;
            let dir = folder(&[(name, &bytes)]);
            let _ = read(&dir);
            let _ = look_at_dir(&dir);
        }
    }
    let mut page = bytes_of("codec_snappy.parquet");
    let text = page
        .windows(6)
        .position(|bytes| bytes == b"Line 0")
        .unwrap();
    page[text - 8..text + 8].fill(0xff);
    let told = told("codec_snappy.parquet", &page);
    assert!(
        told.starts_with("codec_snappy.parquet: damaged Parquet file: "),
        "{told}"
    );
}

#[test]
fn other_files_under_the_names_of_columns_are_told() {
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n";
    let pointer = "a pointer of Git LFS and not the file; fetch the file with `git lfs pull`";
    assert_eq!(told("a.parquet", lfs), format!("a.parquet: {pointer}"));
    assert_eq!(told("a.arrow", lfs), format!("a.arrow: {pointer}"));
    assert_eq!(
        told("a.parquet", b"{}"),
        "a.parquet: not a Parquet file, as its name says"
    );
    assert_eq!(
        told("a.arrow", b"{\"a\": 1}"),
        "a.arrow: not an Arrow file, as its name says"
    );
    assert_eq!(
        told("a.arrow", &bytes_of("packed_inside.arrow")),
        "a.arrow: its buffers are compressed by lz4, which is not built in; write it as Parquet, or without compression"
    );
    let whole = bytes_of("types.arrow");
    assert_eq!(
        told("a.arrow", &whole[..whole.len() - 8]),
        "a.arrow: ends after 2 rows without the mark of its end; fetch or write it again"
    );
}

#[test]
fn a_codec_that_is_not_built_in_is_told_by_name() {
    // No writer that is at hand has LZO: the footer of a file with snappy says it instead, for each part of the column.
    let of_codec = |zigzag: u8| {
        let mut bytes = bytes_of("codec_snappy.parquet");
        let (before, snappy) = (b"\x04text\x15", 2);
        let places: Vec<_> = (0..bytes.len() - 6)
            .filter(|at| bytes[*at..].starts_with(before) && bytes[at + 6] == snappy)
            .collect();
        assert_eq!(places.len(), 2);
        for at in places {
            bytes[at + 6] = zigzag;
        }
        told("a.parquet", &bytes)
    };
    let help = "write it again with snappy, zstd, gzip, lz4 or brotli";
    assert_eq!(
        of_codec(6),
        format!("a.parquet: compressed by LZO, which is not built in; {help}")
    );
    let told = of_codec(40);
    assert!(
        told.starts_with("a.parquet: compressed by a codec that is not known here (")
            && told.ends_with(help)
            && told.contains("20"),
        "{told}"
    );
}

#[test]
fn an_encrypted_file_is_told_and_what_is_not_encrypted_of_it_is_read() {
    let expected =
        "an encrypted Parquet file, which cannot be read here; write it again without encryption";
    for name in ["encrypted.parquet", "encrypted_column.parquet"] {
        assert_eq!(told(name, &bytes_of(name)), format!("{name}: {expected}"));
    }
    let source = SourcePlan {
        fields: FieldsPlan(vec![(RowField::Text, "id".to_owned())]),
        ..plan(&golden().join("encrypted_column.parquet"))
    };
    let told = read_documents(&[source], OnBadRow::Fail)
        .unwrap_err()
        .to_string();
    assert!(told.ends_with("`id` is a number, not a string"), "{told}");
}

#[test]
fn a_key_of_a_map_that_stands_twice_is_told() {
    let mut variables = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for value in ["1", "2"] {
        variables.keys().append_value("a");
        variables.values().append_value(value);
    }
    variables.append(true).unwrap();
    let columns: [(&str, ArrayRef); 3] = [
        ("prompt", Arc::new(StringArray::from(vec!["p"]))),
        ("completion", Arc::new(StringArray::from(vec!["c"]))),
        ("chat_template_kwargs", Arc::new(variables.finish())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    assert_eq!(
        told("a.parquet", &writer.into_inner().unwrap()),
        "a.parquet:1: in `chat_template_kwargs`, `a` stands twice in one object, and which one is meant is not known"
    );
}

#[test]
fn columns_that_are_missing_or_cannot_be_rows_are_told_by_name() {
    let with = |name: &str, change: &dyn Fn(&mut SourcePlan)| {
        let mut source = plan(&golden().join(name));
        change(&mut source);
        let error = read_documents(&[source], OnBadRow::Fail)
            .unwrap_err()
            .to_string();
        error
            .rsplit_once(&format!("{name}: "))
            .unwrap()
            .1
            .to_owned()
    };
    let text = |column: &'static str| {
        move |source: &mut SourcePlan| {
            source.fields = FieldsPlan(vec![(RowField::Text, column.to_owned())]);
        }
    };
    assert_eq!(
        with("codec_snappy.parquet", &text("body")),
        "no column `body`; it has `id`, `text`"
    );
    let refused = "which no row of text or messages can have; write it as text, or leave it out";
    for (column, kind) in [
        ("when", "Timestamp(µs)"),
        ("picture", "Binary"),
        ("price", "Decimal128(5, 2)"),
    ] {
        assert_eq!(
            with("types.parquet", &text(column)),
            format!("column `{column}` holds {kind}, {refused}")
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let number = Arc::new(TimestampSecondArray::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("body", number as _)]).unwrap();
    let path = dir.path().join("a.parquet");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.into_inner().unwrap();
    files::write_atomically(&path, |out| out.write_all(&bytes)).unwrap();
    let told = read_paths(&[path]).unwrap_err().to_string();
    assert!(
        told.ends_with(
            "no column that says what its rows hold, such as `text` or `messages`; it has `body`"
        ),
        "{told}"
    );
    let source = SourcePlan {
        fields: FieldsPlan(vec![(RowField::Text, "id".to_owned())]),
        ..plan(&golden().join("codec_none.parquet"))
    };
    let told = read_documents(&[source], OnBadRow::Fail)
        .unwrap_err()
        .to_string();
    assert!(
        told.ends_with("codec_none.parquet:1: `id` is a number, not a string; the same on 39 more rows of this file"),
        "{told}"
    );
}
