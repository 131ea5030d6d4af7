//! Vocabularies that are refused; sound ones are tested where text is tokenised.

use super::*;
use crate::gguf::tokenizer::tokenizer_files;

fn vocabulary() -> Draft {
    let mut draft = Draft::new();
    draft
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts(
            "tokenizer.ggml.tokens",
            &["a", "b", "ab", "<end>", "[PAD4]"],
        )
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 3, 5])
        .texts("tokenizer.ggml.merges", &["a b"])
        .u32("tokenizer.ggml.eos_token_id", 3);
    draft
}

fn told(change: impl Fn(&mut Draft)) -> String {
    let mut draft = vocabulary();
    change(&mut draft);
    let file = opened(&draft.bytes()).unwrap();
    match tokenizer_files(&file) {
        Err(GgufError::Content { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn filling_is_left_out_and_special_tokens_are_named() {
    let mut draft = vocabulary();
    draft
        .u32("tokenizer.ggml.bos_token_id", 3)
        .flag("tokenizer.ggml.add_bos_token", true)
        .text("tokenizer.chat_template", "{{ messages }}");
    let files = tokenizer_files(&opened(&draft.bytes()).unwrap()).unwrap();
    assert_eq!(
        files.tokenizer["model"]["vocab"],
        serde_json::json!({ "a": 0, "b": 1, "ab": 2, "<end>": 3 })
    );
    assert_eq!(files.tokenizer["added_tokens"][0]["id"], 3);
    assert_eq!(files.tokenizer["added_tokens"][0]["special"], true);
    assert_eq!(
        files.tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"],
        "<end>"
    );
    assert_eq!(files.config["eos_token"], "<end>");
    assert_eq!(files.config["chat_template"], "{{ messages }}");
}

#[test]
fn an_unknown_kind_or_rule_is_refused_by_name() {
    let kind = told(|draft| {
        draft.text("tokenizer.ggml.model", "bert");
    });
    assert_eq!(
        kind,
        "`tokenizer.ggml.model` must be `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE), but is `bert`"
    );
    let rule = told(|draft| {
        draft.text("tokenizer.ggml.pre", "poro-chat");
    });
    assert!(
        rule.starts_with("`tokenizer.ggml.pre` must be a rule that alambic knows (`gpt-2`,"),
        "{rule}"
    );
    assert!(rule.ends_with("but is `poro-chat`"), "{rule}");
    let none = told(|draft| draft.keys.retain(|(key, _)| key != "tokenizer.ggml.pre"));
    assert!(none.ends_with("but is absent"), "{none}");
}

#[test]
fn lists_that_do_not_fit_together_are_refused() {
    let types = told(|draft| {
        draft.i32s("tokenizer.ggml.token_type", &[1, 1]);
    });
    assert_eq!(
        types,
        "`tokenizer.ggml.token_type` must be an array of 5 values, one per token, but is an array of 2 values"
    );
    let number = told(|draft| {
        draft.i32s("tokenizer.ggml.token_type", &[1, 1, 1, 9, 5]);
    });
    assert!(
        number.contains("an array of numbers from 1 to 6"),
        "{number}"
    );
    let twice = told(|draft| {
        draft.texts("tokenizer.ggml.tokens", &["a", "b", "a", "<end>", "[PAD4]"]);
    });
    assert!(twice.contains("`a` occurs twice"), "{twice}");
    let merge = told(|draft| {
        draft.texts("tokenizer.ggml.merges", &["a b c"]);
    });
    assert!(merge.contains("one is `a b c`"), "{merge}");
    let id = told(|draft| {
        draft.u32("tokenizer.ggml.eos_token_id", 5);
    });
    assert_eq!(
        id,
        "`tokenizer.ggml.eos_token_id` must be below 5, the number of tokens, but is `5`"
    );
    let scores = told(|draft| {
        draft
            .text("tokenizer.ggml.model", "llama")
            .f32s("tokenizer.ggml.scores", &[0.0]);
    });
    assert!(scores.contains("one per token"), "{scores}");
}
