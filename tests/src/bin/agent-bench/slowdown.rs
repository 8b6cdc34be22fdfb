//! What a watch costs the watched process when nothing goes wrong.

use std::time::{Duration, Instant};

use agent_tests::lab::Ns;
use agent_tests::workload::{Conn, Workload};
use anyhow::Result;

use crate::run::{Program, agent};
use crate::table::{Row, Series};

/// Interleaved, so that a change of the machine's mood hits all three alike.
const ROUNDS: usize = 12;
const TRIPS: u64 = 20_000;

pub fn request_response() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    let (client, server) = (Workload::start(&ns), Workload::start(&ns));
    let at = "127.0.0.1:8080".parse()?;
    server.serve(at, "echo");
    let c = client.connect(at);
    let pid = client.pid().to_string();
    let (mut bare, mut watched, mut proven) = (Series::default(), Series::default(), Series::default());
    for _ in 0..ROUNDS {
        bare.push(trips(&client, &c));
        watched.push(under(&ns, &client, &c, &["watch", "--no-tui", "--no-provenance", "--pid", &pid])?);
        proven.push(under(&ns, &client, &c, &["watch", "--no-tui", "--pid", &pid])?);
    }
    let row = |figure, s: &Series, goal, most| Row {
        figure,
        measured: format!(
            "{} per {TRIPS} round trips; bare {}; {:+.1} %",
            s.text("s", 3),
            bare.text("s", 3),
            (s.ratio_to(&bare) - 1.0) * 100.0
        ),
        goal,
        met: Some(s.ratio_to(&bare) <= most),
    };
    Ok(vec![
        row("request/response load on watched sockets, no events", &watched, "≤ 2 %", 1.02),
        row("the same with RST provenance", &proven, "≤ 5 %", 1.05),
    ])
}

fn trips(client: &Workload, c: &Conn) -> f64 {
    let begun = Instant::now();
    client.call(&format!("pingpong {} 100 {TRIPS}", c.id));
    begun.elapsed().as_secs_f64()
}

fn under(ns: &Ns, client: &Workload, c: &Conn, args: &[&str]) -> Result<f64> {
    let mut watch = Program::start(ns, &agent(args))?;
    watch.poke_until("\"type\":\"session\"", || {})?;
    std::thread::sleep(Duration::from_millis(500));
    let took = trips(client, c);
    watch.interrupt()?;
    Ok(took)
}
