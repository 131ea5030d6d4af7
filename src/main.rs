//! The binary: parse, call, print the failure, choose the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use alambic::allocator::{self, MiMalloc};
use alambic::cli::{self, Cli};
use alambic::progress;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    allocator::keep_freed_pages();
    let cli = Cli::parse();
    match cli::execute(&cli, &mut io::stdout().lock()) {
        Ok(()) => {
            progress::record("done: exit code 0");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let message = failure.message.trim_end();
            progress::record(&anstream::adapter::strip_str(message).to_string());
            progress::record(&format!("ended: exit code {}", failure.code));
            // Colours on a terminal only, unless NO_COLOR or CLICOLOR_FORCE say otherwise.
            let _ = writeln!(anstream::stderr(), "{message}");
            ExitCode::from(failure.code)
        }
    }
}
