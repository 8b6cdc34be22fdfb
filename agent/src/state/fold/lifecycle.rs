//! What a socket is and in which state: its ends, owners, keepalive, opening and end.

use super::heard::JIFFIES_SLACK;
use crate::model::{Direction, Flow, Mono, Owner, SetBy, SocketUpdate, StateChange, TcpState};
use crate::state::history::Happening;
use crate::state::socket::Socket;

/// Moves owners and name out of `u`.
pub(in crate::state) fn update(s: &mut Socket, at: Mono, u: &mut SocketUpdate) {
    s.family = u.family.or(s.family);
    improve(&mut s.flow, &u.flow);
    if u.remote_name.is_some() {
        s.remote_name = u.remote_name.take();
    }
    s.netns = u.netns.or(s.netns);
    s.direction = u.direction.or(s.direction);
    s.mptcp = u.mptcp.or(s.mptcp);
    if let Some(opened) = u.opened {
        if s.opened.is_none() {
            s.note(opened, Happening::Opened);
        }
        s.opened = Some(opened);
    }
    if let Some(owners) = u.owners.take_if(|owners| !owners.is_empty()) {
        s.owners = owners;
        s.orphaned = false;
    }
    if let Some(state) = u.state
        && s.state != Some(state)
    {
        enter(s, at, state);
    }
    if let Some(k) = u.keepalive {
        let changed = s.keepalive.is_some_and(|old| old != k);
        let set_by = match (k.enabled, k.set_by, s.keepalive) {
            (false, _, _) => None,
            (true, Some(by), _) => Some(by),
            (true, None, Some(old)) if old.enabled => old.set_by,
            (true, None, _) => Some(SetBy::Application),
        };
        let k = crate::model::Keepalive { set_by, ..k };
        if changed && s.keepalive != Some(k) {
            s.activity.keepalive_changed_at = Some(at);
            s.note(at, Happening::Keepalive(k.enabled.then_some((k.idle_s, k.interval_s, k.count))));
        }
        s.keepalive = Some(k);
    }
    if let Some(c) = u.counters {
        s.counters = c;
    }
    if u.destroyed && s.closed_at.is_none() {
        s.closed_at = Some(at);
        s.gives_up_at = None;
        s.note(at, Happening::Closed);
    }
}

pub(super) fn enter(s: &mut Socket, at: Mono, to: TcpState) {
    let from = s.state;
    s.state = Some(to);
    s.state_since = Some(at);
    match to {
        TcpState::SynSent => {
            // connect() on a socket whose last connect failed.
            s.closed_at = None;
            s.direction = Some(Direction::Outgoing);
            s.activity.last_sent = Some(at);
        }
        TcpState::SynRecv => s.direction = Some(Direction::Incoming),
        TcpState::Established => {
            if matches!(from, Some(TcpState::SynSent | TcpState::SynRecv)) {
                s.activity.established_at = Some(at);
            }
            // A state at first sight may be hours old: only a change says that something was heard now.
            if from.is_some() {
                s.activity.last_heard = s.activity.last_heard.max(Some(at));
            }
            s.gives_up_at = None;
        }
        TcpState::CloseWait => fin_received(s, at, from.is_some()),
        TcpState::Closing => {
            fin_received(s, at, from.is_some());
            s.activity.app_closed_at = s.activity.app_closed_at.or(Some(at));
        }
        TcpState::FinWait1 | TcpState::LastAck => s.activity.app_closed_at = s.activity.app_closed_at.or(Some(at)),
        TcpState::TimeWait if from == Some(TcpState::FinWait2) => fin_received(s, at, true),
        TcpState::Close => {
            s.closed_at = Some(at);
            s.gives_up_at = None;
        }
        _ => {}
    }
}

/// `seen`: the FIN came now; otherwise the socket was found so, and it came some time before.
fn fin_received(s: &mut Socket, at: Mono, seen: bool) {
    // The event is exact; a sample may have shown the new state before the event was read.
    if s.activity.fin_received.is_none_or(|t| at < t) {
        let last = s.activity.last_data_received.max(s.activity.last_sent);
        s.activity.fin_unseen = !seen;
        s.activity.idle_at_fin = last.filter(|_| seen).map(|t| at.since(t));
        s.activity.outstanding_at_fin = s
            .activity
            .last_sent
            .is_some_and(|w| s.activity.last_data_received.is_none_or(|d| w > d.plus(JIFFIES_SLACK)))
            && s.tcp.bytes_sent.is_none_or(|b| b > 0);
        s.activity.bytes_sent_at_fin = s.tcp.bytes_sent;
        s.activity.fin_received = Some(at);
        if seen {
            s.activity.last_heard = s.activity.last_heard.max(Some(at));
        }
    }
}

pub(in crate::state) fn state(s: &mut Socket, at: Mono, c: &StateChange) {
    improve(&mut s.flow, &c.flow);
    s.netns = c.netns.or(s.netns);
    if c.to == TcpState::SynSent && s.opened.is_none() {
        s.opened = Some(at);
    }
    if s.state.is_none() {
        s.state = Some(c.from);
    }
    enter(s, at, c.to);
    s.note(at, Happening::State(c.from, c.to));
}

/// A look after the FIN tells more exactly how long the connection had been idle when it came, and whether the
/// last word before it was the peer's: a FIN moves neither of the kernel's time stamps of data. An exchange right after
/// the handshake lies within the granularity of those stamps from the SYN.
pub(super) fn refine_fin(s: &mut Socket) {
    let a = &mut s.activity;
    if a.fin_unseen {
        // The FIN carried an ACK; an open connection's probes may have brought later ones.
        a.fin_received = a.fin_received.min(a.last_heard).or(a.fin_received);
        return;
    }
    let (Some(fin), Some(data)) = (a.fin_received, a.last_data_received) else { return };
    if data > fin {
        return;
    }
    let sent = a.last_sent.filter(|w| *w <= fin);
    a.idle_at_fin = Some(fin.since(sent.map_or(data, |w| w.max(data))));
    a.outstanding_at_fin = sent.is_some_and(|w| w > data.plus(JIFFIES_SLACK));
}

pub(in crate::state) fn owner_exit(s: &mut Socket, pid: u32) {
    if s.owners.iter().all(|o| o.pid == pid) {
        // The last owner's name stays; only its descriptor is gone.
        s.owners = s.owners.iter().map(|o| Owner { fd: None, ..o.clone() }).collect();
        s.orphaned = true;
    } else {
        s.owners = s.owners.iter().filter(|o| o.pid != pid).cloned().collect();
    }
}

/// Takes in the newer ends of a connection, unless they say less: the kernel takes the local port away from a socket that
/// it closes, and has not given one yet when the SYN state begins.
pub(super) fn improve(known: &mut Option<Flow>, new: &Option<Flow>) {
    let Some(n) = new else { return };
    let less = known.as_ref().is_some_and(|k| (n.local.port() == 0 && k.local.port() != 0) || n.remote.port() == 0);
    if !less {
        *known = *new;
    }
}
