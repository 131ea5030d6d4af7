//! Conversations side by side in rows, and sources mixed by weights, as a user runs them.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};

    use crate::common::Workshop;

    const RECIPE: &str = "\
name: packed
seed: 3
output: out
data:
  train:
    - { path: chats.jsonl, weight: 2 }
    - { path: prose.txt, weight: 1 }
  validation: [held-out.jsonl]
  sequence_length: 192
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 8 }, rows_per_shard: 4, tokens: 1k }
student: { from_teacher: { intermediate_size: 128 } }
passes:
  - distill: { steps: 4, tokens_per_step: 768, learning_rate: 1e-3 }
export: { formats: [huggingface], dtype: f32 }
";

    /// So many conversations of one turn each, of many lengths.
    fn chats(from: usize, count: usize) -> String {
        let chat = |number: usize| {
            let answer = "yes ".repeat(number % 9 + 1);
            let messages = json!([
                {"role": "user", "content": format!("{number}?")},
                {"role": "assistant", "content": format!("{answer}{number}")},
            ]);
            format!("{}\n", json!({ "messages": messages }))
        };
        (from..from + count).map(chat).collect()
    }

    fn workshop() -> Workshop {
        let workshop = Workshop::empty();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf-llama-256");
        workshop.copy_files(&golden, "teacher");
        workshop.write("chats.jsonl", chats(10, 90).as_bytes());
        workshop.write("held-out.jsonl", chats(200, 10).as_bytes());
        let prose = "The sea was calm, and nobody said a word. ".repeat(200);
        workshop.write("prose.txt", prose.as_bytes());
        workshop.write("packed.yaml", RECIPE.as_bytes());
        workshop
    }

    /// The shards of the training text, by their names.
    fn shards(workshop: &Workshop) -> Vec<(String, Vec<u8>)> {
        let folders = fs::read_dir(workshop.path("out")).unwrap();
        let mut folders = folders.map(|entry| entry.unwrap().path());
        let is_cache = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("cache-")
        };
        let cache = folders.find(is_cache).unwrap().join("train");
        let shards = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap());
        let mut shards: Vec<_> = shards
            .map(|shard| {
                let name = shard.file_name().into_string().unwrap();
                (name, fs::read(shard.path()).unwrap())
            })
            .filter(|(name, _)| {
                Path::new(name)
                    .extension()
                    .is_some_and(|end| end == "parquet")
            })
            .collect();
        shards.sort();
        shards
    }

    #[test]
    fn more_of_a_mixture_is_captured_behind_what_is_there() {
        let workshop = workshop();
        let report = workshop.done(&["run", "packed.yaml", "--json"]).json();
        let rows = &report["rows"][0];
        let (filled, room) = (
            rows["positions"].as_u64().unwrap(),
            rows["rows"].as_u64().unwrap() * 192,
        );
        assert!(filled * 100 > room * 95, "{rows}");
        assert!(rows["counted"].as_u64() < Some(filled), "{rows}");
        let notes: Vec<&str> = report["notes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(
            notes.iter().any(|note| note.contains("mixed by weight")),
            "{notes:?}"
        );
        let markdown = fs::read_to_string(workshop.path("out/packed/report.md")).unwrap();
        assert!(
            markdown.contains("## Rows") && markdown.contains("mixed by weight"),
            "{markdown}"
        );

        let before = shards(&workshop);
        assert!(!before.is_empty());
        workshop.done(&["run", "packed.yaml", "--set", "cache.tokens=3k"]);
        let after = shards(&workshop);
        assert!(after.len() > before.len());
        // The last shard was not full; it has more rows now.
        let whole = before.len() - 1;
        assert_eq!(after[..whole], before[..whole]);
    }

    #[test]
    fn rows_are_made_ahead_and_found_by_the_run() {
        let workshop = workshop();
        let built = workshop.done(&["data", "build", "packed.yaml"]);
        assert!(
            built.stdout.starts_with("train: ") && built.stdout.contains("% of them filled"),
            "{}",
            built.stdout
        );
        let ran = workshop.done(&["run", "packed.yaml"]);
        assert!(ran.stderr.contains("data: done"), "{}", ran.stderr);
        assert!(ran.stderr.contains("mixed by weight"), "{}", ran.stderr);
        let shown = workshop.done(&["data", "show", "packed.yaml", "--rows", "4"]);
        assert!(shown.stdout.contains(" documents\n"), "{}", shown.stdout);
    }

    #[test]
    fn one_weight_among_many_sources_and_words_of_packing_are_checked_before_anything_runs() {
        let workshop = workshop();
        for (set, told) in [
            ("data.packing=best", "must be one of `documents`, `stream`"),
            (
                "data.longer=cutoff",
                "must be one of `truncate`, `split`, `drop`",
            ),
            ("data.train=[{path: chats.jsonl, weight: 0}]", "weight"),
        ] {
            let refused = workshop.run(&["plan", "packed.yaml", "--set", set]);
            assert_eq!(refused.code, Some(2), "{set}");
            assert!(refused.stderr.contains(told), "{set}: {}", refused.stderr);
        }
        let taken = workshop.done(&["plan", "packed.yaml", "--set", "data.packing=stream"]);
        assert!(
            taken.stderr.is_empty() || !taken.stderr.contains("error"),
            "{}",
            taken.stderr
        );
    }
}
