//! How each kind of event changes a socket.

use std::time::Duration;

use super::socket::{Activity, HistoryKind, Socket};
use crate::model::{
    ActionKind, ActionRecord, ActionResult, Direction, Mono, Reset, ResetDirection, ResetOrigin, Retransmit,
    RetransmitKind, Sample, SetBy, SocketUpdate, StateChange, TcpDetail, TcpState,
};

pub(super) fn update(s: &mut Socket, at: Mono, u: &SocketUpdate) {
    s.family = u.family.or(s.family);
    s.flow = u.flow.or(s.flow);
    if u.remote_name.is_some() {
        s.remote_name.clone_from(&u.remote_name);
    }
    s.netns = u.netns.or(s.netns);
    s.direction = u.direction.or(s.direction);
    s.mptcp = u.mptcp.or(s.mptcp);
    if let Some(opened) = u.opened {
        if s.opened.is_none() {
            s.note(opened, HistoryKind::Opened, "opened".into());
        }
        s.opened = Some(opened);
    }
    if let Some(owners) = &u.owners
        && !owners.is_empty()
    {
        s.owners.clone_from(owners);
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
            let text = if k.enabled {
                format!("SO_KEEPALIVE on, {}s/{}s/{}", k.idle_s, k.interval_s, k.count)
            } else {
                "SO_KEEPALIVE off".into()
            };
            s.note(at, HistoryKind::Keepalive, text);
        }
        s.keepalive = Some(k);
    }
    if let Some(c) = u.counters {
        s.counters = c;
    }
    if u.destroyed && s.closed_at.is_none() {
        s.closed_at = Some(at);
        s.gives_up_at = None;
        s.note(at, HistoryKind::Closed, "socket gone".into());
    }
}

fn enter(s: &mut Socket, at: Mono, to: TcpState) {
    let from = s.state;
    s.state = Some(to);
    s.state_since = Some(at);
    match to {
        TcpState::SynSent => {
            s.direction = Some(Direction::Outgoing);
            s.activity.last_sent = Some(at);
        }
        TcpState::SynRecv => s.direction = Some(Direction::Incoming),
        TcpState::Established => {
            s.activity.last_heard = s.activity.last_heard.max(Some(at));
            s.gives_up_at = None;
        }
        TcpState::CloseWait | TcpState::Closing => fin_received(s, at),
        TcpState::TimeWait if from == Some(TcpState::FinWait2) => fin_received(s, at),
        TcpState::Close => {
            s.closed_at = Some(at);
            s.gives_up_at = None;
        }
        _ => {}
    }
}

fn fin_received(s: &mut Socket, at: Mono) {
    if s.activity.fin_received.is_none() {
        let last = s.activity.last_data_received.max(s.activity.last_sent);
        s.activity.idle_at_fin = last.map(|t| at.since(t));
        s.activity.fin_received = Some(at);
        s.activity.last_heard = s.activity.last_heard.max(Some(at));
    }
}

pub(super) fn state(s: &mut Socket, at: Mono, c: &StateChange) {
    s.flow = c.flow.or(s.flow);
    s.netns = c.netns.or(s.netns);
    if c.to == TcpState::SynSent && s.opened.is_none() {
        s.opened = Some(at);
    }
    if s.state.is_none() {
        s.state = Some(c.from);
    }
    enter(s, at, c.to);
    s.note(at, HistoryKind::State, format!("{} → {}", c.from, c.to));
}

/// Takes the exact ages of an event's detail into the activity record.
fn detail(s: &mut Socket, at: Mono, d: &TcpDetail) {
    if let Some(age) = d.last_ack {
        heard(s, at.minus(age));
    }
    if let Some(age) = d.last_received {
        let t = at.minus(age);
        heard(s, t);
        s.activity.last_data_received = s.activity.last_data_received.max(Some(t));
    }
    let t = &mut s.tcp;
    t.rtt = d.rtt.or(t.rtt);
    t.rto = d.rto.or(t.rto);
    t.backoff = d.backoff.or(t.backoff);
    t.retransmits = d.retransmits.or(t.retransmits);
    t.total_retransmits = d.total_retransmits.or(t.total_retransmits);
    t.unacked_segments = d.unacked_segments.or(t.unacked_segments);
    t.unacked_bytes = d.unacked_bytes.or(t.unacked_bytes);
    t.send_queue_bytes = d.send_queue_bytes.or(t.send_queue_bytes);
    t.bytes_sent = d.bytes_sent.or(t.bytes_sent);
    t.bytes_acked = d.bytes_acked.or(t.bytes_acked);
    t.bytes_received = d.bytes_received.or(t.bytes_received);
    t.send_mss = d.send_mss.or(t.send_mss);
    t.send_window_bytes = d.send_window_bytes.or(t.send_window_bytes);
}

/// Clock granularity of the kernel's jiffies stamps: two stamps of one instant may differ by this much.
const JIFFIES_SLACK: Duration = Duration::from_millis(12);

fn heard(s: &mut Socket, t: Mono) {
    let a = &mut s.activity;
    if a.last_heard.is_none_or(|old| t > old.plus(JIFFIES_SLACK)) {
        a.last_heard = Some(t);
        if a.pending_gap.is_none()
            && let (Some(idle), Some(since)) = (a.idle_before, a.unanswered_since)
        {
            a.pending_gap = Some((since, idle));
        }
        answered(a);
        a.rto_since_heard = 0;
        a.retransmits_since_heard = 0;
        a.unanswered_since = None;
        a.idle_before = None;
    }
}

/// The peer was heard after a send that followed a gap: the connection survived that gap.
fn answered(a: &mut Activity) {
    if let Some((sent, idle)) = a.pending_gap
        && a.last_heard.is_some_and(|t| t > sent)
    {
        a.survived_gap = Some((sent, idle));
        a.longest_survived_idle = a.longest_survived_idle.max(Some(idle));
        a.pending_gap = None;
    }
}

pub(super) fn retransmit(s: &mut Socket, at: Mono, r: &Retransmit) {
    s.flow = r.flow.or(s.flow);
    s.netns = r.netns.or(s.netns);
    if s.state.is_none() {
        s.state = r.state;
    }
    detail(s, at, &r.detail);
    let segments = u64::from(r.segments);
    s.counters.retransmits += segments;
    match r.how {
        RetransmitKind::Rto => s.counters.rto += segments,
        RetransmitKind::Fast => s.counters.fast += segments,
        RetransmitKind::Tlp => s.counters.tlp += segments,
        RetransmitKind::Syn | RetransmitKind::Synack => s.counters.syn += segments,
        RetransmitKind::Unknown => {}
    }
    s.roll_spark(at);
    s.spark[7] = s.spark[7].saturating_add(r.segments.min(u32::from(u16::MAX)) as u16);
    let a = &mut s.activity;
    if r.how == RetransmitKind::Syn {
        a.syn_retransmits += 1;
    }
    if a.unanswered_since.is_none() {
        // The first retransmit of a silence: what is missing was sent one timer ago.
        let timer = match r.how {
            RetransmitKind::Tlp => r.detail.rtt.map(|t| t * 2),
            _ => r.detail.rto,
        };
        let sent = at.minus(timer.unwrap_or_default());
        a.unanswered_since = Some(sent);
        a.idle_before = a.last_heard.map(|t| sent.since(t));
    }
    a.retransmits_since_heard += r.segments;
    let mut text = match r.how {
        RetransmitKind::Rto => {
            a.rto_since_heard += 1;
            format!("RTO {}", a.rto_since_heard)
        }
        RetransmitKind::Fast => "fast retransmit".into(),
        RetransmitKind::Tlp => "tail-loss probe".into(),
        RetransmitKind::Syn => format!("SYN again ({})", a.syn_retransmits),
        RetransmitKind::Synack => "SYN-ACK again".into(),
        RetransmitKind::Unknown => "retransmit".into(),
    };
    if let Some(b) = r.detail.backoff.filter(|b| *b > 0) {
        text.push_str(&format!(", backoff {b}"));
    }
    s.gives_up_at = r.gives_up_in.map(|d| at.plus(d));
    s.note(at, HistoryKind::Retransmit, text);
}

pub(super) fn reset(s: &mut Socket, at: Mono, r: &Reset) {
    s.flow = r.flow.or(s.flow);
    s.netns = r.netns.or(s.netns);
    detail(s, at, &r.detail);
    let (arrow, who) = match r.direction {
        ResetDirection::Received => {
            s.counters.resets_received += 1;
            ("← RST received", r.origin)
        }
        ResetDirection::Sent => {
            s.counters.resets_sent += 1;
            ("→ RST sent", ResetOrigin::Local)
        }
    };
    let origin = match who {
        ResetOrigin::Peer => " from the peer",
        ResetOrigin::Middlebox => " from a middlebox",
        ResetOrigin::Local => " by this host",
        ResetOrigin::Unknown => "",
    };
    let mut text = format!("{arrow}{origin}");
    if let Some(reason) = &r.kernel_reason {
        text.push_str(&format!(" ({reason})"));
    }
    s.last_reset = Some(r.clone());
    s.last_reset_at = Some(at);
    s.note(at, HistoryKind::Reset, text);
}

pub(super) fn sample(s: &mut Socket, at: Mono, x: &Sample) {
    let old = s.tcp;
    if s.state != Some(x.state) {
        enter(s, at, x.state);
    }
    let t = &x.tcp;
    let before = s.activity;
    let sampled_before = s.tcp_at;
    if let Some(ms) = t.last_received_ms
        && t.bytes_received.is_some_and(|b| b > 0)
    {
        let when = at.minus(Duration::from_millis(ms));
        heard(s, when);
        s.activity.last_data_received = s.activity.last_data_received.max(Some(when));
    }
    if let Some(ms) = t.last_ack_ms {
        heard(s, at.minus(Duration::from_millis(ms)));
    }
    if let Some(ms) = t.last_sent_ms
        && s.activity.retransmits_since_heard == 0
    {
        let when = at.minus(Duration::from_millis(ms));
        let grew = match (old.bytes_sent, t.bytes_sent) {
            (Some(a), Some(b)) => b > a,
            _ => false,
        };
        if s.activity.last_sent.is_none_or(|o| when > o.plus(JIFFIES_SLACK)) {
            if grew {
                let one_segment = match (old.data_segments_sent, t.data_segments_sent) {
                    (Some(a), Some(b)) => b.wrapping_sub(a) == 1,
                    _ => false,
                };
                let last = before.last_heard.max(before.last_sent);
                // Several segments: the first may have left right after the sample before this one.
                let first_send = if one_segment { Some(when) } else { sampled_before.map(|t| t.min(when)) };
                sent(s, when, old.bytes_sent.zip(t.bytes_sent).map(|(a, b)| b - a), first_send, last);
            }
            s.activity.last_sent = Some(when);
        }
    }
    if let (Some(a), Some(b)) = (old.bytes_received, t.bytes_received)
        && b > a
        && let Some(when) = s.activity.last_data_received
    {
        s.note(when, HistoryKind::Received, format!("{} received", bytes(b - a)));
    }
    s.tcp = *t;
    s.tcp_at = Some(at);
    s.gives_up_at = x.gives_up_in.map(|d| at.plus(d));
}

/// New data left at `when` at the latest, at `first` at the earliest, after a silence since `last`.
fn sent(s: &mut Socket, when: Mono, n: Option<u64>, first: Option<Mono>, last: Option<Mono>) {
    let gap = first.zip(last).map(|(first, last)| first.since(last));
    if let Some(gap) = gap.filter(|g| *g >= SHORTEST_GAP) {
        s.activity.pending_gap = Some((when, gap));
        answered(&mut s.activity);
    }
    let mut text = format!("{} sent", bytes(n.unwrap_or(0)));
    let idle = last.map(|l| when.since(l));
    if let Some(idle) = idle.filter(|i| *i >= Duration::from_secs(2)) {
        text.push_str(&format!(" after {:.1} s idle", idle.as_secs_f64()));
    }
    s.note(when, HistoryKind::Sent, text);
}

/// Shorter pauses are part of one exchange.
const SHORTEST_GAP: Duration = Duration::from_secs(1);

/// `94 KiB`: binary units, no fraction from 10 on.
fn bytes(n: u64) -> String {
    match n {
        0..=1023 => format!("{n} B"),
        1024..=1_048_575 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
}

pub(super) fn owner_exit(s: &mut Socket, pid: u32) {
    if s.owners.iter().all(|o| o.pid == pid) {
        // The last owner's name stays; only its descriptor is gone.
        for o in &mut s.owners {
            o.fd = None;
        }
        s.orphaned = true;
    } else {
        s.owners.retain(|o| o.pid != pid);
    }
}

pub(super) fn action(s: &mut Socket, at: Mono, a: &ActionRecord) {
    let what = match a.action {
        ActionKind::Keepalive => "keepalive",
        ActionKind::UserTimeout => "user timeout",
        ActionKind::Close => "close",
        ActionKind::Undo => "undo",
    };
    let result = match a.result {
        ActionResult::Applied => "applied",
        ActionResult::Unchanged => "unchanged",
        ActionResult::Failed => "failed",
        ActionResult::WouldApply => "would apply",
    };
    let mut text = format!("{what} {result}");
    if let (ActionResult::Applied, Some(o)) = (a.result, a.after) {
        text.push_str(&format!(": {}s/{}s/{}", o.idle_s, o.interval_s, o.count));
        if o.user_timeout_ms > 0 {
            text.push_str(&format!(", user timeout {} ms", o.user_timeout_ms));
        }
        s.keepalive = Some(crate::model::Keepalive {
            enabled: o.enabled,
            idle_s: o.idle_s,
            interval_s: o.interval_s,
            count: o.count,
            user_timeout_ms: o.user_timeout_ms,
            set_by: o.enabled.then_some(if a.action == ActionKind::Undo { SetBy::Application } else { SetBy::Agent }),
        });
    }
    if let Some(why) = a.error.as_ref().or(a.note.as_ref()) {
        text.push_str(&format!(" ({why})"));
    }
    s.note(at, HistoryKind::Action, text);
}
