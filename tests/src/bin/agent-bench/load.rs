//! Storms: what is lost, and what the load itself suffers.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::Result;
use serde_json::Value;

use crate::peers;
use crate::run::{Finished, Program, agent};
use crate::table::{Row, Series};

/// An address that nothing else on this machine uses: all loopbacks look alike to `--all`.
fn address() -> String {
    let pid = std::process::id();
    format!("127.{}.{}.1", 100 + pid / 256 % 100, pid % 256)
}

pub fn total(end: &Value, name: &str) -> i64 {
    end["totals"][name].as_i64().unwrap_or(-1)
}

fn watch(address: &str) -> Vec<OsString> {
    agent(&["watch", "--no-tui", "--all", "--dst", address])
}

pub fn paced() -> Result<Vec<Row>> {
    const ROUNDS: usize = 3;
    const EACH: u64 = 100_000;
    let ns = Ns::new("bench")?;
    let storm = Workload::start(&ns);
    let at = address();
    let (mut lost_counts, mut lost_detail) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        let mut program = Program::start(&ns, &watch(&at))?;
        program.poke_until("\"type\":\"session\"", || {})?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        let before = ns.snmp()?;
        storm.call(&format!("rawstorm {at}:7 {at}:9 {EACH} 40000"));
        let truth = ns.snmp()?.since(&before, "Tcp.OutRsts");
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (_, finished) = program.interrupt()?;
        let end = finished.end()?;
        lost_counts.push((truth - total(&end, "resets_sent")) as f64);
        lost_detail.push((truth - finished.lines_with("\"type\":\"reset\"")? as i64) as f64);
    }
    Ok(vec![Row {
        figure: "40,000 resets/s paced",
        measured: format!(
            "lost in counts {}, in detail {} of {EACH}",
            lost_counts.text("", 0),
            lost_detail.text("", 0)
        ),
        goal: "0 lost, in detail and in counts",
        met: Some(lost_counts.median() == 0.0 && lost_detail.median() == 0.0),
    }])
}

/// Seconds that a storm of refused connections takes, at `rate` a second or, with 0, at full speed.
pub fn refused(storm: &Workload, at: &str, rounds: u64, rate: u64) -> f64 {
    /// Longer than a test's: under bpftrace a round can take more than 80 µs, and 300,000 of them 25 s.
    const PATIENCE: Duration = Duration::from_secs(300);
    let begun = Instant::now();
    storm.call_within(&format!("storm {at}:9 {rounds} {rate}"), PATIENCE);
    begun.elapsed().as_secs_f64()
}

pub fn full_speed() -> Result<Vec<Row>> {
    /// The load alone is up to twice as fast in one second as in another: many rounds, each compared within itself.
    const ROUNDS: usize = 15;
    const EACH: u64 = 75_000;
    let ns = Ns::new("bench")?;
    let storm = Workload::start(&ns);
    let at = address();
    let (mut bare, mut ours, mut peer) = (Series::default(), Series::default(), Series::default());
    let (mut to_bare, mut to_peer) = (Series::default(), Series::default());
    let (mut wrong, mut lost, mut unaccounted) = (Series::default(), Series::default(), Series::default());
    let loaded = |program: Program| -> Result<(f64, i64, Finished)> {
        let before = ns.snmp()?;
        let took = refused(&storm, &at, EACH, 0);
        let truth = ns.snmp()?.since(&before, "Tcp.OutRsts");
        std::thread::sleep(std::time::Duration::from_millis(500));
        Ok((took, truth, program.interrupt()?.1))
    };
    for _ in 0..ROUNDS {
        let alone = refused(&storm, &at, EACH, 0);
        bare.push(EACH as f64 / alone);
        let mut program = Program::start(&ns, &watch(&at))?;
        // Its first line comes when everything is attached: from here on it must see every round.
        program.poke_until("\"type\":\"session\"", || {})?;
        let (took, truth, finished) = loaded(program)?;
        ours.push(EACH as f64 / took);
        to_bare.push(alone / took);
        let end = finished.end()?;
        let seen = total(&end, "resets_sent");
        wrong.push(((total(&end, "resets_received") - truth).abs() + (seen - truth).abs()) as f64);
        let lines = (finished.lines_with("\"type\":\"reset\"")? + finished.lines_with("\"type\":\"state\"")?) as i64;
        // Per round: a RST sent, one received, CLOSE → SYN_SENT → CLOSE.
        let events = seen * 4;
        lost.push((events - lines) as f64 / events as f64 * 100.0);
        unaccounted.push((events - lines - total(&end, "lost")).max(0) as f64);
        if let Some(words) = peers::bpftrace_events() {
            let mut program = Program::start(&ns, &words)?;
            program.poke_until("reset ", || {
                storm.call(&format!("storm {at}:9 1 0"));
            })?;
            let its = loaded(program)?.0;
            peer.push(EACH as f64 / its);
            to_peer.push(its / took);
        }
    }
    let under_peer = if peer.median().is_nan() {
        String::new()
    } else {
        format!("; {} that under bpftrace {}", to_peer.text("x", 2), peer.text("/s", 0))
    };
    Ok(vec![
        Row {
            figure: "reset storm at full speed: the load's speed",
            measured: format!(
                "{}; round by round {} that with nothing attached {}{under_peer}",
                ours.text("/s", 0),
                to_bare.text("x", 2),
                bare.text("/s", 0)
            ),
            goal: "≥ 0.85 x with nothing attached, ≥ 1.5 x under bpftrace",
            met: Some(to_bare.median() >= 0.85 && (to_peer.median().is_nan() || to_peer.median() >= 1.5)),
        },
        Row {
            figure: "reset storm at full speed: counts",
            measured: format!("{} off", wrong.text("", 0)),
            goal: "exact",
            met: Some(wrong.median() == 0.0),
        },
        Row {
            figure: "reset storm at full speed: detail lost",
            measured: format!("{}; not accounted for {}", lost.text("%", 2), unaccounted.text("", 0)),
            goal: "≤ 0.1 %, accounted to the last event",
            met: Some(lost.median() <= 0.1 && unaccounted.median() == 0.0),
        },
    ])
}
