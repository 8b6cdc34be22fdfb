//! `local-abort`: this host sent the RST.

use crate::diagnose::reset::ResetVerdict;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::{bytes, span};
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Mono};
use crate::state::Socket;

pub struct LocalAbort;

/// What a kernel reset reason means (`include/net/rstreason.h`), and what to do about it.
fn meaning(reason: Option<&str>) -> (&'static str, &'static str) {
    match reason.map(|r| r.trim_start_matches("SK_RST_REASON_")) {
        Some("TCP_ABORT_ON_CLOSE") => (
            "the application closed the socket with received data still unread",
            "Read the answer to its end before closing, or accept the RST: it is what aborting a download looks like.",
        ),
        Some("TCP_ABORT_ON_LINGER") => (
            "the application closed the socket with SO_LINGER or TCP_LINGER2 set to give up at once",
            "Remove SO_LINGER 0 from the application: a plain close sends what is left and a FIN.",
        ),
        Some("TCP_ABORT_ON_MEMORY") => (
            "the kernel ran out of memory for orphaned TCP sockets",
            "Raise `net.ipv4.tcp_max_orphans` and `net.ipv4.tcp_mem`, or find out who leaves so many half-closed sockets behind.",
        ),
        Some("TCP_ABORT_ON_DATA") => (
            "data arrived after the application had closed the socket",
            "The application stopped waiting before the answer came: look at its timeout or cancellation.",
        ),
        Some("TCP_STATE") => (
            "the application closed with SO_LINGER 0, or the socket was destroyed from outside (SOCK_DESTROY: `ss -K`, `agent close`)",
            "Look for SO_LINGER 0 in the application (some clients set it to drop broken connections), or for a tool that destroys sockets.",
        ),
        Some("TCP_DISCONNECT_WITH_DATA") => (
            "the application disconnected the socket with data still queued",
            "Let the application finish sending before it lets go of the connection.",
        ),
        Some("ERROR") => ("the kernel met an internal error on this socket", "Look into the kernel log (`dmesg`)."),
        Some(_) | None => (
            "this kernel does not tell why",
            "The usual reasons are a close with unread data and SO_LINGER 0; kernels from 6.12 tell which.",
        ),
    }
}

impl Rule for LocalAbort {
    const CODE: Code = Code::LocalAbort;
    const CONCERN: Concern = Concern::Reset;
    type Fact = ResetVerdict;

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<ResetVerdict> {
        cx.reset.filter(|v| v.code == Code::LocalAbort && cx.now.since(v.at) < cx.t.hold).cloned()
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        cx.reset.filter(|v| v.code == Code::LocalAbort).map(|v| v.at.plus(cx.t.hold))
    }

    fn holds_until(&self, v: &ResetVerdict, t: &Thresholds) -> Option<Mono> {
        Some(v.at.plus(t.hold))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<ResetVerdict>]) -> Option<Body> {
        let last = &cases.iter().max_by_key(|c| c.fact.at)?.fact;
        let confidence = cases.iter().map(|c| c.fact.confidence).max()?;
        let (why, what_to_do) = meaning(last.kernel_reason.as_deref());
        let mut summary = match cx.count(cases) {
            1 => format!("This host reset the connection to {}", cx.destination),
            n => format!("This host reset {n} connections to {}", cx.destination),
        };
        summary.push_str(&format!(": {why}"));
        if let Some(r) = &last.kernel_reason {
            summary.push_str(&format!(" (kernel reason {r})"));
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().rev().take(8) {
            let v = &case.fact;
            let mut text = format!("{}: RST sent by this host", case.name());
            if let Some(r) = &v.kernel_reason {
                text.push_str(&format!(", reason {r}"));
            }
            if let Some(age) = v.age {
                text.push_str(&format!(", {} after connect", span(age)));
            }
            if let (Some(out), Some(inn)) = (v.bytes_sent, v.bytes_received) {
                text.push_str(&format!(", {} sent, {} received", bytes(out), bytes(inn)));
            }
            body.fact(v.at, text);
        }
        body.rival(match last.kernel_reason {
            Some(_) => "The network or the server: no, the kernel of this host sent the RST and gave the reason.",
            None => "The network or the server: no, the kernel of this host sent the RST. Which decision of this host it was is not known.",
        });
        if let Some(p) = &cx.process {
            body.advise(format!("Look at {p}: the server sees this as «connection reset by peer»."));
        }
        body.advise(what_to_do);
        body.advise("Keepalive and network settings do not help: the decision was made on this host.");
        body.number("resets", cx.count(cases) as f64);
        if let Some(age) = last.age {
            body.seconds("age_s", age);
        }
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &ResetVerdict, _s: Option<&Socket>) -> String {
        "no further reset".into()
    }
}
