//! Damaged recipes: words exchanged, lines left out, doubled and moved, tags, anchors and brackets.

use std::ops::Range;

use super::{Dice, raw};

const WORDS: [&str; 36] = [
    "0",
    "-1",
    "1",
    "0.5",
    "1e308",
    "1e-308",
    "1e400",
    ".nan",
    ".inf",
    "-.inf",
    "18446744073709551615",
    "18446744073709551616",
    "4294967296",
    "0x10",
    "1_000",
    "1e3",
    "null",
    "~",
    "true",
    "[]",
    "{}",
    "[1, 2]",
    "{ a: 1 }",
    "\"\"",
    "\"\\0\"",
    "'x'",
    "!!binary aGk=",
    "!x 1",
    "&a 1",
    "*a",
    "<<",
    "? x",
    "|",
    "..",
    "text",
    "distill",
];

/// Letters that mean something to YAML, or should not be there.
const LETTERS: [char; 12] = [
    '{', '}', '[', ']', ':', ',', '"', '\t', '#', '\u{feff}', '\0', 'é',
];

pub(super) fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let Ok(text) = String::from_utf8(bytes.clone()) else {
        return raw(bytes, dice);
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = dice.below(lines.len());
    let done = match dice.below(8) {
        0 => {
            lines.remove(at);
            "left out".to_owned()
        }
        1 => {
            let other = dice.below(lines.len());
            lines.insert(other, lines[at].clone());
            format!("written before line {other}, too")
        }
        2 => {
            let indent = dice.below(4);
            lines[at].insert_str(0, &" ".repeat(indent + 1));
            format!("indented by {}", indent + 1)
        }
        3 => {
            let line = &mut lines[at];
            let letters: Vec<usize> = line.char_indices().map(|(place, _)| place).collect();
            let place = if letters.is_empty() {
                0
            } else {
                *dice.pick(&letters)
            };
            let letter = *dice.pick(&LETTERS);
            line.insert(place, letter);
            format!("now `{line}`")
        }
        _ => {
            let words = words(&lines[at]);
            if words.is_empty() {
                return raw(bytes, dice);
            }
            let place = dice.pick(&words).clone();
            let word = *dice.pick(&WORDS);
            lines[at].replace_range(place, word);
            format!("now `{}`", lines[at])
        }
    };
    *bytes = (lines.join("\n") + "\n").into_bytes();
    format!("line {}: {done}", at + 1)
}

/// Places of the words of a line.
fn words(line: &str) -> Vec<Range<usize>> {
    let is_word = |letter: char| letter.is_alphanumeric() || "_.+-/".contains(letter);
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, letter) in line.char_indices() {
        let end = at + letter.len_utf8();
        match found.last_mut() {
            Some(word) if is_word(letter) && word.end == at => word.end = end,
            _ if is_word(letter) => found.push(at..end),
            _ => {}
        }
    }
    found
}
