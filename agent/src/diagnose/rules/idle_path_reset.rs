//! `idle-path-reset`: the first send after an idle gap is answered by a RST that a middlebox made.

use crate::diagnose::client::SYSCTL_KEEPALIVE;
use crate::diagnose::reset::ResetVerdict;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::rules::peer_abort::packet_text;
use crate::diagnose::text::span;
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Mono};
use crate::state::Socket;

pub struct IdlePathReset;

impl Rule for IdlePathReset {
    const CODE: Code = Code::IdlePathReset;
    const CONCERN: Concern = Concern::Reset;
    type Fact = ResetVerdict;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<ResetVerdict> {
        cx.reset.filter(|v| v.code == Code::IdlePathReset && cx.now.since(v.at) < cx.t.hold).cloned()
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        cx.reset.filter(|v| v.code == Code::IdlePathReset).map(|v| v.at.plus(cx.t.hold))
    }

    fn holds_until(&self, v: &ResetVerdict, t: &Thresholds) -> Option<Mono> {
        Some(v.at.plus(t.hold))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<ResetVerdict>]) -> Option<Body> {
        let confidence = cases.iter().map(|c| c.fact.confidence).max()?;
        let gap = cases.iter().filter_map(|c| c.fact.idle).min()?;
        let seen = cases.iter().any(|c| c.fact.foreign == Some(true));
        let who = if seen {
            "a middlebox that had dropped the idle flow"
        } else {
            "something that no longer knew the idle flow"
        };
        let mut summary = match cx.count(cases) {
            1 => format!("The connection to {} was reset by {who}", cx.destination),
            n => format!("{n} connections to {} were reset by {who}", cx.destination),
        };
        summary.push_str(&format!(", at the first send after {} of silence", span(gap)));
        if let Some(p) = cases.iter().map(|c| c.fact.packet).find(|p| p.ttl.is_some() && p.flow_ttl.is_some())
            && let (Some(ttl), Some(flow)) = (p.ttl, p.flow_ttl)
        {
            summary.push_str(&format!("; the RST came with TTL {ttl}, the server's segments with {flow}"));
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(8) {
            let v = &case.fact;
            if let (Some(ago), Some(idle)) = (v.answered_after, v.idle) {
                let wrote = v.at.minus(ago);
                body.fact(wrote.minus(idle), format!("{}: last heard of the peer", case.name()));
                body.fact(wrote, format!("{}: data sent after {} of silence", case.name(), span(idle)));
            }
            let mut text = format!("{}: RST received, no FIN before", case.name());
            if let Some(ago) = v.answered_after {
                text.push_str(&format!(", {} after the send", span(ago)));
            }
            if let Some(rtt) = v.rtt {
                text.push_str(&format!(" (round trip {})", span(rtt)));
            }
            text.push_str(&packet_text(v));
            body.fact(v.at, text);
        }
        if seen {
            body.rival("The server itself, over a path with another number of hops: unlikely, its other segments all had one TTL.");
        } else {
            body.rival("The server closed the idle connection without its FIN being seen: not excluded, the RST's TTL could not be compared with the flow's (no packet provenance).");
        }
        body.rival("A forged RST of an attacker: unlikely, it came in answer to the first send after an idle gap.");
        let shortest = cx.dest.learned.path_killed().map_or(gap, |k| k.min(gap));
        body.advise(cx.client.keepalive(shortest.mul_f64(0.5)));
        body.advise(cx.client.pool_idle(Some(shortest)));
        body.advise("Known middleboxes of this kind: AWS NLB and NAT gateway forget after 350 s of silence and reset the next packet; many firewalls do after a few minutes.");
        body.advise(SYSCTL_KEEPALIVE);
        body.seconds("idle_s", gap);
        body.number("resets", cx.count(cases) as f64);
        if let Some(ttl) = cases[0].fact.packet.ttl {
            body.number("ttl", f64::from(ttl));
        }
        if let Some(ttl) = cases[0].fact.packet.flow_ttl {
            body.number("flow_ttl", f64::from(ttl));
        }
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &ResetVerdict, _s: Option<&Socket>) -> String {
        "no further reset".into()
    }
}
