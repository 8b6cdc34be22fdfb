//! Destroying sockets (SOCK_DESTROY through sock_diag): the owner gets ECONNABORTED at once and can retry, instead of
//! waiting for minutes until the kernel gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::lookup::Tcp;
use super::options::OptionError;
use super::scan::{self, Visit};
use super::{Intent, Outcome, Skipped, failed, permission};
use crate::model::{ActionKind, ActionRecord, ActionResult, Method, SocketId};
use crate::source::diag::request::States;
use crate::source::diag::{Diag, DiagSocket, KeptDiags, NetNs, Query};

/// A connection that a target holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    pid: u32,
    fd: i32,
}

pub(super) fn perform(intent: &Intent, diags: &KeptDiags) -> Outcome {
    let started = Instant::now();
    let mut out = Outcome::default();
    // By namespace, as the kernel looks sockets up in the one it is asked in.
    let mut spaces = Spaces::new();
    for pid in intent.selection.pids.iter().copied() {
        if let Err(why) = collect(intent, pid, &mut spaces, &mut out) {
            super::process_failed(intent, Method::SockDiag, pid, why, &mut out);
        }
    }
    let mut done = BTreeSet::new();
    for (netns, held) in spaces.values() {
        let before = done.len();
        let result = diags.with(netns, |diag| destroy_in(intent, diag, held, &mut done, &mut out));
        if let Err(e) = result {
            let why = format!("cannot ask sock_diag in network namespace {}: {}", netns.inode(), reason(&e));
            unreached(intent, held, &why, &mut done, &mut out);
        }
        out.skipped.filtered += held.len() - (done.len() - before).min(held.len());
    }
    out.took = started.elapsed();
    super::finish(intent, &mut out, None, &done);
    out
}

/// Connections by network namespace.
type Spaces = BTreeMap<u32, (NetNs, BTreeMap<SocketId, Held>)>;

struct Collector<'a> {
    intent: &'a Intent,
    pid: u32,
    /// Of the process; a socket may be of another one.
    home: NetNs,
    spaces: &'a mut Spaces,
    out: &'a mut Outcome,
}

/// Notes the connections of `pid` under their network namespaces.
fn collect(intent: &Intent, pid: u32, spaces: &mut Spaces, out: &mut Outcome) -> Result<(), String> {
    let home = NetNs::of_pid(pid).map_err(|e| match e.raw_os_error() {
        Some(raw) => permission::reach(pid, "open the network namespace", rustix::io::Errno::from_raw_os_error(raw)),
        None => format!("cannot open the network namespace of process {pid}: {e}"),
    })?;
    scan::process(pid, &mut Collector { intent, pid, home, spaces, out })
}

impl Visit for Collector<'_> {
    fn skipped(&mut self) -> &mut Skipped {
        &mut self.out.skipped
    }

    fn connection(&mut self, fd: i32, dup: BorrowedFd<'_>, tcp: Tcp) {
        // The destination is looked at later: a connecting socket tells its address only through sock_diag.
        let elsewhere = tcp.mptcp && !self.intent.selection.wants_remote(tcp.remote);
        if !self.intent.selection.wants(tcp.id) || elsewhere {
            self.out.skipped.filtered += 1;
            return;
        }
        if tcp.mptcp {
            let why = "MPTCP socket: sock_diag can destroy its subflows only, of which the application would not hear; \
                       `agent keepalive` ends it when its peer is gone";
            self.out.records.push(ActionRecord {
                socket: Some(tcp.id),
                pid: Some(self.pid),
                fd: Some(fd),
                remote: tcp.remote.map(|r| r.to_string()),
                ..failed(ActionKind::Close, Method::SockDiag, why.into())
            });
            return;
        }
        // Without the right to ask, destroying will fail as well, with the better message.
        let netns = NetNs::of_socket(dup).unwrap_or_else(|_| self.home.clone());
        let (_, held) = self.spaces.entry(netns.inode()).or_insert_with(|| (netns, BTreeMap::new()));
        if held.insert(tcp.id, Held { pid: self.pid, fd }).is_some() {
            self.out.skipped.shared += 1;
        }
    }

    fn broken(&mut self, fd: i32, e: OptionError) {
        let why = format!("cannot read {}: {}", e.option, e.errno);
        let record = failed(ActionKind::Close, Method::SockDiag, why);
        self.out.records.push(ActionRecord { pid: Some(self.pid), fd: Some(fd), ..record });
    }
}

fn destroy_in(
    intent: &Intent,
    diag: &mut Diag,
    held: &BTreeMap<SocketId, Held>,
    done: &mut BTreeSet<SocketId>,
    out: &mut Outcome,
) -> io::Result<()> {
    let mut chosen = Vec::new();
    let query = Query { states: States::connections(), info: false, ..Default::default() };
    diag.dump(&query, |s| {
        if let Some(held) = held.get(&s.id)
            && intent.selection.wants_remote(Some(s.flow.remote))
            && done.insert(s.id)
        {
            chosen.push((s, *held));
        }
    })?;
    for (socket, held) in chosen {
        let record = destroy(intent, diag, &socket, held);
        out.records.push(record);
    }
    Ok(())
}

/// The namespace of these sockets could not be asked: those that were selected one by one are told of one by one, of
/// the others it is not known which have the wanted destination.
fn unreached(
    intent: &Intent,
    held: &BTreeMap<SocketId, Held>,
    why: &str,
    done: &mut BTreeSet<SocketId>,
    out: &mut Outcome,
) {
    let record = failed(ActionKind::Close, Method::SockDiag, why.to_owned());
    if intent.selection.sockets.is_none() {
        out.records.push(record);
        return;
    }
    for (id, held) in held {
        if done.insert(*id) {
            let (pid, fd) = (Some(held.pid), Some(held.fd));
            out.records.push(ActionRecord { socket: Some(*id), pid, fd, ..record.clone() });
        }
    }
}

fn destroy(intent: &Intent, diag: &mut Diag, s: &DiagSocket, held: Held) -> ActionRecord {
    let mut record = ActionRecord {
        socket: Some(s.id),
        pid: Some(held.pid),
        fd: Some(held.fd),
        remote: Some(s.flow.remote.to_string()),
        result: ActionResult::WouldApply,
        error: None,
        note: (s.send_queue > 0).then(|| format!("{} unacknowledged bytes are lost", s.send_queue)),
        ..failed(ActionKind::Close, Method::SockDiag, String::new())
    };
    if intent.dry_run {
        return record;
    }
    match diag.destroy(&s.flow, s.interface, s.id) {
        Ok(true) => record.result = ActionResult::Applied,
        Ok(false) => {
            record.result = ActionResult::Unchanged;
            record.note = Some("it was closed meanwhile".into());
        }
        Err(e) => {
            record.result = ActionResult::Failed;
            record.note = None;
            record.error = Some(format!("cannot destroy the socket: {}", reason(&e)));
        }
    }
    record
}

fn reason(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "permission denied; run with sudo or grant CAP_NET_ADMIN (and CAP_SYS_ADMIN for another network namespace)"
                .into()
        }
        Some(libc::EOPNOTSUPP) => {
            "this kernel was built without CONFIG_INET_DIAG_DESTROY; `agent keepalive --user-timeout 5s` ends a stuck \
             socket without it"
                .into()
        }
        _ => e.to_string(),
    }
}
