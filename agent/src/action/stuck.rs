//! Where keepalive cannot help: data that nobody acknowledges. Pure.
//!
//! While anything sits in the send queue the kernel only reschedules the keepalive timer and lets the retransmission
//! timer decide (`net/ipv4/tcp_timer.c`, `tcp_keepalive_timer`).

use std::time::Duration;

use super::options::{TcpLook, user_timeout_text};

/// The longest RTO (`TCP_RTO_MAX`).
const RTO_MAX: Duration = Duration::from_secs(120);

/// The user timeout that notes offer: the kernel gives up at its next timer anyway, once this much has passed.
const SUGGESTED_TIMEOUT: Duration = Duration::from_secs(5);

/// What keeps keepalive from working on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub queued_bytes: u32,
    /// Unanswered retransmission timeouts or zero-window probes.
    pub unanswered: u8,
    /// Time from the first of them until now: what TCP_USER_TIMEOUT is compared with.
    pub since_first: Duration,
    /// Until the pending timer fires: the kernel looks at the user timeout only then.
    pub next_timer: Duration,
    pub zero_window: bool,
}

/// `None`: the send queue is empty, or merely in flight (no timer has run out yet).
pub fn stuck(look: &TcpLook) -> Option<Stuck> {
    let queued_bytes = look.queued_bytes.filter(|b| *b > 0)?;
    let zero_window = look.unacked_segments == 0;
    let unanswered = if zero_window { look.probes } else { look.retransmits };
    if unanswered == 0 {
        return None;
    }
    let backoff = u32::from(look.backoff.min(20));
    // tcpi_rto is doubled with each retransmission, but not with each zero-window probe (tcp_probe0_when).
    let (base, interval) = if zero_window {
        (look.rto, (look.rto * (1 << backoff)).min(RTO_MAX))
    } else {
        (look.rto / (1 << backoff), look.rto)
    };
    // The series of intervals between the first retransmission and the latest.
    let series: Duration = (1..backoff).map(|n| (base * (1 << n)).min(RTO_MAX)).sum();
    Some(Stuck {
        queued_bytes,
        unanswered,
        since_first: series + look.last_sent,
        next_timer: interval.saturating_sub(look.last_sent),
        zero_window,
    })
}

impl Stuck {
    /// How long from now until the kernel gives up if TCP_USER_TIMEOUT is set to `timeout` now: at the first expiry
    /// of its timer after the timeout has passed; the timer that is pending already is not moved.
    pub fn gives_up_in(&self, timeout: Duration) -> Duration {
        timeout.saturating_sub(self.since_first).max(self.next_timer)
    }

    /// For the user, after keepalive was set. `timeout_ms`: the user timeout that the socket now has, 0 for none.
    pub fn note(&self, timeout_ms: u32) -> String {
        let what = if self.zero_window {
            format!(
                "the peer's window is closed, {} wait, {} probes unanswered",
                bytes(self.queued_bytes),
                self.unanswered
            )
        } else {
            format!("{} unacknowledged after {} retransmissions", bytes(self.queued_bytes), self.unanswered)
        };
        let out = if timeout_ms > 0 {
            let d = Duration::from_millis(timeout_ms.into());
            format!(
                "with its user timeout of {} the kernel gives up in about {}",
                user_timeout_text(timeout_ms),
                minutes(self.gives_up_in(d))
            )
        } else {
            let d = SUGGESTED_TIMEOUT;
            format!(
                "`--user-timeout {}` would end it in about {}, `agent close` ends it now",
                user_timeout_text(d.as_millis() as u32),
                minutes(self.gives_up_in(d))
            )
        };
        format!("keepalive cannot rescue it ({what}); {out}")
    }
}

/// What the user must know of a socket that now has this user timeout (0: none); `None` if keepalive does its work.
pub fn note(look: &TcpLook, user_timeout_ms: u32) -> Option<String> {
    match stuck(look) {
        Some(s) => Some(s.note(user_timeout_ms)),
        None => in_flight_note(look),
    }
}

/// Data is in flight but no timer has run out: keepalive starts once it is acknowledged.
pub fn in_flight_note(look: &TcpLook) -> Option<String> {
    let queued = look.queued_bytes.filter(|b| *b > 0)?;
    Some(format!(
        "{} in flight: keepalive counts from their acknowledgement; it does not bound the wait for it",
        bytes(queued)
    ))
}

fn bytes(n: u32) -> String {
    match n {
        1 => "1 byte".into(),
        n if n < 1024 => format!("{n} bytes"),
        n if n < 1 << 20 => format!("{} KiB", n >> 10),
        n => format!("{} MiB", n >> 20),
    }
}

/// `0:05`, `13:38`; a part of a second counts as one.
fn minutes(d: Duration) -> String {
    let s = d.as_millis().div_ceil(1000);
    format!("{}:{:02}", s / 60, s % 60)
}

/// How long something took: `0.2 ms`, `41 ms`.
pub fn milliseconds(d: Duration) -> String {
    let ms = d.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looking(retransmits: u8, backoff: u8, rto_ms: u64, last_sent_ms: u64, queued: u32) -> TcpLook {
        TcpLook {
            state: None,
            retransmits,
            probes: 0,
            backoff,
            rto: Duration::from_millis(rto_ms),
            unacked_segments: u32::from(queued > 0),
            last_sent: Duration::from_millis(last_sent_ms),
            queued_bytes: Some(queued),
        }
    }

    #[test]
    fn an_empty_or_fresh_queue_is_not_stuck() {
        assert_eq!(stuck(&looking(0, 0, 200, 0, 0)), None);
        assert_eq!(stuck(&looking(0, 0, 200, 10, 100)), None);
        assert!(in_flight_note(&looking(0, 0, 200, 10, 100)).is_some());
    }

    #[test]
    fn the_forecast_waits_for_the_pending_timer() {
        // RTO 200 ms, four retransmissions at 0.2, 0.6, 1.4, 3.0 s after the send; RTO now 3.2 s, 1 s ago.
        let s = stuck(&looking(4, 4, 3200, 1000, 1448)).unwrap();
        assert_eq!(s.since_first, Duration::from_millis(400 + 800 + 1600 + 1000));
        assert_eq!(s.next_timer, Duration::from_millis(2200));
        // 5 s after the first retransmission is in 1.2 s, but the timer fires in 2.2 s.
        assert_eq!(s.gives_up_in(Duration::from_secs(5)), Duration::from_millis(2200));
        assert_eq!(s.gives_up_in(Duration::from_secs(10)), Duration::from_millis(6200));
    }

    #[test]
    fn notes_name_both_ways_out() {
        let s = stuck(&looking(4, 4, 3200, 1000, 1448)).unwrap();
        let note = s.note(0);
        assert!(
            note.contains("cannot rescue") && note.contains("agent close") && note.contains("--user-timeout 5s"),
            "{note}"
        );
        assert!(note.contains("0:03"), "{note}");
        assert!(s.note(10_000).contains("gives up in about 0:07"));
    }

    #[test]
    fn minutes_round_up() {
        assert_eq!(minutes(Duration::from_millis(4_001)), "0:05");
        assert_eq!(minutes(Duration::from_secs(818)), "13:38");
    }
}
