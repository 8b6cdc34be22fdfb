use super::*;
use crate::model::{Direction, Event, EventKind, Flow, Sample, SocketUpdate, TcpMetrics};
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
