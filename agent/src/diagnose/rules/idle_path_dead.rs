//! `idle-path-dead`: data sent after an idle gap is never acknowledged: the path forgot the connection.

use std::time::Duration;

use crate::diagnose::client::{SYSCTL_KEEPALIVE, SYSCTL_RETRIES};
use crate::diagnose::hang::{self, Together, describe, ending};
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell, known_bytes};
use crate::diagnose::stuck::{Kind, Stuck};
use crate::diagnose::text::{count, span};
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct IdlePathDead;

/// Sockets described one by one in the evidence.
const DESCRIBED: usize = 8;

impl Rule for IdlePathDead {
    const CODE: Code = Code::IdlePathDead;
    const CONCERN: Concern = Concern::Stuck;
    type Fact = Stuck;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<Stuck> {
        hang::of_kind(cx, Kind::IdlePath)
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        hang::due(cx)
    }

    fn clocked(&self) -> bool {
        true
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Stuck>]) -> Option<Body> {
        let now = cx.now;
        let all = Together::of(now, cases)?;
        let gap = cases.iter().filter_map(|c| c.fact.idle_before).min()?;
        let stall = cases.iter().map(|c| c.fact.stall()).sum::<Option<Duration>>();
        let others = cx.dest.alive_after(all.since);
        let earlier = cx.dest.idle_death_before(all.since);
        let long = gap >= cx.t.long_idle_gap;
        let confidence = match (long, others) {
            (true, true) => Confidence::Certain,
            (true, false) | (false, true) => Confidence::Likely,
            (false, false) if cases.len() > 1 || earlier.is_some() => Confidence::Likely,
            (false, false) => Confidence::Possible,
        };

        let hang = match (all.live, cases.len()) {
            (0, n) => format!("{} to {} hung until the kernel gave up", count(n, "connection"), cx.destination),
            (1, _) => format!("A connection to {} hangs", cx.destination),
            (n, _) => format!("{n} connections to {} hang", cx.destination),
        };
        let mut summary = format!(
            "{hang}: the path forgot {} after at most {} of idleness; {}",
            if cases.len() == 1 { "it" } else { "them" },
            span(gap),
            count(all.retransmits as usize, "retransmit"),
        );
        if let Some(b) = all.backoff {
            summary.push_str(&format!(", backoff {b}"));
        }
        summary.push_str(&known_bytes(all.bytes, "stuck"));
        if let Some(first) = all.gives_up_in {
            summary.push_str(&match all.live {
                1 => format!("; gives up in {}", span(first)),
                _ => format!("; the first gives up in {}", span(first)),
            });
        }
        if let (Some(stall), true) = (stall, cases.len() > 1) {
            summary.push_str(&format!("; a client that tries them one after another loses {}", span(stall)));
        }
        summary.push('.');

        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(DESCRIBED) {
            describe(&mut body, now, case);
        }
        if others && let Some(heard) = cx.dest.last_heard {
            body.fact(heard, format!("another connection to {} still gets answers", cx.destination));
        }
        if let Some(d) = earlier {
            let text = format!(
                "an earlier connection to {} fell silent in the same way after {} of idleness; the destination answered again later",
                cx.destination,
                span(d.gap)
            );
            body.fact(d.since, text);
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
        body.advise(if all.live == 0 {
            "These connections are gone already; what follows keeps the next ones alive.".to_owned()
        } else {
            format!(
                "Close the stuck {} now, so that the client sees the error and retries on a new connection: `agent close --pid PID --dst {}`. Keepalive cannot rescue {}: while data is unacknowledged the kernel only reschedules the keepalive timer.",
                if n == 1 { "socket" } else { "sockets" },
                cx.destination,
                if n == 1 { "it" } else { "them" },
            )
        });
        // An earlier connection, or an earlier run, may have seen a shorter silence kill.
        let shortest = cx.dest.learned.path_killed().map_or(gap, |k| k.min(gap));
        body.advise(cx.client.keepalive(shortest.mul_f64(0.5).max(Duration::from_secs(1))));
        body.advise(cx.client.pool_idle(Some(shortest)));
        body.advise("Set TCP_USER_TIMEOUT (for example 30 s; `agent keepalive --user-timeout 30s`): it bounds how long sent data may stay unacknowledged, and it also rescues sockets that are stuck already.");
        body.advise(SYSCTL_KEEPALIVE);
        body.advise(SYSCTL_RETRIES);

        body.seconds("idle_s", gap);
        all.number(&mut body);
        if let Some(d) = stall {
            body.seconds("stall_s", d);
        }
        body.number("gave_up", (n - all.live) as f64);
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Stuck, s: Option<&Socket>) -> String {
        ending(now, fact, s)
    }
}
