//! Token rows: the only form in which text reaches teacher and student.

/// Rows of tokens, all of one length, in one fixed order.
///
/// A row holds `sequence_length + 1` tokens: position `t` sees tokens `0..=t` of its row and is about token `t + 1`.
/// The last token of a row is the first of the next, so every token of the text is predicted exactly once. Only the
/// last row may be padded (with the end-of-text token); `counted` is the number of leading positions of a row that
/// count. Some of these may be about a *separator*, a token that packing put after a document: it is predicted and
/// trained on like any other, but it is not text, and measures cover only text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRows {
    sequence_length: usize,
    tokens: Vec<u32>,
    counted: Vec<u32>,
    num_bytes: u64,
    /// Positions about a separator, numbered row by row from the first position of the first row, ascending.
    separators: Vec<usize>,
}

impl TokenRows {
    /// Builds rows from their parts; `tokens` has `counted.len() * (sequence_length + 1)` entries and `num_bytes` is
    /// the length of the text that the counted positions predict.
    ///
    /// # Panics
    ///
    /// If the lengths do not agree or a row counts more positions than it has.
    pub fn new(
        sequence_length: usize,
        tokens: Vec<u32>,
        counted: Vec<u32>,
        num_bytes: u64,
    ) -> Self {
        assert_eq!(
            tokens.len(),
            counted.len() * (sequence_length + 1),
            "tokens per row"
        );
        assert!(
            counted
                .iter()
                .all(|&count| count as usize <= sequence_length),
            "counted positions"
        );
        Self {
            sequence_length,
            tokens,
            counted,
            num_bytes,
            separators: Vec::new(),
        }
    }

    /// Marks these positions as being about a separator; they are numbered row by row, `sequence_length` per row.
    ///
    /// # Panics
    ///
    /// If they do not ascend, or one of them does not count.
    #[must_use]
    pub fn with_separators(self, separators: Vec<usize>) -> Self {
        assert!(self.could_have(&separators), "separators that count");
        Self { separators, ..self }
    }

    fn could_have(&self, separators: &[usize]) -> bool {
        let length = self.sequence_length.max(1);
        let counts = |&at: &usize| {
            let counted = self.counted.get(at / length);
            counted.is_some_and(|&counted| at % length < counted as usize)
        };
        separators.is_sorted_by(|before, after| before < after) && separators.iter().all(counts)
    }

    /// Positions per row.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.counted.len()
    }

    /// All `sequence_length + 1` tokens of a row.
    pub fn row(&self, row_idx: usize) -> &[u32] {
        let width = self.sequence_length + 1;
        &self.tokens[row_idx * width..(row_idx + 1) * width]
    }

    /// Tokens that the model reads: `sequence_length` of them.
    pub fn inputs(&self, row_idx: usize) -> &[u32] {
        &self.row(row_idx)[..self.sequence_length]
    }

    /// Token that position `t` is about, for each `t`.
    pub fn labels(&self, row_idx: usize) -> &[u32] {
        &self.row(row_idx)[1..]
    }

    /// Number of leading positions of this row that count.
    pub fn counted(&self, row_idx: usize) -> usize {
        self.counted[row_idx] as usize
    }

    /// Number of positions that count, over all rows.
    pub fn num_positions(&self) -> u64 {
        self.counted.iter().map(|&count| u64::from(count)).sum()
    }

    /// True if a position of a row is about a separator.
    pub fn is_separator(&self, row_idx: usize, position: usize) -> bool {
        let at = row_idx * self.sequence_length + position;
        self.separators.binary_search(&at).is_ok()
    }

    /// Number of positions that count and are about text, over all rows.
    pub fn num_text_positions(&self) -> u64 {
        self.num_positions() - self.separators.len() as u64
    }

    /// Number of bytes of UTF-8 text that the counted positions predict.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// Splits the rows before `row_idx` from the rest. Bytes are divided in proportion to the positions of text,
    /// because the bytes of single tokens are not known here.
    pub fn split_at(&self, row_idx: usize) -> [Self; 2] {
        let width = self.sequence_length + 1;
        let (tokens, rest) = self.tokens.split_at(row_idx * width);
        let (counted, rest_counted) = self.counted.split_at(row_idx);
        let start = row_idx * self.sequence_length;
        let num_before = self.separators.partition_point(|&at| at < start);
        let (separators, rest_separators) = self.separators.split_at(num_before);
        let part = |tokens: &[u32], counted: &[u32], separators: Vec<usize>| {
            let (tokens, counted) = (tokens.to_vec(), counted.to_vec());
            Self::new(self.sequence_length, tokens, counted, 0).with_separators(separators)
        };
        let rest_separators = rest_separators.iter().map(|at| at - start);
        let before = part(tokens, counted, separators.to_vec());
        let rest = part(rest, rest_counted, rest_separators.collect());
        let text = self.num_text_positions().max(1);
        let num_bytes = self.num_bytes * before.num_text_positions() / text;
        [
            Self {
                num_bytes,
                ..before
            },
            Self {
                num_bytes: self.num_bytes - num_bytes,
                ..rest
            },
        ]
    }

    /// BLAKE3 (hex) over sequence length, tokens and counts, in row order.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.sequence_length as u64).to_le_bytes());
        for token in &self.tokens {
            hasher.update(&token.to_le_bytes());
        }
        for count in &self.counted {
            hasher.update(&count.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Serialises the rows: four numbers (sequence length, rows, bytes of text, separators), the separators' positions,
    /// then counts and tokens, all little-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let head = [
            self.sequence_length as u64,
            self.num_rows() as u64,
            self.num_bytes,
            self.separators.len() as u64,
        ];
        let separators = self.separators.iter().map(|&at| at as u64);
        let head = head
            .into_iter()
            .chain(separators)
            .flat_map(u64::to_le_bytes);
        let body = self.counted.iter().chain(&self.tokens);
        head.chain(body.flat_map(|number| number.to_le_bytes()))
            .collect()
    }

    /// Reads rows that [`TokenRows::to_bytes`] wrote; `None` if the bytes are invalid.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(32)?;
        let (head, _) = head.as_chunks::<8>();
        let mut head = head.iter().copied().map(u64::from_le_bytes);
        let sequence_length = usize::try_from(head.next()?).ok()?;
        let num_rows = usize::try_from(head.next()?).ok()?;
        let num_bytes = head.next()?;
        let num_separators = usize::try_from(head.next()?).ok()?;
        let (separators, body) = body.split_at_checked(num_separators.checked_mul(8)?)?;
        let (separators, _) = separators.as_chunks::<8>();
        let separators = separators.iter().copied().map(u64::from_le_bytes);
        let separators: Vec<usize> = separators
            .map(|at| usize::try_from(at).ok())
            .collect::<Option<_>>()?;
        let (body, []) = body.as_chunks::<4>() else {
            return None;
        };
        let (counted, tokens) = body.split_at_checked(num_rows)?;
        let is_whole = num_rows.checked_mul(sequence_length.checked_add(1)?)? == tokens.len();
        let numbers = |bytes: &[[u8; 4]]| bytes.iter().copied().map(u32::from_le_bytes).collect();
        let counted: Vec<u32> = numbers(counted);
        let is_counted = counted.iter().all(|&c| c as usize <= sequence_length);
        if !(is_whole && is_counted) {
            return None;
        }
        let rows = Self::new(sequence_length, numbers(tokens), counted, num_bytes);
        rows.could_have(&separators)
            .then(|| rows.with_separators(separators))
    }
}
