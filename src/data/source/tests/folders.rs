//! Folders: one kind of files, splits, and what is passed over.

use super::*;

fn read_split(dir: &tempfile::TempDir, split: Option<&str>) -> Result<Vec<String>, String> {
    let source = SourcePlan {
        split: split.map(str::to_owned),
        ..plan(dir.path())
    };
    let read = read_documents(&[source], OnBadRow::Fail).map_err(|error| {
        let told = message(dir, &error);
        told.replace(dir.path().to_str().unwrap(), "FOLDER")
    })?;
    Ok(texts(&read.documents)
        .into_iter()
        .map(str::to_owned)
        .collect())
}

fn row(text: &str) -> Vec<u8> {
    format!("[{{\"text\": \"{text}\"}}]").into_bytes()
}

#[test]
fn a_split_is_picked_by_the_names_of_files_and_asked_for_where_there_are_several() {
    let dir = folder(&[
        ("data/train-00000-of-00002.json", &row("1")),
        ("data/train-00001-of-00002.json", &row("2")),
        ("data/test-00000-of-00001.json", &row("3")),
        ("more.json", &row("4")),
    ]);
    assert_eq!(read_split(&dir, Some("train")).unwrap(), ["1", "2"]);
    assert_eq!(read_split(&dir, Some("test")).unwrap(), ["3"]);
    assert_eq!(
        read_split(&dir, None).unwrap_err(),
        "1 fault in the text\n  FOLDER: has several splits; name one of them with `split`: `test`, `train`"
    );
    assert_eq!(
        read_split(&dir, Some("validation")).unwrap_err(),
        "1 fault in the text\n  FOLDER: no split `validation`; it has `test`, `train`"
    );
    let source = SourcePlan {
        split: Some("train".to_owned()),
        ..plan(dir.path())
    };
    let passed_over = look_at(&[source], OnBadRow::Fail).unwrap().passed_over;
    let told = passed_over[0].to_string();
    assert!(
        told.ends_with(
            "are passed over, not of split `train`: `data/test-00000-of-00001.json`, `more.json`"
        ),
        "{told}"
    );
    // Two splits of one folder are two sources; one of them twice is read once.
    let of = |split: &str| SourcePlan {
        split: Some(split.to_owned()),
        ..plan(dir.path())
    };
    let both = [of("test"), of("train"), of("test")];
    let both = read_documents(&both, OnBadRow::Fail).unwrap();
    assert_eq!(texts(&both.documents), ["3", "1", "2"]);
    assert_eq!(both.skipped[0].reason, SkipReason::ReadBefore);
    let one = folder(&[("dev.json", &row("1")), ("more.json", &row("2"))]);
    assert_eq!(read_split(&one, None).unwrap(), ["1", "2"]);
    assert_eq!(read_split(&one, Some("valid")).unwrap(), ["1"]);
    let none = folder(&[("a.json", &row("1"))]);
    assert_eq!(read_split(&none, Some("train")).unwrap(), ["1"]);
    assert!(
        read_split(&none, Some("test"))
            .unwrap_err()
            .ends_with("no split `test`: its files name none")
    );
}

#[test]
fn a_folder_of_texts_is_read_whole_unless_a_split_is_named() {
    let dir = folder(&[
        ("train/a.txt", b"1"),
        ("validation/b.txt", b"2"),
        ("c.jsonl", b"{\"text\": \"3\"}"),
    ]);
    assert_eq!(read_split(&dir, None).unwrap(), ["3", "1", "2"]);
    assert_eq!(read_split(&dir, Some("validation")).unwrap(), ["2"]);
    let looked = look_at_dir(&dir).unwrap();
    assert_eq!(looked.notes.len(), 1);
    assert!(
        looked.notes[0]
            .ends_with("is read, splits `train`, `validation` together; `split` picks one"),
        "{:?}",
        looked.notes
    );
}

#[test]
fn a_file_beside_its_compressed_form_is_read_once() {
    let dir = folder(&[("a.txt", b"1"), ("a.txt.gz", b"packed"), ("b.json", b"{}")]);
    let looked = look_at_dir(&dir).unwrap();
    let told: Vec<_> = looked.passed_over.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].ends_with("neither `.txt` nor `.jsonl`: `b.json`"),
        "{told:?}"
    );
    assert!(
        told[1].ends_with("compressed, and read unpacked beside it: `a.txt.gz`"),
        "{told:?}"
    );
}

#[test]
fn configurations_of_a_readme_pick_files_and_splits() {
    let readme = "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n    path: a/*.jsonl\n  - split: test\n    path: a.test.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n";
    let dir = folder(&[
        ("README.md", readme.as_bytes()),
        ("a/1.jsonl", b"{\"text\": \"1\"}"),
        ("a/2.jsonl", b"{\"text\": \"2\"}"),
        ("a.test.jsonl", b"{\"text\": \"3\"}"),
        ("b.jsonl", b"{\"text\": \"4\"}"),
    ]);
    let read = |config: Option<&str>, split: Option<&str>| {
        let source = SourcePlan {
            split: split.map(str::to_owned),
            config: config.map(str::to_owned),
            ..plan(dir.path())
        };
        let read = read_documents(&[source], OnBadRow::Fail).map_err(|error| error.to_string())?;
        Ok::<_, String>(texts(&read.documents).concat())
    };
    assert_eq!(read(Some("a"), Some("train")).unwrap(), "12");
    assert_eq!(read(Some("a"), Some("test")).unwrap(), "3");
    assert_eq!(read(Some("b"), None).unwrap(), "4");
    let told = read(None, None).unwrap_err();
    assert!(
        told.ends_with(
            "its README has several configurations; name one of them with `config`: `a`, `b`"
        ),
        "{told}"
    );
    let told = read(Some("a"), None).unwrap_err();
    assert!(
        told.ends_with("has several splits; name one of them with `split`: `test`, `train`"),
        "{told}"
    );
    fs::remove_file(dir.path().join("a.test.jsonl")).unwrap();
    let told = read(Some("a"), Some("test")).unwrap_err();
    assert!(
        told.contains("has files for split `test`, and none that can be read is here"),
        "{told}"
    );
    let plain = folder(&[("a.txt", b"1")]);
    let source = SourcePlan {
        config: Some("x".to_owned()),
        ..plan_of(&plain)
    };
    let told = read_documents(&[source], OnBadRow::Fail)
        .unwrap_err()
        .to_string();
    assert!(
        told.ends_with("no configuration `x`: the folder has no README.md that lists any"),
        "{told}"
    );
}

fn plan_of(dir: &tempfile::TempDir) -> SourcePlan {
    plan(dir.path())
}

#[test]
fn names_in_a_saved_folder_do_not_lead_out_of_it() {
    let dir = folder(&[
        ("dataset_info.json", b"{}"),
        (
            "state.json",
            b"{\"_data_files\": [{\"filename\": \"../other.arrow\"}]}",
        ),
    ]);
    let told = read(&dir).unwrap_err().to_string();
    assert!(
        told.contains(
            "its `state.json` names `../other.arrow`, which is no name of a file beside it"
        ),
        "{told}"
    );
    let dir = folder(&[("dataset_dict.json", b"{\"splits\": [\"/etc\"]}")]);
    let told = read(&dir).unwrap_err().to_string();
    assert!(
        told.contains("its `dataset_dict.json` names `/etc`"),
        "{told}"
    );
    let dir = folder(&[("dataset_dict.json", b"[]")]);
    let told = read(&dir).unwrap_err().to_string();
    assert!(
        told.contains("its `dataset_dict.json` is not one of `save_to_disk`"),
        "{told}"
    );
}

const MEND: &str = "fetch the whole folder again, or name the files that are there one by one, to read these alone";

#[test]
fn a_shard_that_is_missing_is_told_and_files_that_are_named_are_read_alone() {
    let line = b"{\"text\": \"1\"}";
    let list = [b"[", &line[..], b"]"].concat();
    let packed = zstd::encode_all(&line[..], 1).unwrap();
    for (name, bytes) in [
        ("train-00000-of-00002.jsonl", &line[..]),
        ("data/train-00000-of-00002.jsonl.zst", &packed),
        ("data/train-00000-of-00002-1a2b.json", &list),
        ("c4-train.00000-of-00002.json", &list),
    ] {
        let dir = folder(&[(name, bytes)]);
        let missing = name.replace("00000-of", "00001-of").replace("-1a2b", "");
        let expected = format!(
            "1 fault in the text\n  FOLDER: 1 of 2 files of one series is missing, `{missing}`; {MEND}"
        );
        assert_eq!(read_split(&dir, None).unwrap_err(), expected);
        let told = look_at_dir(&dir).unwrap_err().to_string();
        assert!(told.ends_with(MEND), "{told}");
        let alone = read_paths(&[dir.path().join(name)]).unwrap();
        assert_eq!(texts(&alone.documents), ["1"]);
    }
    // What is missing of a split that is not read is nobody's loss.
    let dir = folder(&[
        ("train-00000-of-00001.json", &row("1")),
        ("test-00001-of-00002.json", &row("2")),
    ]);
    assert_eq!(read_split(&dir, Some("train")).unwrap(), ["1"]);
    assert!(
        read_split(&dir, Some("test"))
            .unwrap_err()
            .contains("`test-00000-of-00002.json`")
    );
}

#[test]
fn what_a_readme_or_a_saved_folder_lists_is_there_or_told() {
    let readme = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [a.jsonl, b.jsonl]\n  - split: test\n    path: c.jsonl\n---\n";
    let line = b"{\"text\": \"1\"}".as_slice();
    let dir = folder(&[
        ("README.md", readme.as_bytes()),
        ("a.jsonl", line),
        ("c.jsonl", line),
    ]);
    assert_eq!(
        read_split(&dir, Some("train")).unwrap_err(),
        format!(
            "1 fault in the text\n  FOLDER: its README.md lists `b.jsonl`, which is not here; {MEND}"
        )
    );
    assert_eq!(read_split(&dir, Some("test")).unwrap(), ["1"]);
    let dir = folder(&[
        ("dataset_info.json", b"{}"),
        (
            "state.json",
            b"{\"_data_files\": [{\"filename\": \"data-00000-of-00001.arrow\"}]}",
        ),
    ]);
    let expected = format!(
        "1 fault in the text\n  data-00000-of-00001.arrow: `state.json` beside it names it, and it is not there; {MEND}"
    );
    assert_eq!(read_split(&dir, None).unwrap_err(), expected);
    assert!(look_at_dir(&dir).is_err(), "a look tells it, too");
    let dir = folder(&[("dataset_dict.json", b"{\"splits\": [\"train\", \"test\"]}")]);
    assert_eq!(
        read_split(&dir, Some("test")).unwrap_err(),
        "1 fault in the text\n  FOLDER: its `dataset_dict.json` names split `test`, whose folder is not here; fetch the whole folder again"
    );
}

#[test]
fn files_of_another_configuration_are_passed_over_as_such() {
    let readme = "---\nconfigs:\n- config_name: all\n  data_files: all/*.jsonl\n- config_name: few\n  data_files: few/*.jsonl\n---\n";
    let line =
        b"{\"text\": \"1\", \"messages\": [{\"role\": \"user\", \"content\": \"u\"}]}".as_slice();
    let dir = folder(&[
        ("README.md", readme.as_bytes()),
        ("all/train.jsonl", line),
        ("few/a.jsonl", line),
        ("few/b.jsonl", line),
    ]);
    let source = SourcePlan {
        config: Some("few".to_owned()),
        ..plan_of(&dir)
    };
    let looked = look_at(&[source], OnBadRow::Fail).unwrap();
    let told: Vec<_> = looked.passed_over.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].ends_with("not of configuration `few`: `all/train.jsonl`"),
        "{told:?}"
    );
    assert!(
        told[1].ends_with("neither `.txt` nor `.jsonl`: `README.md`"),
        "{told:?}"
    );
    // One note for all files, and the same for all splits.
    assert_eq!(
        looked.notes,
        ["`messages` is read, and not `text` beside it; `format: text` reads that"]
    );
}
