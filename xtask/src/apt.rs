//! Debian's packages: what is offered, and how it is installed. Nothing here runs when nothing is missing.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{as_root, find, line, must, output, say};

/// This machine installs packages with apt.
pub fn present() -> bool {
    find("apt-get").is_some() && find("dpkg").is_some()
}

/// apt would install every one of these. The package lists are fetched if they hold not even one of them (a fresh
/// image has none at all).
pub fn offers(packages: &[&str]) -> Result<bool> {
    if !present() {
        return Ok(false);
    }
    if packages.iter().all(|p| candidate(p)) {
        return Ok(true);
    }
    // Lists that are there and fresh know what they do not offer: do not fetch them on every run.
    if lists_are_older_than_a_day() {
        update()?;
    }
    Ok(packages.iter().all(|p| candidate(p)))
}

fn candidate(package: &str) -> bool {
    let policy = output("apt-cache", &["policy", package]).unwrap_or_default();
    has_candidate(&policy)
}

/// `apt-cache policy` prints nothing for an unknown package and `Candidate: (none)` for one that it cannot install.
fn has_candidate(policy: &str) -> bool {
    policy.lines().any(|l| l.trim().strip_prefix("Candidate:").is_some_and(|c| c.trim() != "(none)"))
}

fn lists_are_older_than_a_day() -> bool {
    let lists = Path::new("/var/lib/apt/lists");
    let holds_any = std::fs::read_dir(lists)
        .map(|d| d.flatten().any(|e| e.file_name().to_string_lossy().contains("_Packages")))
        .unwrap_or(false);
    let age = lists.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    !holds_any || age.is_none_or(|a| a.as_secs() > 24 * 3600)
}

fn update() -> Result<()> {
    say("fetching apt's package lists");
    must(apt_get()?.args(["-qq", "update"]))
}

/// Installs the packages; `why` is said to the user first.
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    say(format_args!("installing with apt, {why}: {}", packages.join(" ")));
    let mut command = apt_get()?;
    // --no-remove: a package that would push out one of the user's own is an error, not a surprise.
    command.args(["-qq", "-y", "--no-install-recommends", "--no-remove", "-o", "Dpkg::Use-Pty=0", "install"]);
    // What dpkg unpacks is noise; errors come on stderr.
    command.args(packages).stdout(Stdio::null());
    let status = command.status().with_context(|| format!("cannot run `{}`", line(&command)))?;
    if status.success() {
        return Ok(());
    }
    // Lists from yesterday may name files that the mirror has replaced.
    update()?;
    if !command.status().is_ok_and(|s| s.success()) {
        bail!("`{}` failed; install these packages by hand and run this again", line(&command));
    }
    Ok(())
}

/// apt-get as root that asks nothing. `env`: sudo drops the environment.
fn apt_get() -> Result<Command> {
    let mut c = as_root("env")?;
    c.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::has_candidate;

    #[test]
    fn a_candidate_is_a_version() {
        assert!(has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n"));
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
