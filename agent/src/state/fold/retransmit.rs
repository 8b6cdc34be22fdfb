//! A retransmit: what has been unanswered since when, and how it was found missing.

use std::time::Duration;

use super::heard::{JIFFIES_SLACK, detail};
use super::lifecycle::improve;
use crate::model::{Mono, Retransmit, RetransmitKind, TcpDetail};
use crate::state::history::{Happening, HistoryKind, Retransmitted};
use crate::state::socket::Socket;

/// The kernel's TCP_RTO_MIN.
const MIN_RTO: Duration = Duration::from_millis(200);

/// Timers that may run before the one that shows a retransmit first: the tail-loss probe, which starts the RTO anew, and
/// the shorter RTOs before a doubled one, whose records were lost.
const TIMERS: u32 = 3;

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

pub(in crate::state) fn retransmit(s: &mut Socket, at: Mono, r: &Retransmit) {
    improve(&mut s.flow, &r.flow);
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
    // A sample may see a retransmit before its event is read here.
    let counted = a.counted_ahead.min(r.segments);
    a.counted_ahead -= counted;
    if r.how == RetransmitKind::Syn && counted == 0 {
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
        // A sample between the send and this retransmit has seen the send itself. What was sent much longer ago would
        // have been retransmitted before: it was answered, however a slow look dated it.
        let recent = |w: Mono| by_timer.since(w) <= timer.unwrap_or_default().max(MIN_RTO) * TIMERS;
        let sent = match (a.last_sent, a.last_heard) {
            (Some(w), Some(h)) if w > h && recent(w) => w.min(by_timer).max(h),
            // What is in flight may be older than the last ACK; the silence is not.
            (_, h) => by_timer.max(h.unwrap_or_default()),
        };
        a.unanswered_since = Some(sent);
        a.idle_before = a.last_heard.map(|t| sent.since(t));
        let idle = a.idle_before.filter(|i| *i >= Duration::from_secs(2));
        // A sample that saw the send has told it already.
        let told = s.history.iter().any(|h| h.kind() == HistoryKind::Sent && h.at.plus(JIFFIES_SLACK) >= sent);
        if let (Some(idle), false) = (idle, told) {
            s.note(sent, Happening::Sent(r.detail.unacked_bytes.filter(|n| *n > 0), Some(idle)));
        }
    }
    let a = &mut s.activity;
    if let (Some(size), Some(mss)) = (r.detail.segment_bytes, r.detail.send_mss)
        && mss > 0
        && r.how != RetransmitKind::Tlp
    {
        if f64::from(size) >= f64::from(mss) * FULL_SEGMENT {
            a.full_retransmits += 1;
            a.full_out = r.detail.bytes_acked.map(|acked| (acked, mss));
        } else {
            a.small_retransmits += 1;
        }
    }
    a.retransmits_since_heard += r.segments - counted;
    // An ACK of new data has set `icsk_retransmits` back to 0, the timer counts it up first.
    let by_ack = r.how == RetransmitKind::Rto && r.detail.retransmits == Some(0);
    if r.how == RetransmitKind::Rto && !by_ack {
        // After a timeout the kernel sends everything again as ACKs come in: only what comes a timer later is another
        // timeout.
        let timer = r.detail.rto.unwrap_or(MIN_RTO) / 2;
        if a.last_rto.is_none_or(|last| at.since(last) >= timer) {
            a.rto_since_heard += u32::from(counted == 0);
            a.last_rto = Some(at);
        }
    }
    let nth = if r.how == RetransmitKind::Syn { a.syn_retransmits } else { a.rto_since_heard };
    let again = Retransmitted { how: r.how, nth, by_ack, backoff: r.detail.backoff.unwrap_or(0) };
    s.gives_up_at = r.gives_up_in.map(|d| at.plus(d));
    s.note(at, Happening::Retransmit(again));
}
