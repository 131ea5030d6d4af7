//! Seconds of the data stage: texts or conversations to stored rows; and of the tokenizers library alone on the same texts.
//!
//! ```sh
//! cargo bench --bench rows -- rows TOKENIZER FILE     # read, render, tokenise, mask, pack and store
//! cargo bench --bench rows -- library TOKENIZER FILE  # `encode_batch_fast` of what was read and rendered before
//! ```
//!
//! `TOKENIZER` is a `tokenizer.json` or a `.gguf` file; `--sequence-length N` (1,024) comes last. One JSON object goes to stdout.
//! `scripts/bench_data.py` compares with the datasets library.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use alambic::allocator::{self, MiMalloc};
use alambic::data::{
    CalibrateOn, Content, DataPlan, OnBadRow, Renderer, SourcePlan, Tokenizer, TokenizerChange,
    TokenizerPlan, prepare, read_documents,
};
use alambic::files;
use alambic::hashes::Hashes;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_freed_pages();
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let usage = "write `rows` or `library`, a tokenizer and a file";
    let kind = arguments.next().ok_or(usage)?;
    let tokenizer = Tokenizer::open(Path::new(&arguments.next().ok_or(usage)?))?;
    let sources = SourcePlan::of_paths(&[PathBuf::from(arguments.next().ok_or(usage)?)]);
    let sequence_length = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => 1024,
        (Some("--sequence-length"), Some(length)) => length.parse()?,
        _ => return Err(usage.into()),
    };
    let figures = match kind.as_str() {
        "rows" => rows(&tokenizer, sources, sequence_length)?,
        "library" => library(&tokenizer, &sources)?,
        _ => return Err(usage.into()),
    };
    println!("{figures}");
    Ok(())
}

/// The data stage with an empty store.
fn rows(
    tokenizer: &Tokenizer,
    train: Vec<SourcePlan>,
    sequence_length: usize,
) -> Result<Value, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let validation = dir.path().join("validation.jsonl");
    files::write_atomically(&validation, |out| {
        out.write_all(b"{\"text\": \"It is a truth.\"}\n")
    })?;
    let plan = DataPlan {
        train,
        train_tokens: None,
        validation: vec![validation.into()],
        sequence_length,
        validation_tokens: None,
        learn: None,
        packing: None,
        longer: None,
        on_bad_row: OnBadRow::Fail,
        calibrate_on: CalibrateOn::All,
        tokenizer: TokenizerPlan::Teacher,
    };
    let start = Instant::now();
    let prepared = prepare(
        &plan,
        Some(tokenizer),
        &TokenizerChange::default(),
        dir.path(),
        (None, &[]),
        (&Hashes::of_this_process(0.0), &AtomicBool::new(false)),
    )?;
    let secs = start.elapsed().as_secs_f64();
    let train = prepared.train;
    Ok(json!({
        "secs": secs,
        "rows": train.num_rows(),
        "positions": train.num_positions(),
        "hash": train.hash(),
    }))
}

/// The library alone: neither reading nor rendering is timed.
fn library(tokenizer: &Tokenizer, sources: &[SourcePlan]) -> Result<Value, Box<dyn Error>> {
    let renderer = tokenizer.renderer()?;
    let documents = read_documents(sources, OnBadRow::Fail)?.documents;
    let texts: Vec<String> = documents
        .iter()
        .map(|document| text(&document.content, renderer.as_ref()))
        .collect::<Result<_, _>>()?;
    let library =
        tokenizers::Tokenizer::from_bytes(tokenizer.bytes()).map_err(|error| error.to_string())?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let num_texts = texts.len();
    let start = Instant::now();
    let encoded = library
        .encode_batch_fast(texts, false)
        .map_err(|error| error.to_string())?;
    let secs = start.elapsed().as_secs_f64();
    let num_tokens: usize = encoded.iter().map(|text| text.get_ids().len()).sum();
    Ok(json!({ "secs": secs, "texts": num_texts, "tokens": num_tokens }))
}

fn text(content: &Content, renderer: Option<&Renderer>) -> Result<String, Box<dyn Error>> {
    Ok(match content {
        Content::Text(text) => text.clone(),
        Content::File(_) => return Err("a text too long for this bench".into()),
        Content::Completion { prompt, completion } => [prompt.as_str(), completion].concat(),
        Content::Chat(conversation) => {
            let renderer = renderer.ok_or("the tokenizer has no chat template")?;
            let template = renderer.of(conversation);
            template.render(conversation, false)?.text
        }
    })
}
