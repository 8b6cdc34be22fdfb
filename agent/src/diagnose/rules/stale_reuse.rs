//! `stale-reuse`: the client wrote into a pooled connection that the server had already closed.

use std::time::Duration;

use crate::diagnose::reset::ResetVerdict;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::{count, span};
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Mono};
use crate::state::Socket;

pub struct StaleReuse;

impl Rule for StaleReuse {
    const CODE: Code = Code::StaleReuse;
    const CONCERN: Concern = Concern::Reset;
    type Fact = ResetVerdict;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<ResetVerdict> {
        cx.reset.filter(|v| v.code == Code::StaleReuse && cx.now.since(v.at) < cx.t.hold).cloned()
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        cx.reset.filter(|v| v.code == Code::StaleReuse).map(|v| v.at.plus(cx.t.hold))
    }

    fn holds_until(&self, v: &ResetVerdict, t: &Thresholds) -> Option<Mono> {
        Some(v.at.plus(t.hold))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<ResetVerdict>]) -> Option<Body> {
        let confidence = cases.iter().map(|c| c.fact.confidence).max()?;
        let finned = cases.iter().any(|c| c.fact.fin.is_some());
        let limit = cx.dest.learned.server_limit();
        // Where the server said FIN, the client reused the connection so long after; else the whole silence counts.
        let late = cases.iter().filter_map(|c| reuse_after(&c.fact)).min();
        let idle = cases.iter().filter_map(|c| silence(&c.fact)).min();
        let mut summary = match cx.count(cases) {
            1 => format!("A request to {} was reset: ", cx.destination),
            n => format!("{n} requests to {} were reset: ", cx.destination),
        };
        summary.push_str(match finned {
            true => "the server had closed the idle connection",
            false => "the server no longer knew the idle connection",
        });
        if let Some(late) = late {
            summary.push_str(&format!(" {} before the client used it again", span(late)));
        } else if let Some(idle) = idle {
            summary.push_str(&format!(", idle for {}, when the client used it again", span(idle)));
        }
        if let Some((limit, n)) = limit {
            summary.push_str(&format!("; the server's idle limit is {} ({})", span(limit), count(n, "sample")));
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(8) {
            evidence(&mut body, case);
        }
        if finned {
            body.rival("A middlebox that closes idle connections in the server's name (a load balancer): its FIN looks like the server's; the remedy is the same.");
        } else {
            body.rival("A NAT that forgot the flow and gave it a new port when the client wrote: the real server then resets what it does not know, with its own TTL. Not excluded: no FIN was seen. Keepalive below the gap would help in that case.");
            body.rival("The server restarted while the connection was idle.");
        }
        body.rival("An attacker or middlebox that forged the RST: unlikely, the connection was already stale.");
        let shortest = limit.map(|l| l.0).into_iter().chain(idle).min();
        body.advise(cx.client.pool_idle(shortest));
        body.advise("Or raise the server's keep-alive timeout above the client's pool timeout (nginx `keepalive_timeout`, Node `server.keepAliveTimeout`, uvicorn `--timeout-keep-alive`).");
        body.advise(
            "Retry once on a fresh connection: the request was not processed, the server had closed before it came.",
        );
        body.advise(if finned {
            "TCP keepalive does not help here: the server's idle limit counts requests, not probes."
        } else {
            "TCP keepalive helps only if the path forgot the flow, not if the server closed it: a server's idle limit counts requests, not probes."
        });
        body.number("resets", cx.count(cases) as f64);
        if let Some(d) = idle {
            body.seconds("idle_s", d);
        }
        if let Some(d) = late {
            body.seconds("reused_after_s", d);
        }
        if let Some((d, n)) = limit {
            body.seconds("server_idle_limit_s", d);
            body.number("samples", n as f64);
        }
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &ResetVerdict, _s: Option<&Socket>) -> String {
        "no further reset".into()
    }
}

/// From the server's FIN to the write that it answered with a RST.
fn reuse_after(v: &ResetVerdict) -> Option<Duration> {
    let (fin, _) = v.fin?;
    let wrote = v.at.minus(v.answered_after?);
    (wrote > fin).then(|| wrote.since(fin))
}

/// How long the connection had been idle altogether when it was used again.
fn silence(v: &ResetVerdict) -> Option<Duration> {
    match (v.fin, v.answered_after) {
        (Some((fin, Some(before))), Some(ago)) => Some(v.at.minus(ago).since(fin) + before),
        _ => v.idle,
    }
}

fn evidence(body: &mut Body, case: &Case<ResetVerdict>) {
    let v = &case.fact;
    if let Some((fin, idle)) = v.fin {
        body.fact(
            fin,
            match idle {
                Some(i) => format!("{}: FIN from the server after {} of idleness", case.name(), span(i)),
                None => format!("{}: FIN from the server", case.name()),
            },
        );
    }
    if let Some(ago) = v.answered_after {
        let wrote = v.at.minus(ago);
        body.fact(
            wrote,
            match (v.fin, v.idle) {
                (Some((fin, _)), _) => {
                    format!("{}: the client wrote, {} after the FIN", case.name(), span(wrote.since(fin)))
                }
                (None, Some(i)) => format!("{}: the client wrote after {} of silence", case.name(), span(i)),
                (None, None) => format!("{}: the client wrote", case.name()),
            },
        );
    }
    let mut text = format!("{}: RST received", case.name());
    if let Some(s) = v.state {
        text.push_str(&format!(" in {s}"));
    }
    if let Some(ago) = v.answered_after {
        text.push_str(&format!(", {} after the write", span(ago)));
    }
    text.push_str(&super::peer_abort::packet_text(v));
    body.fact(v.at, text);
}
