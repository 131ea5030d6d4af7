//! The command that continues a prompt.

use std::io::{self, IsTerminal, Read};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::commands::{Output, open_model, open_tokenizer};
use super::failure::OVERFLOW;
use super::{Failure, GenerateArgs};
use crate::chat::{Conversation, TemplateError};
use crate::data::{TextStream, Tokenizer};
use crate::device;
use crate::generate::{Ended, StopStrings, TokenSampling, generate as continue_prompt};
use crate::opened::StoredModel;
use crate::progress::{self, duration_text, thousands};

/// Longest prompt that is read from stdin.
const MAX_PROMPT_BYTES: u64 = 16 << 20;

pub(super) fn generate(args: &GenerateArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let device = device::open(&args.device)?;
    let asked = prompt(args.prompt.as_deref())?;
    let model = open_model(&args.checkpoint)?;
    let tokenizer = open_tokenizer(&model)?;
    let (prompt, ids) = if args.chat {
        turn_ids(&asked, args.system.as_deref(), &tokenizer)?
    } else {
        prompt_ids(asked, &model, &tokenizer)?
    };
    let mut decoder = model.decoder(&device)?;
    if args.chat {
        decoder.config.eos_token_ids = tokenizer.ends(&decoder.config.eos_token_ids);
    }
    let mut answer = Answer::new(&tokenizer, &args.stop);
    if args.echo && !output.json {
        write!(output.out, "{prompt}")?;
    }
    let mut fault = None;
    let mut clock = Clock::start();
    let continued = continue_prompt(&decoder, &ids, args.max_tokens, sampling(args), |id| {
        clock.token();
        match answer.push(id) {
            Ok(piece) if output.json || piece.is_empty() => !answer.is_over(),
            Ok(piece) => {
                let written = write!(output.out, "{piece}").and_then(|()| output.out.flush());
                written.is_ok() && !answer.is_over()
            }
            Err(error) => {
                fault = Some(error);
                false
            }
        }
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    let ended = continued.map_err(|error| {
        Failure::run("generate/not-finite", &error).help(Some(OVERFLOW.to_owned()))
    })?;
    let rest = answer.finish()?;
    let figures = clock.stop();
    output.print(
        &rest,
        &json!({
            "prompt": prompt,
            "text": answer.text,
            "ids": answer.ids,
            "prompt_tokens": ids.len(),
            "tokens": answer.ids.len(),
            "prompt_seconds": figures.prompt_secs,
            "seconds": figures.secs,
            "tokens_per_second": figures.rate(),
            "ended": answer.ended(ended),
        }),
    )?;
    // After the answer, whose last line has ended: both may go to one terminal.
    if let (Ended::EndOfText(id), true) = (ended, answer.ids.is_empty()) {
        log_empty(&tokenizer, id);
    }
    progress::log(&format!("generate: {}", figures.text(ids.len())));
    Ok(())
}

fn sampling(args: &GenerateArgs) -> TokenSampling {
    TokenSampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    }
}

fn log_empty(tokenizer: &Tokenizer, end: u32) {
    let token = tokenizer.token(end).unwrap_or_default();
    progress::log_notes(&[format!("the model ended at once, with `{token}`")]);
}

/// The prompt of the command line, or of stdin if it is piped.
fn prompt(given: Option<&str>) -> Result<String, Failure> {
    if let Some(prompt) = given.filter(|&prompt| prompt != "-") {
        return Ok(prompt.to_owned());
    }
    let refused = |fact: &str| {
        let help = "write it after `--prompt`, or pipe it; `--prompt ''` begins with nothing";
        Err(Failure::input("generate/prompt", &fact).help(Some(help.to_owned())))
    };
    let stdin = io::stdin();
    if given.is_none() && stdin.is_terminal() {
        return refused("there is no prompt");
    }
    let mut bytes = Vec::new();
    stdin
        .lock()
        .take(MAX_PROMPT_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PROMPT_BYTES {
        return refused("the prompt on stdin is longer than 16 MiB");
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return refused("the prompt on stdin is not UTF-8");
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return refused("there is no prompt: stdin is empty");
    }
    Ok(text.to_owned())
}

/// Text and tokens of a user's message, up to where the model answers.
fn turn_ids(
    asked: &str,
    system: Option<&str>,
    tokenizer: &Tokenizer,
) -> Result<(String, Vec<u32>), Failure> {
    let prompt = turn(asked, system, tokenizer)?;
    let ids = tokenizer.encode(&prompt);
    Ok((prompt, ids.map_err(|error| Failure::input("data", &error))?))
}

/// A user's message, perhaps behind one of the system, up to where the model answers.
#[expect(
    clippy::disallowed_methods,
    reason = "the day that a template prints; nothing of it is saved"
)]
fn turn(asked: &str, system: Option<&str>, tokenizer: &Tokenizer) -> Result<String, Failure> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(since.as_secs())
        .ok()
        .and_then(|secs| DateTime::from_timestamp(secs, 0));
    let renderer = tokenizer.renderer_at(now.unwrap_or_default().naive_utc());
    let refused = |error: &TemplateError| Failure::input("generate/chat", error);
    let renderer = renderer.map_err(|error| refused(&error))?.ok_or_else(|| {
        let help = "leave out `--chat`, or put a `chat_template.jinja` beside its tokenizer.json";
        Failure::input("generate/chat", &"the model has no chat template")
            .help(Some(help.to_owned()))
    })?;
    let message = |role: &str, content: &str| {
        let text = |text: &str| Value::from(text);
        Map::from_iter([
            ("role".to_owned(), text(role)),
            ("content".to_owned(), text(content)),
        ])
    };
    let system = system.map(|system| message("system", system));
    let messages = system.into_iter().chain([message("user", asked)]).collect();
    let conversation = Conversation {
        messages,
        ..Conversation::default()
    };
    let rendered = renderer.of(&conversation).render(&conversation, true);
    Ok(rendered.map_err(|error| refused(&error))?.text)
}

/// A prompt, and its tokens with those before a text; at least one.
fn prompt_ids(
    prompt: String,
    model: &StoredModel,
    tokenizer: &Tokenizer,
) -> Result<(String, Vec<u32>), Failure> {
    let mut ids = Vec::from_iter(tokenizer.beginning_of_text());
    let encoded = tokenizer.encode(&prompt);
    ids.extend(encoded.map_err(|error| Failure::input("data", &error))?);
    if ids.is_empty() {
        let config = model.config();
        let first = tokenizer.end_of_text().or(config.bos_token_id);
        ids.extend(first.filter(|&id| (id as usize) < config.vocab_size));
    }
    if ids.is_empty() {
        return Err(Failure::input(
            "generate",
            &"the prompt has no token, and the model no first token",
        ));
    }
    Ok((prompt, ids))
}

/// What the model adds, as tokens and as text without a string that ends it.
struct Answer<'a> {
    ids: Vec<u32>,
    text: String,
    /// Decoder of the tokens; none at the end.
    stream: Option<TextStream<'a>>,
    stops: StopStrings,
}

impl<'a> Answer<'a> {
    fn new(tokenizer: &'a Tokenizer, stops: &[String]) -> Self {
        Self {
            ids: Vec::new(),
            text: String::new(),
            stream: Some(tokenizer.stream()),
            stops: StopStrings::new(stops),
        }
    }

    /// Adds a token; returns the text that can be shown now.
    fn push(&mut self, id: u32) -> Result<String, Failure> {
        self.ids.push(id);
        let piece = self.stream.as_mut().map(|stream| stream.push(id));
        let piece = piece
            .transpose()
            .map_err(|error| Failure::input("data", &error))?;
        let piece = piece.unwrap_or_default();
        Ok(self.shown(&piece))
    }

    /// Text that was held back.
    fn finish(&mut self) -> Result<String, Failure> {
        let rest = self.stream.take().map(TextStream::finish);
        let rest = rest
            .transpose()
            .map_err(|error| Failure::input("data", &error))?;
        let rest = rest.unwrap_or_default();
        let mut rest = self.shown(&rest);
        let held = self.stops.finish();
        self.text.push_str(&held);
        rest.push_str(&held);
        Ok(rest)
    }

    fn shown(&mut self, piece: &str) -> String {
        let shown = self.stops.push(piece);
        self.text.push_str(&shown);
        shown
    }

    fn is_over(&self) -> bool {
        self.stops.is_over()
    }

    /// Why the text ends, in one word.
    fn ended(&self, ended: Ended) -> &'static str {
        match ended {
            _ if self.is_over() => "stop",
            Ended::EndOfText(_) => "end_of_text",
            Ended::MaxTokens => "max_tokens",
            Ended::Stopped => "closed", // nobody reads on
        }
    }
}

/// Times of the first and of the last token.
struct Clock {
    since: Instant,
    first: Option<Instant>,
    num_tokens: usize,
}

/// Speed of a generation.
struct Figures {
    /// Seconds until the first token, most of which the prompt takes.
    prompt_secs: f64,
    /// Seconds of all.
    secs: f64,
    num_tokens: usize,
}

impl Clock {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            first: None,
            num_tokens: 0,
        }
    }

    fn token(&mut self) {
        self.first.get_or_insert_with(Instant::now);
        self.num_tokens += 1;
    }

    fn stop(self) -> Figures {
        let secs = self.since.elapsed();
        let prompt_secs = self.first.map_or(secs, |first| first - self.since);
        Figures {
            prompt_secs: prompt_secs.as_secs_f64(),
            secs: secs.as_secs_f64(),
            num_tokens: self.num_tokens,
        }
    }
}

impl Figures {
    /// Tokens a second after the first, which waits for the prompt; `None` if there is no other.
    fn rate(&self) -> Option<f64> {
        let num_after = self.num_tokens.checked_sub(1).filter(|&count| count > 0)?;
        let secs = self.secs - self.prompt_secs;
        (secs > 0.0).then(|| num_after as f64 / secs)
    }

    fn text(&self, num_prompt: usize) -> String {
        let rate = self.rate();
        let rate = rate.map_or_else(String::new, |rate| format!(", {rate:.1} a second"));
        format!(
            "{} tokens{rate}; the prompt of {} took {}",
            thousands(self.num_tokens as u64),
            thousands(num_prompt as u64),
            duration_text(self.prompt_secs)
        )
    }
}
