//! Keys of the text and the tokenizer.

use std::path::PathBuf;

use crate::recipe::{Fields, Kind, MAX_SIZE, PathKind, choice, keys};

const TEXTS: Kind = Kind::List(&Kind::Path(PathKind::FileOrFolder), 1, 10_000);

keys! {
    pub struct DataPlan in DATA = "data", "Text and tokenizer. Documents are packed into rows one after another, each followed by an end-of-text token. A row begins \
        without context; within a row, attention reaches into earlier documents. The end-of-text tokens are trained on, \
        but losses and all other measures count only the text." {
        #[serde(skip)]
        train: Vec<PathBuf> = required(TEXTS, "files or folders of `.txt` and `.jsonl` to train on") also ["training", "text", "texts", "files", "dataset"];
        /// Upper limit of training positions: those that the cache captures, if any. `None` uses all text.
        train_tokens: Option<u64> = beside(None);
        #[serde(skip)]
        validation: Vec<PathBuf> = required(TEXTS, "files or folders to evaluate on") also ["valid", "val", "eval", "test", "dev"];
        sequence_length: usize = or("256", Kind::Integer(2, MAX_SIZE), "positions per row") also ["seq_len", "max_length", "max_seq_length", "max_seq_len", "seqlen", "block_size", "context_length", "max_len"];
        validation_tokens: Option<u64> = rule("all of them", Kind::Tokens(1), "upper limit of validation positions evaluated");
        tokenizer: TokenizerPlan = rule("`teacher`; required without a teacher", Kind::Choice(&TOKENIZER), "source of the tokenizer") else teachers;
    }
}

#[expect(clippy::unnecessary_wraps, reason = "some defaults may be missing")]
fn teachers(_: Fields<'_>) -> Option<TokenizerPlan> {
    Some(TokenizerPlan::Teacher)
}

choice! {
    pub enum TokenizerPlan of TokenizerWord in TOKENIZER = "tokenizer", "Source of the tokenizer." {
        Teacher = "teacher", Kind::Unit, "the teacher's own, from its `tokenizer.json` or `.gguf` file";
        File(#[serde(skip)] PathBuf) = "file", Kind::Path(PathKind::File), "a `tokenizer.json` or `.gguf` file";
        Train(TrainTokenizer) = "train", Kind::Block(&TRAIN_TOKENIZER), "a byte-level BPE trained on the training text";
    }
}

keys! {
    pub struct TrainTokenizer in TRAIN_TOKENIZER = "train", "A byte-level BPE trained on the training text." {
        // 256 bytes and the end-of-text token
        vocab_size: usize = required(Kind::Integer(257, MAX_SIZE), "number of tokens, special tokens included");
    }
}
