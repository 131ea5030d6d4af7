//! Files of JSON lists.

use super::*;

fn read_json(json: &str) -> Result<Vec<String>, String> {
    let dir = folder(&[("a.json", json.as_bytes())]);
    let read = read(&dir).map_err(|error| message(&dir, &error).replace("\n  ", " | "))?;
    let looked = look_at_dir(&dir).map_err(|error| error.to_string());
    assert!(looked.is_ok(), "{looked:?}");
    Ok(texts(&read.documents)
        .into_iter()
        .map(str::to_owned)
        .collect())
}

#[test]
fn a_list_is_read_however_it_is_written() {
    for json in [
        r#"[{"text": "a"}, {"text": "b]}, {"}]"#,
        "\u{feff}\n [\n  {\n    \"text\": \"a\"\n  },\n  {\n    \"text\": \"b]}, {\", \"x\": [NaN, {\"y\": \"\\\"[\"}]\n  }\n]\n",
        r#"[{"text":"a"},{"id":"\\","text":"b]}, {"}]   "#,
    ] {
        assert_eq!(read_json(json).unwrap(), ["a", "b]}, {"], "{json}");
    }
    // Lines of objects under this name are what they are.
    let lines = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
    assert_eq!(read_json(lines).unwrap(), ["a", "b"]);
    // More than one block, with elements across its ends.
    let long: Vec<_> = (0..90_000)
        .map(|n| format!("{{\"text\": \"number {n} and {}\"}}", "\\\"".repeat(n % 60)))
        .collect();
    let json = format!("[{}]", long.join(",\n"));
    assert!(json.len() > 9 << 20);
    let found = read_json(&json).unwrap();
    assert_eq!(found.len(), 90_000);
    assert!(found[89_999].starts_with("number 89999 and \""));
}

#[test]
fn a_fault_has_the_line_and_column_of_the_file() {
    let told = |json: &str| read_json(json).unwrap_err();
    for (json, expected) in [
        (
            "[\n  {\"text\": \"a\"},\n  {\"text\":\n     \"b\" 3}\n]",
            "a.json:2: not JSON at line 4, column 10: expected `,` or `}`",
        ),
        (
            "[{\"text\": \"a\"}, {\"text\": \"b\"],",
            "a.json: ends in the middle of its list, after 1 rows; fetch or write it again",
        ),
        (
            "[{\"text\": \"a\"},]",
            "a.json: not JSON at line 1, column 17: a comma without a row",
        ),
        (
            "[{\"text\": \"a\"}\n {\"text\": \"b\"}]",
            "a.json: not JSON at line 2, column 2: expected `,` or `]` after a row",
        ),
        (
            "[{\"text\": \"a\"}] []",
            "a.json: not JSON at line 1, column 18: more text after the end of the list",
        ),
        (
            "[{\"text\": \"a\"}, 3, \"x\"]",
            "a.json:2: not an object with a string `text`; the same on 1 more row of this file",
        ),
        (
            "[{\"text\": \"a\"",
            "a.json: ends in the middle of its list, after 0 rows; fetch or write it again",
        ),
        ("words", "a.json: not a list of JSON objects"),
        (
            "{\"data\": [{\"text\": \"a\"}]}",
            "a.json: one object, not a list of objects; write the list of its rows alone, or one object on each line of a `.jsonl` file",
        ),
    ] {
        let told = told(json);
        assert!(told.ends_with(expected), "{json}: {told}");
    }
    let dir = folder(&[("a.json", b" \n"), ("b.json", b"[]")]);
    let error = read(&dir).unwrap_err().to_string();
    assert!(
        error.contains("2 files of text or data, none with text"),
        "{error}"
    );
}

#[test]
fn a_look_at_a_long_list_takes_what_is_whole() {
    let rows = |bad: &str| {
        let rows: Vec<_> = (0..4_000)
            .map(|_| "{\"text\": \"some words and more\"}")
            .collect();
        format!("[{bad}{}", rows.join(","))
    };
    let look = |json: String| look_at_dir(&folder(&[("a.json", json.as_bytes())]));
    assert!(look(rows("")).is_ok());
    assert!(look(format!("[{{\"text\": \"{}", "a".repeat(70_000))).is_ok());
    assert!(look(rows("{\"text\": 3}, ")).is_err());
}
