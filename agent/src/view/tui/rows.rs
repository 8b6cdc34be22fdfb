//! Which sockets the table shows, and in what order: filtered and sorted once per change, not once per frame.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Finding, Mono, Shared, SocketId, TcpState};
use crate::state::{Snapshot, Socket};

/// The columns of the table; each can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    Destination,
    Local,
    Owner,
    State,
    Keepalive,
    Idle,
    Rtt,
    SendQueue,
    Retransmits,
    Reset,
    GivesUp,
    Finding,
}

impl Column {
    pub const ALL: [Column; 12] = [
        Self::Destination,
        Self::Local,
        Self::Owner,
        Self::State,
        Self::Keepalive,
        Self::Idle,
        Self::Rtt,
        Self::SendQueue,
        Self::Retransmits,
        Self::Reset,
        Self::GivesUp,
        Self::Finding,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Destination => "DESTINATION",
            Self::Local => "LOCAL",
            Self::Owner => "OWNER",
            Self::State => "STATE",
            Self::Keepalive => "KEEPALIVE",
            Self::Idle => "IDLE",
            Self::Rtt => "RTT",
            Self::SendQueue => "SENDQ",
            Self::Retransmits => "RETRANS",
            Self::Reset => "RST",
            Self::GivesUp => "GIVES UP",
            Self::Finding => "FINDING",
        }
    }

    /// Whether the interesting end of the column is its large one, so that sorting begins there.
    pub fn largest_first(self) -> bool {
        matches!(self, Self::Idle | Self::Rtt | Self::SendQueue | Self::Retransmits | Self::Reset)
    }
}

/// `by: None` is the order of attention: what hangs first, what is closed last, else as first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    pub by: Option<Column>,
    pub reversed: bool,
}

impl Sort {
    pub fn next(self) -> Self {
        let by = match self.by {
            None => Some(Column::ALL[0]),
            Some(c) => Column::ALL.iter().position(|x| *x == c).and_then(|i| Column::ALL.get(i + 1)).copied(),
        };
        Self { by, reversed: false }
    }

    /// A click on a column's title: sorts by it, or turns the direction if it is sorted by already.
    pub fn toggle(self, column: Column) -> Self {
        if self.by == Some(column) {
            Self { reversed: !self.reversed, ..self }
        } else {
            Self { by: Some(column), reversed: false }
        }
    }

    /// Whether values grow downwards.
    pub fn ascending(self) -> bool {
        self.by.is_none_or(|c| !c.largest_first()) != self.reversed
    }
}

/// Whether sent data goes unanswered so that the kernel retries: then, and only then, does the time until it gives up
/// mean anything (every sending socket has data in flight for a moment).
pub fn is_stuck(s: &Socket) -> bool {
    s.gives_up_at.is_some()
        && (s.activity.rto_since_heard > 0
            || s.activity.syn_retransmits > 0 && s.state == Some(TcpState::SynSent)
            || s.tcp.retransmits.is_some_and(|n| n > 0)
            || s.tcp.probes.is_some_and(|n| n > 0))
}

/// Idle time as the table shows it: a closed socket's stands still.
pub fn idle(s: &Socket, now: Mono) -> Option<std::time::Duration> {
    s.idle(s.closed_at.unwrap_or(now))
}

/// What decides whether the order has to be made anew.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    revision: u64,
    sockets: usize,
    /// Findings by identity: the engine makes a new `Arc` for each change.
    findings: Vec<usize>,
    sort: Sort,
    filter: String,
    pin: Option<(SocketId, usize)>,
}

#[derive(Debug, Default)]
pub struct Rows {
    key: Option<Key>,
    /// Indices into the snapshot's sockets, in display order.
    order: Vec<u32>,
    /// The most important finding of each socket: index into the snapshot's findings.
    top: HashMap<SocketId, u32>,
    /// Of each finding, when the first of its sockets gives up.
    gives_up: Vec<Option<Mono>>,
    /// Names of the processes that own sockets.
    pub names: BTreeMap<u32, Arc<str>>,
    /// Sockets shown that are not closed.
    pub live: usize,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The socket of row `i`; `None` past the end, or if `snapshot` is not the one the rows were made of.
    pub fn get<'s>(&self, snapshot: &'s Snapshot, i: usize) -> Option<&'s Shared<Socket>> {
        snapshot.sockets.get(*self.order.get(i)? as usize)
    }

    pub fn iter<'s>(&'s self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Shared<Socket>> {
        self.order.iter().filter_map(|i| snapshot.sockets.get(*i as usize))
    }

    pub fn position(&self, snapshot: &Snapshot, id: SocketId) -> Option<usize> {
        self.iter(snapshot).position(|s| s.id == id)
    }

    pub fn finding<'s>(&self, snapshot: &'s Snapshot, id: SocketId) -> Option<&'s Arc<Finding>> {
        snapshot.findings.get(*self.top.get(&id)? as usize)
    }

    /// When the first socket of the finding with this index gives up.
    pub fn finding_gives_up(&self, index: usize) -> Option<Mono> {
        self.gives_up.get(index).copied().flatten()
    }

    /// Brings the rows up to date. `pin` is a socket that keeps its row whatever the sort says (the selected one).
    pub fn update(&mut self, snapshot: &Snapshot, sort: Sort, filter: &str, pin: Option<(SocketId, usize)>) {
        let key = Key {
            revision: snapshot.revision,
            sockets: snapshot.sockets.len(),
            findings: snapshot.findings.iter().map(|f| Arc::as_ptr(f) as usize).collect(),
            sort,
            filter: filter.to_lowercase(),
            pin,
        };
        if self.key.as_ref() == Some(&key) {
            return;
        }
        self.top.clear();
        for (i, f) in snapshot.findings.iter().enumerate() {
            for id in &f.sockets {
                self.top.entry(*id).or_insert(i as u32);
            }
        }
        let stuck: HashMap<SocketId, Mono> =
            snapshot.sockets.iter().filter(|s| is_stuck(s)).filter_map(|s| Some((s.id, s.gives_up_at?))).collect();
        self.gives_up =
            snapshot.findings.iter().map(|f| f.sockets.iter().filter_map(|id| stuck.get(id)).min().copied()).collect();
        self.names.clear();
        for o in snapshot.sockets.iter().flat_map(|s| s.owners.iter()) {
            self.names.entry(o.pid).or_insert_with(|| o.comm.clone());
        }
        let words: Vec<&str> = key.filter.split_whitespace().collect();
        self.order.clear();
        for (i, s) in snapshot.sockets.iter().enumerate() {
            if words.is_empty() || self.matches(snapshot, s, &words) {
                self.order.push(i as u32);
            }
        }
        self.live = self.iter(snapshot).filter(|s| !s.is_closed()).count();
        self.sort(snapshot, sort);
        if let Some((id, row)) = pin
            && let Some(at) = self.position(snapshot, id)
        {
            let i = self.order.remove(at);
            self.order.insert(row.min(self.order.len()), i);
        }
        self.key = Some(key);
    }

    fn matches(&self, snapshot: &Snapshot, s: &Socket, words: &[&str]) -> bool {
        let mut hay = s.destination();
        if let Some(f) = s.flow {
            hay.push_str(&format!(" {} :{}", f.remote, f.local.port()));
        }
        if let Some(state) = s.state {
            hay.push_str(&format!(" {state}"));
        }
        if s.is_closed() {
            hay.push_str(" closed");
        }
        for o in s.owners.iter() {
            hay.push_str(&format!(" {} {}", o.comm, o.pid));
        }
        if let Some(f) = self.finding(snapshot, s.id) {
            hay.push_str(&format!(" {}", f.code));
        }
        let hay = hay.to_lowercase();
        words.iter().all(|w| hay.contains(w))
    }

    fn sort(&mut self, snapshot: &Snapshot, sort: Sort) {
        let mut order = std::mem::take(&mut self.order);
        let socket = |i: &u32| &snapshot.sockets[*i as usize];
        match sort.by {
            None => {
                order.sort_by_cached_key(|i| self.attention(socket(i)));
                if sort.reversed {
                    order.reverse();
                }
            }
            Some(Column::Destination) => {
                // Addresses by their numbers would part the names: as text, then by local port.
                let key = |i: &u32| (socket(i).destination().to_lowercase(), socket(i).flow.map(|f| f.local.port()));
                if sort.ascending() {
                    order.sort_by_cached_key(key);
                } else {
                    order.sort_by_cached_key(|i| Reverse(key(i)));
                }
            }
            Some(column) => {
                let ascending = sort.ascending();
                order.sort_by_cached_key(|i| {
                    // Unknown last, whichever the direction.
                    self.number(snapshot, socket(i), column)
                        .map_or((true, 0), |n| (false, if ascending { n } else { u64::MAX - n }))
                });
            }
        }
        self.order = order;
    }

    /// Order of attention: live before closed, what hangs before what is at risk; by the rank of the finding, then by
    /// what gives up first.
    fn attention(&self, s: &Socket) -> (u8, u32, u64) {
        let rank = self.top.get(&s.id).copied().unwrap_or(u32::MAX);
        let group = match (s.is_closed(), is_stuck(s), rank != u32::MAX) {
            (false, true, _) => 0,
            (false, false, true) => 1,
            (false, false, false) => 2,
            (true, _, true) => 3,
            (true, _, false) => 4,
        };
        let ends = if is_stuck(s) { s.gives_up_at.map_or(u64::MAX, |t| t.0) } else { u64::MAX };
        (group, rank, ends)
    }

    fn number(&self, snapshot: &Snapshot, s: &Socket, column: Column) -> Option<u64> {
        match column {
            Column::Destination => None,
            Column::Local => s.flow.map(|f| u64::from(f.local.port())),
            Column::Owner => s.pid().map(u64::from),
            Column::State => s.state.map(|x| u64::from(x.kernel()) + if s.is_closed() { 100 } else { 0 }),
            Column::Keepalive => s.keepalive.map(|k| if k.enabled { 1 + u64::from(k.idle_s) } else { 0 }),
            Column::Idle => idle(s, snapshot.at).map(|d| d.as_nanos() as u64),
            Column::Rtt => s.tcp.rtt.map(|d| d.as_micros() as u64),
            Column::SendQueue => s.tcp.send_queue_bytes,
            Column::Retransmits => Some(s.counters.retransmits),
            Column::Reset => s.last_reset_at.map(|t| t.0),
            Column::GivesUp => s.gives_up_at.filter(|_| is_stuck(s)).map(|t| t.0),
            Column::Finding => self.top.get(&s.id).map(|i| u64::from(*i)),
        }
    }
}
