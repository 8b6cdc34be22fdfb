//! `refused`: a RST answers the SYN.

use std::time::Duration;

use crate::diagnose::reset::ResetVerdict;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::span;
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct Refused;

/// A connect of the same process to the same port at another address this soon after a refusal is the next address
/// of the same name (RFC 8305).
const NEXT_ADDRESS: Duration = Duration::from_millis(300);
/// Refusals in a row that need no waiting for a better answer.
const REPEATED: usize = 3;

#[derive(Clone, Debug)]
pub struct Fact {
    at: Mono,
    after: Option<Duration>,
    elsewhere: bool,
}

impl Rule for Refused {
    const CODE: Code = Code::Refused;
    const CONCERN: Concern = Concern::Reset;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<Fact> {
        let v: &ResetVerdict = cx.reset.filter(|v| v.code == Code::Refused)?;
        if cx.now.since(v.at) >= cx.t.hold {
            return None;
        }
        let elsewhere = cx.port_connected.is_some_and(|c| c >= v.at && c.since(v.at) <= NEXT_ADDRESS);
        Some(Fact { at: v.at, after: v.age, elsewhere })
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        let at = cx.reset.filter(|v| v.code == Code::Refused)?.at;
        let settled = at.plus(cx.t.refused_grace);
        Some(if cx.now < settled { settled } else { at.plus(cx.t.hold) })
    }

    fn holds_until(&self, fact: &Fact, t: &Thresholds) -> Option<Mono> {
        Some(fact.at.plus(t.hold))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let first = cx.first(cases.iter().map(|c| c.fact.at).min()?);
        let last = cases.iter().map(|c| c.fact.at).max()?;
        let made_good = cx.dest.last_connected.filter(|t| *t >= last);
        let elsewhere = cases.iter().all(|c| c.fact.elsewhere);
        let settled = cx.now >= last.plus(cx.t.refused_grace);
        let confidence = if made_good.is_some() || elsewhere || !(settled || cx.count(cases) >= REPEATED) {
            Confidence::Possible
        } else {
            Confidence::Certain
        };
        let mut summary = match cx.count(cases) {
            1 => format!("{} refused a connection", cx.destination),
            n => format!("{} refused {n} connections within {}", cx.destination, span(last.since(first))),
        };
        if let Some(after) = cases.iter().filter_map(|c| c.fact.after).min() {
            summary.push_str(&format!(", {} after the SYN", span(after)));
        }
        summary.push_str(if made_good.is_some() {
            "; a later connect succeeded."
        } else if elsewhere {
            "; the next address answered."
        } else {
            ": nothing listens there, or a firewall rejects."
        });
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(10) {
            body.fact(case.fact.at, format!("{}: RST in answer to the SYN", case.name()));
        }
        if let Some(t) = made_good {
            body.fact(t, "a later connect to the same destination succeeded");
        }
        body.rival("A firewall that rejects with a RST: from here it looks like a closed port; a TTL that differs from the host's other answers would tell.");
        body.advise(format!(
            "Check that a server listens on {}: on that host, `ss -ltn`. After a restart it may need a moment: retry with a pause.",
            cx.destination
        ));
        body.advise("Keepalive and timeouts have no say here: the answer came at once.");
        body.number("refused", cx.count(cases) as f64);
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &Fact, _s: Option<&Socket>) -> String {
        "no further refusal".into()
    }
}
