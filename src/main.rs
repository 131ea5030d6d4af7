//! The binary: parse, call, print the failure, choose the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use alambic::allocator::{self, MiMalloc};
use alambic::cli::{self, Cli};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    allocator::keep_freed_pages();
    let cli = Cli::parse();
    match cli::execute(&cli, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{}", failure.message.trim_end());
            ExitCode::from(failure.code)
        }
    }
}
