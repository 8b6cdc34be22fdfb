//! What happened to a socket, kept as facts: thousands of sockets come and go without anybody reading theirs, so a
//! sentence is made only for the one that is looked at.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Mono, ResetDirection, ResetOrigin, RetransmitKind, TcpState};

/// Entries of a socket's history; the oldest leave first. 64 covers a whole RTO back-off (15 retransmits) with the
/// connection's beginning, its idle gap and what was done about it.
pub const HISTORY_LEN: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub at: Mono,
    pub what: Happening,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    Opened,
    State(TcpState, TcpState),
    /// New data left, after that long a silence if it is worth a word; `None` bytes: how much is not known.
    Sent(Option<u64>, Option<Duration>),
    /// Bytes.
    Received(u64),
    Retransmit(Retransmitted),
    Reset(ResetDirection, ResetOrigin, Option<Cow<'static, str>>),
    /// Seconds idle, seconds between probes, probes; `None`: switched off.
    Keepalive(Option<(u32, u32, u32)>),
    /// What the agent did, and what came of it.
    Action(Arc<str>),
    /// The finding's code, confidence and summary.
    Finding(Arc<str>),
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retransmitted {
    pub how: RetransmitKind,
    /// The how manieth timeout, or SYN, in a row.
    pub nth: u32,
    /// After a timeout the kernel sends everything again as ACKs come in: no timeout of its own.
    pub by_ack: bool,
    pub backoff: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryKind {
    Opened,
    State,
    Sent,
    Received,
    Retransmit,
    Reset,
    Keepalive,
    Action,
    Finding,
    Closed,
}

impl History {
    pub fn kind(&self) -> HistoryKind {
        match self.what {
            Happening::Opened => HistoryKind::Opened,
            Happening::State(..) => HistoryKind::State,
            Happening::Sent(..) => HistoryKind::Sent,
            Happening::Received(_) => HistoryKind::Received,
            Happening::Retransmit(_) => HistoryKind::Retransmit,
            Happening::Reset(..) => HistoryKind::Reset,
            Happening::Keepalive(_) => HistoryKind::Keepalive,
            Happening::Action(_) => HistoryKind::Action,
            Happening::Finding(_) => HistoryKind::Finding,
            Happening::Closed => HistoryKind::Closed,
        }
    }

    /// For a person: `RTO 3, backoff 2`.
    pub fn text(&self) -> Cow<'_, str> {
        match &self.what {
            Happening::Opened => "opened".into(),
            Happening::State(from, to) => format!("{from} → {to}").into(),
            Happening::Sent(n, idle) => {
                let what = n.map_or_else(|| "data".into(), bytes);
                let after = idle.map_or_else(String::new, |d| format!(" after {} idle", span(d)));
                format!("{what} sent{after}").into()
            }
            Happening::Received(n) => format!("{} received", bytes(*n)).into(),
            Happening::Retransmit(r) => r.text(),
            Happening::Reset(direction, origin, reason) => reset(*direction, *origin, reason.as_deref()).into(),
            Happening::Keepalive(Some((idle, interval, count))) => {
                format!("SO_KEEPALIVE on, {idle}s/{interval}s/{count}").into()
            }
            Happening::Keepalive(None) => "SO_KEEPALIVE off".into(),
            Happening::Action(text) | Happening::Finding(text) => Cow::Borrowed(&**text),
            Happening::Closed => "socket gone".into(),
        }
    }
}

impl Retransmitted {
    fn text(self) -> Cow<'static, str> {
        let what: Cow<'static, str> = match self.how {
            RetransmitKind::Rto if self.by_ack => "sent again after an RTO".into(),
            RetransmitKind::Rto => format!("RTO {}", self.nth).into(),
            RetransmitKind::Fast => "fast retransmit".into(),
            RetransmitKind::Tlp => "tail-loss probe".into(),
            RetransmitKind::Syn => format!("SYN again ({})", self.nth).into(),
            RetransmitKind::Synack => "SYN-ACK again".into(),
            RetransmitKind::Unknown => "retransmit".into(),
        };
        match self.backoff {
            0 => what,
            n => format!("{what}, backoff {n}").into(),
        }
    }
}

fn reset(direction: ResetDirection, origin: ResetOrigin, reason: Option<&str>) -> String {
    let arrow = match direction {
        ResetDirection::Received => "← RST received",
        ResetDirection::Sent => "→ RST sent",
    };
    let who = match origin {
        ResetOrigin::Peer => " from the peer",
        ResetOrigin::Middlebox => " from a middlebox",
        ResetOrigin::Local => " by this host",
        ResetOrigin::Unknown => "",
    };
    let why = reason.map_or_else(String::new, |r| format!(" ({r})"));
    format!("{arrow}{who}{why}")
}

/// `8.0 s`, from a minute on `5:02`.
fn span(d: Duration) -> String {
    match d.as_secs() {
        0..60 => format!("{:.1} s", d.as_secs_f64()),
        s => format!("{}:{:02}", s / 60, s % 60),
    }
}

/// `94 KiB`: binary units, no fraction from 10 on.
fn bytes(n: u64) -> String {
    match n {
        0..=1023 => format!("{n} B"),
        1024..=1_048_575 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let text = |what| History { at: Mono(0), what }.text().into_owned();
        let seconds = |s| Some(Duration::from_millis(s));
        for (what, want) in [
            (Happening::State(TcpState::SynSent, TcpState::Close), "SYN_SENT → CLOSE"),
            (Happening::Sent(Some(96_256), seconds(302_000)), "94 KiB sent after 5:02 idle"),
            (Happening::Sent(None, seconds(8_000)), "data sent after 8.0 s idle"),
            (Happening::Sent(Some(3_000_000), None), "2 MiB sent"),
            (Happening::Received(312), "312 B received"),
            (Happening::Reset(ResetDirection::Received, ResetOrigin::Peer, None), "← RST received from the peer"),
            (
                Happening::Reset(ResetDirection::Sent, ResetOrigin::Local, Some("TCP_STATE".into())),
                "→ RST sent by this host (TCP_STATE)",
            ),
            (Happening::Keepalive(Some((30, 10, 3))), "SO_KEEPALIVE on, 30s/10s/3"),
            (Happening::Action("close applied".into()), "close applied"),
        ] {
            assert_eq!(text(what), want);
        }
        let again =
            |how, nth, by_ack, backoff| text(Happening::Retransmit(Retransmitted { how, nth, by_ack, backoff }));
        assert_eq!(again(RetransmitKind::Rto, 3, false, 2), "RTO 3, backoff 2");
        assert_eq!(again(RetransmitKind::Rto, 3, true, 0), "sent again after an RTO");
        assert_eq!(again(RetransmitKind::Syn, 1, false, 0), "SYN again (1)");
        assert_eq!(again(RetransmitKind::Tlp, 0, false, 1), "tail-loss probe, backoff 1");
    }
}
