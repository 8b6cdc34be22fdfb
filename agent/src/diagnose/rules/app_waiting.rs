//! `app-waiting`: the request was acknowledged and the server has not answered: the network is fine.

use std::time::Duration;

use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell, is_client};
use crate::diagnose::text::{bytes, span};
use crate::model::{Code, Confidence, Keepalive, Mono, TcpState};
use crate::state::Socket;

pub struct AppWaiting;

/// Sends up to this size are more likely a protocol's housekeeping than a request: HTTP/2 SETTINGS, WINDOW_UPDATE
/// and PING acknowledgements in a TLS record take 31 to 42 bytes, a WebSocket pong less. Requests in TLS are larger.
const HOUSEKEEPING_BYTES: u64 = 48;
/// The port on which small sends are assumed to be encrypted housekeeping.
const TLS_PORTS: [u16; 2] = [443, 8443];

#[derive(Clone, Debug)]
pub struct Fact {
    asked: Mono,
    acked: Option<Mono>,
    request_bytes: Option<u64>,
    rtt: Option<Duration>,
    keepalive: Option<Keepalive>,
    unread: Option<u64>,
}

/// When the unanswered request was sent, if this socket waits for an answer with nothing in flight.
fn asked(s: &Socket) -> Option<Mono> {
    let a = &s.activity;
    if s.is_closed() || !matches!(s.state, Some(TcpState::Established | TcpState::FinWait2)) || !is_client(s) {
        return None;
    }
    let asked = a.last_sent?;
    if a.last_data_received.is_some_and(|d| d >= asked) || a.app_closed_at.is_some() && a.last_data_received.is_some() {
        return None;
    }
    let in_flight = s.tcp.unacked_segments.is_some_and(|n| n > 0) || s.tcp.send_queue_bytes.is_some_and(|n| n > 0);
    // Without a sample since the send nothing is known of what is in flight.
    if in_flight || a.retransmits_since_heard > 0 || s.tcp_at? < asked || s.tcp.bytes_sent == Some(0) {
        return None;
    }
    let burst = a.sent_since_received;
    let tls = s.flow.is_some_and(|f| TLS_PORTS.contains(&f.remote.port()));
    match burst {
        Some(n) if n == 0 || (tls && n <= HOUSEKEEPING_BYTES) => None,
        _ => Some(asked),
    }
}

impl Rule for AppWaiting {
    const CODE: Code = Code::AppWaiting;
    const CONCERN: Concern = Concern::Open;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Fact> {
        let asked = asked(s)?;
        (cx.now.since(asked) >= cx.t.app_waiting).then(|| Fact {
            asked,
            acked: s.activity.last_heard.filter(|h| *h >= asked),
            request_bytes: s.activity.sent_since_received,
            rtt: s.tcp.rtt,
            keepalive: s.keepalive,
            unread: s.tcp.receive_queue_bytes.filter(|n| *n > 0),
        })
    }

    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        s.activity.last_sent.map(|t| t.plus(cx.t.app_waiting))
    }

    fn clocked(&self) -> bool {
        true
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let longest = cases.iter().min_by_key(|c| c.fact.asked)?;
        let waited = cx.now.since(longest.fact.asked);
        let known = cases.iter().any(|c| c.fact.request_bytes.is_some());
        let who = cx.process.as_deref().unwrap_or("the client");
        let summary = match cases.len() {
            1 => format!(
                "The network is fine: the request of {who} to {} was acknowledged {} ago and the server has not answered.",
                cx.destination,
                span(waited)
            ),
            n => format!(
                "The network is fine: {n} requests of {who} to {} were acknowledged, the first {} ago, and the server has not answered.",
                cx.destination,
                span(waited)
            ),
        };
        let mut body = Body::new(if known { Confidence::Likely } else { Confidence::Possible }, summary);
        for case in cases.iter().take(8) {
            let f = &case.fact;
            let size = f.request_bytes.map_or(String::new(), |n| format!(" ({})", bytes(n)));
            body.fact(f.asked, format!("{}: request sent{size}", case.name()));
            if let Some(t) = f.acked {
                body.fact(
                    t,
                    format!("{}: everything acknowledged, nothing in flight, nothing received since", case.name()),
                );
            }
            if let Some(n) = f.unread {
                body.fact(cx.now, format!("{}: {} received that the application has not read", case.name(), bytes(n)));
            }
        }
        body.rival("The server's large answer packets vanish on the path (MTU black hole in the other direction): possible, this end cannot see what never arrives.");
        body.rival(
            "The path died after the request was acknowledged: possible without keepalive; with it, probes would tell.",
        );
        if !known {
            body.rival("What was sent last may not have been a request but the protocol's housekeeping.");
        }
        body.advise(format!(
            "Ask whoever runs {} why it takes so long: a slow or stuck handler, a queue, a long-running model request. Nothing on this host or on the way retransmits.",
            cx.destination
        ));
        body.advise(cx.client.request_timeout());
        let probes = longest.fact.keepalive.filter(|k| k.enabled);
        body.advise(match probes {
            Some(k) => format!(
                "Keepalive is on ({} s): it tells a vanished server from a slow one, but it does not make a slow server answer.",
                k.idle_s
            ),
            None => "Keepalive would not make the server answer. It would only keep the path's memory of this connection while it waits, and tell if the peer vanishes: worth it where answers take minutes.".to_owned(),
        });
        body.seconds("waiting_s", waited);
        if let Some(n) = longest.fact.request_bytes {
            body.number("request_bytes", n as f64);
        }
        if let Some(rtt) = longest.fact.rtt {
            body.number("rtt_ms", rtt.as_secs_f64() * 1e3);
        }
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if s.activity.last_data_received.is_some_and(|d| d > fact.asked) => {
                let d = s.activity.last_data_received.unwrap_or(now);
                format!("the server answered after {}", span(d.since(fact.asked)))
            }
            Some(s) if s.activity.fin_received.is_some() => {
                format!("the server closed without an answer after {}", span(now.since(fact.asked)))
            }
            Some(s) if s.last_reset_at.is_some() => format!("reset after {} of waiting", span(now.since(fact.asked))),
            _ => format!("the client stopped waiting after {}", span(now.since(fact.asked))),
        }
    }
}
