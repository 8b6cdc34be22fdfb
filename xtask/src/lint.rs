//! `lint`: formatting, clippy, documentation and licences; every warning is an error.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::process::{cargo, must, say};
use crate::toolchain::{TARGET, Toolchain};
use crate::{licences, setup, workspace};

pub fn command(args: Vec<String>) -> Result<ExitCode> {
    if let Some(word) = args.first() {
        bail!("`lint` takes no argument, but '{word}' was given");
    }
    let toolchain = setup::for_building()?;
    let clippy = setup::clippy_for(&toolchain)?;

    // All of them run, so that one run shows all there is to mend.
    let mut failed = Vec::new();
    let mut step = |name: &'static str, command: &mut Command| {
        say(name);
        if let Err(e) = must(command) {
            eprintln!("{e:#}");
            failed.push(name);
        }
    };
    step("formatting", cargo().args(["fmt", "--all", "--check"]));
    step(
        "clippy",
        cargo().args(["clippy", "--workspace", "--exclude", "agent-ebpf", "--all-targets", "--", "-D", "warnings"]),
    );
    step("clippy of the kernel programs", &mut kernel_clippy(&toolchain, &clippy));
    step(
        "documentation",
        cargo()
            .args(["doc", "--workspace", "--exclude", "agent-ebpf", "--no-deps", "--document-private-items", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    );
    say("licences");
    if let Err(e) = licences::check() {
        eprintln!("{e:#}");
        failed.push("licences");
    }
    if failed.is_empty() {
        println!("lint: all clean");
        return Ok(ExitCode::SUCCESS);
    }
    println!("lint: not clean: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// The kernel programs compile for BPF only, so clippy must be the one of the BPF compiler.
fn kernel_clippy(toolchain: &Toolchain, clippy: &std::path::Path) -> Command {
    let mut c = Command::new(clippy.join("cargo-clippy"));
    c.current_dir(workspace::root()).args([
        "clippy",
        "--package",
        "agent-ebpf",
        "--profile",
        "bpf",
        "--target",
        TARGET,
    ]);
    c.arg("--target-dir").arg(workspace::target().join("ebpf-clippy"));
    if toolchain.build_std {
        c.args(["-Z", "build-std=core"]);
    }
    c.args(["--", "-D", "warnings"]);
    toolchain.environment(&mut c);
    // cargo-clippy starts the cargo named here and the clippy-driver beside itself.
    c.env("CARGO", &toolchain.cargo).env_remove("RUSTFLAGS");
    c
}
