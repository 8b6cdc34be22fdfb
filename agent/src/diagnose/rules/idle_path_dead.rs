//! `idle-path-dead`: data sent after an idle gap is never acknowledged: the path forgot the connection.

use std::time::Duration;

use crate::diagnose::client::{SYSCTL_KEEPALIVE, SYSCTL_RETRIES};
use crate::diagnose::rule::{Body, Case, Look, Rule, Tell, known_bytes};
use crate::diagnose::stuck::{Kind, Stuck};
use crate::diagnose::text::{count, span};
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct IdlePathDead;

/// Sockets described one by one in the evidence.
const DESCRIBED: usize = 8;

impl Rule for IdlePathDead {
    const CODE: Code = Code::IdlePathDead;
    type Fact = Stuck;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<Stuck> {
        cx.stuck.filter(|x| x.kind == Kind::IdlePath).cloned()
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        cx.stuck?.gave_up_at.map(|t| t.plus(crate::diagnose::stuck::AFTERGLOW))
    }

    fn clocked(&self) -> bool {
        true
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Stuck>]) -> Option<Body> {
        let now = cx.now;
        let live: Vec<&Case<Stuck>> = cases.iter().filter(|c| c.fact.gave_up_at.is_none()).collect();
        let gap = cases.iter().filter_map(|c| c.fact.idle_before).min()?;
        let since = cases.iter().map(|c| c.fact.since).min()?;
        let retransmits: u32 = cases.iter().map(|c| c.fact.retransmits).sum();
        let backoff = cases.iter().filter_map(|c| c.fact.backoff).max();
        let bytes = cases.iter().map(|c| c.fact.bytes).sum::<Option<u64>>();
        let first = live.iter().filter_map(|c| c.fact.gives_up_at).min().map(|t| t.since(now));
        let stall = cases.iter().map(|c| c.fact.stall()).sum::<Option<Duration>>();
        let others = cx.dest.alive_after(since);
        let long = gap >= cx.t.long_idle_gap;
        let confidence = match (long, others) {
            (true, true) => Confidence::Certain,
            (true, false) | (false, true) => Confidence::Likely,
            (false, false) if cases.len() > 1 => Confidence::Likely,
            (false, false) => Confidence::Possible,
        };

        let hang = match (live.len(), cases.len()) {
            (0, n) => format!("{} to {} hung until the kernel gave up", count(n, "connection"), cx.destination),
            (1, _) => format!("A connection to {} hangs", cx.destination),
            (n, _) => format!("{n} connections to {} hang", cx.destination),
        };
        let mut summary = format!(
            "{hang}: the path forgot {} after at most {} of idleness; {}",
            if cases.len() == 1 { "it" } else { "them" },
            span(gap),
            count(retransmits as usize, "retransmit"),
        );
        if let Some(b) = backoff {
            summary.push_str(&format!(", backoff {b}"));
        }
        summary.push_str(&known_bytes(bytes, "stuck"));
        if let Some(first) = first {
            summary.push_str(&match live.len() {
                1 => format!("; gives up in {}", span(first)),
                _ => format!("; the first gives up in {}", span(first)),
            });
        }
        if let (Some(stall), true) = (stall, cases.len() > 1) {
            summary.push_str(&format!("; a client that tries them one after another loses {}", span(stall)));
        }
        summary.push('.');

        let mut body = Body::new(confidence, summary);
        body.gives_up_in_s = first.map(|d| d.as_secs_f64());
        for case in cases.iter().take(DESCRIBED) {
            describe(&mut body, now, case);
        }
        if others && let Some(heard) = cx.dest.last_heard {
            body.fact(heard, format!("another connection to {} still gets answers", cx.destination));
        }
        if others {
            body.rival(format!(
                "{} itself is down: unlikely, another connection to it still gets ACKs.",
                cx.destination
            ));
        } else {
            body.rival(format!(
                "{} itself is down or the whole path is: not excluded, no other connection to it was heard since; but the silence began with the first send after an idle gap.",
                cx.destination
            ));
        }
        body.rival("The server host lost the connection (restart) without answering: then a RST would have come, unless a firewall drops it.");

        let n = cases.len();
        body.advise(if live.is_empty() {
            "These connections are gone already; what follows keeps the next ones alive.".to_owned()
        } else {
            format!(
                "Close the stuck {} now, so that the client sees the error and retries on a new connection: `agent close --pid PID --dst {}`. Keepalive cannot rescue {}: while data is unacknowledged the kernel only reschedules the keepalive timer.",
                if n == 1 { "socket" } else { "sockets" },
                cx.destination,
                if n == 1 { "it" } else { "them" },
            )
        });
        body.advise(cx.client.keepalive(gap.mul_f64(0.5).max(Duration::from_secs(1))));
        body.advise(cx.client.pool_idle(Some(gap)));
        body.advise("Set TCP_USER_TIMEOUT (for example 30 s; `agent keepalive --user-timeout 30s`): it bounds how long sent data may stay unacknowledged, and it also rescues sockets that are stuck already.");
        body.advise(SYSCTL_KEEPALIVE);
        body.advise(SYSCTL_RETRIES);

        body.seconds("idle_s", gap);
        body.number("retransmits", f64::from(retransmits));
        if let Some(b) = backoff {
            body.number("backoff", f64::from(b));
        }
        if let Some(b) = bytes {
            body.number("stuck_bytes", b as f64);
        }
        if let Some(d) = first {
            body.seconds("gives_up_in_s", d);
        }
        if let Some(d) = stall {
            body.seconds("stall_s", d);
        }
        body.number("gave_up", (n - live.len()) as f64);
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Stuck, s: Option<&Socket>) -> String {
        ending(now, fact, s)
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
