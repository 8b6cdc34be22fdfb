//! `connect-timeout`: the SYN is retransmitted and nothing answers.

use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::stuck::AFTERGLOW;
use crate::diagnose::text::{count, span};
use crate::model::{Code, Confidence, Mono, TcpState};
use crate::state::Socket;

pub struct ConnectTimeout;

#[derive(Clone, Debug)]
pub struct Fact {
    since: Mono,
    syns: u32,
    gives_up_at: Option<Mono>,
    gave_up_at: Option<Mono>,
}

impl Rule for ConnectTimeout {
    const CODE: Code = Code::ConnectTimeout;
    const CONCERN: Concern = Concern::SynAgain;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Fact> {
        let a = &s.activity;
        if a.syn_retransmits < cx.t.connect_syns || a.established_at.is_some() || s.last_reset_at.is_some() {
            return None;
        }
        let gave_up_at = match (s.state, s.closed_at) {
            (Some(TcpState::SynSent), None) => None,
            (_, Some(at)) if cx.now.since(at) < AFTERGLOW => Some(at),
            _ => return None,
        };
        let since = s.opened.or(a.last_sent).unwrap_or(s.first_seen);
        Some(Fact { since, syns: a.syn_retransmits, gives_up_at: s.gives_up_at, gave_up_at })
    }

    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        s.closed_at.filter(|_| s.activity.syn_retransmits >= cx.t.connect_syns).map(|t| t.plus(AFTERGLOW))
    }

    fn clocked(&self) -> bool {
        true
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let since = cases.iter().map(|c| c.fact.since).min()?;
        let syns: u32 = cases.iter().map(|c| c.fact.syns).sum();
        let first = cases
            .iter()
            .filter(|c| c.fact.gave_up_at.is_none())
            .filter_map(|c| c.fact.gives_up_at)
            .min()
            .map(|t| t.since(cx.now));
        let before = cx.dest.last_connected.filter(|t| *t < since);
        let also = cx.dest.last_connected.filter(|t| *t >= since);
        let confidence = if also.is_some() { Confidence::Possible } else { Confidence::Certain };
        let mut summary = format!(
            "{} does not answer: {} for {}, {} without a SYN-ACK",
            cx.destination,
            if cases.len() == 1 {
                "a connect is waiting".to_owned()
            } else {
                format!("{} connects are waiting", cases.len())
            },
            span(cx.now.since(since)),
            count(syns as usize, "SYN retransmit"),
        );
        if let Some(first) = first {
            summary.push_str(&format!("; gives up in {}", span(first)));
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        body.gives_up_in_s = first.map(|d| d.as_secs_f64());
        for case in cases.iter().take(6) {
            body.fact(case.fact.since, format!("{}: SYN sent", case.name()));
            match case.fact.gave_up_at {
                Some(t) => body.fact(
                    t,
                    format!(
                        "{}: connect ended after {} and {}",
                        case.name(),
                        span(t.since(case.fact.since)),
                        count(case.fact.syns as usize, "SYN retransmit")
                    ),
                ),
                None => body.fact(
                    cx.now,
                    format!("{}: {}, no answer", case.name(), count(case.fact.syns as usize, "SYN retransmit")),
                ),
            }
        }
        if let Some(t) = before {
            body.fact(t, "an earlier connect to the same destination succeeded");
        }
        if let Some(t) = also {
            body.fact(t, "another connect to the same destination succeeded meanwhile");
            body.rival("The destination is down: no, another connect succeeded; some SYNs are lost or one of its addresses is dead.");
        } else {
            body.rival("A firewall on the way drops the SYNs (rather than rejecting them), or the host is down, or the SYN-ACKs get lost: from here these look the same.");
        }
        body.advise(format!(
            "Check address and port, and whether a firewall or security group lets you reach {}; try it from another network.",
            cx.destination
        ));
        body.advise("Give the client a connect timeout of a few seconds, so that it goes to the next address instead of waiting two minutes.");
        body.advise("`sysctl net.ipv4.tcp_syn_retries=3` shortens the wait of the whole host (network namespace) from 127 s to 15 s. Keepalive has no say before a connection exists.");
        body.number("retransmits", f64::from(syns));
        body.seconds("waiting_s", cx.now.since(since));
        if let Some(d) = first {
            body.seconds("gives_up_in_s", d);
        }
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if s.activity.established_at.is_some() => {
                format!("connected after {}", span(s.activity.established_at.unwrap_or(now).since(fact.since)))
            }
            Some(s) if s.last_reset_at.is_some() => "answered by a RST".into(),
            _ => format!(
                "the connect ended without an answer after {}",
                span(fact.gave_up_at.unwrap_or(now).since(fact.since))
            ),
        }
    }
}
