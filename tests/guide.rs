//! The guide in `docs/`: every page is listed, every link and anchor leads somewhere, every command works.

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Write as _;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Pages of `docs/`, sorted.
    fn guide_pages() -> Vec<PathBuf> {
        let entries = fs::read_dir(root().join("docs")).unwrap();
        let mut pages: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
            .collect();
        pages.sort();
        assert!(pages.len() > 20, "{}", pages.len());
        pages
    }

    /// Pages of the guide and those in the root of the repository.
    fn all_pages() -> Vec<PathBuf> {
        let mut pages = guide_pages();
        let others = [
            "README.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "CHANGELOG.md",
        ];
        pages.extend(others.map(|name| root().join(name)));
        pages
    }

    fn events(text: &str) -> Vec<Event<'_>> {
        Parser::new_ext(text, Options::ENABLE_TABLES).collect()
    }

    /// Targets of links and pictures, as they are written.
    fn links(text: &str) -> Vec<String> {
        let of = |event: Event<'_>| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                Some(dest_url.into_string())
            }
            _ => None,
        };
        events(text).into_iter().filter_map(of).collect()
    }

    /// Anchors of headings by the rule of mdBook, which agrees with that of GitHub on ours.
    fn anchors(text: &str) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut heading: Option<String> = None;
        for event in events(text) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(words) | Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let words = heading.take().unwrap();
                    let letters = words.chars().filter_map(|letter| match letter {
                        '_' | '-' => Some(letter),
                        _ if letter.is_alphanumeric() => Some(letter.to_ascii_lowercase()),
                        _ if letter.is_whitespace() => Some('-'),
                        _ => None,
                    });
                    let id: String = letters.collect();
                    let count = counts.entry(id.clone()).or_default();
                    anchors.insert(match *count {
                        0 => id,
                        again => format!("{id}-{again}"),
                    });
                    *count += 1;
                }
                _ => {}
            }
        }
        anchors
    }

    #[test]
    fn the_summary_lists_every_page_once_and_no_other() {
        let mut listed = links(&read(&root().join("docs/SUMMARY.md")));
        listed.sort();
        let names = guide_pages().into_iter().map(|path| {
            let name = path.file_name().unwrap();
            name.to_str().unwrap().to_owned()
        });
        let want: Vec<String> = names.filter(|name| name != "SUMMARY.md").collect();
        assert_eq!(listed, want);
    }

    #[test]
    fn every_link_and_anchor_leads_somewhere() {
        let mut dead = Vec::new();
        let mut num_links = 0;
        for page in all_pages() {
            let text = read(&page);
            for link in links(&text) {
                num_links += 1;
                if link.starts_with("https://") {
                    continue;
                }
                let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
                let target = if path.is_empty() {
                    page.clone()
                } else {
                    page.parent().unwrap().join(path)
                };
                let is_there = target.exists()
                    && (anchor.is_empty() || anchors(&read(&target)).contains(anchor));
                if !is_there {
                    let page = page.strip_prefix(root()).unwrap();
                    dead.push(format!("{}: {link}", page.display()));
                }
            }
        }
        assert!(num_links > 100, "{num_links}");
        assert!(dead.is_empty(), "{}", dead.join("\n"));
    }

    #[test]
    fn files_that_the_guide_names_are_there() {
        let folders = [
            "src/", "tests/", "scripts/", "recipes/", "benches/", "docs/",
        ];
        let mut num_names = 0;
        for page in all_pages() {
            for event in events(&read(&page)) {
                let Event::Code(name) = event else {
                    continue;
                };
                let is_name =
                    |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
                let is_path = folders.iter().any(|folder| name.starts_with(folder));
                if is_path && name.chars().all(is_name) && !name.contains("NAME") {
                    num_names += 1;
                    assert!(root().join(&*name).exists(), "{}: `{name}`", page.display());
                }
            }
        }
        assert!(num_names > 50, "{num_names}");
    }

    /// Treatment of a block of commands or of a recipe.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Treatment {
        /// Runs commands, or plans a recipe.
        Execute,
        /// Only shows.
        Show,
    }

    struct Block {
        language: String,
        treatment: Treatment,
        text: String,
        /// Arguments that make a run small, of the comment `<!-- tiny: ... -->` before it.
        tiny: String,
    }

    /// Blocks of shell commands and YAML of a page; a fault names one without a tag.
    fn blocks(page: &Path) -> Result<Vec<Block>, String> {
        let text = read(page);
        let mut blocks: Vec<Block> = Vec::new();
        let mut tiny = String::new();
        let mut is_inside = false;
        for event in events(&text) {
            match event {
                Event::Html(html) => {
                    if let Some((_, rest)) = html.split_once("<!-- tiny:") {
                        let (args, _) = rest.split_once("-->").ok_or("an open `tiny`")?;
                        tiny = args.trim().to_owned();
                    }
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    let (language, tag) = info.split_once(' ').unwrap_or((&info, ""));
                    is_inside = ["sh", "yaml"].contains(&language);
                    if !is_inside {
                        continue;
                    }
                    let treatment = match (language, tag) {
                        ("sh", "run" | "plan") | ("yaml", "plan") => Treatment::Execute,
                        ("sh" | "yaml", "show") => Treatment::Show,
                        _ => return Err(format!("{}: a block `{info}`", page.display())),
                    };
                    blocks.push(Block {
                        language: language.to_owned(),
                        treatment,
                        text: String::new(),
                        tiny: std::mem::take(&mut tiny),
                    });
                }
                Event::Text(words) if is_inside => blocks.last_mut().unwrap().text.push_str(&words),
                Event::End(TagEnd::CodeBlock) => is_inside = false,
                _ => {}
            }
        }
        Ok(blocks)
    }

    #[test]
    fn every_block_of_commands_says_whether_it_is_run() {
        let mut num_executed = 0;
        for page in guide_pages() {
            let blocks = blocks(&page).unwrap();
            let is_executed = |block: &&Block| block.treatment == Treatment::Execute;
            num_executed += blocks.iter().filter(is_executed).count();
        }
        assert!(num_executed > 20, "{num_executed}");
    }

    fn copy(from: &Path, to: &Path) {
        if from.is_dir() {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap() {
                let name = entry.unwrap().file_name();
                copy(&from.join(&name), &to.join(&name));
            }
        } else {
            fs::copy(from, to).unwrap();
        }
    }

    /// The script that a page's executed blocks make, to be run in a folder with the files of a clone.
    fn script(page: &Path) -> String {
        let mut script = String::new();
        for block in blocks(page).unwrap() {
            if block.treatment == Treatment::Show {
                continue;
            }
            if block.language == "yaml" {
                let (first, _) = block.text.split_once('\n').unwrap();
                let name = first.strip_prefix("# ").unwrap_or_else(|| {
                    panic!("{}: a recipe begins with its file name", page.display())
                });
                let (name, text) = (name.trim(), &block.text);
                let _ = writeln!(
                    script,
                    "cat >{name} <<'END_OF_RECIPE'\n{text}END_OF_RECIPE\nalambic plan {name}"
                );
                continue;
            }
            for line in block.text.lines() {
                let is_run = line.starts_with("alambic run ");
                let tiny = if is_run { &block.tiny } else { "" };
                let _ = writeln!(script, "{line} {tiny}"); // writing to a string cannot fail
            }
        }
        script
    }

    #[test]
    fn the_commands_of_every_page_work_in_a_clone() {
        let program = Path::new(env!("CARGO_BIN_EXE_alambic"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = format!("{}:{}", program.parent().unwrap().display(), path.display());
        for page in guide_pages() {
            let script = script(&page);
            if script.is_empty() {
                continue;
            }
            let clone = tempfile::tempdir().unwrap();
            for name in ["recipes", "datasets", "checkpoints/austen-teacher"] {
                copy(&root().join(name), &clone.path().join(name));
            }
            let mut bash = Command::new("bash");
            bash.args(["-euo", "pipefail", "-c", &script]);
            let ran = bash
                .current_dir(clone.path())
                .env("PATH", &path)
                .output()
                .unwrap();
            assert!(
                ran.status.success(),
                "{}: {}\n{script}\n{}\n{}",
                page.display(),
                ran.status,
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            );
        }
    }
}
