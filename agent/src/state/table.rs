//! The table of sockets: `apply(event)`, `expire(now)`, `snapshot(now)`. It never reads a clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::fold;
use super::history::Happening;
use super::socket::Socket;
use super::spare::Spare;
use crate::model::{
    CookieHash, Event, EventKind, Finding, IdleLimits, Lost, Mono, Reset, ResetDirection, Retransmit, Sample, Session,
    Shared, SocketId, SocketUpdate, StateChange, Totals, WallClock,
};

#[derive(Clone, Copy, Debug)]
pub struct TableConfig {
    /// Sockets kept, tombstones included.
    pub max_sockets: usize,
    /// How long a closed socket stays, so that a late event finds it and a person can read it.
    pub tombstone: Duration,
    /// Sockets kept that are gone for good: for those who read of them. Counts and findings stay whatever leaves.
    pub max_gone: usize,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self { max_sockets: 65_536, tombstone: Duration::from_secs(120), max_gone: 65_536 }
    }
}

/// What every view reads. Cloning is cheap; nothing in it changes after it was made.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub at: Mono,
    pub clock: WallClock,
    pub session: Arc<Session>,
    /// In the order they were first seen.
    pub sockets: Vec<Shared<Socket>>,
    /// Open findings, the most important first.
    pub findings: Vec<Arc<Finding>>,
    pub totals: Totals,
    pub lost: Lost,
    pub events: u64,
    /// Sockets that were not taken in because the table was full.
    pub table_full: u64,
    /// Grows with everything that a view could show; equal revisions of one run show the same.
    pub revision: u64,
    /// What is known of the destinations' idle limits.
    pub limits: Vec<Arc<IdleLimits>>,
}

impl Snapshot {
    /// What is known of the idle limits of a socket's destination.
    pub fn limits_of(&self, s: &Socket) -> Option<&IdleLimits> {
        let remote = s.flow?.remote;
        let of = |name: Option<&str>| {
            self.limits.iter().find(|l| l.remote == remote && l.name.as_deref() == name).map(Arc::as_ref)
        };
        of(s.remote_name.as_deref())
    }
}

/// Destinations whose limits are kept: as many as the learner keeps over runs.
const MAX_LIMITS: usize = 1_024;

/// Entries of the queue of tombstones from which on those that left are taken out.
const TOMBS_LEAST: usize = 256;

pub struct Table {
    config: TableConfig,
    pub(super) sockets: HashMap<SocketId, Shared<Socket>, CookieHash>,
    /// Tombstones in the order in which they closed: nothing has to look for them.
    tombs: VecDeque<(Mono, SocketId)>,
    /// Those of them of which nothing more will be heard, the same way.
    gone: VecDeque<SocketId>,
    /// In the order they were first seen; those that left are among them until there are too many of them.
    order: Vec<SocketId>,
    spare: Spare,
    session: Arc<Session>,
    pub(super) totals: Totals,
    lost: Lost,
    events: u64,
    table_full: u64,
    /// Sockets that changed or left since the last [`Self::take_changed`].
    changed: Vec<SocketId>,
    revision: u64,
    limits: BTreeMap<(Option<Arc<str>>, SocketAddr), Arc<IdleLimits>>,
    limits_revision: u64,
}

impl Table {
    pub fn new(config: TableConfig) -> Self {
        Self {
            config,
            sockets: HashMap::default(),
            tombs: VecDeque::new(),
            gone: VecDeque::new(),
            order: Vec::new(),
            spare: Spare::default(),
            session: Arc::default(),
            totals: Totals::default(),
            lost: Lost::default(),
            events: 0,
            table_full: 0,
            changed: Vec::new(),
            revision: 0,
            limits: BTreeMap::new(),
            limits_revision: 0,
        }
    }

    /// As [`Self::apply`], for an event that only tells what happened from now on: what a socket keeps of it is moved.
    pub fn take(&mut self, event: &mut Event) {
        match &mut event.kind {
            EventKind::Socket(u) => {
                self.events += 1;
                self.revision += 1;
                self.update(event.at, u);
            }
            _ => self.apply(event),
        }
    }

    #[inline(never)]
    fn update(&mut self, at: Mono, u: &mut SocketUpdate) {
        let Some(id) = u.id else { return };
        self.with(id, at, |s| {
            fold::update(s, at, u);
            true
        });
        if u.destroyed {
            self.is_gone(id);
        }
    }

    /// Each kind has a function of its own: in a storm, the code of those that come must stay in a processor's first cache
    /// together with that of writing them down.
    pub fn apply(&mut self, event: &Event) {
        self.events += 1;
        self.revision += 1;
        let at = event.at;
        match &event.kind {
            EventKind::Socket(u) => self.update(at, &mut u.clone()),
            EventKind::State(c) => self.state(at, c),
            EventKind::Retransmit(r) => self.retransmit(at, r),
            EventKind::Reset(r) => self.reset(at, r),
            EventKind::Sample(sample) => self.sample(at, sample),
            _ => self.rare(event),
        }
    }

    #[inline(never)]
    fn state(&mut self, at: Mono, c: &StateChange) {
        let Some(id) = c.socket else { return };
        self.with(id, at, |s| {
            fold::state(s, at, c);
            true
        });
        if c.last {
            self.is_gone(id);
        }
    }

    #[inline(never)]
    fn retransmit(&mut self, at: Mono, r: &Retransmit) {
        self.totals.retransmits += u64::from(r.segments);
        let Some(id) = r.socket else { return };
        self.with(id, at, |s| {
            fold::retransmit(s, at, r);
            true
        });
    }

    #[inline(never)]
    fn reset(&mut self, at: Mono, r: &Reset) {
        match r.direction {
            ResetDirection::Received => self.totals.resets_received += 1,
            ResetDirection::Sent => self.totals.resets_sent += 1,
        }
        let Some(id) = r.socket else { return };
        self.with(id, at, |s| {
            fold::reset(s, at, r);
            true
        });
    }

    #[inline(never)]
    fn sample(&mut self, at: Mono, sample: &Sample) {
        self.with(sample.socket, at, |s| fold::sample(s, at, sample));
    }

    #[cold]
    #[inline(never)]
    fn rare(&mut self, event: &Event) {
        let at = event.at;
        match &event.kind {
            EventKind::Session(s) => self.session = Arc::new((**s).clone()),
            EventKind::Exit { pid } => self.exit(*pid, at),
            EventKind::Finding(f) => {
                let text: Arc<str> = format!("{} {}: {}", f.code, f.confidence.name(), f.summary).into();
                for id in &f.sockets {
                    if self.sockets.contains_key(id) {
                        self.with(*id, at, |s| {
                            s.history.note_words(at, Happening::Finding, text.clone());
                            false
                        });
                    }
                }
            }
            EventKind::Action(a) => {
                if let Some(id) = a.socket {
                    self.with(id, at, |s| {
                        fold::action(s, at, a);
                        true
                    });
                }
            }
            EventKind::Lost(l) => {
                self.lost.ring_full += l.ring_full;
                self.lost.recursion_misses += l.recursion_misses;
                self.lost.table_full += l.table_full;
                self.totals.lost = self.lost.total();
            }
            EventKind::Limits(l) => self.learned(l),
            EventKind::End(e) => self.totals = e.totals,
            EventKind::Socket(_)
            | EventKind::State(_)
            | EventKind::Retransmit(_)
            | EventKind::Reset(_)
            | EventKind::Sample(_) => {}
        }
    }

    fn learned(&mut self, l: &IdleLimits) {
        let key = (l.name.clone(), l.remote);
        if self.limits.len() >= MAX_LIMITS && !self.limits.contains_key(&key) {
            // The learner keeps no more either.
            return;
        }
        self.limits.insert(key, Arc::new(l.clone()));
        self.limits_revision += 1;
    }

    /// What is known of the destinations' idle limits.
    pub fn limits(&self) -> impl Iterator<Item = &Arc<IdleLimits>> {
        self.limits.values()
    }

    /// Grows with each change of [`Self::limits`].
    pub fn limits_revision(&self) -> u64 {
        self.limits_revision
    }

    /// The kernel's own totals (exact under any storm) replace what was counted from the detail.
    pub fn set_totals(&mut self, retransmits: u64, resets_received: u64, resets_sent: u64) {
        let before = self.totals;
        self.totals.retransmits = retransmits;
        self.totals.resets_received = resets_received;
        self.totals.resets_sent = resets_sent;
        self.revision += u64::from(before != self.totals);
    }

    /// `change` answers whether the rules need to look at the socket again.
    fn with(&mut self, id: SocketId, at: Mono, change: impl FnOnce(&mut Socket) -> bool) {
        // Most events are of a socket that is there: it is looked for once.
        let slot = match self.sockets.get_mut(&id) {
            Some(slot) => slot,
            None => {
                let Some(new) = self.make(id, at) else {
                    self.table_full += 1;
                    return;
                };
                // To look for what was just entered would have to wait until its place is written.
                self.sockets.entry(id).insert_entry(new).into_mut()
            }
        };
        let socket = Shared::make_mut(slot);
        let lived = socket.closed_at.is_none();
        let news = change(socket);
        self.revision += 1;
        socket.revision = self.revision;
        if let (true, Some(at)) = (lived, socket.closed_at) {
            self.tombs.push_back((at, id));
        }
        if news && self.changed.last() != Some(&id) {
            self.changed.push(id);
        }
    }

    /// A new one, to be entered; `None` if there is no room.
    fn make(&mut self, id: SocketId, at: Mono) -> Option<Shared<Socket>> {
        if self.sockets.len() >= self.config.max_sockets && !self.bury() {
            return None;
        }
        let socket = self.spare.begin(id, at);
        self.order.push(id);
        if self.order.len() > self.sockets.len() * 2 + 64 {
            self.clear_order();
            self.order.push(id);
        }
        self.totals.sockets += 1;
        Some(socket)
    }

    #[cold]
    #[inline(never)]
    fn clear_order(&mut self) {
        let sockets = &self.sockets;
        self.order.retain(|id| sockets.contains_key(id));
    }

    #[cold]
    #[inline(never)]
    fn clear_tombs(&mut self) {
        let sockets = &self.sockets;
        self.tombs.retain(|(at, id)| sockets.get(id).is_some_and(|s| s.closed_at == Some(*at)));
    }

    /// Nothing more will be heard of this one. What is too many leaves, the oldest first; this one can still be read.
    fn is_gone(&mut self, id: SocketId) {
        self.gone.push_back(id);
        while self.gone.len() > self.config.max_gone {
            let Some(oldest) = self.gone.pop_front() else { break };
            // One that connected anew lives on.
            if oldest != id && self.sockets.get(&oldest).is_some_and(|s| s.is_closed()) {
                self.remove(oldest);
            }
        }
        // Most tombstones of a storm have left this way.
        if self.tombs.len() > 2 * self.sockets.len() + TOMBS_LEAST {
            self.clear_tombs();
        }
    }

    /// The oldest tombstone leaves. False if every socket is alive.
    fn bury(&mut self) -> bool {
        while let Some((at, id)) = self.tombs.pop_front() {
            if self.sockets.get(&id).is_some_and(|s| s.closed_at == Some(at)) {
                self.remove(id);
                return true;
            }
        }
        false
    }

    fn remove(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.remove(&id) {
            self.spare.keep(socket);
        }
        self.changed.push(id);
    }

    fn exit(&mut self, pid: u32, at: Mono) {
        let owned: Vec<SocketId> =
            self.sockets.values().filter(|s| s.owners.iter().any(|o| o.pid == pid)).map(|s| s.id).collect();
        for id in owned {
            self.with(id, at, |s| {
                fold::owner_exit(s, pid);
                true
            });
        }
    }

    /// Drops tombstones that are old enough; returns whether anything left.
    pub fn expire(&mut self, now: Mono) -> bool {
        let mut left = false;
        while self.tombs.front().is_some_and(|(at, _)| now.since(*at) >= self.config.tombstone) {
            left |= self.bury();
        }
        self.revision += u64::from(left);
        left
    }

    /// At most how many sockets changed or left since they were [taken](Self::take_changed).
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    /// Sockets that changed or left since the last call, without repeats.
    pub fn take_changed(&mut self) -> Vec<SocketId> {
        let mut ids = Vec::new();
        self.take_changed_into(&mut ids);
        ids
    }

    /// The same into memory that was used for it before; what it holds is thrown away.
    pub fn take_changed_into(&mut self, ids: &mut Vec<SocketId>) {
        self.spare.let_go();
        ids.clear();
        std::mem::swap(&mut self.changed, ids);
        ids.sort_unstable();
        ids.dedup();
    }

    pub fn get(&self, id: SocketId) -> Option<&Shared<Socket>> {
        self.sockets.get(&id)
    }

    /// In the order they were first seen.
    pub fn iter(&self) -> impl Iterator<Item = &Shared<Socket>> {
        self.order.iter().filter_map(|id| self.sockets.get(id))
    }

    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    pub fn lost(&self) -> Lost {
        self.lost
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn snapshot(&self, at: Mono, clock: WallClock, findings: Vec<Arc<Finding>>) -> Snapshot {
        Snapshot {
            at,
            clock,
            session: self.session.clone(),
            sockets: self.iter().cloned().collect(),
            findings,
            totals: self.totals,
            lost: self.lost,
            events: self.events,
            table_full: self.table_full,
            revision: self.revision,
            limits: self.limits.values().cloned().collect(),
        }
    }
}
