//! Whose socket is this? Owners (a set), destination names, keepalive truth and the time until the kernel gives up.
//!
//! [`Attribution`] holds the targets. The caller turns the crank: [`Attribution::refresh`] about once a second (it
//! spaces its own work so that it uses about 0.1 % of a core), [`Attribution::sample`] as often as `tcp_info` is
//! wanted, [`Attribution::enrich`] for each live event. All return events for the state.

pub mod destination;
mod discover;
mod enrich;
pub mod forecast;
mod known;
pub mod limits;
pub mod look;
pub mod names;
pub mod namespaces;
pub mod origin;
mod process;
pub mod procfs;
mod program;
mod sample;
pub mod sysctl;
mod table;
pub mod targets;
mod versions;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use destination::{BadDestination, Destination, Host};
pub use enrich::idle_before;
pub use known::Known;
pub use names::{Lookup, Names};
pub use targets::TargetSpec;

use crate::memory::Spare;
use crate::model::{Event, EventKind, Mono, Owners, SocketId, SocketUpdate};
use limits::Limits;
use namespaces::Namespaces;
use process::Process;
use program::Programs;
use table::Table;

/// Targets and what is known of their sockets.
pub struct Attribution {
    spec: TargetSpec,
    cgroup: Option<PathBuf>,
    names: Names,
    processes: BTreeMap<u32, Process>,
    programs: Programs,
    table: Table,
    /// Inodes of descriptors that need no second look.
    ignored: HashMap<u64, Ignored>,
    namespaces: Namespaces,
    /// Pids that events named and that are no targets, with the time of the check.
    strangers: HashMap<u32, Mono>,
    discovered: Option<Mono>,
    discover_cost: Duration,
    keepalive_checked: Option<Mono>,
    keepalive_cost: Duration,
    sampled: Option<Mono>,
    sample_cost: Duration,
    limits: Limits,
    /// Sockets whose keepalive is to be read again at once.
    reread: BTreeSet<SocketId>,
    /// Sockets that are new since the last [`Attribution::take_new`].
    new: VecDeque<SocketId>,
    /// Those met by an event are among them.
    new_by_event: bool,
    /// Grows with each process that joins or leaves.
    processes_changed: u64,
    /// Memory that is used again.
    spare: Spare<SocketUpdate>,
}

/// A socket that is watched from now on.
#[derive(Clone, Copy, Debug)]
pub struct NewSocket {
    pub id: SocketId,
    pub flow: Option<crate::model::Flow>,
}

/// Why an inode is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ignored {
    /// Not TCP: stays so.
    OtherKind,
    /// Its remote end is no destination of the user's: may change when DNS does.
    OtherDestination,
}

impl Attribution {
    /// Checks the targets (one clear sentence if one does not exist) and takes a first look at their sockets.
    /// `names` are resolved already. The events are the sockets that were open before.
    pub fn new(spec: &TargetSpec, names: Names, max_sockets: usize, now: Mono) -> Result<(Self, Vec<Event>), String> {
        let cgroup = targets::check(spec)?;
        let mut this = Self {
            spec: spec.clone(),
            cgroup,
            names,
            processes: BTreeMap::new(),
            programs: Programs::default(),
            table: Table::new(max_sockets),
            ignored: HashMap::new(),
            namespaces: Namespaces::default(),
            strangers: HashMap::new(),
            discovered: None,
            discover_cost: Duration::ZERO,
            keepalive_checked: None,
            keepalive_cost: Duration::ZERO,
            sampled: None,
            sample_cost: Duration::ZERO,
            limits: Limits::default(),
            reread: BTreeSet::new(),
            new: VecDeque::new(),
            new_by_event: false,
            processes_changed: 0,
            spare: Spare::default(),
        };
        let events = this.refresh(now);
        Ok((this, events))
    }

    /// Adds a target, e.g. the child of `agent run`.
    pub fn add_pid(&mut self, pid: u32, now: Mono) -> Vec<Event> {
        if !self.spec.pids.contains(&pid) {
            self.spec.pids.push(pid);
        }
        self.add_process(pid, now);
        self.refresh(now)
    }

    /// The processes watched now.
    pub fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.keys().copied()
    }

    /// Grows whenever [`Self::pids`] changes.
    pub fn pids_revision(&self) -> u64 {
        self.processes_changed
    }

    /// Whether [`Self::take_new`] also gives sockets that an event told of; else only those found by looking.
    pub fn give_met(&mut self, yes: bool) {
        self.new_by_event = yes;
    }

    /// The next socket that is new and not gone. Each comes once.
    pub fn take_new(&mut self) -> Option<NewSocket> {
        while let Some(id) = self.new.pop_front() {
            if let Some(k) = self.table.get(id).filter(|k| k.gone.is_none()) {
                return Some(NewSocket { id, flow: k.flow });
            }
        }
        None
    }

    /// Gives one back that could not be taken in; it comes again.
    pub fn put_back(&mut self, new: NewSocket) {
        self.new.push_front(new.id);
    }

    /// No target is left and none can come: the watch is over.
    pub fn all_gone(&self) -> bool {
        self.processes.is_empty() && !self.spec.all && self.spec.cgroup.is_none() && self.spec.comms.is_empty()
    }

    /// The user's destinations.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Takes in what DNS says now; whether the kernel's filter needs an update.
    pub fn apply_lookup(&mut self, lookup: Lookup, now: Mono) -> bool {
        let changed = self.names.apply(lookup, now);
        if changed {
            self.ignored.retain(|_, why| *why != Ignored::OtherDestination);
            // Make every descriptor new again, so that sockets to the new addresses are found.
            self.rescan_ignored();
        }
        changed
    }

    /// The sockets known, listeners and recently gone ones included.
    pub fn sockets(&self) -> impl Iterator<Item = &Known> {
        self.table.iter()
    }

    pub fn socket(&self, id: SocketId) -> Option<&Known> {
        self.table.get(id)
    }

    /// (network namespace, port) of the targets' listeners: how the kernel side recognises accepted sockets.
    pub fn listeners(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        self.table.listeners().filter_map(|k| Some((k.netns?, k.flow?.local.port())))
    }

    /// Keeps sockets of sock_diag open in the namespaces known so far, for when they cannot be entered any more.
    pub fn keep_diags(&self, diags: &crate::source::diag::KeptDiags) {
        self.namespaces.iter().for_each(|n| diags.keep(&n.netns));
    }

    /// sysctls of the network namespace `netns` by name; `None`: of the agent's own.
    pub fn sysctl_map(&mut self, netns: Option<u32>, now: Mono) -> BTreeMap<String, Option<i64>> {
        if let Some(n) = netns.and_then(|i| self.namespaces.get(i)) {
            return n.sysctl_map();
        }
        match crate::source::diag::NetNs::own() {
            Ok(own) => self.namespaces.enter(&own, now).sysctl_map(),
            Err(_) => BTreeMap::new(),
        }
    }

    /// Reads the keepalive options of these sockets again at the next refresh: after an action.
    pub fn reread_keepalive(&mut self, ids: impl IntoIterator<Item = SocketId>) {
        self.reread.extend(ids);
    }

    /// What the agent cannot see of these targets, each with its remedy.
    pub fn limits(&self) -> Vec<String> {
        let mut out = self.limits.sentences();
        if self.table.full > 0 {
            out.push(format!(
                "{} sockets found no room in the table; raise --max-sockets or narrow the target",
                self.table.full
            ));
        }
        out
    }

    /// A target forked (`kernel: true` from a FORK record): the child is one too with `--tree`. Its inherited sockets
    /// come at once.
    pub fn forked(&mut self, parent: u32, child: u32, now: Mono) -> Vec<Event> {
        let mut out = Vec::new();
        if self.spec.tree && self.processes.contains_key(&parent) && self.add_process(child, now) {
            self.scan(child, now, &mut out);
        }
        out
    }

    /// A process ended. Its sockets keep it as their last owner.
    pub fn exited(&mut self, pid: u32, now: Mono) -> Option<Event> {
        let process = self.processes.remove(&pid)?;
        self.processes_changed += 1;
        for s in &process.sockets {
            for id in self.table.of_inode(s.inode).to_vec() {
                if let Some(k) = self.table.get_mut(id) {
                    k.remove_owner(pid, None);
                }
            }
        }
        // Owners known by events only.
        let rest: Vec<SocketId> =
            self.table.iter().filter(|k| k.owners.iter().any(|o| o.pid == pid)).map(|k| k.id).collect();
        for id in rest {
            if let Some(k) = self.table.get_mut(id) {
                k.remove_owner(pid, None);
            }
        }
        Some(Event { at: now, kind: EventKind::Exit { pid } })
    }

    /// The events of a whole turn: exits, new processes, new sockets, changed owners, changed keepalive.
    pub fn refresh(&mut self, now: Mono) -> Vec<Event> {
        let mut out = Vec::new();
        let ended: Vec<u32> = self.processes.values().filter(|p| p.has_ended()).map(|p| p.pid).collect();
        out.extend(ended.into_iter().filter_map(|pid| self.exited(pid, now)));
        self.discover(now, &mut out);
        let due: Vec<u32> = self.processes.values().filter(|p| p.due(now)).map(|p| p.pid).collect();
        for pid in due {
            self.scan(pid, now, &mut out);
        }
        self.check_keepalive(now, &mut out);
        self.table.expire(now);
        self.note_limits();
        out
    }

    /// Takes the memory of an event back that nobody needs any more.
    pub fn reuse(&mut self, update: Box<SocketUpdate>) {
        self.spare.give(update);
    }

    fn is_new(&mut self, id: SocketId) {
        if self.new.len() >= self.table.max() {
            self.new.pop_front();
        }
        self.new.push_back(id);
    }

    /// Appends the whole description of a socket as an event.
    fn describe(&self, id: SocketId, now: Mono, out: &mut Vec<Event>) {
        let Some(k) = self.table.get(id).filter(|k| !k.listener) else { return };
        let mut update = Box::default();
        k.update(k.owners.clone(), &mut update);
        out.push(Event { at: now, kind: EventKind::Socket(update) });
    }

    /// The same of one that is about to be entered; `None` of a listener.
    fn described(&mut self, k: &Known, owners: Owners) -> Option<Box<SocketUpdate>> {
        (!k.listener).then(|| {
            let mut update = self.spare.take(SocketUpdate::default);
            k.update(owners, &mut update);
            update
        })
    }

    /// The user's name for the remote end.
    fn name_for(&self, flow: &Option<crate::model::Flow>) -> Option<Arc<str>> {
        self.names.name_of(&flow.as_ref()?.remote)
    }
}

#[cfg(test)]
mod tests;
