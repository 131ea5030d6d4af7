use super::*;
use crate::files;

fn open(path: &Path) -> Result<Vocabulary, VocabularyError> {
    Vocabulary::of_checkpoint(&Checkpoint::open(path)?)
}

fn folder(tokens: &[&str], special: &[&str], rows: usize, eos: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), id.into()))
        .collect();
    let added: Vec<_> = special
        .iter()
        .map(|token| {
            let id = tokens.iter().position(|known| known == token).unwrap();
            serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": added,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]},
    });
    let write = |name: &str, json: serde_json::Value| {
        files::write_atomically(&dir.path().join(name), |out| {
            out.write_all(json.to_string().as_bytes())
        })
        .unwrap();
    };
    write("tokenizer.json", tokenizer);
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": rows, "eos_token_id": eos,
        "tie_word_embeddings": true,
    });
    write("config.json", config);
    let shapes = [
        ("model.embed_tokens", vec![rows, 4]),
        ("model.norm", vec![4]),
        ("model.layers.0.input_layernorm", vec![4]),
        ("model.layers.0.post_attention_layernorm", vec![4]),
        ("model.layers.0.self_attn.q_proj", vec![4, 4]),
        ("model.layers.0.self_attn.k_proj", vec![4, 4]),
        ("model.layers.0.self_attn.v_proj", vec![4, 4]),
        ("model.layers.0.self_attn.o_proj", vec![4, 4]),
        ("model.layers.0.mlp.gate_proj", vec![4, 4]),
        ("model.layers.0.mlp.up_proj", vec![4, 4]),
        ("model.layers.0.mlp.down_proj", vec![4, 4]),
    ];
    let zeros = vec![0; rows.max(4) * 16];
    let tensors = shapes.map(|(name, shape)| {
        let bytes = &zeros[..4 * shape.iter().product::<usize>()];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes);
        (format!("{name}.weight"), view.unwrap())
    });
    let path = dir.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    dir
}

#[test]
fn padded_rows_do_not_make_vocabularies_differ() {
    let tokens = ["<eos>", "a", "b"];
    let (small, padded) = (
        folder(&tokens, &["<eos>"], 3, 0),
        folder(&tokens, &["<eos>"], 8, 0),
    );
    let small = open(small.path()).unwrap();
    let padded = open(padded.path()).unwrap();
    let found = small.compare(&padded);
    assert!(found.agree && found.same_end_of_text);
    assert_eq!(found.disagreement("student", "teacher"), None);
    assert_eq!(found.a.num_padding_rows, Some(0));
    assert_eq!((found.b.num_tokens, found.b.num_rows), (3, Some(8)));
    assert_eq!(found.b.num_padding_rows, Some(5));
    let text = found.text();
    assert!(
        text.contains("3 tokens, 8 rows (5 not used by any token), text ends with `<eos>` (0)")
            && text.ends_with("every id means the same to both"),
        "{text}"
    );
}

#[test]
fn the_first_ids_that_differ_are_told_with_both_meanings() {
    let one = folder(&["<eos>", "a", "b", "c", "d", "<pad>"], &["<eos>"], 6, 0);
    let other = folder(
        &["<eos>", "b", "a", "d", "c", "<pad>", "e"],
        &["<eos>", "<pad>"],
        7,
        0,
    );
    let one = open(one.path()).unwrap();
    let found = one.compare(&open(other.path()).unwrap());
    assert!(!found.agree);
    assert_eq!(found.num_differing, 6);
    assert_eq!(found.differing[4].b.to_string(), "`<pad>` (special)");
    assert_eq!(found.differing[5].a.to_string(), "no token");
    assert_eq!(
        found.disagreement("student", "teacher").unwrap(),
        "the student has 6 tokens, but the teacher has 7: token 1 is `a` to the student and `b` to the teacher; token 2 is `b` to the student and `a` to the \
         teacher; token 3 is `c` to the student and `d` to the teacher; and 3 more ids differ"
    );
}

#[test]
fn other_ends_of_text_are_told_and_are_no_disagreement() {
    let tokens = ["<eos>", "a", "<end>"];
    let (base, chat) = (folder(&tokens, &[], 3, 0), folder(&tokens, &[], 3, 2));
    let base = open(base.path()).unwrap();
    let found = base.compare(&open(chat.path()).unwrap());
    assert!(found.agree && !found.same_end_of_text);
    assert!(found.text().ends_with("but they end a text differently"));
}

#[test]
fn an_end_of_text_beyond_the_tokens_is_told_as_none_of_them() {
    let dir = folder(&["<eos>", "a", "b"], &["<eos>"], 5, 4);
    let vocabulary = open(dir.path()).unwrap();
    let text = vocabulary.compare(&vocabulary).text();
    assert!(text.contains("text ends with no token (4)\n"), "{text}");
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused() {
    let dir = folder(&["<eos>", "a", "b"], &[], 2, 0);
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("the tokenizer has 3 tokens, but the model knows 2"),
        "{message}"
    );
}

#[test]
fn an_added_token_that_the_model_has_no_row_for_is_left_out() {
    let dir = folder(&["<eos>", "a", "b"], &["<eos>"], 3, 0);
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut image = json["added_tokens"][0].clone();
    image["id"] = 3.into();
    image["content"] = "<image>".into();
    json["added_tokens"].as_array_mut().unwrap().push(image);
    files::write_json(&path, &json).unwrap();

    let whole = Vocabulary::of_tokenizer(&path).unwrap();
    assert_eq!((whole.num_tokens(), whole.num_without_row()), (4, 0));
    let of_model = open(dir.path()).unwrap();
    assert_eq!((of_model.num_tokens(), of_model.num_without_row()), (3, 1));
    let ids = of_model.tokenizer.encode("<image>").unwrap();
    assert!(ids.iter().all(|&id| id < 3), "{ids:?}");
    assert_eq!(of_model.tokenizer.encode("<eos>").unwrap(), [0]);
    assert_eq!(of_model.tokenizer.end_of_text(), Some(0));
}
