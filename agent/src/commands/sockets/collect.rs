//! One pass over the descriptors of the targets, one dump per network namespace, joined by inode.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::scan::{self, Found};
use crate::attribute::limits::{Limits, getfd_refused};
use crate::attribute::procfs;
use crate::attribute::sysctl::{self, Sysctls};
use crate::attribute::{Known, Names, TargetSpec, look, targets};
use crate::model::{Direction, Keepalive, Mono, Owner, TcpState};
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

/// A descriptor that is a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    inode: u32,
    /// Index into `processes`.
    process: u32,
    fd: i32,
}

/// Sockets that go from the dump to the output at once, and how many such parts may wait: 2 MiB.
const PART: usize = 1_024;
const PARTS: usize = 4;

struct Process {
    pid: u32,
    comm: Arc<str>,
    pidfd: Option<OwnedFd>,
    no_getfd: Option<Errno>,
}

pub struct Collector {
    all: bool,
    names: Names,
    now: Mono,
    processes: Vec<Process>,
    /// By inode.
    owners: Vec<Held>,
    namespaces: BTreeMap<u32, NetNs>,
    read_keepalive: bool,
    limits: Limits,
    notes: Vec<String>,
    malformed: u64,
}

impl Collector {
    /// Reads the descriptors of all targets. `with_owners: false` leaves that out where it can be (`--all`).
    pub fn new(spec: &TargetSpec, cgroup: Option<&Path>, names: Names, now: Mono, with_owners: bool) -> Self {
        let mut this = Self {
            all: spec.all,
            names,
            now,
            processes: Vec::new(),
            owners: Vec::new(),
            namespaces: BTreeMap::new(),
            read_keepalive: true,
            limits: Limits::default(),
            notes: Vec::new(),
            malformed: 0,
        };
        if this.all
            && let Ok(own) = NetNs::own()
        {
            this.namespaces.insert(own.inode(), own);
        }
        let scan = with_owners || !spec.all;
        let pids: Vec<u32> = targets::discover(spec, cgroup, &BTreeSet::new()).into_iter().collect();
        for found in scan::read(&pids, scan) {
            this.add(found);
        }
        this.owners.sort_unstable();
        let sockets = this.owners.chunk_by(|a, b| a.inode == b.inode).count();
        this.read_keepalive = scan && sockets <= MAX_KEEPALIVE;
        if scan && !this.read_keepalive {
            this.notes.push(format!(
                "keepalive was not read, as the targets hold {sockets} sockets; narrow the target (at most \
                 {MAX_KEEPALIVE})"
            ));
        }
        if this.read_keepalive {
            this.find_foreign_namespaces();
        }
        this
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
        let process = self.processes.len() as u32;
        let comm = procfs::comm(pid).unwrap_or_default().into();
        self.processes.push(Process { pid, comm, pidfd: None, no_getfd: None });
        for s in sockets {
            if let Ok(inode) = u32::try_from(s.inode) {
                self.owners.push(Held { inode, process, fd: s.fd });
            }
        }
    }

    /// Who holds the socket with this inode; 0 is a socket that nobody holds.
    fn holders(&self, inode: u32) -> &[Held] {
        if inode == 0 {
            return &[];
        }
        let from = self.owners.partition_point(|h| h.inode < inode);
        let count = self.owners[from..].iter().take_while(|h| h.inode == inode).count();
        &self.owners[from..from + count]
    }

    /// Sockets passed into a process from another namespace than its own: found by asking the socket. Only needed
    /// for what the namespaces of the processes do not have.
    fn find_foreign_namespaces(&mut self) {
        let mut left: HashSet<u32> = self.owners.iter().map(|h| h.inode).collect();
        for netns in self.namespaces.values() {
            let query = Query { states: States::ALL, info: false, filter: &[] };
            if let Ok(mut diag) = Diag::open(netns) {
                let _ = diag.dump(&query, |s| {
                    left.remove(&s.inode);
                });
            }
        }
        for inode in left {
            let Some(Held { process, fd, .. }) = self.holders(inode).first().copied() else { continue };
            let Ok(dup) = self.duplicate(process, fd) else { continue };
            if look::look(dup.as_fd()).is_some()
                && let Ok(netns) = NetNs::of_socket(dup.as_fd())
            {
                self.namespaces.entry(netns.inode()).or_insert(netns);
            }
        }
    }

    fn duplicate(&mut self, index: u32, fd: i32) -> Result<OwnedFd, Errno> {
        let p = &mut self.processes[index as usize];
        if let Some(e) = p.no_getfd {
            return Err(e);
        }
        let result = match &p.pidfd {
            Some(pidfd) => look::duplicate(pidfd, fd),
            None => {
                let pid = i32::try_from(p.pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
                let dup = look::duplicate(&pidfd, fd);
                p.pidfd = Some(pidfd);
                dup
            }
        };
        if let Err(e) = result
            && !matches!(e, Errno::BADF | Errno::SRCH)
        {
            p.no_getfd = Some(e);
        }
        result
    }

    /// Hands every socket to `each`, one namespace after the other.
    pub fn each(&mut self, each: &mut dyn FnMut(&Row) -> io::Result<()>) -> io::Result<()> {
        let namespaces: Vec<NetNs> = self.namespaces.values().cloned().collect();
        for netns in namespaces {
            match Diag::open(&netns) {
                Ok(diag) => self.namespace(&netns, diag, each)?,
                Err(e) => {
                    self.limits.closed_namespaces.push(format!("cannot enter network namespace {}: {e}", netns.inode()))
                }
            }
        }
        Ok(())
    }

    fn namespace(
        &mut self,
        netns: &NetNs,
        mut diag: Diag,
        each: &mut dyn FnMut(&Row) -> io::Result<()>,
    ) -> io::Result<()> {
        let sysctls =
            sysctl::Files::open(netns, &sysctl::FORECAST).map(|f| Sysctls::from_map(&f.read())).unwrap_or_default();
        let mut listening = HashSet::new();
        let listeners = Query { states: States::of(&[TcpState::Listen]), info: false, filter: &[] };
        diag.dump(&listeners, |s| listening.extend([s.flow.local.port()]))?;
        let filter = destination_filter(&self.names.prefixes());
        // The kernel fills its answers on one processor while the rows are made on another.
        let (parts, received) = std::sync::mpsc::sync_channel(PARTS);
        let (dumped, written) = std::thread::scope(|scope| {
            let dump = scope.spawn(|| {
                let mut part = Vec::with_capacity(PART);
                let result = diag.dump(&Query { filter: &filter, ..Query::default() }, |socket| {
                    part.push(socket);
                    if part.len() == PART {
                        // Nobody listens after an error in writing.
                        let _ = parts.send(std::mem::replace(&mut part, Vec::with_capacity(PART)));
                    }
                });
                let _ = parts.send(part);
                drop(parts);
                result
            });
            let mut sockets = received.iter().flatten();
            let written = sockets.try_for_each(|socket| {
                let row = self.row(socket, netns.inode(), &listening, &sysctls);
                row.map_or(Ok(()), |row| each(&row))
            });
            drop(received);
            (dump.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), written)
        });
        self.malformed += diag.malformed();
        dumped.and(written)
    }

    fn row(&mut self, socket: DiagSocket, netns: u32, listening: &HashSet<u16>, sysctls: &Sysctls) -> Option<Row> {
        let held = self.holders(socket.inode);
        if held.is_empty() && !self.all {
            return None;
        }
        if !self.names.matches(socket.flow.remote) {
            return None;
        }
        let first = held.first().copied();
        let owner = |h: &Held| {
            let p = &self.processes[h.process as usize];
            Owner { pid: p.pid, comm: p.comm.clone(), fd: Some(h.fd), program: None }
        };
        let mut owners: Vec<Owner> = held.iter().map(owner).collect();
        owners.sort_unstable();
        let keepalive = match first {
            Some(h) if self.read_keepalive => self.keepalive(h.process, h.fd, &socket),
            _ => None,
        };
        let connected = !matches!(socket.state, TcpState::Listen | TcpState::Close | TcpState::BoundInactive);
        let direction = connected.then(|| {
            if listening.contains(&socket.flow.local.port()) { Direction::Incoming } else { Direction::Outgoing }
        });
        let mut known = Known::new(socket.id);
        known.keepalive = keepalive;
        known.orphan = socket.is_orphan();
        let gives_up_in = known.gives_up_in(socket.state, &socket.tcp, sysctls, self.now);
        let remote_name = self.names.name_of(socket.flow.remote);
        Some(Row { socket, netns, owners, direction, keepalive, remote_name, gives_up_in })
    }

    fn keepalive(&mut self, index: u32, fd: i32, socket: &DiagSocket) -> Option<Keepalive> {
        let dup = self.duplicate(index, fd).ok()?;
        // The number may mean another file by now; an MPTCP socket's own cookie is not its subflow's.
        (socket.mptcp || look::cookie(dup.as_fd()) == Some(socket.id)).then(|| look::keepalive(dup.as_fd()))?
    }

    /// What could not be seen, each with its remedy.
    pub fn limits(&mut self) -> Vec<String> {
        for p in &self.processes {
            if let Some(e) = p.no_getfd {
                *self.limits.no_getfd.entry(getfd_refused(e)).or_default() += 1;
            }
        }
        let mut out = self.limits.sentences();
        out.append(&mut self.notes);
        if self.malformed > 0 {
            out.push(format!("{} sock_diag replies could not be read", self.malformed));
        }
        out
    }
}
