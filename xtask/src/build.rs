//! `build` and `run`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::process::{as_root, cargo, is_root, left_by_cargo, library_path, must};
use crate::{setup, take_flags, workspace};

pub fn command(mut args: Vec<String>) -> Result<ExitCode> {
    let flags = take_flags(&mut args, &["--release"])?;
    if let Some(word) = args.first() {
        bail!("`build` takes no argument, but '{word}' was given");
    }
    let release = !flags.is_empty();
    setup::for_building()?;
    build(release)?;
    println!("{}", workspace::agent(release).display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the agent as the calling user.
pub fn build(release: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--package", "agent"]);
    if release {
        command.arg("--release");
    }
    must(&mut command)
}

/// Becomes the agent: its exit code is ours, signals reach it, the terminal is its own.
pub fn run(args: Vec<String>) -> Result<ExitCode> {
    let (debug, args) = split(args);
    setup::for_building()?;
    build(!debug)?;
    let agent = workspace::agent(!debug);
    let mut command = if is_root() { Command::new(&agent) } else { through_sudo(&agent)? };
    for name in left_by_cargo() {
        command.env_remove(name);
    }
    match library_path() {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", agent.display()))
}

fn through_sudo(agent: &std::path::Path) -> Result<Command> {
    let mut command = as_root("env")?;
    command.args(user_wishes()).arg(agent);
    Ok(command)
}

/// `NAME=VALUE` words for `env`: sudo drops the environment, but these are the user's wishes for the output.
pub fn user_wishes() -> Vec<OsString> {
    let names = ["NO_COLOR", "COLORTERM", "RUST_LOG", "RUST_BACKTRACE", "XDG_STATE_HOME", "XDG_CONFIG_HOME"];
    let assignment = |name: &str| {
        let mut word = OsString::from(format!("{name}="));
        word.push(std::env::var_os(name)?);
        Some(word)
    };
    names.into_iter().filter_map(assignment).collect()
}

/// xtask's own `--debug`, before the agent's arguments, and the `--` that may part them.
fn split(mut args: Vec<String>) -> (bool, Vec<String>) {
    let debug = args.first().is_some_and(|a| a == "--debug");
    if debug {
        args.remove(0);
    }
    if args.first().is_some_and(|a| a == "--") {
        args.remove(0);
    }
    (debug, args)
}

#[cfg(test)]
mod tests {
    use super::split;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_agents_arguments_pass_through() {
        assert_eq!(split(words("-- watch --pid 1")), (false, words("watch --pid 1")));
        assert_eq!(split(words("watch --debug")), (false, words("watch --debug")));
        assert_eq!(split(words("--debug run -- curl")), (true, words("run -- curl")));
        assert_eq!(split(words("-- run -- curl")), (false, words("run -- curl")));
    }
}
