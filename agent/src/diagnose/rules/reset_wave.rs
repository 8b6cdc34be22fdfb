//! `reset-wave`: many resets of one destination within a short time: an incident there.

use std::collections::BTreeSet;

use crate::diagnose::reset::ResetVerdict;
use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::{count, span};
use crate::diagnose::thresholds::Thresholds;
use crate::diagnose::wave::counts;
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct ResetWave;

impl Rule for ResetWave {
    const CODE: Code = Code::ResetWave;
    const PER_PROCESS: bool = false;
    const CONCERN: Concern = Concern::Reset;
    type Fact = ResetVerdict;

    fn judges(code: Code) -> bool {
        counts(code)
    }

    fn look(&self, cx: &Look<'_>, _s: &Socket) -> Option<ResetVerdict> {
        cx.reset.filter(|v| counts(v.code) && cx.now.since(v.at) < cx.t.wave_window).cloned()
    }

    fn due(&self, cx: &Look<'_>, _s: &Socket) -> Option<Mono> {
        cx.reset.filter(|v| counts(v.code)).map(|v| v.at.plus(cx.t.wave_window))
    }

    fn holds_until(&self, v: &ResetVerdict, t: &Thresholds) -> Option<Mono> {
        Some(v.at.plus(t.wave_window))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<ResetVerdict>]) -> Option<Body> {
        let from = cx.now.minus(cx.t.wave_window);
        let sockets: BTreeSet<_> = cases.iter().map(|c| c.socket).collect();
        if cx.count(cases) < cx.t.wave_resets || sockets.len() + cx.shed < cx.t.wave_sockets {
            return None;
        }
        // The cases are those of the window; the wave may have begun long before it, and what is told last is told of
        // the whole.
        let wave = cx.dest.wave?;
        let (first, last) = (wave.first, wave.last);
        let lasted = last.since(first);
        let retries = cx.dest.connects.iter().filter(|t| **t > first).count();
        let failed = cases.iter().filter(|c| c.fact.age.is_some_and(|age| c.fact.at.minus(age) > first)).count();
        let refused =
            cx.dest.resets.iter().filter(|(t, code)| *code == Code::Refused && *t >= first && *t >= from).count();
        let share = wave.sockets as f64 / wave.could.max(wave.sockets) as f64;
        let per_minute = wave.resets as f64 / lasted.as_secs_f64().max(1.0) * 60.0;
        let mut summary = format!(
            "{} resets connections in a wave: {} on {} within {}, {:.0} % of its connections",
            cx.destination,
            count(wave.resets, "reset"),
            count(wave.sockets, "socket"),
            span(lasted),
            share * 100.0,
        );
        if failed + refused > 0 {
            // Of the resets that gave way to later ones it is not known what they ended.
            let at_least = if cx.shed > 0 { "at least " } else { "" };
            summary.push_str(&match failed + refused {
                1 => format!("; {at_least}a retry failed too"),
                n => format!("; {at_least}{n} retries failed too"),
            });
        } else if retries > 0 {
            summary.push_str("; retries succeed");
        }
        summary.push('.');
        let middle = cases.iter().filter(|c| c.fact.code == Code::InjectedReset).count();
        let sure = failed + refused > 0 && middle == 0 && cases.iter().any(|c| c.fact.foreign == Some(false));
        let mut body = Body::new(if sure { Confidence::Certain } else { Confidence::Likely }, summary);
        body.fact(first, "the first reset of the wave");
        for case in cases.iter().rev().take(10) {
            let v = &case.fact;
            let mut text = format!("{}: RST received", case.name());
            if let Some(age) = v.age {
                text.push_str(&format!(", {} after connect", span(age)));
            }
            text.push_str(&super::peer_abort::packet_text(v));
            body.fact(v.at, text);
        }
        body.fact(last, "the last reset of the wave so far");
        if let Some(t) = cx.dest.connects.iter().rev().find(|t| **t > first) {
            body.fact(
                *t,
                format!("{} opened since the first reset, {failed} of them reset", count(retries, "connection")),
            );
        }
        if middle > 0 {
            body.rival(format!("A middlebox on the way: {middle} of the resets have a TTL that is not the flow's."));
        } else {
            body.rival("A middlebox on the way rather than the destination: the resets show nothing foreign where their packets could be compared.");
        }
        body.rival("The client's own pool or idle timeouts: no, resets of idle connections are not counted here.");
        body.advise(format!(
            "Stop debugging locally: look at the status page of {}, and wait or switch to another region or endpoint.",
            cx.destination
        ));
        body.advise("Retry with exponential backoff and jitter (first pause about 1 s, doubled up to 60 s): immediate retries of all clients prolong such an incident.");
        body.advise("Keepalive, pool and timeout settings do not help.");
        body.number("resets", wave.resets as f64);
        body.number("rate_per_minute", per_minute);
        body.number("share", share);
        body.number("retries_failed", (failed + refused) as f64);
        body.seconds("lasted_s", lasted);
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &ResetVerdict, _s: Option<&Socket>) -> String {
        "its reset lies outside the window now".into()
    }
}
