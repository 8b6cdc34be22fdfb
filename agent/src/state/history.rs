//! What happened to a socket, kept as facts: thousands of sockets come and go without anybody reading theirs, so a
//! sentence is made only for the one that is looked at.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Mono, ResetDirection, ResetOrigin, RetransmitKind, TcpState};

/// Entries of a socket's history; the oldest leave first. 64 covers a whole RTO back-off (15 retransmits) with the
/// connection's beginning, its idle gap and what was done about it.
pub const HISTORY_LEN: usize = 64;
/// The first of them stay: how the connection began explains the rest.
const FIRST: usize = 4;

/// What happened to one socket, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    kept: Vec<Entry>,
    /// The words of those that have some, each at its entry's place; not as long where the rest has none.
    words: Vec<Option<Arc<str>>>,
    /// Where the oldest but for the first stands: what comes next takes its place once there is no more room.
    oldest: usize,
    /// How many gave way.
    pub dropped: u64,
}

/// Without anything that has to be dropped: it is then written where it stays, and many are forgotten at once.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Mono,
    what: Happening,
}

impl Timeline {
    /// Inlined, so that what happened is written down where it stays. Returns where that is.
    #[inline(always)]
    pub(super) fn note(&mut self, at: Mono, what: Happening) -> usize {
        let place = if self.kept.len() < HISTORY_LEN { self.room() } else { self.give_way() };
        if let Some(entry) = self.kept.get_mut(place) {
            (entry.at, entry.what) = (at, what);
        }
        place
    }

    #[inline(always)]
    fn room(&mut self) -> usize {
        self.kept.push(Entry { at: Mono(0), what: Happening::Opened });
        self.kept.len() - 1
    }

    pub(super) fn note_words(&mut self, at: Mono, what: Happening, words: Arc<str>) {
        let place = self.note(at, what);
        if self.words.len() <= place {
            self.words.resize(place + 1, None);
        }
        self.words[place] = Some(words);
    }

    #[cold]
    #[inline(never)]
    fn give_way(&mut self) -> usize {
        let place = FIRST + self.oldest;
        if let Some(words) = self.words.get_mut(place) {
            *words = None;
        }
        self.oldest = (self.oldest + 1) % (HISTORY_LEN - FIRST);
        self.dropped += 1;
        place
    }

    /// Forgets all, but keeps the memory.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.words.clear();
        (self.oldest, self.dropped) = (0, 0);
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = History<'_>> {
        let first = FIRST.min(self.kept.len());
        let older = first + self.oldest;
        let told = |place: usize| {
            let Entry { at, what } = self.kept[place];
            History { at, what, words: self.words.get(place).and_then(Option::as_deref) }
        };
        (0..first).chain(older..self.kept.len()).chain(first..older).map(told)
    }

    /// All words, in no order.
    pub fn words_mut(&mut self) -> impl Iterator<Item = &mut Arc<str>> {
        self.words.iter_mut().flatten()
    }
}

impl PartialEq for Timeline {
    fn eq(&self, other: &Self) -> bool {
        self.dropped == other.dropped && self.iter().eq(other.iter())
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct History<'a> {
    pub at: Mono,
    what: Happening,
    words: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Happening {
    Opened,
    State(TcpState, TcpState),
    /// New data left, after that long a silence if it is worth a word; `None` bytes: how much is not known.
    Sent(Option<u64>, Option<Duration>),
    /// Bytes.
    Received(u64),
    Retransmit(Retransmitted),
    /// The kernel's reason here if it has a name, else among the words.
    Reset(ResetDirection, ResetOrigin, Option<&'static str>),
    /// Seconds idle, seconds between probes, probes; `None`: switched off.
    Keepalive(Option<(u32, u32, u32)>),
    /// The words tell what the agent did, and what came of it.
    Action,
    /// The words are the finding's code, confidence and summary.
    Finding,
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

impl<'a> History<'a> {
    pub fn kind(&self) -> HistoryKind {
        match self.what {
            Happening::Opened => HistoryKind::Opened,
            Happening::State(..) => HistoryKind::State,
            Happening::Sent(..) => HistoryKind::Sent,
            Happening::Received(_) => HistoryKind::Received,
            Happening::Retransmit(_) => HistoryKind::Retransmit,
            Happening::Reset(..) => HistoryKind::Reset,
            Happening::Keepalive(_) => HistoryKind::Keepalive,
            Happening::Action => HistoryKind::Action,
            Happening::Finding => HistoryKind::Finding,
            Happening::Closed => HistoryKind::Closed,
        }
    }

    /// For a person: `RTO 3, backoff 2`.
    pub fn text(&self) -> Cow<'a, str> {
        match self.what {
            Happening::Opened => "opened".into(),
            Happening::State(from, to) => format!("{from} → {to}").into(),
            Happening::Sent(n, idle) => {
                let what = n.map_or_else(|| "data".into(), bytes);
                let after = idle.map_or_else(String::new, |d| format!(" after {} idle", span(d)));
                format!("{what} sent{after}").into()
            }
            Happening::Received(n) => format!("{} received", bytes(n)).into(),
            Happening::Retransmit(r) => r.text(),
            Happening::Reset(direction, origin, reason) => reset(direction, origin, reason.or(self.words)).into(),
            Happening::Keepalive(Some((idle, interval, count))) => {
                format!("SO_KEEPALIVE on, {idle}s/{interval}s/{count}").into()
            }
            Happening::Keepalive(None) => "SO_KEEPALIVE off".into(),
            Happening::Action | Happening::Finding => self.words.unwrap_or_default().into(),
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
    fn the_first_and_the_last_stay_in_their_order() {
        let mut timeline = Timeline::default();
        for n in 0..3 * HISTORY_LEN as u64 {
            timeline.note(Mono(n), Happening::Received(n));
            let kept: Vec<u64> = timeline.iter().map(|h| h.at.0).collect();
            let want: Vec<u64> =
                (0..=n).filter(|m| *m < FIRST as u64 || m + (HISTORY_LEN - FIRST) as u64 > n).collect();
            assert_eq!((&kept, timeline.dropped), (&want, n + 1 - want.len() as u64));
        }
        assert!(timeline.clone() == timeline && Timeline::default() != timeline);
        timeline.clear();
        timeline.note(Mono(1), Happening::Opened);
        assert_eq!((timeline.iter().count(), timeline.dropped), (1, 0));
    }

    #[test]
    fn words_go_with_what_they_tell_of() {
        let mut timeline = Timeline::default();
        for n in 0..2 * HISTORY_LEN as u64 {
            match n % 7 {
                3 => timeline.note_words(Mono(n), Happening::Action, format!("{n}").into()),
                _ => drop(timeline.note(Mono(n), Happening::Opened)),
            }
            for h in timeline.iter() {
                let want = if h.at.0 % 7 == 3 { h.at.0.to_string() } else { "opened".into() };
                assert_eq!(h.text(), want);
            }
        }
        timeline.words_mut().for_each(|w| *w = "***".into());
        assert!(timeline.iter().all(|h| (h.text() == "***") == (h.kind() == HistoryKind::Action)));
        timeline.clear();
        timeline.note(Mono(1), Happening::Action);
        assert!(timeline.iter().all(|h| h.text().is_empty()));
    }

    #[test]
    fn sentences() {
        let text = |what| History { at: Mono(0), what, words: Some("in words") }.text().into_owned();
        let seconds = |s| Some(Duration::from_millis(s));
        for (what, want) in [
            (Happening::State(TcpState::SynSent, TcpState::Close), "SYN_SENT → CLOSE"),
            (Happening::Sent(Some(96_256), seconds(302_000)), "94 KiB sent after 5:02 idle"),
            (Happening::Sent(None, seconds(8_000)), "data sent after 8.0 s idle"),
            (Happening::Sent(Some(3_000_000), None), "2 MiB sent"),
            (Happening::Received(312), "312 B received"),
            (
                Happening::Reset(ResetDirection::Received, ResetOrigin::Peer, None),
                "← RST received from the peer (in words)",
            ),
            (
                Happening::Reset(ResetDirection::Sent, ResetOrigin::Local, Some("TCP_STATE")),
                "→ RST sent by this host (TCP_STATE)",
            ),
            (Happening::Keepalive(Some((30, 10, 3))), "SO_KEEPALIVE on, 30s/10s/3"),
            (Happening::Action, "in words"),
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
