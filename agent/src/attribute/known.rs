//! The sockets that are watched, by cookie, by inode and by flow.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::forecast::{self, Input, TIMER_RETRANSMIT};
use super::sysctl::Sysctls;
use crate::model::{Direction, Family, Flow, Keepalive, Mono, Owner, SocketId, SocketUpdate, TcpMetrics, TcpState};

/// How long a socket that is gone still gives its owners to late events.
pub const LINGER: Duration = Duration::from_secs(30);

/// Sockets that one inode or flow leads to; the latest are kept. Of a flow all but one per namespace are gone already:
/// a client that binds to its port comes back with the same.
const MAX_SHARING: usize = 64;

/// One socket.
#[derive(Clone, Debug)]
pub struct Known {
    pub id: SocketId,
    pub family: Option<Family>,
    pub flow: Option<Flow>,
    pub netns: Option<u32>,
    /// Interface it is bound to; 0 = none.
    pub interface: u32,
    /// 0 = unknown.
    pub inode: u64,
    /// Holders now, or the last ones.
    pub owners: Vec<Owner>,
    pub direction: Option<Direction>,
    pub state: Option<TcpState>,
    pub opened: Option<Mono>,
    pub keepalive: Option<Keepalive>,
    /// When the keepalive options were last read.
    pub keepalive_read: Option<Mono>,
    pub listener: bool,
    pub mptcp: bool,
    pub remote_name: Option<Arc<str>>,
    /// No process holds it any more.
    pub orphan: bool,
    /// When the first of the RTOs in a row that are unanswered now fired.
    pub first_rto: Option<Mono>,
    pub gone: Option<Mono>,
    /// Looks in a row that did not find it.
    pub missed: u8,
}

impl Known {
    pub fn new(id: SocketId) -> Self {
        Self {
            id,
            family: None,
            flow: None,
            netns: None,
            interface: 0,
            inode: 0,
            owners: Vec::new(),
            direction: None,
            state: None,
            opened: None,
            keepalive: None,
            keepalive_read: None,
            listener: false,
            mptcp: false,
            remote_name: None,
            orphan: false,
            first_rto: None,
            gone: None,
            missed: 0,
        }
    }

    /// Lowest pid of its owners: the one that events show.
    pub fn pid(&self) -> Option<u32> {
        self.owners.iter().map(|o| o.pid).min()
    }

    /// Everything known, as an update for the state.
    pub fn update(&self) -> SocketUpdate {
        SocketUpdate {
            id: Some(self.id),
            family: self.family,
            flow: self.flow,
            remote_name: self.remote_name.clone(),
            netns: self.netns,
            owners: Some(self.owners.clone()).filter(|o| !o.is_empty()),
            direction: self.direction,
            state: self.state,
            opened: self.opened,
            keepalive: self.keepalive,
            counters: None,
            mptcp: Some(self.mptcp),
            destroyed: false,
        }
    }

    /// Adds a holder; whether that is news.
    pub fn add_owner(&mut self, owner: Owner) -> bool {
        if self.orphan {
            // The last holder had gone, but here is another: it was passed on.
            self.orphan = false;
        }
        if self.owners.contains(&owner) {
            return false;
        }
        // Known by an event, now by its descriptor; or its process changed its name.
        self.owners.retain(|o| !(o.pid == owner.pid && (o.fd.is_none() || o.fd == owner.fd)));
        self.owners.push(owner);
        self.owners.sort_unstable();
        true
    }

    /// Takes a holder away; the last one stays by name. Whether the set changed.
    pub fn remove_owner(&mut self, pid: u32, fd: Option<i32>) -> bool {
        let stays = |o: &Owner| o.pid != pid || (fd.is_some() && o.fd != fd);
        if self.owners.iter().all(stays) {
            return false;
        }
        if self.owners.iter().any(stays) {
            self.owners.retain(stays);
        } else {
            self.orphan = true;
            self.owners.iter_mut().for_each(|o| o.fd = None);
            self.owners.dedup();
        }
        true
    }

    pub fn user_timeout(&self) -> Duration {
        self.keepalive.map_or(Duration::ZERO, |k| Duration::from_millis(u64::from(k.user_timeout_ms)))
    }

    /// Time until the kernel gives up, from a look at `tcp_info` at `now`.
    pub fn gives_up_in(&mut self, state: TcpState, t: &TcpMetrics, s: &Sysctls, now: Mono) -> Option<Duration> {
        let input = self.input(state, t, now)?;
        let retransmits = t.retransmits.unwrap_or(0);
        if retransmits == 0 {
            self.first_rto = None;
        } else if self.first_rto.is_none() && state != TcpState::SynSent {
            self.first_rto = Some(now.minus(forecast::elapsed(&input, s)));
        }
        let since = self.first_rto.map(|t| now.since(t)).or(input.since_first_retransmit);
        forecast::gives_up_in(&Input { since_first_retransmit: since, ..input }, s)
    }

    fn input(&self, state: TcpState, t: &TcpMetrics, now: Mono) -> Option<Input> {
        let timer_in = t.timer_ms.map(|ms| Duration::from_millis(u64::from(ms)));
        let unacked = t.unacked_segments.is_some_and(|n| n > 0);
        Some(Input {
            unacked,
            backoff: t.backoff.unwrap_or(0),
            retransmits: t.retransmits.unwrap_or(0),
            probes: t.probes.unwrap_or(0),
            rtt: t.rtt,
            timer: t.timer,
            // With data in flight another timer than the retransmit timer says nothing about the end.
            timer_in: timer_in.filter(|_| !unacked || t.timer == Some(TIMER_RETRANSMIT)),
            since_first_retransmit: self.opened.filter(|_| state == TcpState::SynSent).map(|o| now.since(o)),
            user_timeout: self.user_timeout(),
            orphan: self.orphan,
            zero_window: t.send_window_bytes == Some(0),
            last_ack: t.last_ack_ms.map(Duration::from_millis),
            keepalive: self.keepalive,
            ..Input::new(state, t.rto?)
        })
    }
}

/// All of them. Bounded by the caller's `max`.
#[derive(Debug)]
pub struct Table {
    sockets: HashMap<SocketId, Known>,
    /// Several ids per inode: the subflows of an MPTCP socket.
    by_inode: HashMap<u64, Vec<SocketId>>,
    by_flow: HashMap<Flow, Vec<SocketId>>,
    max: usize,
    /// Sockets that found no room.
    pub full: u64,
}

impl Table {
    pub fn new(max: usize) -> Self {
        Self { sockets: HashMap::new(), by_inode: HashMap::new(), by_flow: HashMap::new(), max, full: 0 }
    }

    pub fn get(&self, id: SocketId) -> Option<&Known> {
        self.sockets.get(&id)
    }

    pub fn get_mut(&mut self, id: SocketId) -> Option<&mut Known> {
        self.sockets.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.sockets.values()
    }

    pub fn of_inode(&self, inode: u64) -> &[SocketId] {
        self.by_inode.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// The socket of a flow, where the kernel named none. With several namespaces of equal addresses, the one in
    /// `netns`; unknown if that is not known.
    pub fn of_flow(&self, flow: &Flow, netns: Option<u32>) -> Option<SocketId> {
        let ids = self.by_flow.get(flow)?;
        let mut fitting = ids.iter().filter(|id| {
            let known = self.sockets.get(id).and_then(|k| k.netns);
            netns.is_none() || known.is_none() || known == netns
        });
        let first = fitting.next_back()?;
        (netns.is_some() || fitting.next().is_none()).then_some(*first)
    }

    /// Makes room for a socket and returns it; `None` when the table is full of living ones.
    pub fn insert(&mut self, known: Known) -> Option<&mut Known> {
        let id = known.id;
        if !self.sockets.contains_key(&id) && self.sockets.len() >= self.max && !self.make_room() {
            self.full += 1;
            return None;
        }
        let (inode, flow) = (known.inode, known.flow);
        self.sockets.insert(id, known);
        self.index(id, inode, flow);
        self.sockets.get_mut(&id)
    }

    /// Enters what was learned later into the indexes. A flow that is not bound yet is nobody's.
    pub fn index(&mut self, id: SocketId, inode: u64, flow: Option<Flow>) {
        let add = |ids: &mut Vec<SocketId>| {
            if !ids.contains(&id) {
                if ids.len() >= MAX_SHARING {
                    ids.remove(0);
                }
                ids.push(id);
            }
        };
        let flow = flow.filter(|f| f.local.port() != 0);
        if inode != 0 {
            add(self.by_inode.entry(inode).or_default());
        }
        if let Some(flow) = flow {
            add(self.by_flow.entry(flow).or_default());
        }
    }

    /// Drops what has been gone for longer than [`LINGER`].
    pub fn expire(&mut self, now: Mono) {
        let old = |k: &Known| k.gone.is_some_and(|t| now.since(t) > LINGER);
        let ids: Vec<SocketId> = self.sockets.values().filter(|k| old(k)).map(|k| k.id).collect();
        self.forget(ids);
    }

    /// Forgets the sockets that have been gone longest, a sixteenth of the table at once: in a storm of short
    /// connections more end within [`LINGER`] than the table holds, and the living must not be turned away for them.
    /// False if all are alive.
    fn make_room(&mut self) -> bool {
        let mut gone: Vec<(Mono, SocketId)> =
            self.sockets.values().filter_map(|k| k.gone.map(|at| (at, k.id))).collect();
        if gone.is_empty() {
            return false;
        }
        let many = (self.max / 16).clamp(1, gone.len());
        gone.select_nth_unstable(many - 1);
        gone.truncate(many);
        self.forget(gone.into_iter().map(|(_, id)| id));
        true
    }

    fn forget(&mut self, ids: impl IntoIterator<Item = SocketId>) {
        for id in ids {
            let Some(k) = self.sockets.remove(&id) else { continue };
            if let Some(ids) = self.by_inode.get_mut(&k.inode) {
                ids.retain(|i| *i != id);
                if ids.is_empty() {
                    self.by_inode.remove(&k.inode);
                }
            }
            if let Some(flow) = k.flow
                && let Some(ids) = self.by_flow.get_mut(&flow)
            {
                ids.retain(|i| *i != id);
                if ids.is_empty() {
                    self.by_flow.remove(&flow);
                }
            }
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.sockets.len()
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
