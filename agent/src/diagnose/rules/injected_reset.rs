//! `injected-reset`: a RST in the middle of the traffic that does not fit the flow.

use crate::diagnose::reset::ResetVerdict;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::span;
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Mono};
use crate::state::Socket;

pub struct InjectedReset;

/// Distance of the RST's IP ID from the flow's latest from which it is none of the flow's own sequence. A counter
/// moves by ones; 0 is what Linux puts into any RST without a socket, and says nothing.
const IP_ID_DISTANCE: u16 = 4_096;

impl Rule for InjectedReset {
    const CODE: Code = Code::InjectedReset;
    const CONCERN: Concern = Concern::Reset;
    type Fact = ResetVerdict;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<ResetVerdict> {
        cx.reset.filter(|v| v.code == Code::InjectedReset && cx.now.since(v.at) < cx.t.hold).cloned()
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        cx.reset.filter(|v| v.code == Code::InjectedReset).map(|v| v.at.plus(cx.t.hold))
    }

    fn holds_until(&self, v: &ResetVerdict, t: &Thresholds) -> Option<Mono> {
        Some(v.at.plus(t.hold))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<ResetVerdict>]) -> Option<Body> {
        let confidence = cases.iter().map(|c| c.fact.confidence).max()?;
        let last = &cases.iter().max_by_key(|c| c.fact.at)?.fact;
        let mut summary = match cx.count(cases) {
            1 => format!("Something between here and {} reset the connection", cx.destination),
            n => format!("Something between here and {} reset {n} connections", cx.destination),
        };
        let mut numbers = None;
        if let (Some(ttl), Some(low)) = (last.packet.ttl, last.packet.flow_ttl) {
            let high = last.packet.flow_ttl_max.unwrap_or(low);
            let flow = if high > low { format!("{low} to {high}") } else { low.to_string() };
            summary.push_str(&format!(": the RST came with TTL {ttl}, the flow's own segments with {flow}"));
            numbers = Some((ttl, low));
        }
        summary.push_str("; there was no idle gap before it.");
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(6) {
            let v = &case.fact;
            let p = &v.packet;
            let mut text = format!("{}: RST received", case.name());
            if let Some(s) = v.state {
                text.push_str(&format!(" in {s}"));
            }
            if let Some(age) = v.age {
                text.push_str(&format!(", {} after connect", span(age)));
            }
            body.fact(v.at, text);
            if let (Some(ttl), Some(low)) = (p.ttl, p.flow_ttl) {
                let high = p.flow_ttl_max.unwrap_or(low);
                body.fact(v.at, format!("{}: TTL of the RST {ttl}, of the flow {low} to {high}", case.name()));
            }
            if let (Some(id), Some(flow)) = (p.ip_id, p.flow_ip_id)
                && id != 0
                && id.wrapping_sub(flow).min(flow.wrapping_sub(id)) > IP_ID_DISTANCE
            {
                body.fact(v.at, format!("{}: IP ID {id} is none of the flow's sequence (last {flow})", case.name()));
            }
            if let Some(exact) = p.seq_expected {
                let how = if exact { "exactly the expected one" } else { "not the expected one" };
                body.fact(v.at, format!("{}: sequence number {how}", case.name()));
            }
            if !v.origin_why.is_empty() {
                body.fact(v.at, format!("{}: {}", case.name(), v.origin_why));
            }
        }
        body.rival("The server itself behind a NAT or load balancer that rewrites TTLs, or over a second path: it would have to answer ordinary segments and the RST over different ones; not excluded.");
        body.rival("An idle timeout of a middlebox: unlikely, the connection was in use.");
        body.advise(format!(
            "Show the evidence to whoever runs the network between here and {}: a firewall, proxy, intrusion prevention or parental control on the way ends connections.",
            cx.destination
        ));
        body.advise("Try the same request from another network or through a VPN: if it works there, the middlebox sits in this one.");
        body.advise("Keepalive, pool and timeout settings do not help: the connection was in use.");
        body.number("resets", cx.count(cases) as f64);
        if let Some((ttl, flow)) = numbers {
            body.number("ttl", f64::from(ttl));
            body.number("flow_ttl", f64::from(flow));
        }
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &ResetVerdict, _s: Option<&Socket>) -> String {
        "no further reset".into()
    }
}
