//! Running other programs: what is run is said first, a failure names the command.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A headline on stderr: stdout belongs to the program that `run` starts.
pub fn say(text: impl std::fmt::Display) {
    eprintln!("==> {text}");
}

/// The cargo that started xtask, in the workspace.
pub fn cargo() -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.current_dir(workspace::root());
    for name in left_by_cargo() {
        c.env_remove(name);
    }
    c
}

/// Runs to the end with the caller's terminal; an exit code other than 0 is an error.
pub fn must(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// What a program prints on stdout, or None where it cannot run or fails.
pub fn output(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

/// `program args...` for messages.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The effective user is root.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

/// The program as root: itself if this is root already, else through sudo. Without a terminal sudo does not ask for a
/// password but fails.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let program = program.as_ref();
    if is_root() {
        return Ok(Command::new(program));
    }
    if find("sudo").is_none() {
        bail!("`{}` needs root, and sudo is not installed; run this command as root", program.to_string_lossy());
    }
    let mut c = Command::new("sudo");
    if !std::io::stdin().is_terminal() {
        c.arg("-n");
    }
    c.arg(program);
    Ok(c)
}

/// A program on PATH, or where Debian keeps the administrator's (`nft`, `nginx`), which a user's PATH often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(also).map(|d| d.join(program)).find(|p| p.is_file())
}

/// Variables that cargo sets for the program it runs: a cargo below, or the agent, must not take them for its own.
pub fn left_by_cargo() -> Vec<OsString> {
    let ours = |name: &str| {
        name == "CARGO"
            || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| name.starts_with(p))
    };
    std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(ours)).collect()
}

/// `LD_LIBRARY_PATH` as the user had it: cargo puts its own folders in front.
pub fn library_path() -> Option<OsString> {
    let inherited = std::env::var_os("LD_LIBRARY_PATH")?;
    let target = workspace::target();
    let of_cargo = |d: &Path| d.starts_with(&target) || d.components().any(|c| c.as_os_str() == "toolchains");
    let kept: Vec<_> = std::env::split_paths(&inherited).filter(|d| !of_cargo(d)).collect();
    if kept.is_empty() { None } else { std::env::join_paths(kept).ok() }
}
