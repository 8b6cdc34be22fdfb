//! `path-outage`: connections that were in use stopped getting ACKs: the path to the destination is down.

use crate::diagnose::client::SYSCTL_RETRIES;
use crate::diagnose::hang::{self, Together, describe, ending};
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell, known_bytes};
use crate::diagnose::stuck::{Kind, Stuck};
use crate::diagnose::text::{count, span};
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct PathOutage;

const DESCRIBED: usize = 5;

impl Rule for PathOutage {
    const CODE: Code = Code::PathOutage;
    const PER_PROCESS: bool = false;
    const CONCERN: Concern = Concern::Stuck;
    type Fact = Stuck;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<Stuck> {
        hang::of_kind(cx, Kind::Outage)
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        hang::due(cx)
    }

    fn clocked(&self) -> bool {
        true
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Stuck>]) -> Option<Body> {
        let all = Together::of(cx.now, cases)?;
        let worst = cases.iter().map(|c| c.fact.rtos).max()?;
        let others = cx.dest.alive_after(all.since);
        let lossy = cases.len() == 1 && cases[0].fact.may_be_loss();
        let confidence = match (others, cases.len()) {
            (true, _) => Confidence::Possible,
            (false, 1) if worst < 3 || lossy => Confidence::Possible,
            (false, _) => Confidence::Likely,
        };
        let what = if others {
            match cases.len() {
                1 => format!("A connection to {} gets no ACK although others do", cx.destination),
                n => format!("{n} connections to {} get no ACK although others do", cx.destination),
            }
        } else {
            format!("The path to {} is down", cx.destination)
        };
        let mut summary = format!(
            "{what} since {} ago: {} in use, {}, no ACK",
            span(cx.now.since(all.since)),
            count(cases.len(), "connection"),
            count(all.retransmits as usize, "retransmit"),
        );
        if let Some(b) = all.backoff {
            summary.push_str(&format!(", backoff {b}"));
        }
        summary.push_str(&known_bytes(all.bytes, "stuck"));
        if let Some(first) = all.gives_up_in {
            summary.push_str(&format!("; gives up in {}", span(first)));
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(DESCRIBED) {
            describe(&mut body, cx.now, case);
        }
        if others && let Some(heard) = cx.dest.last_heard {
            body.fact(heard, "another connection to the same destination got an ACK");
            body.rival("The whole path is down: no, another connection still gets answers; a router or load balancer drops this flow alone, or one of several paths is broken.");
        }
        if lossy {
            body.rival(format!(
                "More of the loss that this connection had before ({:.0} % of its segments): at that rate such a run of timeouts is ordinary.",
                100.0 * cases[0].fact.loss
            ));
        }
        body.rival("The destination host is down rather than the path: from here both look the same.");
        body.rival("An idle timeout on the path: unlikely, at least one of these connections had no idle gap before it fell silent.");
        body.advise(format!(
            "Check the way to {}: other hosts there, the local link, a VPN that reconnected, the destination's status page. No client setting repairs a path.",
            cx.destination
        ));
        body.advise("When the path comes back the connections go on by themselves at their next retransmit, which may be up to two minutes later; `agent close` ends them now, so that the client retries at once.");
        body.advise("Keepalive does not help here: it only watches idle connections. TCP_USER_TIMEOUT bounds how long sent data may stay unacknowledged.");
        body.advise(SYSCTL_RETRIES);
        body.seconds("down_s", cx.now.since(all.since));
        all.number(&mut body);
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Stuck, s: Option<&Socket>) -> String {
        ending(now, fact, s)
    }
}
