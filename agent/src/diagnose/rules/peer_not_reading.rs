//! `peer-not-reading`: the peer's receive window has been zero for a while: its application does not read.

use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell, known_bytes};
use crate::diagnose::text::span;
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct PeerNotReading;

#[derive(Clone, Debug)]
pub struct Fact {
    since: Mono,
    queued: Option<u64>,
    heard: Option<Mono>,
    probes: Option<u8>,
}

impl Rule for PeerNotReading {
    const CODE: Code = Code::PeerNotReading;
    const CONCERN: Concern = Concern::Open;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Fact> {
        let since = s.activity.zero_window_since?;
        (!s.is_closed() && cx.now.since(since) >= cx.t.zero_window).then_some(Fact {
            since,
            queued: s.tcp.send_queue_bytes,
            heard: s.activity.last_heard,
            probes: s.tcp.probes,
        })
    }

    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        s.activity.zero_window_since.map(|t| t.plus(cx.t.zero_window))
    }

    fn clocked(&self) -> bool {
        true
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let since = cases.iter().map(|c| c.fact.since).min()?;
        let queued = cases.iter().map(|c| c.fact.queued).sum::<Option<u64>>();
        let answered = cases.iter().all(|c| c.fact.heard.is_some_and(|h| h > c.fact.since));
        let summary = format!(
            "{} does not read: its receive buffer has been full for {}{}.",
            cx.destination,
            span(cx.now.since(since)),
            known_bytes(queued, "wait in the send queue"),
        );
        let mut body = Body::new(if answered { Confidence::Certain } else { Confidence::Likely }, summary);
        for case in cases.iter().take(6) {
            let f = &case.fact;
            body.fact(f.since, format!("{}: receive window of the peer is zero since", case.name()));
            if let Some(h) = f.heard.filter(|h| *h > f.since) {
                body.fact(h, format!("{}: the peer's kernel still answers the window probes", case.name()));
            }
            if let Some(n) = f.probes.filter(|n| *n > 1) {
                body.fact(cx.now, format!("{}: {n} window probes unanswered", case.name()));
            }
        }
        body.rival(if answered {
            "The network: no, the peer's kernel answers every probe with a window of zero."
        } else {
            "The path: not excluded, the last window probes were not answered."
        });
        body.advise("The network is fine. The program at the other end has stopped reading: it is busy, blocked or waits for something else (for example for this client to read its answer: check for a deadlock where both only write).");
        body.advise("If the client sends more than the server wants (uploads past an early error answer), read the answer while sending.");
        body.advise("Keepalive does not help, and nothing gives up: a peer that answers window probes may hold the connection for ever. Bound the time in the client.");
        body.advise(cx.client.request_timeout());
        body.seconds("waiting_s", cx.now.since(since));
        body.seconds("zero_window_s", cx.now.since(since));
        if let Some(q) = queued {
            body.number("send_queue_bytes", q as f64);
        }
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if !s.is_closed() => format!("the peer reads again, after {}", span(now.since(fact.since))),
            _ => format!("the connection ended after {} of zero window", span(now.since(fact.since))),
        }
    }
}
