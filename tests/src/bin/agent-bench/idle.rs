//! What a watch costs when nothing happens.

use std::fs;
use std::time::Duration;

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::{Context, Result};

use crate::run::{Program, agent};
use crate::table::Row;

/// Long enough that one tick of the clock is 0.05 % of it.
const LOOK: Duration = Duration::from_secs(20);

pub fn idle() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    let quiet = Workload::start(&ns);
    quiet.serve("127.0.0.1:8080".parse()?, "echo");
    let c = quiet.connect("127.0.0.1:8080".parse()?);
    quiet.call(&format!("ask {} 100", c.id));
    let mut watch = Program::start(&ns, &agent(&["watch", "--no-tui", "--pid", &quiet.pid().to_string()]))?;
    watch.poke_until("\"type\":\"session\"", || {})?;
    std::thread::sleep(Duration::from_secs(2));
    let before = (cpu(watch.pid())?, switches(watch.pid())?);
    std::thread::sleep(LOOK);
    let after = (cpu(watch.pid())?, switches(watch.pid())?);
    let rss = status(watch.pid(), "VmRSS:")? as f64 / 1024.0;
    watch.interrupt()?;
    let share = (after.0 - before.0) / LOOK.as_secs_f64() * 100.0;
    let wakes = (after.1 - before.1) as f64 / LOOK.as_secs_f64();
    let row = |figure, measured, goal, met| Row { figure, measured, goal, met: Some(met) };
    Ok(vec![
        row("RSS, default ring", format!("{rss:.1} MiB"), "≤ 20 MiB", rss <= 20.0),
        row("idle CPU", format!("{share:.3} % of a core over {} s", LOOK.as_secs()), "≤ 0.1 %", share <= 0.1),
        row("idle wake-ups", format!("{wakes:.1} /s"), "≤ 10/s", wakes <= 10.0),
    ])
}

/// Seconds of CPU used.
fn cpu(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in tasks(pid)? {
        let text = fs::read_to_string(format!("{task}/schedstat"))?;
        nanoseconds += text.split(' ').next().and_then(|w| w.parse::<f64>().ok()).context("no schedstat")?;
    }
    Ok(nanoseconds / 1e9)
}

/// Voluntary context switches of all threads: each is a wake-up.
fn switches(pid: u32) -> Result<u64> {
    let mut all = 0;
    for task in tasks(pid)? {
        all += number(&format!("{task}/status"), "voluntary_ctxt_switches:")?;
    }
    Ok(all)
}

pub fn status(pid: u32, name: &str) -> Result<u64> {
    number(&format!("/proc/{pid}/status"), name)
}

fn tasks(pid: u32) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        all.push(entry?.path().display().to_string());
    }
    Ok(all)
}

fn number(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| format!("{path} has no {name}"))?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}
