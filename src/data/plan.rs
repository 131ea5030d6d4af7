//! Keys of the text and the tokenizer.

use std::path::PathBuf;

use super::source::{OnBadRow, SOURCE, SourcePlan};
use crate::chat::Learn;
use crate::recipe::{Fields, Kind, MAX_SIZE, PathKind, Word, choice, keys, words};

const SOURCES: Kind = Kind::List(&Kind::Short(&SOURCE), 1, 10_000);

keys! {
    pub struct DataPlan in DATA = "data", "Text and tokenizer. Documents become rows of one length, as `packing` says; each text is followed by an end-of-text token. These tokens are \
        trained on, but losses and all other measures count only the text. Conversations are rendered by the model's chat template." {
        #[serde(skip)]
        train: Vec<SourcePlan> = required(SOURCES, "files or folders of texts or conversations to train on") also ["training", "text", "texts", "files", "dataset"];
        /// Upper limit of training positions: those that the cache captures, if any. `None` uses all text.
        train_tokens: Option<u64> = beside(None);
        #[serde(skip)]
        validation: Vec<SourcePlan> = required(SOURCES, "files or folders to evaluate on") also ["valid", "val", "eval", "test", "dev"];
        sequence_length: usize = or("256", Kind::Integer(2, MAX_SIZE), "positions per row") also ["seq_len", "max_length", "max_seq_length", "max_seq_len", "seqlen", "block_size", "context_length", "max_len"];
        validation_tokens: Option<u64> = rule("all of them", Kind::Tokens(1), "upper limit of validation positions evaluated");
        #[serde(skip_serializing_if = "Option::is_none")]
        learn: Option<Learn> = rule("`assistant` for conversations, `completion` for prompts with their completions", Kind::Word(Learn::WORDS), "part of a conversation that is learnt: losses and all other measures count only its tokens") also ["assistant_only_loss", "completion_only_loss", "train_on_inputs", "mask_prompt"];
        #[serde(skip_serializing_if = "Option::is_none")]
        packing: Option<PackingKind> = rule("`documents` for turns, `stream` for texts", Kind::Word(PackingKind::WORDS), "how documents are put into rows. `documents`: each fills the room that others leave, and is read as if it were alone. `stream`: end to end and cut at the end of each row, where within a row attention reaches into earlier documents") also ["pack", "packing_strategy", "sample_packing"];
        #[serde(skip_serializing_if = "Option::is_none")]
        longer: Option<Longer> = rule("`truncate` for turns, `split` for texts", Kind::Word(Longer::WORDS), "what `packing: documents` does with a document that is longer than a row: keep its first tokens, make several of it, or leave it out") also ["truncation", "truncation_strategy", "overflow"];
        #[serde(skip_serializing_if = "is_fail")]
        on_bad_row: OnBadRow = or("fail", Kind::Word(OnBadRow::WORDS), "action at a row that cannot be read as its format says: `fail` tells all of them before anything runs, `skip` leaves them out, counts them and tells the first twenty, unless more rows of a source are bad than good");
        #[serde(skip_serializing_if = "is_all")]
        calibrate_on: CalibrateOn = or("all", Kind::Word(CalibrateOn::WORDS), "positions of conversations that `prune`, `quantize`, `shrink` and `from_teacher` observe: `all`, or those that are `learnt`");
        tokenizer: TokenizerPlan = rule("`teacher`; required without a teacher", Kind::Choice(&TOKENIZER), "source of the tokenizer") else teachers;
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_fail(on_bad_row: &OnBadRow) -> bool {
    *on_bad_row == OnBadRow::Fail
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_all(calibrate_on: &CalibrateOn) -> bool {
    *calibrate_on == CalibrateOn::All
}

words! {
    /// Ways to put documents into rows.
    pub enum PackingKind {
        /// Side by side, each read as if it were alone.
        Documents = "documents" also ["bfd", "best_fit", "document"],
        /// End to end.
        Stream = "stream" also ["wrapped", "concat", "concatenate"],
    }
}

words! {
    /// Treatment of a document that is longer than a row.
    pub enum Longer {
        /// Keeps its first tokens.
        Truncate = "truncate" also ["cut"],
        /// Makes several documents of it, which do not see each other.
        Split = "split" also ["chunk"],
        /// Leaves it out.
        Drop = "drop" also ["delete", "filter"],
    }
}

words! {
    /// Positions of rows that a calibration observes. Padding is never observed, unless there is nothing else.
    #[derive(Default)]
    pub enum CalibrateOn {
        /// All of the text: in a conversation also what the model reads and does not learn.
        #[default]
        All = "all",
        /// Those that losses count.
        Learnt = "learnt" also ["counted", "assistant"],
    }
}

#[expect(clippy::unnecessary_wraps, reason = "some defaults may be missing")]
fn teachers(_: Fields<'_>) -> Option<TokenizerPlan> {
    Some(TokenizerPlan::Teacher)
}

choice! {
    pub enum TokenizerPlan of TokenizerWord in TOKENIZER = "tokenizer", "Source of the tokenizer." {
        Teacher = "teacher", Kind::Unit, "the teacher's own, from its `tokenizer.json` or `.gguf` file";
        File(#[serde(skip)] PathBuf) = "file", Kind::Path(PathKind::Tokenizer), "a `tokenizer.json` or `.gguf` file, or a model of the hub whose tokenizer is fetched";
        Train(TrainTokenizer) = "train", Kind::Block(&TRAIN_TOKENIZER), "a byte-level BPE trained on the training text";
    }
}

keys! {
    pub struct TrainTokenizer in TRAIN_TOKENIZER = "train", "A byte-level BPE trained on the training text." {
        // 256 bytes and the end-of-text token
        vocab_size: usize = required(Kind::Integer(257, MAX_SIZE), "number of tokens, special tokens included");
    }
}
