//! From the start of the process to the first event on its output.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::Result;

use crate::peers;
use crate::run::{Program, agent};
use crate::table::{Row, Series};

const ROUNDS: usize = 10;

pub fn first_event() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    let busy = Workload::start(&ns);
    // A RST every millisecond, all through the runs: the wait for one is no part of the start.
    busy.begin("storm 127.0.0.1:9 1000000 1000");
    let ours = agent(&["watch", "--no-tui", "--pid", &busy.pid().to_string()]);
    let peer = peers::bpftrace_resets();
    let (mut a, mut b) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        a.push(once(&ns, &ours, "\"type\":\"reset\"")?);
        if let Some(peer) = &peer {
            b.push(once(&ns, peer, "reset received")?);
        }
    }
    let ratio = a.ratio_to(&b);
    let measured = match peer {
        Some(_) => format!("{}; bpftrace {}; {ratio:.2} x", a.text("s", 3), b.text("s", 3)),
        None => a.text("s", 3),
    };
    Ok(vec![Row {
        figure: "process start → first event",
        measured,
        goal: "≤ 0.15 s and ≤ 0.4 x bpftrace",
        met: Some(a.median() <= 0.15 && (peer.is_none() || ratio <= 0.4)),
    }])
}

fn once(ns: &Ns, words: &[OsString], event: &str) -> Result<f64> {
    let begun = Instant::now();
    let mut program = Program::start(ns, words)?;
    while program.lines_with(event)? == 0 {
        program.still_runs()?;
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "no event within 30 s of {words:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed().as_secs_f64();
    program.interrupt()?;
    Ok(took)
}
