//! When will the kernel give up on this socket, if nothing more is heard of the peer? Pure: runs the kernel's own
//! retransmission timer ahead (`net/ipv4/tcp_timer.c`: `tcp_write_timeout`, `retransmits_timed_out`,
//! `tcp_model_timeout`, `tcp_probe_timer`, `tcp_keepalive_timer`).

use std::time::Duration;

use super::sysctl::Sysctls;
use crate::model::{Keepalive, TcpState};

/// `TCP_RTO_MIN` (`include/net/tcp.h`): the base of the kernel's time model, whatever `tcp_rto_min_us` says.
const MODEL_BASE: Duration = Duration::from_millis(200);
/// `TCP_TIMEOUT_INIT`: the base for SYNs.
const MODEL_BASE_SYN: Duration = Duration::from_secs(1);
/// More timer expiries than any sysctl allows (`tcp_retries2` is at most 255).
const MAX_STEPS: u32 = 512;

/// inet_diag's timer numbers.
pub const TIMER_RETRANSMIT: u8 = 1;
pub const TIMER_KEEPALIVE: u8 = 2;
pub const TIMER_PROBE0: u8 = 4;

/// What is known of the socket now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    pub state: TcpState,
    /// Segments in flight that the peer has not acknowledged.
    pub unacked: bool,
    /// The RTO as it stands, doublings included (`icsk_rto`).
    pub rto: Duration,
    /// Doublings so far (`icsk_backoff`).
    pub backoff: u8,
    /// Unanswered RTOs in a row (`icsk_retransmits`).
    pub retransmits: u8,
    /// Unanswered keepalive or zero-window probes.
    pub probes: u8,
    /// Smoothed round-trip time, for the RTO before its doublings where the cap hides it.
    pub rtt: Option<Duration>,
    /// inet_diag's timer number, if known.
    pub timer: Option<u8>,
    /// Until that timer fires; `None`: it was armed just now, with the whole RTO.
    pub timer_in: Option<Duration>,
    /// Since the first unanswered retransmit (for a SYN: since the first SYN), if it was seen; else modelled.
    pub since_first_retransmit: Option<Duration>,
    /// TCP_USER_TIMEOUT; zero = not set.
    pub user_timeout: Duration,
    /// No process has it open any more (`SOCK_DEAD`).
    pub orphan: bool,
    /// The peer's window is 0: retransmits count as probes.
    pub zero_window: bool,
    /// Since the last ACK.
    pub last_ack: Option<Duration>,
    pub keepalive: Option<Keepalive>,
}

impl Input {
    /// Nothing in flight, nothing asked for: the base to fill in.
    pub fn new(state: TcpState, rto: Duration) -> Self {
        Self {
            state,
            unacked: false,
            rto,
            backoff: 0,
            retransmits: 0,
            probes: 0,
            rtt: None,
            timer: None,
            timer_in: None,
            since_first_retransmit: None,
            user_timeout: Duration::ZERO,
            orphan: false,
            zero_window: false,
            last_ack: None,
            keepalive: None,
        }
    }
}

/// Time until the kernel gives up, if the peer stays silent. `None` while nothing is unanswered, or where the kernel
/// would try for ever.
pub fn gives_up_in(i: &Input, s: &Sysctls) -> Option<Duration> {
    match i.state {
        TcpState::Listen
        | TcpState::TimeWait
        | TcpState::Close
        | TcpState::NewSynRecv
        | TcpState::SynRecv
        | TcpState::FinWait2
        | TcpState::BoundInactive => None,
        _ if i.rto.is_zero() => None,
        TcpState::SynSent => Some(handshake(i, s)),
        _ if i.unacked && i.zero_window && !i.orphan => shrunk_window(i, s),
        _ if i.unacked => Some(retransmission(i, s)),
        _ if i.timer == Some(TIMER_PROBE0) && i.probes >= 2 => zero_window(i, s),
        _ if i.timer == Some(TIMER_KEEPALIVE) && i.probes >= 1 => keepalive(i),
        _ => None,
    }
}

/// `tcp_model_timeout`: how long `boundary` doublings from `base` take.
fn model_timeout(boundary: u32, base: Duration, rto_max: Duration) -> Duration {
    let boundary = boundary.min(255);
    let threshold = (rto_max.as_millis() / base.as_millis().max(1)).max(1).ilog2();
    if boundary <= threshold {
        base * ((2u32 << boundary) - 1)
    } else {
        base * ((2u32 << threshold) - 1) + rto_max * (boundary - threshold)
    }
}

/// The RTO before its doublings.
fn first_rto(i: &Input, s: &Sysctls) -> Duration {
    let halved = i.rto / 2u32.saturating_pow(u32::from(i.backoff).min(31));
    if i.rto < s.rto_max {
        return halved;
    }
    // At the cap the halves say too little: what `tcp_set_rto` computes from the round trip is never less.
    halved.max(s.rto_min + i.rtt.unwrap_or_default()).min(i.rto)
}

/// Since the first unanswered retransmit: seen, or summed up over the doublings that led here.
pub fn elapsed(i: &Input, s: &Sysctls) -> Duration {
    let in_this_step = i.timer_in.map_or(Duration::ZERO, |left| i.rto.saturating_sub(left));
    let mut rto = first_rto(i, s);
    let mut sum = in_this_step;
    for _ in 1..i.retransmits {
        rto = (rto * 2).min(s.rto_max);
        sum += rto;
    }
    i.since_first_retransmit.unwrap_or(sum)
}

/// How much later than asked a timer of the kernel's wheel fires, on average (`kernel/time/timer.c`: level `n` holds
/// timers of up to 63 x 8^n jiffies in slots of 8^n; a timer falls into the slot after its own). Near the limit this
/// decides whether one more retransmission happens.
fn lateness(wait: Duration, s: &Sysctls) -> Duration {
    let mut slot = s.jiffy;
    let mut reach = s.jiffy * 63;
    for _ in 0..8 {
        if wait < reach {
            break;
        }
        slot *= 8;
        reach *= 8;
    }
    slot / 2
}

/// Steps the retransmission timer on: `expired(retransmits, rto, time since the first retransmit)` is asked at each
/// expiry, as `tcp_write_timeout` is.
fn step(
    i: &Input,
    s: &Sysctls,
    mut since_first: Option<Duration>,
    mut linear_left: u32,
    expired: impl Fn(u32, Duration, Duration) -> bool,
) -> Duration {
    let mut at = i.timer_in.unwrap_or(i.rto);
    at += lateness(i.rto.max(at), s);
    let mut last = Duration::ZERO;
    let (mut rto, mut retransmits) = (i.rto, u32::from(i.retransmits));
    for _ in 0..MAX_STEPS {
        let since = since_first.map(|e| e + at - last).unwrap_or_default();
        if expired(retransmits, rto, since) {
            return at;
        }
        since_first = Some(since);
        last = at;
        retransmits += 1;
        if linear_left > 0 {
            linear_left -= 1;
        } else {
            rto = (rto * 2).min(s.rto_max);
        }
        // `tcp_clamp_rto_to_user_timeout`
        let wait = if i.user_timeout.is_zero() {
            rto
        } else {
            rto.min(i.user_timeout.saturating_sub(since)).max(Duration::from_millis(1))
        };
        at += wait + lateness(wait, s);
    }
    at
}

fn retransmission(i: &Input, s: &Sysctls) -> Duration {
    let since_first = (i.retransmits > 0).then(|| elapsed(i, s));
    step(i, s, since_first, 0, |retransmits, rto, since| {
        let boundary = match i.orphan {
            false => s.retries2,
            // `tcp_orphan_retries`: 0 means 8 as long as the RTO is below its cap.
            true if s.orphan_retries == 0 && rto < s.rto_max => 8,
            true => s.orphan_retries,
        };
        let limit =
            if i.user_timeout.is_zero() { model_timeout(boundary, MODEL_BASE, s.rto_max) } else { i.user_timeout };
        retransmits > 0 && since >= limit
    })
}

fn handshake(i: &Input, s: &Sysctls) -> Duration {
    let done = u32::from(i.retransmits);
    // `retrans_stamp` of a SYN is its first sending, so that time runs from there.
    let since_first = i.since_first_retransmit.unwrap_or_else(|| {
        let mut rto = MODEL_BASE_SYN;
        let mut sum = i.timer_in.map_or(Duration::ZERO, |left| i.rto.saturating_sub(left));
        for n in 0..done {
            sum += rto;
            if n >= s.syn_linear_timeouts {
                rto = (rto * 2).min(s.rto_max);
            }
        }
        sum
    });
    let limit =
        if i.user_timeout.is_zero() { model_timeout(s.syn_retries, MODEL_BASE_SYN, s.rto_max) } else { i.user_timeout };
    step(i, s, Some(since_first), s.syn_linear_timeouts.saturating_sub(done), |retransmits, _, since| {
        retransmits >= s.syn_retries + s.syn_linear_timeouts || (retransmits > 0 && since >= limit)
    })
}

/// `tcp_rtx_probe0_timed_out`: data in flight against a window that closed; the kernel waits for twice the cap.
fn shrunk_window(i: &Input, s: &Sysctls) -> Option<Duration> {
    let silent = i.last_ack?;
    let limit = if i.user_timeout.is_zero() { s.rto_max * 2 } else { i.user_timeout.min(s.rto_max * 2) };
    Some(step(i, s, Some(silent), 0, |_, _, since| since > limit))
}

/// `tcp_probe_timer`: a closed window is probed for ever while the peer answers; `probes` counts unanswered ones.
fn zero_window(i: &Input, s: &Sysctls) -> Option<Duration> {
    let limit = match i.orphan {
        false => s.retries2,
        true if s.orphan_retries == 0 => 8,
        true => s.orphan_retries,
    };
    let base = i.rto.max(MODEL_BASE);
    let interval = |backoff: u32| (base * 2u32.pow(backoff.min(20))).min(s.rto_max);
    let mut backoff = u32::from(i.backoff);
    let mut at = i.timer_in.unwrap_or_else(|| interval(backoff));
    let before: Duration = (1..u32::from(i.probes)).map(|n| interval(backoff.saturating_sub(n))).sum();
    let probing_for = before + interval(backoff).saturating_sub(at);
    for probes in u32::from(i.probes)..MAX_STEPS {
        let left = i.user_timeout.saturating_sub(probing_for + at);
        if probes >= limit || (!i.user_timeout.is_zero() && left.is_zero()) {
            return Some(at);
        }
        backoff += 1;
        let wait = interval(backoff);
        at += if i.user_timeout.is_zero() { wait } else { wait.min(left) };
    }
    None
}

/// `tcp_keepalive_timer` after its first unanswered probe.
fn keepalive(i: &Input) -> Option<Duration> {
    let k = i.keepalive.filter(|k| k.enabled)?;
    let interval = Duration::from_secs(u64::from(k.interval_s));
    let next = i.timer_in.unwrap_or(interval);
    if k.user_timeout_ms == 0 {
        return Some(next + interval * k.count.saturating_sub(u32::from(i.probes)));
    }
    let limit = Duration::from_millis(u64::from(k.user_timeout_ms));
    let silent = i.last_ack.unwrap_or_default() + next;
    let missing = limit.saturating_sub(silent);
    let steps = missing.as_millis().div_ceil(interval.as_millis().max(1));
    Some(next + interval * u32::try_from(steps).unwrap_or(u32::MAX).min(MAX_STEPS))
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
