use super::super::TextFacts;
use super::super::verify::Budget;
use super::*;
use crate::model::{Architecture, LayerType, Rope};

fn ancestor(name: &str, license: Option<&str>) -> Ancestor {
    Ancestor {
        commit: None,
        name: name.to_owned(),
        license: license.map(|id| License {
            id: id.to_owned(),
            name: None,
            link: None,
        }),
    }
}

fn facts() -> CardFacts {
    CardFacts {
        name: "quickstart".to_owned(),
        provenance: Provenance {
            teacher: Some(ancestor("austen-teacher", Some("apache-2.0"))),
            texts: vec![TextFacts {
                purpose: "trained on",
                names: vec!["train".to_owned()],
                num_tokens: 600_000,
            }],
            ..Provenance::default()
        },
        config: DecoderConfig {
            architecture: Architecture::Llama,
            vocab_size: 4096,
            hidden_size: 128,
            intermediate_size: 352,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 32,
            rms_norm_eps: 1e-5,
            query_pre_attn_scalar: 32,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            sliding_window: None,
            layer_types: vec![LayerType::Full; 4],
            local_rope: None,
            layers_without_rope: vec![],
            rope: Rope::plain(10_000.0),
            max_position_embeddings: 256,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_ids: vec![0],
            pad_token_id: None,
        },
        storage: "int4, groups of 32".to_owned(),
        weights_bytes: 1_483_000,
        columns: vec!["pass".to_owned(), "loss".to_owned()],
        rows: vec![
            vec!["00-distill".to_owned(), "4.21".to_owned()],
            vec!["01-a|b".to_owned(), "4.30".to_owned()],
        ],
        is_rebuilt: false,
        loads_in_vllm: true,
        verification: Some(Verification {
            format: "compressed-tensors".to_owned(),
            size_bytes: 1_483_000,
            positions: 12_345,
            max_logit_difference: 0.000_031,
            kl_nats: 1.5e-9,
            top1_agreement: 0.9995,
            budget: Budget::LogitDifference(1e-3),
            embedding_kl_nats: None,
        }),
        format: Format::CompressedTensors,
        file: String::new(),
    }
}

#[test]
fn the_card_says_what_was_measured() {
    let card = model_card(&facts());
    // By hand: 4096 * 128 + 4 * (2 * 128 + 128 * (128 + 64 + 64 + 128) + 3 * 128 * 352) + 128.
    assert!(card.contains("| parameters | 1,262,720 |"), "{card}");
    assert!(
        card.contains("| vocabulary | 4,096, tied output |"),
        "{card}"
    );
    assert!(
        card.contains("| weights file | 1,483,000 bytes |"),
        "{card}"
    );
    assert!(
        card.contains(
            "| pass | loss |\n| --- | --- |\n| 00-distill | 4.21 |\n| 01-a\\|b | 4.30 |\n"
        ),
        "{card}"
    );
    assert!(
        card.contains("on 12,345 positions: largest logit difference 3.1e-5 (at most 1e-3), KL 1.5e-9 nats, top-1 agreement 99.95 %."),
        "{card}"
    );
    assert!(
        card.contains("pip install transformers torch compressed-tensors"),
        "{card}"
    );
}

#[test]
fn the_front_matter_comes_first_and_quotes_the_teacher() {
    let mut facts = facts();
    facts.provenance.teacher = Some(ancestor("a: \"b\"\nc", Some("mit")));
    let card = model_card(&facts);
    assert!(
        card.starts_with(
            "---\nlibrary_name: transformers\npipeline_tag: text-generation\n\
             base_model: \"a: \\\"b\\\"\\nc\"\nlicense: \"mit\"\ntags:\n- alambic\n- distillation\n- compressed-tensors\n---\n"
        ),
        "{card}"
    );
}

#[test]
fn each_format_of_codes_says_what_loads_it() {
    for (format, told) in [
        (
            Format::Gptq,
            [
                "library_name: transformers",
                "- gptq\n",
                "gptqmodel",
                "vllm serve .",
            ],
        ),
        (
            Format::Awq,
            [
                "library_name: transformers",
                "- awq\n",
                "gptqmodel",
                "vllm serve .",
            ],
        ),
        (
            Format::Mlx,
            [
                "library_name: mlx",
                "- mlx\n",
                "mlx_lm.generate --model .",
                "",
            ],
        ),
    ] {
        let card = model_card(&CardFacts { format, ..facts() });
        for told in told {
            assert!(card.contains(told), "{told}: {card}");
        }
        assert_eq!(card.contains("vllm"), format != Format::Mlx);
    }
}

#[test]
fn the_card_tells_what_made_the_model_of_what_and_whose_licence_holds() {
    let mut facts = facts();
    let card = model_card(&facts);
    for told in [
        "A student of `austen-teacher`, made by alambic. `recipe.yaml` made it.",
        "- trained on: 600,000 tokens of `train`",
        "- `austen-teacher`: apache-2.0\n",
        "license: \"apache-2.0\"\n",
    ] {
        assert!(card.contains(told), "{told}: {card}");
    }
    facts.provenance.base = Some(ancestor("smollm2", None));
    facts.provenance.made_by = MadeBy::Command("alambic quantize smollm2".to_owned());
    let card = model_card(&facts);
    for told in [
        "Made by alambic from `smollm2`, as a student of `austen-teacher`. This made it:\n\n```sh\nalambic quantize smollm2\n```",
        "- `smollm2`: unknown: check before publishing\n- `austen-teacher`: apache-2.0\n",
    ] {
        assert!(card.contains(told), "{told}: {card}");
    }
    assert!(!card.contains("license:"), "{card}");
}

#[test]
fn what_was_not_measured_is_not_mentioned() {
    let mut facts = facts();
    facts.provenance = Provenance::default();
    facts.rows.clear();
    facts.verification = None;
    facts.format = Format::HuggingFace;
    let card = model_card(&facts);
    for absent in [
        "base_model",
        "license",
        "## Data",
        "## Licence",
        "distillation",
        "Measured",
        "Verified",
        "compressed-tensors",
    ] {
        assert!(!card.contains(absent), "{absent}: {card}");
    }
}
