use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerBuilder};

use crate::data::{OnBadRow, SourcePlan, Tokenizer, TokenizerError, read_documents};
use crate::{files, random};

/// Enough text for a few hundred merges, with characters of two, three and four bytes.
fn texts() -> Vec<String> {
    let words = [
        "the sea",
        " captain's",
        " daughter—née Ångström—",
        " wrote 1817",
        "\n\n日本語 ",
        "😀 ",
    ];
    (0..40)
        .map(|i| {
            (0..50)
                .map(|j| words[(i * 7 + j * j) % words.len()])
                .collect()
        })
        .collect()
}

pub(super) fn trained() -> Tokenizer {
    let texts = texts();
    Tokenizer::train(texts.iter().map(|text| text.as_str().into()), 300).unwrap()
}

/// Writes a changed copy of the trained tokenizer and opens it.
pub(super) fn reopened(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    let mut json: Value = serde_json::from_slice(trained().bytes()).unwrap();
    change(&mut json);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    files::write_json(&path, &json).unwrap();
    Tokenizer::open(&path)
}

#[test]
fn the_same_text_trains_the_same_bytes() {
    let first = trained();
    for _ in 0..3 {
        assert_eq!(trained().bytes(), first.bytes());
    }
    assert_eq!(
        first.hash(),
        blake3::hash(first.bytes()).to_hex().to_string()
    );
    assert!(
        (258..=300).contains(&first.vocab_size()),
        "{}",
        first.vocab_size()
    );
}

#[test]
fn a_text_is_trained_on_in_parts_as_if_it_were_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/austen/validation");
    let documents = read_documents(&[SourcePlan::from(path)], OnBadRow::Fail)
        .unwrap()
        .documents;
    let text = &documents[0].text().unwrap()[..200_000];
    let byte_level = ByteLevel::new(false, false, true);
    let mut trainer = BpeTrainer::builder()
        .vocab_size(400)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .build();
    let mut whole = TokenizerBuilder::<_, NormalizerWrapper, _, _, _>::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(Some(byte_level))
        .with_decoder(Some(byte_level))
        .build()
        .unwrap();
    whole.train(&mut trainer, [text].into_iter()).unwrap();
    let parts = Tokenizer::train([text.into()].into_iter(), 400).unwrap();
    assert_eq!(parts.bytes(), whole.to_string(false).unwrap().as_bytes());
}

#[test]
fn a_text_without_spaces_is_trained_on_in_words_of_bounded_length() {
    let letters: String = (0..200_000u64)
        .map(|place| {
            ['A', 'C', 'G', 'T'][usize::try_from(random::derive(place, "letters") % 4).unwrap()]
        })
        .collect();
    for text in [&letters, &" ".repeat(200_000)] {
        let tokenizer = Tokenizer::train([text.as_str().into()].into_iter(), 320).unwrap();
        let ids = tokenizer.encode(&text[..1000]).unwrap();
        assert!(ids.len() < 600, "{} tokens", ids.len());
        assert_eq!(tokenizer.decode(&ids).unwrap(), text[..1000]);
    }
}

#[test]
fn end_of_text_is_token_zero_of_a_trained_tokenizer() {
    let tokenizer = trained();
    assert_eq!(tokenizer.end_of_text(), Some(0));
    assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [0]);
    assert_eq!(tokenizer.decode(&[0]).unwrap(), "");
}

#[test]
fn any_text_comes_back_whole_and_nothing_is_added() {
    let tokenizer = trained();
    for text in [
        "",
        "the sea",
        "  two  spaces\r\n\t",
        "Ångström 😀 日本語",
        "unseen: ﷽\u{0}Ω",
    ] {
        let ids = tokenizer.encode(text).unwrap();
        assert!(!ids.contains(&0), "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    let ids = tokenizer.encode("the sea").unwrap();
    assert!(ids.len() < 7, "merges are used: {ids:?}");
}

#[test]
fn bytes_per_token_sum_to_the_text_also_where_characters_are_split() {
    let tokenizer = trained();
    for text in [
        "",
        "the sea",
        " the  sea ",
        "Ω😀é",
        "日本語",
        "a<|endoftext|>b",
        "\n\n",
    ] {
        let tokenized = tokenizer.encode_with_bytes(text).unwrap();
        assert_eq!(tokenized.ids, tokenizer.encode(text).unwrap());
        assert_eq!(
            tokenized.num_bytes.iter().sum::<u32>() as usize,
            text.len(),
            "{text:?}"
        );
    }
    let tokenized = tokenizer.encode_with_bytes("Ω x").unwrap();
    assert_eq!(
        tokenized.num_bytes,
        [2, 0, 1, 1],
        "Ω is unseen: one token per byte"
    );
    let tokenized = tokenizer.encode_with_bytes("a<|endoftext|>").unwrap();
    assert_eq!(tokenized.num_bytes, [1, 13]);
}

#[test]
fn white_space_that_a_normalizer_drops_is_charged_to_a_neighbour() {
    let tokenizer = reopened(|json| {
        json["normalizer"] = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    })
    .unwrap();
    let tokenized = tokenizer.encode_with_bytes("   the sea    ").unwrap();
    assert_eq!(tokenized.ids, tokenizer.encode("the sea").unwrap());
    assert_eq!(tokenized.num_bytes.iter().sum::<u32>(), 14);
    assert!(tokenizer.encode("   ").unwrap().is_empty());
}

#[test]
fn streamed_text_is_the_decoded_text_and_never_half_a_character() {
    let tokenizer = trained();
    let text = "the sea Ω😀 ﷽ 日本語 end";
    let mut stream = tokenizer.stream();
    let mut pieces = Vec::new();
    for id in tokenizer.encode(text).unwrap() {
        pieces.push(stream.push(id).unwrap());
    }
    pieces.push(stream.finish().unwrap());
    assert_eq!(pieces.concat(), text);
    assert!(
        !pieces.iter().any(|piece| piece.contains('\u{fffd}')),
        "{pieces:?}"
    );

    let mut stream = tokenizer.stream();
    let ids = tokenizer.encode("Ω").unwrap();
    assert_eq!(stream.push(ids[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}", "cut in a character");
}

#[test]
fn a_saved_tokenizer_is_opened_with_the_same_bytes_and_config() {
    let tokenizer = trained();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let config_path = dir.path().join("tokenizer_config.json");
    let config: Value = serde_json::from_slice(&fs::read(&config_path).unwrap()).unwrap();
    assert_eq!(config["eos_token"], "<|endoftext|>");

    files::write_json(&config_path, &json!({"chat_template": "kept"})).unwrap();
    let opened = Tokenizer::open(&dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(opened.bytes(), tokenizer.bytes());
    assert_eq!(opened.vocab_size(), tokenizer.vocab_size());
    let copy = tempfile::tempdir().unwrap();
    opened.save(copy.path()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            fs::read(copy.path().join(name)).unwrap(),
            fs::read(dir.path().join(name)).unwrap()
        );
    }
}

#[test]
fn truncation_padding_dropout_and_added_tokens_do_not_reach_the_ids() {
    let text = "the sea captain's daughter ".repeat(20);
    let expected = trained().encode(&text).unwrap();
    let tokenizer = reopened(|json| {
        json["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 999}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
        json["model"]["dropout"] = json!(0.5);
        json["post_processor"] = template(true);
    })
    .unwrap();
    assert_eq!(tokenizer.encode(&text).unwrap(), expected);
    assert_eq!(tokenizer.encode_with_bytes(&text).unwrap().ids, expected);
}

/// A post-processor that adds token 0 before or after a text.
fn template(before: bool) -> Value {
    let special = json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single = if before {
        [special, text]
    } else {
        [text, special]
    };
    json!({"type": "TemplateProcessing", "single": single,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}})
}

#[test]
fn what_belongs_before_a_text_is_told_by_the_config_or_else_by_the_post_processor() {
    let beginning = |before: Option<bool>, config: Value| {
        let mut json: Value = serde_json::from_slice(trained().bytes()).unwrap();
        let byte_level = json["post_processor"].clone();
        json["post_processor"] = match before {
            Some(before) => {
                json!({"type": "Sequence", "processors": [byte_level, template(before)]})
            }
            None => byte_level,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        files::write_json(&path, &json).unwrap();
        files::write_json(&dir.path().join("tokenizer_config.json"), &config).unwrap();
        Tokenizer::open(&path).unwrap().beginning_of_text()
    };
    assert_eq!(beginning(None, json!({})), None);
    assert_eq!(beginning(Some(false), json!({})), None);
    assert_eq!(beginning(Some(true), json!({})), Some(0));
    let config = |adds: bool| json!({"add_bos_token": adds, "bos_token": "e"});
    let e = trained().encode("e").unwrap();
    assert_eq!(beginning(None, config(true)), Some(e[0]));
    assert_eq!(beginning(Some(true), config(false)), None);
    let object = json!({"add_bos_token": true, "bos_token": {"content": "e", "lstrip": false}});
    assert_eq!(beginning(None, object), Some(e[0]));
}

#[test]
fn end_of_text_is_found_by_its_usual_names() {
    let named = |name: &str| {
        let tokenizer = reopened(|json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("<|endoftext|>").unwrap();
            vocab.insert(name.to_owned(), id);
            json["added_tokens"][0]["content"] = json!(name);
        });
        tokenizer.unwrap().end_of_text()
    };
    assert_eq!(named("</s>"), Some(0));
    assert_eq!(named("<|im_end|>"), Some(0));
    assert_eq!(named("<other>"), None);
}

#[test]
fn a_file_that_is_no_tokenizer_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let error = Tokenizer::open(&path).unwrap_err();
    assert!(
        matches!(&error, TokenizerError::Missing { .. })
            && error.to_string().contains("tokenizer.json")
    );

    let whole = trained().bytes().to_vec();
    let empty =
        br#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{},"merges":[]}}"#;
    let half = &whole[..whole.len() / 2];
    let nested = "[".repeat(100_000);
    for bytes in [b"".as_slice(), b"[]", b"{}", empty, half, nested.as_bytes()] {
        files::write_atomically(&path, |out| out.write_all(bytes)).unwrap();
        let error = Tokenizer::open(&path).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, TokenizerError::NotATokenizer { .. }),
            "{message}"
        );
        assert!(
            message.contains("tokenizer.json: not a tokenizer: "),
            "{message}"
        );
    }
}

#[test]
fn an_added_token_that_would_get_another_id_is_refused() {
    let error = reopened(|json| {
        let mut token = json["added_tokens"][0].clone();
        token["id"] = json!(5000);
        token["content"] = json!("<|im_start|>");
        json["added_tokens"].as_array_mut().unwrap().push(token);
    })
    .unwrap_err();
    assert!(
        matches!(error, TokenizerError::AddedTokenId { written: 5000, .. }),
        "{error}"
    );
}

#[test]
fn a_vocabulary_without_room_for_every_byte_is_refused() {
    let error = Tokenizer::train(["text".into()].into_iter(), 256).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a byte-level vocabulary has at least 257 tokens, but 256 were requested"
    );
    assert_eq!(
        Tokenizer::train(["text".into()].into_iter(), 257)
            .unwrap()
            .vocab_size(),
        257
    );
}

#[test]
fn a_tag_of_html_is_no_end_of_text_where_a_special_token_is() {
    // Gemma has HTML tokens, where `</s>` closes struck-through text.
    let with = |eos_is_special: bool| {
        let tokenizer = reopened(|json| {
            let added = json["added_tokens"].as_array_mut().unwrap();
            added[0]["content"] = json!("<eos>");
            added[0]["special"] = json!(eos_is_special);
            let mut tag = added[0].clone();
            tag["id"] = json!(300);
            tag["content"] = json!("</s>");
            tag["special"] = json!(false);
            added.push(tag);
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("<|endoftext|>").unwrap();
            vocab.insert("<eos>".to_owned(), id);
            vocab.insert("</s>".to_owned(), json!(300));
        });
        let tokenizer = tokenizer.unwrap();
        let end = tokenizer.end_of_text().and_then(|id| tokenizer.token(id));
        end.unwrap()
    };
    assert_eq!(with(true), "<eos>");
    assert_eq!(
        with(false),
        "</s>",
        "if none is special, the order of names decides"
    );
}

#[test]
fn a_folder_without_the_file_says_what_it_has_instead_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let refused = || Tokenizer::of_model(dir.path()).unwrap_err().to_string();
    let message = refused();
    assert!(
        message.contains("has no `tokenizer.json`: copy it from the model"),
        "{message}"
    );
    for name in ["merges.txt", "vocab.json"] {
        files::write_atomically(&dir.path().join(name), |_| Ok(())).unwrap();
    }
    let message = refused();
    assert!(
        message.contains("it has `vocab.json` and `merges.txt`, which alambic does not read"),
        "{message}"
    );
    assert!(message.contains("save_pretrained"), "{message}");
}
