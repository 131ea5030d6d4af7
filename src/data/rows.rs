//! Token rows: the one form in which text reaches teacher and student.

/// Rows of tokens, all of one length, in one fixed order.
///
/// A row holds `sequence_length + 1` tokens: position `t` sees tokens `0..=t` of its row and is about
/// token `t + 1`. The last token of a row is the first of the next, so that every token of the text is
/// predicted exactly once. Only the last row may be padded (with the end-of-text token); `counted`
/// says how many leading positions of a row are about real text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRows {
    sequence_length: usize,
    tokens: Vec<u32>,
    counted: Vec<u32>,
    num_bytes: u64,
}

impl TokenRows {
    /// Rows from their parts; `tokens` has `counted.len() * (sequence_length + 1)` entries and `num_bytes` is
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
        }
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

    /// What the model reads: `sequence_length` tokens.
    pub fn inputs(&self, row_idx: usize) -> &[u32] {
        &self.row(row_idx)[..self.sequence_length]
    }

    /// What position `t` is about, for each `t`.
    pub fn labels(&self, row_idx: usize) -> &[u32] {
        &self.row(row_idx)[1..]
    }

    /// Leading positions of this row that count.
    pub fn counted(&self, row_idx: usize) -> usize {
        self.counted[row_idx] as usize
    }

    /// Positions that count, over all rows.
    pub fn num_positions(&self) -> u64 {
        self.counted.iter().map(|&count| u64::from(count)).sum()
    }

    /// Bytes of UTF-8 text that the counted positions predict.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// The rows before one, and the rest. Bytes are shared out by positions: which token they belong to is not known here.
    pub fn split_at(&self, row_idx: usize) -> [Self; 2] {
        let width = self.sequence_length + 1;
        let (tokens, rest) = self.tokens.split_at(row_idx * width);
        let (counted, rest_counted) = self.counted.split_at(row_idx);
        let positions: u64 = counted.iter().map(|&count| u64::from(count)).sum();
        let num_bytes = self.num_bytes * positions / self.num_positions().max(1);
        let part = |tokens: &[u32], counted: &[u32], num_bytes| {
            Self::new(
                self.sequence_length,
                tokens.to_vec(),
                counted.to_vec(),
                num_bytes,
            )
        };
        [
            part(tokens, counted, num_bytes),
            part(rest, rest_counted, self.num_bytes - num_bytes),
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

    /// The rows as bytes: three numbers (sequence length, rows, bytes of text) and then counts and tokens, little-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let head = [
            self.sequence_length as u64,
            self.num_rows() as u64,
            self.num_bytes,
        ];
        let head = head.into_iter().flat_map(u64::to_le_bytes);
        let body = self.counted.iter().chain(&self.tokens);
        head.chain(body.flat_map(|number| number.to_le_bytes()))
            .collect()
    }

    /// The rows that [`TokenRows::to_bytes`] wrote, or nothing if the bytes are not such.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(24)?;
        let (head, _) = head.as_chunks::<8>();
        let mut head = head.iter().copied().map(u64::from_le_bytes);
        let sequence_length = usize::try_from(head.next()?).ok()?;
        let num_rows = usize::try_from(head.next()?).ok()?;
        let num_bytes = head.next()?;
        let (body, []) = body.as_chunks::<4>() else {
            return None;
        };
        let (counted, tokens) = body.split_at_checked(num_rows)?;
        let is_whole = num_rows.checked_mul(sequence_length.checked_add(1)?)? == tokens.len();
        let numbers = |bytes: &[[u8; 4]]| bytes.iter().copied().map(u32::from_le_bytes).collect();
        let counted: Vec<u32> = numbers(counted);
        let is_counted = counted.iter().all(|&c| c as usize <= sequence_length);
        (is_whole && is_counted)
            .then(|| Self::new(sequence_length, numbers(tokens), counted, num_bytes))
    }
}
