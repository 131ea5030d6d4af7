//! Files of a folder that are not there, by the numbers in the names of those that are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::container::Container;
use super::fault::FaultKind;

/// Most missing files that a message names.
const MAX_NAMED: usize = 5;

/// Words for what to do about it.
pub(super) const MEND: &str = "fetch the whole folder again, or name the files that are there one by one, to read these alone";

/// Digits of numbers that programs write. People number by hand with fewer, and keep what they like of a series.
const DIGITS: std::ops::RangeInclusive<usize> = 3..=9;

/// Name of one of several files, such as `train-00000-of-00005.parquet`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SeriesPart<'a> {
    /// Part of the name in front of the number.
    pub(super) before: &'a str,
    number: u64,
    /// Number of the files, as it is written.
    pub(super) total: &'a str,
    /// `-of-` or `_of_`.
    of: &'a str,
}

impl<'a> SeriesPart<'a> {
    /// Reads the name of a file without its endings, which may have a hash behind the numbers.
    pub(super) fn of(stem: &'a str) -> Option<Self> {
        ["-of-", "_of_"].into_iter().find_map(|of| {
            let (before, after) = stem.rsplit_once(of)?;
            let (before, number) = before.split_at(before.len() - trailing_digits(before));
            let end = after.find(|letter: char| !letter.is_ascii_digit());
            let (total, behind) = after.split_at(end.unwrap_or(after.len()));
            let is_apart = |letter: Option<char>| !letter.is_some_and(char::is_alphanumeric);
            let is_shard = DIGITS.contains(&total.len())
                && number.len() == total.len()
                && is_apart(before.chars().next_back())
                && is_apart(behind.chars().next());
            is_shard.then_some(Self {
                before,
                number: number.parse().ok()?,
                total,
                of,
            })
        })
    }

    /// Name of another of the files, without the hash that it may have.
    fn name(&self, number: u64, ending: &str) -> String {
        let Self {
            before, total, of, ..
        } = self;
        format!(
            "{before}{number:0width$}{of}{total}{ending}",
            width = total.len()
        )
    }
}

fn trailing_digits(text: &str) -> usize {
    let digits = text.bytes().rev();
    digits.take_while(u8::is_ascii_digit).count()
}

/// Faults of series of files that are not whole: as of a download that was stopped.
pub(super) fn missing<'a>(folder: &Path, files: impl Iterator<Item = &'a Path>) -> Vec<FaultKind> {
    let mut series: BTreeMap<_, (&Path, BTreeSet<u64>)> = BTreeMap::new();
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(shard) = name.and_then(|name| SeriesPart::of(Container::stem(name))) {
            let key = (path.parent(), shard.before, shard.total);
            let (_, numbers) = series.entry(key).or_insert((path, BTreeSet::new()));
            numbers.insert(shard.number);
        }
    }
    let faults = series.into_values().map(|(path, numbers)| {
        let name = path.file_name()?.to_str()?;
        let shard = SeriesPart::of(Container::stem(name))?;
        let ending = name.get(Container::stem(name).len()..)?;
        let total: u64 = shard.total.parse().ok()?;
        // Most programs count from 0, some from 1.
        let first = u64::from(numbers.contains(&total) && !numbers.contains(&0));
        let wanted = first..first.saturating_add(total);
        let num_there = numbers.range(wanted.clone()).count() as u64;
        let num_missing = total.saturating_sub(num_there);
        let inside = path.strip_prefix(folder).unwrap_or(path);
        let named = wanted.filter(|number| !numbers.contains(number));
        let named: Vec<_> = named
            .take(MAX_NAMED)
            .map(|number| {
                let path = inside.with_file_name(shard.name(number, ending));
                format!("`{}`", path.display())
            })
            .collect();
        (num_missing > 0).then(|| told(total, num_missing, &named))
    });
    faults.flatten().collect()
}

fn told(total: u64, num_missing: u64, named: &[String]) -> FaultKind {
    let is = if num_missing == 1 { "is" } else { "are" };
    let more = match num_missing.saturating_sub(named.len() as u64) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    FaultKind::Missing(format!(
        "{num_missing} of {total} files of one series {is} missing, {}{more}; {MEND}",
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_name_says_which_of_how_many_files_it_is() {
        for (stem, expected) in [
            ("train-00000-of-00005", Some(("train-", 0, "00005"))),
            ("train-00003-of-00005-1f2e", Some(("train-", 3, "00005"))),
            ("c4-train.00012-of-01024", Some(("c4-train.", 12, "01024"))),
            ("data_001_of_012", Some(("data_", 1, "012"))),
            ("00001-of-00002", Some(("", 1, "00002"))),
            ("one-of-many", None),
            ("part-1-of-3", None),
            ("part-01-of-003", None),
            ("v00001-of-00002", None),
            ("train-00000-of-00005b", None),
            ("é-000-of-00é", None),
        ] {
            let found = SeriesPart::of(stem);
            let found = found.map(|shard| (shard.before, shard.number, shard.total));
            assert_eq!(found, expected, "{stem}");
        }
    }

    #[test]
    fn a_series_that_is_not_whole_is_told_with_what_it_lacks() {
        let told = |names: &[&str]| {
            let paths = names.iter().map(|name| Path::new("f").join(name));
            let paths: Vec<_> = paths.collect();
            let faults = missing(Path::new("f"), paths.iter().map(PathBuf::as_path));
            let faults = faults.iter().map(ToString::to_string);
            faults.collect::<Vec<_>>().join("\n")
        };
        let mend = format!("; {MEND}");
        assert_eq!(
            told(&["data/train-00000-of-00002.parquet"]),
            format!(
                "1 of 2 files of one series is missing, `data/train-00001-of-00002.parquet`{mend}"
            )
        );
        let names: Vec<_> = (3..8)
            .map(|number| format!("`a-{number:05}-of-99999.jsonl.gz`"))
            .collect();
        assert_eq!(
            told(&[
                "a-00000-of-99999.jsonl.gz",
                "a-00001-of-99999.jsonl",
                "a-00002-of-99999-ab.jsonl"
            ]),
            format!(
                "99996 of 99999 files of one series are missing, {} and 99991 more{mend}",
                names.join(", ")
            )
        );
        for whole in [
            &["a-00000-of-00002.txt", "a-00001-of-00002-ff.jsonl"][..],
            &["a-00001-of-00002.txt", "a-00002-of-00002.txt"],
            &[
                "a-00000-of-00001.txt",
                "b/a-00000-of-00001.txt",
                "b-000-of-001.txt",
            ],
            &["a-1-of-2.txt", "words.txt"],
        ] {
            assert_eq!(told(whole), "", "{whole:?}");
        }
        let two = told(&["a/x-000-of-002.txt", "b/x-001-of-002.txt"]);
        assert_eq!(two.lines().count(), 2, "{two}");
        assert!(two.contains("`a/x-001-of-002.txt`") && two.contains("`b/x-000-of-002.txt`"));
    }
}
