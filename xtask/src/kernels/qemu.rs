//! Set-up of what the test machines need on this one: QEMU, installed once, and a static busybox, only unpacked.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::archive::{self, Archive};
use crate::process::{as_root, find, line, output, say};

pub const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
const BUSYBOX: &str = "busybox-static";

/// Installs QEMU if it is missing: this machine's own, or where that would push out installed packages, the one of the
/// release's backports.
pub fn ensure() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the kernels are tested on x86-64 machines only");
    }
    if find(PROGRAM).is_some() {
        return Ok(());
    }
    if !crate::apt::present() {
        bail!("{PROGRAM} is missing and this machine has no apt; install QEMU and run this again");
    }
    say(format_args!("installing with apt, to boot the kernels: {PACKAGE}"));
    // The machine's own lists may be missing altogether, or old: ours are used for both.
    let (main, security) = archive::mirrors()?;
    let release = output("sh", &["-c", ". /etc/os-release && echo $VERSION_CODENAME"]).unwrap_or_default();
    let (own, backports) = (release.trim().to_owned(), format!("{}-backports", release.trim()));
    let mut lines = archive::lines(&main, &[&own, &format!("{own}-updates"), &backports]);
    lines += &security.map_or(String::new(), |s| archive::lines(&s, &[&format!("{own}-security")]));
    let archive = Archive::of("own-release", &lines)?;
    for target in [&own, &backports] {
        let apt = archive.apt("apt-get")?;
        let mut install = as_root("env")?;
        install.arg("DEBIAN_FRONTEND=noninteractive").arg(apt.get_program()).args(apt.get_args());
        // --no-remove: a package that would push out one of the user's own is an error, not a surprise.
        install.args(["-qq", "-y", "--no-install-recommends", "--no-remove", "-o", "Dpkg::Use-Pty=0"]);
        install.args(["-t", target, "install", PACKAGE]);
        match install.output() {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(done) => say(format_args!(
                "the {PACKAGE} of {target} does not go with what is installed here: {}",
                String::from_utf8_lossy(&done.stderr).lines().last().unwrap_or_default()
            )),
            Err(e) => bail!("cannot run `{}`: {e}", line(&install)),
        }
    }
    bail!("apt cannot install {PACKAGE} without removing other packages; install it by hand and run this again")
}

/// A busybox that needs no library, unpacked but not installed: it would push out the ordinary one.
pub fn busybox(archive: &Archive) -> Result<PathBuf> {
    let dir = super::cache().join(BUSYBOX);
    if !dir.exists() {
        archive.unpack(&[BUSYBOX.to_owned()], &dir)?;
    }
    let places = ["bin/busybox", "usr/bin/busybox"].map(|p| dir.join(p));
    match places.into_iter().find(|p| p.exists()) {
        Some(path) => Ok(path),
        None => bail!("the package {BUSYBOX} holds no busybox; remove {} to fetch it anew", dir.display()),
    }
}
