//! One reset, one cause: what the state, the silence before it and the packet say together. TTL alone convicts
//! nobody: behind a NAT that gave the flow a new port, the real server resets it with the flow's own TTL.

use std::borrow::Cow;
use std::time::Duration;

use super::thresholds::Thresholds;
use crate::model::{Code, Confidence, Mono, PacketFacts, Reset, ResetDirection, ResetOrigin, TcpState};
use crate::state::Socket;

/// A TLS close_notify alert on the wire: 24 bytes (TLS 1.3) to 31 (TLS 1.2). A client that sends one into a
/// connection which the server has already closed gets a RST and loses nothing.
const CLOSE_NOTIFY_MAX: u64 = 31;
/// Idle time at the server's FIN from which the server closed an idle connection rather than the end of a request.
pub const IDLE_AT_FIN: Duration = Duration::from_secs(1);

/// What was found of the last reset of a socket.
#[derive(Clone, Debug, PartialEq)]
pub struct ResetVerdict {
    pub at: Mono,
    pub code: Code,
    pub confidence: Confidence,
    pub state: Option<TcpState>,
    /// The silence before the last send; if nothing was sent since, the silence before the RST.
    pub idle: Option<Duration>,
    /// From the last send to the RST; `None` if nothing was sent since the peer was last heard.
    pub answered_after: Option<Duration>,
    /// When the peer's FIN came, and after how much idle time.
    pub fin: Option<(Mono, Option<Duration>)>,
    /// The RST's TTL lies outside the flow's own: `None` if either is unknown.
    pub foreign: Option<bool>,
    /// A request was out and unanswered.
    pub outstanding: bool,
    /// Since the connection was opened.
    pub age: Option<Duration>,
    pub rtt: Option<Duration>,
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    pub origin: ResetOrigin,
    pub origin_why: Cow<'static, str>,
    pub packet: PacketFacts,
    pub kernel_reason: Option<Cow<'static, str>>,
}

/// Judges the last reset of a socket; `None` if there was none, or one that harms nobody (the rest of a close).
pub fn judge(s: &Socket, t: &Thresholds) -> Option<ResetVerdict> {
    let (r, at) = (s.last_reset.get()?, s.last_reset_at?);
    let facts = Facts::new(s, r, at);
    let (code, confidence) = match r.direction {
        ResetDirection::Received => received(s, r, &facts, t)?,
        ResetDirection::Sent => sent(s, r, at)?,
    };
    Some(ResetVerdict {
        at,
        code,
        confidence,
        state: r.state,
        idle: facts.idle,
        answered_after: facts.wrote.map(|w| at.since(w)),
        fin: s.activity.fin_received.map(|f| (f, s.activity.idle_at_fin)),
        foreign: facts.foreign,
        outstanding: facts.outstanding,
        age: s.opened.map(|o| at.since(o)),
        rtt: r.detail.rtt.or(s.tcp.rtt),
        bytes_sent: r.detail.bytes_sent.or(s.tcp.bytes_sent),
        bytes_received: r.detail.bytes_received.or(s.tcp.bytes_received),
        origin: r.origin,
        origin_why: r.origin_why.clone(),
        packet: r.packet,
        kernel_reason: r.kernel_reason.clone(),
    })
}

struct Facts {
    /// The last send, if the peer was not heard since.
    wrote: Option<Mono>,
    idle: Option<Duration>,
    foreign: Option<bool>,
    outstanding: bool,
}

impl Facts {
    fn new(s: &Socket, r: &Reset, at: Mono) -> Self {
        let a = &s.activity;
        let ago = |d: Option<Duration>| d.map(|d| at.minus(d));
        let received = ago(r.detail.last_received).max(a.last_data_received);
        let heard = ago(r.detail.last_ack).max(received).or(a.last_heard);
        // A retransmit counts as sending for the kernel: then the first send is known from the fold.
        let sent = a.unanswered_since.or(ago(r.detail.last_sent)).or(a.last_sent);
        let wrote = match (sent, heard) {
            (Some(w), Some(h)) => (w > h).then_some(w),
            (w, None) => w,
            _ => None,
        };
        let measured = match (wrote, heard) {
            (Some(w), Some(h)) => Some(w.since(h)),
            (None, Some(h)) => Some(at.since(h.max(sent.unwrap_or(h)))),
            _ => None,
        };
        let foreign = match (r.packet.ttl, r.packet.flow_ttl) {
            (Some(ttl), Some(low)) => {
                let high = r.packet.flow_ttl_max.unwrap_or(low).max(low);
                Some(ttl < low || ttl > high)
            }
            _ => match r.origin {
                ResetOrigin::Peer => Some(false),
                ResetOrigin::Middlebox => Some(true),
                _ => None,
            },
        };
        let idle = if a.unanswered_since.is_some() { a.idle_before.or(measured) } else { r.idle_before.or(measured) };
        Self { wrote, idle, foreign, outstanding: sent.is_some_and(|w| received.is_none_or(|d| w > d)) }
    }
}

fn received(s: &Socket, r: &Reset, f: &Facts, t: &Thresholds) -> Option<(Code, Confidence)> {
    use Confidence::{Likely, Possible};
    let rtt = r.detail.rtt.or(s.tcp.rtt);
    let gap = f.wrote.is_some() && f.idle.is_some_and(|i| i >= t.gap(rtt));
    match r.state {
        Some(TcpState::SynSent) => return Some((Code::Refused, Possible)),
        Some(TcpState::CloseWait) => return after_fin(s, r, f, gap),
        // After a local close the peer's RST ends what is being closed anyway; on SYN_RECV it is the client's.
        Some(
            TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::LastAck
            | TcpState::Closing
            | TcpState::TimeWait
            | TcpState::SynRecv
            | TcpState::NewSynRecv
            | TcpState::Listen,
        ) => return None,
        _ => {}
    }
    if s.activity.app_closed_at.is_some_and(|c| s.last_reset_at.is_some_and(|at| c <= at)) {
        return None;
    }
    if s.activity.fin_received.is_some() {
        return after_fin(s, r, f, gap);
    }
    let quiet = f.wrote.is_none() && !f.outstanding && f.idle.is_some_and(|i| i >= t.gap(rtt));
    let waiting = f.wrote.is_none() && f.idle.is_some_and(|i| i >= t.gap(rtt));
    // A RST for a connection that its host no longer knows carries no ACK (RFC 9293, 3.10.7.1): one that does comes from
    // a server that still had the connection, whatever the silence before, and gave it up over this very request.
    if gap && f.foreign == Some(false) && r.packet.with_ack == Some(true) {
        return Some((Code::PeerAbort, Likely));
    }
    Some(match (gap, f.foreign) {
        (true, Some(true)) => (Code::IdlePathReset, Likely),
        (true, Some(false)) => (Code::StaleReuse, Likely),
        // A server that had closed while idle would have sent a FIN first; a path that forgot sends only the RST.
        (true, None) => (Code::IdlePathReset, Possible),
        (false, Some(true)) if waiting => (Code::IdlePathReset, Possible),
        (false, Some(true)) => (Code::InjectedReset, Likely),
        (false, Some(false)) => (Code::PeerAbort, if quiet { Possible } else { Likely }),
        (false, None) => (Code::PeerAbort, Possible),
    })
}

/// A RST after the peer's FIN: the connection was closed by the peer and used again, or was cut short.
fn after_fin(s: &Socket, r: &Reset, f: &Facts, gap: bool) -> Option<(Code, Confidence)> {
    let fin = s.activity.fin_received?;
    let idle_fin = s.activity.idle_at_fin.is_some_and(|i| i >= IDLE_AT_FIN);
    let wrote_after = f.wrote.is_some_and(|w| w.plus(Duration::from_millis(12)) >= fin);
    if let (Some(before), Some(now)) = (s.activity.bytes_sent_at_fin, r.detail.bytes_sent.or(s.tcp.bytes_sent))
        && now > before
        && now - before <= CLOSE_NOTIFY_MAX
    {
        return None;
    }
    if s.activity.outstanding_at_fin && !idle_fin && !gap {
        return Some((Code::PeerAbort, Confidence::Possible));
    }
    if wrote_after || gap {
        let sure = wrote_after && s.activity.idle_at_fin.is_some();
        return Some((Code::StaleReuse, if sure { Confidence::Certain } else { Confidence::Likely }));
    }
    None
}

/// Kernel reset reasons (`enum sk_rst_reason`) that come from the wire, not from a decision of this host's
/// application: the answer to a segment that fits no connection.
const PROTOCOL_REASONS: [&str; 9] = [
    "NO_SOCKET",
    "TCP_INVALID_ACK_SEQUENCE",
    "TCP_RFC7323_PAWS",
    "TCP_TOO_OLD_ACK",
    "TCP_ACK_UNSENT_DATA",
    "TCP_FLAGS",
    "TCP_OLD_ACK",
    "TCP_TIMEWAIT_SOCKET",
    "INVALID_SYN",
];

fn sent(s: &Socket, r: &Reset, at: Mono) -> Option<(Code, Confidence)> {
    use Confidence::{Certain, Likely, Possible};
    let a = &s.activity;
    if a.closed_by_agent.is_some() {
        return None;
    }
    // Closing with unread bytes after the server has closed an idle connection: what is unread is its good-bye (a
    // TLS close_notify, an HTTP 408). The RST replaces a FIN and harms nobody.
    let goodbye = a.fin_received.is_some() && !a.outstanding_at_fin;
    let reason = r.kernel_reason.as_deref().map(|r| r.trim_start_matches("SK_RST_REASON_"));
    match reason {
        Some("TCP_KEEPALIVE_TIMEOUT" | "KEEPALIVE_TIMEOUT") => Some((Code::PeerGone, Certain)),
        Some(p) if PROTOCOL_REASONS.contains(&p) => None,
        Some("TCP_ABORT_ON_MEMORY" | "ERROR") => Some((Code::LocalAbort, Certain)),
        _ if goodbye => None,
        // Data that arrived after the application had closed: a peer that said good-bye late looks the same.
        Some("TCP_ABORT_ON_DATA") => Some((Code::LocalAbort, Possible)),
        Some("NOT_SPECIFIED") | None => {
            let sampled = s.tcp.timer == Some(2) && s.tcp.probes.is_some_and(|p| p > 0);
            // Probes with nothing to send are keepalive's. Kernels that give no reason can still be asked that.
            let d = &r.detail;
            let probing = sampled
                || (d.keepalive == Some(true) && d.send_queue_bytes == Some(0) && d.probes.is_some_and(|p| p > 0));
            if probing && a.last_heard.is_some_and(|h| at.since(h) > IDLE_AT_FIN) {
                Some((Code::PeerGone, Likely))
            } else if a.app_closed_at.is_some() {
                Some((Code::LocalAbort, Possible))
            } else {
                Some((Code::LocalAbort, Likely))
            }
        }
        Some(_) => Some((Code::LocalAbort, Certain)),
    }
}
