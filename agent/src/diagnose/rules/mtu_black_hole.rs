//! `mtu-black-hole`: only full-size segments are lost, again and again, while smaller ones get through.

use crate::diagnose::hang::{self, Together, describe, ending};
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::stuck::{Kind, Stuck};
use crate::diagnose::text::{bytes, count, span};
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct MtuBlackHole;

impl Rule for MtuBlackHole {
    const CODE: Code = Code::MtuBlackHole;
    const PER_PROCESS: bool = false;
    const CONCERN: Concern = Concern::Stuck;
    type Fact = Stuck;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<Stuck> {
        hang::of_kind(cx, Kind::Mtu)
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        hang::due(cx)
    }

    fn clocked(&self) -> bool {
        true
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Stuck>]) -> Option<Body> {
        let all = Together::of(cx.now, cases)?;
        let full: u32 = cases.iter().map(|c| c.fact.full_retransmits).sum();
        let mss = cases.iter().filter_map(|c| c.fact.mss).max()?;
        let beside = cases.iter().any(|c| c.fact.acked_beside);
        let others = cx.dest.alive_after(all.since);
        let confidence = if beside || others || cases.len() > 1 { Confidence::Likely } else { Confidence::Possible };
        let mut summary = format!(
            "Large packets to {} vanish: {}, every one of a full {mss}-byte segment, while smaller segments were acknowledged",
            cx.destination,
            count(full as usize, "retransmit"),
        );
        if let Some(first) = all.gives_up_in {
            summary.push_str(&format!("; gives up in {}", span(first)));
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(4) {
            describe(&mut body, cx.now, case);
            if let Some(acked) = case.fact.bytes_acked {
                body.fact(
                    case.fact.since,
                    format!("{}: {} in small segments had been acknowledged before", case.name(), bytes(acked)),
                );
            }
            if case.fact.acked_beside {
                body.fact(case.fact.since, format!("{}: an ACK for a smaller, later segment came since", case.name()));
            }
        }
        if !beside && !others {
            body.rival(
                "The path went down at the moment of the first large send: not excluded, nothing was heard since.",
            );
        }
        body.rival("Random loss: unlikely, no smaller segment was lost.");
        body.advise(format!(
            "Lower the MTU on the interface or the route to {} (`ip route change ... mtu 1400`; tunnels and VPNs need 50 to 100 bytes less than 1500), or clamp the MSS on the router (`tcp option maxseg size set rt mtu` in nft).",
            cx.destination
        ));
        body.advise(
            "`sysctl net.ipv4.tcp_mtu_probing=1` lets the kernel find the size by itself after some retransmits.",
        );
        body.advise("Have ICMP «fragmentation needed» / ICMPv6 «packet too big» let through on the path: without them path MTU discovery is blind.");
        body.advise("Keepalive and pool settings do not help: small packets pass.");
        body.number("mss_bytes", f64::from(mss));
        all.number(&mut body);
        // Only the full-size ones make this cause.
        body.number("retransmits", f64::from(full));
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Stuck, s: Option<&Socket>) -> String {
        ending(now, fact, s)
    }
}
