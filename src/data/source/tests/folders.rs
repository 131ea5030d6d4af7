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
