//! Files that an installation adds to the binary: completions and man pages, made from the arguments themselves.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use serde_json::json;

use super::commands::{Output, shown};
use super::{Cli, Failure};
use crate::files::{with_path, write_atomically};

/// Version, commit of the source if it is known, and the Cargo features of this binary; see `build.rs`.
pub(super) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("ALAMBIC_BUILD"), ")");

/// Prints a script by which a shell completes commands, options and words.
pub(super) fn completions(shell: Shell, output: &mut Output<'_>) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "alambic", &mut script);
    let script = String::from_utf8_lossy(&script);
    output.print(
        &script,
        &json!({ "shell": shell.to_string(), "script": script }),
    )
}

/// Writes `alambic.1` and a page for each command, such as `alambic-run.1`, into a folder.
pub(super) fn man(dir: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| with_path(error, dir))?;
    let mut command = Cli::command().version(env!("CARGO_PKG_VERSION"));
    command.build();
    let mut pages = Vec::new();
    write_pages(command, dir, &mut pages)?;
    let text = format!("{} man pages in {}", pages.len(), shown(dir));
    output.print(&text, &json!({ "dir": dir, "pages": pages }))
}

/// Writes the page of a command, then those of its subcommands.
fn write_pages(command: clap::Command, dir: &Path, pages: &mut Vec<String>) -> Result<(), Failure> {
    let subcommands: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    let page = Man::new(command)
        .source(concat!("alambic ", env!("CARGO_PKG_VERSION")))
        .manual("alambic manual");
    let name = page.get_filename();
    write_atomically(&dir.join(&name), |out| page.render(out))?;
    pages.push(name);
    for subcommand in subcommands {
        if subcommand.get_name() != "help" {
            write_pages(subcommand, dir, pages)?;
        }
    }
    Ok(())
}
