//! Half an hour under mixed load: what grows, what is lost.

use std::time::{Duration, Instant};

use agent_tests::lab::{Lab, Way};
use agent_tests::workload::{Conn, Workload};
use anyhow::{Context, Result};

use crate::idle::status;
use crate::load::total;
use crate::run::{Program, agent};
use crate::table::Row;

/// Minutes, unless this variable says otherwise.
const MINUTES: (&str, u64) = ("AGENT_BENCH_MINUTES", 30);
const POOL: usize = 40;
const PORT: u16 = 8080;
/// Of the whole time, after which memory must be flat: 5 of 30 minutes.
const WARM: f64 = 1.0 / 6.0;

pub fn mixed() -> Result<Vec<Row>> {
    let minutes = match std::env::var(MINUTES.0) {
        Ok(text) => text.parse().with_context(|| format!("{}={text} is no number of minutes", MINUTES.0))?,
        Err(_) => MINUTES.1,
    };
    let whole = Duration::from_secs(60 * minutes);
    let lab = Lab::new();
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    let at = Lab::SERVER.port(false, PORT);
    server.serve(at, "echo");
    let mut pool: Vec<Conn> = (0..POOL).map(|_| client.connect(at)).collect();
    let mut watch = Program::start(&lab.client, &agent(&["watch", "--no-tui", "--pid", &client.pid().to_string()]))?;
    watch.poke_until("\"type\":\"session\"", || {})?;
    std::thread::sleep(Duration::from_millis(500));
    lab.lose(Way::ToServer, PORT, 10);
    let (before_client, before_server) = (lab.client.snmp()?, lab.server.snmp()?);
    let begun = Instant::now();
    let mut looks: Vec<(Duration, f64, usize)> = Vec::new();
    while begun.elapsed() < whole {
        // Requests on the pool, the oldest connection replaced, and short connections that are refused.
        let asked: Vec<_> = pool.iter().map(|c| client.begin(&format!("ask {} 6000", c.id))).collect();
        for op in asked {
            client.answer(op);
        }
        let oldest = pool.remove(0);
        client.call(&format!("close {}", oldest.id));
        pool.push(client.connect(at));
        client.call(&format!("storm {} 200 400", Lab::SERVER.port(false, 9)));
        watch.still_runs()?;
        let due = looks.last().is_none_or(|l| begun.elapsed() - l.0 >= Duration::from_secs(5));
        if due {
            let rss = status(watch.pid(), "VmRSS:")? as f64 / 1024.0;
            let files = std::fs::read_dir(format!("/proc/{}/fd", watch.pid()))?.count();
            looks.push((begun.elapsed(), rss, files));
        }
    }
    lab.clear_rules();
    std::thread::sleep(Duration::from_secs(5));
    let again = lab.client.snmp()?.since(&before_client, "Tcp.RetransSegs");
    let resets = lab.server.snmp()?.since(&before_server, "Tcp.OutRsts");
    let (_, finished) = watch.interrupt()?;
    let end = finished.end()?;
    let late: Vec<_> = looks.iter().filter(|l| l.0 >= whole.mul_f64(WARM)).collect();
    let first = late.first().context("too short a run")?;
    let most = |value: fn(&(Duration, f64, usize)) -> f64| late.iter().map(|l| value(l)).fold(0.0, f64::max);
    let (growth, files) = ((most(|l| l.1) / first.1 - 1.0) * 100.0, most(|l| l.2 as f64) - first.2 as f64);
    let (saw_again, saw_resets) = (total(&end, "retransmits"), total(&end, "resets_received"));
    let off = (saw_again - again).abs() as f64 / again as f64 * 100.0;
    Ok(vec![
        Row {
            figure: "long run under mixed load: memory and files",
            measured: format!(
                "{minutes} min; after {:.1} min {:.1} MiB and {} files; then at most {growth:+.1} % and {files:+.0} files",
                first.0.as_secs_f64() / 60.0,
                first.1,
                first.2,
            ),
            goal: "memory within 5 %, no file more",
            met: Some(growth <= 5.0 && files <= 0.0),
        },
        Row {
            figure: "long run under mixed load: counts",
            measured: format!(
                "{saw_resets} resets received of {resets}; {saw_again} retransmits, the kernel counts {again} ({off:.2} % off); {} lost",
                total(&end, "lost")
            ),
            goal: "the kernel's",
            met: Some(saw_resets == resets && off <= 2.0),
        },
    ])
}
