//! One pass over the descriptors of the targets, one dump per network namespace, joined.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;

use super::dump::{self, Dumped, Namespace};
use super::owners::Owners;
use super::packed::Packed;
use super::scan::{self, Found};
use super::walk::{self, Walked};
use crate::attribute::limits::{Limits, getfd_refused};
use crate::attribute::procfs;
use crate::attribute::{Known, Names, TargetSpec, targets};
use crate::model::{Direction, Keepalive, Mono, Owner, SocketId, TcpState};
use crate::source::diag::{Diag, DiagSocket, NetNs, Query, States, destination_filter};

/// One socket with all that is known of it at this moment.
#[derive(Clone, Debug)]
pub struct Row {
    pub socket: DiagSocket,
    pub netns: u32,
    pub owners: Vec<Owner>,
    pub direction: Option<Direction>,
    pub keepalive: Option<Keepalive>,
    pub remote_name: Option<Arc<str>>,
    pub gives_up_in: Option<Duration>,
}

impl Row {
    /// Since anything was sent or received.
    pub fn idle(&self) -> Option<Duration> {
        let t = &self.socket.tcp;
        let ages = [t.last_sent_ms, t.last_received_ms, t.last_ack_ms];
        ages.into_iter().flatten().min().map(Duration::from_millis)
    }
}

/// Past this many sockets of the targets their options are not read: 4 µs each, and a table of this length is read
/// by a program.
const MAX_KEEPALIVE: usize = 5_000;

/// Parts that may wait to become rows: 1 MiB; while the owners are still to come, 10 MiB.
const PARTS: usize = 16;
const PARTS_BEFORE_OWNERS: usize = 200;

pub struct Collector {
    all: bool,
    names: Names,
    now: Mono,
    pids: Vec<u32>,
    owners: Owners,
    /// Will tell the owners, if /proc does not.
    walk: Option<JoinHandle<anyhow::Result<Walked>>>,
    namespaces: BTreeMap<u32, NetNs>,
    read_keepalive: bool,
    limits: Limits,
    notes: Vec<String>,
    malformed: u64,
    /// What the forecast of a row asks of its socket, used again.
    forecast: Known,
}

impl Collector {
    /// Reads the descriptors of all targets, or has begun to. `with_owners: false` leaves that out where it can be
    /// (`--all`).
    pub fn new(spec: &TargetSpec, cgroup: Option<&Path>, names: Names, now: Mono, with_owners: bool) -> Self {
        let walk = if spec.all && with_owners { walk::begin() } else { None };
        let mut this = Self {
            all: spec.all,
            names,
            now,
            pids: targets::discover(spec, cgroup, &BTreeSet::new()).into_iter().collect(),
            owners: Owners::default(),
            walk,
            namespaces: BTreeMap::new(),
            read_keepalive: false,
            limits: Limits::default(),
            notes: Vec::new(),
            malformed: 0,
            forecast: Known::new(SocketId(0)),
        };
        if this.all
            && let Ok(own) = NetNs::own()
        {
            this.namespaces.insert(own.inode(), own);
        }
        if this.walk.is_some() {
            // The dump of our own namespace begins at once, and the others are looked for beside it.
            return this;
        }
        if with_owners || !spec.all {
            this.read_descriptors();
        } else {
            this.scan(false);
        }
        this
    }

    /// All that /proc tells: owners, and the namespaces of sockets that were passed in from elsewhere.
    fn read_descriptors(&mut self) {
        self.scan(true);
        self.owners_known();
        if self.read_keepalive {
            self.find_foreign_namespaces();
        }
    }

    /// Reads /proc of all targets: their network namespaces, and their descriptors if wanted.
    fn scan(&mut self, descriptors: bool) {
        for found in scan::read(&self.pids, descriptors) {
            self.add(found);
        }
    }

    fn add(&mut self, Found { pid, netns, sockets }: Found) {
        match &netns {
            Ok(n) => drop(self.namespaces.entry(n.inode()).or_insert_with(|| n.clone())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(_) => self.limits.no_netns += 1,
        }
        let sockets = match sockets {
            Some(Ok(sockets)) => sockets,
            None | Some(Err(Errno::NOENT | Errno::SRCH)) => return,
            Some(Err(_)) => {
                self.limits.hidden += 1;
                return;
            }
        };
        if sockets.is_empty() {
            return;
        }
        self.owners.process(pid, procfs::comm(pid).unwrap_or_default().into());
        sockets.into_iter().for_each(|s| self.owners.add_inode(s));
    }

    /// After the last owner was added.
    fn owners_known(&mut self) {
        self.owners.sort();
        let sockets = self.owners.sockets();
        self.read_keepalive = sockets <= MAX_KEEPALIVE;
        if !self.read_keepalive {
            self.notes.push(format!(
                "keepalive was not read, as the targets hold {sockets} sockets; narrow the target (at most \
                 {MAX_KEEPALIVE})"
            ));
        }
    }

    /// Asks for the dump of every namespace as it becomes known. Where a walk tells the owners, waits for it; where that
    /// fails, /proc is read after all.
    fn await_owners(&mut self, wanted: mpsc::Sender<NetNs>) {
        let mut asked = BTreeSet::new();
        let mut ask = |known: &BTreeMap<u32, NetNs>| {
            for netns in known.values().filter(|n| asked.insert(n.inode())) {
                // The dump has ended with an error, which it tells.
                let _ = wanted.send(netns.clone());
            }
        };
        ask(&self.namespaces);
        let Some(walk) = self.walk.take() else { return };
        self.scan(false);
        ask(&self.namespaces);
        match walk::end(walk) {
            Some(walked) => self.take(walked),
            None => {
                self.limits.no_netns = 0;
                self.read_descriptors();
            }
        }
        ask(&self.namespaces);
    }

    fn take(&mut self, walked: Walked) {
        self.owners = walked.owners;
        // These were counted when their namespaces were asked for.
        let no_netns = self.limits.no_netns;
        for found in scan::read(&walked.mptcp.into_iter().collect::<Vec<_>>(), true) {
            self.add(found);
        }
        self.limits.no_netns = no_netns;
        self.owners_known();
        for (inode, cookie) in walked.namespaces {
            if !self.namespaces.contains_key(&inode)
                && let Some(netns) = self.owners.netns_of_cookie(cookie)
            {
                self.namespaces.insert(netns.inode(), netns);
            }
        }
    }

    /// Sockets passed into a process from another namespace than its own: found by asking the socket. Only needed
    /// for what the namespaces of the processes do not have.
    fn find_foreign_namespaces(&mut self) {
        let mut left = self.owners.inodes();
        for netns in self.namespaces.values() {
            let query = Query { states: States::ALL, info: false, filter: &[] };
            if let Ok(mut diag) = Diag::open(netns) {
                let _ = diag.dump(&query, |s| {
                    left.remove(&s.inode);
                });
            }
        }
        for inode in left {
            if let Some(netns) = self.owners.netns_of_inode(inode) {
                self.namespaces.entry(netns.inode()).or_insert(netns);
            }
        }
    }

    /// Hands every socket to `each`, one namespace after the other.
    pub fn each(&mut self, each: &mut dyn FnMut(&Row) -> io::Result<()>) -> io::Result<()> {
        let filter = destination_filter(&self.names.prefixes());
        let waiting = if self.walk.is_some() { PARTS_BEFORE_OWNERS } else { PARTS };
        let (parts, received) = mpsc::sync_channel(waiting);
        let (wanted, namespaces) = mpsc::channel();
        let (dumped, written) = std::thread::scope(|scope| {
            let dump = scope.spawn(|| dump::dump(namespaces, &filter, parts));
            self.await_owners(wanted);
            let mut namespace = Namespace::default();
            // Memory that is used again.
            let (mut owners, mut places) = (Vec::new(), Vec::new());
            let written = received.iter().try_for_each(|dumped| match dumped {
                Dumped::Namespace(next) => {
                    namespace = next;
                    Ok(())
                }
                Dumped::Closed(why) => {
                    self.limits.closed_namespaces.push(why);
                    Ok(())
                }
                Dumped::Sockets(part) => {
                    self.owners.places(part.iter().map(Packed::id), &mut places);
                    part.iter().zip(places.drain(..)).try_for_each(|(packed, place)| {
                        let memory = std::mem::take(&mut owners);
                        let Some(row) = self.row(packed.into(), place, &namespace, memory) else {
                            return Ok(());
                        };
                        let result = each(&row);
                        owners = row.owners;
                        owners.clear();
                        result
                    })
                }
            });
            drop(received);
            (dump.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), written)
        });
        self.malformed += dumped?;
        written
    }

    /// `place` is where its holders are, `owners` memory to use.
    fn row(
        &mut self,
        socket: DiagSocket,
        place: Range<usize>,
        namespace: &Namespace,
        mut owners: Vec<Owner>,
    ) -> Option<Row> {
        let held = self.owners.of(&socket, place);
        if held.is_empty() && !self.all {
            return None;
        }
        if !self.names.matches(&socket.flow.remote) {
            return None;
        }
        let first = held.first().copied();
        owners.extend(held.iter().map(|h| self.owners.owner(h)));
        owners.sort_unstable();
        let keepalive = first.filter(|_| self.read_keepalive).and_then(|h| self.owners.keepalive(h, &socket));
        let connected = !matches!(socket.state, TcpState::Listen | TcpState::Close | TcpState::BoundInactive);
        let direction = connected.then(|| {
            if namespace.listening.contains(&socket.flow.local.port()) {
                Direction::Incoming
            } else {
                Direction::Outgoing
            }
        });
        self.forecast.keepalive = keepalive;
        self.forecast.orphan = socket.is_orphan();
        self.forecast.first_rto = None;
        let gives_up_in = self.forecast.gives_up_in(socket.state, &socket.tcp, &namespace.sysctls, self.now);
        let remote_name = self.names.name_of(&socket.flow.remote);
        Some(Row { socket, netns: namespace.inode, owners, direction, keepalive, remote_name, gives_up_in })
    }

    /// What could not be seen, each with its remedy.
    pub fn limits(&mut self) -> Vec<String> {
        for e in self.owners.refusals() {
            *self.limits.no_getfd.entry(getfd_refused(e)).or_default() += 1;
        }
        let mut out = self.limits.sentences();
        out.append(&mut self.notes);
        if self.malformed > 0 {
            out.push(format!("{} sock_diag replies could not be read", self.malformed));
        }
        out
    }
}
