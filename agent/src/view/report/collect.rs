//! What a report needs beside the last snapshot: gathered while the events go by, in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::series::{IdleHistogram, Series};
use crate::model::{
    ActionRecord, Event, EventKind, Finding, FindingStatus, Flow, Mono, ResetDirection, Shared, SocketId, TcpState,
};
use crate::state::{Socket, Table};

/// Closed sockets kept for the report, the worst ones.
const MAX_HELD: usize = 64;
const MAX_FINDINGS: usize = 256;
const MAX_ACTIONS: usize = 256;
/// Destinations counted one by one; what comes later is counted together.
const MAX_DESTINATIONS: usize = 2_000;
/// Sockets whose destination is remembered.
const MAX_SOCKETS: usize = 200_000;
/// Linux gives out ports from here: such a port names a connection, not a service (`ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;

/// Sums over one destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Destination {
    pub sockets: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
    pub retransmits: u64,
    /// Data segments sent while watched, as far as samples tell.
    pub segments: u64,
    /// Time that sockets waited for an ACK past their first retransmission timeout, added up.
    pub stalled: Duration,
    pub stalls: u64,
    pub longest_stall: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    destination: u32,
    segments: Option<u32>,
    /// Since when sent data has been unanswered, once a timeout has passed.
    stalled_since: Option<Mono>,
}

#[derive(Debug, Default)]
pub struct Collector {
    first: Option<Mono>,
    last: Mono,
    pub series: Series,
    pub idle: IdleHistogram,
    held: HashMap<SocketId, Shared<Socket>>,
    /// Lowest score that is held, once all places are taken.
    bar: u64,
    findings: BTreeMap<u64, Arc<Finding>>,
    pub findings_left_out: u64,
    pub actions: Vec<(Mono, ActionRecord)>,
    pub actions_left_out: u64,
    names: HashMap<String, u32>,
    destinations: Vec<Destination>,
    seen: HashMap<SocketId, Seen>,
}

impl Collector {
    /// Takes in an event that `table` has already taken in.
    pub fn observe(&mut self, event: &Event, table: &Table) {
        let at = event.at;
        self.first.get_or_insert(at);
        self.last = self.last.max(at);
        match &event.kind {
            EventKind::Retransmit(r) => {
                let n = u64::from(r.segments);
                self.series.at(at).retransmits += n;
                if let Some(rtt) = r.detail.rtt {
                    self.series.at(at).rtt(rtt);
                }
                self.destination(r.socket, r.flow, table).retransmits += n;
                self.stall(r.socket, at, table);
            }
            EventKind::Reset(r) => {
                let bin = self.series.at(at);
                match r.direction {
                    ResetDirection::Received => bin.resets_received += 1,
                    ResetDirection::Sent => bin.resets_sent += 1,
                }
                if let Some(rtt) = r.detail.rtt {
                    bin.rtt(rtt);
                }
                if let (ResetDirection::Received, Some(idle)) = (r.direction, r.idle_before) {
                    self.idle.add(idle, r.origin);
                }
                let d = self.destination(r.socket, r.flow, table);
                match r.direction {
                    ResetDirection::Received => d.resets_received += 1,
                    ResetDirection::Sent => d.resets_sent += 1,
                }
                self.stall(r.socket, at, table);
                self.hold(r.socket, table);
            }
            EventKind::Sample(s) => {
                if let Some(rtt) = s.tcp.rtt {
                    self.series.at(at).rtt(rtt);
                }
                self.segments(s.socket, s.tcp.data_segments_sent, table);
                self.stall(Some(s.socket), at, table);
            }
            EventKind::State(c) => {
                if let Some(id) = c.socket {
                    self.destination(Some(id), c.flow, table);
                }
                if c.to == TcpState::Close {
                    self.stall(c.socket, at, table);
                    self.hold(c.socket, table);
                }
            }
            EventKind::Socket(u) => {
                self.destination(u.id, u.flow, table);
                if u.destroyed {
                    self.stall(u.id, at, table);
                    self.hold(u.id, table);
                }
            }
            EventKind::Action(a) => {
                if self.actions.len() < MAX_ACTIONS {
                    self.actions.push((at, (**a).clone()));
                } else {
                    self.actions_left_out += 1;
                }
                self.stall(a.socket, at, table);
            }
            EventKind::Session(_)
            | EventKind::Exit { .. }
            | EventKind::Finding(_)
            | EventKind::Limits(_)
            | EventKind::Lost(_)
            | EventKind::End(_) => {}
        }
    }

    /// Keeps the latest word on a finding.
    pub fn finding(&mut self, f: &Finding) {
        if self.findings.len() >= MAX_FINDINGS && !self.findings.contains_key(&f.id) {
            self.findings_left_out += 1;
            return;
        }
        let new = match self.findings.get(&f.id) {
            // What closes a finding says that it is over; what it was about stays.
            Some(old) if f.status == FindingStatus::Closed && f.summary.is_empty() => {
                Finding { status: FindingStatus::Closed, ..(**old).clone() }
            }
            _ => f.clone(),
        };
        self.findings.insert(f.id, Arc::new(new));
    }

    /// Ends what is still going on.
    pub fn finish(&mut self, table: &Table) {
        let open: Vec<SocketId> =
            self.seen.iter().filter(|(_, s)| s.stalled_since.is_some()).map(|(id, _)| *id).collect();
        for id in open {
            let until = table.get(id).and_then(|s| s.closed_at).unwrap_or(self.last);
            self.end_stall(id, until);
        }
    }

    pub fn span(&self) -> Duration {
        self.first.map_or(Duration::ZERO, |first| self.last.since(first))
    }

    /// Time of the first event.
    pub fn start(&self) -> Option<Mono> {
        self.first
    }

    pub fn findings(&self) -> impl Iterator<Item = &Arc<Finding>> {
        self.findings.values()
    }

    pub fn held(&self) -> impl Iterator<Item = &Shared<Socket>> {
        self.held.values()
    }

    /// The destinations by name, the ones with most trouble first.
    pub fn destinations(&self) -> Vec<(&str, &Destination)> {
        let mut all: Vec<(&str, &Destination)> =
            self.names.iter().map(|(name, n)| (&**name, &self.destinations[*n as usize])).collect();
        all.sort_by(|(a, x), (b, y)| {
            let trouble =
                |d: &Destination| (d.resets_received + d.resets_sent + d.stalls * 10, d.retransmits, d.sockets);
            trouble(y).cmp(&trouble(x)).then_with(|| a.cmp(b))
        });
        all
    }

    fn named(&mut self, name: String) -> u32 {
        if let Some(n) = self.names.get(&name) {
            return *n;
        }
        let name = if self.names.len() >= MAX_DESTINATIONS { "(others)".to_owned() } else { name };
        let next = self.destinations.len() as u32;
        let n = *self.names.entry(name).or_insert(next);
        if n == next {
            self.destinations.push(Destination::default());
        }
        n
    }

    fn destination(&mut self, id: Option<SocketId>, flow: Option<Flow>, table: &Table) -> &mut Destination {
        let known = id.and_then(|id| self.seen.get(&id)).map(|s| s.destination);
        let n = match known {
            Some(n) => n,
            None => {
                let socket = id.and_then(|id| table.get(id));
                let flow = socket.and_then(|s| s.flow).or(flow);
                let name = socket.and_then(|s| s.remote_name.clone());
                let n = self.named(destination_name(name.as_deref(), flow));
                if let (Some(id), Some(_)) = (id, flow)
                    && self.seen.len() < MAX_SOCKETS
                {
                    self.seen.insert(id, Seen { destination: n, ..Seen::default() });
                    self.destinations[n as usize].sockets += 1;
                }
                n
            }
        };
        &mut self.destinations[n as usize]
    }

    fn segments(&mut self, id: SocketId, sent: Option<u32>, table: &Table) {
        let Some(sent) = sent else { return };
        self.destination(Some(id), None, table);
        if let Some(seen) = self.seen.get_mut(&id) {
            // What was sent before the first look says nothing of the retransmits seen since.
            let before = seen.segments.replace(sent).unwrap_or(sent);
            let n = seen.destination as usize;
            self.destinations[n].segments += u64::from(sent.wrapping_sub(before));
        }
    }

    /// Follows when a socket begins and ceases to wait for an ACK.
    fn stall(&mut self, id: Option<SocketId>, at: Mono, table: &Table) {
        let Some(id) = id else { return };
        let Some(socket) = table.get(id) else { return };
        let a = &socket.activity;
        // Whoever has closed it waits no longer, whatever the kernel still tries to deliver.
        let left = a.app_closed_at.into_iter().chain(socket.closed_at).min();
        let waiting = if a.rto_since_heard > 0 && left.is_none() { a.unanswered_since } else { None };
        match waiting {
            Some(since) => {
                if let Some(seen) = self.seen.get_mut(&id) {
                    seen.stalled_since.get_or_insert(since);
                }
            }
            None => self.end_stall(id, left.unwrap_or(at).min(at)),
        }
    }

    fn end_stall(&mut self, id: SocketId, at: Mono) {
        if let Some(seen) = self.seen.get_mut(&id)
            && let Some(since) = seen.stalled_since.take()
        {
            let d = &mut self.destinations[seen.destination as usize];
            let long = at.since(since);
            d.stalled += long;
            d.stalls += 1;
            d.longest_stall = d.longest_stall.max(long);
        }
    }

    /// Keeps a closed socket if it is among the worst.
    fn hold(&mut self, id: Option<SocketId>, table: &Table) {
        let Some(socket) = id.and_then(|id| table.get(id)).filter(|s| s.is_closed()) else { return };
        let score = score(socket);
        if self.held.contains_key(&socket.id) || (score > 0 && self.held.len() < MAX_HELD) {
            self.held.insert(socket.id, socket.clone());
        } else if score > self.bar {
            if let Some(least) = self.held.values().min_by_key(|s| super::collect::score(s)).map(|s| s.id) {
                self.held.remove(&least);
                self.held.insert(socket.id, socket.clone());
            }
            self.bar = self.held.values().map(|s| super::collect::score(s)).min().unwrap_or(0);
        }
    }
}

/// `name:port`, `ip:port`; without the port where it names only one connection.
fn destination_name(name: Option<&str>, flow: Option<Flow>) -> String {
    let Some(flow) = flow else { return "(unknown)".into() };
    match (name, flow.remote.port()) {
        (Some(name), port) => format!("{name}:{port}"),
        (None, port) if port < EPHEMERAL || flow.local.port() >= EPHEMERAL => flow.remote.to_string(),
        (None, _) => flow.remote.ip().to_string(),
    }
}

/// How much a socket has to tell.
pub fn score(s: &Socket) -> u64 {
    let c = &s.counters;
    let stuck = s.gives_up_at.is_some() || s.activity.rto_since_heard >= 2;
    let agent = s.history.iter().any(|h| h.kind() == crate::state::HistoryKind::Action);
    c.resets_received * 20
        + c.resets_sent * 5
        + c.rto * 4
        + c.retransmits
        + c.syn * 2
        + u64::from(stuck) * 200
        + u64::from(agent) * 50
        + u64::from(s.state == Some(TcpState::CloseWait)) * 30
}
