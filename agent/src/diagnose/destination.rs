//! What the sockets of one destination have in common: who still gets answers, who is stuck, who was reset, and
//! what was learned of idle limits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::wave::{Wave, counts};
use crate::model::{Code, IdleLimits, Mono, SocketId};
use crate::state::{Socket, Table};

/// Destinations kept; the ones without sockets leave first. More than any client talks to at once.
pub const MAX_DESTINATIONS: usize = 8_192;
/// Resets remembered one by one per destination.
const MAX_RESETS: usize = 1_024;
/// Stuck sockets of one destination that are looked at again when one of them changes.
const MAX_STUCK: usize = 256;
/// Connects remembered per destination.
const MAX_CONNECTS: usize = 1_024;
/// Pairs of process and remote port whose last connect is remembered.
const MAX_PORTS: usize = 8_192;
/// Server idle limits remembered per destination.
const MAX_LIMITS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DestinationKey {
    Name(Arc<str>, u16),
    Address(SocketAddr),
}

impl DestinationKey {
    /// `None` while the remote end is unknown.
    pub fn of(s: &Socket) -> Option<Self> {
        let remote = s.flow?.remote;
        Some(match &s.remote_name {
            Some(name) => Self::Name(name.clone(), remote.port()),
            None => Self::Address(remote),
        })
    }
}

/// Index of a destination within one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationId(pub u32);

/// How long this destination and the path to it let a connection idle: as far as the rules saw it themselves, and as
/// far as the learner told (earlier runs included).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Idle time at each FIN that the server sent on an idle connection; the latest last.
    server_idle: VecDeque<Duration>,
    path_killed: Option<Duration>,
    survived: Option<Duration>,
    told: Told,
}

/// What the learner knows of one destination, at whatever addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    server_limit: Option<(Duration, usize)>,
    path_killed: Option<Duration>,
    survived: Option<Duration>,
}

impl Told {
    fn add(&mut self, l: &IdleLimits) {
        let server = l.server_closes.map(|f| (f.median, usize::try_from(f.count).unwrap_or(usize::MAX)));
        self.server_limit = more_samples(self.server_limit, server);
        self.path_killed = self.path_killed.into_iter().chain(l.path_killed()).min();
        self.survived = self.survived.max(l.longest_survivor);
    }
}

fn more_samples(a: Option<(Duration, usize)>, b: Option<(Duration, usize)>) -> Option<(Duration, usize)> {
    if b.map_or(0, |x| x.1) > a.map_or(0, |x| x.1) { b } else { a }
}

impl Learned {
    /// The server's idle limit and from how many samples: their median. Known from one sample on.
    pub fn server_limit(&self) -> Option<(Duration, usize)> {
        let mut all: Vec<Duration> = self.server_idle.iter().copied().collect();
        all.sort_unstable();
        let seen = all.get(all.len() / 2).map(|median| (*median, all.len()));
        more_samples(seen, self.told.server_limit)
    }

    /// Shortest silence after which the path was found dead.
    pub fn path_killed(&self) -> Option<Duration> {
        self.path_killed.into_iter().chain(self.told.path_killed).min()
    }

    /// Longest silence after which data still got through.
    pub fn survived(&self) -> Option<Duration> {
        self.survived.max(self.told.survived)
    }

    pub fn has_survived(&mut self, gap: Duration) {
        self.survived = self.survived.max(Some(gap));
    }

    pub fn server_closed(&mut self, idle: Duration) {
        if self.server_idle.len() == MAX_LIMITS {
            self.server_idle.pop_front();
        }
        self.server_idle.push_back(idle);
    }

    pub fn killed(&mut self, gap: Duration) {
        self.path_killed = Some(self.path_killed.map_or(gap, |old| old.min(gap)));
    }
}

/// A stuck socket, as far as its neighbours need to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StuckBrief {
    pub since: Mono,
    /// Stuck without an idle gap before, and not because its segments were large.
    pub without_gap: bool,
}

#[derive(Debug)]
pub struct Destination {
    pub name: Arc<str>,
    pub loopback: bool,
    /// Sockets in the table, tombstones included.
    pub sockets: u32,
    /// Those of them that are not closed.
    pub open: u32,
    /// Last time any socket of it heard from the peer.
    pub last_heard: Option<Mono>,
    /// Last time a connection to it was established.
    pub last_connected: Option<Mono>,
    /// When connections to it were established, oldest first.
    pub connects: VecDeque<Mono>,
    pub stuck: BTreeMap<SocketId, StuckBrief>,
    /// The latest received resets with the cause each was judged to have, oldest first.
    pub resets: VecDeque<(Mono, Code)>,
    /// The latest wave of resets, or what may become one.
    pub wave: Option<Wave>,
    /// Connections that fell silent after an idle gap, by the send that was not answered; oldest first.
    idle_deaths: VecDeque<IdleDeath>,
    pub learned: Learned,
}

/// A connection that the path forgot, as it seems.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdleDeath {
    pub id: SocketId,
    /// The send that was not answered.
    pub since: Mono,
    /// The silence before it.
    pub gap: Duration,
}

impl Destination {
    fn new(name: Arc<str>, loopback: bool) -> Self {
        Self {
            name,
            loopback,
            sockets: 0,
            open: 0,
            last_heard: None,
            last_connected: None,
            connects: VecDeque::new(),
            stuck: BTreeMap::new(),
            resets: VecDeque::new(),
            wave: None,
            idle_deaths: VecDeque::new(),
            learned: Learned::default(),
        }
    }

    /// Notes or forgets a stuck socket; true if that changes what its neighbours see.
    pub fn set_stuck(&mut self, id: SocketId, brief: Option<StuckBrief>) -> bool {
        match brief {
            Some(b) if self.stuck.len() < MAX_STUCK || self.stuck.contains_key(&id) => {
                self.stuck.insert(id, b).is_none_or(|old| old.without_gap != b.without_gap)
            }
            Some(_) => false,
            None => self.stuck.remove(&id).is_some(),
        }
    }

    pub fn note_connect(&mut self, at: Mono) {
        self.last_connected = self.last_connected.max(Some(at));
        if let Some(wave) = self.wave.as_mut().filter(|w| at > w.first) {
            wave.could += 1;
        }
        if self.connects.len() == MAX_CONNECTS {
            self.connects.pop_front();
        }
        self.connects.push_back(at);
    }

    /// `again`: another reset of the same socket was noted before. Resets further apart than `window` are two waves.
    pub fn note_reset(&mut self, at: Mono, code: Code, again: bool, window: Duration) {
        if self.resets.len() == MAX_RESETS {
            self.resets.pop_front();
        }
        self.resets.push_back((at, code));
        if counts(code) {
            self.wave = Some(Wave::with(self.wave, at, again, self.open as usize, window));
        }
    }

    pub fn note_idle_death(&mut self, death: IdleDeath) {
        self.learned.killed(death.gap);
        if self.idle_deaths.iter().any(|d| (d.id, d.since) == (death.id, death.since)) {
            return;
        }
        if self.idle_deaths.len() == MAX_LIMITS {
            self.idle_deaths.pop_front();
        }
        self.idle_deaths.push_back(death);
    }

    /// The latest connection that died so before `t` while the destination lived: it was heard of again later.
    pub fn idle_death_before(&self, t: Mono) -> Option<&IdleDeath> {
        self.idle_deaths.iter().rev().find(|d| d.since < t && self.alive_after(d.since))
    }

    /// Whether some socket heard from the destination after `t`, by more than the clock's granularity.
    pub fn alive_after(&self, t: Mono) -> bool {
        self.last_heard.is_some_and(|h| h > t.plus(Duration::from_millis(50)))
    }
}

#[derive(Debug, Default)]
pub struct Destinations {
    ids: HashMap<DestinationKey, DestinationId, RandomState>,
    list: Vec<Destination>,
    free: Vec<DestinationId>,
    /// Where the last socket went that was asked for: most go where the one before went.
    last: Option<(SocketAddr, Option<Arc<str>>, DestinationId)>,
    /// Last connect of a process to a port, at whatever address: a name may have several.
    ports: HashMap<(u32, u16), Mono, RandomState>,
    /// What the learner told, also of destinations that were not met yet.
    told: HashMap<DestinationKey, Told>,
    told_revision: u64,
}

impl Destinations {
    /// The destination of a socket, made at first sight. `None` while its address is unknown or the table is full
    /// of destinations in use.
    pub fn intern(&mut self, s: &Socket) -> Option<DestinationId> {
        if let (Some((remote, name, id)), Some(flow)) = (&self.last, &s.flow)
            && flow.remote == *remote
            && match (name, &s.remote_name) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            }
        {
            return Some(*id);
        }
        let id = self.find(s)?;
        self.last = Some((s.flow?.remote, s.remote_name.clone(), id));
        Some(id)
    }

    fn find(&mut self, s: &Socket) -> Option<DestinationId> {
        let key = DestinationKey::of(s)?;
        if let Some(id) = self.ids.get(&key) {
            return Some(*id);
        }
        if self.ids.len() >= MAX_DESTINATIONS {
            self.sweep();
        }
        if self.ids.len() >= MAX_DESTINATIONS {
            return None;
        }
        let loopback = s.flow.is_some_and(|f| f.remote.ip().is_loopback());
        let mut fresh = Destination::new(s.destination().into(), loopback);
        fresh.learned.told = self.told.get(&key).copied().unwrap_or_default();
        let id = match self.free.pop() {
            Some(id) => {
                self.list[id.0 as usize] = fresh;
                id
            }
            None => {
                self.list.push(fresh);
                DestinationId(self.list.len() as u32 - 1)
            }
        };
        self.ids.insert(key, id);
        Some(id)
    }

    /// Takes over what the learner knows, if it knows more than last time.
    pub fn learn(&mut self, table: &Table) {
        if self.told_revision == table.limits_revision() {
            return;
        }
        self.told_revision = table.limits_revision();
        self.told.clear();
        for l in table.limits() {
            let key = match &l.name {
                Some(name) => DestinationKey::Name(name.clone(), l.remote.port()),
                None => DestinationKey::Address(l.remote),
            };
            self.told.entry(key).or_default().add(l);
        }
        for (key, id) in &self.ids {
            self.list[id.0 as usize].learned.told = self.told.get(key).copied().unwrap_or_default();
        }
    }

    /// Forgets the destinations that no socket has any more.
    fn sweep(&mut self) {
        self.last = None;
        let (list, free) = (&self.list, &mut self.free);
        self.ids.retain(|_, id| {
            let used = list[id.0 as usize].sockets > 0;
            if !used {
                free.push(*id);
            }
            used
        });
    }

    pub fn note_port(&mut self, pid: u32, port: u16, at: Mono) {
        if self.ports.len() >= MAX_PORTS {
            self.ports.clear();
        }
        self.ports.insert((pid, port), at);
    }

    /// When the process last connected to this port anywhere.
    pub fn port_connected(&self, pid: u32, port: u16) -> Option<Mono> {
        self.ports.get(&(pid, port)).copied()
    }

    pub fn get(&self, id: DestinationId) -> &Destination {
        &self.list[id.0 as usize]
    }

    pub fn get_mut(&mut self, id: DestinationId) -> &mut Destination {
        &mut self.list[id.0 as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Destination> {
        self.ids.values().map(|id| self.get(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, EventKind, IdleFigure};

    #[test]
    fn the_limit_is_the_median() {
        let mut l = Learned::default();
        assert_eq!(l.server_limit(), None);
        for s in [2, 9, 2] {
            l.server_closed(Duration::from_secs(s));
        }
        assert_eq!(l.server_limit(), Some((Duration::from_secs(2), 3)));
        l.killed(Duration::from_secs(60));
        l.killed(Duration::from_secs(90));
        assert_eq!(l.path_killed(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_the_learner_tells_counts_for_known_and_for_new_destinations() {
        let seconds = Duration::from_secs;
        let mut d = Destinations::default();
        let socket = |port: u16| {
            let mut s = Socket::new(SocketId(u64::from(port)), Mono(0));
            s.flow = Some(crate::model::Flow {
                local: ([10, 0, 0, 1], 40_000).into(),
                remote: ([10, 0, 0, 2], port).into(),
            });
            s
        };
        let met = d.intern(&socket(443)).unwrap();
        d.get_mut(met).learned.server_closed(seconds(50));
        let mut table = Table::new(Default::default());
        for port in [443, 80] {
            let figure =
                |s| Some(IdleFigure { count: 4, median: seconds(s), shortest: seconds(s - 1), spread: seconds(1) });
            let limits = IdleLimits {
                name: None,
                remote: ([10, 0, 0, 2], port).into(),
                server_closes: figure(60),
                path_drops: figure(90),
                path_resets: None,
                resets: None,
                survived: 1,
                longest_survivor: Some(seconds(55)),
                pool_timeout: None,
                keepalive_idle: None,
            };
            table.apply(&Event { at: Mono(1), kind: EventKind::Limits(Box::new(limits)) });
        }
        d.learn(&table);
        let later = d.intern(&socket(80)).unwrap();
        for id in [met, later] {
            let l = &d.get(id).learned;
            assert_eq!(l.server_limit(), Some((seconds(60), 4)), "four samples beat one");
            assert_eq!((l.path_killed(), l.survived()), (Some(seconds(89)), Some(seconds(55))));
        }
        d.get_mut(met).learned.killed(seconds(30));
        assert_eq!(d.get(met).learned.path_killed(), Some(seconds(30)), "its own eyes saw less");
    }

    #[test]
    fn destinations_without_sockets_make_room() {
        let mut d = Destinations::default();
        let socket = |n: usize| {
            let mut s = Socket::new(SocketId(n as u64), Mono(0));
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n as u32);
            s.flow = Some(crate::model::Flow { local: ([10, 0, 0, 1], 40_000).into(), remote: (ip, 443).into() });
            s
        };
        let kept = d.intern(&socket(0)).unwrap();
        d.get_mut(kept).sockets = 1;
        for n in 1..=MAX_DESTINATIONS {
            assert!(d.intern(&socket(n)).is_some(), "{n}");
        }
        assert_eq!(d.intern(&socket(0)), Some(kept));
        assert!(d.list.len() <= MAX_DESTINATIONS);
    }
}
