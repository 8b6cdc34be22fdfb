//! A look at the socket: what moved since the last one.

use std::time::Duration;

use super::heard::{JIFFIES_SLACK, acknowledged, alive, answered, data_received, heard, progress};
use super::lifecycle::{enter, refine_fin};
use crate::model::{Mono, Sample, TcpMetrics, TcpState};
use crate::state::history::Happening;
use crate::state::socket::Socket;

/// Returns whether the sample said anything new: a look at an idle socket does not.
pub(in crate::state) fn sample(s: &mut Socket, at: Mono, x: &Sample) -> bool {
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
        s.note(when, Happening::Received(b - a));
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
        a.counted_ahead += u32::from(n).saturating_sub(a.syn_retransmits);
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
    a.counted_ahead += u32::from(n).saturating_sub(a.retransmits_since_heard);
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
    // Data that was acknowledged in between went through an open window: it closed anew.
    let shut = s.activity.zero_window_since.filter(|_| t.bytes_acked <= s.activity.zero_window_acked);
    s.activity.zero_window_acked = t.bytes_acked;
    s.activity.zero_window_since = match (closed, shut) {
        (false, _) => None,
        (true, Some(since)) => Some(since),
        // The window closed when the last data was sent into it, at the latest.
        (true, None) => Some(t.last_sent_ms.map_or(at, |ms| at.minus(Duration::from_millis(ms)))),
    };
}

/// Shorter pauses are part of one exchange.
const SHORTEST_GAP: Duration = Duration::from_secs(1);

/// New data left at `when` at the latest, at `first` at the earliest, after a silence since `last`.
fn sent(s: &mut Socket, when: Mono, n: Option<u64>, first: Option<Mono>, last: Option<Mono>) {
    let gap = first.zip(last).map(|(first, last)| first.since(last));
    if let Some(gap) = gap.filter(|g| *g >= SHORTEST_GAP) {
        s.activity.pending_gap = Some((when, gap));
        answered(&mut s.activity);
    }
    let idle = last.map(|l| when.since(l)).filter(|i| *i >= Duration::from_secs(2));
    s.note(when, Happening::Sent(Some(n.unwrap_or(0)), idle));
}
