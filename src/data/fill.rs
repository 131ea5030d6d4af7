//! Documents to rows: each is tokenised, and packed in its turn.

use std::cell::OnceCell;
use std::io;
use std::iter;
use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::conversations::{TurnCounts, TurnedDocument, Turning};
use super::encode::{EncodeFileError, Encoder};
use super::error::{DataError, Split};
use super::pack::{Form, NewToken, Packer, Packing};
use super::plan::{Longer, PackingKind};
use super::rows::RowsBuilder;
use super::source::{
    BadRows, Content, Document, ReadFacts, SkipReason, Skipped, SourceCount, TextFile, place,
};
use super::templates::Renderer;
use super::tokenizer::{TokenizedText, Tokenizer};
use crate::chat::{Learn, TemplateError};

/// Bytes of text that are tokenised at a time, in the first round and in the largest.
const ROUND_BYTES: [u64; 2] = [1 << 18, 1 << 23];

/// Documents that are tokenised at a time.
const ROUND_DOCUMENTS: usize = 1_024;

/// RowSettings with which documents become rows.
pub(super) struct RowSettings<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) sequence_length: usize,
    pub(super) end_of_text: u32,
    /// Tokens that end a turn.
    pub(super) ends: Vec<u32>,
    pub(super) learn: Option<Learn>,
    /// Way to put documents into rows; `None` goes by what they are.
    pub(super) packing: Option<PackingKind>,
    pub(super) longer: Option<Longer>,
    /// True if conversations that the template refuses are left out.
    pub(super) skips_refused: bool,
    /// The chat template, which matters only if there are conversations.
    pub(super) renderer: OnceCell<Result<Option<Renderer>, TemplateError>>,
}

/// Facts about rows that a reader of them wants to know.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct RowFacts {
    pub(super) turns: TurnCounts,
    /// Texts that were read, of which some may be beyond a limit.
    texts: u64,
    /// Texts that are longer than a row, where that matters.
    longer_texts: u64,
    /// Sentences about what was skipped.
    pub(super) skipped: Vec<String>,
    /// Notes on the sources.
    pub(super) notes: Vec<String>,
    pub(super) mixed: Vec<SourceCount>,
    /// Texts without tokens.
    #[serde(skip)]
    too_short: Vec<Skipped>,
}

/// A document as packing takes it.
enum Encoded {
    Text(TokenizedText),
    File(TextFile),
    Turned(TurnedDocument),
}

impl<'a> RowSettings<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        sequence_length: usize,
        eos: Option<u32>,
        ends: &[u32],
        learn: Option<Learn>,
    ) -> Result<Self, DataError> {
        let end_of_text = eos
            .or(tokenizer.end_of_text())
            .ok_or(DataError::NoEndOfText)?;
        Self::check_end_of_text(end_of_text, tokenizer)?;
        Ok(Self {
            tokenizer,
            sequence_length,
            end_of_text,
            ends: tokenizer.ends(ends),
            learn,
            packing: None,
            longer: None,
            skips_refused: false,
            renderer: OnceCell::new(),
        })
    }

    /// Checks the id, which may come from a model with another tokenizer.
    pub(super) fn check_end_of_text(id: u32, tokenizer: &Tokenizer) -> Result<(), DataError> {
        let vocab_size = tokenizer.vocab_size();
        if (id as usize) < vocab_size {
            Ok(())
        } else {
            Err(DataError::EndOfTextRange { id, vocab_size })
        }
    }

    /// The chat template, compiled when it is first asked for: prose needs none.
    fn renderer(&self) -> &Result<Option<Renderer>, TemplateError> {
        self.renderer.get_or_init(|| self.tokenizer.renderer())
    }

    pub(super) fn prints_a_date(&self) -> bool {
        let renderer = self.renderer().as_ref().ok().and_then(Option::as_ref);
        renderer.is_some_and(Renderer::prints_a_date)
    }

    fn form_of_texts(&self) -> Form {
        Form {
            kind: self.packing.unwrap_or(PackingKind::Stream),
            longer: self.longer.unwrap_or(Longer::Split),
        }
    }

    fn form_of_turns(&self) -> Form {
        Form {
            kind: self.packing.unwrap_or(PackingKind::Documents),
            longer: self.longer.unwrap_or(Longer::Truncate),
        }
    }

    /// RowSettings of conversations; the template matters only if there is one among the documents.
    fn turning(&self, documents: &[Document]) -> Result<Turning<'_>, DataError> {
        let is_chat = |document: &Document| matches!(document.content, Content::Chat(_));
        let renderer = if documents.iter().any(is_chat) {
            let renderer = self.renderer().as_ref();
            renderer.map_err(|error| DataError::BadTemplate(error.clone()))?
        } else {
            &None
        };
        Ok(Turning {
            renderer: renderer.as_ref(),
            learn: self.learn,
            ends: &self.ends,
            sequence_length: self.sequence_length,
            beginning_of_text: self.tokenizer.beginning_of_text(),
            end_of_turn: self.tokenizer.eos_token().unwrap_or(self.end_of_text),
            form: self.form_of_turns(),
        })
    }

    /// Puts documents into rows, up to a number of positions, and tells what became of them.
    pub(super) fn fill(
        &self,
        split: Split,
        documents: &mut impl Iterator<Item = Document>,
        limit: Option<u64>,
        rows: RowsBuilder,
        watch: &mut FillWatch<'_>,
    ) -> Result<(RowsBuilder, RowFacts), DataError> {
        let packing = Packing {
            sequence_length: self.sequence_length,
            beginning_of_text: self.tokenizer.beginning_of_text(),
            end_of_text: self.end_of_text,
            limit,
        };
        let encoder = Encoder::new(self.tokenizer);
        let mut filling = Filling {
            settings: self,
            encoder: &encoder,
            split,
            packer: Packer::new(packing, rows),
            facts: RowFacts::default(),
            watch,
        };
        let [mut round_bytes, most_bytes] = ROUND_BYTES;
        while !filling.packer.is_full() {
            let round = round_of(documents, round_bytes);
            if round.is_empty() {
                break;
            }
            filling.add(&round)?;
            round_bytes = most_bytes.min(2 * round_bytes);
        }
        Ok((filling.packer.finish()?, filling.facts))
    }

    /// Refuses a text that gives no rows.
    pub(super) fn check(
        split: Split,
        rows: &RowsBuilder,
        facts: &RowFacts,
    ) -> Result<(), DataError> {
        if rows.num_rows() > 0 {
            return Ok(());
        }
        Err(if facts.longer_texts > 0 {
            let why = format!(
                "{} of {} texts are longer than `sequence_length`, and `longer: drop` leaves them out",
                facts.longer_texts, facts.texts
            );
            DataError::NothingLearnt { split, why }
        } else if facts.turns.conversations == 0 {
            DataError::NoTokens { split }
        } else {
            let why = facts.turns.why_nothing();
            DataError::NothingLearnt { split, why }
        })
    }

    /// Sentences about what became of documents.
    pub(super) fn notes(&self, split: Split, facts: &RowFacts) -> Vec<String> {
        let mut notes = facts.turns.notes(split, self.form_of_turns());
        let done = match self.form_of_texts().longer {
            Longer::Truncate => "were cut at its end",
            Longer::Drop => "were left out",
            Longer::Split => "",
        };
        if facts.longer_texts > 0 && !done.is_empty() {
            notes.push(format!(
                "{split}: {} of {} texts are longer than `sequence_length` and {done}",
                facts.longer_texts, facts.texts
            ));
        }
        notes.extend(mixture(split, &facts.mixed));
        notes
    }
}

/// Note on a mixture of sources.
fn mixture(split: Split, mixed: &[SourceCount]) -> Option<String> {
    let total: u64 = mixed.iter().map(|source| source.bytes).sum();
    let share = |source: &SourceCount| {
        let percent = source.bytes as f64 / (total.max(1) as f64) * 100.0;
        let end = if source.has_ended {
            ", read to its end"
        } else {
            ""
        };
        format!(
            "{percent:.1} % of the text is from `{}` ({} documents{end})",
            source.path, source.documents
        )
    };
    let shares: Vec<String> = mixed.iter().map(share).collect();
    (!mixed.is_empty()).then(|| format!("{split}: mixed by weight: {}", shares.join(", ")))
}

/// The next documents: of so many bytes, or one that has more.
fn round_of(documents: &mut impl Iterator<Item = Document>, num_bytes: u64) -> Vec<Document> {
    let mut left = num_bytes;
    let next = || {
        let document = (left > 0).then(|| documents.next()).flatten()?;
        left = left.saturating_sub(document.num_bytes().max(1));
        Some(document)
    };
    iter::from_fn(next).take(ROUND_DOCUMENTS).collect()
}

/// Rows that are being filled.
struct Filling<'a> {
    settings: &'a RowSettings<'a>,
    encoder: &'a Encoder<'a>,
    split: Split,
    packer: Packer,
    facts: RowFacts,
    watch: &'a mut FillWatch<'a>,
}

/// Told of bytes of text that have become rows; false to stop.
pub(super) type FillWatch<'a> = dyn FnMut(u64) -> bool + 'a;

impl Filling<'_> {
    /// Tokenises documents side by side, and packs them in their order.
    fn add(&mut self, documents: &[Document]) -> Result<(), DataError> {
        let turning = self.settings.turning(documents)?;
        let encoder = self.encoder;
        let most = self.most_tokens();
        let encode = |document: &Document| match &document.content {
            Content::Text(text) => {
                let here = || place(&document.path, document.row);
                Ok(Encoded::Text(encoder.encode_text(text, most, here)?))
            }
            Content::File(file) => Ok(Encoded::File(file.clone())),
            Content::Chat(_) | Content::Completion { .. } => {
                turning.turned(document, encoder).map(Encoded::Turned)
            }
        };
        let encoded: Vec<Result<Encoded, DataError>> = documents.par_iter().map(encode).collect();
        for (document, encoded) in documents.iter().zip(encoded) {
            match encoded {
                Ok(Encoded::Text(text)) => self.add_text(document, &text)?,
                Ok(Encoded::File(file)) => self.add_file(document, &file)?,
                Ok(Encoded::Turned(turned)) => {
                    turning.pack(turned, &mut self.packer, &mut self.facts.turns)?;
                }
                Err(error @ DataError::Template { .. }) if self.settings.skips_refused => {
                    self.facts.turns.refuse(&error);
                }
                Err(error) => return Err(error),
            }
            let is_told = matches!(document.content, Content::File(_));
            if !is_told && !(self.watch)(document.num_bytes()) {
                return Err(DataError::Stopped { split: self.split });
            }
            if self.packer.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Tokens of a text that matter.
    fn most_tokens(&self) -> usize {
        let form = self.settings.form_of_texts();
        match (form.kind, form.longer) {
            // The rest of a stream decides where its first rows lie between others.
            (PackingKind::Stream, _) | (_, Longer::Split) => usize::MAX,
            (PackingKind::Documents, _) => self.settings.sequence_length + 1,
        }
    }

    fn add_text(&mut self, document: &Document, text: &TokenizedText) -> Result<(), DataError> {
        self.facts.texts += 1;
        if text.ids.is_empty() {
            self.skip(document);
            return Ok(());
        }
        self.packer.begin(self.settings.form_of_texts());
        self.packer.begin_text();
        self.push(text)?;
        self.end_text()
    }

    fn add_file(&mut self, document: &Document, file: &TextFile) -> Result<(), DataError> {
        let split = self.split;
        self.facts.texts += 1;
        let reader = file.open();
        let reader = reader.map_err(|source| DataError::Source { split, source })?;
        self.packer.begin(self.settings.form_of_texts());
        self.packer.begin_text();
        let encoder = self.encoder;
        let (mut has_tokens, mut is_stopped) = (false, false);
        let take = |text: TokenizedText| {
            has_tokens |= !text.ids.is_empty();
            self.push(&text)?;
            let num_bytes = text.num_bytes.iter().map(|&bytes| u64::from(bytes)).sum();
            is_stopped = !(self.watch)(num_bytes);
            Ok(if is_stopped || self.packer.is_full() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        let encoded = encoder.encode_file(reader, || document.place(), take);
        encoded.map_err(|error| match error {
            EncodeFileError::Source(source) => DataError::Source { split, source },
            EncodeFileError::Tokenizer(error) => error.into(),
            EncodeFileError::Io(error) => error.into(),
        })?;
        if is_stopped {
            return Err(DataError::Stopped { split });
        }
        if has_tokens {
            return self.end_text();
        }
        self.skip(document);
        Ok(())
    }

    fn push(&mut self, text: &TokenizedText) -> io::Result<()> {
        let tokens = text.ids.iter().zip(&text.num_bytes);
        for (&id, &num_bytes) in tokens {
            self.packer.push(NewToken {
                id,
                num_bytes,
                counts: true,
                is_separator: false,
                is_end: false,
            })?;
        }
        Ok(())
    }

    fn end_text(&mut self) -> Result<(), DataError> {
        self.packer.end_text()?;
        let outcome = self.packer.end()?;
        self.facts.longer_texts += u64::from(outcome.is_longer);
        Ok(())
    }

    fn skip(&mut self, document: &Document) {
        let skipped = &mut self.facts.too_short;
        Skipped::add(skipped, &document.path, document.row, SkipReason::NoTokens);
    }
}

impl RowFacts {
    /// Adds what the reader of the sources has found.
    pub(super) fn add(&mut self, read: ReadFacts) {
        let ReadFacts {
            skipped,
            bad_rows,
            notes,
            mixed,
        } = read;
        self.skipped = Skipped::sentences(&skipped);
        self.skipped.extend(Skipped::sentences(&self.too_short));
        self.notes = notes;
        let bad_rows = Some(bad_rows).filter(|bad| bad.num_rows > 0);
        self.notes.extend(bad_rows.as_ref().map(BadRows::to_string));
        self.mixed = mixed;
    }
}
