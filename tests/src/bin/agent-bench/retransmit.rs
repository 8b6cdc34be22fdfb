//! A storm of retransmits: thousands of connections whose segments all vanish at once, so that their retransmission
//! timers run out together, again and again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::{Result, ensure};

use crate::load::total;
use crate::run::{Program, agent};
use crate::table::{Row, Series};

const ROUNDS: usize = 3;
const STORMS: usize = 4;
const CONNECTIONS: usize = 18_000;
const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Least retransmission timeout, microseconds: the first three (50, 100, 200 ms) fall into one storm.
const RTO_MIN_US: u32 = 50_000;
/// How long nothing gets through.
const STORM: Duration = Duration::from_millis(500);

pub fn retransmits() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    ns.sysctl("net.ipv4.ip_local_port_range", "1025 64000")?;
    // From 6.11 on. Before that it is 200 ms, the storm a third as dense, and the table says so.
    let _ = ns.sysctl("net.ipv4.tcp_rto_min_us", RTO_MIN_US);
    let (client, server) = (Workload::start(&ns), Workload::start(&ns));
    server.serve(AT, "manual");
    client.call(&format!("pool {AT} {CONNECTIONS}"));
    let (mut rate, mut off, mut missed) = (Series::default(), Series::default(), Series::default());
    let (mut unaccounted, mut lost) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        let pid = client.pid().to_string();
        let mut program = Program::start(&ns, &agent(&["watch", "--no-tui", "--no-provenance", "--pid", &pid]))?;
        program.poke_until("\"type\":\"session\"", || {})?;
        std::thread::sleep(Duration::from_secs(1));
        let before = ns.snmp()?;
        for _ in 0..STORMS {
            let calm = ns.snmp()?;
            ns.nft("table inet storm { chain in { type filter hook input priority 0; tcp dport 8080 drop; }; }")?;
            let begun = Instant::now();
            client.call("tap");
            std::thread::sleep(STORM.saturating_sub(begun.elapsed()));
            rate.push(ns.snmp()?.since(&calm, "Tcp.RetransSegs") as f64 / begun.elapsed().as_secs_f64());
            ns.nft("delete table inet storm")?;
            settle(&ns)?;
        }
        let truth = ns.snmp()?.since(&before, "Tcp.RetransSegs") as f64;
        let (_, finished) = program.interrupt()?;
        let end = finished.end()?;
        let lines = finished.lines_with("\"type\":\"retransmit\"")? as f64;
        off.push((total(&end, "retransmits") as f64 - truth).abs() / truth * 100.0);
        missed.push(end["recursion_misses"].as_f64().unwrap_or(0.0) / truth * 100.0);
        lost.push((truth - lines).max(0.0) / truth * 100.0);
        unaccounted.push((truth - lines - total(&end, "lost") as f64).abs() / truth * 100.0);
    }
    Ok(vec![Row {
        figure: "retransmit storm",
        measured: format!(
            "{}; counts {} off the kernel's; detail lost {}, printed and counted as lost {} off the kernel's; recursion \
             misses {}",
            rate.text("segments/s", 0),
            off.text("%", 2),
            lost.text("%", 2),
            unaccounted.text("%", 2),
            missed.text("%", 3)
        ),
        goal: "≥ 50,000/s; within 2 %; misses ≤ 0.1 %",
        met: Some(
            rate.median() >= 50_000.0 && off.median() <= 2.0 && unaccounted.median() <= 2.0 && missed.median() <= 0.1,
        ),
    }])
}

/// Waits until nothing is retransmitted any more: every timer has run out once after the rule went.
fn settle(ns: &Ns) -> Result<()> {
    // Longer than the longest timeout that a storm leaves behind.
    const QUIET: Duration = Duration::from_secs(3);
    let begun = Instant::now();
    let mut last = ns.snmp()?;
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(200));
        let now = ns.snmp()?;
        if now.since(&last, "Tcp.RetransSegs") != 0 {
            since = Instant::now();
        }
        last = now;
        ensure!(begun.elapsed() < Duration::from_secs(30), "the connections do not recover");
    }
    Ok(())
}
