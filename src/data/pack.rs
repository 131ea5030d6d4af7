//! Packing of tokenized documents into rows of one length.
//!
//! Packing is a function of the order in which documents are read. It looks at one window of documents at a time, so that
//! rows that were made stay as they are when more of the same text is asked for, and memory does not follow the text.

use std::collections::BTreeSet;
use std::io;

use serde::Serialize;

use super::batch::Permutation;
use super::mask::PositionSpan;
use super::plan::{Longer, PackingKind};
use super::rows::{NewRow, RowsBuilder};

/// Documents of a window.
const WINDOW_DOCUMENTS: usize = 4_096;

/// Tokens at which a window ends even with fewer documents: 16 MiB of memory.
const WINDOW_TOKENS: usize = 1 << 22;

/// Settings for packing documents into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Packing {
    /// Predicted positions of a row.
    pub(super) sequence_length: usize,
    /// Token expected before every text ([`Tokenizer::beginning_of_text`](super::Tokenizer::beginning_of_text)).
    pub(super) beginning_of_text: Option<u32>,
    /// Token after each document.
    pub(super) end_of_text: u32,
    /// Maximum number of positions: as many whole rows as fit, or one row if it is smaller than the first. A streamed row is
    /// cut then.
    pub(super) limit: Option<u64>,
}

impl Packing {
    /// Positions of a streamed row: fewer than others have only if no more are wanted at all.
    fn streamed_positions(self) -> usize {
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok());
        limit.map_or(self.sequence_length, |limit| {
            limit.min(self.sequence_length)
        })
    }
}

/// A token that packing takes.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "three facts, each true or not"
)]
pub(super) struct NewToken {
    pub(super) id: u32,
    /// Bytes of text that it stands for.
    pub(super) num_bytes: u32,
    /// True if its prediction counts.
    pub(super) counts: bool,
    /// True if it is no text, but put behind a document.
    pub(super) is_separator: bool,
    /// True if it ends a turn.
    pub(super) is_end: bool,
}

/// Treatment of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) kind: PackingKind,
    /// Treatment of one that has more tokens than a row, if it stays apart.
    pub(super) longer: Longer,
}

/// Outcome of packing a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "three facts, each true or not"
)]
pub(super) struct PackOutcome {
    /// Pieces, of which nothing counts in some.
    pub(super) pieces: u64,
    /// Pieces that were left out, because nothing of them counts.
    pub(super) without_learnt: u64,
    /// True if the document is longer than a row.
    pub(super) is_longer: bool,
    /// True if all predictions of it count that are in rows.
    pub(super) learns_all: bool,
    /// True if a prediction of a token that ends a turn counts.
    pub(super) learns_end: bool,
}

/// Packer of documents, which hands rows on at the end of each window.
///
/// **Streamed** documents lie end to end, each followed by an end-of-text, so that each token is predicted exactly once. A
/// row begins with the last token of the previous one, the first row with end-of-text. If the model expects a token before
/// every text, each row begins with that token instead: such a model attends to it and is another model without. Attention
/// crosses document ends within a row.
///
/// **Documents** stay apart. Those of a window are put, longest first, into the row that they leave the least room in
/// ("best fit decreasing"; Ding et al. 2024, arXiv 2404.10830, section 3). The rows of a window come in an order that is
/// random, but always the same, so that the first rows are a fair sample of it; streamed rows of the window are put
/// between them in proportion.
pub(super) struct Packer {
    packing: Packing,
    stream: OpenRow,
    /// Last token of the stream.
    last: u32,
    document: OpenRow,
    form: Form,
    outcome: PackOutcome,
    /// Streamed rows of this window.
    streamed: Vec<NewRow>,
    /// Documents of this window, each as a row that holds nothing else.
    documents: Vec<NewRow>,
    num_documents: usize,
    num_tokens: usize,
    window: usize,
    out: Output,
}

impl Packer {
    /// Begins to pack into rows.
    pub(super) fn new(packing: Packing, rows: RowsBuilder) -> Self {
        Self {
            packing,
            stream: OpenRow::default(),
            last: packing.end_of_text,
            document: OpenRow::default(),
            form: Form {
                kind: PackingKind::Stream,
                longer: Longer::Split,
            },
            outcome: PackOutcome::default(),
            streamed: Vec::new(),
            documents: Vec::new(),
            num_documents: 0,
            num_tokens: 0,
            window: 0,
            out: Output {
                rows,
                left: packing.limit.unwrap_or(u64::MAX),
                is_full: false,
            },
        }
    }

    /// True if no more rows are wanted.
    pub(super) fn is_full(&self) -> bool {
        self.out.is_full
    }

    /// Begins a document.
    pub(super) fn begin(&mut self, form: Form) {
        self.form = form;
        self.outcome = PackOutcome {
            learns_all: true,
            ..PackOutcome::default()
        };
    }

    /// Puts a token before a document that is text, where it is not part of a stream: nothing predicts it.
    pub(super) fn begin_text(&mut self) {
        if self.form.kind == PackingKind::Documents {
            let first = self.packing.beginning_of_text;
            self.document
                .begin(first.unwrap_or(self.packing.end_of_text));
        }
    }

    /// Takes the next token of the document.
    pub(super) fn push(&mut self, token: NewToken) -> io::Result<()> {
        match self.form.kind {
            PackingKind::Stream => self.push_streamed(token),
            PackingKind::Documents => {
                self.push_apart(token);
                Ok(())
            }
        }
    }

    /// Puts the token behind a document that is text.
    pub(super) fn end_text(&mut self) -> io::Result<()> {
        self.push(NewToken {
            id: self.packing.end_of_text,
            num_bytes: 0,
            counts: true,
            is_separator: true,
            is_end: false,
        })
    }

    /// Ends the document, and with it perhaps the window.
    pub(super) fn end(&mut self) -> io::Result<PackOutcome> {
        let last = std::mem::take(&mut self.document);
        let is_dropped = self.outcome.is_longer && self.form.longer == Longer::Drop;
        if self.form.kind == PackingKind::Documents && !is_dropped {
            self.end_piece(last);
        }
        self.num_documents += 1;
        let outcome = self.outcome;
        if self.num_documents >= WINDOW_DOCUMENTS || self.num_tokens >= WINDOW_TOKENS {
            self.end_window()?;
        }
        Ok(outcome)
    }

    /// Ends all documents. What the stream has left is its last row, padded.
    pub(super) fn finish(mut self) -> io::Result<RowsBuilder> {
        self.end_window()?;
        let rest = std::mem::take(&mut self.stream);
        if rest.row.tokens.len() > 1 {
            self.out.take(rest.row)?;
        }
        Ok(self.out.rows)
    }

    fn push_streamed(&mut self, token: NewToken) -> io::Result<()> {
        if self.stream.row.tokens.is_empty() {
            let first = self.packing.beginning_of_text.unwrap_or(self.last);
            self.stream.begin(first);
        }
        self.outcome.take(token);
        self.stream.push(token);
        self.last = token.id;
        self.num_tokens += 1;
        if self.stream.row.tokens.len() > self.packing.streamed_positions() {
            let full = std::mem::take(&mut self.stream);
            self.streamed.push(full.row);
        }
        if self.num_tokens >= WINDOW_TOKENS {
            self.end_window()?;
        }
        Ok(())
    }

    fn push_apart(&mut self, token: NewToken) {
        if self.document.row.tokens.is_empty() {
            self.document.begin(token.id); // the first token of a conversation is not predicted
            return;
        }
        if self.document.row.tokens.len() > self.packing.sequence_length {
            self.outcome.is_longer = true;
            if self.form.longer != Longer::Split {
                return;
            }
            let piece = std::mem::take(&mut self.document);
            let last = piece.row.tokens.last().copied().unwrap_or(token.id);
            self.document
                .begin(self.packing.beginning_of_text.unwrap_or(last));
            self.end_piece(piece);
        }
        self.outcome.take(token);
        self.document.push(token);
    }

    /// Takes a piece of a document, or all of it.
    fn end_piece(&mut self, piece: OpenRow) {
        self.outcome.pieces += 1;
        if piece.row.spans.is_empty() {
            self.outcome.without_learnt += 1;
        } else {
            self.num_tokens += piece.row.tokens.len();
            self.documents.push(piece.row);
        }
    }

    fn end_window(&mut self) -> io::Result<()> {
        let documents = std::mem::take(&mut self.documents);
        let width = self.packing.sequence_length + 1;
        let packed = best_fit(documents, width, self.window);
        let streamed = std::mem::take(&mut self.streamed);
        for row in interleaved(streamed, packed) {
            self.out.take(row)?;
        }
        self.num_documents = 0;
        self.num_tokens = 0;
        self.window += 1;
        Ok(())
    }
}

/// Rows up to the limit.
struct Output {
    rows: RowsBuilder,
    /// Positions that may still come.
    left: u64,
    is_full: bool,
}

impl Output {
    fn take(&mut self, row: NewRow) -> io::Result<()> {
        if self.is_full || row.spans.is_empty() {
            return Ok(());
        }
        let num_positions = row.num_positions() as u64;
        if num_positions > self.left {
            self.is_full = true;
            if self.rows.num_rows() > 0 {
                return Ok(());
            }
        }
        self.left = self.left.saturating_sub(row.num_positions() as u64);
        self.is_full |= self.left == 0;
        self.rows.push(row)
    }
}

impl PackOutcome {
    fn take(&mut self, token: NewToken) {
        self.learns_all &= token.counts;
        self.learns_end |= token.counts && token.is_end;
    }
}

/// A row or a document to which tokens are added.
#[derive(Default)]
struct OpenRow {
    row: NewRow,
}

impl OpenRow {
    /// Puts the first token, which nothing predicts.
    fn begin(&mut self, first: u32) {
        self.row.tokens.push(first);
    }

    fn push(&mut self, token: NewToken) {
        let position = self.row.tokens.len() - 1;
        let position = u32::try_from(position).expect("a row is shorter than 2^32 tokens");
        self.row.tokens.push(token.id);
        if !token.counts {
            return;
        }
        let end = position + 1;
        match self.row.spans.last_mut() {
            Some(last) if last.end == position => last.end = end,
            _ => self.row.spans.push(PositionSpan {
                start: position,
                end,
            }),
        }
        self.row.num_bytes += u64::from(token.num_bytes);
        if token.is_separator {
            self.row.separators.push(position);
        }
    }
}

/// Puts documents into rows of `width` tokens, each into the one that it leaves the least room in. The rows come in an order
/// that the number of the window decides, the documents of a row in the order in which they were read.
fn best_fit(documents: Vec<NewRow>, width: usize, window: usize) -> Vec<NewRow> {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_by_key(|&idx| std::cmp::Reverse(documents[idx].tokens.len()));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new(); // tokens that are free, and the row
    for idx in order {
        let needed = documents[idx].tokens.len();
        let found = room.range((needed, 0)..).next().copied();
        let (free, bin) = found.unwrap_or_else(|| {
            bins.push(Vec::new());
            (width, bins.len() - 1)
        });
        room.remove(&(free, bin));
        bins[bin].push(idx);
        // A document needs two tokens.
        if free - needed >= 2 {
            room.insert((free - needed, bin));
        }
    }
    let mut documents: Vec<Option<NewRow>> = documents.into_iter().map(Some).collect();
    let mut rows: Vec<Option<NewRow>> = bins
        .into_iter()
        .map(|mut bin| {
            bin.sort_unstable();
            let of_bin = bin.iter().filter_map(|&idx| documents[idx].take());
            Some(joined(of_bin))
        })
        .collect();
    let num_rows = rows.len();
    let order = (num_rows > 0).then(|| Permutation::new(0, window, num_rows));
    let mut place = |idx| order.as_ref().and_then(|order| rows[order.at(idx)].take());
    (0..num_rows).filter_map(&mut place).collect()
}

/// Documents one behind another as one row.
fn joined(documents: impl Iterator<Item = NewRow>) -> NewRow {
    let mut row = NewRow::default();
    for document in documents {
        let start = u32::try_from(row.tokens.len()).expect("a row is shorter than 2^32 tokens");
        row.starts.push(start);
        row.tokens.extend(document.tokens);
        let spans = document.spans.iter().map(|span| PositionSpan {
            start: start + span.start,
            end: start + span.end,
        });
        row.spans.extend(spans);
        let separators = document.separators.iter().map(|at| start + at);
        row.separators.extend(separators);
        row.num_bytes += document.num_bytes;
    }
    row
}

/// Two lists as one, in which the first so many of each are as many as their share of all.
fn interleaved<T>(one: Vec<T>, other: Vec<T>) -> impl Iterator<Item = T> {
    let (num_one, num_other) = (one.len(), other.len());
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    std::iter::from_fn(move || {
        let done_one = num_one - one.len();
        let done_other = num_other - other.len();
        let is_one = (2 * done_one + 1) * num_other <= (2 * done_other + 1) * num_one;
        if is_one {
            one.next().or_else(|| other.next())
        } else {
            other.next().or_else(|| one.next())
        }
    })
}
