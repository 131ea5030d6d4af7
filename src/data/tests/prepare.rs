use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chat::Learn;
use crate::data::{
    CalibrateOn, DataError, DataPlan, Longer, OnBadRow, PackingKind, Prepared, SourcePlan,
    TokenRows, Tokenizer, TokenizerChange, TokenizerPlan, TrainTokenizer, prepare, read_rows,
};
use crate::files;
use crate::hashes::Hashes;

struct Setup {
    dir: tempfile::TempDir,
    plan: DataPlan,
    stop: AtomicBool,
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
            packing: None,
            longer: None,
            on_bad_row: OnBadRow::Fail,
            calibrate_on: CalibrateOn::All,
            tokenizer: TokenizerPlan::Train(TrainTokenizer { vocab_size: 280 }),
        };
        let stop = AtomicBool::new(false);
        let setup = Self { dir, plan, stop };
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
        self.prepare_by(None, None, &[])
    }

    /// Rows of a given tokenizer; see [`prepare`].
    fn prepare_with(
        &self,
        tokenizer: &Tokenizer,
        eos: Option<u32>,
        ends: &[u32],
    ) -> Result<Prepared, DataError> {
        self.prepare_by(Some(tokenizer), eos, ends)
    }

    fn prepare_by(
        &self,
        tokenizer: Option<&Tokenizer>,
        eos: Option<u32>,
        ends: &[u32],
    ) -> Result<Prepared, DataError> {
        let hashes = Hashes::of_this_process(0.0);
        let unchanged = TokenizerChange::default();
        let ends = (eos, ends);
        prepare(
            &self.plan,
            tokenizer,
            &unchanged,
            &self.cache(),
            ends,
            (&hashes, &self.stop),
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
    assert!(!setup.prepare_by(None, Some(eot), &[]).unwrap().from_cache);
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
fn a_signal_stops_the_making_of_rows_and_leaves_nothing_of_them() {
    let mut setup = Setup::new();
    setup.stop.store(true, Ordering::Relaxed);
    let told = setup.prepare().unwrap_err().to_string();
    assert!(
        told.starts_with("stopped while rows were made of the train text"),
        "{told}"
    );
    assert_eq!(setup.cached(""), [] as [PathBuf; 0]);
    // a long file, which is read bit by bit
    setup.stop.store(false, Ordering::Relaxed);
    let tokenizer = setup.prepare().unwrap().tokenizer;
    setup.write("train/b.txt", &"It is a truth. ".repeat(400_000));
    setup.plan.tokenizer = TokenizerPlan::Teacher;
    let before = setup.cached("");
    setup.stop.store(true, Ordering::Relaxed);
    assert!(setup.prepare_with(&tokenizer, None, &[]).is_err());
    assert_eq!(setup.cached(""), before);
}

#[test]
fn rows_of_another_text_under_the_wrong_name_are_not_taken() {
    let setup = Setup::new();
    let hashes = |prepared: Prepared| (prepared.train.hash(), prepared.validation.hash());
    let first = hashes(setup.prepare().unwrap()); // rows that are mapped must not be written over
    let [a, b] = setup.cached("rows-").try_into().unwrap();
    fs::copy(&a, &b).unwrap();
    let again = setup.prepare().unwrap();
    assert_eq!(again.rebuilt, [b]);
    assert_eq!(hashes(again), first);
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
            .map(|told| told.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(
            skipped,
            [
                "b.txt: no text; skipped",
                "c.jsonl:2: too short: the tokenizer gives no tokens for it; skipped"
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
    let error = setup.prepare_by(None, Some(5000), &[]).unwrap_err();
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
    setup.write("validation.txt", "");
    let error = setup.prepare().unwrap_err().to_string();
    assert!(
        error.starts_with("validation text: no text in `"),
        "{error}"
    );
    setup.plan.tokenizer = TokenizerPlan::Teacher;
    assert!(matches!(setup.prepare(), Err(DataError::NoTokenizer)));
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

/// Rows of documents, and streamed rows.
fn split(rows: &TokenRows) -> (TokenRows, TokenRows) {
    let is_apart = |row_idx: &usize| rows.sequence(*row_idx).num_documents() > 1;
    let (apart, streamed): (Vec<usize>, Vec<usize>) = (0..rows.num_rows()).partition(is_apart);
    (rows.only(&apart), rows.only(&streamed))
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
    let (turns, prose) = split(rows);
    assert!(prose.num_rows() > 1);
    assert_eq!(
        turns.num_rows(),
        1,
        "nothing of the last conversation is learnt"
    );
    assert_eq!(
        learnt(&turns, 0, &tokenizer),
        "Yes.<|im_end|>No.<|im_end|> b c<|im_end|>"
    );
    assert_eq!(turns.sequence(0).num_documents(), 3, "with the padding");
    assert_eq!(
        turns.num_positions() - turns.num_text_positions(),
        1,
        "the token behind the completion is no text"
    );
    let begins = tokenizer.encode("<|im_start|>user\nHi<|im_end|>").unwrap();
    assert!(turns.row(0).starts_with(&begins));
    let notes = [
        "train: 1 conversations or pieces of them were left out, because nothing of them is learnt"
            .to_owned(),
    ];
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
        let (turns, _) = split(&prepared.train);
        (0..turns.num_rows())
            .map(|row_idx| learnt(&turns, row_idx, &tokenizer))
            .find(|learnt| learnt.contains("No."))
            .unwrap()
    };
    assert!(of(Learn::LastTurn).starts_with("No.<|im_end|>"));
    let all = of(Learn::All);
    assert!(all.starts_with("user\nHi<|im_end|>"), "{all}"); // nothing predicts the first token
    assert!(all.contains("No.<|im_end|>\n"), "{all}");
}

#[test]
fn packing_and_the_treatment_of_longer_documents_are_choices_and_part_of_the_key() {
    let (mut setup, tokenizer) = with_chats();
    setup.write("validation.txt", "She was");
    setup.plan.sequence_length = 16;
    let mut of = |packing, longer| {
        setup.plan.packing = packing;
        setup.plan.longer = longer;
        let prepared = setup.prepare_with(&tokenizer, None, &[2]).unwrap();
        assert!(!prepared.from_cache);
        let rows = prepared.train;
        let apart = (0..rows.num_rows()).filter(|&row| rows.sequence(row).num_documents() > 1);
        (apart.count(), rows.num_rows(), prepared.notes.join("; "))
    };
    let (apart, all, _) = of(Some(PackingKind::Stream), None);
    assert!(apart == 0 && all > 10);
    let (_, split, notes) = of(Some(PackingKind::Documents), Some(Longer::Split));
    assert!(notes.contains("were split into several"), "{notes}");
    let (_, cut, notes) = of(Some(PackingKind::Documents), Some(Longer::Truncate));
    assert!(
        notes.contains("conversations are longer than `sequence_length` and were cut at its end")
            && notes.contains("2 of 2 texts are longer than `sequence_length` and were cut"),
        "{notes}"
    );
    let (_, left, notes) = of(Some(PackingKind::Documents), Some(Longer::Drop));
    assert!(notes.contains("and were left out"), "{notes}");
    assert!(
        split > cut && cut > left && left > 0,
        "{split} {cut} {left}"
    );
    setup.write("validation.txt", &"She was".repeat(9));
    let error = setup.prepare_with(&tokenizer, None, &[2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "validation text: nothing of it is learnt: 1 of 1 texts are longer than `sequence_length`, and `longer: drop` leaves them out"
    );
}

#[test]
fn a_mixture_is_told_and_asking_for_more_of_it_keeps_its_rows() {
    let (mut setup, tokenizer) = with_chats();
    setup.write("pairs.jsonl", &format!("{PAIRS}\n").repeat(500));
    setup.plan.sequence_length = 16;
    for (source, weight) in setup.plan.train.iter_mut().zip([1.0, 2.0, 2.0]) {
        source.weight = Some(weight);
    }
    setup.write("chats.jsonl", &CHATS.repeat(200));
    let mut of = |tokens| {
        setup.plan.train_tokens = tokens;
        setup.prepare_with(&tokenizer, None, &[2]).unwrap()
    };
    let all = of(None);
    let note = all
        .notes
        .iter()
        .find(|note| note.contains("mixed by weight"));
    let note = note.unwrap();
    assert!(
        note.contains("train: mixed by weight: ") && note.contains("read to its end"),
        "{note}"
    );
    assert_eq!(all.mixed.len(), 3);
    for tokens in [16, 100, 300] {
        let some = of(Some(tokens)).train;
        let first: Vec<usize> = (0..some.num_rows()).collect();
        assert_eq!(some.only(&first).hash(), all.train.only(&first).hash());
    }
}

#[test]
fn a_completion_of_turns_is_learnt_to_its_end_and_one_of_text_with_its_first_word() {
    let (mut setup, tokenizer) = with_chats();
    let turns = r#"{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]}"#;
    let texts = "{\"prompt\": \"A cat and \", \"completion\": \"the\"}\n{\"prompt\": \"A cat\\n\", \"completion\": \"the\"}";
    setup.write("chats.jsonl", turns);
    setup.write("pairs.jsonl", texts);
    setup.plan.train.remove(0);
    setup.plan.sequence_length = 256; // one row
    let prepared = setup.prepare_with(&tokenizer, None, &[2]);
    let rows = prepared.unwrap().train;
    let all: Vec<_> = (0..rows.num_rows())
        .map(|row_idx| learnt(&rows, row_idx, &tokenizer))
        .collect();
    let all = all.concat();
    assert!(all.starts_with("Yes.<|im_end|>"), "{all}");
    assert!(
        all.contains("assistant\nNo.<|im_end|> the<|im_end|>the<|im_end|>"),
        "{all}"
    );
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
    assert_eq!((rows.num_rows(), rows.sequence(0).num_documents()), (1, 2));
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
        note.contains("no conversation learns a token that ends a turn"),
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
