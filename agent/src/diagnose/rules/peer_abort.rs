//! `peer-abort`: the server, or its load balancer, reset the connection in the middle of its work.

use crate::diagnose::reset::ResetVerdict;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::{bytes, span};
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Mono};
use crate::state::Socket;

pub struct PeerAbort;

impl Rule for PeerAbort {
    const CODE: Code = Code::PeerAbort;
    const CONCERN: Concern = Concern::Reset;
    type Fact = ResetVerdict;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<ResetVerdict> {
        cx.reset.filter(|v| v.code == Code::PeerAbort && cx.now.since(v.at) < cx.t.hold).cloned()
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        cx.reset.filter(|v| v.code == Code::PeerAbort).map(|v| v.at.plus(cx.t.hold))
    }

    fn holds_until(&self, v: &ResetVerdict, t: &Thresholds) -> Option<Mono> {
        Some(v.at.plus(t.hold))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<ResetVerdict>]) -> Option<Body> {
        let last = &cases.iter().max_by_key(|c| c.fact.at)?.fact;
        let confidence = cases.iter().map(|c| c.fact.confidence).max()?;
        let when = if last.outstanding {
            "in the middle of a request"
        } else if last.idle.is_some_and(|i| i >= cx.t.idle_gap) {
            "while it was idle"
        } else {
            "right after data had arrived"
        };
        let mut summary = match cx.count(cases) {
            1 => format!("{} (or its load balancer) reset the connection {when}", cx.destination),
            n => format!("{} (or its load balancer) reset {n} connections, the last one {when}", cx.destination),
        };
        if let Some(age) = last.age {
            summary.push_str(&format!(", {} after connect", span(age)));
        }
        if let (Some(out), Some(inn)) = (last.bytes_sent, last.bytes_received) {
            summary.push_str(&format!("; {} sent, {} received", bytes(out), bytes(inn)));
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().rev().take(10) {
            let v = &case.fact;
            let mut text = format!("{}: RST received", case.name());
            if let Some(s) = v.state {
                text.push_str(&format!(" in {s}"));
            }
            if let Some(age) = v.age {
                text.push_str(&format!(", {} after connect", span(age)));
            }
            if let (Some(out), Some(inn)) = (v.bytes_sent, v.bytes_received) {
                text.push_str(&format!(", {} sent, {} received", bytes(out), bytes(inn)));
            }
            text.push_str(&packet_text(v));
            body.fact(v.at, text);
        }
        match last.foreign {
            Some(false) => body.rival("A middlebox that forged the RST with the flow's own TTL: possible in principle, nothing here points to it."),
            _ => body.rival("A middlebox that forged the RST: not excluded, the packet's TTL could not be compared with the flow's (no packet provenance)."),
        }
        let reused = last.answered_after.is_some() && last.idle.is_some_and(|i| i >= cx.t.idle_gap);
        body.rival(if reused && last.packet.with_ack == Some(true) {
            "An idle timeout: the connection had been idle, but the RST acknowledges, so the server still knew it (a RST for a forgotten connection carries no ACK)."
        } else {
            "An idle timeout: no, there was no idle gap before this RST that would explain it."
        });
        body.advise(format!(
            "This is not your network: report it to whoever runs {}, with the time, the byte counts and this evidence (`agent report`).",
            cx.destination
        ));
        body.advise("Retry with a pause if the request may be repeated. A load balancer's request limit or a crashing worker shows as resets after the same time or the same number of bytes: compare the numbers above.");
        body.advise("Keepalive and pool settings do not help: the connection was in use.");
        body.number("resets", cx.count(cases) as f64);
        if let Some(age) = last.age {
            body.seconds("age_s", age);
        }
        if let Some(n) = last.bytes_sent {
            body.number("bytes_sent", n as f64);
        }
        if let Some(n) = last.bytes_received {
            body.number("bytes_received", n as f64);
        }
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &ResetVerdict, _s: Option<&Socket>) -> String {
        "no further reset".into()
    }
}

/// What the RST packet showed against the flow: `; TTL 63 as the flow's`; empty without provenance.
pub fn packet_text(v: &ResetVerdict) -> String {
    let p = &v.packet;
    let mut out = String::new();
    match (p.ttl, p.flow_ttl, p.flow_ttl_max) {
        (Some(t), Some(low), Some(high)) if low != high => {
            out.push_str(&format!("; TTL {t}, the flow's {low} to {high}"))
        }
        (Some(t), Some(low), _) if t == low => out.push_str(&format!("; TTL {t} as the flow's")),
        (Some(t), Some(low), _) => out.push_str(&format!("; TTL {t}, the flow's {low}")),
        (Some(t), None, _) => out.push_str(&format!("; TTL {t}, the flow's unknown")),
        _ => {}
    }
    if let Some(id) = p.ip_id {
        out.push_str(&format!("; IP ID {id}"));
        if let Some(flow) = p.flow_ip_id {
            out.push_str(&format!(" (flow {flow})"));
        }
    }
    out
}
