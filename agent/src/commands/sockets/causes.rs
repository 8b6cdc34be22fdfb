//! The findings that one look allows, by the rules of `watch`: the look goes through the same state as an event that
//! brought the socket and a sample of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::collect::Row;
use crate::commands::clue;
use crate::diagnose::{Engine, Thresholds};
use crate::model::{Event, EventKind, Finding, Mono, Sample, SocketId, SocketUpdate, TcpMetrics, TcpState};
use crate::state::{Table, TableConfig};

/// A second look would tell more; only sockets that show something now are taken in. A pause shorter than this is none.
const QUIET: Duration = Duration::from_secs(1);

pub struct Causes {
    now: Mono,
    table: Table,
    engine: Engine,
    changed: Vec<SocketId>,
    told: BTreeSet<u32>,
}

impl Causes {
    pub fn new(now: Mono) -> Self {
        Self {
            now,
            table: Table::new(TableConfig::default()),
            engine: Engine::new(Thresholds::default()),
            changed: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    /// Takes a socket in. One without an owner is nobody's finding.
    pub fn take(&mut self, row: &Row) {
        if row.owners.is_empty() || !speaks(row) {
            return;
        }
        for owner in &row.owners {
            if self.told.insert(owner.pid) {
                self.engine.know_process(owner.pid, clue::of(owner.pid));
            }
        }
        let s = &row.socket;
        let update = SocketUpdate {
            id: Some(s.id),
            family: Some(s.family),
            flow: Some(s.flow),
            remote_name: row.remote_name.clone(),
            netns: Some(row.netns),
            owners: Some(row.owners.iter().cloned().collect()),
            direction: row.direction,
            state: Some(s.state),
            keepalive: row.keepalive,
            mptcp: Some(s.mptcp),
            opened: (s.state == TcpState::SynSent).then(|| connecting_for(&s.tcp)).flatten().map(|d| self.now.minus(d)),
            ..SocketUpdate::default()
        };
        let sample = Sample { socket: s.id, state: s.state, tcp: s.tcp, gives_up_in: row.gives_up_in };
        for kind in [EventKind::Socket(Box::new(update)), EventKind::Sample(Box::new(sample))] {
            self.table.apply(&Event { at: self.now, kind });
        }
        self.changed.push(s.id);
    }

    /// The most important first.
    pub fn findings(mut self) -> Vec<Arc<Finding>> {
        self.engine.evaluate(self.now, &self.table, &self.changed);
        self.engine.open()
    }
}

/// Whether one look can find anything in this socket.
fn speaks(row: &Row) -> bool {
    let t = &row.socket.tcp;
    let some = |n: Option<u8>| n.is_some_and(|n| n > 0);
    match row.socket.state {
        TcpState::Listen | TcpState::TimeWait | TcpState::Close | TcpState::BoundInactive => false,
        TcpState::Established if row.keepalive.is_none() && row.socket.send_queue == 0 && !waits(t) => {
            some(t.retransmits) || some(t.probes)
        }
        _ => some(t.retransmits) || some(t.probes) || row.idle().is_none_or(|d| d >= QUIET),
    }
}

/// Whether the last word was ours. Without any data received, or sent, the kernel counts from the handshake.
fn waits(t: &TcpMetrics) -> bool {
    match (t.bytes_sent, t.bytes_received) {
        (Some(0), _) => false,
        (Some(_), Some(0)) => true,
        _ => t.last_sent_ms.zip(t.last_received_ms).is_none_or(|(sent, received)| sent < received),
    }
}

/// Since the first SYN, summed up over the timers that ran out: the first ones are linear on kernels from 6.5, the rest
/// double.
fn connecting_for(t: &TcpMetrics) -> Option<Duration> {
    let (rto, backoff, retransmits) = (t.rto?, t.backoff?, t.retransmits?);
    let base = rto / 2u32.saturating_pow(backoff.into());
    let doubled = base * (2u32.saturating_pow(backoff.into()) - 1);
    let linear = base * u32::from(retransmits.saturating_sub(backoff));
    let left = t.timer_ms.map_or(Duration::ZERO, |ms| Duration::from_millis(ms.into()));
    Some(linear + doubled + rto.saturating_sub(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spoke_last_is_told_by_bytes_and_times() {
        let t = |sent, received, sent_ms, received_ms| TcpMetrics {
            bytes_sent: Some(sent),
            bytes_received: Some(received),
            last_sent_ms: Some(sent_ms),
            last_received_ms: Some(received_ms),
            ..TcpMetrics::default()
        };
        assert!(!waits(&t(0, 0, 5_000, 5_000)), "nobody has said anything");
        assert!(waits(&t(9, 0, 5_000, 5_000)), "asked within the millisecond of the handshake");
        assert!(waits(&t(9, 9, 1_000, 2_000)) && !waits(&t(9, 9, 2_000, 1_000)));
        assert!(waits(&TcpMetrics::default()), "unknown: the rules decide");
    }

    #[test]
    fn the_first_syn_is_found_by_the_timers() {
        // Four linear timeouts of 1 s, then 1 s and 2 s, and a quarter of the next 4 s.
        let t = TcpMetrics {
            rto: Some(Duration::from_secs(4)),
            backoff: Some(2),
            retransmits: Some(6),
            timer_ms: Some(3_000),
            ..TcpMetrics::default()
        };
        assert_eq!(connecting_for(&t), Some(Duration::from_secs(8)));
        assert_eq!(connecting_for(&TcpMetrics::default()), None);
    }
}
