//! What an event costs: in the kernel, and until it is printed.

use std::collections::BTreeMap;
use std::fs;

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::{Context, Result};

use crate::run::{Program, agent};
use crate::table::{Row, Series};
use crate::{load, peers};

const ROUNDS: usize = 5;
const EVENTS: u64 = 20_000;
const RATE: u64 = 10_000;
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Turns the kernel's run statistics on while it lives.
struct Statistics(String);

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS).with_context(|| format!("cannot read {STATS}"))?;
        fs::write(STATS, "1").with_context(|| format!("cannot write {STATS}"))?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(STATS, self.0.trim());
    }
}

/// Runs and nanoseconds of each program that a process holds, by program id.
fn programs(pid: u32) -> Result<BTreeMap<u64, (u64, u64)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let of = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(ns), Some(runs)) = (of("prog_id"), of("run_time_ns"), of("run_cnt")) {
            all.insert(id, (runs, ns));
        }
    }
    Ok(all)
}

/// Nanoseconds per run over the programs that ran for at least half of the storm's rounds.
fn per_run(ns: &Ns, storm: &Workload, args: &[&str]) -> Result<f64> {
    let mut watch = Program::start(ns, &agent(args))?;
    watch.poke_until("\"type\":\"session\"", || {})?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = programs(watch.pid())?;
    load::refused(storm, "127.0.0.1", EVENTS, RATE);
    let (mut runs, mut nanoseconds) = (0, 0);
    for (id, (r, n)) in programs(watch.pid())? {
        let (r0, n0) = before.get(&id).copied().unwrap_or_default();
        // Provenance looks at packets, not at events, and has a figure of its own.
        if r - r0 >= EVENTS / 2 {
            runs += r - r0;
            nanoseconds += n - n0;
        }
    }
    watch.interrupt()?;
    anyhow::ensure!(runs > 0, "no program of the agent ran");
    Ok(nanoseconds as f64 / runs as f64)
}

pub fn nanoseconds() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    let (storm, other) = (Workload::start(&ns), Workload::start(&ns));
    let _statistics = Statistics::on()?;
    let (mut matching, mut strange, mut elsewhere) = (Series::default(), Series::default(), Series::default());
    for _ in 0..ROUNDS {
        let all = ["watch", "--no-tui", "--no-provenance", "--all", "--dst", "127.0.0.1"];
        matching.push(per_run(&ns, &storm, &all)?);
        let pid = other.pid().to_string();
        strange.push(per_run(&ns, &storm, &["watch", "--no-tui", "--no-provenance", "--pid", &pid])?);
        let pid = storm.pid().to_string();
        let elsewhere_args = ["watch", "--no-tui", "--no-provenance", "--pid", &pid, "--dst", "127.9.9.9"];
        elsewhere.push(per_run(&ns, &storm, &elsewhere_args)?);
    }
    let row =
        |figure, s: &Series, goal, most| Row { figure, measured: s.text("ns", 0), goal, met: Some(s.median() <= most) };
    Ok(vec![
        row("BPF ns per matching event, full record", &matching, "≤ 400", 400.0),
        row("BPF ns per event of another process", &strange, "≤ 150", 150.0),
        row("BPF ns per event of another destination", &elsewhere, "≤ 150", 150.0),
    ])
}

/// What one printed event costs the printing process, in µs: in user space, and with its system calls.
#[derive(Default)]
struct Printed {
    user: Series,
    whole: Series,
}

impl Printed {
    fn push(&mut self, (user, whole): (f64, f64)) {
        self.user.push(user);
        self.whole.push(whole);
    }
}

/// A load under which printing is measured: its events, how many a second (0 is full speed), how often. The kernel tells
/// user from system time by its tick, 250 times a second: of the 200 ticks of one round a tenth may be called wrongly.
const PRINTED: [(u64, u64, usize, [&str; 2]); 2] = [
    (
        300_000,
        0,
        7,
        ["user CPU per printed event, at full speed", "the same with its system calls (user and system CPU)"],
    ),
    (100_000, RATE, 5, ["user CPU per printed event, at 40,000 a second", "the same with its system calls"]),
];

pub fn cpu_per_line() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    let storm = Workload::start(&ns);
    let ours = agent(&["watch", "--no-tui", "--all", "--dst", "127.0.0.1"]);
    // With what our lines tell of an event, and in few words: the goal is held to the cheaper one.
    let (peer, brief) = (peers::bpftrace_facts(), peers::bpftrace_events());
    let mut rows = Vec::new();
    for (events, rate, rounds, figures) in PRINTED {
        let once = |words: &[std::ffi::OsString], marks: [&str; 2]| -> Result<(f64, f64)> {
            let mut program = Program::start(&ns, words)?;
            program.poke_until(marks[0], || {
                storm.call("storm 127.0.0.1:9 1 0");
            })?;
            load::refused(&storm, "127.0.0.1", events, rate);
            let (cost, finished) = program.interrupt()?;
            let lines = finished.lines_with(marks[0])? + finished.lines_with(marks[1])?;
            anyhow::ensure!(lines >= events, "only {lines} lines: {}", finished.errors);
            let each = |seconds: f64| seconds / lines as f64 * 1e6;
            Ok((each(cost.user), each(cost.user + cost.system)))
        };
        let (mut a, mut b, mut c) = (Printed::default(), Printed::default(), Printed::default());
        for _ in 0..rounds {
            a.push(once(&ours, ["\"type\":\"reset\"", "\"type\":\"state\""])?);
            for (words, to) in [(&peer, &mut b), (&brief, &mut c)] {
                if let Some(words) = words {
                    to.push(once(words, ["reset ", "state "])?);
                }
            }
        }
        let text = |a: &Series, b: &Series, c: &Series| match peer {
            Some(_) => format!(
                "{}; bpftrace with the same facts {}; {:.2} x; with ports and one address only {}; {:.2} x",
                a.text("µs", 2),
                b.text("µs", 2),
                a.ratio_to(b),
                c.text("µs", 2),
                a.ratio_to(c)
            ),
            None => a.text("µs", 2),
        };
        let ([user, whole], goal) = (figures, "≤ 0.2 x bpftrace's printf");
        let met = brief.as_ref().map(|_| a.user.ratio_to(&c.user) <= 0.2);
        rows.push(Row { figure: user, measured: text(&a.user, &b.user, &c.user), goal, met });
        rows.push(Row { figure: whole, measured: text(&a.whole, &b.whole, &c.whole), goal: "-", met: None });
    }
    Ok(rows)
}
