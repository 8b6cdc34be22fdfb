//! `no-keepalive`: an idle connection that would not survive a path that forgets idle flows.

use std::time::Duration;

use crate::diagnose::client::SYSCTL_KEEPALIVE;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell, is_client};
use crate::diagnose::text::{count, span};
use crate::diagnose::thresholds::CLOUD_IDLE_LIMIT;
use crate::model::{Code, Confidence, Keepalive, Mono, TcpState};
use crate::state::Socket;

pub struct NoKeepalive;

#[derive(Clone, Debug)]
pub struct Fact {
    keepalive: Keepalive,
    last: Mono,
    /// How long a write into the dead connection would hang, by this socket's own limits.
    user_timeout: Option<Duration>,
}

/// Idle since when, for a living connection of a client.
fn idle_since(s: &Socket) -> Option<Mono> {
    if s.is_closed() || s.state != Some(TcpState::Established) || !is_client(s) {
        return None;
    }
    let busy = s.tcp.unacked_segments.is_some_and(|n| n > 0) || s.tcp.send_queue_bytes.is_some_and(|n| n > 0);
    if busy || s.activity.retransmits_since_heard > 0 {
        return None;
    }
    s.activity.last_heard.max(s.activity.last_sent)
}

/// The idle time from which this socket is at risk: the configured one, or what was seen to kill another one to
/// the same destination.
fn risk(cx: &Look<'_>) -> Duration {
    cx.dest.learned.path_killed().map_or(cx.t.no_keepalive_idle, |k| k.min(cx.t.no_keepalive_idle))
}

impl Rule for NoKeepalive {
    const CODE: Code = Code::NoKeepalive;
    const CONCERN: Concern = Concern::Open;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Fact> {
        let last = idle_since(s)?;
        let keepalive = s.keepalive?;
        let late = cx.dest.learned.path_killed().is_some_and(|k| Duration::from_secs(keepalive.idle_s.into()) >= k);
        if keepalive.enabled && !late {
            return None;
        }
        let idle = cx.now.since(last);
        (idle >= risk(cx)).then_some(Fact {
            keepalive,
            last,
            user_timeout: (keepalive.user_timeout_ms > 0)
                .then(|| Duration::from_millis(keepalive.user_timeout_ms.into())),
        })
    }

    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        idle_since(s).map(|t| t.plus(risk(cx)))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let longest = cases.iter().map(|c| cx.now.since(c.fact.last)).max()?;
        let killed = cx.dest.learned.path_killed();
        let off = cases.iter().filter(|c| !c.fact.keepalive.enabled).count();
        let hang = cases.iter().filter_map(|c| c.fact.user_timeout).min();
        let confidence = match killed {
            Some(_) => Confidence::Certain,
            None if longest >= CLOUD_IDLE_LIMIT && !cx.dest.loopback => Confidence::Likely,
            None => Confidence::Possible,
        };
        let what = match (off, cases.len()) {
            (n, m) if n == m => "without keepalive".to_owned(),
            (0, _) => "with keepalive that begins too late".to_owned(),
            (n, m) => format!("({n} without keepalive, {} with one that begins too late)", m - n),
        };
        let mut summary = format!(
            "{} to {}, idle for up to {}, {what}",
            count(cases.len(), "connection"),
            cx.destination,
            span(longest)
        );
        match killed {
            Some(k) => summary.push_str(&format!(" would not survive this path, which killed one after {}", span(k))),
            None => summary.push_str(" would not survive a path that forgets idle flows"),
        }
        let stall = hang.unwrap_or(Duration::from_millis(924_600));
        summary.push_str(&format!("; the next write would hang for up to {}.", span(stall)));
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(10) {
            let f = &case.fact;
            let how = match f.keepalive {
                k if k.enabled => format!("SO_KEEPALIVE on, but the first probe only after {} s", k.idle_s),
                _ => "SO_KEEPALIVE off".to_owned(),
            };
            body.fact(f.last, format!("{}: last activity; {how}", case.name()));
        }
        if let Some(d) = cx.dest.learned.survived() {
            body.rival(format!("The path may be patient: another connection to it survived {} of silence.", span(d)));
        }
        if cx.dest.loopback {
            body.rival("This is a loopback address: no middlebox lies between.");
        }
        if killed.is_some() {
            body.rival("What killed the other connection may have been a single event (a restart of the middlebox) rather than an idle limit: then these would survive.");
        } else {
            body.rival("No idle connection to this destination was seen to die yet: this is a risk, not a fault.");
        }
        let idle = killed
            .map_or(Duration::from_secs(30), |k| k.mul_f64(0.5).clamp(Duration::from_secs(1), Duration::from_secs(30)));
        body.advise(cx.client.keepalive(idle));
        body.advise(cx.client.pool_idle(killed));
        body.advise(SYSCTL_KEEPALIVE);
        body.number("connections", cases.len() as f64);
        body.seconds("idle_now_s", longest);
        body.seconds("hang_s", stall);
        if let Some(k) = killed {
            body.seconds("killed_after_s", k);
        }
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if s.keepalive.is_some_and(|k| k.enabled) && !s.is_closed() => "keepalive is on now".into(),
            Some(s) if !s.is_closed() => "in use again".into(),
            _ => "the connection was closed".into(),
        }
    }
}
