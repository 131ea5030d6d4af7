use std::fs;
use std::path::PathBuf;

use crate::chat::Learn;
use crate::data::{
    CalibrateOn, DataError, DataPlan, OnBadRow, Prepared, SkipReason, SourcePlan, TokenRows,
    Tokenizer, TokenizerChange, TokenizerPlan, TrainTokenizer, prepare, read_rows,
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
            train: vec![dir.path().join("train").into()],
            validation: vec![dir.path().join("validation.txt").into()],
            train_tokens: None,
            sequence_length: 16,
            validation_tokens: None,
            learn: None,
            on_bad_row: OnBadRow::Fail,
            calibrate_on: CalibrateOn::All,
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
        prepare(
            &self.plan,
            None,
            &TokenizerChange::default(),
            &self.cache(),
            None,
            &[],
        )
    }

    /// Rows of a given tokenizer; see [`prepare`].
    fn prepare_with(
        &self,
        tokenizer: &Tokenizer,
        eos: Option<u32>,
        ends: &[u32],
    ) -> Result<Prepared, DataError> {
        let unchanged = TokenizerChange::default();
        prepare(
            &self.plan,
            Some(tokenizer),
            &unchanged,
            &self.cache(),
            eos,
            ends,
        )
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
        !prepare(
            &setup.plan,
            None,
            &TokenizerChange::default(),
            &setup.cache(),
            Some(eot),
            &[]
        )
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
        let prepared = setup.prepare_with(&tokenizer, None, &[]).unwrap();
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
    let error = setup.prepare_with(&tokenizer, None, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "validation text: the tokenizer gives no tokens for it"
    );
}

#[test]
fn what_is_missing_is_named() {
    let mut setup = Setup::new();
    let error = prepare(
        &setup.plan,
        None,
        &TokenizerChange::default(),
        &setup.cache(),
        Some(5000),
        &[],
    )
    .unwrap_err();
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

const CHATS: &str = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]}
{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}, {"role": "assistant", "content": "z", "train": false}]}
"#;

const PAIRS: &str = r#"{"prompt": "Say a", "completion": " b c"}"#;

/// A plan over prose and conversations, with the tokenizer of a model that has a template.
fn with_chats() -> (Setup, Tokenizer) {
    let mut setup = Setup::new();
    setup.plan.tokenizer = TokenizerPlan::Teacher;
    setup.plan.sequence_length = 64;
    for (name, rows) in [("chats.jsonl", CHATS), ("pairs.jsonl", PAIRS)] {
        setup.write(name, rows);
        let source = SourcePlan::from(setup.dir.path().join(name));
        setup.plan.train.push(source);
    }
    let tokenizer = Tokenizer::of_model("tests/golden/hf-llama-256".as_ref()).unwrap();
    (setup, tokenizer)
}

/// Text of the tokens that a row learns.
fn learnt(rows: &TokenRows, row_idx: usize, tokenizer: &Tokenizer) -> String {
    let labels = rows.labels(row_idx);
    let ids = rows
        .mask(row_idx)
        .positions()
        .map(|position| labels[position]);
    let text = |id: u32| {
        let token = tokenizer.token(id).unwrap_or_default();
        if tokenizer.is_special(id) {
            token
        } else {
            tokenizer.decode(&[id]).unwrap()
        }
    };
    ids.map(text).collect()
}

#[test]
fn conversations_follow_the_prose_and_learn_what_the_model_writes() {
    let (setup, tokenizer) = with_chats();
    let prepare = |setup: &Setup| setup.prepare_with(&tokenizer, None, &[2]).unwrap();
    let prepared = prepare(&setup);
    let rows = &prepared.train;
    let first = rows.num_streamed();
    assert!(first > 0);
    assert_eq!(
        rows.num_rows(),
        first + 2,
        "nothing of the last conversation is learnt"
    );
    assert_eq!(
        learnt(rows, first, &tokenizer),
        "Yes.<|im_end|>No.<|im_end|>"
    );
    let bytes = "Yes.<|im_end|>No.<|im_end|>".len() + " b c".len();
    let prose = rows.split_at(first)[0].num_text_positions();
    assert_eq!(learnt(rows, first + 1, &tokenizer), " b c<|im_end|>");
    assert_eq!(
        rows.num_positions() - rows.num_text_positions(),
        rows.split_at(first)[0].num_positions() - prose + 1,
        "the token behind the completion is no text"
    );
    assert!(rows.num_bytes() > bytes as u64 && prose > 0);
    let begins = tokenizer.encode("<|im_start|>user\nHi<|im_end|>").unwrap();
    assert!(rows.row(first).starts_with(&begins));
    let notes = ["train: 1 rows were left out, because nothing of them is learnt".to_owned()];
    assert_eq!(prepared.notes, notes);
    let again = prepare(&setup);
    assert!(again.from_cache);
    assert_eq!((again.train, again.notes), (prepared.train, prepared.notes));
}

#[test]
fn what_is_learnt_is_a_choice_and_part_of_the_key() {
    let (mut setup, tokenizer) = with_chats();
    let mut of = |learn| {
        setup.plan.learn = Some(learn);
        let prepared = setup.prepare_with(&tokenizer, None, &[2]).unwrap();
        assert!(!prepared.from_cache, "{learn:?}");
        let rows = prepared.train;
        learnt(&rows, rows.num_streamed(), &tokenizer)
    };
    assert_eq!(of(Learn::LastTurn), "No.<|im_end|>");
    let all = of(Learn::All);
    assert!(all.starts_with("user\nHi<|im_end|>"), "{all}"); // nothing predicts the first token
    assert!(all.ends_with("No.<|im_end|>\n"), "{all}");
}

#[test]
fn a_completion_of_turns_is_learnt_to_its_end_and_one_of_text_with_its_first_word() {
    let (mut setup, tokenizer) = with_chats();
    let turns = r#"{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]}"#;
    let texts = "{\"prompt\": \"A cat and \", \"completion\": \"the\"}\n{\"prompt\": \"A cat\\n\", \"completion\": \"the\"}";
    setup.write("chats.jsonl", turns);
    setup.write("pairs.jsonl", texts);
    setup.plan.train.remove(0);
    let prepared = setup.prepare_with(&tokenizer, None, &[2]);
    let rows = prepared.unwrap().train;
    let turns = learnt(&rows, 0, &tokenizer);
    assert!(turns.starts_with("Yes.<|im_end|>"), "{turns}");
    assert!(turns.ends_with("assistant\nNo.<|im_end|>"), "{turns}");
    assert_eq!(learnt(&rows, 1, &tokenizer), " the<|im_end|>");
    assert_eq!(learnt(&rows, 2, &tokenizer), "the<|im_end|>");
}

#[test]
fn what_the_template_leaves_out_is_told() {
    let (mut setup, tokenizer) = with_chats();
    let call = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}]}]}"#;
    setup.write("chats.jsonl", &format!("{call}\n{CHATS}"));
    setup.plan.train.remove(0);
    setup.plan.train.pop();
    let prepared = setup.prepare_with(&tokenizer, None, &[2]);
    let notes = prepared.unwrap().notes;
    let found = notes
        .iter()
        .any(|note| note.contains("leaves out something") && note.contains("in 1 of 3"));
    assert!(found, "{notes:?}");
}

#[test]
fn rows_that_teach_nothing_are_told_before_anything_else() {
    let (mut setup, tokenizer) = with_chats();
    setup.plan.train.remove(0);
    setup.plan.sequence_length = 3;
    let error = setup.prepare_with(&tokenizer, None, &[2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "train text: nothing of it is learnt: 3 of 3 conversations are longer than `sequence_length`, which cuts off what the assistant says"
    );
    let sources = [SourcePlan::from(setup.dir.path().join("chats.jsonl"))];
    let rows = read_rows(&sources, &tokenizer, 64, None, &[2]).unwrap();
    assert_eq!((rows.num_rows(), rows.num_streamed()), (1, 0));
}

#[test]
fn turns_without_an_end_or_a_template_are_told() {
    let (mut setup, _) = with_chats();
    setup.plan.train.pop(); // its completion learns the end of a text
    setup.write("chats.jsonl", CHATS.lines().next().unwrap());
    let folder = setup.dir.path().join("model");
    fs::create_dir(&folder).unwrap();
    for name in ["tokenizer.json", "chat_template.jinja"] {
        fs::copy(
            format!("tests/golden/hf-llama-256/{name}"),
            folder.join(name),
        )
        .unwrap();
    }
    let tokenizer = Tokenizer::of_model(&folder).unwrap(); // names no end
    let prepared = setup.prepare_with(&tokenizer, Some(0), &[]).unwrap();
    let [note] = &prepared.notes[..] else {
        panic!("{:?}", prepared.notes)
    };
    assert!(
        note.contains("no row learns a token that ends a turn"),
        "{note}"
    );
    fs::remove_file(folder.join("chat_template.jinja")).unwrap();
    let tokenizer = Tokenizer::of_model(&folder).unwrap();
    let error = setup.prepare_with(&tokenizer, Some(0), &[]).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "chats.jsonl:1: a conversation, and the model has no chat template to render it"
        ),
        "{error}"
    );
}
