//! A stuck connection: data out, the retransmission timer fired again and again, nothing comes back. Which of the
//! causes it belongs to is decided once for all rules.

use std::time::Duration;

use super::destination::{Destination, StuckBrief};
use super::thresholds::Thresholds;
use crate::model::{Keepalive, Mono, TcpState};
use crate::state::Socket;

/// How long a connection that ended stuck stays in its finding, so that a person still reads why.
pub const AFTERGLOW: Duration = Duration::from_secs(60);
/// A connection of ten thousand segments sees runs this unlikely: no sign of more than the loss it already had.
const CHANCE: f64 = 0.0001;
/// So many timeouts in a row (6 s at the least RTO) are more than loss where segments were lost before.
const LOSSY_RTOS: u32 = 5;
/// Average size of the acknowledged segments, in parts of the MSS, from which full ones must have been among them.
const MIXED_SEGMENTS: f64 = 0.8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    IdlePath,
    Outage,
    Mtu,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Stuck {
    pub kind: Kind,
    /// When the data that is unanswered was first sent.
    pub since: Mono,
    /// The silence before that.
    pub idle_before: Option<Duration>,
    pub rtos: u32,
    /// All retransmits since anything was heard.
    pub retransmits: u32,
    pub backoff: Option<u8>,
    pub gives_up_at: Option<Mono>,
    pub bytes: Option<u64>,
    pub keepalive: Option<Keepalive>,
    pub mss: Option<u32>,
    pub full_retransmits: u32,
    pub bytes_acked: Option<u64>,
    /// Share of this connection's segments that were lost and made good before, at most.
    pub loss: f64,
    /// Something was acknowledged although the stuck data was already out: smaller segments pass.
    pub acked_beside: bool,
    /// The kernel gave up.
    pub gave_up_at: Option<Mono>,
}

impl Stuck {
    /// From the first send to the end, the whole hang that an application without a timeout of its own sees.
    pub fn stall(&self) -> Option<Duration> {
        self.gave_up_at.or(self.gives_up_at).map(|t| t.since(self.since))
    }

    /// Whether loss at the rate this connection had before may well swallow so many segments in a row. Losses come in
    /// bursts, so that a path which loses at all may do so for longer than its rate says.
    pub fn may_be_loss(&self) -> bool {
        if self.loss > 0.0 && self.rtos < LOSSY_RTOS {
            return true;
        }
        let in_a_row = i32::try_from(self.rtos + 1).unwrap_or(i32::MAX);
        self.loss.powi(in_a_row) > CHANCE
    }

    pub fn brief(&self, t: &Thresholds, rtt: Option<Duration>) -> StuckBrief {
        let gap = self.idle_before.is_some_and(|i| i >= t.gap(rtt));
        StuckBrief { since: self.since, without_gap: !gap && self.kind != Kind::Mtu }
    }
}

/// Whether a socket is stuck, or ended so a moment ago. The kind is what the socket alone shows; see [`settle`].
pub fn judge(now: Mono, s: &Socket, t: &Thresholds) -> Option<Stuck> {
    let a = &s.activity;
    if a.rto_since_heard < t.stuck_rtos || s.last_reset_at.is_some() || a.app_closed_at.is_some() {
        return None;
    }
    let gave_up_at = s.closed_at;
    match (s.state, gave_up_at) {
        (Some(TcpState::Close) | None, Some(at)) if now.since(at) < AFTERGLOW && a.closed_by_agent.is_none() => {}
        (Some(TcpState::Established | TcpState::CloseWait), None) => {}
        _ => return None,
    }
    let since = a.unanswered_since?;
    let stuck = Stuck {
        kind: Kind::Outage,
        since,
        idle_before: a.idle_before,
        rtos: a.rto_since_heard,
        retransmits: a.retransmits_since_heard.max(a.rto_since_heard),
        backoff: s.tcp.backoff,
        gives_up_at: s.gives_up_at,
        bytes: s.tcp.unacked_bytes.or(s.tcp.send_queue_bytes),
        keepalive: s.keepalive,
        mss: s.tcp.send_mss,
        full_retransmits: a.full_retransmits,
        bytes_acked: s.tcp.bytes_acked,
        loss: loss(s),
        acked_beside: a.acked_beside,
        gave_up_at,
    };
    let gap = a.idle_before.is_some_and(|i| i >= t.gap(s.tcp.rtt));
    // With keepalive probes more often than the gap the path was kept awake: idleness is no explanation. Keepalive that
    // was switched on later (by us, on a socket that hangs already) sent none.
    let kept_awake = s.keepalive.is_some_and(|k| {
        let first_probe = Duration::from_secs(k.idle_s.into());
        k.enabled
            && a.idle_before.is_some_and(|i| first_probe < i)
            && a.keepalive_changed_at.is_none_or(|t| t.plus(first_probe) < since)
    });
    let kind = if large_only(s, t) && (stuck.acked_beside || !gap) {
        Kind::Mtu
    } else if gap && !kept_awake {
        Kind::IdlePath
    } else {
        Kind::Outage
    };
    Some(Stuck { kind, ..stuck })
}

/// The upper end (one standard deviation of a count) of what its retransmits say: a few losses are a coarse measure.
fn loss(s: &Socket) -> f64 {
    let sent = s.tcp.data_segments_sent.unwrap_or(0).saturating_sub(s.activity.data_segments_at_first.unwrap_or(0));
    let again = s.activity.progress_retransmits as f64;
    if sent == 0 { 0.0 } else { ((again + again.sqrt()) / f64::from(sent)).min(1.0) }
}

/// Whether only full-size segments are lost while smaller ones got through, and no full-size one ever did.
fn large_only(s: &Socket, t: &Thresholds) -> bool {
    let a = &s.activity;
    if a.full_retransmits < t.mtu_retransmits || a.small_retransmits > 0 {
        return false;
    }
    if a.full_passed >= s.tcp.send_mss {
        return false;
    }
    let Some(mss) = s.tcp.send_mss.map(f64::from) else { return false };
    // bytes_acked counts the SYN as one byte (RFC 4898).
    let Some(acked) = s.tcp.bytes_acked.filter(|b| *b > 1) else { return false };
    if (acked as f64) < mss {
        return true;
    }
    let segments = match (s.tcp.data_segments_sent, s.tcp.total_retransmits, s.tcp.unacked_segments) {
        (Some(all), Some(again), out) => f64::from(all) - f64::from(again) - f64::from(out.unwrap_or(0)),
        _ => return false,
    };
    segments >= 1.0 && acked as f64 / segments < mss * MIXED_SEGMENTS
}

/// Decides the kind with what the other sockets of the destination show: where sockets hang that had no idle gap,
/// and nobody gets an answer, the path itself is down and idleness explains nothing.
pub fn settle(mut stuck: Stuck, dest: &Destination) -> Stuck {
    if stuck.kind == Kind::IdlePath {
        let first = dest.stuck.values().filter(|b| b.without_gap).map(|b| b.since).min();
        if let Some(first) = first
            && !dest.alive_after(first.max(stuck.since))
            && stuck.since.plus(Duration::from_secs(1)) >= first
        {
            stuck.kind = Kind::Outage;
        }
    }
    stuck
}
