//! Folders as the hub lays them out: splits by the names of files, and configurations in the README.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use serde_json::Value;

use super::container::Container;
use super::fault::{FaultKind, shown};
use super::plan::SourcePlan;
use super::shards::SeriesPart;
use super::walk::Walk;
use crate::files;

/// Files that say how a folder of `save_to_disk` is to be read.
const SAVED: [&str; 2] = ["dataset_dict.json", "state.json"];

/// Paths of the files that a plan reads of a repository, given all of them with their bytes, and the folder that has the
/// README if there is one. The plan's own path is of no account.
///
/// # Errors
///
/// A configuration or a split that is not there, or that has to be named.
pub fn files_of_plan(
    plan: &SourcePlan,
    folder: &Path,
    files: &[(&str, u64)],
) -> Result<Vec<String>, FaultKind> {
    let is_saved = |(path, _): &(&str, u64)| {
        let name = path.rsplit('/').next().unwrap_or_default();
        SAVED.contains(&name)
    };
    if files.iter().any(is_saved) {
        let is_read = |path: &&str| {
            let kind = Container::of(Path::new(path));
            matches!(kind, Some((Container::Arrow | Container::Json, _)))
        };
        let paths = files.iter().map(|(path, _)| *path).filter(is_read);
        return Ok(paths.map(str::to_owned).collect());
    }
    let plan = SourcePlan {
        path: folder.to_path_buf(),
        ..plan.clone()
    };
    let files: Vec<(PathBuf, u64)> = files
        .iter()
        .map(|(path, num_bytes)| (PathBuf::from(path), *num_bytes))
        .collect();
    let wanted = Walk::wanted(&plan, &files)?.into_iter();
    let inside = wanted.filter_map(|path| {
        let inside = path.strip_prefix(folder).ok()?;
        Some(inside.to_str()?.to_owned())
    });
    Ok(inside.collect())
}

/// Those of some paths whose files have rows, by their names.
pub fn with_rows<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    paths
        .filter(|path| Container::of(Path::new(path)).is_some())
        .map(str::to_owned)
        .collect()
}

/// Words in names of files and folders that mean a split.
const WORDS: [(&str, &str); 10] = [
    ("train", "train"),
    ("training", "train"),
    ("validation", "validation"),
    ("valid", "validation"),
    ("dev", "validation"),
    ("val", "validation"),
    ("test", "test"),
    ("testing", "test"),
    ("eval", "test"),
    ("evaluation", "test"),
];

/// Split that a word means: itself, if it is none of the usual ones.
pub(super) fn canonical(word: &str) -> &str {
    let known = WORDS.iter().find(|(other, _)| *other == word);
    known.map_or(word, |(_, split)| split)
}

/// Split that the name of a file says, else that of the nearest folder above it; `None` if none does.
///
/// `data/train_sft-00000-of-00003.parquet` is of `train_sft`; otherwise a word such as `train` counts if it stands alone:
/// `my-train.jsonl`, `train/a.parquet`, but not `trains.parquet`.
pub(super) fn split_of(inside: &Path) -> Option<String> {
    let name = inside.file_name()?.to_str()?;
    if let Some(split) = split_of_shard(Container::stem(name)) {
        return Some(split.to_owned());
    }
    let folders = inside.parent().into_iter().flat_map(Path::iter).rev();
    let names =
        std::iter::once(Some(Container::stem(name))).chain(folders.map(|name| name.to_str()));
    let mut words = names.flatten().filter_map(|name| {
        let is_apart =
            |letter: char| matches!(letter, '-' | '.' | '_' | ' ') || letter.is_ascii_digit();
        let mut words = name.split(is_apart);
        words.find_map(|word| WORDS.iter().find(|(other, _)| *other == word))
    });
    words.next().map(|(_, split)| (*split).to_owned())
}

/// Split of `SPLIT-00000-of-00005`, perhaps with a hash behind it.
fn split_of_shard(stem: &str) -> Option<&str> {
    let shard = SeriesPart::of(stem).filter(|shard| shard.total.len() == 5)?;
    let split = shard.before.strip_suffix('-')?;
    let mut letters = split.chars();
    let is_name = !split.is_empty()
        && letters.all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'));
    is_name.then_some(split)
}

/// A configuration of a README: a part of the folder with its own splits.
#[derive(Debug, PartialEq)]
pub(super) struct Config {
    name: String,
    is_default: bool,
    /// Folder that the patterns are in; empty for that of the README.
    data_dir: String,
    /// Splits with the patterns of their files; empty if their names say the split.
    data_files: Vec<(String, Vec<Pattern>)>,
}

impl Config {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Split of a file, given relative to the folder; `None` if it is not of this configuration. A file whose name says
    /// nothing is of `train`.
    pub(super) fn split_of(&self, inside: &Path) -> Option<String> {
        let inside = inside.strip_prefix(&self.data_dir).ok()?;
        if self.data_files.is_empty() {
            return Some(split_of(inside).unwrap_or_else(|| "train".to_owned()));
        }
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        let is_of = |(_, patterns): &&(String, Vec<Pattern>)| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| pattern.matches_path_with(inside, options))
        };
        let found = self.data_files.iter().find(is_of);
        found.map(|(split, _)| split.clone())
    }

    /// Names of the splits that patterns are given for.
    pub(super) fn splits(&self) -> impl Iterator<Item = &str> {
        self.data_files.iter().map(|(split, _)| split.as_str())
    }

    /// Files of a split that are listed by their names, relative to the folder.
    pub(super) fn listed(&self, split: &str) -> impl Iterator<Item = PathBuf> {
        let own = self
            .data_files
            .iter()
            .filter(move |(name, _)| name == split);
        let paths = own.flat_map(|(_, patterns)| patterns.iter().map(Pattern::as_str));
        let names = paths.filter(|path| !path.contains(['*', '?', '[']));
        names.map(|path| Path::new(&self.data_dir).join(path))
    }

    /// The one that is named, else the only one, else the default.
    pub(super) fn choose(configs: Vec<Self>, named: Option<&str>) -> Result<Self, FaultKind> {
        let names: Vec<_> = configs
            .iter()
            .map(|config| format!("`{}`", shown(&config.name)))
            .collect();
        let names = names.join(", ");
        let (num, mut configs) = (configs.len(), configs.into_iter());
        let found = match named {
            Some(name) => configs.find(|config| config.name == name),
            None if num == 1 => configs.next(),
            None => configs.find(|config| config.is_default || config.name == "default"),
        };
        found.ok_or_else(|| {
            FaultKind::Choice(match named {
                Some(name) => format!("no configuration `{}`; its README has {names}", shown(name)),
                None => format!(
                    "its README has several configurations; name one of them with `config`: {names}"
                ),
            })
        })
    }
}

/// Configurations of a folder's README; none if it lists none.
pub(super) fn configs(folder: &Path) -> Result<Vec<Config>, FaultKind> {
    let path = folder.join("README.md");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&files::read(&path)?).into_owned();
    let Some(front) = front_matter(&text) else {
        return Ok(Vec::new());
    };
    parse(front).map_err(|what| {
        FaultKind::Choice(format!(
            "its README.md has `configs` that cannot be read: {what}"
        ))
    })
}

/// YAML between two lines of dashes, if it has configurations. Others are not looked at: a README says much else.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.trim_start_matches('\u{feff}');
    let after = text.strip_prefix("---")?;
    let (first, rest) = after.split_once('\n')?;
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            break;
        }
        end += line.len();
    }
    let (front, after) = rest.split_at_checked(end)?;
    let has_configs = front.lines().any(|line| line.starts_with("configs:"));
    (first.trim().is_empty() && !after.is_empty() && has_configs).then_some(front)
}

fn parse(front: &str) -> Result<Vec<Config>, String> {
    let front: Value = serde_saphyr::from_str(front).map_err(|error| {
        let told = error.to_string();
        told.lines().next().unwrap_or_default().to_owned()
    })?;
    let configs = match front.get("configs") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(configs)) => configs,
        Some(_) => return Err("`configs` is no list".to_owned()),
    };
    configs.iter().map(config).collect()
}

fn config(config: &Value) -> Result<Config, String> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let name = text("config_name").ok_or("one of them has no `config_name`")?;
    let data_dir = text("data_dir").unwrap_or_default();
    let data_dir = data_dir.trim_start_matches("./").trim_end_matches('/');
    let data_files = match config.get("data_files") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) if items.iter().any(Value::is_object) => {
            items.iter().map(split_files).collect::<Result<_, _>>()?
        }
        Some(Value::Object(splits)) => {
            let splits = splits.iter();
            let split = splits.map(|(split, paths)| Ok((split.clone(), patterns(paths)?)));
            split.collect::<Result<_, String>>()?
        }
        Some(paths) => vec![("train".to_owned(), patterns(paths)?)],
    };
    Ok(Config {
        name: name.to_owned(),
        is_default: config.get("default") == Some(&Value::Bool(true)),
        data_dir: data_dir.to_owned(),
        data_files,
    })
}

fn split_files(item: &Value) -> Result<(String, Vec<Pattern>), String> {
    let split = item.get("split").and_then(Value::as_str);
    let split = split.ok_or("an entry of `data_files` has no `split`")?;
    let paths = item
        .get("path")
        .ok_or("an entry of `data_files` has no `path`")?;
    Ok((split.to_owned(), patterns(paths)?))
}

fn patterns(paths: &Value) -> Result<Vec<Pattern>, String> {
    let pattern = |path: &Value| {
        let path = path.as_str().ok_or("a path of `data_files` is no text")?;
        let inside = path.trim_start_matches("./");
        Pattern::new(inside)
            .map_err(|error| format!("the pattern `{}` is wrong: {}", shown(path), error.msg))
    };
    match paths {
        Value::Array(paths) => paths.iter().map(pattern).collect(),
        path => Ok(vec![pattern(path)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_repository_the_files_of_a_configuration_and_split_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let all = [
            ("README.md", 9),
            ("b/test-00000-of-00001.parquet", 9),
            ("b/train-00000-of-00002.parquet", 9),
            ("b/train-00001-of-00002.parquet", 9),
            ("c/train.jsonl.gz", 5),
            ("script.py", 99),
        ];
        let plan = |config: Option<&str>, split: Option<&str>| SourcePlan {
            config: config.map(str::to_owned),
            split: split.map(str::to_owned),
            ..SourcePlan::default()
        };
        let of = |config, split| {
            let found = files_of_plan(&plan(config, split), dir.path(), &all);
            found.map_err(|fault| fault.to_string())
        };
        let train = [all[2].0, all[3].0].map(str::to_owned).to_vec();
        assert_eq!(of(None, Some("train")), Ok(train.clone()));
        let told = of(None, None).unwrap_err();
        assert!(
            told.contains("several splits") && told.contains("`test`, `train`"),
            "{told}"
        );
        assert!(of(Some("b"), None).unwrap_err().contains("no README.md"));

        let readme = "---\nconfigs:\n- config_name: b\n  data_dir: b\n- config_name: c\n  data_dir: c\n---\n";
        files::write_atomically(&dir.path().join("README.md"), |out| {
            out.write_all(readme.as_bytes())
        })
        .unwrap();
        assert!(
            of(None, Some("train"))
                .unwrap_err()
                .contains("several configurations")
        );
        assert_eq!(of(Some("b"), Some("train")), Ok(train));
        assert_eq!(of(Some("c"), None), Ok(vec!["c/train.jsonl.gz".to_owned()]));
        let rows = with_rows(all.iter().map(|(path, _)| *path));
        assert_eq!(rows.len(), 4, "{rows:?}");
        let saved = [
            ("train/state.json", 1),
            ("train/data.arrow", 1),
            ("x.py", 1),
        ];
        let found = files_of_plan(&plan(None, Some("train")), dir.path(), &saved).unwrap();
        assert_eq!(found, ["train/state.json", "train/data.arrow"]);
    }

    #[test]
    fn names_of_files_and_folders_say_their_split() {
        for (path, split) in [
            ("data/train-00000-of-00005.parquet", Some("train")),
            (
                "data/train_sft-00000-of-00003-a1b2c3.parquet",
                Some("train_sft"),
            ),
            ("ultrachat-train-00000-of-00002.arrow", Some("train")),
            ("x/test/part-0.parquet", Some("test")),
            ("my_val.jsonl.gz", Some("validation")),
            ("dev2.json", Some("validation")),
            ("test/train.parquet", Some("train")),
            ("trains.parquet", None),
            ("data/part-00000-of-00002.parquet", Some("part")),
            ("part-00000-1f2e.snappy.parquet", None),
        ] {
            assert_eq!(split_of(Path::new(path)).as_deref(), split, "{path}");
        }
    }

    const README: &str = "---\nlicense: mit\nconfigs:\n- config_name: chat\n  default: true\n  data_files:\n  - split: train\n    path: chat/train-*\n  - split: test\n    path:\n    - chat/test.parquet\n- config_name: plain\n  data_dir: plain\n- config_name: one\n  data_files: \"*.jsonl\"\n---\n# Words\n---\n";

    #[test]
    fn a_readme_lists_configurations_with_the_files_of_their_splits() {
        let with_returns = README.replace('\n', "\r\n");
        let front = front_matter(&with_returns).unwrap();
        assert_eq!(parse(front), parse(front_matter(README).unwrap()));
        let configs = parse(front).unwrap();
        let names: Vec<_> = configs.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(names, ["chat", "plain", "one"]);
        let of = |index: usize, path: &str| configs[index].split_of(Path::new(path));
        assert_eq!(
            of(0, "chat/train-00000-of-00001.parquet").as_deref(),
            Some("train")
        );
        assert_eq!(of(0, "chat/test.parquet").as_deref(), Some("test"));
        assert_eq!(of(0, "chat/other/train-1.parquet"), None);
        assert_eq!(of(1, "plain/a.parquet").as_deref(), Some("train"));
        assert_eq!(of(1, "chat/train-0.parquet"), None);
        assert_eq!(of(2, "a.jsonl").as_deref(), Some("train"));
        assert_eq!(Config::choose(configs, None).unwrap().name, "chat");
    }

    #[test]
    fn a_configuration_that_is_not_there_or_not_named_is_refused_with_the_names() {
        let configs = || {
            let text = "configs:\n- config_name: a\n- config_name: b\n";
            parse(text).unwrap()
        };
        let told = |named| Config::choose(configs(), named).unwrap_err().to_string();
        assert_eq!(
            told(None),
            "its README has several configurations; name one of them with `config`: `a`, `b`"
        );
        assert_eq!(
            told(Some("c")),
            "no configuration `c`; its README has `a`, `b`"
        );
        assert_eq!(Config::choose(configs(), Some("b")).unwrap().name, "b");
    }

    #[test]
    fn a_readme_without_configurations_is_not_parsed() {
        for text in [
            "",
            "# Words\n",
            "---\nlicense: [\n---\n",
            "---\nconfigs:\n- a\n",
        ] {
            assert_eq!(front_matter(text), None, "{text}");
        }
        for wrong in [
            "configs: 3\n",
            "configs:\n- a\n",
            "configs:\n- config_name: a\n  data_files: a**\n",
            "configs: [\n",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
