//! Live events get what the kernel could not know at that moment: owners, names, the forecast, who made a RST.

use std::time::Duration;

use super::Attribution;
use super::forecast::{self, Input};
use super::known::Known;
use super::origin::{self, Facts};
use super::sysctl::Sysctls;
use crate::model::{
    Direction, Event, EventKind, Flow, Mono, Owner, Owners, Reset, ResetDirection, ResetOrigin, Retransmit,
    RetransmitKind, SocketId, SocketUpdate, StateChange, TcpDetail, TcpState,
};

/// What a process is called that ended before its name could be read.
const NAMELESS: &str = "?";

impl Attribution {
    /// Completes a live event where it stands; what else became known through it (the socket's first description) is
    /// appended to `before`, to be taken first. False: it belongs to no target, or what it says is in `before`.
    pub fn enrich(&mut self, event: &mut Event, before: &mut Vec<Event>) -> bool {
        let now = event.at;
        match &mut event.kind {
            EventKind::State(c) => self.state_event(c, now, before),
            EventKind::Retransmit(r) => self.retransmit_event(r, now, before),
            EventKind::Reset(r) => self.reset_event(r, now, before),
            EventKind::Socket(u) => self.socket_event(u, now, before),
            EventKind::Sample(s) => {
                let known = self.table.get_mut(s.socket);
                if let Some(k) = known {
                    let sysctls = k.netns.and_then(|n| self.namespaces.get(n)).map(|n| n.sysctls(now));
                    s.gives_up_in = k.gives_up_in(s.state, &s.tcp, &sysctls.unwrap_or_default(), now);
                }
                true
            }
            EventKind::Exit { pid } => {
                let pid = *pid;
                before.extend(self.exited(pid, now));
                false
            }
            _ => true,
        }
    }

    /// The socket an event is about, looked for among the targets' descriptors if it is new. `None`: nobody's.
    fn resolve(
        &mut self,
        id: &mut Option<SocketId>,
        flow: &Option<Flow>,
        netns: Option<u32>,
        now: Mono,
        out: &mut Vec<Event>,
    ) -> bool {
        if id.is_none()
            && let Some(f) = flow
        {
            *id = self.table.of_flow(f, netns);
            // Classic tracepoints name no cookie: a new connection is found among the descriptors by its ends.
            if id.is_none() && !self.spec.all && f.local.port() != 0 && self.names.matches(&f.remote) {
                let urgent: Vec<u32> = self.processes.values().filter(|p| p.due_urgently(now)).map(|p| p.pid).collect();
                for pid in urgent {
                    self.scan(pid, now, out);
                }
                *id = self.table.of_flow(f, netns);
            }
        }
        let Some(socket) = *id else {
            // A RST for no socket has no owner; it is shown when everything is watched.
            return self.spec.all && flow.as_ref().is_none_or(|f| self.names.matches(&f.remote));
        };
        if self.table.get(socket).is_some() {
            return true;
        }
        if let Some(f) = flow
            && f.remote.port() != 0
            && !self.names.matches(&f.remote)
        {
            return false;
        }
        if !self.spec.all {
            let urgent: Vec<u32> = self.processes.values().filter(|p| p.due_urgently(now)).map(|p| p.pid).collect();
            for pid in urgent {
                self.scan(pid, now, out);
                if self.table.get(socket).is_some() {
                    return true;
                }
            }
        }
        let listener = self.listener_of(*flow, netns).cloned();
        if listener.is_none() && !self.spec.all {
            return false;
        }
        // Not among the descriptors yet: queued on the listener, which is whose it will be.
        let mut k = Known::new(socket);
        k.flow = *flow;
        k.netns = netns;
        if let Some(l) = &listener {
            k.direction = Some(Direction::Incoming);
            k.family = l.family;
            for o in l.owners.iter() {
                k.add_owner(Owner { fd: None, ..o.clone() });
            }
        }
        k.remote_name = self.name_for(flow);
        let owners = k.owners.clone();
        self.first_sight(k, owners, now, out);
        true
    }

    fn listener_of(&self, flow: Option<Flow>, netns: Option<u32>) -> Option<&Known> {
        let local = flow?.local;
        self.table.listening_on(local.port()).find(|k| {
            let at = k.flow.map(|f| f.local.ip());
            (netns.is_none() || k.netns.is_none() || k.netns == netns)
                && at.is_some_and(|ip| ip.is_unspecified() || ip == local.ip())
        })
    }

    /// `owners` as in `k`, for its description.
    fn first_sight(&mut self, mut k: Known, owners: Owners, now: Mono, out: &mut Vec<Event>) {
        self.direct(&mut k, now);
        let id = k.id;
        let described = self.described(&k, owners);
        if !self.table.insert(k) {
            return;
        }
        if self.new_by_event {
            self.is_new(id);
        }
        if let Some(update) = described {
            out.push(Event { at: now, kind: EventKind::Socket(update) });
        }
    }

    /// A known process as the owner of a connection that it has just opened.
    fn opener(&mut self, pid: u32, now: Mono) -> Option<Owners> {
        let p = self.processes.get_mut(&pid)?;
        // The program may have changed (exec) since the last look.
        p.rename(now);
        if let Some(netns) = &p.netns {
            self.namespaces.enter(netns, now);
        }
        Some(p.alone())
    }

    fn state_event(&mut self, c: &mut StateChange, now: Mono, out: &mut Vec<Event>) -> bool {
        // The one transition that proves its owner: connect runs in the process.
        if let (Some(id), TcpState::SynSent, Some(pid)) = (c.socket, c.to, c.pid)
            && self.table.get(id).is_none()
        {
            if c.flow.as_ref().is_some_and(|f| !self.names.matches(&f.remote)) {
                return false;
            }
            // One that has ended already cannot be looked at; what it did is told all the same.
            let mut owners = self.opener(pid, now);
            if owners.is_none() && self.recruit(pid, now) {
                owners = self.opener(pid, now);
            }
            if owners.is_none() && !self.spec.all {
                return false;
            }
            let owners =
                owners.unwrap_or_else(|| [Owner { pid, comm: NAMELESS.into(), fd: None, program: None }].into());
            // Now: to count one more waits until all is written that was before, and the last count was just now.
            let told = owners.clone();
            let mut k = Known::new(id);
            k.owners = owners;
            k.flow = c.flow;
            k.netns = c.netns;
            k.family = c.family;
            k.opened = Some(now);
            k.direction = Some(Direction::Outgoing);
            k.state = Some(TcpState::SynSent);
            k.remote_name = self.name_for(&c.flow);
            self.first_sight(k, told, now, out);
            return true;
        }
        // Most are known: then it is looked for once.
        if let Some(k) = c.socket.and_then(|id| self.table.get_mut(id)) {
            changed(k, c, now);
        } else if !self.resolve(&mut c.socket, &c.flow, c.netns, now, out) {
            return false;
        } else if let Some(k) = c.socket.and_then(|id| self.table.get_mut(id)) {
            changed(k, c, now);
        }
        if let (Some(id), true) = (c.socket, c.last) {
            self.table.set_gone(id, now);
        }
        true
    }

    fn retransmit_event(&mut self, r: &mut Retransmit, now: Mono, out: &mut Vec<Event>) -> bool {
        if !self.resolve(&mut r.socket, &r.flow, r.netns, now, out) {
            return false;
        }
        let Some(k) = r.socket.and_then(|id| self.table.get_mut(id)) else { return true };
        r.pid = k.pid().or(r.pid);
        fill(&mut r.flow, &k.flow);
        r.netns = r.netns.or(k.netns);
        r.state = r.state.or(k.state);
        let sysctls = k.netns.and_then(|n| self.namespaces.get(n)).map(|n| n.sysctls(now)).unwrap_or_default();
        r.gives_up_in = after_retransmit(k, r, &sysctls, now);
        true
    }

    fn reset_event(&mut self, r: &mut Reset, now: Mono, out: &mut Vec<Event>) -> bool {
        if let Some(k) = r.socket.and_then(|id| self.table.get(id)) {
            complete(r, k);
        } else if !self.resolve(&mut r.socket, &r.flow, r.netns, now, out) {
            return false;
        } else if let Some(k) = r.socket.and_then(|id| self.table.get(id)) {
            complete(r, k);
        }
        r.idle_before = r.idle_before.or_else(|| idle_before(&r.detail));
        match r.direction {
            ResetDirection::Sent => r.origin = ResetOrigin::Local,
            ResetDirection::Received => {
                let verdict = origin::classify(&Facts { packet: r.packet, state: r.state, idle_before: r.idle_before });
                r.origin = verdict.origin;
                r.origin_why = verdict.why;
            }
        }
        true
    }

    fn socket_event(&mut self, u: &mut SocketUpdate, now: Mono, out: &mut Vec<Event>) -> bool {
        let mut id = u.id;
        if u.destroyed && id.is_some_and(|id| self.table.get(id).is_none()) {
            // It came and went unseen: nobody would learn anything from its end.
            return self.spec.all;
        }
        if !self.resolve(&mut id, &u.flow, u.netns, now, out) {
            return false;
        }
        if let (true, Some(id)) = (u.destroyed, id) {
            self.table.set_gone(id, now);
        }
        if let Some(k) = id.and_then(|id| self.table.get_mut(id)) {
            if u.remote_name.is_none() {
                u.remote_name.clone_from(&k.remote_name);
            }
            k.state = u.state.or(k.state);
        }
        true
    }
}

/// What a change of state and its socket say of each other.
fn changed(k: &mut Known, c: &mut StateChange, now: Mono) {
    if c.to == TcpState::SynSent {
        // It connects anew after a connect that failed.
        k.gone = None;
    }
    k.state = Some(c.to);
    fill(&mut c.flow, &k.flow);
    c.netns = c.netns.or(k.netns);
    if c.to == TcpState::Established && matches!(c.from, TcpState::SynRecv | TcpState::NewSynRecv) {
        k.opened = k.opened.or(Some(now));
        k.direction = Some(Direction::Incoming);
    }
}

/// What the socket of a RST says of it.
fn complete(r: &mut Reset, k: &Known) {
    r.pid = k.pid().or(r.pid);
    fill(&mut r.flow, &k.flow);
    r.netns = r.netns.or(k.netns);
    r.state = r.state.or(k.state);
}

/// Copies nothing where it is known already: most events tell their ends themselves.
fn fill(flow: &mut Option<Flow>, known: &Option<Flow>) {
    if flow.is_none() {
        *flow = *known;
    }
}

/// How long the connection had been silent before the last thing that was sent, or, if that was answered, until now.
/// From the ages in the socket at the event.
pub fn idle_before(d: &TcpDetail) -> Option<Duration> {
    let heard = match (d.last_ack, d.last_received) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b)?,
    };
    match d.last_sent {
        Some(sent) if sent < heard => Some(heard - sent),
        _ => Some(heard),
    }
}

/// The forecast right after a retransmission, from the socket's own numbers at that moment.
fn after_retransmit(k: &mut Known, r: &Retransmit, s: &Sysctls, now: Mono) -> Option<Duration> {
    let d = &r.detail;
    let state = r.state?;
    let before = d.rto?;
    let retransmits = d.retransmits.unwrap_or(0);
    // The timer that was stepped by this retransmission doubles right after it.
    let stepped = match r.how {
        RetransmitKind::Rto | RetransmitKind::Unknown => retransmits > 0,
        RetransmitKind::Syn => u32::from(retransmits) > s.syn_linear_timeouts,
        RetransmitKind::Fast | RetransmitKind::Tlp => false,
        RetransmitKind::Synack => return None,
    };
    let rto = if stepped { (before * 2).min(s.rto_max) } else { before };
    let user_timeout = d.user_timeout_ms.map_or_else(|| k.user_timeout(), |ms| Duration::from_millis(ms.into()));
    let mut input = Input {
        unacked: true,
        backoff: d.backoff.unwrap_or(0).saturating_add(u8::from(stepped)),
        retransmits,
        rtt: d.rtt,
        user_timeout,
        orphan: k.orphan,
        zero_window: d.send_window_bytes == Some(0),
        last_ack: d.last_ack,
        keepalive: k.keepalive,
        ..Input::new(state, rto)
    };
    if state == TcpState::SynSent {
        input.since_first_retransmit = k.opened.map(|t| now.since(t));
    } else if retransmits <= 1 {
        k.first_rto = (retransmits == 1).then_some(now);
    } else if k.first_rto.is_none() {
        k.first_rto = Some(now.minus(forecast::elapsed(&input, s)));
    }
    if let Some(first) = k.first_rto {
        input.since_first_retransmit = Some(now.since(first));
    }
    if !user_timeout.is_zero()
        && let Some(since) = input.since_first_retransmit
    {
        // `tcp_clamp_rto_to_user_timeout`: the next timer is not armed beyond the limit.
        input.timer_in = Some(rto.min(user_timeout.saturating_sub(since)).max(Duration::from_millis(1)));
    }
    forecast::gives_up_in(&input, s)
}
