//! Chat templates: their places in a folder, and the precedence among them.

use std::path::Path;
use std::{fs, io};

use serde_json::Value;

use crate::files::{self, read_json, with_path};
use crate::gguf::tokenizer::DEFAULT_TEMPLATE;

/// The template file of a folder; it replaces all templates of `tokenizer_config.json`.
const FILE: &str = "chat_template.jinja";

/// Folder of named templates, one `NAME.jinja` each.
const FOLDER: &str = "additional_chat_templates";

/// Template file that processors save.
const JSON_FILE: &str = "chat_template.json";

/// Templates with their names; `default` comes first.
pub type ChatTemplates = Vec<(String, String)>;

/// Reads a tokenizer's templates, given the contents of its `tokenizer_config.json` and its folder, if any.
///
/// As in transformers, files precede inline templates: `chat_template.jinja` and the folder of named templates, then a
/// text or a list in `tokenizer_config.json`. If neither has a default, `chat_template.json` is read.
pub fn chat_templates(config: &Value, dir: Option<&Path>) -> io::Result<ChatTemplates> {
    let inline = listed(&config["chat_template"]);
    let mut templates = match dir {
        None => Vec::new(),
        Some(dir) => of_files(dir)?,
    };
    let has_default = |templates: &ChatTemplates| {
        let mut names = templates.iter().map(|(name, _)| name);
        names.any(|name| name == DEFAULT_TEMPLATE)
    };
    if templates.is_empty() {
        templates = inline;
    } else if !has_default(&templates) {
        templates.extend(inline.into_iter().filter(is_default));
    }
    if !has_default(&templates)
        && let Some(dir) = dir
    {
        let json: Option<Value> = read_json(&dir.join(JSON_FILE))?;
        let of_json = listed(&json.unwrap_or_default()["chat_template"]);
        templates.extend(of_json.into_iter().filter(is_default));
    }
    templates.sort_by_key(|template| !is_default(template));
    Ok(templates)
}

/// Named templates of a folder, as paths relative to it, sorted by name.
pub fn template_files(dir: &Path) -> io::Result<Vec<String>> {
    let folder = dir.join(FOLDER);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|error| with_path(error, &folder))? {
        let name = entry
            .map_err(|error| with_path(error, &folder))?
            .file_name();
        let is_template = Path::new(&name).extension() == Some("jinja".as_ref());
        if let Some(name) = name.to_str().filter(|_| is_template) {
            files.push(format!("{FOLDER}/{name}"));
        }
    }
    files.sort();
    Ok(files)
}

fn is_default((name, _): &(String, String)) -> bool {
    name == DEFAULT_TEMPLATE
}

fn of_files(dir: &Path) -> io::Result<ChatTemplates> {
    let read = |path: &Path| files::read_to_string(path).map_err(|error| with_path(error, path));
    let mut templates = Vec::new();
    let path = dir.join(FILE);
    if path.exists() {
        templates.push((DEFAULT_TEMPLATE.to_owned(), read(&path)?));
    }
    for file in template_files(dir)? {
        let name = Path::new(&file).file_stem().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        templates.push((name, read(&dir.join(&file))?));
    }
    Ok(templates)
}

/// Parses a text, a list of `name` and `template`, or a table from names to templates.
fn listed(value: &Value) -> ChatTemplates {
    let pair = |name: &Value, template: &Value| {
        Some((name.as_str()?.to_owned(), template.as_str()?.to_owned()))
    };
    match value {
        Value::String(template) => vec![(DEFAULT_TEMPLATE.to_owned(), template.clone())],
        Value::Array(list) => list
            .iter()
            .filter_map(|entry| pair(&entry["name"], &entry["template"]))
            .collect(),
        Value::Object(table) => table
            .iter()
            .filter_map(|(name, template)| Some((name.clone(), template.as_str()?.to_owned())))
            .collect(),
        _ => Vec::new(),
    }
}
