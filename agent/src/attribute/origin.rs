//! Who made a RST that arrived: the peer, or something on the way? Pure.
//!
//! The TTL alone convicts nobody: load balancers rewrite it, and a NAT that remaps an old flow lets the *server's*
//! RST through with the flow's own TTL. So a differing TTL needs a second fact, and a fitting one only says that
//! the packet came from where the flow comes from.

use std::borrow::Cow;
use std::time::Duration;

use crate::model::{PacketFacts, ResetOrigin, TcpState};

/// Silence from which on a path may have forgotten the flow; no middlebox known forgets sooner (docs/FINDINGS.md).
pub const IDLE_GAP: Duration = Duration::from_secs(2);
/// A host that counts its IP IDs per connection or per host moves on by less than this between two packets of a
/// flow; random IDs are further away 9 times out of 10.
const IP_ID_NEAR: u16 = 3_000;

/// What is known of the RST and of its flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    pub packet: PacketFacts,
    pub state: Option<TcpState>,
    /// How long the connection had been silent before the send that the RST answers.
    pub idle_before: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub origin: ResetOrigin,
    /// The facts, in words, each from the packet or the socket.
    pub why: Cow<'static, str>,
}

/// Where a received RST came from, as far as the facts say.
pub fn classify(f: &Facts) -> Verdict {
    let verdict = |origin, why: Cow<'static, str>| Verdict { origin, why };
    let p = &f.packet;
    let Some(ttl) = p.ttl else {
        return verdict(ResetOrigin::Unknown, "the RST packet itself was not seen".into());
    };
    if f.state == Some(TcpState::SynSent) {
        let why = format!("TTL {ttl}; it answers a SYN, and nothing came from the peer before to compare with");
        return verdict(ResetOrigin::Unknown, why.into());
    }
    let Some(low) = p.flow_ttl else {
        let why = format!("TTL {ttl}; no ordinary packet of this flow was seen to compare with");
        return verdict(ResetOrigin::Unknown, why.into());
    };
    let high = p.flow_ttl_max.unwrap_or(low).max(low);
    let flow = if low == high { format!("{low}") } else { format!("{low} to {high}") };
    // A flow that takes several paths may take yet another: allow for its own spread again.
    let spread = high - low;
    if (low.saturating_sub(spread)..=high.saturating_add(spread)).contains(&ttl) {
        return verdict(ResetOrigin::Peer, format!("TTL {ttl}, like the flow's {flow}").into());
    }
    let mut why = vec![format!("TTL {ttl} where the flow has {flow}")];
    let mut second = false;
    if let Some(text) = strange_ip_id(p) {
        why.push(text);
        second = true;
    }
    let fin_seen = matches!(f.state, Some(TcpState::CloseWait | TcpState::LastAck | TcpState::Closing));
    if fin_seen {
        why.push("the peer had sent FIN before".into());
    } else {
        if let Some(idle) = f.idle_before.filter(|d| *d >= IDLE_GAP) {
            why.push(format!("after {:.1} s of silence, no FIN before", idle.as_secs_f64()));
            second = true;
        }
        if ttl > high && ttl - high <= 32 {
            let hops = ttl - high;
            why.push(format!("its sender is {hops} hop{} nearer than the peer", if hops == 1 { "" } else { "s" }));
            second = true;
        }
    }
    if second {
        verdict(ResetOrigin::Middlebox, why.join("; ").into())
    } else {
        why.push("no second sign that it is not the peer's".into());
        verdict(ResetOrigin::Unknown, why.join("; ").into())
    }
}

/// The IP ID as a second sign: it does not continue the flow's. IPv6 has none.
fn strange_ip_id(p: &PacketFacts) -> Option<String> {
    let (id, flow) = (p.ip_id?, p.flow_ip_id?);
    // A stack that always sends 0 (with DF) tells nothing by it.
    if flow == 0 && id == 0 {
        return None;
    }
    let distance = id.wrapping_sub(flow).min(flow.wrapping_sub(id));
    (id == 0 || flow == 0 || distance > IP_ID_NEAR).then(|| format!("IP ID {id} where the flow has {flow}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResetOrigin::{Middlebox, Peer, Unknown};
    use TcpState::{CloseWait, Established, SynSent};

    fn facts(ttl: u8, flow: u8, ids: Option<(u16, u16)>, state: TcpState, idle_s: u64) -> Facts {
        Facts {
            packet: PacketFacts {
                ttl: Some(ttl),
                flow_ttl: Some(flow),
                flow_ttl_max: Some(flow),
                ip_id: ids.map(|i| i.0),
                flow_ip_id: ids.map(|i| i.1),
                seq_expected: Some(true),
                ..PacketFacts::default()
            },
            state: Some(state),
            idle_before: Some(Duration::from_secs(idle_s)),
        }
    }

    #[test]
    fn the_cases_that_were_tried_on_the_kernel() {
        for (case, f, want) in [
            ("server closes with linger 0", facts(63, 63, Some((4001, 4000)), Established, 0), Peer),
            ("server had closed idle, client writes", facts(63, 63, Some((0, 4000)), CloseWait, 60), Peer),
            ("evicted NAT passes a new mapping through", facts(63, 63, Some((0, 4000)), Established, 60), Peer),
            ("NAT evicted, router resets", facts(64, 63, Some((0, 4000)), Established, 60), Middlebox),
            ("router rejects at once", facts(64, 63, Some((0, 4000)), Established, 0), Middlebox),
            ("router rejects at once, IPv6", facts(64, 63, None, Established, 0), Middlebox),
            ("router resets after idle, IPv6", facts(64, 63, None, Established, 60), Middlebox),
            ("forged, TTL 55, IP ID 4242", facts(55, 63, Some((4242, 41_000)), Established, 0), Middlebox),
            ("refused", facts(63, 63, None, SynSent, 0), Unknown),
        ] {
            let v = classify(&f);
            assert_eq!(v.origin, want, "{case}: {}", v.why);
        }
    }

    #[test]
    fn ttl_alone_convicts_nobody() {
        let v = classify(&facts(60, 63, Some((4001, 4000)), Established, 0));
        assert_eq!(v.origin, Unknown);
        assert_eq!(v.why, "TTL 60 where the flow has 63; no second sign that it is not the peer's");
        let v = classify(&facts(64, 63, None, CloseWait, 60));
        assert_eq!(v.origin, Unknown, "{}", v.why);
    }

    #[test]
    fn a_flow_over_several_paths_is_given_its_spread() {
        let mut f = facts(65, 62, None, Established, 0);
        f.packet.flow_ttl_max = Some(64);
        assert_eq!(classify(&f).origin, Peer);
        f.packet.ttl = Some(67);
        assert_eq!(classify(&f).why, "TTL 67 where the flow has 62 to 64; its sender is 3 hops nearer than the peer");
    }

    #[test]
    fn nothing_seen_nothing_said() {
        assert_eq!(classify(&Facts::default()).origin, Unknown);
        let mut f = facts(63, 63, None, Established, 0);
        f.packet.flow_ttl = None;
        assert_eq!(classify(&f).origin, Unknown);
    }

    #[test]
    fn ip_ids_wrap() {
        let v = classify(&facts(60, 63, Some((5, 65_530)), Established, 0));
        assert_eq!(v.origin, Unknown, "11 further on: {}", v.why);
    }
}
