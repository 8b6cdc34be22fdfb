//! `peer-gone`: keepalive probes go unanswered: the peer or the path vanished while the connection was idle.

use std::time::Duration;

use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::{count, span};
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Confidence, Keepalive, Mono, TcpState};
use crate::state::Socket;

pub struct PeerGone;

/// sock_diag's number of the keepalive timer.
const TIMER_KEEPALIVE: u8 = 2;
/// How long an unanswered write hangs with the kernel's default `tcp_retries2` = 15 and an RTO of 200 ms
/// (ip-sysctl: 924.6 s): what keepalive spares.
const DEFAULT_HANG: Duration = Duration::from_millis(924_600);

#[derive(Clone, Debug)]
pub struct Fact {
    heard: Option<Mono>,
    probes: u32,
    keepalive: Option<Keepalive>,
    /// When keepalive gave up.
    ended: Option<(Mono, Confidence)>,
    seen: Mono,
}

impl Rule for PeerGone {
    const CODE: Code = Code::PeerGone;
    const CONCERN: Concern = Concern::Probed;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Fact> {
        let heard = s.activity.last_heard;
        if let Some(v) = cx.reset {
            return (v.code == Code::PeerGone && cx.now.since(v.at) < cx.t.hold).then(|| Fact {
                heard,
                // All probes of the configured count went out; the last sample may have seen fewer.
                probes: s.keepalive.filter(|k| k.enabled).map_or(u32::from(s.tcp.probes.unwrap_or(0)), |k| k.count),
                keepalive: s.keepalive,
                ended: Some((v.at, v.confidence)),
                seen: v.at,
            });
        }
        let probes = u32::from(s.tcp.probes?);
        let probing = s.tcp.timer == Some(TIMER_KEEPALIVE) && probes >= 1;
        if !probing {
            return None;
        }
        match (s.state, s.closed_at) {
            (Some(TcpState::Established | TcpState::CloseWait), None) => {
                // A probe just sent is not unanswered yet: the second one proves that the first was.
                (probes >= 2).then_some(Fact { heard, probes, keepalive: s.keepalive, ended: None, seen: s.tcp_at? })
            }
            (_, Some(at)) if s.activity.app_closed_at.is_none() && cx.now.since(at) < cx.t.hold => {
                Some(Fact { heard, probes, keepalive: s.keepalive, ended: Some((at, Confidence::Likely)), seen: at })
            }
            _ => None,
        }
    }

    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        let ended = match cx.reset {
            Some(v) => (v.code == Code::PeerGone).then_some(v.at),
            None => s.closed_at.filter(|_| s.tcp.probes.is_some_and(|p| p > 0)),
        };
        ended.map(|t| t.plus(cx.t.hold))
    }

    fn holds_until(&self, fact: &Fact, t: &Thresholds) -> Option<Mono> {
        fact.ended.map(|(at, _)| at.plus(t.hold))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let ended = cases.iter().filter_map(|c| c.fact.ended).min_by_key(|e| e.0);
        let confidence = cases.iter().filter_map(|c| c.fact.ended.map(|e| e.1)).max().unwrap_or(Confidence::Likely);
        let found =
            cases.iter().filter_map(|c| Some(c.fact.ended.map_or(c.fact.seen, |e| e.0).since(c.fact.heard?))).min();
        let probes = cases.iter().map(|c| c.fact.probes).max()?;
        let subject = match cases.len() {
            1 => format!("The peer or path of an idle connection to {} vanished", cx.destination),
            n => format!("The peer or path of {n} idle connections to {} vanished", cx.destination),
        };
        let mut summary = format!("{subject}: {} unanswered", count(probes as usize, "keepalive probe"));
        if let Some(found) = found {
            summary.push_str(&match ended {
                Some(_) => format!(
                    "; keepalive found out {} after the peer was last heard, where a write into it would have hung for up to {}",
                    span(found),
                    span(DEFAULT_HANG)
                ),
                None => format!("; last heard {} ago", span(found)),
            });
        }
        summary.push('.');
        let mut body = Body::new(confidence, summary);
        for case in cases.iter().take(6) {
            let f = &case.fact;
            if let Some(h) = f.heard {
                body.fact(h, format!("{}: last heard of the peer", case.name()));
            }
            let mut text =
                format!("{}: {} without an answer", case.name(), count(f.probes as usize, "keepalive probe"));
            if let Some(k) = f.keepalive.filter(|k| k.enabled) {
                text.push_str(&format!(" (keepalive {}s/{}s/{})", k.idle_s, k.interval_s, k.count));
            }
            body.fact(f.seen, text);
            if let Some((t, _)) = f.ended {
                body.fact(t, format!("{}: keepalive gave up, the connection ended (ETIMEDOUT)", case.name()));
            }
        }
        if cx
            .dest
            .last_heard
            .is_some_and(|h| cases.iter().all(|c| c.fact.heard.is_some_and(|x| h > x.plus(Duration::from_secs(1)))))
        {
            body.rival("The server is down: no, another connection to it was heard later; the path forgot this one.");
        } else {
            body.rival("Whether the server went away or the path forgot the connection cannot be told from here: nothing else was heard from it since.");
        }
        body.advise("Nothing hangs: keepalive did its work, and the client gets an error at once instead of after a quarter of an hour. Make sure that it retries on a new connection.");
        body.advise("If this happens regularly at the same idle time, a middlebox forgets idle connections sooner than the first probe: lower the keepalive idle time (`agent keepalive --idle 30s`).");
        body.advise(cx.client.pool_idle(found));
        body.number("probes", f64::from(probes));
        if let Some(d) = found {
            body.seconds("found_after_s", d);
        }
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if !s.is_closed() => "the peer answers again".into(),
            _ => "the connection ended".into(),
        }
    }
}
