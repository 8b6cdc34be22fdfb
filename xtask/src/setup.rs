//! Installs what is missing, says so first, and costs next to nothing when nothing is.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::process::{must, output, say};
use crate::toolchain::{self, Toolchain};
use crate::{apt, linker, take_flags, test_tools};

/// Debian's compiler (a newer one than the release's own, kept for browsers), its cargo, and `core` for BPF.
const DISTRIBUTION: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// clippy for that compiler.
const DISTRIBUTION_CLIPPY: &str = "rust-web-clippy";
const NIGHTLY: &str = "rustup toolchain install nightly --profile minimal --component rust-src";

pub fn command(mut args: Vec<String>) -> Result<ExitCode> {
    let flags = take_flags(&mut args, &["--tests", "--lints", "--install-nightly"])?;
    if let Some(word) = args.first() {
        bail!("`setup` takes no argument, but '{word}' was given");
    }
    let given = |flag: &str| flags.iter().any(|f| f == flag);
    if given("--install-nightly") && toolchain::find().is_none() {
        say(format_args!("running `{NIGHTLY}`"));
        must(Command::new("rustup").args(NIGHTLY.split(' ').skip(1)))?;
    }
    let toolchain = for_building()?;
    if given("--tests") {
        test_tools::ensure()?;
    }
    if given("--lints") {
        clippy_for(&toolchain)?;
    }
    let core = if toolchain.build_std { "core from rust-src" } else { "a precompiled core" };
    println!(
        "ready: {} (LLVM {}, {core}), {}",
        toolchain.rustc.display(),
        toolchain.llvm_major,
        toolchain::bpf_linker().unwrap_or_default().display()
    );
    Ok(ExitCode::SUCCESS)
}

/// A compiler for BPF and a linker that fits it.
pub fn for_building() -> Result<Toolchain> {
    let toolchain = match toolchain::find() {
        Some(found) => found,
        None => install_compiler()?,
    };
    linker::ensure(&toolchain)?;
    Ok(toolchain)
}

fn install_compiler() -> Result<Toolchain> {
    if apt::offers(&DISTRIBUTION)? {
        apt::install(&DISTRIBUTION, "a compiler for BPF beside yours")?;
        if let Some(found) = toolchain::find() {
            return Ok(found);
        }
        bail!("apt installed {}, but /usr/bin/rustc has no core for {}", DISTRIBUTION.join(", "), toolchain::TARGET);
    }
    bail!(
        "no compiler for BPF on this machine, and its package manager offers none. `{NIGHTLY}` installs one; \
         `cargo xtask setup --install-nightly` runs that for you"
    )
}

/// The folder with the `cargo-clippy` and `clippy-driver` that belong to the BPF compiler.
pub fn clippy_for(toolchain: &Toolchain) -> Result<std::path::PathBuf> {
    let dir = toolchain.rustc.parent().unwrap_or(Path::new("/usr/bin")).to_owned();
    let driver = dir.join("clippy-driver");
    // A clippy of another compiler cannot read this one's precompiled core.
    let fits = |driver: &Path| -> bool {
        let commit =
            |text: Option<String>| text?.lines().find_map(|l| l.strip_prefix("commit-hash: ").map(str::to_owned));
        let of_driver = output(driver, &["--rustc", "-vV"]);
        of_driver.is_some() && commit(of_driver) == commit(output(&toolchain.rustc, &["-vV"]))
    };
    if driver.exists() && fits(&driver) {
        return Ok(dir);
    }
    if toolchain.build_std {
        bail!("{} has no clippy; `rustup component add clippy --toolchain nightly` adds it", toolchain.rustc.display());
    }
    if !apt::offers(&[DISTRIBUTION_CLIPPY])? {
        bail!("apt does not offer {DISTRIBUTION_CLIPPY}, which the lint of the kernel programs needs");
    }
    apt::install(&[DISTRIBUTION_CLIPPY], "to lint the kernel programs")?;
    if !fits(&driver) {
        bail!("{} does not belong to {}", driver.display(), toolchain.rustc.display());
    }
    Ok(dir)
}
