//! Kinds of files, by their names and by their first bytes.

use std::path::Path;

/// Kind of a file, after unpacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// One document.
    Text,
    /// One JSON object on each line.
    JsonLines,
    /// One list of JSON objects.
    Json,
    /// Columns, as Spark, pandas and `datasets` write them.
    Parquet,
    /// Columns, as `datasets` keeps them: an IPC stream.
    Arrow,
}

/// Compression of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

const ENDINGS: [(&str, Container); 5] = [
    (".txt", Container::Text),
    (".jsonl", Container::JsonLines),
    (".json", Container::Json),
    (".parquet", Container::Parquet),
    (".arrow", Container::Arrow),
];

impl Container {
    /// Kind and compression of a file with this name; `None` if it is not read.
    pub(super) fn of(path: &Path) -> Option<(Self, Compression)> {
        let name = path.file_name()?.as_encoded_bytes();
        let (name, compression) = match (without(name, ".gz"), without(name, ".zst")) {
            (Some(inner), _) => (inner, Compression::Gzip),
            (_, Some(inner)) => (inner, Compression::Zstd),
            (None, None) => (name, Compression::None),
        };
        let ending = ENDINGS.iter().find(|(ending, _)| {
            // A name that is nothing but its ending is hidden, and has no ending.
            without(name, ending).is_some_and(|stem| !stem.is_empty())
        });
        let (_, container) = ending?;
        let has_blocks = matches!(container, Self::Parquet | Self::Arrow);
        let is_read = compression == Compression::None || !has_blocks; // their pages are compressed inside
        is_read.then_some((*container, compression))
    }

    /// Name of a file without the endings that [`Container::of`] knows.
    pub(super) fn stem(name: &str) -> &str {
        let unpacked = [".gz", ".zst"].iter().find_map(|ending| {
            let inner = without(name.as_bytes(), ending)?.len();
            name.get(..inner)
        });
        let name = unpacked.unwrap_or(name);
        let stem = ENDINGS.iter().find_map(|(ending, _)| {
            let inner = without(name.as_bytes(), ending)?.len();
            name.get(..inner)
        });
        stem.unwrap_or(name)
    }

    /// True for the kinds that a folder of texts has always been read for.
    pub(super) fn is_lines(self) -> bool {
        matches!(self, Self::Text | Self::JsonLines)
    }

    /// Letter of the kind in hashes.
    pub(super) fn tag(self) -> &'static [u8] {
        match self {
            Self::Text => b"t",
            Self::JsonLines => b"j",
            Self::Json => b"l",
            Self::Parquet => b"p",
            Self::Arrow => b"a",
        }
    }
}

impl Compression {
    /// Letters of the compression in hashes.
    pub(super) fn tag(self) -> &'static [u8] {
        match self {
            Self::None => b"",
            Self::Gzip => b"gz",
            Self::Zstd => b"zst",
        }
    }
}

/// A name without its ending, in small or capital letters.
fn without<'a>(name: &'a [u8], ending: &str) -> Option<&'a [u8]> {
    let (stem, found) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
    found
        .eq_ignore_ascii_case(ending.as_bytes())
        .then_some(stem)
}

/// First bytes of files that are often taken for text, and what is to be told.
const OTHER_FORMATS: [(&[u8], &str); 11] = [
    (
        b"\x1f\x8b",
        "compressed by gzip, not text; let its name end with `.gz`, or unpack it",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed by zstd, not text; let its name end with `.zst`, or unpack it",
    ),
    (b"\xfd7zXZ\0", "compressed by xz, not text; unpack it first"),
    (
        b"BZh91AY&SY",
        "compressed by bzip2, not text; unpack it first",
    ),
    (b"PK\x03\x04", "a zip file, not text; unpack it first"),
    (
        b"PAR1\x15",
        "a Parquet file, not text; let its name end with `.parquet`",
    ),
    (
        b"ARROW1\0\0",
        "an Arrow file, not text; let its name end with `.arrow`",
    ),
    (
        b"SQLite format 3\0",
        "an SQLite file, not text; write its texts as lines of `.jsonl`",
    ),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
    (LFS_POINTER, LFS),
];

const UTF_16: &str = "UTF-16, not UTF-8; save it as UTF-8";

const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Words for a file that stands for another.
pub(super) const LFS: &str =
    "a pointer of Git LFS and not the file; fetch the file with `git lfs pull`";

/// True for the few lines that Git LFS leaves in the place of a large file.
pub(super) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

/// Name of the format that begins with these bytes and is no text in UTF-8.
pub(super) fn other_format(bytes: &[u8]) -> Option<&'static str> {
    let found = OTHER_FORMATS
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic));
    if let Some((_, told)) = found {
        return Some(told);
    }
    // Letters of UTF-16 without a byte-order mark are UTF-8, too: each second byte is 0.
    let pairs = bytes.get(..32)?.as_chunks::<2>().0;
    let is_wide = |zero: usize| {
        pairs
            .iter()
            .all(|pair| pair[zero] == 0 && pair[1 - zero] != 0)
    };
    (is_wide(0) || is_wide(1)).then_some(UTF_16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_kind_and_compression() {
        let of = |name: &str| Container::of(Path::new(name));
        for (name, expected) in [
            ("a/b.txt", Some((Container::Text, Compression::None))),
            ("B.TXT.GZ", Some((Container::Text, Compression::Gzip))),
            (
                "a.jsonl.zst",
                Some((Container::JsonLines, Compression::Zstd)),
            ),
            ("a.v1.json", Some((Container::Json, Compression::None))),
            (
                "part-0.snappy.parquet",
                Some((Container::Parquet, Compression::None)),
            ),
            (
                "data-00000-of-00001.arrow",
                Some((Container::Arrow, Compression::None)),
            ),
            ("a.parquet.gz", None),
            (".txt", None),
            (".jsonl.gz", None),
            ("a.csv", None),
            ("a.gz", None),
            ("txt", None),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
        for (name, stem) in [
            ("train-0.jsonl.gz", "train-0"),
            ("a.parquet", "a"),
            ("é.b", "é.b"),
        ] {
            assert_eq!(Container::stem(name), stem);
        }
    }
}
