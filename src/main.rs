//! The binary: parse, call, print the failure, choose the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use alambic::cli::{self, Cli};
use clap::Parser;

/// Large tensors come and go at every step; the system's allocator gives their pages back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli::execute(&cli, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{}", failure.message.trim_end());
            ExitCode::from(failure.code)
        }
    }
}
