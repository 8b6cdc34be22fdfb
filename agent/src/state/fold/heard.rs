//! When the peer was last heard, and what that answers.

use std::time::Duration;

use super::lifecycle::refine_fin;
use crate::model::{Mono, TcpDetail};
use crate::state::socket::{Activity, Socket};

/// Clock granularity of the kernel's jiffies stamps: two stamps of one instant may differ by this much.
pub(super) const JIFFIES_SLACK: Duration = Duration::from_millis(12);

/// How many RTOs in a row, ended by an ACK, still count as loss on a working path; more are an interruption.
pub(super) const LOSS_RTOS: u32 = 2;

/// Takes the exact ages of an event's detail into the activity record.
pub(super) fn detail(s: &mut Socket, at: Mono, d: &TcpDetail) {
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
    t.probes = d.probes.or(t.probes);
}

pub(super) fn data_received(s: &mut Socket, t: Mono) {
    let last = &mut s.activity.last_data_received;
    if last.is_none_or(|old| t > old.plus(JIFFIES_SLACK)) {
        *last = Some(t);
    }
}

/// Data was acknowledged beyond what was: retransmits before that say nothing of what is stuck now.
pub(super) fn progress(s: &mut Socket, at: Mono, bytes_acked: Option<u64>) {
    if bytes_acked.is_some() && bytes_acked > s.activity.acked_mark {
        // Two ACKs within the clock's granularity look like one: what they acknowledge tells them apart.
        if s.activity.unanswered_since.is_some() {
            alive(s, s.activity.last_heard.unwrap_or(at));
        }
        settle(s, at, bytes_acked);
        let a = &mut s.activity;
        if let (Some((before, mss)), Some(acked)) = (a.full_out.take(), bytes_acked)
            && acked >= before + u64::from(mss)
        {
            a.full_passed = a.full_passed.max(Some(mss));
        }
        a.full_retransmits = 0;
        a.small_retransmits = 0;
        a.acked_beside = false;
        a.acked_mark = bytes_acked;
    }
}

/// What was retransmitted is acknowledged: loss on a working path, unless the path was interrupted.
fn settle(s: &mut Socket, at: Mono, bytes_acked: Option<u64>) {
    // Everything that was out at the last look.
    let sent = s.tcp.bytes_acked.zip(s.tcp.unacked_bytes).map(|(acked, out)| acked + out);
    let a = &mut s.activity;
    let (retransmits, rtos) = (a.unsettled_retransmits, a.unsettled_rtos);
    (a.unsettled_retransmits, a.unsettled_rtos) = (0, 0);
    if rtos > LOSS_RTOS {
        a.recovery_mark = sent;
    } else if retransmits > 0 && a.recovery_mark.is_none() {
        a.progress_retransmits += u64::from(retransmits);
        a.first_loss = a.first_loss.or(Some(at));
        a.last_loss = Some(at);
    }
    if a.recovery_mark.is_some() && bytes_acked >= a.recovery_mark {
        a.recovery_mark = None;
    }
}

pub(super) fn heard(s: &mut Socket, t: Mono) {
    let a = &mut s.activity;
    if a.last_heard.is_none_or(|old| t > old.plus(JIFFIES_SLACK)) {
        // What came before the data left answers none of it. Two looks at the same ACK may differ by more than the
        // kernel's tick where the machine is slow.
        if a.unanswered_since.is_some_and(|since| t.plus(JIFFIES_SLACK) < since) {
            a.last_heard = a.last_heard.max(Some(t));
            return;
        }
        alive(s, t);
    }
}

/// The peer was heard at `t`: what was unanswered until then is a closed chapter.
pub(super) fn alive(s: &mut Socket, t: Mono) {
    let a = &mut s.activity;
    if a.retransmits_since_heard > 0 {
        // Unless the ACK makes progress (see `progress`), it is for something sent later.
        a.acked_beside = true;
        a.unsettled_retransmits = a.unsettled_retransmits.saturating_add(a.retransmits_since_heard);
        a.unsettled_rtos = a.unsettled_rtos.saturating_add(a.rto_since_heard);
        if a.acked_mark.is_none() {
            // This kernel does not count what was acknowledged: any ACK has to do.
            settle(s, t, None);
        }
    }
    let a = &mut s.activity;
    a.last_heard = a.last_heard.max(Some(t));
    if a.pending_gap.is_none()
        && let (Some(idle), Some(since)) = (a.idle_before, a.unanswered_since)
    {
        a.pending_gap = Some((since, idle));
    }
    answered(a);
    a.rto_since_heard = 0;
    a.counted_ahead = 0;
    a.last_rto = None;
    a.retransmits_since_heard = 0;
    a.unanswered_since = None;
    a.idle_before = None;
}

/// Nothing is in flight: a send after a gap was answered if the peer was heard about then or later. On a quick path
/// the ACK comes within the tick of the kernel's clock in which the data left.
pub(super) fn acknowledged(a: &mut Activity) {
    if let Some((sent, idle)) = a.pending_gap
        && a.last_heard.is_some_and(|t| t.plus(JIFFIES_SLACK) >= sent)
    {
        a.survived_gap = Some((sent, idle));
        a.longest_survived_idle = a.longest_survived_idle.max(Some(idle));
        a.pending_gap = None;
    }
}

/// The peer was heard after a send that followed a gap: the connection survived that gap.
pub(super) fn answered(a: &mut Activity) {
    if let Some((sent, idle)) = a.pending_gap
        && a.last_heard.is_some_and(|t| t > sent)
    {
        a.survived_gap = Some((sent, idle));
        a.longest_survived_idle = a.longest_survived_idle.max(Some(idle));
        a.pending_gap = None;
    }
}
