use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::data::byte_level::ByteLevelBpe;
use crate::data::cut::Splitting;
use crate::data::encode::Encoder;
use crate::data::{Content, Document, TextFile, TokenizedText, Tokenizer, TokenizerError};
use crate::files;
use crate::random;

/// Pieces of texts that are awkward to cut.
const AWKWARD: [&str; 44] = [
    " ",
    "  ",
    "     ",
    "\n",
    "\r\n",
    "\n\n\n",
    "\t",
    "\u{a0}",
    "\u{3000}",
    " \n",
    "\n  ",
    "a",
    "word",
    " word",
    "Word",
    "don't",
    "'s",
    "'LL",
    "'",
    "7",
    "1234567",
    "½",
    "٣",
    ".",
    "...",
    "?!",
    "-",
    "日本語",
    "、",
    "。",
    "한국어",
    "слово",
    "e\u{301}",
    "\u{301}",
    "\u{1100}\u{1161}",
    "ﬁ",
    "Å",
    "😀",
    "👩\u{200d}👧",
    "\u{feff}",
    "▁",
    "<|endoftext|>",
    "<|im_start|>",
    "\u{0}",
];

/// Texts of awkward pieces in an order that a seed gives; the last has words and spaces most often.
fn texts() -> Vec<String> {
    let mut texts = vec![
        String::new(),
        " ".repeat(300),
        "a".repeat(300),
        "<|endoftext|>".repeat(9),
    ];
    for number in 0..12 {
        let seed = random::derive(number, "awkward");
        let piece = |idx: u64| {
            let draw = random::derive(seed, &idx.to_string());
            match draw % 4 {
                0 if seed.is_multiple_of(3) => " plain",
                1 if seed.is_multiple_of(3) => " words",
                _ => AWKWARD[usize::try_from(draw / 4).unwrap() % AWKWARD.len()],
            }
        };
        let num_pieces = if number == 0 { 2_000 } else { 200 }; // long enough for more than a block that is normalized
        texts.push((0..num_pieces).map(piece).collect());
    }
    texts
}

fn opened(path: &str) -> Tokenizer {
    Tokenizer::open(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(path),
    )
    .unwrap()
}

/// The byte-level golden tokenizer with other steps.
fn changed(change: impl FnOnce(&mut Value)) -> Tokenizer {
    let mut json: Value =
        serde_json::from_slice(opened("hf-llama-256/tokenizer.json").bytes()).unwrap();
    change(&mut json);
    Tokenizer::from_bytes(json.to_string().into_bytes(), None, Path::new("changed")).unwrap()
}

#[expect(clippy::fn_params_excessive_bools, reason = "the keys of the file")]
fn byte_level(use_regex: bool, add_prefix_space: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert})
}

fn steps(steps: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps})
}

#[expect(clippy::too_many_lines, reason = "one table")]
/// Every kind of tokenizer, with whether its documents are cut.
fn tokenizers() -> Vec<(String, Tokenizer, bool)> {
    let mut all = Vec::new();
    for (name, is_cut) in [
        ("bpe-gpt2", true),
        ("bpe-llama3", true),
        ("bpe-qwen2", true),
        ("bpe-smollm", true),
        ("bpe-tekken", true),
        ("spm-gemma", false),
        ("spm-llama", false),
    ] {
        all.push((
            name.to_owned(),
            opened(&format!("gguf/{name}.gguf")),
            is_cut,
        ));
    }
    all.push((
        "golden".to_owned(),
        opened("hf-llama-256/tokenizer.json"),
        true,
    ));
    let normalizers = [
        json!({"type": "NFC"}),
        json!({"type": "NFD"}),
        json!({"type": "NFKC"}),
        json!({"type": "Lowercase"}),
        json!({"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "Lowercase"}, {"type": "NFC"}]}),
        json!({"type": "Replace", "pattern": {"String": "\u{a0}"}, "content": " "}),
    ];
    for normalizer in normalizers {
        let name = normalizer.to_string();
        all.push((name, changed(|json| json["normalizer"] = normalizer), true));
    }
    for normalizer in [
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "Replace", "pattern": {"String": "ab"}, "content": " "}),
        json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
    ] {
        let name = normalizer.to_string();
        all.push((name, changed(|json| json["normalizer"] = normalizer), false));
    }
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    for (pre_tokenizer, is_cut) in [
        (byte_level(true, true), true),
        (byte_level(false, false), false),
        (byte_level(false, true), false),
        (steps(&[digits(true), byte_level(true, false)]), true),
        (steps(&[digits(false), byte_level(true, true)]), true),
        (
            steps(&[split(r"\s+", "Removed", false), byte_level(false, true)]),
            true,
        ),
        (
            steps(&[split(r"\w+", "Removed", true), byte_level(false, false)]),
            true,
        ),
        (
            steps(&[
                split(r"(?<=[a-z]) ", "Isolated", false),
                byte_level(false, false),
            ]),
            false,
        ),
        (
            steps(&[
                split(r"^\s*\S+|\b", "Isolated", false),
                byte_level(false, false),
            ]),
            false,
        ),
        (
            steps(&[
                split(r"\w+(?=\s)|\s+(?!.*\d)|.$", "Isolated", false),
                byte_level(false, false),
            ]),
            true,
        ),
        (
            steps(&[
                split(r"\s", "MergedWithPrevious", false),
                byte_level(false, false),
            ]),
            false,
        ),
        (
            steps(&[
                digits(true),
                split(r" ", "MergedWithNext", false),
                byte_level(false, true),
            ]),
            true,
        ),
        (json!({"type": "WhitespaceSplit"}), true),
        (json!({"type": "Whitespace"}), true),
        (json!({"type": "BertPreTokenizer"}), true),
        (
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
            true,
        ),
        (
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}),
            true,
        ),
        (
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}),
            false,
        ),
        (json!({"type": "FixedLength", "length": 5}), false),
        (Value::Null, false),
    ] {
        let name = pre_tokenizer.to_string();
        all.push((
            name,
            changed(|json| json["pre_tokenizer"] = pre_tokenizer),
            is_cut,
        ));
    }
    let token = |content: &'static str, strips: [bool; 2], normalized: bool| {
        move |json: &mut Value| {
            let added = json["added_tokens"].as_array_mut().unwrap();
            added[0]["lstrip"] = json!(strips[0]);
            added[0]["rstrip"] = json!(strips[1]);
            let mut token = added[0].clone();
            token["id"] = json!(320);
            token["content"] = json!(content);
            token["special"] = json!(false);
            token["normalized"] = json!(normalized);
            added.push(token);
            json["normalizer"] = json!({"type": "Lowercase"});
        }
    };
    all.push((
        "strips left".to_owned(),
        changed(token("word", [true, false], false)),
        true,
    ));
    all.push((
        "strips right".to_owned(),
        changed(token(" Word", [false, true], true)),
        true,
    ));
    all.push((
        "strips both".to_owned(),
        changed(token("a word", [true, true], true)),
        true,
    ));
    all.push((
        "joins two".to_owned(),
        changed(token("d w", [false, false], true)),
        true,
    ));
    let single = changed(|json| json["added_tokens"][0]["single_word"] = json!(true));
    all.push(("a single word".to_owned(), single, false));
    let post = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}});
    all.push((
        "template".to_owned(),
        changed(|json| json["post_processor"] = post),
        true,
    ));
    all
}

/// Tokens of a text that is cut as often as possible, and the number of parts.
fn in_parts(tokenizer: &Tokenizer, text: &str, part_bytes: usize) -> (TokenizedText, usize) {
    let splitting = Splitting::of(tokenizer.library()).unwrap();
    let (mut encoded, mut num_parts) = (Default::default(), 0);
    splitting
        .parts(text, part_bytes, |range| {
            num_parts += 1;
            tokenizer.encode_part(text, range, &mut encoded)?;
            Ok::<_, TokenizerError>(ControlFlow::Continue(()))
        })
        .unwrap();
    (encoded.finish(text.len()), num_parts)
}

#[test]
fn parts_of_a_text_have_the_tokens_and_bytes_of_the_whole() {
    for (name, tokenizer, is_cut) in tokenizers() {
        if Splitting::of(tokenizer.library()).is_none() {
            assert!(!is_cut, "{name} is not cut");
            continue;
        }
        assert!(is_cut, "{name} is cut");
        let mut num_cuts = 0;
        for text in texts() {
            let whole = tokenizer.encode_with_bytes(&text).unwrap();
            for part_bytes in [1, 5, 40] {
                let (parts, num_parts) = in_parts(&tokenizer, &text, part_bytes);
                assert_eq!(parts, whole, "{name}, parts of {part_bytes}: {text:?}");
                num_cuts += num_parts.saturating_sub(1);
            }
        }
        assert!(num_cuts > 50, "{name}: {num_cuts} cuts");
    }
}

#[test]
fn tokens_of_pieces_are_those_of_the_library() {
    let mut num_fast = 0;
    for (name, tokenizer, _) in tokenizers() {
        let Some(splitting) = Splitting::of(tokenizer.library()) else {
            continue;
        };
        let Some(byte_level) = ByteLevelBpe::of(&tokenizer, &splitting) else {
            continue;
        };
        num_fast += 1;
        for text in texts() {
            let whole = tokenizer.encode_with_bytes(&text).unwrap();
            // The second time, pieces are remembered.
            for _ in 0..2 {
                if let Some(found) = byte_level.encode(&splitting, &text, usize::MAX, 1_000) {
                    assert_eq!(found.finish(text.len()), whole, "{name}: {text:?}");
                } else {
                    assert!(name.starts_with("bpe-"), "{name} has a token for each byte");
                }
            }
            let first = byte_level.encode(&splitting, &text, 5, 1_000);
            if let Some(first) = first.map(|first| first.finish(text.len())) {
                assert_eq!(first.ids[..], whole.ids[..first.ids.len()], "{name}");
                assert!(first.ids.len() == whole.ids.len() || first.ids.len() > 5);
            }
        }
    }
    assert_eq!(num_fast, 8, "tokenizers without steps of another kind");
}

#[test]
fn a_piece_that_is_too_long_or_a_byte_without_a_token_is_left_to_the_library() {
    let tokenizer = changed(|json| {
        json["model"]["vocab"].as_object_mut().unwrap().remove("Ð"); // the first byte of Cyrillic letters
    });
    let splitting = Splitting::of(tokenizer.library()).unwrap();
    let byte_level = ByteLevelBpe::of(&tokenizer, &splitting).unwrap();
    let is_taken = |text: &str| {
        byte_level
            .encode(&splitting, text, usize::MAX, 20)
            .is_some()
    };
    assert!(is_taken("some words"));
    assert!(!is_taken("слово"));
    assert!(!is_taken(&"a".repeat(21)));
    let encoder = Encoder::with_room(&tokenizer, 16, u64::MAX);
    for text in ["some слово", "слово"] {
        let whole = encoder.encode_plainly(text, usize::MAX, String::new);
        let found = encoder.encode_text(text, usize::MAX, String::new);
        assert_eq!(found.unwrap(), whole.unwrap());
    }
}

fn document(text: &str) -> Document {
    Document {
        path: Path::new("texts/a.jsonl").into(),
        row: Some(7),
        content: Content::Text(text.to_owned()),
    }
}

#[test]
fn the_first_tokens_of_a_text_are_those_of_the_whole() {
    for tokenizer in [
        opened("hf-llama-256/tokenizer.json"),
        opened("gguf/spm-llama.gguf"),
        opened("gguf/bpe-llama3.gguf"),
    ] {
        let encoder = Encoder::with_room(&tokenizer, 16, u64::MAX);
        for text in texts() {
            let encode = |limit| encoder.encode_text(&text, limit, String::new).unwrap().ids;
            let whole = encode(usize::MAX);
            for limit in [0, 1, 5, 40, whole.len(), whole.len() + 1] {
                let first = encode(limit);
                assert!(first.len() > limit.min(whole.len().saturating_sub(1)) || whole.is_empty());
                assert_eq!(
                    first[..limit.min(first.len())],
                    whole[..limit.min(whole.len())]
                );
            }
        }
    }
}

#[test]
fn tokenising_stops_soon_after_the_limit() {
    let text = "some words ".repeat(10_000);
    let tokenizer = opened("hf-llama-256/tokenizer.json");
    let encoder = Encoder::with_room(&tokenizer, 64, u64::MAX);
    for (limit, at_most) in [(10, 100), (500, 600), (usize::MAX, usize::MAX)] {
        let num_tokens = encoder
            .encode_text(&text, limit, String::new)
            .unwrap()
            .ids
            .len();
        assert!(
            num_tokens > limit.min(10_000) && num_tokens < at_most,
            "{num_tokens}"
        );
    }
}

#[test]
fn a_text_read_bit_by_bit_has_the_tokens_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path: Arc<Path> = dir.path().join("text.txt").into();
    for (name, tokenizer, _) in tokenizers() {
        let encoder = Encoder::with_room(&tokenizer, 48, u64::MAX);
        for text in texts() {
            files::write_atomically(&path, |out| out.write_all(text.as_bytes())).unwrap();
            let file = TextFile::of(&path).unwrap();
            let mut found = TokenizedText::default();
            encoder
                .encode_file(file.open().unwrap(), String::new, |text| {
                    found.ids.extend(text.ids);
                    found.num_bytes.extend(text.num_bytes);
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
            let whole = encoder.encode_text(&text, usize::MAX, String::new);
            let whole = whole.unwrap();
            assert_eq!(found.ids, whole.ids, "{name}");
            // Bytes that no token stands for may count for the token before them or the one behind.
            let bytes = |text: &TokenizedText| text.num_bytes.iter().sum::<u32>();
            assert_eq!(bytes(&found), bytes(&whole), "{name}");
        }
    }
}

#[test]
fn a_text_that_cannot_be_cut_is_refused_if_memory_is_too_small_and_not_before() {
    let text = "some words and more words ".repeat(100);
    let letters = "a".repeat(2_600);
    let room = |kib: u64| kib << 10;
    for (tokenizer, text, is_refused) in [
        (opened("hf-llama-256/tokenizer.json"), &text, false),
        (opened("hf-llama-256/tokenizer.json"), &letters, true),
        (opened("gguf/spm-llama.gguf"), &text, true),
    ] {
        let document = document(text);
        let here = || document.place();
        let encode =
            |kib| Encoder::with_room(&tokenizer, 64, room(kib)).encode_text(text, usize::MAX, here);
        assert!(encode(1024).is_ok());
        match encode(256) {
            Ok(_) => assert!(!is_refused),
            Err(error) => {
                assert!(is_refused);
                assert_eq!(
                    error.to_string(),
                    "texts/a.jsonl:7: 2.5 KiB of text have to be tokenised at once, which takes about 650.0 KiB of memory, \
                     but 256.0 KiB are free"
                );
                assert!(
                    error.help().unwrap().contains("at most 1.0 KiB"),
                    "{error:?}"
                );
            }
        }
    }
}
