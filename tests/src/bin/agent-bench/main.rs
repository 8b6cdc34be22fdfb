//! The product's figures on this machine, beside its peers on the same work: interleaved in one run, medians with
//! their spread, as ratios. Prints Markdown. Needs root; `cargo xtask bench` builds and starts it.

mod events;
mod idle;
mod inventory;
mod load;
mod long;
mod peers;
mod retransmit;
mod run;
mod slowdown;
mod start;
mod table;
mod tracers;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::table::Row;

/// Names a figure and measures its rows.
type Figure = (&'static str, fn() -> Result<Vec<Row>>);

/// Measured only when named: it takes half an hour.
const LONG: &str = "long";

const FIGURES: [Figure; 11] = [
    ("start", start::first_event),
    ("idle", idle::idle),
    ("event", events::nanoseconds),
    ("print", events::cpu_per_line),
    ("paced", load::paced),
    ("storm", load::full_speed),
    ("tracers", tracers::others),
    ("retransmit", retransmit::retransmits),
    ("sockets", inventory::inventory),
    ("slowdown", slowdown::request_response),
    (LONG, long::mixed),
];

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "it traces the kernel: run it as root (cargo xtask bench does)");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let known = FIGURES.map(|f| f.0);
    if let Some(unknown) = wanted.iter().find(|w| !known.contains(&w.as_str())) {
        bail!("there is no figure '{unknown}'; there are {}", known.join(", "));
    }
    let chosen = FIGURES.iter().filter(|f| (wanted.is_empty() && f.0 != LONG) || wanted.iter().any(|w| w == f.0));
    with_tracefs()?;
    let mut rows = Vec::new();
    for (name, measure) in chosen {
        eprintln!("==> {name}");
        rows.extend(measure()?);
    }
    print!("{}", table::markdown(&rows));
    Ok(())
}

/// Mounts tracefs where only this process and its children see it: peers need it, and not every machine has it mounted.
fn with_tracefs() -> Result<()> {
    const TRACEFS: &str = "/sys/kernel/tracing";
    if std::path::Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    // SAFETY: a mount namespace of its own shares no memory or descriptors anew; no other thread runs yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("cannot make a mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mounts private")?;
    mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None).with_context(|| format!("cannot mount {TRACEFS}"))
}
