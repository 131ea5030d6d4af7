//! What `generate` prints, why it ends, and where its prompt comes from.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::Stdio;

    use serde_json::{Value, json};

    use crate::common::{Ran, Workshop, source};

    const PROMPT: &str = "Sir Walter ";

    fn generate(workshop: &Workshop, more: &[&str]) -> Value {
        let args = ["generate", "teacher", "--prompt", PROMPT, "--json"];
        workshop.done(&[&args[..], more].concat()).json()
    }

    fn text(found: &Value) -> &str {
        found["text"].as_str().unwrap()
    }

    #[test]
    fn generated_text_is_a_function_of_prompt_and_seed() {
        let workshop = Workshop::new();
        let generate = |more: &[&str]| {
            let found = generate(&workshop, more);
            assert_eq!(found["prompt"], PROMPT);
            let ids = found["ids"].as_array().unwrap().len();
            assert_eq!(found["tokens"], ids);
            (text(&found).to_owned(), ids)
        };
        let (answer, num_ids) = generate(&["--max-tokens", "20", "--seed", "5"]);
        assert_eq!(num_ids, 20);
        assert_eq!(generate(&["--max-tokens", "20", "--seed", "5"]).0, answer);
        assert_ne!(generate(&["--max-tokens", "20", "--seed", "6"]).0, answer);
        let greedy = |seed: &str| generate(&["--temperature", "0", "--seed", seed]);
        assert_eq!(greedy("1"), greedy("2"));
        assert_eq!(
            greedy("1"),
            generate(&["--top-k", "1", "--seed", "9"]),
            "the likeliest alone is drawn"
        );
        assert_eq!(generate(&["--max-tokens", "0"]), (String::new(), 0));

        let args = [
            "generate",
            "teacher",
            "--prompt",
            PROMPT,
            "--max-tokens",
            "20",
            "--seed",
            "5",
        ];
        assert_eq!(workshop.done(&args).stdout, format!("{answer}\n"));
        let echoed = workshop.done(&[&args[..], &["--echo"]].concat());
        assert_eq!(echoed.stdout, format!("{PROMPT}{answer}\n"));
    }

    #[test]
    fn the_speed_is_told_on_stderr_and_in_json_unless_it_is_quiet() {
        let workshop = Workshop::new();
        let args = [
            "generate",
            "teacher",
            "--prompt",
            PROMPT,
            "--max-tokens",
            "5",
        ];
        let told = workshop.done(&args).stderr;
        assert!(told.contains("generate: 5 tokens, "), "{told}");
        assert!(told.contains(" a second; the prompt of "), "{told}");
        assert_eq!(
            workshop.done(&[&args[..], &["--quiet"]].concat()).stderr,
            ""
        );
        let found = generate(&workshop, &["--max-tokens", "5"]);
        assert_eq!(
            (&found["tokens"], &found["ended"]),
            (&json!(5), &json!("max_tokens"))
        );
        assert!(found["prompt_tokens"].as_u64().unwrap() > 0);
        assert!(found["seconds"].as_f64().unwrap() >= found["prompt_seconds"].as_f64().unwrap());
        let found = generate(&workshop, &["--max-tokens", "1"]);
        assert_eq!(
            found["tokens_per_second"],
            Value::Null,
            "the first waits for the prompt"
        );
    }

    #[test]
    fn a_stop_string_ends_the_answer_and_is_not_printed() {
        let workshop = Workshop::new();
        let seed = ["--max-tokens", "40", "--seed", "5"];
        let whole = generate(&workshop, &seed);
        let whole = text(&whole);
        let chars: Vec<(usize, char)> = whole.char_indices().collect();
        let (start, end) = (chars[chars.len() / 2].0, chars[chars.len() / 2 + 5].0);
        let stop = &whole[start..end];
        let want = &whole[..whole.find(stop).unwrap()];
        let more = [&seed[..], &["--stop", "not there at all", "--stop", stop]].concat();
        let found = generate(&workshop, &more);
        assert_eq!((text(&found), &found["ended"]), (want, &json!("stop")));
        assert!(found["tokens"].as_u64().unwrap() < 40);
        let plain = [&["generate", "teacher", "--prompt", PROMPT], &more[..]].concat();
        assert_eq!(workshop.done(&plain).stdout, format!("{want}\n"));
        // What may begin a stop string and does not is printed in the end.
        let last = format!("{}never", &whole[chars.last().unwrap().0..]);
        let found = generate(&workshop, &[&seed[..], &["--stop", &last]].concat());
        assert_eq!(text(&found), whole);
    }

    #[test]
    fn a_model_that_ends_at_once_says_so() {
        let workshop = Workshop::new();
        let path = workshop.path("teacher/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["eos_token_id"] = (0..300).collect();
        workshop.write("teacher/config.json", config.to_string().as_bytes());
        fs::remove_file(workshop.path("teacher/generation_config.json")).unwrap();
        let ran = workshop.done(&["generate", "teacher", "--prompt", PROMPT]);
        assert_eq!(ran.stdout, "\n");
        assert!(
            ran.stderr.contains("note: the model ended at once, with `"),
            "{}",
            ran.stderr
        );
        let found = generate(&workshop, &[]);
        assert_eq!(
            (&found["ended"], &found["tokens"]),
            (&json!("end_of_text"), &json!(0))
        );
    }

    fn piped(workshop: &Workshop, args: &[&str], prompt: &[u8]) -> Ran {
        let mut command =
            workshop.command(&[&["generate", "teacher", "--max-tokens", "8"], args].concat());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let written = child.stdin.take().unwrap().write_all(prompt);
        drop(written); // a program that refuses its arguments does not read
        child.wait_with_output().unwrap().into()
    }

    #[test]
    fn a_prompt_comes_from_stdin() {
        let workshop = Workshop::new();
        let want = workshop.done(&[
            "generate",
            "teacher",
            "--max-tokens",
            "8",
            "--prompt",
            "Anne",
        ]);
        for (args, prompt) in [
            (&[][..], "Anne"),
            (&[], "Anne\n"),
            (&[], "Anne\r\n"),
            (&["--prompt", "-"], "Anne\n"),
        ] {
            assert_eq!(
                piped(&workshop, args, prompt.as_bytes()).stdout,
                want.stdout,
                "{prompt:?}"
            );
        }
        let found = piped(&workshop, &["--json"], b"Anne\n\n");
        assert_eq!(found.json()["prompt"], "Anne\n");
        for (prompt, needle) in [
            (&b""[..], "there is no prompt: stdin is empty"),
            (b"\xff\xfe", "the prompt on stdin is not UTF-8"),
        ] {
            let ran = piped(&workshop, &[], prompt);
            assert_eq!(ran.code, Some(2));
            let told = format!("error[generate/prompt]: {needle}");
            assert!(ran.stderr.contains(&told), "{}", ran.stderr);
        }
        let begun = workshop.done(&["generate", "teacher", "--max-tokens", "8", "--prompt", ""]);
        assert!(begun.stdout.len() > 1, "an empty prompt may be written");
    }

    #[test]
    fn any_number_of_cores_gives_the_same_text() {
        let workshop = Workshop::empty();
        let teacher = source::root().join("checkpoints/austen-teacher");
        let teacher = teacher.display().to_string();
        let on = |num_threads: &str| {
            let args = [
                "generate",
                &teacher,
                "--prompt",
                "Anne",
                "--max-tokens",
                "24",
            ];
            let mut command = workshop.command(&[&args[..], &["--json"]].concat());
            let ran: Ran = command
                .env("RAYON_NUM_THREADS", num_threads)
                .output()
                .unwrap()
                .into();
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            ran.json()["ids"].clone()
        };
        let alone = on("1");
        assert_eq!(alone.as_array().unwrap().len(), 24);
        for num_threads in ["2", "3"] {
            assert_eq!(on(num_threads), alone, "{num_threads}");
        }
    }
}
