//! Stuck sockets of one destination, told together: what the three rules about them have in common.

use std::time::Duration;

use super::rule::{Body, Case, Look, known_bytes};
use super::stuck::{AFTERGLOW, Kind, Stuck};
use super::text::{count, span};
use crate::model::Mono;
use crate::state::Socket;

/// The socket's hang if it belongs to the rule about `kind`.
pub fn of_kind(cx: &Look<'_>, kind: Kind) -> Option<Stuck> {
    cx.stuck.filter(|x| x.kind == kind).cloned()
}

/// When a hang that ended leaves its finding.
pub fn due(cx: &Look<'_>) -> Option<Mono> {
    cx.stuck?.gave_up_at.map(|t| t.plus(AFTERGLOW))
}

/// What a finding says of all of its stuck sockets.
pub struct Together {
    /// The first send that is unanswered.
    pub since: Mono,
    pub retransmits: u32,
    pub backoff: Option<u8>,
    /// Unacknowledged; `None` if one socket's is unknown.
    pub bytes: Option<u64>,
    /// How many still hang.
    pub live: usize,
    /// Until the first of those gives up.
    pub gives_up_in: Option<Duration>,
}

impl Together {
    /// `None` without cases.
    pub fn of(now: Mono, cases: &[Case<Stuck>]) -> Option<Self> {
        let facts = || cases.iter().map(|c| &c.fact);
        let live = || facts().filter(|f| f.gave_up_at.is_none());
        Some(Self {
            since: facts().map(|f| f.since).min()?,
            retransmits: facts().map(|f| f.retransmits).sum(),
            backoff: facts().filter_map(|f| f.backoff).max(),
            bytes: facts().map(|f| f.bytes).sum(),
            live: live().count(),
            gives_up_in: live().filter_map(|f| f.gives_up_at).min().map(|t| t.since(now)),
        })
    }

    /// The numbers that each of the rules gives.
    pub fn number(&self, body: &mut Body) {
        body.number("retransmits", f64::from(self.retransmits));
        if let Some(b) = self.backoff {
            body.number("backoff", f64::from(b));
        }
        if let Some(b) = self.bytes {
            body.number("stuck_bytes", b as f64);
        }
        if let Some(d) = self.gives_up_in {
            body.seconds("gives_up_in_s", d);
            body.gives_up_in_s = Some(d.as_secs_f64());
        }
    }
}

/// Silence before a send that is worth a word.
const NOTABLE_SILENCE: Duration = Duration::from_secs(1);

/// What is known of one stuck socket, as evidence.
pub fn describe(body: &mut Body, now: Mono, case: &Case<Stuck>) {
    let f = &case.fact;
    if let Some(idle) = f.idle_before.filter(|i| *i >= NOTABLE_SILENCE) {
        body.fact(f.since.minus(idle), format!("{}: last heard of the peer", case.name()));
        body.fact(f.since, format!("{}: data sent after {} of silence", case.name(), span(idle)));
    } else {
        body.fact(f.since, format!("{}: data sent", case.name()));
    }
    let mut text = format!("{}: {} since, no ACK", case.name(), count(f.retransmits as usize, "retransmit"));
    if let Some(b) = f.backoff {
        text.push_str(&format!(", backoff {b}"));
    }
    text.push_str(&known_bytes(f.bytes, "unacknowledged"));
    match (f.gave_up_at, f.gives_up_at) {
        (Some(t), _) => text.push_str(&format!("; the kernel gave up after {}", span(t.since(f.since)))),
        (None, Some(t)) => text.push_str(&format!("; gives up in {}", span(t.since(now)))),
        (None, None) => {}
    }
    match f.keepalive {
        Some(k) if k.enabled => text.push_str(&format!("; keepalive on, first probe after {} s", k.idle_s)),
        Some(_) => text.push_str("; keepalive off"),
        None => {}
    }
    body.fact(f.gave_up_at.unwrap_or(now), text);
}

/// How a hang ended.
pub fn ending(now: Mono, fact: &Stuck, s: Option<&Socket>) -> String {
    let hung = span(now.since(fact.since));
    match s {
        Some(s) if s.activity.closed_by_agent.is_some() => format!("destroyed by agent after hanging {hung}"),
        Some(s) if s.activity.app_closed_at.is_some() => format!("the application closed it after hanging {hung}"),
        Some(s) if s.last_reset_at.is_some() => format!("ended by a RST after hanging {hung}"),
        Some(s) if s.is_closed() => match fact.gave_up_at {
            Some(t) => format!("the kernel had given up after {}", span(t.since(fact.since))),
            None => format!("the socket was closed after hanging {hung}"),
        },
        Some(_) => format!("the peer answers again, after {hung}"),
        None => format!("the socket is gone, after hanging {hung}"),
    }
}
