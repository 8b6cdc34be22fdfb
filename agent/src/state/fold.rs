//! How each kind of event changes a socket.

use std::time::Duration;

use super::socket::{Activity, HistoryKind, Socket};
use crate::model::{
    ActionKind, ActionRecord, ActionResult, Direction, Flow, Mono, Reset, ResetDirection, ResetOrigin, Retransmit,
    RetransmitKind, Sample, SetBy, SocketUpdate, StateChange, TcpDetail, TcpMetrics, TcpState,
};

pub(super) fn update(s: &mut Socket, at: Mono, u: &SocketUpdate) {
    s.family = u.family.or(s.family);
    s.flow = better(u.flow, s.flow);
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
            s.activity.keepalive_changed_at = Some(at);
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
        s.activity.idle_at_fin = last.map(|t| at.since(t));
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

pub(super) fn state(s: &mut Socket, at: Mono, c: &StateChange) {
    s.flow = better(c.flow, s.flow);
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
        data_received(s, t);
        refine_fin(s);
    }
    progress(s, at, d.bytes_acked);
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

fn data_received(s: &mut Socket, t: Mono) {
    let last = &mut s.activity.last_data_received;
    if last.is_none_or(|old| t > old.plus(JIFFIES_SLACK)) {
        *last = Some(t);
    }
}

/// The kernel's TCP_RTO_MIN.
const MIN_RTO: Duration = Duration::from_millis(200);

/// How many RTOs in a row, ended by an ACK, still count as loss on a working path; more are an interruption.
const LOSS_RTOS: u32 = 2;

/// Data was acknowledged beyond what was: retransmits before that say nothing of what is stuck now.
fn progress(s: &mut Socket, at: Mono, bytes_acked: Option<u64>) {
    if bytes_acked.is_some() && bytes_acked > s.activity.acked_mark {
        // Two ACKs within the clock's granularity look like one: what they acknowledge tells them apart.
        if s.activity.unanswered_since.is_some() {
            alive(s, s.activity.last_heard.unwrap_or(at));
        }
        let a = &mut s.activity;
        a.full_retransmits = 0;
        a.small_retransmits = 0;
        a.acked_beside = false;
        a.acked_mark = bytes_acked;
    }
}

/// A look after the FIN tells more exactly how long the connection had been idle when it came, and whether the
/// last word before it was the peer's: a FIN moves neither of the kernel's time stamps of data. An exchange right after
/// the handshake lies within the granularity of those stamps from the SYN.
fn refine_fin(s: &mut Socket) {
    let a = &mut s.activity;
    let (Some(fin), Some(data)) = (a.fin_received, a.last_data_received) else { return };
    if data > fin {
        return;
    }
    let sent = a.last_sent.filter(|w| *w <= fin);
    a.idle_at_fin = Some(fin.since(sent.map_or(data, |w| w.max(data))));
    a.outstanding_at_fin = sent.is_some_and(|w| w > data.plus(JIFFIES_SLACK));
}

fn heard(s: &mut Socket, t: Mono) {
    if s.activity.last_heard.is_none_or(|old| t > old.plus(JIFFIES_SLACK)) {
        alive(s, t);
    }
}

/// The peer was heard at `t`: what was unanswered until then is a closed chapter.
fn alive(s: &mut Socket, t: Mono) {
    let a = &mut s.activity;
    if a.retransmits_since_heard > 0 {
        // Unless the ACK makes progress (see `progress`), it is for something sent later.
        a.acked_beside = true;
        if a.rto_since_heard <= LOSS_RTOS {
            a.progress_retransmits += u64::from(a.retransmits_since_heard);
            a.first_loss = a.first_loss.or(Some(t));
            a.last_loss = Some(t);
        }
    }
    a.last_heard = a.last_heard.max(Some(t));
    if a.pending_gap.is_none()
        && let (Some(idle), Some(since)) = (a.idle_before, a.unanswered_since)
    {
        a.pending_gap = Some((since, idle));
    }
    answered(a);
    a.rto_since_heard = 0;
    a.last_rto = None;
    a.retransmits_since_heard = 0;
    a.unanswered_since = None;
    a.idle_before = None;
}

/// Nothing is in flight: a send after a gap was answered if the peer was heard about then or later. On a quick path
/// the ACK comes within the tick of the kernel's clock in which the data left.
fn acknowledged(a: &mut Activity) {
    if let Some((sent, idle)) = a.pending_gap
        && a.last_heard.is_some_and(|t| t.plus(JIFFIES_SLACK) >= sent)
    {
        a.survived_gap = Some((sent, idle));
        a.longest_survived_idle = a.longest_survived_idle.max(Some(idle));
        a.pending_gap = None;
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

/// Part of the MSS from which a segment counts as full: options may take some bytes of it.
const FULL_SEGMENT: f64 = 0.95;

/// When the tail-loss probe fires after the send: two round trips, and the minimum RTO more for a lone segment,
/// whose ACK the peer may delay; never later than the RTO would (kernel `tcp_schedule_loss_probe`).
fn tail_loss_timer(d: &TcpDetail) -> Option<Duration> {
    let mut timer = d.rtt? * 2;
    if d.unacked_segments == Some(1) {
        timer += Duration::from_millis(200);
    }
    Some(d.rto.map_or(timer, |rto| timer.min(rto)))
}

pub(super) fn retransmit(s: &mut Socket, at: Mono, r: &Retransmit) {
    s.flow = better(r.flow, s.flow);
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
            RetransmitKind::Tlp => tail_loss_timer(&r.detail),
            // A fast retransmit answers an ACK; the timer has not run out.
            RetransmitKind::Fast => r.detail.rtt,
            _ => r.detail.rto.or(s.tcp.rto),
        };
        let by_timer = at.minus(timer.unwrap_or_default());
        // A sample between the send and this retransmit has seen the send itself.
        let sent = match (a.last_sent, a.last_heard) {
            (Some(w), Some(h)) if w > h => w.min(by_timer).max(h),
            // What is in flight may be older than the last ACK; the silence is not.
            (_, h) => by_timer.max(h.unwrap_or_default()),
        };
        a.unanswered_since = Some(sent);
        a.idle_before = a.last_heard.map(|t| sent.since(t));
        let idle = a.idle_before.filter(|i| *i >= Duration::from_secs(2));
        // A sample that saw the send has told it already.
        let told = s.history.iter().any(|h| h.kind == HistoryKind::Sent && h.at.plus(JIFFIES_SLACK) >= sent);
        if let (Some(idle), false) = (idle, told) {
            let what = r.detail.unacked_bytes.filter(|n| *n > 0).map_or_else(|| "data".into(), bytes);
            s.note(sent, HistoryKind::Sent, format!("{what} sent after {} idle", span(idle)));
        }
    }
    let a = &mut s.activity;
    if let (Some(size), Some(mss)) = (r.detail.segment_bytes, r.detail.send_mss)
        && mss > 0
        && r.how != RetransmitKind::Tlp
    {
        if f64::from(size) >= f64::from(mss) * FULL_SEGMENT {
            a.full_retransmits += 1;
        } else {
            a.small_retransmits += 1;
        }
    }
    a.retransmits_since_heard += r.segments;
    let mut text = match r.how {
        RetransmitKind::Rto => {
            // After a timeout the kernel sends everything again as ACKs come in: only what comes a timer later is
            // another timeout.
            let timer = r.detail.rto.unwrap_or(MIN_RTO) / 2;
            if a.last_rto.is_none_or(|last| at.since(last) >= timer) {
                a.rto_since_heard += 1;
                a.last_rto = Some(at);
            }
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
    s.flow = better(r.flow, s.flow);
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
    let mut reset = r.clone();
    // The classic tracepoints do not tell the state; it changes only after a received RST.
    reset.state = r.state.or(s.state);
    if s.last_reset_at.is_none() || r.direction == ResetDirection::Received {
        s.last_reset = Some(reset);
        s.last_reset_at = Some(at);
    }
    s.note(at, HistoryKind::Reset, text);
}

/// Returns whether the sample said anything new: a look at an idle socket does not.
pub(super) fn sample(s: &mut Socket, at: Mono, x: &Sample) -> bool {
    let old = s.tcp;
    let mut news = s.tcp_at.is_none() || s.state != Some(x.state);
    if s.state != Some(x.state) {
        enter(s, at, x.state);
    }
    let t = &x.tcp;
    let ago = |ms: Option<u64>| ms.map(|ms| at.minus(Duration::from_millis(ms)));
    let before = s.activity;
    let sampled_before = s.tcp_at;
    let received = ago(t.last_received_ms).filter(|_| t.bytes_received.is_some_and(|b| b > 0));
    if let Some(when) = received {
        heard(s, when);
        data_received(s, when);
    }
    if let Some(when) = ago(t.last_ack_ms) {
        heard(s, when);
    }
    progress(s, at, t.bytes_acked);
    if t.unacked_segments == Some(0) && s.activity.unanswered_since.is_some() && s.state != Some(TcpState::SynSent) {
        // Nothing is in flight: whatever was unanswered has been answered.
        let heard_at = ago(t.last_ack_ms).unwrap_or(at);
        alive(s, heard_at);
    }
    let again = t.retransmits.is_some_and(|n| n > 0);
    if let Some(when) = ago(t.last_sent_ms)
        && s.activity.retransmits_since_heard == 0
        && !again
    {
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
    if t.unacked_segments == Some(0) && s.state != Some(TcpState::SynSent) {
        acknowledged(&mut s.activity);
    }
    refine_fin(s);
    unanswered(s, at, t);
    exchange(s, t, received, ago(t.last_sent_ms));
    window(s, at, t);
    if let (Some(a), Some(b)) = (old.bytes_received, t.bytes_received)
        && b > a
        && let Some(when) = s.activity.last_data_received
    {
        s.note(when, HistoryKind::Received, format!("{} received", bytes(b - a)));
    }
    if s.activity.data_segments_at_first.is_none() {
        // Of a connection whose beginning was seen, everything counts.
        let seen_from_start = s.activity.established_at.is_some();
        s.activity.data_segments_at_first = t.data_segments_sent.map(|n| if seen_from_start { 0 } else { n });
    }
    news |= says_more(&old, t) || s.activity != before;
    s.tcp = *t;
    s.tcp_at = Some(at);
    s.gives_up_at = x.gives_up_in.map(|d| at.plus(d));
    news
}

/// Whether two samples differ in more than what the clock moves.
fn says_more(old: &TcpMetrics, new: &TcpMetrics) -> bool {
    let still = |t: &TcpMetrics| TcpMetrics {
        last_sent_ms: None,
        last_received_ms: None,
        last_ack_ms: None,
        timer_ms: None,
        ..*t
    };
    still(old) != still(new)
}

/// Retransmits that only samples show: without the tracepoints, or with their records lost.
fn unanswered(s: &mut Socket, at: Mono, t: &TcpMetrics) {
    let (Some(n), Some(out)) = (t.retransmits, t.unacked_segments) else { return };
    let a = &mut s.activity;
    if n == 0 || out == 0 || u32::from(n) <= a.rto_since_heard {
        return;
    }
    if s.state == Some(TcpState::SynSent) {
        a.syn_retransmits = a.syn_retransmits.max(u32::from(n));
        return;
    }
    if a.unanswered_since.is_none()
        && let (Some(rto), Some(last)) = (t.rto, t.last_sent_ms)
    {
        // The last of n retransmits was `last` ago, and the timers before it were base, 2 base, 4 base, ...
        let doublings = u32::from(t.backoff.unwrap_or(n)).min(20);
        let base = rto / (1 << doublings);
        let spent = base * ((1 << doublings) - 1) + Duration::from_millis(last);
        let since = at.minus(spent).max(a.last_heard.unwrap_or_default());
        a.unanswered_since = Some(since);
        a.idle_before = a.last_heard.map(|h| since.since(h));
    }
    a.retransmits_since_heard = a.retransmits_since_heard.max(u32::from(n));
    a.rto_since_heard = u32::from(n);
}

/// How much was sent since the peer's last data: tells a request from the few bytes of a protocol's housekeeping.
fn exchange(s: &mut Socket, t: &TcpMetrics, received: Option<Mono>, sent: Option<Mono>) {
    let a = &mut s.activity;
    match (t.bytes_sent, received, sent) {
        (Some(b), None, _) => a.sent_since_received = Some(b),
        (Some(b), Some(r), Some(w)) if r >= w => {
            a.sent_mark = Some(b);
            a.sent_since_received = Some(0);
        }
        (Some(b), Some(_), Some(_)) => a.sent_since_received = a.sent_mark.map(|m| b.saturating_sub(m)),
        _ => {}
    }
}

/// sock_diag's number of the zero-window probe timer.
const TIMER_PROBE0: u8 = 4;

fn window(s: &mut Socket, at: Mono, t: &TcpMetrics) {
    // Before the handshake ends no window is known.
    let open = matches!(s.state, Some(TcpState::Established | TcpState::CloseWait | TcpState::FinWait1));
    let waiting = t.send_window_bytes == Some(0) && t.send_queue_bytes.is_some_and(|q| q > 0);
    let closed = open && (t.timer == Some(TIMER_PROBE0) || waiting);
    s.activity.zero_window_since = match (closed, s.activity.zero_window_since) {
        (false, _) => None,
        (true, Some(since)) => Some(since),
        // The window closed when the last data was sent into it, at the latest.
        (true, None) => Some(t.last_sent_ms.map_or(at, |ms| at.minus(Duration::from_millis(ms)))),
    };
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
        text.push_str(&format!(" after {} idle", span(idle)));
    }
    s.note(when, HistoryKind::Sent, text);
}

/// Shorter pauses are part of one exchange.
const SHORTEST_GAP: Duration = Duration::from_secs(1);

/// `8.0 s`, from a minute on `5:02`.
fn span(d: Duration) -> String {
    match d.as_secs() {
        0..60 => format!("{:.1} s", d.as_secs_f64()),
        s => format!("{}:{:02}", s / 60, s % 60),
    }
}

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
        s.activity.keepalive_changed_at = Some(at);
        s.keepalive = Some(crate::model::Keepalive {
            enabled: o.enabled,
            idle_s: o.idle_s,
            interval_s: o.interval_s,
            count: o.count,
            user_timeout_ms: o.user_timeout_ms,
            set_by: o.enabled.then_some(if a.action == ActionKind::Undo { SetBy::Application } else { SetBy::Agent }),
        });
    }
    if a.action == ActionKind::Close && a.result == ActionResult::Applied {
        s.activity.closed_by_agent = Some(at);
    }
    if let Some(why) = a.error.as_ref().or(a.note.as_ref()) {
        text.push_str(&format!(" ({why})"));
    }
    s.note(at, HistoryKind::Action, text);
}

/// The newer ends of a connection, unless they say less: the kernel takes the local port away from a socket that it
/// closes, and has not given one yet when the SYN state begins.
fn better(new: Option<Flow>, old: Option<Flow>) -> Option<Flow> {
    match (new, old) {
        (Some(n), Some(o)) if (n.local.port() == 0 && o.local.port() != 0) || n.remote.port() == 0 => Some(o),
        (n, o) => n.or(o),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SocketId, TcpMetrics};

    #[test]
    fn a_socket_that_was_open_before_keeps_its_idle_time() {
        let found = Mono::from_secs_f64(1_000.0);
        for state in [TcpState::Established, TcpState::CloseWait] {
            let mut s = Socket::new(SocketId(1), found);
            update(&mut s, found, &SocketUpdate { state: Some(state), ..SocketUpdate::default() });
            let tcp = TcpMetrics {
                last_sent_ms: Some(302_000),
                last_received_ms: Some(301_000),
                last_ack_ms: Some(301_500),
                bytes_received: Some(5),
                ..TcpMetrics::default()
            };
            sample(&mut s, found, &Sample { socket: SocketId(1), state, tcp, gives_up_in: None });
            assert_eq!(s.idle(found), Some(Duration::from_secs(301)), "{state}");
        }
    }
}
