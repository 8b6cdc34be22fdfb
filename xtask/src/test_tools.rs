//! What the end-to-end tests need beside the agent: the network's tools and real clients. One list each; add to them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{find, must, output, say};
use crate::{apt, workspace};

/// (program, Debian package)
const PROGRAMS: [(&str, &str); 11] = [
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("prlimit", "util-linux"),
    ("setpriv", "util-linux"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("tmux", "tmux"),
    ("python3", "python3"),
    ("node", "nodejs"),
];
/// Python clients: (module, what pip installs).
const PYTHON: [(&str, &str); 2] = [("requests", "requests==2.34.2"), ("httpx", "httpx==0.28.1")];

/// The environment by which the tests find their tools.
pub type Variables = Vec<(&'static str, OsString)>;

/// Installs what is missing.
pub fn ensure() -> Result<Variables> {
    programs(&PROGRAMS.map(|p| p.0))?;
    // The tests call `python3`. sudo would give root another PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = python()?.parent().map(Path::to_owned);
    let path = std::env::join_paths(first.into_iter().chain(std::env::split_paths(&path)))?;
    Ok(vec![("PATH", path)])
}

/// Installs those of the programs that are missing.
pub fn programs(wanted: &[&str]) -> Result<()> {
    let wanted = PROGRAMS.iter().filter(|(program, _)| wanted.contains(program));
    let missing: Vec<&(&str, &str)> = wanted.filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|m| m.0).collect();
    let packages: Vec<&str> = missing.iter().map(|m| m.1).collect();
    if !apt::offers(&packages)? {
        bail!("the tests need {}, which apt does not offer here; install them and run this again", names.join(", "));
    }
    let _quiet = NoServices::start(names.contains(&"nginx"))?;
    apt::install(&packages, "for the tests")
}

/// While this lives, packages start no service: the tests run their own nginx and want none on port 80.
struct NoServices {
    policy: Option<PathBuf>,
}

impl NoServices {
    fn start(needed: bool) -> Result<Self> {
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        if !needed || policy.exists() {
            return Ok(Self { policy: None });
        }
        let source = workspace::cache().join("policy-rc.d");
        std::fs::create_dir_all(workspace::cache())?;
        // 101: «forbidden», as invoke-rc.d defines it.
        std::fs::write(&source, "#!/bin/sh\nexit 101\n")
            .with_context(|| format!("cannot write {}", source.display()))?;
        must(crate::process::as_root("install")?.args(["-m", "755"]).arg(&source).arg(&policy))?;
        Ok(Self { policy: Some(policy) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let Some(policy) = &self.policy else { return };
        let removed = crate::process::as_root("rm").and_then(|mut rm| must(rm.arg("-f").arg(policy)));
        if let Err(e) = removed {
            eprintln!("warning: {e:#}: remove {} by hand, it keeps packages from starting services", policy.display());
        }
        // Nor at the next boot. Without systemd there is nothing to switch off.
        if Path::new("/run/systemd/system").exists() {
            let disabled = crate::process::as_root("systemctl")
                .and_then(|mut c| must(c.args(["--quiet", "disable", "nginx.service"])));
            if let Err(e) = disabled {
                eprintln!("warning: {e:#}");
            }
        }
    }
}

/// An interpreter that has the clients: the system's if it has them, else one in the target folder.
fn python() -> Result<PathBuf> {
    let imports = PYTHON.map(|(module, _)| format!("import {module}")).join("; ");
    let has = |python: &Path| output(python, &["-c", &imports]).is_some();
    let venv = workspace::cache().join("python");
    let ours = venv.join("bin/python3");
    let system = find("python3").context("python3 is not installed")?;
    if has(&ours) {
        return Ok(ours);
    }
    // A version manager's shim needs its user's settings: take what it leads to.
    let real = output(&system, &["-c", "import sys; print(sys.executable)"]).map(|p| PathBuf::from(p.trim()));
    if let Some(real) = real.filter(|p| has(p)) {
        return Ok(real);
    }
    let wanted: Vec<&str> = PYTHON.iter().map(|p| p.1).collect();
    say(format_args!("installing Python clients for the tests into {}: {}", venv.display(), wanted.join(" ")));
    if output(&system, &["-c", "import ensurepip, venv"]).is_none() {
        apt::install(&["python3-venv"], "for the tests")?;
    }
    must(Command::new(&system).args(["-m", "venv"]).arg(&venv))?;
    must(Command::new(&ours).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(&wanted))
        .context("cannot install the Python clients; with network access to the package index this works")?;
    if !has(&ours) {
        bail!("{} lacks {} although pip installed them", ours.display(), wanted.join(", "));
    }
    Ok(ours)
}
