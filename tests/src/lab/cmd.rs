//! Running `ip` and `nft`, by full path: a shell's own applets or a short PATH must not come between.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Ns;

const DIRECTORIES: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// Full path of a program.
pub fn tool(name: &str) -> Result<PathBuf> {
    DIRECTORIES
        .iter()
        .map(|d| PathBuf::from(d).join(name))
        .find(|p| p.is_file())
        .with_context(|| format!("cannot find the program '{name}' in {}; install it", DIRECTORIES.join(", ")))
}

/// Runs a program inside a namespace with `input` on its stdin; its stdout, or an error that holds its stderr.
pub fn run_tool(ns: &Ns, name: &str, args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(tool(name)?);
    ns.enter_on_exec(&mut command);
    run(command.args(args), input).with_context(|| format!("in {}: {name} {}\n{input}", ns.name(), args.join(" ")))
}

/// Makes `command` start as an ordinary user. Not `CommandExt::uid`: that acts before the other steps between fork and
/// exec, which need root.
pub fn become_on_exec(command: &mut Command, uid: u32) {
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: three system calls, safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::setresgid(uid, uid, uid))?;
            check(libc::setresuid(uid, uid, uid))
        });
    }
}

fn run(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Taken so that it is closed before the wait. Inputs here are far below a pipe's buffer.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8(out.stdout)?)
}
