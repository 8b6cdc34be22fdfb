//! Finding processes and their sockets: the scan of /proc, the look at what is new, the join with sock_diag.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;

use super::known::Known;
use super::limits::{Limits, getfd_refused};
use super::look::{self, Look};
use super::process::{MAX_PIDFDS, Process};
use super::procfs::SocketFd;
use super::sample::spent;
use super::{Attribution, Ignored, targets};
use crate::model::{Direction, Event, EventKind, Flow, Mono, Owner, SocketId, TcpState};
use crate::source::diag::{DiagSocket, NetNs, Query, States};

/// The search for processes may use one part in this many of the time: 0.05 % of a core.
const DISCOVER_SHARE: u32 = 2_000;
const DISCOVER_MIN: Duration = Duration::from_secs(1);
/// How often the keepalive options of open sockets are read again: applications set them after connecting.
const KEEPALIVE_AGE: Duration = Duration::from_secs(5);
const KEEPALIVE_SHARE: u32 = 4_000;
/// Inodes remembered as uninteresting.
const MAX_IGNORED: usize = 1 << 20;
/// Pids remembered as no targets.
const MAX_STRANGERS: usize = 4_096;
const STRANGER_AGE: Duration = Duration::from_secs(1);

impl Attribution {
    /// Adds a process to the targets; whether it is new (and exists).
    pub(super) fn add_process(&mut self, pid: u32, now: Mono) -> bool {
        if self.processes.contains_key(&pid) {
            return false;
        }
        let keep = self.processes.len() < MAX_PIDFDS;
        match Process::new(pid, keep) {
            Some(p) => {
                // Now, while it may be entered, not when its first socket is seen.
                if let Some(netns) = &p.netns {
                    self.namespaces.enter(netns, now);
                }
                self.processes.insert(pid, p);
                self.processes_changed += 1;
                true
            }
            None => false,
        }
    }

    /// Looks for processes that joined or left, as often as it may.
    pub(super) fn discover(&mut self, now: Mono, out: &mut Vec<Event>) {
        let pause = (self.discover_cost * DISCOVER_SHARE).max(DISCOVER_MIN);
        if self.discovered.is_some_and(|t| now.since(t) < pause) {
            return;
        }
        if self.discovered.is_some() && !self.spec.is_open_ended() && self.processes.values().all(Process::has_pidfd) {
            return;
        }
        let started = spent();
        let known: BTreeSet<u32> = self.processes.keys().copied().collect();
        let found = targets::discover(&self.spec, self.cgroup.as_deref(), &known);
        for pid in &found {
            // A pid that is gone stays out: a number given by the user may come to mean another process.
            if self.discovered.is_none() || self.spec.is_open_ended() || known.contains(pid) {
                self.add_process(*pid, now);
            }
        }
        let without_pidfd: Vec<u32> =
            self.processes.values().filter(|p| !p.has_pidfd() && !found.contains(&p.pid)).map(|p| p.pid).collect();
        out.extend(without_pidfd.into_iter().filter_map(|pid| self.exited(pid, now)));
        self.discovered = Some(now);
        self.discover_cost = spent().saturating_sub(started);
    }

    /// Whether a process that an event named is a target that we did not know yet; then it is one now.
    pub(super) fn recruit(&mut self, pid: u32, now: Mono) -> bool {
        if self.processes.contains_key(&pid) {
            return true;
        }
        if !self.spec.is_open_ended() {
            return false;
        }
        if self.strangers.get(&pid).is_some_and(|t| now.since(*t) < STRANGER_AGE) {
            return false;
        }
        let is_target = self.spec.all
            || (self.spec.tree && self.has_target_ancestor(pid))
            || (!self.spec.comms.is_empty() && super::procfs::comm(pid).is_some_and(|c| self.spec.comms.contains(&c)))
            || self.in_cgroup(pid);
        if is_target && self.add_process(pid, now) {
            return true;
        }
        if self.strangers.len() >= MAX_STRANGERS {
            self.strangers.clear();
        }
        self.strangers.insert(pid, now);
        false
    }

    fn has_target_ancestor(&self, pid: u32) -> bool {
        let mut at = pid;
        // Deeper than any real process tree.
        for _ in 0..64 {
            match super::procfs::parent(at) {
                Some(p) if self.processes.contains_key(&p) => return true,
                Some(p) if p > 1 => at = p,
                _ => return false,
            }
        }
        false
    }

    fn in_cgroup(&self, pid: u32) -> bool {
        self.cgroup.is_some() && targets::discover(&self.spec, self.cgroup.as_deref(), &BTreeSet::new()).contains(&pid)
    }

    /// Lists the descriptors of a process and takes in what changed.
    pub(super) fn scan(&mut self, pid: u32, now: Mono, out: &mut Vec<Event>) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let mut buffer = Vec::new();
        let Some(diff) = process.scan(now, &mut buffer) else {
            out.extend(self.exited(pid, now));
            return;
        };
        process.identify(&mut self.programs);
        let mut changed = BTreeSet::new();
        for s in diff.removed {
            for id in self.table.of_inode(s.inode).to_vec() {
                if let Some(k) = self.table.get_mut(id)
                    && k.remove_owner(pid, Some(s.fd))
                    && !k.orphan
                {
                    changed.insert(id);
                }
            }
        }
        let mut join = Vec::new();
        for s in diff.added {
            if self.ignored.contains_key(&s.inode) {
                continue;
            }
            let ids = self.table.of_inode(s.inode).to_vec();
            if ids.is_empty() {
                self.look_at(pid, s, now, &mut join, &mut changed);
                continue;
            }
            let Some(owner) = self.processes.get(&pid).map(|p| p.owner(Some(s.fd))) else { return };
            for id in ids {
                if self.table.get_mut(id).is_some_and(|k| k.add_owner(owner.clone())) {
                    changed.insert(id);
                }
            }
        }
        if !join.is_empty() {
            self.join(pid, &join, now, &mut changed);
        }
        changed.into_iter().for_each(|id| self.describe(id, now, out));
    }

    /// The costly look at a descriptor of an unknown socket.
    fn look_at(&mut self, pid: u32, s: SocketFd, now: Mono, join: &mut Vec<Wanted>, changed: &mut BTreeSet<SocketId>) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.no_getfd.is_some() {
            join.push(Wanted::Inode(s));
            return;
        }
        let dup = match process.with_pidfd(|p| look::duplicate(p, s.fd)) {
            Ok(dup) => dup,
            Err(Errno::BADF | Errno::SRCH) => {
                process.forget(s);
                return;
            }
            Err(e) => {
                process.no_getfd = Some(e);
                join.push(Wanted::Inode(s));
                return;
            }
        };
        let Some(seen) = look::look(dup.as_fd()) else {
            self.ignore(s.inode, Ignored::OtherKind);
            return;
        };
        if seen.flow.as_ref().is_some_and(|f| !self.names.matches(&f.remote)) {
            self.ignore(s.inode, Ignored::OtherDestination);
            return;
        }
        if seen.state == Some(TcpState::Close) && !seen.listener && !seen.mptcp {
            // Not connected yet, or already over: the next scan looks again.
            process.forget(s);
            return;
        }
        // In MPTCP the subflows carry the traffic, and in SYN_SENT getpeername is silent: sock_diag knows both.
        if seen.mptcp && !seen.listener {
            join.push(Wanted::Subflows(s, seen.keepalive));
            return;
        }
        let Some(flow) = seen.flow else {
            join.push(Wanted::Cookie(s, seen));
            return;
        };
        let home = process.netns.clone();
        let found = match home.as_ref().map(|n| self.find(n, &flow, seen.id, now)) {
            Some(Some(found)) => Some(found),
            // The process does not live where its socket does: passed over SCM_RIGHTS, or it moved (setns).
            _ => NetNs::of_socket(dup.as_fd()).ok().and_then(|n| self.find(&n, &flow, seen.id, now)),
        };
        let (netns, row) = match found {
            Some((netns, row)) => (Some(netns), Some(row)),
            None => (home.map(|n| n.inode()), None),
        };
        self.learn(pid, s, &seen, Some(flow), netns, row.as_ref(), now, changed);
    }

    /// Looks a socket up by its addresses in a namespace; by a dump if it is bound to an interface.
    fn find(&mut self, netns: &NetNs, flow: &Flow, id: SocketId, now: Mono) -> Option<(u32, DiagSocket)> {
        let ns = self.namespaces.enter(netns, now);
        let diag = ns.diag().ok()?;
        if let Ok(Some(row)) = diag.get(flow, 0, id) {
            return Some((netns.inode(), row));
        }
        let filter = crate::source::diag::destination_filter(&[crate::model::DestPrefix::host(
            flow.remote.ip(),
            flow.remote.port(),
        )]);
        let mut found = None;
        let query = Query { filter: &filter, ..Query::default() };
        diag.dump(&query, |s| {
            if s.id == id {
                found = Some(s);
            }
        })
        .ok()?;
        found.map(|row| (netns.inode(), row))
    }

    /// Enters a socket that was seen through a descriptor.
    #[allow(clippy::too_many_arguments, reason = "one call's worth of facts, from three sources")]
    fn learn(
        &mut self,
        pid: u32,
        s: SocketFd,
        seen: &Look,
        flow: Option<Flow>,
        netns: Option<u32>,
        row: Option<&DiagSocket>,
        now: Mono,
        changed: &mut BTreeSet<SocketId>,
    ) {
        let Some(owner) = self.processes.get(&pid).map(|p| p.owner(Some(s.fd))) else { return };
        let mut k = self.table.get(seen.id).cloned().unwrap_or_else(|| Known::new(seen.id));
        k.family = Some(seen.family);
        k.flow = flow.or(k.flow);
        k.netns = netns.or(k.netns);
        k.inode = s.inode;
        k.interface = row.map_or(k.interface, |r| r.interface);
        k.state = row.map(|r| r.state).or(seen.state);
        k.listener = seen.listener;
        k.mptcp = seen.mptcp || row.is_some_and(|r| r.mptcp);
        k.keepalive = seen.keepalive.or(k.keepalive);
        k.keepalive_read = seen.keepalive.map(|_| now).or(k.keepalive_read);
        k.remote_name = self.name_for(&k.flow);
        k.add_owner(owner);
        let found = self.table.get(seen.id).is_none();
        if self.enter(k, now) {
            changed.insert(seen.id);
            if found {
                self.is_new(seen.id);
            }
        }
    }

    /// Puts a socket into the table and works out its direction. False if there is no room.
    pub(super) fn enter(&mut self, mut k: Known, now: Mono) -> bool {
        self.direct(&mut k, now);
        self.table.insert(k)
    }

    pub(super) fn direct(&mut self, k: &mut Known, now: Mono) {
        if k.direction.is_none() && !k.listener {
            k.direction = self.direction(k, now);
        }
    }

    /// A connection whose local port something listens on was accepted; the others were made.
    fn direction(&mut self, k: &Known, now: Mono) -> Option<Direction> {
        if k.state == Some(TcpState::SynSent) {
            return Some(Direction::Outgoing);
        }
        let ns = self.namespaces.get(k.netns?)?;
        ns.diag().ok()?;
        let port = k.flow?.local.port();
        Some(if ns.listens(port, now) { Direction::Incoming } else { Direction::Outgoing })
    }

    /// One dump of the process's namespace for all that could not be looked at directly.
    fn join(&mut self, pid: u32, wanted: &[Wanted], now: Mono, changed: &mut BTreeSet<SocketId>) {
        let Some(netns) = self.processes.get(&pid).and_then(|p| p.netns.clone()) else { return };
        let inodes: HashMap<u32, usize> = wanted
            .iter()
            .enumerate()
            .filter_map(|(n, w)| Some((u32::try_from(w.descriptor().inode).ok()?, n)))
            .collect();
        let cookies: HashMap<SocketId, usize> = wanted
            .iter()
            .enumerate()
            .filter_map(|(n, w)| if let Wanted::Cookie(_, l) = w { Some((l.id, n)) } else { None })
            .collect();
        let mut rows: Vec<(usize, DiagSocket)> = Vec::new();
        let ns = self.namespaces.enter(&netns, now);
        let complete = ns.diag().is_ok_and(|diag| {
            let query = Query { states: States::ALL, ..Query::default() };
            diag.dump(&query, |s| {
                let n = cookies.get(&s.id).or_else(|| inodes.get(&s.inode).filter(|_| s.inode != 0));
                if let Some(n) = n {
                    rows.push((*n, s));
                }
            })
            .is_ok()
        });
        let mut hit = vec![false; wanted.len()];
        for (n, row) in rows {
            hit[n] = true;
            self.take_row(pid, &wanted[n], row, netns.inode(), now, changed);
        }
        for (w, hit) in wanted.iter().zip(hit) {
            match w {
                _ if hit => {}
                // Not among the TCP sockets of its namespace, so another kind of socket.
                Wanted::Inode(s) if complete => self.ignore(s.inode, Ignored::OtherKind),
                w => {
                    if let Some(p) = self.processes.get_mut(&pid) {
                        p.forget(w.descriptor());
                    }
                }
            }
        }
    }

    fn take_row(
        &mut self,
        pid: u32,
        wanted: &Wanted,
        row: DiagSocket,
        netns: u32,
        now: Mono,
        changed: &mut BTreeSet<SocketId>,
    ) {
        let s = wanted.descriptor();
        let listener = row.state == TcpState::Listen;
        if !listener && !self.names.matches(&row.flow.remote) {
            self.ignore(s.inode, Ignored::OtherDestination);
            return;
        }
        let (keepalive, mptcp) = match wanted {
            Wanted::Inode(_) => (None, row.mptcp),
            Wanted::Cookie(_, seen) => (seen.keepalive, seen.mptcp),
            Wanted::Subflows(_, keepalive) => (*keepalive, true),
        };
        let seen =
            Look { id: row.id, family: row.family, mptcp, listener, state: Some(row.state), flow: None, keepalive };
        self.learn(pid, s, &seen, Some(row.flow), Some(netns), Some(&row), now, changed);
    }

    fn ignore(&mut self, inode: u64, why: Ignored) {
        if self.ignored.len() >= MAX_IGNORED {
            self.ignored.clear();
        }
        self.ignored.insert(inode, why);
    }

    /// Makes the next scans look again at descriptors that were passed over.
    pub(super) fn rescan_ignored(&mut self) {
        for p in self.processes.values_mut() {
            let table = &self.table;
            p.sockets.retain(|s| !table.of_inode(s.inode).is_empty());
        }
    }

    /// Reads the keepalive options of open sockets again, as often as it may; of those asked for, at once.
    pub(super) fn check_keepalive(&mut self, now: Mono, out: &mut Vec<Event>) {
        let pause = (self.keepalive_cost * KEEPALIVE_SHARE).max(KEEPALIVE_AGE);
        let all = self.keepalive_checked.is_none_or(|t| now.since(t) >= pause);
        let asked = std::mem::take(&mut self.reread);
        let ids: Vec<SocketId> = if all {
            self.keepalive_checked = Some(now);
            self.table.iter().filter(|k| k.gone.is_none() && !k.listener && !k.orphan).map(|k| k.id).collect()
        } else {
            asked.into_iter().collect()
        };
        let started = spent();
        for id in ids {
            let Some(k) = self.table.get(id) else { continue };
            if k.keepalive_read.is_some_and(|t| t == now) {
                continue;
            }
            let (mptcp, owners) = (k.mptcp, k.owners.clone());
            let Some(fresh) = owners.iter().find_map(|o| self.read_keepalive(o, id, mptcp)) else { continue };
            let Some(k) = self.table.get_mut(id) else { continue };
            k.keepalive_read = Some(now);
            if k.keepalive != Some(fresh) {
                k.keepalive = Some(fresh);
                let update = crate::model::SocketUpdate { id: Some(id), keepalive: Some(fresh), ..Default::default() };
                out.push(Event { at: now, kind: EventKind::Socket(Box::new(update)) });
            }
        }
        if all {
            self.keepalive_cost = spent().saturating_sub(started);
        }
    }

    fn read_keepalive(&self, owner: &Owner, id: SocketId, mptcp: bool) -> Option<crate::model::Keepalive> {
        let process = self.processes.get(&owner.pid).filter(|p| p.no_getfd.is_none())?;
        let fd = owner.fd?;
        let dup = process.with_pidfd(|p| look::duplicate(p, fd)).ok()?;
        // The number may mean another file by now. An MPTCP socket's own cookie is not its subflow's.
        (mptcp || look::cookie(dup.as_fd()) == Some(id)).then(|| look::keepalive(dup.as_fd()))?
    }

    pub(super) fn note_limits(&mut self) {
        let mut limits = Limits::default();
        for p in self.processes.values() {
            limits.hidden += u32::from(p.hidden.is_some());
            limits.no_netns += u32::from(p.netns.is_none());
            if let Some(e) = p.no_getfd.filter(|_| p.hidden.is_none()) {
                *limits.no_getfd.entry(getfd_refused(e)).or_default() += 1;
            }
        }
        let closed = self.namespaces.closed();
        limits.closed_namespaces =
            closed.map(|(inode, why)| format!("cannot enter network namespace {inode}: {why}")).collect();
        limits.closed_namespaces.sort();
        self.limits = limits;
    }
}

/// A descriptor to be explained by a dump.
enum Wanted {
    /// Nothing is known but the inode.
    Inode(SocketFd),
    /// A listener, or a connection on its way.
    Cookie(SocketFd, Look),
    /// An MPTCP socket: its subflows have its inode.
    Subflows(SocketFd, Option<crate::model::Keepalive>),
}

impl Wanted {
    fn descriptor(&self) -> SocketFd {
        match self {
            Self::Inode(s) | Self::Cookie(s, _) | Self::Subflows(s, _) => *s,
        }
    }
}
