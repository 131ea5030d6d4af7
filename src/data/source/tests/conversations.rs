//! Rows of turns to conversations.

use serde_json::{Value, json};

use super::*;
use crate::chat::Conversation;

/// Documents of rows that are read as a plan says, or the faults.
fn rows(
    rows: &[Value],
    plan_of: impl Fn(SourcePlan) -> SourcePlan,
) -> Result<Vec<Content>, String> {
    let lines: Vec<_> = rows.iter().map(|row| format!("{row}\n")).collect();
    let dir = folder(&[("a.jsonl", lines.concat().as_bytes())]);
    let path = dir.path().join("a.jsonl");
    let read = read_documents(&[plan_of(plan(&path))], OnBadRow::Fail);
    let read = read.map_err(|error| message(&dir, &error))?;
    Ok(read
        .documents
        .into_iter()
        .map(|document| document.content)
        .collect())
}

fn row(row: Value) -> Result<Content, String> {
    let mut found = rows(&[row], |plan| plan)?;
    assert_eq!(found.len(), 1);
    Ok(found.remove(0))
}

fn chat(content: Content) -> Conversation {
    match content {
        Content::Chat(conversation) => conversation,
        other => panic!("{other:?}"),
    }
}

fn messages(row_value: Value) -> Value {
    json!(chat(row(row_value).unwrap()).messages)
}

fn fault(value: Value) -> String {
    let told = row(value).unwrap_err();
    told.strip_prefix("1 fault in the text\n  a.jsonl:1: ")
        .unwrap_or_else(|| panic!("{told}"))
        .to_owned()
}

#[test]
fn messages_keep_their_keys_as_written_and_lose_those_that_are_null() {
    let calls = json!([{"type": "function", "function": {"name": "f", "arguments": {"a": null}}}]);
    let found = row(json!({
        "id": 1e10,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}], "x": {"y": [1]}},
            {"content": null, "role": "assistant", "tool_calls": calls, "reasoning_content": "so"},
            {"role": "tool", "name": "f", "tool_call_id": "1", "content": "3"},
            {"role": "assistant", "content": "", "train": false},
            {"role": "assistant", "content": "3", "train": true, "tool_calls": null},
        ],
        "tools": "[{\"name\": \"f\"}]",
        "chat_template_kwargs": {"enable_thinking": false},
    }));
    let found = chat(found.unwrap());
    assert_eq!(
        json!(found.messages),
        json!([
            {"role": "user", "content": [{"type": "text", "text": "Hi"}], "x": {"y": [1]}},
            {"role": "assistant", "tool_calls": calls, "reasoning_content": "so"},
            {"role": "tool", "name": "f", "tool_call_id": "1", "content": "3"},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": "3"},
        ])
    );
    let keys: Vec<_> = found.messages[2].keys().collect();
    assert_eq!(keys, ["role", "name", "tool_call_id", "content"]);
    assert_eq!(found.unlearnt, [3]);
    assert_eq!(found.tools, Some(vec![json!({"name": "f"})]));
    assert_eq!(json!(found.variables), json!({"enable_thinking": false}));
    assert_eq!(found.num_prompt, 0);
}

#[test]
fn prompt_and_completion_are_both_text_or_both_messages() {
    let text = row(json!({"prompt": "{\"a\": 1}", "completion": "[3]"})).unwrap();
    let expected = Content::Completion {
        prompt: "{\"a\": 1}".to_owned(),
        completion: "[3]".to_owned(),
    };
    assert_eq!(text, expected, "JSON in a text stays text");
    let found = chat(
        row(json!({
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "completion": [{"role": "assistant", "content": "a"}],
            "tools": [],
        }))
        .unwrap(),
    );
    assert_eq!((found.messages.len(), found.num_prompt), (3, 2));
    assert_eq!(
        fault(json!({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]})),
        "`prompt` is text and `completion` is a list; both are text, or both are messages"
    );
    let empty = json!({"prompt": [{"role": "user", "content": "b"}], "completion": []});
    assert_eq!(fault(empty), "`completion` has no turns");
}

#[test]
fn turns_of_share_gpt_get_the_roles_of_templates() {
    let call = "{\"name\": \"f\", \"arguments\": {\"a\": 1}}";
    let found = messages(json!({
        "conversations": [
            {"from": "human", "value": "u", "weight": null},
            {"from": "function_call", "value": call},
            {"from": "observation", "value": "o"},
            {"from": "gpt", "value": "a", "weight": 1},
        ],
        "system": "s",
        "tools": "",
    }));
    assert_eq!(
        found,
        json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "o"},
            {"role": "assistant", "content": "a"},
        ])
    );
    // A system turn of its own goes before the column, and `train` counts the message that was put first.
    let found = chat(
        row(json!({
            "conversations": [{"from": "user", "value": "u"}, {"from": "model", "value": "a", "train": false}],
            "system": "s",
        }))
        .unwrap(),
    );
    assert_eq!(found.unlearnt, [2]);
    let own = json!({"conversations": [{"from": "system", "value": "own"}, {"from": "gpt", "value": "a"}], "system": "s"});
    assert_eq!(messages(own)[0]["content"], "own");
    // Lists of roles and contents instead of a list of turns, and the keys of templates.
    let columns = json!({"conversations": {"from": ["human", "gpt"], "value": ["u", "a"]}});
    let turns = json!({"conversations": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]});
    assert_eq!(messages(columns), messages(turns));
    let text =
        "[{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"a\"}]";
    let as_text = json!({ "messages": text });
    assert_eq!(messages(as_text)[1]["content"], "a", "a list as JSON text");
}

#[test]
fn a_message_of_weight_0_is_not_learnt() {
    let found = chat(
        row(json!({"messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a", "weight": 0},
            {"role": "assistant", "content": "b", "weight": 1},
            {"role": "assistant", "content": "c", "weight": 0.0, "train": false},
            {"role": "assistant", "content": "d", "weight": 1.0},
        ]}))
        .unwrap(),
    );
    assert_eq!(found.unlearnt, [1, 3]);
    assert!(
        found.messages.iter().all(|message| message.len() == 2),
        "templates do not see it"
    );
}

#[test]
fn a_system_column_is_the_first_message_where_the_messages_have_none() {
    let user = json!({"role": "user", "content": "u"});
    let answer = json!({"role": "assistant", "content": "a", "train": false});
    let beside = |system: Value, messages: Value| {
        let found = chat(row(json!({"messages": messages, "system": system})).unwrap());
        (json!(found.messages)[0].clone(), found.unlearnt)
    };
    let system = |text: &str| json!({"role": "system", "content": text});
    assert_eq!(
        beside(json!("s"), json!([user, answer])),
        (system("s"), vec![2])
    );
    for none in [json!(""), json!(" "), Value::Null] {
        assert_eq!(beside(none, json!([user, answer])), (user.clone(), vec![1]));
    }
    assert_eq!(
        beside(json!("s"), json!([system("own"), user])).0,
        system("own")
    );
    let told = fault(json!({"messages": [user], "system": [1]}));
    assert_eq!(told, "`system` is a list, not a string");
}

#[test]
fn a_task_of_alpaca_is_a_turn_of_the_user_and_one_of_the_assistant() {
    let found = messages(json!({
        "instruction": "Add.", "input": "1 and 2", "output": "3", "text": "rendered",
        "system": "s", "history": [["q", "a"]],
    }));
    assert_eq!(
        found,
        json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "Add.\n\n1 and 2"},
            {"role": "assistant", "content": "3"},
        ])
    );
    let plain = messages(json!({"instruction": "Greet.", "input": " ", "output": "Hello"}));
    assert_eq!(plain[0]["content"], "Greet.");
    assert_eq!(
        fault(json!({"instruction": "a", "output": "b", "history": [["q"]]})),
        "`history` is not a list of pairs of task and answer"
    );
    assert_eq!(
        fault(json!({"instruction": "", "output": "b"})),
        "has neither instruction nor input"
    );
}

#[test]
fn a_plan_names_format_and_fields() {
    let with = |format, fields: &[(RowField, &str)]| {
        let fields = fields
            .iter()
            .map(|(field, name)| (*field, (*name).to_owned()));
        let fields = FieldsPlan(fields.collect());
        move |plan| SourcePlan {
            format,
            fields: fields.clone(),
            ..plan
        }
    };
    let qa = json!({"question": "q", "answer": "a", "text": "t"});
    let pair = with(
        None,
        &[
            (RowField::Prompt, "question"),
            (RowField::Completion, "answer"),
        ],
    );
    let found = rows(std::slice::from_ref(&qa), pair).unwrap();
    assert!(matches!(&found[0], Content::Completion { prompt, .. } if prompt == "q"));
    let body = with(Some(RowFormat::Text), &[]);
    assert_eq!(
        rows(std::slice::from_ref(&qa), body).unwrap()[0],
        Content::Text("t".to_owned())
    );
    let dialog = json!({"dialog": [{"who": "user", "says": "u", "role": "x"}, {"who": "assistant", "says": "a"}]});
    let keys = [
        (RowField::Messages, "dialog"),
        (RowField::Role, "who"),
        (RowField::Content, "says"),
    ];
    let told = rows(std::slice::from_ref(&dialog), with(None, &keys)).unwrap_err();
    assert!(
        told.ends_with("message 1: `role` stands beside `who`, which is read for it"),
        "{told}"
    );
    let found = rows(
        &[json!({"dialog": [{"who": "user", "says": "u"}]})],
        with(None, &keys),
    );
    let found = chat(found.unwrap().remove(0));
    assert_eq!(
        json!(found.messages),
        json!([{"role": "user", "content": "u"}])
    );
    let missing = with(Some(RowFormat::Messages), &[(RowField::Tools, "functions")]);
    let told = rows(&[json!({"messages": [], "tools": []})], missing).unwrap_err();
    assert!(
        told.ends_with("an object without `messages` and `functions`; it has `tools`"),
        "{told}"
    );
}

#[test]
fn turns_go_before_a_text_beside_them_and_two_kinds_of_turns_are_refused() {
    let dir = folder(&[
        (
            "a.jsonl",
            b"{\"text\": \"t\", \"messages\": [{\"role\": \"user\", \"content\": \"u\"}]}\n",
        ),
        ("b.jsonl", b"{\"text\": \"t\", \"messages\": null}\n"),
    ]);
    let read = read(&dir).unwrap();
    assert!(matches!(read.documents[0].content, Content::Chat(_)));
    assert_eq!(texts(&read.documents[1..]), ["t"], "null is absent");
    assert_eq!(read.notes.len(), 1);
    assert!(
        read.notes[0]
            .starts_with("`messages` is read, and not `text` beside it; `format: text` reads that"),
        "{}",
        read.notes[0]
    );
    let both =
        json!({"messages": [{"role": "user", "content": "u"}], "prompt": "p", "completion": "c"});
    let told = row(both.clone()).unwrap_err();
    assert!(
        told.ends_with("a.jsonl: has `messages` and `prompt` and `completion`; name the one that is meant, as `format: messages`"),
        "{told}"
    );
    let named = rows(&[both], |plan| SourcePlan {
        format: Some(RowFormat::Completion),
        ..plan
    });
    assert!(matches!(named.unwrap()[0], Content::Completion { .. }));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn what_no_conversation_can_be_is_told_with_its_message() {
    let of = |turns: Value| fault(json!({ "messages": turns }));
    let user = json!({"role": "user", "content": "u"});
    for (turns, told) in [
        (json!([]), "`messages` has no turns"),
        (json!("words"), "`messages` is text, not a list of messages"),
        (json!(3), "`messages` is a number, not a list of messages"),
        (
            json!({"role": "user"}),
            "`messages` is an object, not a list of messages",
        ),
        (json!([user, 3]), "message 2: is a number, not an object"),
        (json!([{"content": "u"}]), "message 1: has no `role`"),
        (
            json!([{"role": 3, "content": "u"}]),
            "message 1: `role` is a number, not text",
        ),
        (
            json!([user, {"role": "assistent", "content": "u"}]),
            "message 2: unknown role `assistent`; known are `system`, `developer`, `user`, `assistant`, `tool` and a few others",
        ),
        (
            json!([{"role": "human", "content": "u"}]),
            "message 1: unknown role `human`; it is one of ShareGPT's: name `format: sharegpt` and the column in `fields`",
        ),
        (
            json!([{"role": "user", "content": {"a": 1}}]),
            "message 1: `content` is an object; it may be text, a list of parts, or null",
        ),
        (
            json!([{"role": "user", "content": [3]}]),
            "message 1: a part of `content` is a number, not an object",
        ),
        (
            json!([{"role": "assistant", "content": "u", "train": "no"}]),
            "message 1: `train` is text, not true or false",
        ),
        (
            json!([user, {"role": "assistant", "content": "u", "weight": 0.5}]),
            "message 2: `weight` is 0.5; it may be 0 (not learnt) or 1",
        ),
        (
            json!([{"role": "assistant", "content": "u", "weight": true}]),
            "message 1: `weight` is true; it may be 0 (not learnt) or 1",
        ),
        (
            json!([{"role": "assistant", "content": "u", "weight": 0, "train": true}]),
            "message 1: `train` is true and `weight` is 0; take one of them out",
        ),
    ] {
        assert_eq!(of(turns), told);
    }
    let beside = |key: &str, value: Value| fault(json!({"messages": [user], key: value}));
    assert_eq!(
        beside("tools", json!(3)),
        "`tools` is a number, not a list of tools"
    );
    assert_eq!(
        beside("tools", json!([3])),
        "`tools` holds a number, not an object"
    );
    assert!(beside("tools", json!("[{")).starts_with("`tools` is text that is not JSON: EOF"));
    assert_eq!(
        beside("chat_template_kwargs", json!([1])),
        "`chat_template_kwargs` is a list, not an object"
    );
    let call =
        |value: &str| fault(json!({"conversations": [{"from": "function_call", "value": value}]}));
    assert!(call("f(x)").starts_with("message 1: `value` of a function call is not JSON: "));
    assert_eq!(
        call("{\"f\": 1}"),
        "message 1: `value` of a function call is no object with `name` and `arguments`"
    );
    let foreign = fault(json!({"conversations": [{"from": "narrator", "value": "u"}]}));
    assert!(
        foreign.starts_with("message 1: unknown role `narrator`; known are `human`"),
        "{foreign}"
    );
}
