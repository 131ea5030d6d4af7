use std::fs;
use std::path::PathBuf;

use crate::data::{
    DataError, DataPlan, Prepared, SkipReason, Tokenizer, TokenizerPlan, TrainTokenizer, prepare,
};
use crate::files;

struct Setup {
    dir: tempfile::TempDir,
    plan: DataPlan,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = DataPlan {
            train: vec![dir.path().join("train")],
            validation: vec![dir.path().join("validation.txt")],
            train_tokens: None,
            sequence_length: 16,
            validation_tokens: None,
            tokenizer: TokenizerPlan::Train(TrainTokenizer { vocab_size: 280 }),
        };
        let setup = Self { dir, plan };
        setup.write("train/a.txt", &"It is a truth, £ 20. ".repeat(30));
        setup.write("train/b.txt", "universally acknowledged");
        setup.write("validation.txt", &"She was £ 5 — or less. ".repeat(9));
        setup
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        files::write_atomically(&path, |out| out.write_all(text.as_bytes())).unwrap();
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn prepare(&self) -> Result<Prepared, DataError> {
        prepare(&self.plan, None, &self.cache(), None)
    }

    fn cached(&self, prefix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(prefix)
        });
        paths.sort();
        paths
    }
}

#[test]
fn rows_hold_the_whole_text_and_count_its_bytes() {
    let setup = Setup::new();
    let prepared = setup.prepare().unwrap();
    assert_eq!(prepared.end_of_text, 0);
    assert_eq!(prepared.train.num_bytes(), 22 * 30 + 24);
    assert_eq!(prepared.validation.num_bytes(), 26 * 9);

    let mut stream = vec![prepared.train.row(0)[0]];
    for row_idx in 0..prepared.train.num_rows() {
        stream.extend(&prepared.train.labels(row_idx)[..prepared.train.mask(row_idx).count()]);
    }
    let documents: Vec<_> = stream.split(|&id| id == 0).collect();
    assert_eq!(documents.len(), 4, "end-of-text before, between and after");
    assert!(
        prepared
            .tokenizer
            .decode(documents[1])
            .unwrap()
            .starts_with("It is a truth, £ 20. It")
    );
    assert_eq!(
        prepared.tokenizer.decode(documents[2]).unwrap(),
        "universally acknowledged"
    );
}

#[test]
fn a_second_run_takes_everything_from_the_cache() {
    let setup = Setup::new();
    let first = setup.prepare().unwrap();
    let second = setup.prepare().unwrap();
    assert_eq!((first.from_cache, second.from_cache), (false, true));
    assert_eq!(first.train, second.train);
    assert_eq!(first.validation, second.validation);
    assert_eq!(first.tokenizer.bytes(), second.tokenizer.bytes());
    assert_eq!(
        (
            setup.cached("rows-").len(),
            setup.cached("tokenizer-").len()
        ),
        (2, 1)
    );
}

#[test]
fn a_change_of_text_length_limit_or_separator_makes_new_rows() {
    let mut setup = Setup::new();
    setup.prepare().unwrap();
    let eot = 65;
    assert!(
        !prepare(&setup.plan, None, &setup.cache(), Some(eot))
            .unwrap()
            .from_cache
    );
    setup.plan.sequence_length = 8;
    assert!(!setup.prepare().unwrap().from_cache);
    setup.plan.validation_tokens = Some(16);
    let limited = setup.prepare().unwrap();
    assert_eq!(
        (limited.from_cache, limited.validation.num_positions()),
        (false, 16)
    );
    setup.write("validation.txt", "Another text.");
    let changed = setup.prepare().unwrap();
    assert_eq!(
        (changed.from_cache, changed.validation.num_bytes()),
        (false, 13)
    );
}

#[test]
fn a_damaged_file_is_made_again_and_said() {
    let setup = Setup::new();
    let first = setup.prepare().unwrap();
    for path in setup.cached("") {
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [flipped.as_slice(), &whole[..whole.len() - 1], b""] {
            files::write_atomically(&path, |out| out.write_all(damaged)).unwrap();
            let again = setup.prepare().unwrap();
            assert_eq!(
                (again.rebuilt, again.from_cache),
                (vec![path.clone()], false)
            );
            assert_eq!(
                (&again.train, &again.validation),
                (&first.train, &first.validation)
            );
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }
}

#[test]
fn rows_of_another_text_under_the_wrong_name_are_not_taken() {
    let setup = Setup::new();
    let first = setup.prepare().unwrap();
    let [a, b] = setup.cached("rows-").try_into().unwrap();
    fs::copy(&a, &b).unwrap();
    let again = setup.prepare().unwrap();
    assert_eq!(again.rebuilt, [b]);
    assert_eq!(
        (again.train, again.validation),
        (first.train, first.validation)
    );
}

#[test]
fn documents_without_a_token_are_reported_in_every_run() {
    let mut setup = Setup::new();
    let tokenizer = setup.prepare().unwrap().tokenizer;
    let mut json: serde_json::Value = serde_json::from_slice(tokenizer.bytes()).unwrap();
    json["normalizer"] =
        serde_json::json!({"type": "Replace", "pattern": {"String": "x"}, "content": ""});
    files::write_json(&setup.dir.path().join("tokenizer.json"), &json).unwrap();
    setup.plan.tokenizer = TokenizerPlan::Teacher;
    setup.write("train/b.txt", "");
    setup.write("train/c.jsonl", "{\"text\": \"y\"}\n{\"text\": \"xx\"}\n");
    let tokenizer = Tokenizer::of_model(setup.dir.path()).unwrap();
    for from_cache in [false, true] {
        let prepared = prepare(&setup.plan, Some(&tokenizer), &setup.cache(), None).unwrap();
        assert_eq!(prepared.from_cache, from_cache);
        let skipped: Vec<_> = prepared
            .skipped
            .iter()
            .map(|s| {
                (
                    s.path.file_name().unwrap().to_str().unwrap(),
                    s.row,
                    s.reason,
                )
            })
            .collect();
        assert_eq!(
            skipped,
            [
                ("b.txt", None, SkipReason::Empty),
                ("c.jsonl", Some(2), SkipReason::NoTokens)
            ]
        );
    }
    setup.write("validation.txt", "xxx");
    let error = prepare(&setup.plan, Some(&tokenizer), &setup.cache(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "validation text: the tokenizer gives no tokens for it"
    );
}

#[test]
fn what_is_missing_is_named() {
    let mut setup = Setup::new();
    let error = prepare(&setup.plan, None, &setup.cache(), Some(5000)).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::EndOfTextRange {
                id: 5000,
                vocab_size: 257..=280
            }
        ),
        "{error}"
    );
    setup.plan.tokenizer = TokenizerPlan::Teacher;
    assert!(matches!(setup.prepare(), Err(DataError::NoTokenizer)));
    setup.write("validation.txt", "");
    let error = setup.prepare().unwrap_err().to_string();
    assert!(
        error.starts_with("validation text: no text in `"),
        "{error}"
    );
}
