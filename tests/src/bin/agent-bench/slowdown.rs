//! What a watch costs the watched process when nothing goes wrong.

use std::time::{Duration, Instant};

use agent_tests::lab::Ns;
use agent_tests::workload::{Conn, Workload};
use anyhow::Result;

use crate::run::{Program, agent};
use crate::table::{Row, Series};

/// Interleaved and compared within each round: from one to the next the machine may take twice as long.
const ROUNDS: usize = 24;
const TRIPS: u64 = 20_000;

pub fn request_response() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    let (client, server) = (Workload::start(&ns), Workload::start(&ns));
    let at = "127.0.0.1:8080".parse()?;
    server.serve(at, "echo");
    let c = client.connect(at);
    let pid = client.pid().to_string();
    let (mut bare, mut watched, mut proven) = (Series::default(), Series::default(), Series::default());
    let (mut watched_more, mut proven_more) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        let alone = trips(&client, &c);
        bare.push(alone);
        let more = |took: f64| (took / alone - 1.0) * 100.0;
        let took = under(&ns, &client, &c, &["watch", "--no-tui", "--no-provenance", "--pid", &pid])?;
        watched.push(took);
        watched_more.push(more(took));
        let took = under(&ns, &client, &c, &["watch", "--no-tui", "--pid", &pid])?;
        proven.push(took);
        proven_more.push(more(took));
    }
    let row = |figure, s: &Series, more: &Series, goal, most| Row {
        figure,
        measured: format!(
            "{} per {TRIPS} round trips; bare {}; round by round {} more",
            s.text("s", 3),
            bare.text("s", 3),
            more.text("%", 1)
        ),
        goal,
        met: Some(more.median() <= most),
    };
    Ok(vec![
        row("request/response load on watched sockets, no events", &watched, &watched_more, "≤ 2 %", 2.0),
        row("the same with RST provenance", &proven, &proven_more, "≤ 5 %", 5.0),
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
