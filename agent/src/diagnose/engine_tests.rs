use super::*;
use crate::model::{
    Direction, Event, EventKind, Flow, PacketFacts, Reset, ResetDirection, ResetOrigin, Sample, SocketUpdate,
    StateChange, TcpDetail, TcpMetrics,
};
use crate::state::TableConfig;

/// A connection that was there before the agent, healthy at first sight, then waits for its answer.
#[test]
fn what_falls_silent_after_a_healthy_look_is_found_in_time() {
    let at = |s: f64| Mono::from_secs_f64(1_000.0 + s);
    let (id, mut table, mut engine) =
        (SocketId(7), Table::new(TableConfig::default()), Engine::new(Thresholds::default()));
    let flow = Flow { local: ([10, 0, 0, 1], 40_000).into(), remote: ([192, 0, 2, 1], 80).into() };
    let update = SocketUpdate {
        id: Some(id),
        flow: Some(flow),
        direction: Some(Direction::Outgoing),
        state: Some(TcpState::Established),
        ..SocketUpdate::default()
    };
    table.apply(&Event { at: at(0.0), kind: EventKind::Socket(Box::new(update)) });
    let changed = table.take_changed();
    engine.evaluate(at(0.0), &table, &changed);
    let tcp = TcpMetrics {
        bytes_sent: Some(300),
        bytes_received: Some(0),
        unacked_segments: Some(0),
        last_sent_ms: Some(100),
        last_ack_ms: Some(100),
        ..TcpMetrics::default()
    };
    let sample = Sample { socket: id, state: TcpState::Established, tcp, gives_up_in: None };
    table.apply(&Event { at: at(0.1), kind: EventKind::Sample(Box::new(sample)) });
    let changed = table.take_changed();
    engine.evaluate(at(0.1), &table, &changed);
    let due = engine.next_due().expect("something is due");
    assert!(due <= at(20.1), "{due:?}");
    let said = engine.evaluate(due, &table, &[]);
    assert_eq!(said.first().map(|f| f.code), Some(Code::AppWaiting), "{said:?}");
}

/// A refused connect every millisecond for a minute and a half, to one port.
#[test]
fn a_storm_is_counted_whole_and_kept_in_part() {
    const CONNECTS: u64 = 90_000;
    let at = |ms: u64| Mono(1_000_000_000_000 + ms * 1_000_000);
    const KEPT: usize = 300;
    let mut table = Table::new(TableConfig { max_gone: KEPT, ..TableConfig::default() });
    let mut engine = Engine::new(Thresholds::default());
    let mut said = Vec::new();
    for n in 0..CONNECTS {
        let id = Some(SocketId(n + 1));
        let flow = Flow { local: ([10, 0, 0, 1], 40_000).into(), remote: ([192, 0, 2, 1], 80).into() };
        let state = |from, to| {
            EventKind::State(StateChange {
                socket: id,
                flow: Some(flow),
                netns: None,
                family: None,
                from,
                to,
                pid: None,
                last: false,
            })
        };
        let reset = EventKind::Reset(Box::new(Reset {
            socket: id,
            flow: Some(flow),
            netns: None,
            pid: None,
            direction: ResetDirection::Received,
            origin: ResetOrigin::Unknown,
            origin_why: "".into(),
            state: Some(TcpState::SynSent),
            idle_before: None,
            kernel_reason: None,
            packet: PacketFacts::default(),
            detail: TcpDetail::default(),
        }));
        let end = EventKind::Socket(Box::new(SocketUpdate { id, destroyed: true, ..SocketUpdate::default() }));
        let begin = state(TcpState::Close, TcpState::SynSent);
        for kind in [begin, reset, state(TcpState::SynSent, TcpState::Close), end] {
            table.apply(&Event { at: at(n), kind });
        }
        if n % 10 == 9 {
            table.expire(at(n));
            let changed = table.take_changed();
            said.extend(engine.evaluate(at(n), &table, &changed));
        }
    }
    assert!(table.len() <= KEPT + 1, "{}", table.len());
    // Those in the table, those whose case stays, those not looked at yet.
    assert!(engine.memos.len() <= KEPT + 1_024, "{}", engine.memos.len());
    assert!(engine.due.len() <= engine.memos.len() * QUEUE_PER_MEMO + QUEUE_LEAST, "{}", engine.due.len());
    let open = engine.open();
    assert_eq!(open.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::Refused]);
    let told = open[0].numbers["refused"];
    assert!(told > CONNECTS as f64 * 0.98 && told <= CONNECTS as f64, "told at most a second ago: {told}");
    assert!(open[0].summary.contains("within 1:"), "{}", open[0].summary);
    // One in ten is taken in, so the cases that are kept are of the last seconds.
    let oldest = open[0].sockets.iter().map(|id| id.0).min().unwrap();
    assert!((CONNECTS - 4_000..CONNECTS - 2_000).contains(&oldest), "{oldest}");
    assert!(said.len() < 100, "{} updates", said.len());
    // And it ends: two minutes after the last one nothing is left.
    let mut now = at(CONNECTS);
    for _ in 0..300 {
        now = now.plus(Duration::from_secs(1));
        table.expire(now);
        let changed = table.take_changed();
        engine.evaluate(now, &table, &changed);
    }
    assert!(engine.open().is_empty());
    assert_eq!((engine.memos.len(), table.len()), (0, 0));
    assert!(engine.dests.iter().all(|d| (d.sockets, d.open) == (0, 0)));
}
