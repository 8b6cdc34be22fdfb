//! The one place that knows every module: which command runs what, and how its outcome becomes an exit code.

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::commands;
use crate::config::{self, Platform, UsageError};

mod child;
pub mod privileges;
mod probe;
mod signals;
mod watch;

/// Wrong words on the command line, as clap's own.
const USAGE: u8 = 2;

pub fn run(cli: Cli) -> ExitCode {
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            // One line, causes joined: never a backtrace.
            eprintln!("agent: {e:#}");
            ExitCode::from(if e.is::<UsageError>() { USAGE } else { 1 })
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Watch(args) => watch::run(config::watch(args, platform())?),
        Command::Run(args) => watch::run(config::run(args, platform())?),
        Command::Limits(args) => commands::limits::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Keepalive(args) => commands::keepalive::run(args),
        Command::Guard(args) => commands::guard::run(args),
        Command::Close(args) => commands::close::run(args),
        Command::Sockets(args) => commands::sockets::run(args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Replay(args) => {
            let p = platform();
            let screen = p.stdin_is_terminal && p.stdout_is_terminal && p.terminal_is_capable;
            commands::replay::run(&args, screen, signals::stop_flag)
        }
        Command::Diff(args) => commands::diff::run(&args),
        Command::Schema => commands::schema::run(),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Man(args) => commands::man::run(&args),
    }
}

fn platform() -> Platform {
    use std::io::IsTerminal;
    Platform {
        stdin_is_terminal: std::io::stdin().is_terminal(),
        stdout_is_terminal: std::io::stdout().is_terminal(),
        terminal_is_capable: std::env::var_os("TERM").is_some_and(|t| !t.is_empty() && t != "dumb"),
    }
}
