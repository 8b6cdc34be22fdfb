//! `lossy-path`: segments are lost, yet the data gets through.

use std::time::Duration;

use crate::diagnose::rule::{Body, Case, Concern, Look, Rule, Tell};
use crate::diagnose::text::count;
use crate::diagnose::thresholds::Thresholds;
use crate::model::{Code, Confidence, Mono};
use crate::state::Socket;

pub struct LossyPath;

/// Without a retransmit for this long the path is as good as any.
const RECOVERED: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Fact {
    again: u64,
    sent: u64,
    rto: u64,
    fast: u64,
    first: Mono,
    last: Mono,
}

impl Rule for LossyPath {
    const CODE: Code = Code::LossyPath;
    const PER_PROCESS: bool = false;
    const CONCERN: Concern = Concern::Loss;
    type Fact = Fact;

    fn look(&self, cx: &Look<'_>, s: &Socket) -> Option<Fact> {
        let a = &s.activity;
        let (first, last) = (a.first_loss?, a.last_loss?);
        // A connection that is stuck has another finding, and its retransmits say nothing of the loss rate.
        if cx.stuck.is_some() || a.progress_retransmits == 0 || cx.now.since(last) >= RECOVERED {
            return None;
        }
        let all = u64::from(s.tcp.data_segments_sent?);
        let before = u64::from(a.data_segments_at_first.unwrap_or(0));
        let sent = all.saturating_sub(before);
        Some(Fact { again: a.progress_retransmits, sent, rto: s.counters.rto, fast: s.counters.fast, first, last })
    }

    fn due(&self, _cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        s.activity.last_loss.map(|t| t.plus(RECOVERED))
    }

    fn holds_until(&self, fact: &Fact, _t: &Thresholds) -> Option<Mono> {
        Some(fact.last.plus(RECOVERED))
    }

    fn tell(&self, cx: &Tell<'_>, cases: &[Case<Fact>]) -> Option<Body> {
        let again: u64 = cases.iter().map(|c| c.fact.again).sum();
        let sent: u64 = cases.iter().map(|c| c.fact.sent).sum();
        let percent = 100.0 * again as f64 / sent.max(1) as f64;
        if again < cx.t.loss_segments || percent < cx.t.loss_percent {
            return None;
        }
        let first = cases.iter().map(|c| c.fact.first).min()?;
        let last = cases.iter().map(|c| c.fact.last).max()?;
        let rto: u64 = cases.iter().map(|c| c.fact.rto).sum();
        let fast: u64 = cases.iter().map(|c| c.fact.fast).sum();
        let summary = format!(
            "The path to {} loses {percent:.1} % of the packets: {again} of {sent} segments sent were retransmitted, and the data got through.",
            cx.destination
        );
        let confidence = if again >= 3 * cx.t.loss_segments { Confidence::Certain } else { Confidence::Likely };
        let mut body = Body::new(confidence, summary);
        body.fact(first, "the first retransmit");
        body.fact(last, format!("the latest retransmit; {rto} after a timeout, {fast} by SACK or duplicate ACKs"));
        for case in cases.iter().take(6) {
            let f = &case.fact;
            body.fact(
                f.last,
                format!(
                    "{}: {} of {}",
                    case.name(),
                    count(f.again as usize, "retransmit"),
                    count(f.sent as usize, "segment")
                ),
            );
        }
        body.rival("Reordering rather than loss: possible where most retransmits are fast ones and the peer reports duplicates.");
        body.rival("A dead path: no, every loss was made good.");
        body.advise("Look at the nearest links first: Wi-Fi, a saturated uplink (bufferbloat), a VPN, a bad cable or duplex setting; `mtr` to the destination shows where loss begins.");
        body.advise("The client is not at fault and its connections survive this; requests are slower by a round trip or an RTO (200 ms and more) per loss.");
        body.advise("Keepalive does not help.");
        body.number("loss_percent", percent);
        body.number("retransmits", again as f64);
        body.number("segments", sent as f64);
        Some(body)
    }

    fn outcome(&self, _now: Mono, _fact: &Fact, s: Option<&Socket>) -> String {
        match s {
            Some(s) if !s.is_closed() => "no retransmit for a minute".into(),
            _ => "the connection ended".into(),
        }
    }
}
