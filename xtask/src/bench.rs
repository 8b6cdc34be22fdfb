//! `bench`: the product's figures beside its peers', written to docs/BENCHMARKS.md.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{as_root, cargo, must, say};
use crate::{apt, build, setup, take_flags, test_tools, workspace};

/// Debian's packages with other programs that watch TCP.
const PEERS: [&str; 4] = ["bpftrace", "bpfcc-tools", "linux-perf", "lsof"];
const INSTALL: &str = "--install-peers";

pub fn command(mut args: Vec<String>) -> Result<ExitCode> {
    let flags = take_flags(&mut args, &[INSTALL])?;
    setup::for_building()?;
    test_tools::programs(&["ip", "nft", "ss"])?;
    if !flags.is_empty() {
        apt::install(&PEERS, "to compare with")?;
    }
    build::build(true)?;
    must(cargo().args(["build", "--quiet", "--release", "--package", "agent-tests", "--bins"]))?;
    let bench = workspace::target().join("release").join("agent-bench");
    say("Measuring: leave the machine alone meanwhile");
    let mut command = as_root("env")?;
    command.arg(format!("AGENT_BIN={}", workspace::agent(true).display())).arg(&bench).args(&args);
    let done =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {}", bench.display()))?;
    if !done.status.success() {
        bail!("the benchmark failed ({})", done.status);
    }
    let table = String::from_utf8_lossy(&done.stdout);
    print!("{table}");
    if args.is_empty() {
        let path = workspace::root().join("docs/BENCHMARKS.md");
        std::fs::write(&path, document(&table)).with_context(|| format!("cannot write {}", path.display()))?;
        say(format!("Written to {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The table with how and where it came to be.
fn document(table: &str) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "# Benchmarks\n\nWritten by `cargo xtask bench`: release build, everything interleaved in one run, medians with \
         the least and the most. Peers run where they are installed (`--install-peers`).\n\n{cores} cores of {model}, \
         Linux {}; load average at the end {load}.\n\n{table}",
        kernel.trim()
    )
}
