//! Every message of the program has its paragraph in docs/troubleshooting.md, and every paragraph its message.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use crate::common::source::{is_test, read, root, rust_files, shipped_code};

    const PAGE: &str = "docs/troubleshooting.md";

    /// Calls that make a message; the first argument is its id.
    const CALLS: [&str; 5] = [
        "Diagnostic::new(",
        "Failure::input(",
        "Failure::run(",
        "Self::input(",
        "Self::run(",
    ];

    /// Beginnings of ids that end with the name of a block of the recipe, and what stands before the tables of these blocks.
    const OF_BLOCKS: [(&str, &str); 2] = [
        ("recipe/unknown-", "Kind::Choice(&"),
        ("recipe/no-such-", "Kind::List(&Kind::Choice(&"),
    ];

    /// The one file that writes an id itself, beside the library that renders the recipe's line.
    const FAILURE: &str = "src/cli/failure.rs";

    /// A file of `src/` and its code without comments and tests.
    struct Source {
        path: PathBuf,
        code: String,
    }

    impl Source {
        fn makes_messages(&self) -> bool {
            CALLS.iter().any(|call| self.code.contains(call))
        }

        /// What stands between two quotes, inside or outside of a text.
        fn quoted(&self) -> impl Iterator<Item = &str> {
            self.code.split('"')
        }
    }

    fn sources() -> Vec<Source> {
        let files = rust_files("src").into_iter().filter(|path| !is_test(path));
        files
            .map(|path| Source {
                code: shipped_code(&read(&path)),
                path: path.strip_prefix(root()).unwrap().to_owned(),
            })
            .collect()
    }

    fn is_word(text: &str) -> bool {
        text.starts_with(|letter: char| letter.is_ascii_lowercase())
            && text
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter == '-')
    }

    fn stage(id: &str) -> &str {
        id.split('/').next().unwrap()
    }

    /// Tells whether a text is `stage/name`, and the stage one of these.
    fn is_id_of(text: &str, stages: &BTreeSet<String>) -> bool {
        text.split_once('/')
            .is_some_and(|(stage, name)| stages.contains(stage) && is_word(name))
    }

    /// First arguments of calls that are texts. Another argument must be called `id`, so that a text in reach holds it.
    fn first_arguments(source: &Source) -> Vec<String> {
        let mut found = Vec::new();
        for call in CALLS {
            for after in source.code.split(call).skip(1) {
                let after = after.trim_start();
                if let Some(literal) = after.strip_prefix('"') {
                    found.push(literal.split('"').next().unwrap().to_owned());
                } else {
                    let is_id = after.starts_with("id,") || after.starts_with("&id,");
                    assert!(is_id, "{}: an id without a name", source.path.display());
                }
            }
        }
        found
    }

    /// Names of the blocks whose tables stand behind `before`.
    fn names_of_blocks(sources: &[Source], before: &str) -> BTreeSet<String> {
        let all: String = sources.iter().map(|source| source.code.as_str()).collect();
        let tables = all.split(before).skip(1);
        let tables = tables.map(|after| after.split(')').next().unwrap());
        let name = |table: &str| {
            let declared = [
                format!(" in {table} = \""),
                format!(" {table}: Block = Block {{"),
            ];
            let after = declared.iter().find_map(|start| all.split(start).nth(1));
            let after = after.unwrap_or_else(|| panic!("no table {table}"));
            // `in TABLE = "name"`, or a field of that name.
            let after = after.trim_start().trim_start_matches("name: \"");
            after.split('"').next().unwrap().to_owned()
        };
        tables.map(name).collect()
    }

    /// Every id that the program can print.
    fn printed_ids(sources: &[Source]) -> BTreeSet<String> {
        let mut ids: BTreeSet<String> = sources.iter().flat_map(first_arguments).collect();
        let stages: BTreeSet<String> = ids.iter().map(|id| stage(id).to_owned()).collect();
        for source in sources {
            for text in source.quoted() {
                // `train/loss` is a number of metrics.jsonl.
                let is_metric = stage(text) == "train" && !source.makes_messages();
                if is_id_of(text, &stages) && !is_metric {
                    ids.insert(text.to_owned());
                }
                let made = text
                    .strip_suffix("{}")
                    .map(|start| start.trim_end_matches('-'));
                if let Some(start) = made.filter(|start| is_id_of(start, &stages)) {
                    let known = OF_BLOCKS
                        .iter()
                        .any(|(of, _)| of.trim_end_matches('-') == start);
                    assert!(known, "{}: how is {text} made?", source.path.display());
                }
            }
        }
        for (start, before) in OF_BLOCKS {
            let names = names_of_blocks(sources, before).into_iter();
            ids.extend(names.map(|name| format!("{start}{name}")));
        }
        ids
    }

    /// Headings of this level, in order.
    fn headings(page: &str, level: &str) -> Vec<String> {
        let found = page.lines().filter_map(|line| line.strip_prefix(level));
        found.map(str::to_owned).collect()
    }

    #[test]
    fn every_message_has_its_paragraph_and_every_paragraph_its_message() {
        let printed = printed_ids(&sources());
        assert!(printed.len() >= 90, "{printed:?}");
        let explained = headings(&read(&root().join(PAGE)), "### ");
        let explained: BTreeSet<String> = explained.into_iter().collect();
        let without: Vec<&String> = printed.difference(&explained).collect();
        let gone: Vec<&String> = explained.difference(&printed).collect();
        assert!(
            without.is_empty() && gone.is_empty(),
            "{PAGE} has no heading for {without:?}, and the program never prints {gone:?}"
        );
    }

    #[test]
    fn paragraphs_stand_below_their_stages_in_order_each_with_text() {
        let page = read(&root().join(PAGE));
        let mut ids = Vec::new();
        for section in page.split("\n## ").skip(1) {
            let heading = section.lines().next().unwrap();
            let of_section = headings(section, "### ");
            for id in &of_section {
                assert_eq!(heading, format!("Stage `{}`", stage(id)), "{id}");
            }
            ids.extend(of_section);
            for paragraph in section.split("\n### ").skip(1) {
                let (id, text) = paragraph.split_once('\n').unwrap();
                assert!(text.trim().len() >= 80, "{id}: {text}");
            }
        }
        assert_eq!(ids, headings(&page, "### "));
        assert!(
            ids.is_sorted_by_key(|id| (stage(id), id.clone())),
            "{ids:?}"
        );
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    }

    #[test]
    fn the_search_for_ids_sees_every_way_to_make_one() {
        let sources = sources();
        let ids = printed_ids(&sources);
        for known in [
            "io",                      // a word
            "cache/top-k",             // a text in the call
            "quantize/no-rows",        // a text that reaches the call by a variable
            "student/width",           // the same
            "recipe/unordered-layers", // an argument of another function
            "recipe/unknown-support",  // made of the name of a block
            "recipe/no-such-pass",     // the same, of a list
        ] {
            assert!(ids.contains(known), "{known}: {ids:?}");
        }
        for other in ["train/loss", "bytes/pos", "recipe/no-such-support", "a/b"] {
            assert!(!ids.contains(other), "{other}");
        }
        let writers: Vec<&PathBuf> = sources
            .iter()
            .filter(|source| source.code.contains("error[") || source.code.contains("warning["))
            .map(|source| &source.path)
            .collect();
        assert_eq!(writers, [FAILURE], "an id is written past the calls");
    }
}
