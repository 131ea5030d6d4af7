//! Tests of templates against what transformers makes of them (`scripts/make_chat_golden.py`), of refusals, and of what is learnt.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::NaiveDateTime;
use serde_json::{Map, Value as Json, json};

use super::{ChatTemplate, Conversation, Learn, Learnt, TemplateError, learnt};

fn now() -> NaiveDateTime {
    "2026-03-05T07:08:09".parse().unwrap()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &BTreeMap::new(), now()).unwrap()
}

fn conversation(json: &Json) -> Conversation {
    let messages = json["messages"].as_array().unwrap();
    Conversation {
        messages: messages
            .iter()
            .map(|message| message.as_object().unwrap().clone())
            .collect(),
        tools: json["tools"].as_array().cloned(),
        variables: json["variables"].as_object().cloned().unwrap_or_default(),
        ..Conversation::default()
    }
}

/// Messages out of pairs of role and content.
fn turns(turns: &[(&str, &str)]) -> Conversation {
    let messages = turns.iter().map(|(role, content)| {
        let pairs = [("role", *role), ("content", *content)];
        pairs
            .map(|(key, text)| (key.to_owned(), Json::from(text)))
            .into_iter()
            .collect::<Map<_, _>>()
    });
    Conversation {
        messages: messages.collect(),
        ..Conversation::default()
    }
}

fn ranges(json: &Json) -> Vec<Range<usize>> {
    let pair = |pair: &Json| {
        let end = |idx: usize| usize::try_from(pair[idx].as_u64().unwrap()).unwrap();
        end(0)..end(1)
    };
    json.as_array().unwrap().iter().map(pair).collect()
}

#[test]
fn every_construct_renders_as_in_transformers_or_is_refused_as_there() {
    let golden: Json =
        serde_json::from_str(include_str!("../../tests/golden/chat/constructs.json")).unwrap();
    let tokens = serde_json::from_value(golden["special_tokens"].clone()).unwrap();
    let now = golden["now"].as_str().unwrap().parse().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let (mut faults, mut num_ranges) = (Vec::new(), 0);
    for case in cases {
        let name = case["conversation"].as_str().unwrap();
        let conversation = conversation(&golden["conversations"][name]);
        let template = ChatTemplate::new(case["template"].as_str().unwrap(), &tokens, now);
        let rendered = template
            .and_then(|template| template.render(&conversation, case["generation_prompt"] == true));
        let mut fault = |want: &str, got: &str| {
            faults.push(format!(
                "{} ({name}):\n  want {want}\n  got  {got}",
                case["name"]
            ));
        };
        match (case["text"].as_str(), &rendered) {
            (None, Ok(rendered)) => {
                fault(&case["error"].to_string(), &format!("{:?}", rendered.text));
            }
            (Some(text), Err(error)) => fault(&format!("{text:?}"), &error.to_string()),
            (Some(text), Ok(rendered)) if rendered.text != text => {
                fault(&format!("{text:?}"), &format!("{:?}", rendered.text));
            }
            (Some(_), Ok(rendered)) if case["generations"].is_array() => {
                let want = ranges(&case["generations"]);
                num_ranges += want.len();
                if rendered.generations.as_ref() != Some(&want) {
                    fault(&format!("{want:?}"), &format!("{:?}", rendered.generations));
                }
            }
            _ => {}
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {} differ:\n{}",
        faults.len(),
        cases.len(),
        faults.join("\n")
    );
    assert!(
        cases.len() >= 90 && num_ranges >= 40,
        "{} cases, {num_ranges} ranges",
        cases.len()
    );
}

#[test]
fn blocks_in_macros_and_set_blocks_have_their_own_places() {
    let in_macro = "{% macro turn(m) %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}";
    let rendered = template(in_macro)
        .render(&turns(&[("a", "été"), ("b", "x")]), false)
        .unwrap();
    assert_eq!(rendered.text, "<a>été<b>x");
    assert_eq!(rendered.generations, Some(vec![3..8, 11..12]));
}

#[test]
fn a_block_whose_text_is_changed_has_no_place() {
    let trimmed = "{% for m in messages %}{% set turn %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}<{{ m.role }}>{{ turn | trim }}{% endfor %}";
    let rendered = template(trimmed)
        .render(&turns(&[("a", " x ")]), false)
        .unwrap();
    assert_eq!(
        (rendered.text.as_str(), rendered.generations),
        ("<a>x", None)
    );
}

#[test]
fn a_mark_in_a_text_of_the_conversation_is_text() {
    let rendered = template("{% generation %}{{ messages[0].content }}{% endgeneration %}")
        .render(&turns(&[("a", "x\u{fdd0}y")]), false)
        .unwrap();
    assert_eq!(
        (rendered.text.as_str(), rendered.generations),
        ("x\u{fdd0}y", None)
    );
}

#[test]
fn a_template_that_does_not_end_is_given_up() {
    let endless = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='0123456789') %}\n{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ ('x' * 99999999) * 99 }}",
        "{% for a in range(9999) %}{{ '%1000000d' % 1 }}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x'.center(99999999) }}{% endfor %}",
        "{% for a in range(9999) %}{{ messages | tojson(indent=64) }}{{ ('x' * 9999) | indent(99999) }}{% endfor %}",
    ];
    for source in endless {
        let template = ChatTemplate::with_fuel(source, &BTreeMap::new(), now(), 100_000).unwrap();
        let error = template
            .render(&turns(&[("user", "x")]), false)
            .unwrap_err();
        assert!(
            matches!(
                error,
                TemplateError::Endless { .. } | TemplateError::Failed { .. }
            ),
            "{source}: {error}"
        );
    }
    let recursive = template("{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(0) }}")
        .render(&turns(&[]), false);
    assert!(
        matches!(recursive, Err(TemplateError::Failed { .. })),
        "{recursive:?}"
    );
}

#[test]
fn errors_name_the_line_of_the_template_as_it_was_written() {
    let error = |source: &str| {
        let template = ChatTemplate::new(source, &BTreeMap::new(), now());
        template
            .and_then(|template| template.render(&turns(&[("user", "x")]), false))
            .unwrap_err()
    };
    let refused =
        error("{% generation %}\r\n{% endgeneration %}\r\n{{ raise_exception('only\nbots') }}");
    assert_eq!(
        refused,
        TemplateError::Refused {
            line: 3,
            message: "only\nbots".into()
        }
    );
    let failed =
        error("\n{%- generation\n\n-%}{% endgeneration %}\n  {{ messages[0].name.first }}\n");
    assert!(
        matches!(&failed, TemplateError::Failed { line: 5, code, .. } if code == "{{ messages[0].name.first }}"),
        "{failed:?}"
    );
    let unreadable = error("a\n{% if %}");
    assert!(
        matches!(&unreadable, TemplateError::Unreadable { line: 2, .. }),
        "{unreadable:?}"
    );
    assert!(matches!(
        error("{% generation %}"),
        TemplateError::Unreadable { .. }
    ));
    assert!(matches!(
        error(&" ".repeat(5 << 20)),
        TemplateError::TooLong { .. }
    ));
}

const CHATML: &str = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

fn asked() -> Conversation {
    turns(&[
        ("system", "s"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("assistant", "a2"),
    ])
}

/// Texts of the learnt spans of each row.
fn texts(rows: &[Learnt]) -> Vec<Vec<&str>> {
    rows.iter()
        .map(|row| {
            row.spans
                .iter()
                .map(|span| &row.text[span.clone()])
                .collect()
        })
        .collect()
}

#[test]
fn turns_begin_behind_the_generation_prompt() {
    let template = template(CHATML);
    let rows = learnt(&template, &asked(), Learn::Assistant).unwrap();
    assert_eq!(texts(&rows), [["a1<|end|>\n", "a2<|end|>\n"]]);
    let rows = learnt(&template, &asked(), Learn::LastTurn).unwrap();
    assert_eq!(texts(&rows), [["a2<|end|>\n"]]);
    assert_eq!(rows[0].text, template.render(&asked(), false).unwrap().text);
    let some = Conversation {
        unlearnt: vec![2],
        ..asked()
    };
    assert_eq!(
        texts(&learnt(&template, &some, Learn::Assistant).unwrap()),
        [["a2<|end|>\n"]]
    );
    let none = Conversation {
        unlearnt: vec![4],
        ..asked()
    };
    assert_eq!(
        texts(&learnt(&template, &none, Learn::LastTurn).unwrap()),
        [[""; 0]]
    );
    assert_eq!(
        texts(&learnt(&template, &turns(&[("user", "q")]), Learn::Assistant).unwrap()),
        [[""; 0]]
    );
}

#[test]
fn turns_that_touch_are_two_turns() {
    let template = template(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<a>{{ m.content }}<e>{% endgeneration %}\
         {% else %}<u>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}",
    );
    let touching = turns(&[("user", "q"), ("assistant", "one"), ("assistant", "two")]);
    let rows = learnt(&template, &touching, Learn::Assistant).unwrap();
    assert_eq!(texts(&rows), [["one<e>", "two<e>"]]);
}

#[test]
fn a_turn_begins_behind_a_whole_token_of_the_prompt() {
    let template = template(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<e>{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}",
    );
    let answer = |content| {
        let rows = learnt(
            &template,
            &turns(&[("user", "q"), ("assistant", content)]),
            Learn::Assistant,
        );
        let rows = rows.unwrap();
        rows[0].text[rows[0].spans[0].clone()].to_owned()
    };
    assert_eq!(answer("<b>bold</b>"), "<b>bold</b><e>");
    assert_eq!(answer(""), "<e>");
    assert_eq!(answer("<think>\nso"), "so<e>");
    assert_eq!(answer("plain"), "plain<e>");
}

#[test]
fn a_completion_is_what_follows_the_prompt() {
    let template = template(CHATML);
    assert_eq!(
        learnt(&template, &asked(), Learn::Completion),
        Err(TemplateError::NoPrompt)
    );
    let prompted = Conversation {
        num_prompt: 2,
        ..asked()
    };
    let rows = learnt(&template, &prompted, Learn::Completion).unwrap();
    assert_eq!(
        texts(&rows),
        [["a1<|end|>\n<|user|>\nq2<|end|>\n<|assistant|>\na2<|end|>\n"]]
    );
    let without_question = Conversation {
        unlearnt: vec![3],
        ..prompted
    };
    let rows = learnt(&template, &without_question, Learn::Completion).unwrap();
    assert_eq!(
        texts(&rows),
        [["a1<|end|>\n", "<|assistant|>\na2<|end|>\n"]]
    );
}

#[test]
fn everything_is_learnt_but_for_what_is_not() {
    let template = template(CHATML);
    let rows = learnt(&template, &asked(), Learn::All).unwrap();
    assert_eq!(texts(&rows), [[rows[0].text.as_str()]]);
    let some = Conversation {
        unlearnt: vec![0, 3],
        ..asked()
    };
    let rows = learnt(&template, &some, Learn::All).unwrap();
    assert_eq!(
        texts(&rows),
        [[
            "<|user|>\nq1<|end|>\n<|assistant|>\na1<|end|>\n",
            "<|assistant|>\na2<|end|>\n"
        ]]
    );
}

/// A template that shows the reasoning of the last turn alone, whose header the generation prompt supplies.
const THINKING: &str = "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}</s>{% endfor %}\
                        {% if add_generation_prompt %}<assistant><think>{% endif %}";

#[test]
fn turns_that_later_ones_change_have_rows_of_their_own() {
    let mut thought = turns(&[
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("assistant", "a2"),
    ]);
    for idx in [1, 3] {
        thought.messages[idx].insert("reasoning".into(), json!("why"));
    }
    let rows = learnt(&template(THINKING), &thought, Learn::Assistant).unwrap();
    assert_eq!(texts(&rows), [["why</think>a1</s>"], ["why</think>a2</s>"]]);
    assert_eq!(
        rows[1].text,
        "<user>q1</s><assistant>a1</s><user>q2</s><assistant><think>why</think>a2</s>"
    );
    let one = Conversation {
        unlearnt: vec![1],
        ..thought.clone()
    };
    assert_eq!(
        texts(&learnt(&template(THINKING), &one, Learn::Assistant).unwrap()),
        [["why</think>a2</s>"]]
    );
    assert_eq!(
        learnt(&template(THINKING), &one, Learn::All),
        Err(TemplateError::Unplaced { message: 1 })
    );
}

#[test]
fn a_conversation_may_begin_with_the_assistant() {
    let greeted = turns(&[("assistant", "hello"), ("user", "q"), ("assistant", "a")]);
    assert_eq!(
        texts(&learnt(&template(CHATML), &greeted, Learn::Assistant).unwrap()),
        [["hello<|end|>\n", "a<|end|>\n"]]
    );
    let looks_first = format!("{{% if messages[0].role == 'system' %}}{{% endif %}}{CHATML}");
    assert_eq!(
        texts(&learnt(&template(&looks_first), &greeted, Learn::Assistant).unwrap()),
        [["hello<|end|>\n", "a<|end|>\n"]]
    );
    let without_prompt = looks_first.replace("add_generation_prompt", "false");
    assert_eq!(
        learnt(&template(&without_prompt), &greeted, Learn::Assistant),
        Err(TemplateError::NoOpening { message: 0 })
    );
}

#[test]
fn a_first_turn_begins_behind_what_comes_with_it() {
    let with_system =
        "{% if messages[0].role != 'system' %}<s><system>be brief\n{% endif %}".to_owned() + CHATML;
    let greeted = turns(&[("assistant", "hello"), ("user", "q")]);
    let rows = learnt(&template(&with_system), &greeted, Learn::Assistant).unwrap();
    assert_eq!(texts(&rows), [["hello<|end|>\n"]]);
    let wide = with_system.replace("<|", "<｜");
    let rows = learnt(&template(&wide), &greeted, Learn::Assistant).unwrap();
    assert_eq!(texts(&rows), [["hello<｜end|>\n"]]);
    let with_end = format!(
        "{}{{% else %}}<eos>{{% endif %}}",
        with_system.strip_suffix("{% endif %}").unwrap()
    );
    let rows = learnt(&template(&with_end), &greeted, Learn::Assistant).unwrap();
    assert_eq!(texts(&rows), [["hello<|end|>\n<eos>"]]);
    let thinking = with_system.replace(
        "<|assistant|>\n{% endif %}",
        "<|assistant|>\n<think>{% endif %}",
    );
    let rows = learnt(&template(&thinking), &greeted, Learn::Assistant).unwrap();
    assert_eq!(texts(&rows), [["hello<|end|>\n"]]);
}

#[test]
fn blocks_are_learnt_from_behind_the_generation_prompt() {
    let template = |header: &str, block: &str, prompt: &str| {
        template(&format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{header}{{% generation %}}{block}{{{{ m.content }}}}{{% endgeneration %}}{{% generation %}}</s>{{% endgeneration %}}\
             {{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
        ))
    };
    for (header, block, prompt, want) in [
        ("<a>", "", "<a>", "x</s>"),
        ("<a>", "\n", "<a>\n", "x</s>"),
        ("", "<a>", "<a>", "x</s>"),
        ("<a>", "<think></think>", "<a><think></think>", "x</s>"),
        ("<a>", "<think></think>", "<a><think>\n", "</think>x</s>"),
        ("", "<b>", "<a>", "<b>x</s>"),
        ("", "<a>", "<a><think>", "x</s>"),
        ("", "<a><tool>", "<a><think>", "<tool>x</s>"),
        ("<a>", "", "", "x</s>"),
    ] {
        let conversation = turns(&[("user", "q"), ("assistant", "x")]);
        let rows = learnt(
            &template(header, block, prompt),
            &conversation,
            Learn::Assistant,
        )
        .unwrap();
        assert_eq!(texts(&rows), [[want]], "{header} {block} {prompt}");
    }
}

#[test]
fn generation_blocks_say_what_is_learnt() {
    let blocks = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}\n{% else %}{{ m.content }}\n{% endif %}{% endfor %}\
                  {% if add_generation_prompt %}<assistant>{% endif %}";
    let template = template(blocks);
    assert_eq!(
        texts(&learnt(&template, &asked(), Learn::Assistant).unwrap()),
        [["a1</s>", "a2</s>"]]
    );
    assert_eq!(
        texts(&learnt(&template, &asked(), Learn::LastTurn).unwrap()),
        [["a2</s>"]]
    );
    let some = Conversation {
        unlearnt: vec![4],
        ..asked()
    };
    assert_eq!(
        texts(&learnt(&template, &some, Learn::Assistant).unwrap()),
        [["a1</s>"]]
    );
}

#[test]
fn threads_share_a_template() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(&template(CHATML));
}
