//! What one evaluation costs with 10,000 sockets: medians of many rounds, printed. `cargo bench -p agent --bench engine`.

use std::time::{Duration, Instant};

use agent::diagnose::{Engine, Thresholds};
use agent::model::*;
use agent::state::{Table, TableConfig};

const SOCKETS: u64 = 10_000;
const ROUNDS: u64 = 41;

fn at(ms: u64) -> Mono {
    Mono(1_000_000_000_000 + ms * 1_000_000)
}

fn open(table: &mut Table, id: u64) {
    let ip = std::net::Ipv4Addr::from(0x0a01_0000 + (id % 50) as u32);
    let flow = Flow { local: ([10, 0, 0, 1], 1_024 + id as u16).into(), remote: (ip, 443).into() };
    let keepalive =
        Keepalive { enabled: false, idle_s: 7200, interval_s: 75, count: 9, user_timeout_ms: 0, set_by: None };
    let update = SocketUpdate {
        id: Some(SocketId(id)),
        flow: Some(flow),
        owners: Some([Owner { pid: 100 + (id % 20) as u32, comm: "node".into(), fd: Some(5), program: None }].into()),
        direction: Some(Direction::Outgoing),
        state: Some(TcpState::Established),
        keepalive: Some(keepalive),
        ..Default::default()
    };
    table.apply(&Event { at: at(0), kind: EventKind::Socket(Box::new(update)) });
}

/// A sample of a connection that moved data since the last one.
fn sample(table: &mut Table, id: u64, ms: u64, idle_ms: u64) {
    let n = if idle_ms > 500 { 0 } else { ms };
    let tcp = TcpMetrics {
        rtt: Some(Duration::from_millis(20)),
        rto: Some(Duration::from_millis(220)),
        retransmits: Some(0),
        unacked_segments: Some(0),
        unacked_bytes: Some(0),
        send_queue_bytes: Some(0),
        last_sent_ms: Some(idle_ms + 30),
        last_received_ms: Some(idle_ms),
        last_ack_ms: Some(idle_ms),
        bytes_sent: Some(1_000 + n),
        bytes_received: Some(9_000 + n),
        bytes_acked: Some(1_000 + n),
        data_segments_sent: Some(10 + n as u32),
        ..Default::default()
    };
    let s = Sample { socket: SocketId(id), state: TcpState::Established, tcp, gives_up_in: None };
    table.apply(&Event { at: at(ms), kind: EventKind::Sample(Box::new(s)) });
}

fn retransmit(table: &mut Table, id: u64, ms: u64) {
    let detail = TcpDetail {
        rto: Some(Duration::from_millis(220)),
        last_ack: Some(Duration::from_secs(30)),
        last_received: Some(Duration::from_secs(30)),
        ..Default::default()
    };
    let r = Retransmit {
        socket: Some(SocketId(id)),
        flow: None,
        netns: None,
        pid: None,
        state: Some(TcpState::Established),
        how: RetransmitKind::Rto,
        segments: 1,
        detail,
        gives_up_in: Some(Duration::from_secs(900)),
    };
    table.apply(&Event { at: at(ms), kind: EventKind::Retransmit(Box::new(r)) });
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Median time of one evaluation after `prepare` of each round.
fn measure(name: &str, step_ms: u64, mut prepare: impl FnMut(&mut Table, u64)) {
    let mut table = Table::new(TableConfig::default());
    let mut engine = Engine::new(Thresholds::default());
    for id in 0..SOCKETS {
        open(&mut table, id);
        sample(&mut table, id, 1, 0);
    }
    let changed = table.take_changed();
    let started = Instant::now();
    engine.evaluate(at(2), &table, &changed);
    let first = started.elapsed();
    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        let ms = 1_000 + round * step_ms;
        prepare(&mut table, ms);
        let changed = table.take_changed();
        let started = Instant::now();
        std::hint::black_box(engine.evaluate(at(ms), &table, &changed));
        times.push(started.elapsed());
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    println!("{name}: median {:?}, worst {worst:?} (first sight of all {first:?})", median(times));
}

fn main() {
    measure("nothing changed", 100, |_, _| {});
    measure("all 10,000 moved data", 100, |table, ms| {
        for id in 0..SOCKETS {
            sample(table, id, ms, 0);
        }
    });
    measure("all 10,000 sampled, all idle", 100, |table, ms| {
        for id in 0..SOCKETS {
            sample(table, id, ms, ms);
        }
    });
    measure("100 of 10,000 retransmit", 1_000, |table, ms| {
        for id in 0..100 {
            retransmit(table, id * 97, ms);
        }
    });
}
