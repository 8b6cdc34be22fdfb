//! `close-wait-leak`: the server has closed, and this end keeps the connection.

use std::time::Duration;

use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::{count, span};
use crate::model::{Code, Confidence, Mono, TcpState};
use crate::state::Socket;

pub struct CloseWaitLeak;

#[derive(Clone, Debug)]
pub struct Fact {
    since: Mono,
    idle_at_fin: Option<Duration>,
    unread: Option<u64>,
}

impl Rule for CloseWaitLeak {
    const CODE: Code = Code::CloseWaitLeak;
    const CONCERN: Concern = Concern::Open;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Fact> {
        if s.state != Some(TcpState::CloseWait) || s.is_closed() {
            return None;
        }
        // Where the FIN was not seen, the connection has been so at least since the agent first saw it.
        let since = s.activity.fin_received.unwrap_or(s.first_seen);
        (cx.now.since(since) >= cx.t.close_wait).then_some(Fact {
            since,
            idle_at_fin: s.activity.idle_at_fin,
            unread: s.tcp.receive_queue_bytes.filter(|n| *n > 1),
        })
    }

    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        (s.state == Some(TcpState::CloseWait))
            .then(|| s.activity.fin_received.unwrap_or(s.first_seen).plus(cx.t.close_wait))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let first = cases.iter().map(|c| c.fact.since).min()?;
        let who = cx.process.as_deref().unwrap_or("The process");
        let limit = cx.dest.learned.server_limit();
        let mut summary = format!(
            "{who} keeps {} to {} that the server has already closed, the oldest for {}; the next request on {} will be reset.",
            count(cases.len(), "connection"),
            cx.destination,
            span(cx.now.since(first)),
            if cases.len() == 1 { "it" } else { "each" },
        );
        if let Some((limit, n)) = limit {
            summary.push_str(&format!(" The server's idle limit is {} ({}).", span(limit), count(n, "sample")));
        }
        let mut body = Body::new(Confidence::Certain, summary);
        for case in cases.iter().take(10) {
            let f = &case.fact;
            body.fact(
                f.since,
                match f.idle_at_fin {
                    Some(i) => {
                        format!("{}: FIN received after {} of idleness, never closed here", case.name(), span(i))
                    }
                    None => format!("{}: in CLOSE_WAIT, never closed here", case.name()),
                },
            );
            if let Some(n) = f.unread {
                body.fact(cx.now, format!("{}: {n} bytes received and not read", case.name()));
            }
        }
        body.rival("A connection that the application still means to write to after the server's half-close: possible, but no HTTP client does.");
        body.advise(cx.client.pool_idle(limit.map(|l| l.0)));
        body.advise("Let the application close what it no longer uses (close the response body, the session, the client): a descriptor in CLOSE_WAIT stays until the process closes it, no system setting ends it.");
        body.advise("Keepalive does not help: the server has closed on purpose.");
        body.number("connections", cases.len() as f64);
        body.seconds("idle_now_s", cx.now.since(first));
        if let Some((d, n)) = limit {
            body.seconds("server_idle_limit_s", d);
            body.number("samples", n as f64);
        }
        Some(body)
    }

    fn outcome(&self, now: Mono, fact: &Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if s.last_reset_at.is_some() => {
                format!("used again and reset, {} after the FIN", span(now.since(fact.since)))
            }
            _ => format!("closed at last, {} after the FIN", span(now.since(fact.since))),
        }
    }
}
