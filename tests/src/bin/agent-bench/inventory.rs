//! `agent sockets --all --json` beside `ss`.

use std::ffi::OsString;

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::Result;

use crate::peers;
use crate::run::{Cost, Program, agent};
use crate::table::{Row, Series};

const ROUNDS: usize = 5;
/// Each is two sockets: both ends are here.
const CONNECTIONS: usize = 25_000;
/// Descriptors of one process; hard limits of 20,000 are usual.
const EACH: usize = 12_500;

pub fn inventory() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    ns.sysctl("net.ipv4.ip_local_port_range", "1025 64000")?;
    let mut pairs = Vec::new();
    open(&ns, &mut pairs, CONNECTIONS)?;
    let ours = agent(&["sockets", "--all", "--json"]);
    let ours_plain = agent(&["sockets", "--all", "--json", "--no-owners"]);
    let ss = |flags: &str| -> Option<Vec<OsString>> { Some(vec![peers::find("ss")?.into(), flags.into()]) };
    let (plain, owned) = (ss("-tinoe"), ss("-tinoep"));
    let lsof: Option<Vec<OsString>> = peers::find("lsof").map(|l| vec![l.into(), "-nP".into(), "-iTCP".into()]);
    let (mut a, mut p, mut o, mut rss) = (Series::default(), Series::default(), Series::default(), Series::default());
    let (mut b, mut l) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        b.push(once(&ns, &ours_plain)?.0.wall);
        let (cost, lines) = once(&ns, &ours)?;
        anyhow::ensure!(lines >= 2 * CONNECTIONS as u64, "only {lines} sockets listed");
        a.push(cost.wall);
        rss.push(cost.max_rss_mib);
        if let Some(words) = &plain {
            p.push(once(&ns, words)?.0.wall);
        }
        if let Some(words) = &owned {
            o.push(once(&ns, words)?.0.wall);
        }
        if let Some(words) = &lsof {
            l.push(once(&ns, words)?.0.wall);
        }
    }
    let mut double = Series::default();
    open(&ns, &mut pairs, CONNECTIONS)?;
    let (mut double_ss, mut double_rss) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        let cost = once(&ns, &ours)?.0;
        double.push(cost.wall);
        double_rss.push(cost.max_rss_mib);
        if let Some(words) = &owned {
            double_ss.push(once(&ns, words)?.0.wall);
        }
    }
    let growth = double.ratio_to(&a);
    Ok(vec![
        Row {
            figure: "`agent sockets --all --json --no-owners`, 50,000 sockets, against `ss -tinoe`",
            measured: format!("{}; ss {}; {:.2} x", b.text("s", 3), p.text("s", 3), b.ratio_to(&p)),
            goal: "≤ 0.3 x",
            met: Some(b.ratio_to(&p) <= 0.3),
        },
        Row {
            figure: "with owners, against `ss -tinoep`",
            measured: format!(
                "{}; ss {}; {:.2} x{}",
                a.text("s", 3),
                o.text("s", 3),
                a.ratio_to(&o),
                if lsof.is_some() { format!("; lsof {}", l.text("s", 3)) } else { String::new() }
            ),
            goal: "≤ 0.1 x",
            met: Some(a.ratio_to(&o) <= 0.1),
        },
        Row { figure: "its memory", measured: rss.text("MiB", 1), goal: "≤ 30 MiB", met: Some(rss.median() <= 30.0) },
        Row {
            figure: "100,000 sockets (50,000 connections with both ends here) with owners",
            measured: format!(
                "{}; {growth:.2} x those of 50,000; {}; ss {}; {:.2} x",
                double.text("s", 3),
                double_rss.text("MiB", 1),
                double_ss.text("s", 3),
                double.ratio_to(&double_ss)
            ),
            goal: "linear time (≤ 2.4 x)",
            met: Some(growth <= 2.4),
        },
    ])
}

fn open(ns: &Ns, pairs: &mut Vec<(Workload, Workload)>, connections: usize) -> Result<()> {
    for _ in 0..connections / EACH {
        let (client, server) = (Workload::start(ns), Workload::start(ns));
        let port = 8000 + pairs.len() as u16;
        let at = format!("127.0.1.{}:{port}", pairs.len() + 1);
        server.serve(at.parse()?, "manual");
        client.call(&format!("pool {at} {EACH}"));
        pairs.push((client, server));
    }
    Ok(())
}

fn once(ns: &Ns, words: &[OsString]) -> Result<(Cost, u64)> {
    let (cost, finished) = Program::start(ns, words)?.finish()?;
    anyhow::ensure!(finished.status.success(), "{words:?} failed: {}", finished.errors);
    let lines = finished.lines_with("127.0.1.")?;
    Ok((cost, lines))
}
