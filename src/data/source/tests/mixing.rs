use super::*;
use crate::data::source::DocumentStream;

/// A folder with files of `count` texts of `length` bytes; a text begins with the letter of its file.
fn lines(files: &[(&str, usize, usize)]) -> tempfile::TempDir {
    let contents: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|&(letter, count, length)| {
            let text = letter.repeat(length);
            let line = format!("{{\"text\": \"{text}\"}}\n");
            (format!("{letter}.jsonl"), line.repeat(count).into_bytes())
        })
        .collect();
    let contents: Vec<(&str, &[u8])> = contents
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    folder(&contents)
}

fn sources(dir: &tempfile::TempDir, weights: &[(&str, Option<f64>)]) -> Vec<SourcePlan> {
    let source = |&(letter, weight): &(&str, Option<f64>)| SourcePlan {
        weight,
        ..plan(&dir.path().join(format!("{letter}.jsonl")))
    };
    weights.iter().map(source).collect()
}

/// First letters of the documents in their order.
fn order(sources: &[SourcePlan]) -> String {
    let mut stream = DocumentStream::open(sources, OnBadRow::Fail);
    let letters: String = stream
        .by_ref()
        .map(|document| document.text().unwrap()[..1].to_owned())
        .collect();
    stream.finish().unwrap();
    letters
}

#[test]
fn sources_without_weights_are_read_one_after_another() {
    let dir = lines(&[("a", 3, 5), ("b", 2, 5)]);
    let plain = sources(&dir, &[("b", None), ("a", None)]);
    assert_eq!(order(&plain), "bbaaa");
}

#[test]
fn weights_are_shares_of_the_text() {
    let dir = lines(&[("a", 60, 10), ("b", 60, 20), ("c", 60, 5)]);
    let mixed = sources(&dir, &[("a", Some(2.0)), ("b", Some(2.0)), ("c", None)]);
    let found = order(&mixed);
    assert!(found.starts_with("abcacabc"), "{found}");
    let bytes = |letter: char, length: usize| found.matches(letter).count() * length;
    let [a, b, c] = [bytes('a', 10), bytes('b', 20), bytes('c', 5)];
    assert_eq!(a, 600, "the first to end");
    assert!(b.abs_diff(600) <= 20 && c.abs_diff(300) <= 5, "{b} {c}");
    assert_eq!(order(&mixed), found);
}

#[test]
fn a_mixture_ends_with_the_first_source_that_does_and_counts_what_it_took() {
    let dir = lines(&[("a", 100_000, 10), ("b", 4, 10)]); // of which not all is read
    let mixed = sources(&dir, &[("a", Some(3.0)), ("b", Some(1.0))]);
    let mut stream = DocumentStream::open(&mixed, OnBadRow::Fail);
    let found = stream.by_ref().count();
    let facts = stream.finish().unwrap();
    let counts: Vec<_> = facts
        .mixed
        .iter()
        .map(|source| (source.documents, source.bytes, source.has_ended))
        .collect();
    assert_eq!(found, 17);
    assert_eq!(counts, [(13, 130, false), (4, 40, true)]);
}

#[test]
fn a_stream_that_is_ended_early_tells_the_faults_of_what_was_read() {
    let dir = lines(&[("a", 50_000, 40)]);
    let early = sources(&dir, &[("a", None)]);
    let mut stream = DocumentStream::open(&early, OnBadRow::Fail);
    assert!(stream.next().is_some());
    assert!(stream.finish().is_ok());
    let bad = folder(&[
        ("a.jsonl", b"{\"text\": \"x\"}\n{\"text\": 1}\n"),
        ("b.jsonl", b"[]\n"),
    ]);
    let both = [plan(bad.path())];
    let mut stream = DocumentStream::open(&both, OnBadRow::Fail);
    assert_eq!(stream.by_ref().count(), 0, "nobody needs the others");
    let told = message(&bad, &stream.finish().map(drop).unwrap_err());
    assert!(told.starts_with("2 faults in the text"), "{told}");
}

#[test]
fn more_sources_than_can_be_mixed_are_refused() {
    let dir = lines(&[("a", 1, 5)]);
    let many = vec![("a", Some(1.0)); 257];
    let mut stream = DocumentStream::open(&sources(&dir, &many), OnBadRow::Fail);
    assert_eq!(stream.by_ref().count(), 0);
    let told = message(&dir, &stream.finish().map(drop).unwrap_err());
    assert!(told.contains("one of 257 sources that are mixed"), "{told}");
}
