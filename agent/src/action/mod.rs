//! What the agent does to sockets: intent, policy, methods, audit.
//!
//! A command or a key becomes an [`Intent`]; [`perform`] carries it out and returns what happened, one
//! [`ActionRecord`] per socket. It blocks (a few microseconds per socket): call it from a thread that may.

mod bpf;
mod close;
pub mod guard;
mod ledger;
mod lookup;
pub mod options;
mod permission;
mod pidfd;
pub mod policy;
#[cfg(target_arch = "x86_64")]
mod ptrace;
mod scan;
mod stuck;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

pub use ledger::{Entry as LedgerEntry, Ledger};
pub use options::{KeepaliveWanted, Wanted};
pub use stuck::milliseconds;

use crate::model::{ActionKind, ActionRecord, ActionResult, DestPrefix, Event, EventKind, Method, Mono, SocketId};
use crate::source::diag::KeptDiags;

/// Something the user wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub what: What,
    pub selection: Selection,
    /// How; ignored by [`What::Close`], which has one way only.
    pub method: Method,
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Set these options. With `keepalive: None` only the user timeout.
    Set(Wanted),
    /// Destroy the sockets (SOCK_DESTROY): their owners get ECONNABORTED at once.
    Close,
    /// Put back what the agent changed.
    Undo,
}

/// Which sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Processes whose sockets are meant, already resolved (tree, comm, cgroup).
    pub pids: Vec<u32>,
    /// They were found, not named: one that has ended meanwhile or may not be looked into is no failure, but said.
    pub found: bool,
    /// Only these sockets; `None` = all.
    pub sockets: Option<BTreeSet<SocketId>>,
    /// Only connections to one of these; empty = all.
    pub destinations: Vec<DestPrefix>,
}

impl Selection {
    /// Sockets selected on a screen, with their owners.
    pub fn sockets(pids: impl IntoIterator<Item = u32>, ids: impl IntoIterator<Item = SocketId>) -> Self {
        let pids: BTreeSet<u32> = pids.into_iter().collect();
        Self {
            pids: pids.into_iter().collect(),
            found: false,
            sockets: Some(ids.into_iter().collect()),
            destinations: Vec::new(),
        }
    }

    fn wants(&self, id: SocketId) -> bool {
        self.sockets.as_ref().is_none_or(|set| set.contains(&id))
    }

    fn wants_remote(&self, remote: Option<std::net::SocketAddr>) -> bool {
        self.destinations.is_empty() || remote.is_some_and(|r| self.destinations.iter().any(|d| d.matches(&r)))
    }
}

/// What [`perform`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One per socket; and one without a socket for a process that could not be looked into.
    pub records: Vec<ActionRecord>,
    pub skipped: Skipped,
    /// What the user must know of the whole, e.g. that an undo will not be possible.
    pub notes: Vec<String>,
    /// For looking and setting, without loading or writing anything.
    pub took: Duration,
}

impl Outcome {
    pub fn count(&self, result: ActionResult) -> usize {
        self.records.iter().filter(|r| r.result == result).count()
    }

    /// The audit: each record as an event for the recording and the socket's history.
    pub fn events(&self, at: Mono) -> impl Iterator<Item = Event> + '_ {
        self.records.iter().map(move |r| Event { at, kind: EventKind::Action(Box::new(r.clone())) })
    }
}

/// Files of the targets that were looked at and left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    pub listeners: usize,
    pub udp: usize,
    /// Unix, netlink, raw, ...
    pub other_sockets: usize,
    /// Files that are no socket.
    pub no_socket: usize,
    /// TCP sockets without a connection (new, closed).
    pub unconnected: usize,
    /// Connections that the filter leaves out.
    pub filtered: usize,
    /// Further descriptors of a socket that was done already.
    pub shared: usize,
    /// Undo: connections that the agent never changed.
    pub not_ours: usize,
    /// Processes that have ended or may not be looked into.
    pub unreachable: usize,
}

impl std::ops::AddAssign for Skipped {
    fn add_assign(&mut self, more: Self) {
        let Self { listeners, udp, other_sockets, no_socket, unconnected, filtered, shared, not_ours, unreachable } =
            more;
        self.listeners += listeners;
        self.udp += udp;
        self.other_sockets += other_sockets;
        self.no_socket += no_socket;
        self.unconnected += unconnected;
        self.filtered += filtered;
        self.shared += shared;
        self.not_ours += not_ours;
        self.unreachable += unreachable;
    }
}

impl fmt::Display for Skipped {
    /// `skipped: 1 listener, 2 UDP sockets`; empty if nothing was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.listeners, "listener", "listeners"),
            (self.udp, "UDP socket", "UDP sockets"),
            (self.unconnected, "unconnected TCP socket", "unconnected TCP sockets"),
            (self.other_sockets, "socket of another kind", "sockets of other kinds"),
            (self.no_socket, "file that is no socket", "files that are no sockets"),
            (self.filtered, "connection to another destination", "connections to other destinations"),
            (self.not_ours, "connection that the agent did not change", "connections that the agent did not change"),
            (self.unreachable, "process that could not be looked into", "processes that could not be looked into"),
            (self.shared, "further descriptor of a shared socket", "further descriptors of shared sockets"),
        ];
        let mut lead = "skipped: ";
        for (n, one, many) in parts.into_iter().filter(|p| p.0 > 0) {
            write!(f, "{lead}{n} {}", if n == 1 { one } else { many })?;
            lead = ", ";
        }
        Ok(())
    }
}

/// Carries out `intent`. Never fails as a whole: what could not be done is said in the records.
///
/// `ledger`: where changes are noted for a later undo; `None` = they are not.
pub fn perform(intent: &Intent, ledger: Option<&mut Ledger>) -> Outcome {
    perform_with(intent, ledger, &KeptDiags::default())
}

/// As [`perform`], with sockets of sock_diag for namespaces that the agent may not enter any more.
pub fn perform_with(intent: &Intent, ledger: Option<&mut Ledger>, diags: &KeptDiags) -> Outcome {
    if let Some(why) = policy::refuse(intent) {
        return Outcome { records: vec![failed(intent.kind(), intent.method, why)], ..Default::default() };
    }
    match intent.what {
        What::Close => close::perform(intent, diags),
        What::Set(_) | What::Undo => match intent.method {
            #[cfg(target_arch = "x86_64")]
            Method::Ptrace => ptrace::perform(intent, ledger),
            Method::Bpf => bpf::perform(intent, ledger),
            _ => pidfd::perform(intent, ledger),
        },
    }
}

/// What remains after the sockets: the ledger is written, and a selected socket that nobody holds any more is said.
fn finish(intent: &Intent, out: &mut Outcome, ledger: Option<&mut Ledger>, done: &BTreeSet<SocketId>) {
    let s = &intent.selection;
    for id in s.sockets.iter().flatten().filter(|id| !done.contains(id)) {
        let why = "no process selected holds it any more".to_owned();
        out.records.push(ActionRecord { socket: Some(*id), ..failed(intent.kind(), intent.method, why) });
    }
    let Some(ledger) = ledger else { return };
    if intent.what == What::Undo && !intent.dry_run && s.sockets.is_none() && s.destinations.is_empty() {
        // Everything that these processes still hold was seen: what is left of them in the ledger is closed.
        ledger.retain(|id, e| done.contains(&id) || !s.pids.contains(&e.pid));
    }
    if let Err(why) = ledger.save() {
        out.notes.push(format!("these changes cannot be undone later: {why}"));
    }
    if ledger.dropped > 0 {
        out.notes.push(format!(
            "the undo file is full ({} sockets): the {} oldest changes can no longer be undone",
            ledger::MAX_ENTRIES,
            ledger.dropped
        ));
    }
}

impl Intent {
    pub fn kind(&self) -> ActionKind {
        match self.what {
            What::Set(Wanted { keepalive: None, .. }) => ActionKind::UserTimeout,
            What::Set(_) => ActionKind::Keepalive,
            What::Close => ActionKind::Close,
            What::Undo => ActionKind::Undo,
        }
    }
}

/// Why an undo leaves a socket alone that has other values than the agent gave it.
fn left_alone(entry: &LedgerEntry, now: crate::model::OptionValues) -> String {
    use options::values_text;
    if now == entry.before {
        return "it has its old values already".into();
    }
    let (then, now) = (values_text(entry.after), values_text(now));
    format!("left alone: the agent had set {then}, but since then its application set {now}")
}

/// Records that process `pid` could not be worked on.
fn process_failed(intent: &Intent, method: Method, pid: u32, why: String, out: &mut Outcome) {
    if intent.selection.found {
        out.skipped.unreachable += 1;
        if out.skipped.unreachable == 1 {
            out.notes.push(why);
        }
    } else {
        out.records.push(ActionRecord { pid: Some(pid), ..failed(intent.kind(), method, why) });
    }
}

fn failed(action: ActionKind, method: Method, why: String) -> ActionRecord {
    ActionRecord {
        action,
        socket: None,
        pid: None,
        fd: None,
        method,
        before: None,
        after: None,
        result: ActionResult::Failed,
        error: Some(why),
        remote: None,
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_speaks_in_numbers() {
        assert_eq!(Skipped::default().to_string(), "");
        let s = Skipped { listeners: 1, udp: 2, ..Default::default() };
        assert_eq!(s.to_string(), "skipped: 1 listener, 2 UDP sockets");
    }

    #[test]
    fn a_selection_filters_by_socket_and_destination() {
        let mut s = Selection::sockets([3, 3, 1], [SocketId(7)]);
        assert_eq!(s.pids, [1, 3]);
        assert!(s.wants(SocketId(7)) && !s.wants(SocketId(8)));
        assert!(s.wants_remote(None));
        s.destinations = vec![DestPrefix::host("10.0.0.1".parse().unwrap(), 443)];
        assert!(s.wants_remote(Some("10.0.0.1:443".parse().unwrap())));
        assert!(!s.wants_remote(Some("10.0.0.1:80".parse().unwrap())) && !s.wants_remote(None));
    }
}
