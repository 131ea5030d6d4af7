//! The command that writes a recipe to start from.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::commands::{Output, fetched, fetched_texts, shown, speed_note};
use super::{Failure, VERSION};
use crate::device::HOST;
use crate::fetched::HubItem;
use crate::machine;
use crate::progress::{self, bytes_text};
use crate::rates::{Machine, Rates};
use crate::shell::quoted;
use crate::starter::{self, SCHEMA_FILE, Size, StarterError, StarterRequest};

/// End of the help of `alambic new`.
pub(super) const EXAMPLES: &str = "\
Examples:
  alambic new my-student --teacher path/to/teacher --data path/to/text
  alambic new tiny --teacher model.gguf --data corpus --validation held-out.txt --size 100M --hours 8
  alambic new four-bits --teacher Qwen/Qwen3-0.6B --data path/to/text --size 1
  alambic new half --teacher path/to/teacher --data path/to/text --size 0.5 --no-quantize

In a clone of alambic, `--teacher` and `--data` are its small teacher and Jane Austen's novels unless you name others.";

/// Teacher and text of a clone.
const EXAMPLE_TEACHER: &str = "checkpoints/austen-teacher";
const EXAMPLE_DATA: &str = "datasets/austen";

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Name of the recipe, with or without a folder before it and `.yaml` behind it
    name: PathBuf,
    /// Model folder, `.gguf` file, folder of a pass or of a run, or id on the hub
    #[arg(long, value_name = "PATH")]
    teacher: Option<PathBuf>,
    /// File of texts or conversations, folder of them, or id of a dataset on the hub, to train on; a folder may have `train` and `validation` in it
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Text to measure on; default: the folder `validation` in the data, or else its last file
    #[arg(long, value_name = "PATH")]
    validation: Vec<PathBuf>,
    /// Size of the student: a share of the teacher's parameters, or a number of them such as `350M`; 1 only quantises
    #[arg(long, default_value = "0.5", value_parser = size)]
    size: Size,
    /// Leave the student's weights unquantised
    #[arg(long)]
    no_quantize: bool,
    /// Hours that the run may take, by an estimate for this machine
    #[arg(long, default_value = "2", value_parser = hours)]
    hours: f64,
}

/// A size such as `0.5` or `350M`.
fn size(text: &str) -> Result<Size, String> {
    let fault =
        || "write a share such as 0.5, or a number of parameters such as 350M or 1.2B".to_owned();
    let (number, unit) = match text.char_indices().last() {
        Some((place, 'k' | 'K')) => (&text[..place], 1e3),
        Some((place, 'm' | 'M')) => (&text[..place], 1e6),
        Some((place, 'b' | 'B')) => (&text[..place], 1e9),
        _ => (text, 1.0),
    };
    let number: f64 = number.parse().map_err(|_| fault())?;
    match number * unit {
        count if !count.is_finite() || count <= 0.0 => Err(fault()),
        share if share <= 1.0 => Ok(Size::Share(share)),
        count if count < 1e3 => Err(fault()),
        count => Ok(Size::Parameters(count)),
    }
}

/// A number of hours above 0.
fn hours(text: &str) -> Result<f64, String> {
    let hours: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if hours > 0.0 && hours.is_finite() {
        Ok(hours)
    } else {
        Err("must be above 0".to_owned())
    }
}

pub(super) fn new(args: &NewArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let recipe = with_ending(&args.name);
    let teacher = args.teacher.clone().or_else(|| example(EXAMPLE_TEACHER));
    let teacher = teacher.ok_or_else(|| missing("new/teacher", "teacher", "--teacher PATH"))?;
    let mut data = args.data.clone();
    if data.is_empty() {
        data.extend(example(EXAMPLE_DATA));
    }
    if data.is_empty() {
        return Err(missing("new/data", "text", "--data PATH"));
    }
    let teacher = fetched(&teacher, &HubItem::Model)?;
    let data = fetched_texts(&data)?;
    let validation = fetched_texts(&args.validation)?;
    let (rates, note) = Rates::of(&Machine::here(VERSION, HOST));
    let request = StarterRequest {
        recipe: &recipe,
        teacher: &teacher,
        data: &data,
        validation: &validation,
        size: args.size,
        quantize: !args.no_quantize,
        hours: args.hours,
        machine_bytes: machine::memory_bytes(),
        rates: &rates,
    };
    let starter = starter::write(&request)?;
    progress::log_notes(&starter.notes);
    progress::log_notes(&Vec::from_iter(note));
    let (time, memory) = (starter.time, bytes_text(starter.memory_bytes));
    let whose = speed_note(time);
    let schema = recipe.with_file_name(SCHEMA_FILE);
    let text = format!(
        "recipe: {}\nschema: {} (editors with a YAML language server complete and check keys by it)\n\
         estimate: {time}{whose}, {memory} of memory\n\
         next: alambic plan {}",
        shown(&recipe),
        shown(&schema),
        quoted(&shown(&recipe)),
    );
    let found = json!({
        "recipe": recipe,
        "schema": schema,
        "secs": time.likely,
        "secs_least": time.least,
        "secs_most": time.most,
        "peak_memory_bytes": starter.memory_bytes,
        "notes": starter.notes,
    });
    output.print(&text, &found)
}

/// The path of the recipe: `.yaml` is added unless it or `.yml` is there.
fn with_ending(name: &Path) -> PathBuf {
    match name.extension() {
        Some(ending) if ending == "yaml" || ending == "yml" => name.to_owned(),
        _ => {
            let mut path = name.as_os_str().to_owned();
            path.push(".yaml");
            path.into()
        }
    }
}

fn example(path: &str) -> Option<PathBuf> {
    Some(PathBuf::from(path)).filter(|path| path.is_dir())
}

fn missing(id: &str, what: &str, option: &str) -> Failure {
    let fact = format!("no {what} is named, and this is not the folder of a clone of alambic");
    Failure::input(id, &fact).help(Some(format!("add `{option}`")))
}

impl From<StarterError> for Failure {
    fn from(error: StarterError) -> Self {
        match error {
            StarterError::Exists(_) => Self::input("new/exists", &error)
                .help(Some("choose another name, or remove the file".to_owned())),
            StarterError::OneFile(_) => Self::input("new/validation", &error).help(Some(
                "name a text to measure on with `--validation PATH`".to_owned(),
            )),
            StarterError::NoTeacher(_) => Self::input("new/teacher", &error).help(Some(
                "name a Hugging Face folder, a `.gguf` file, or the id of a model on the hub"
                    .to_owned(),
            )),
            StarterError::NothingToDo => Self::input("new/size", &error).help(Some(
                "leave `--no-quantize` out, or write a smaller `--size`".to_owned(),
            )),
            StarterError::NotSmaller { .. } => Self::input("new/size", &error).help(Some(
                "write a smaller `--size`, or `--size 1` to quantise only".to_owned(),
            )),
            StarterError::Text(_) => Self::input("new/data", &error).help(Some(
                "name files with text or conversations in `--data`: `.txt`, `.jsonl`, `.json`, `.parquet`, `.arrow`, or folders of them".to_owned(),
            )),
            StarterError::Teacher(error) => error.into(),
            StarterError::Recipe(faults) => faults.into(),
            StarterError::Io(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_share_or_a_number_of_parameters() {
        assert_eq!(size("0.5"), Ok(Size::Share(0.5)));
        assert_eq!(size("1"), Ok(Size::Share(1.0)));
        assert_eq!(size("350M"), Ok(Size::Parameters(350e6)));
        assert_eq!(size("1.2b"), Ok(Size::Parameters(1.2e9)));
        for wrong in ["", "0", "-1", "2", "half", "M", "nan", "inf", "1e400", "é"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_ending_is_added_where_there_is_none() {
        assert_eq!(with_ending(Path::new("a/b")), Path::new("a/b.yaml"));
        assert_eq!(with_ending(Path::new("b.yml")), Path::new("b.yml"));
        assert_eq!(with_ending(Path::new("qwen2.5")), Path::new("qwen2.5.yaml"));
    }
}
