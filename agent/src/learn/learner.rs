//! Turns what happens to sockets into samples. Fed with each socket that changed; time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::book::{Book, Key, MAX_DESTINATIONS};
use super::limits::{Limits, SHORTEST_GAP};
use crate::model::{CookieHash, IdleLimits, Mono, ResetDirection, ResetOrigin, SocketId, TcpState};
use crate::state::Socket;

/// Unanswered RTOs before a send counts as swallowed: one may be plain loss.
const DEAD_RTOS: u32 = 2;
/// A gap must be at least this long, and this many round trips, before a silence after it is blamed on it.
const DEAD_GAP: Duration = Duration::from_secs(2);
const DEAD_GAP_ROUND_TRIPS: u32 = 20;
/// A longer survivor is told when it is longer by this factor: each new pause of a growing series would be else.
const NEWS: f64 = 1.1;

/// What was already counted of one socket: every sample once.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    fin: bool,
    survived: Option<Mono>,
    dead: Option<Mono>,
    reset: Option<Mono>,
    /// Looked up among what earlier runs knew, with or without a name.
    met: Option<bool>,
}

/// Learns from sockets; holds what earlier runs knew (`known`) apart from what this run added (`learned`).
#[derive(Debug, Default)]
pub struct Learner {
    known: Book,
    learned: Book,
    seen: HashMap<SocketId, Seen, CookieHash>,
    /// Destinations of earlier runs that were met in this one.
    met: BTreeSet<Key>,
    /// The destination that was looked up last among those of earlier runs: most sockets go where the one before went.
    asked: Option<(Option<Arc<str>>, SocketAddr)>,
    /// Destinations of which there is something to tell since the last [`Self::take_news`].
    news: BTreeSet<Key>,
    /// Whether something was learned since the last save.
    dirty: bool,
}

impl Learner {
    pub fn new(known: Book) -> Self {
        Self { known, ..Self::default() }
    }

    /// Looks at a socket that changed. `unix_s` tells the wall time in seconds, kept only to know which destination was
    /// seen last.
    pub fn observe(&mut self, socket: &Socket, unix_s: impl FnOnce() -> i64) {
        let Some(flow) = socket.flow else { return };
        if socket.direction == Some(crate::model::Direction::Incoming) || flow.remote.ip().is_unspecified() {
            return;
        }
        let key = || Key { name: socket.remote_name.as_deref().map(str::to_owned), address: flow.remote.to_string() };
        let named = socket.remote_name.is_some();
        let mut seen = self.seen.get(&socket.id).copied().unwrap_or_default();
        if seen.met != Some(named) {
            seen.met = Some(named);
            let asked = self.asked.as_ref().is_some_and(|(n, a)| *a == flow.remote && *n == socket.remote_name);
            if !self.known.entries.is_empty() && !asked {
                self.asked = Some((socket.remote_name.clone(), flow.remote));
                let key = key();
                if self.known.entries.contains_key(&key) && self.met.insert(key.clone()) {
                    self.news.insert(key);
                }
            }
        }
        let samples = samples(socket, &mut seen);
        if socket.is_closed() && samples.is_empty() {
            self.seen.remove(&socket.id);
            return;
        }
        self.seen.insert(socket.id, seen);
        if samples.is_empty() {
            return;
        }
        let key = key();
        let known = self.limits(&key).and_then(|l| l.longest_survivor_s);
        let new = |s: &Sample| !matches!(s, Sample::Survived(d) if known.is_some_and(|k| d.as_secs_f64() < k * NEWS));
        if self.learned.entries.len() >= MAX_DESTINATIONS && !self.learned.entries.contains_key(&key) {
            return;
        }
        if samples.iter().any(new) {
            self.news.insert(key.clone());
        }
        let limits = self.learned.entries.entry(key).or_default();
        limits.updated = unix_s();
        for sample in samples {
            sample.apply(limits);
        }
        self.dirty = true;
    }

    /// What is known of the destinations that were met, or of which more was learned, since the last call.
    pub fn take_news(&mut self) -> Vec<IdleLimits> {
        let news = std::mem::take(&mut self.news);
        news.iter().filter_map(|key| self.limits(key)?.told(key)).collect()
    }

    /// Forgets a socket that left the table.
    pub fn forget(&mut self, id: SocketId) {
        self.seen.remove(&id);
    }

    /// What is known of a destination, earlier runs included.
    pub fn limits(&self, key: &Key) -> Option<Limits> {
        match (self.known.entries.get(key), self.learned.entries.get(key)) {
            (Some(old), Some(new)) => {
                let mut all = old.clone();
                all.merge(new);
                Some(all)
            }
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => None,
        }
    }

    /// Everything known, earlier runs included.
    pub fn all(&self) -> Book {
        let mut all = self.known.clone();
        all.merge(&self.learned);
        all
    }

    /// What this run learned since it was last saved; `None` if nothing.
    pub fn unsaved(&self) -> Option<&Book> {
        self.dirty.then_some(&self.learned)
    }

    /// The file now holds `merged`: nothing is unsaved any more.
    pub fn saved(&mut self, merged: Book) {
        self.known = merged;
        self.asked = None;
        self.learned = Book::default();
        self.dirty = false;
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sample {
    ServerClosed(Duration),
    Survived(Duration),
    Swallowed(Duration),
    Reset(Duration, ResetOrigin),
    /// Written to a connection that the server had closed: the limit was counted at its FIN.
    ResetAfterFin(Duration),
}

impl Sample {
    fn apply(self, l: &mut Limits) {
        match self {
            Self::ServerClosed(idle) => l.server_close.add(idle),
            Self::Survived(idle) => l.survive(idle),
            Self::Swallowed(idle) => {
                l.path_drop.add(idle);
                l.fail(idle);
            }
            Self::Reset(idle, ResetOrigin::Middlebox) => {
                l.path_reset.add(idle);
                l.fail(idle);
            }
            Self::Reset(idle, _) => {
                l.reset.add(idle);
                l.fail(idle);
            }
            Self::ResetAfterFin(idle) => l.fail(idle),
        }
    }
}

fn samples(s: &Socket, seen: &mut Seen) -> Vec<Sample> {
    let mut out = Vec::new();
    let a = &s.activity;
    if let (Some(_), Some(idle), false) = (a.fin_received, a.idle_at_fin, seen.fin) {
        seen.fin = true;
        // An answered exchange, then silence, then FIN: the server's idle limit. A FIN instead of an answer is not.
        let answered = a.last_data_received.is_some() && !a.outstanding_at_fin;
        // One that was found closed: an earlier run may have counted it.
        let witnessed = a.fin_received > Some(s.first_seen);
        if answered && witnessed && idle >= SHORTEST_GAP {
            out.push(Sample::ServerClosed(idle));
        }
    }
    if let Some((at, gap)) = a.survived_gap.filter(|(at, _)| seen.survived != Some(*at)) {
        seen.survived = Some(at);
        out.push(Sample::Survived(gap));
    }
    let fin_before = a.fin_received.is_some() || s.state == Some(TcpState::CloseWait);
    if let (Some(since), Some(idle)) = (a.unanswered_since, a.idle_before)
        && a.rto_since_heard >= DEAD_RTOS
        && seen.dead.is_none_or(|t| t != since)
        && !fin_before
    {
        let round_trips = s.tcp.rtt.unwrap_or_default() * DEAD_GAP_ROUND_TRIPS;
        if idle >= DEAD_GAP.max(round_trips) {
            seen.dead = Some(since);
            out.push(Sample::Swallowed(idle));
        }
    }
    if let (Some(at), Some(reset)) = (s.last_reset_at, s.last_reset.get())
        && reset.direction == ResetDirection::Received
        && seen.reset != Some(at)
    {
        seen.reset = Some(at);
        // A swallowed send whose retransmit is finally reset is one failure, not two.
        let counted = seen.dead.is_some() && seen.dead == a.unanswered_since;
        if let Some(idle) = reset.idle_before.filter(|i| *i >= SHORTEST_GAP && !counted) {
            out.push(if fin_before { Sample::ResetAfterFin(idle) } else { Sample::Reset(idle, reset.origin) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Flow;

    fn socket() -> Socket {
        let mut s = Socket::new(SocketId(7), Mono(0));
        s.flow = Some(Flow { local: "10.0.0.1:5000".parse().unwrap(), remote: "192.0.2.1:443".parse().unwrap() });
        s.state = Some(TcpState::Established);
        s
    }

    fn at(s: f64) -> Option<Mono> {
        Some(Mono::from_secs_f64(s))
    }

    fn only(l: &Learner) -> Limits {
        let all = l.all();
        assert_eq!(all.entries.len(), 1);
        all.entries.values().next().unwrap().clone()
    }

    #[test]
    fn a_fin_after_an_answered_exchange_is_the_servers_limit_once() {
        let mut l = Learner::default();
        let mut s = socket();
        s.activity.last_sent = at(10.0);
        s.activity.last_data_received = at(10.1);
        s.activity.fin_received = at(15.1);
        s.activity.idle_at_fin = Some(Duration::from_secs(5));
        l.observe(&s, || 1);
        l.observe(&s, || 2);
        assert_eq!(only(&l).server_close.recent_s, [5.0]);
    }

    #[test]
    fn a_fin_instead_of_an_answer_is_not() {
        let mut l = Learner::default();
        let mut s = socket();
        s.activity.last_data_received = at(5.0);
        s.activity.last_sent = at(10.0);
        s.activity.fin_received = at(15.0);
        s.activity.idle_at_fin = Some(Duration::from_secs(5));
        s.activity.outstanding_at_fin = true;
        l.observe(&s, || 1);
        assert!(l.all().entries.is_empty());
    }

    #[test]
    fn a_swallowed_send_counts_once_and_needs_a_gap() {
        let mut l = Learner::default();
        let mut s = socket();
        s.activity.unanswered_since = at(20.0);
        s.activity.idle_before = Some(Duration::from_millis(1_500));
        s.activity.rto_since_heard = 5;
        l.observe(&s, || 1);
        assert!(l.all().entries.is_empty(), "1.5 s is no gap to blame");
        s.activity.idle_before = Some(Duration::from_secs(6));
        s.activity.rto_since_heard = 1;
        l.observe(&s, || 1);
        assert!(l.all().entries.is_empty(), "one RTO may be loss");
        s.activity.rto_since_heard = 2;
        l.observe(&s, || 1);
        s.activity.rto_since_heard = 3;
        l.observe(&s, || 1);
        assert_eq!(only(&l).path_drop.recent_s, [6.0]);
        assert_eq!(only(&l).buckets[0].failed, 1);
    }

    #[test]
    fn survivors_and_names_are_kept_apart() {
        let mut l = Learner::default();
        let mut s = socket();
        s.activity.survived_gap = Some((Mono(9), Duration::from_secs(55)));
        l.observe(&s, || 1);
        s.remote_name = Some("api.example.com".into());
        s.activity.survived_gap = Some((Mono(10), Duration::from_secs(40)));
        l.observe(&s, || 1);
        let all = l.all();
        assert_eq!(all.entries.len(), 2);
        let by_name = l.limits(&Key { name: Some("api.example.com".into()), address: "192.0.2.1:443".into() });
        assert_eq!(by_name.unwrap().longest_survivor_s, Some(40.0));
    }

    #[test]
    fn what_earlier_runs_knew_is_told_at_the_first_meeting_and_more_when_it_is_learned() {
        let mut earlier = Limits::default();
        earlier.server_close.add(Duration::from_secs(60));
        earlier.path_drop.add(Duration::from_secs(90));
        let key = Key { name: None, address: "192.0.2.1:443".into() };
        let mut l = Learner::new(Book { entries: [(key, earlier)].into() });
        let mut s = socket();
        l.observe(&s, || 1);
        let told = l.take_news();
        let closes = told[0].server_closes.unwrap();
        assert_eq!((told.len(), closes.count, closes.median), (1, 1, Duration::from_secs(60)));
        assert_eq!(told[0].path_killed(), Some(Duration::from_secs(90)));
        assert_eq!(told[0].keepalive_idle, Some(Duration::from_secs(30)));
        l.observe(&s, || 2);
        assert!(l.take_news().is_empty(), "told once");
        for (at, gap, news) in [(9, 20, true), (10, 21, false), (11, 30, true)] {
            s.activity.survived_gap = Some((Mono(at), Duration::from_secs(gap)));
            l.observe(&s, || 3);
            assert_eq!(!l.take_news().is_empty(), news, "{gap} s");
        }
    }

    #[test]
    fn saving_moves_what_was_learned_to_what_is_known() {
        let mut l = Learner::default();
        assert_eq!(l.unsaved(), None);
        let mut s = socket();
        s.activity.survived_gap = Some((Mono(9), Duration::from_secs(3)));
        l.observe(&s, || 1);
        let merged = l.unsaved().unwrap().clone();
        l.saved(merged);
        assert_eq!(l.unsaved(), None);
        assert_eq!(only(&l).survived, 1);
    }
}
