//! One socket that is watched: what attribution knows of it.

use std::sync::Arc;
use std::time::Duration;

use super::forecast::{self, Input, TIMER_RETRANSMIT};
use super::sysctl::Sysctls;
use crate::model::{
    Direction, Family, Flow, Keepalive, Mono, Owner, Owners, SocketId, SocketUpdate, TcpMetrics, TcpState,
};

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
    pub owners: Owners,
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
    /// Set by `Table::set_gone`.
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
            owners: Owners::default(),
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

    /// Makes `update` everything that is known, for the state; `by` is a copy of the owners.
    pub fn update(&self, by: Owners, update: &mut SocketUpdate) {
        let SocketUpdate {
            id,
            family,
            flow,
            remote_name,
            netns,
            owners,
            direction,
            state,
            opened,
            keepalive,
            counters,
            mptcp,
            destroyed,
        } = update;
        *id = Some(self.id);
        *family = self.family;
        *flow = self.flow;
        remote_name.clone_from(&self.remote_name);
        *netns = self.netns;
        *owners = Some(by).filter(|o| !o.is_empty());
        *direction = self.direction;
        *state = self.state;
        *opened = self.opened;
        *keepalive = self.keepalive;
        *counters = None;
        *mptcp = Some(self.mptcp);
        *destroyed = false;
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
        let stays = |o: &&Owner| !(o.pid == owner.pid && (o.fd.is_none() || o.fd == owner.fd));
        let mut all: Vec<Owner> = self.owners.iter().filter(stays).cloned().collect();
        all.push(owner);
        all.sort_unstable();
        self.owners = all.into();
        true
    }

    /// Takes a holder away; the last one stays by name. Whether the set changed.
    pub fn remove_owner(&mut self, pid: u32, fd: Option<i32>) -> bool {
        let stays = |o: &Owner| o.pid != pid || (fd.is_some() && o.fd != fd);
        if self.owners.iter().all(stays) {
            return false;
        }
        if self.owners.iter().any(stays) {
            self.owners = self.owners.iter().filter(|o| stays(o)).cloned().collect();
        } else {
            self.orphan = true;
            let mut last: Vec<Owner> = self.owners.iter().map(|o| Owner { fd: None, ..o.clone() }).collect();
            last.dedup();
            self.owners = last.into();
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
