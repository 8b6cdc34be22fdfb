//! The sockets that are watched, by cookie, by inode, by flow and by the port they listen on.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::known::Known;
use crate::model::{CookieHash, Flow, Mono, SocketId};

/// How long a socket that is gone still gives its owners to late events.
pub const LINGER: Duration = Duration::from_secs(30);

/// How many of them at most: of a socket that is gone nothing comes any more but what another processor wrote into the
/// ring before.
const MAX_GONE: usize = 64;

/// Sockets that one inode or flow leads to; the latest are kept. Of a flow all but one per namespace are gone already:
/// a client that binds to its port comes back with the same.
const MAX_SHARING: usize = 64;

/// A map whose keys a stranger may choose: seeded at random.
type Index<K> = HashMap<K, Ids, RandomState>;

/// Sockets that share a key: nearly always one.
#[derive(Debug)]
enum Ids {
    One(SocketId),
    Many(Vec<SocketId>),
}

impl Ids {
    fn as_slice(&self) -> &[SocketId] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }

    fn add(&mut self, id: SocketId) {
        match self {
            Self::One(one) if *one == id => {}
            Self::One(one) => *self = Self::Many(vec![*one, id]),
            Self::Many(ids) if ids.contains(&id) => {}
            Self::Many(ids) => {
                if ids.len() >= MAX_SHARING {
                    ids.remove(0);
                }
                ids.push(id);
            }
        }
    }

    /// Whether none is left.
    fn remove(&mut self, id: SocketId) -> bool {
        match self {
            Self::One(one) => *one == id,
            Self::Many(ids) => {
                ids.retain(|i| *i != id);
                ids.is_empty()
            }
        }
    }
}

fn add<K: Eq + Hash>(index: &mut Index<K>, key: K, id: SocketId) {
    index.entry(key).and_modify(|ids| ids.add(id)).or_insert(Ids::One(id));
}

fn remove<K: Eq + Hash>(index: &mut Index<K>, key: &K, id: SocketId) {
    if index.get_mut(key).is_some_and(|ids| ids.remove(id)) {
        index.remove(key);
    }
}

/// All of them. Bounded by the caller's `max`.
#[derive(Debug)]
pub struct Table {
    sockets: HashMap<SocketId, Known, CookieHash>,
    /// Several ids per inode: the subflows of an MPTCP socket.
    by_inode: Index<u64>,
    by_flow: Index<Flow>,
    listeners: Index<u16>,
    /// Sockets that are gone, in the order in which they went.
    gone: VecDeque<(Mono, SocketId)>,
    max: usize,
    /// Sockets that found no room.
    pub full: u64,
}

impl Table {
    pub fn new(max: usize) -> Self {
        Self {
            sockets: HashMap::default(),
            by_inode: Index::default(),
            by_flow: Index::default(),
            listeners: Index::default(),
            gone: VecDeque::new(),
            max,
            full: 0,
        }
    }

    /// How many sockets it holds at most.
    pub fn max(&self) -> usize {
        self.max
    }

    pub fn get(&self, id: SocketId) -> Option<&Known> {
        self.sockets.get(&id)
    }

    pub fn get_mut(&mut self, id: SocketId) -> Option<&mut Known> {
        self.sockets.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.sockets.values()
    }

    pub fn of_inode(&self, inode: u64) -> &[SocketId] {
        self.by_inode.get(&inode).map_or(&[], Ids::as_slice)
    }

    /// The socket of a flow, where the kernel named none. With several namespaces of equal addresses, the one in
    /// `netns`; unknown if that is not known.
    pub fn of_flow(&self, flow: &Flow, netns: Option<u32>) -> Option<SocketId> {
        let ids = self.by_flow.get(flow)?.as_slice();
        let mut fitting = ids.iter().filter(|id| {
            let known = self.sockets.get(id).and_then(|k| k.netns);
            netns.is_none() || known.is_none() || known == netns
        });
        let first = fitting.next_back()?;
        (netns.is_some() || fitting.next().is_none()).then_some(*first)
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Known> {
        let all = self.listeners.values().flat_map(|ids| ids.as_slice());
        all.filter_map(|id| self.sockets.get(id)).filter(|k| k.listener && k.gone.is_none())
    }

    /// The listeners of a port, those that are gone left out.
    pub fn listening_on(&self, port: u16) -> impl Iterator<Item = &Known> {
        let ids = self.listeners.get(&port).map_or(&[][..], Ids::as_slice);
        ids.iter().filter_map(|id| self.sockets.get(id)).filter(|k| k.listener && k.gone.is_none())
    }

    /// Makes room for a socket; false when the table is full of living ones.
    pub fn insert(&mut self, known: Known) -> bool {
        let id = known.id;
        if !self.sockets.contains_key(&id) && self.sockets.len() >= self.max && !self.make_room() {
            self.full += 1;
            return false;
        }
        let (inode, flow) = (known.inode, known.flow);
        if known.listener
            && let Some(flow) = flow
        {
            add(&mut self.listeners, flow.local.port(), id);
        }
        let gone = known.gone;
        self.sockets.insert(id, known);
        self.index(id, inode, flow);
        if let Some(at) = gone {
            self.buried(at, id);
        }
        true
    }

    /// Enters what was learned later into the indexes. A flow that is not bound yet is nobody's.
    pub fn index(&mut self, id: SocketId, inode: u64, flow: Option<Flow>) {
        if inode != 0 {
            add(&mut self.by_inode, inode, id);
        }
        if let Some(flow) = flow.filter(|f| f.local.port() != 0) {
            add(&mut self.by_flow, flow, id);
        }
    }

    /// The kernel no longer has the socket. Later calls change nothing.
    pub fn set_gone(&mut self, id: SocketId, now: Mono) {
        if let Some(k) = self.sockets.get_mut(&id).filter(|k| k.gone.is_none()) {
            k.gone = Some(now);
            self.buried(now, id);
        }
    }

    fn buried(&mut self, at: Mono, id: SocketId) {
        self.gone.push_back((at, id));
        if self.gone.len() > MAX_GONE {
            self.make_room();
        }
    }

    /// Drops what has been gone for longer than [`LINGER`].
    pub fn expire(&mut self, now: Mono) {
        while self.gone.front().is_some_and(|(at, _)| now.since(*at) > LINGER) && self.make_room() {}
    }

    /// Forgets the socket that has been gone longest: the living must not be turned away for it. False if all are
    /// alive.
    fn make_room(&mut self) -> bool {
        while let Some((at, id)) = self.gone.pop_front() {
            // One that was seen again, and is entered again, is not gone.
            if self.sockets.get(&id).is_some_and(|k| k.gone == Some(at)) {
                self.forget(id);
                return true;
            }
        }
        false
    }

    fn forget(&mut self, id: SocketId) {
        let Some(k) = self.sockets.remove(&id) else { return };
        if k.inode != 0 {
            remove(&mut self.by_inode, &k.inode, id);
        }
        let Some(flow) = k.flow else { return };
        if flow.local.port() != 0 {
            remove(&mut self.by_flow, &flow, id);
        }
        if k.listener {
            remove(&mut self.listeners, &flow.local.port(), id);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.sockets.len()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
