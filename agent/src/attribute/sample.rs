//! Sampling: `tcp_info` of the watched sockets, with the time until the kernel gives up.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::Attribution;
use crate::model::{Event, EventKind, Mono, Sample, SocketId, SocketUpdate, TcpState};
use crate::source::diag::{DiagSocket, Query, States};

/// From this many sockets of one namespace on, one dump is cheaper than single look-ups (2 µs against 1 µs, and a
/// dump also shows sockets that are not watched).
const DUMP_FROM: usize = 256;
/// Sampling may use one part in this many of the time: with many sockets it gets rarer.
const SHARE: u32 = 50;
/// Looks in a row that must miss a socket before it counts as gone.
const MISSES: u8 = 2;

/// Processor time of this thread. Not the wall: one wait for a processor on a busy machine would silence what it
/// paces for fifty (or thousands of) times as long, just when they are wanted.
pub(super) fn spent() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

impl Attribution {
    /// Reads `tcp_info` of every watched connection, unless the last reading was dear and is not long ago. A socket
    /// that the kernel no longer has comes as gone.
    pub fn sample(&mut self, now: Mono) -> Vec<Event> {
        if self.sampled.is_some_and(|t| now.since(t) < self.sample_cost * SHARE) {
            return Vec::new();
        }
        self.sampled = Some(now);
        let started = spent();
        let mut by_netns: BTreeMap<u32, Vec<SocketId>> = BTreeMap::new();
        for k in self.table.iter().filter(|k| k.gone.is_none() && !k.listener && k.flow.is_some()) {
            if let Some(netns) = k.netns {
                by_netns.entry(netns).or_default().push(k.id);
            }
        }
        let mut out = Vec::new();
        for (netns, ids) in by_netns {
            let rows = if ids.len() >= DUMP_FROM { self.dump_rows(netns) } else { self.single_rows(netns, &ids) };
            let Some(rows) = rows else { continue };
            for id in ids {
                match rows.get(&id) {
                    // What is left in TIME_WAIT is no socket any more; some kernels let it keep the cookie.
                    Some(row) if row.state != TcpState::TimeWait => self.sampled_row(id, row, now, &mut out),
                    _ => self.missing(id, now, &mut out),
                }
            }
        }
        self.sample_cost = spent().saturating_sub(started);
        out
    }

    /// Reads `tcp_info` of one socket now, as when its peer closed: by the next round it may be gone, and with it the
    /// time of the last data. `None` if it is no longer in CLOSE_WAIT.
    pub fn sample_closing(&mut self, id: SocketId, now: Mono) -> Option<Event> {
        let netns = self.table.get(id).filter(|k| k.gone.is_none() && !k.listener)?.netns?;
        let rows = self.single_rows(netns, &[id])?;
        let row = rows.get(&id).filter(|r| r.state == TcpState::CloseWait)?;
        let mut out = Vec::new();
        self.sampled_row(id, row, now, &mut out);
        out.pop()
    }

    fn dump_rows(&mut self, netns: u32) -> Option<HashMap<SocketId, DiagSocket>> {
        let mut rows = HashMap::new();
        let filter = crate::source::diag::destination_filter(&self.names.prefixes());
        let query = Query { states: States::connections(), info: true, filter: &filter };
        let diag = self.namespaces.get(netns)?.diag().ok()?;
        diag.dump(&query, |s| rows.extend([(s.id, s)])).ok()?;
        Some(rows)
    }

    fn single_rows(&mut self, netns: u32, ids: &[SocketId]) -> Option<HashMap<SocketId, DiagSocket>> {
        let mut rows = HashMap::new();
        let diag = self.namespaces.get(netns)?.diag().ok()?;
        for id in ids {
            let Some((flow, interface)) = self.table.get(*id).and_then(|k| Some((k.flow?, k.interface))) else {
                continue;
            };
            if let Some(row) = diag.get(&flow, interface, *id).ok()? {
                rows.insert(*id, row);
            }
        }
        Some(rows)
    }

    fn sampled_row(&mut self, id: SocketId, row: &DiagSocket, now: Mono, out: &mut Vec<Event>) {
        let Some(k) = self.table.get_mut(id) else { return };
        k.state = Some(row.state);
        k.missed = 0;
        if row.is_orphan() {
            k.orphan = true;
        }
        let sysctls = k.netns.and_then(|n| self.namespaces.get(n)).map(|n| n.sysctls(now)).unwrap_or_default();
        let gives_up_in = k.gives_up_in(row.state, &row.tcp, &sysctls, now);
        let sample = Sample { socket: id, state: row.state, tcp: row.tcp, gives_up_in };
        out.push(Event { at: now, kind: EventKind::Sample(Box::new(sample)) });
    }

    /// Not found: gone, if it is not found again. A dump may miss a socket that moves between hash chains, and a
    /// connection that is just being opened has no port to be looked up by.
    fn missing(&mut self, id: SocketId, now: Mono, out: &mut Vec<Event>) {
        let Some(k) = self.table.get_mut(id) else { return };
        k.missed = k.missed.saturating_add(1);
        let opening = k.flow.is_some_and(|f| f.local.port() == 0);
        if k.missed >= MISSES && !opening {
            self.gone(id, now, out);
        }
    }

    fn gone(&mut self, id: SocketId, now: Mono, out: &mut Vec<Event>) {
        self.table.set_gone(id, now);
        let Some(k) = self.table.get_mut(id) else { return };
        k.state = Some(TcpState::Close);
        let update = SocketUpdate { id: Some(id), destroyed: true, ..SocketUpdate::default() };
        out.push(Event { at: now, kind: EventKind::Socket(Box::new(update)) });
    }

    /// How long the last sampling took: what it costs the caller.
    pub fn sample_cost(&self) -> Duration {
        self.sample_cost
    }
}
