//! The one place that knows every module.

use std::process::ExitCode;

use crate::cli::Cli;

pub fn run(cli: Cli) -> ExitCode {
    eprintln!("agent: not wired yet: {cli:?}");
    ExitCode::FAILURE
}
