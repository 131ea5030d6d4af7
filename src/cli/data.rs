//! The commands of `alambic data`: what a recipe's text and conversations become.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anstyle::{AnsiColor, Style};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::commands::{
    Output, fetched, load_plan, open_model, remember_speeds, shown, with_context,
};
use super::{Failure, RecipeArgs, RunArgs};
use crate::chat::{Conversation, Learn, Learnt, Rendered, TemplateError, learnt};
use crate::data::{self, DataError, Renderer, Split, TokenRows, Tokenizer};
use crate::fetched::{HubItem, Missing};
use crate::files;
use crate::gguf::is_gguf;
use crate::gguf::tokenizer::DEFAULT_TEMPLATE;
use crate::hashes::Hashes;
use crate::hub;
use crate::opened::Opened;
use crate::plan::Plan;
use crate::preflight;
use crate::progress::{percent, thousands};
use crate::recipe::Word;
use crate::report::RowsOfText;
use crate::run;
use crate::stages::Stages;

const LEARNT: Style = AnsiColor::Green.on_default().bold();
const READ: Style = Style::new().dimmed();

/// Marks of what is learnt, where there are no colours.
const MARKS: [&str; 2] = ["⟦", "⟧"];

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Show the first rows of a recipe: their text, what of it is learnt, and their token ids; write nothing
    #[command(after_help = "\
Examples:
  alambic data show recipes/quickstart.yaml --rows 1
  alambic data show recipes/quickstart.yaml --split validation --set data.sequence_length=64")]
    Show {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Rows to show
        #[arg(long, default_value_t = 3, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
        rows: usize,
        /// Text to show rows of
        #[arg(long, value_enum, default_value = "train")]
        split: SplitArg,
    },
    /// Make the rows of a recipe's texts: read, render, tokenise and pack them
    #[command(after_help = "\
Examples:
  alambic data build recipes/quickstart.yaml
  alambic data build my.yaml --set data.train=corpus.jsonl --json")]
    Build(RunArgs),
    /// Render conversations with a chat template, one after another
    #[command(after_help = "\
Examples:
  alambic data render my-model datasets/chat/validation.jsonl
  alambic data render template.jinja conversations.jsonl --learn assistant
  alambic data render template.jinja conversations.jsonl --generation-prompt --json")]
    Render(RenderArgs),
}

/// Text of a recipe.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum SplitArg {
    Train,
    Validation,
}

pub(super) fn execute(command: &DataCommand, output: &mut Output<'_>) -> Result<(), Failure> {
    match command {
        DataCommand::Show {
            recipe,
            rows,
            split,
        } => show(recipe, *rows, *split, output),
        DataCommand::Build(args) => build(args, output),
        DataCommand::Render(args) => render(args, output),
    }
}

fn build(args: &RunArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let plan = load_plan(&args.recipe, Missing::Fetch)?;
    let built = with_context(&plan, &args.recipe.set, args.trust, |context| {
        run::build_data(&plan, context)
    });
    remember_speeds(&plan);
    let (dir, rows) = built?;
    let line = |of: &RowsOfText| {
        let room = (of.rows * of.sequence_length).max(1) as f64;
        format!(
            "{}: {} rows of {} positions, {} % of them filled, {} of them counted",
            of.split,
            thousands(of.rows),
            thousands(of.sequence_length),
            percent(of.positions as f64 / room, 1),
            thousands(of.counted)
        )
    };
    let mut text: Vec<String> = rows.iter().map(line).collect();
    text.push(format!("rows: {}", shown(&dir)));
    output.print(&text.join("\n"), &json!({ "dir": dir, "rows": rows }))
}

fn show(
    args: &RecipeArgs,
    num_rows: usize,
    split: SplitArg,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut plan = load_plan(args, Missing::Fetch)?;
    let opened = Opened::open(&plan);
    let notes = preflight::check(&plan, &opened, &args.set)?;
    let hashes = Hashes::open(&plan.output, 0.0, false); // nothing is written, nor is it remembered
    let stages = Stages::of(&plan, opened, &hashes)?;
    let tokens = (num_rows * plan.data.sequence_length) as u64;
    let shorter = |limit: Option<u64>| Some(limit.map_or(tokens, |limit| limit.min(tokens)));
    plan.data.train_tokens = shorter(plan.data.train_tokens);
    plan.data.validation_tokens = shorter(plan.data.validation_tokens);
    let prepared = prepared(&plan, &stages, &hashes)?;
    let split = match split {
        SplitArg::Train => Split::Train,
        SplitArg::Validation => Split::Validation,
    };
    let rows = prepared.rows(split);
    let row_idxs = 0..num_rows.min(rows.num_rows());
    let with_colours = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let mut text = String::new();
    for note in notes.iter().chain(&prepared.notes) {
        let _ = writeln!(text, "note: {note}");
    }
    let mut shown = Vec::new();
    for row_idx in row_idxs {
        let row = Row::of(rows, row_idx, &prepared.tokenizer)?;
        let _ = writeln!(text, "{}", row.text(split, with_colours));
        shown.push(row.json());
    }
    output.print(
        &text,
        &json!({ "split": split.to_string(), "rows": shown, "notes": prepared.notes }),
    )
}

/// Rows of a plan, made in a folder that is deleted again.
fn prepared(plan: &Plan, stages: &Stages, hashes: &Hashes) -> Result<data::Prepared, Failure> {
    let scratch = tempfile::tempdir()?;
    let inputs = &stages.inputs;
    let tokenizer = inputs.tokenizer.as_ref();
    let ends = inputs.ends(plan);
    let end_of_text = inputs.end_of_text();
    let prepared = data::prepare(
        &plan.data,
        tokenizer,
        &stages.inputs.change,
        scratch.path(),
        (end_of_text, &ends),
        (hashes, &AtomicBool::new(false)),
    )?;
    Ok(prepared)
}

/// A row, as a person reads it.
struct Row<'a> {
    place: usize,
    num_documents: usize,
    tokens: &'a [u32],
    counted: Vec<[u32; 2]>,
    num_counted: usize,
    /// Texts of tokens in a row that are learnt, or are not.
    parts: Vec<(bool, String)>,
}

impl<'a> Row<'a> {
    fn of(rows: &'a TokenRows, row_idx: usize, tokenizer: &Tokenizer) -> Result<Self, Failure> {
        let length = rows.length(row_idx);
        let tokens = &rows.row(row_idx)[..=length];
        let mask = rows.mask(row_idx);
        // The first token of a row is not predicted.
        let mut flags = vec![false];
        flags.extend(mask.flags(length));
        let mut parts = Vec::new();
        let mut start = 0;
        for alike in flags.chunk_by(|one, other| one == other) {
            let text = text_of(&tokens[start..start + alike.len()], tokenizer)?;
            parts.push((alike[0], text));
            start += alike.len();
        }
        Ok(Self {
            place: row_idx,
            // Padding is the last that models read apart.
            num_documents: rows
                .sequence(row_idx)
                .documents()
                .filter(|document| document.start <= length)
                .count(),
            tokens,
            counted: mask
                .spans()
                .iter()
                .map(|span| [span.start, span.end])
                .collect(),
            num_counted: mask.count(),
            parts,
        })
    }

    fn text(&self, split: Split, with_colours: bool) -> String {
        let ids: Vec<String> = self.tokens.iter().map(u32::to_string).collect();
        let mut text = format!(
            "row {} of {split}: {} tokens, {} of them learnt",
            self.place,
            self.tokens.len(),
            self.num_counted
        );
        let _ = match self.num_documents {
            1 => writeln!(text),
            several => writeln!(text, ", in {several} documents"),
        };
        for (is_learnt, part) in &self.parts {
            let _ = match (is_learnt, with_colours) {
                (true, true) => write!(text, "{LEARNT}{part}{LEARNT:#}"),
                (false, true) => write!(text, "{READ}{part}{READ:#}"),
                (true, false) => write!(text, "{}{part}{}", MARKS[0], MARKS[1]),
                (false, false) => write!(text, "{part}"),
            };
        }
        let _ = writeln!(text, "\nids: {}", ids.join(" "));
        text
    }

    fn json(&self) -> Value {
        let parts: Vec<Value> = self
            .parts
            .iter()
            .map(|(is_learnt, text)| json!({ "learnt": is_learnt, "text": text }))
            .collect();
        json!({ "row": self.place, "documents": self.num_documents, "tokens": self.tokens, "counted": self.counted, "parts": parts })
    }
}

/// Text of tokens, with the names of special ones.
fn text_of(tokens: &[u32], tokenizer: &Tokenizer) -> Result<String, Failure> {
    let mut text = String::new();
    let decode = |part: &[u32]| tokenizer.decode(part).map_err(DataError::from);
    let mut start = 0;
    for (place, &id) in tokens
        .iter()
        .enumerate()
        .filter(|(_, id)| tokenizer.is_special(**id))
    {
        text += &decode(&tokens[start..place])?;
        text += &tokenizer.token(id).unwrap_or_default();
        start = place + 1;
    }
    text += &decode(&tokens[start..])?;
    Ok(text)
}

/// Arguments of `data render`.
#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// Model folder, `.gguf` file, id on the hub, or a file with a chat template
    template: PathBuf,
    /// File with an object on each line: `messages`, or `prompt` and `completion`, perhaps `tools`, `documents` and `chat_template_kwargs`
    conversations: PathBuf,
    /// End with the beginning of the assistant's next turn
    #[arg(long)]
    generation_prompt: bool,
    /// Print the rows that training would make of each conversation instead, with the bytes that are learnt: assistant,
    /// completion, last_turn or all
    #[arg(long, value_parser = learn, conflicts_with = "generation_prompt")]
    learn: Option<Learn>,
}

fn learn(text: &str) -> Result<Learn, String> {
    Learn::of(text).ok_or_else(|| "write assistant, completion, last_turn or all".to_owned())
}

fn render(args: &RenderArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let renderer = renderer(&args.template)?.ok_or_else(|| {
        let fact = format!("`{}` has no chat template", args.template.display());
        Failure::input("data", &fact)
    })?;
    let path = &args.conversations;
    let text = files::read_to_string(path).map_err(|error| files::with_path(error, path))?;
    let mut num_refused = 0;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    for (index, line) in lines {
        let place = || format!("{}:{}", path.display(), index + 1);
        let conversation = conversation(line)
            .map_err(|fact| Failure::input("data", &format!("{}: {fact}", place())))?;
        match (rendered(&renderer, &conversation, args), output.json) {
            (Ok((text, found)), _) => output.print(&text, &found)?,
            (Err(error), true) => {
                num_refused += 1;
                output.print("", &json!({ "error": error.to_string() }))?;
            }
            (Err(source), false) => {
                let place = place();
                return Err(DataError::Template { place, source }.into());
            }
        }
    }
    match num_refused {
        0 => Ok(()),
        refused => {
            let fact = format!("{refused} conversations are not rendered; each `error` says why");
            Err(Failure::input("data", &fact))
        }
    }
}

/// Templates of a model, or the one in a file.
fn renderer(path: &Path) -> Result<Option<Renderer>, Failure> {
    let read =
        |path: &Path| files::read_to_string(path).map_err(|error| files::with_path(error, path));
    let refused = |error: TemplateError| Failure::input("data", &error);
    let path = &fetched(path, &HubItem::Tokenizer)?;
    if path.ends_with("tokenizer.json") && hub::origin(path).is_some() {
        return renderer(files::parent(path));
    }
    if path.is_file() && !is_gguf(path) {
        let named = vec![(DEFAULT_TEMPLATE.to_owned(), read(path)?)];
        return Renderer::new(&named, &Value::Null, None).map_err(refused);
    }
    if path.is_dir() {
        let config: Option<Value> = files::read_json(&path.join("tokenizer_config.json"))?;
        let config = config.unwrap_or_default();
        let named = data::chat_templates(&config, Some(path))?;
        if !named.is_empty() {
            return Renderer::new(&named, &config, None).map_err(refused);
        }
    }
    let tokenizer = open_model(path)?.tokenizer();
    let tokenizer = tokenizer.map_err(|error| Failure::input("data/tokenizer", &error))?;
    tokenizer.renderer().map_err(refused)
}

/// A conversation as chat APIs have it.
fn conversation(line: &str) -> Result<Conversation, String> {
    let row: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let object = |value: &Value| value.as_object().cloned();
    let listed = |name: &str| -> Option<Vec<Map<String, Value>>> {
        row[name].as_array()?.iter().map(object).collect()
    };
    let (mut messages, num_prompt) =
        match (listed("messages"), listed("prompt"), listed("completion")) {
            (Some(messages), _, _) => (messages, 0),
            (None, Some(mut prompt), Some(completion)) => {
                let num_prompt = prompt.len();
                prompt.extend(completion);
                (prompt, num_prompt)
            }
            _ => {
                let fact =
                    "no list of objects under `messages`, nor under `prompt` and `completion`";
                return Err(fact.to_owned());
            }
        };
    let mut unlearnt = Vec::new();
    for (idx, message) in messages.iter_mut().enumerate() {
        let is_learnt = data::is_learnt(message);
        if !is_learnt.map_err(|fact| format!("message {idx}: {fact}"))? {
            unlearnt.push(idx);
        }
    }
    let mut variables = object(&row["chat_template_kwargs"]).unwrap_or_default();
    if let Some(documents) = row.get("documents") {
        variables.insert("documents".to_owned(), documents.clone());
    }
    Ok(Conversation {
        messages,
        tools: row["tools"].as_array().cloned(),
        variables,
        num_prompt,
        unlearnt,
    })
}

/// Text of a conversation as a person reads it, and all facts about it.
fn rendered(
    renderer: &Renderer,
    conversation: &Conversation,
    args: &RenderArgs,
) -> Result<(String, Value), TemplateError> {
    let template = renderer.of(conversation);
    let bytes = |ranges: &[Range<usize>]| -> Vec<[usize; 2]> {
        ranges
            .iter()
            .map(|range| [range.start, range.end])
            .collect()
    };
    let Some(learn) = args.learn else {
        let Rendered { text, generations } =
            template.render(conversation, args.generation_prompt)?;
        let generations = generations.as_deref().map(bytes);
        let found = json!({ "text": text, "generations": generations });
        return Ok((text, found));
    };
    let rows = learnt(template, conversation, learn)?;
    let texts: Vec<String> = rows
        .iter()
        .map(|row| marked(&row.text, &row.spans))
        .collect();
    let row = |row: &Learnt| json!({ "text": row.text, "spans": bytes(&row.spans) });
    let rows: Vec<Value> = rows.iter().map(row).collect();
    Ok((texts.join("\n"), json!({ "rows": rows })))
}

/// The text with marks round what is learnt.
fn marked(text: &str, learnt: &[Range<usize>]) -> String {
    let mut marked = String::new();
    let mut start = 0;
    for range in learnt {
        let (before, inside) = (text.get(start..range.start), text.get(range.clone()));
        marked.extend(
            [before, Some(MARKS[0]), inside, Some(MARKS[1])]
                .into_iter()
                .flatten(),
        );
        start = range.end;
    }
    marked.extend(text.get(start..));
    marked
}
