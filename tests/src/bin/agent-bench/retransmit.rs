//! A storm of retransmits: many connections over a loopback that loses packets, with small segments.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::Result;

use crate::load::total;
use crate::run::{Program, agent};
use crate::table::{Row, Series};

const ROUNDS: usize = 3;
const CONNECTIONS: usize = 16;
const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Lost packets, per mille. BBR does not slow down for loss below a fifth; cubic would all but stop.
const LOSS: u32 = 180;
/// Sent by each connection.
const BYTES: usize = 16_000_000;

pub fn retransmits() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    // Each lost packet is one small segment, not a batch of 64 KiB.
    ns.ip("link set lo mtu 576 gso_max_segs 1")?;
    // A module on many kernels: without it the storm is smaller, and the table says how large it was.
    let _ = ns.sysctl("net.ipv4.tcp_congestion_control", "bbr");
    let (client, server) = (Workload::start(&ns), Workload::start(&ns));
    server.serve(AT, "sink");
    let (mut rate, mut off, mut missed) = (Series::default(), Series::default(), Series::default());
    for _ in 0..ROUNDS {
        let connections: Vec<_> = (0..CONNECTIONS).map(|_| client.connect(AT)).collect();
        let pid = client.pid().to_string();
        let mut program = Program::start(&ns, &agent(&["watch", "--no-tui", "--no-provenance", "--pid", &pid]))?;
        program.poke_until("\"type\":\"session\"", || {})?;
        std::thread::sleep(Duration::from_millis(500));
        let before = ns.snmp()?;
        ns.nft(&format!(
            "table inet storm {{ chain in {{ type filter hook input priority 0; \
             tcp dport 8080 numgen random mod 1000 < {LOSS} drop; }}; }}"
        ))?;
        let begun = Instant::now();
        let ops: Vec<_> = connections.iter().map(|c| client.begin(&format!("send {} {BYTES}", c.id))).collect();
        for op in ops {
            client.answer(op);
        }
        rate.push(ns.snmp()?.since(&before, "Tcp.RetransSegs") as f64 / begun.elapsed().as_secs_f64());
        ns.nft("delete table inet storm")?;
        for c in &connections {
            client.call(&format!("shutdown {}", c.id));
            client.call(&format!("end {}", c.id));
        }
        let (_, finished) = program.interrupt()?;
        let truth = ns.snmp()?.since(&before, "Tcp.RetransSegs") as f64;
        let end = finished.end()?;
        off.push((total(&end, "retransmits") as f64 - truth).abs() / truth * 100.0);
        missed.push(end["recursion_misses"].as_f64().unwrap_or(0.0) / truth * 100.0);
    }
    Ok(vec![Row {
        figure: "retransmit storm",
        measured: format!(
            "{}; counts {} off the kernel's; recursion misses {}",
            rate.text("segments/s", 0),
            off.text("%", 2),
            missed.text("%", 3)
        ),
        goal: "≥ 50,000/s; within 2 %; misses ≤ 0.1 %",
        met: Some(rate.median() >= 50_000.0 && off.median() <= 2.0 && missed.median() <= 0.1),
    }])
}
