//! For kernels without pidfd_getfd (before 5.6), and only when asked for: system calls injected into the target.

mod inject;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::time::{Duration, Instant};

use self::inject::Stopped;
use super::lookup::Descriptors;
use super::{Intent, Ledger, LedgerEntry, Outcome, What, failed, permission};
use crate::model::{ActionRecord, ActionResult, Method, OptionValues, SocketId, TcpState};
use crate::source::diag::request::States;
use crate::source::diag::{Diag, DiagSocket, NetNs, Query};

pub(super) fn perform(intent: &Intent, mut ledger: Option<&mut Ledger>) -> Outcome {
    let started = Instant::now();
    let mut out = Outcome::default();
    let mut done = BTreeSet::new();
    let mut longest = Duration::ZERO;
    for pid in intent.selection.pids.iter().copied() {
        let mut pass = Pass { intent, pid, out: &mut out, done: &mut done, ledger: ledger.as_deref_mut(), longest };
        // Whatever happens to the thread that traces: the kernel detaches when it ends.
        let result = std::thread::scope(|scope| {
            scope.spawn(|| pass.process()).join().unwrap_or_else(|_| Err("the tracing thread panicked".into()))
        });
        longest = pass.longest;
        if let Err(why) = result {
            super::process_failed(intent, Method::Ptrace, pid, why, &mut out);
        }
    }
    out.took = started.elapsed();
    if longest > Duration::ZERO {
        out.notes.push(format!("the longest stop of a thread took {}", super::milliseconds(longest)));
    }
    super::finish(intent, &mut out, ledger, &done);
    out
}

struct Pass<'a> {
    intent: &'a Intent,
    pid: u32,
    out: &'a mut Outcome,
    done: &'a mut BTreeSet<SocketId>,
    ledger: Option<&'a mut Ledger>,
    longest: Duration,
}

/// What one stop found and did.
struct Stop {
    before: OptionValues,
    after: OptionValues,
    /// What the socket should have now.
    goal: OptionValues,
}

/// What to do to one socket, once its present values are known.
struct Plan<'a> {
    intent: &'a Intent,
    /// What the undo file says of it.
    entry: Option<LedgerEntry>,
}

impl Plan<'_> {
    fn goal(&self, before: OptionValues) -> OptionValues {
        match (&self.intent.what, self.entry) {
            (What::Set(wanted), _) => wanted.over(before),
            (What::Undo, Some(entry)) if before == entry.after => entry.before,
            // Its application has set it since: not the agent's any more.
            _ => before,
        }
    }
}

impl Pass<'_> {
    fn process(&mut self) -> Result<(), String> {
        let pid = self.pid;
        if let Some(why) = target::refusal(pid) {
            return Err(why);
        }
        let mut sockets = self.sockets()?;
        let files = Descriptors::of(pid).map_err(|e| permission::reach(pid, "list the descriptors", e))?;
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.map_err(|e| reach(pid, &e))?;
        let instruction = target::syscall_instruction(pid, &memory)
            .ok_or_else(|| format!("process {} has no vdso to make system calls from", permission::name(pid)))?;
        for fd in files.numbers.iter().copied() {
            let Some(inode) = files.inode(fd) else {
                self.out.skipped.no_socket += 1;
                continue;
            };
            let Some(socket) = sockets.remove(&inode) else {
                self.out.skipped.other_sockets += 1;
                continue;
            };
            if socket.state == TcpState::Listen {
                self.out.skipped.listeners += 1;
            } else if !self.intent.selection.wants(socket.id)
                || !self.intent.selection.wants_remote(Some(socket.flow.remote))
            {
                self.out.skipped.filtered += 1;
            } else if !self.done.insert(socket.id) {
                self.out.skipped.shared += 1;
            } else {
                let entry = self.ledger.as_ref().and_then(|l| l.get(socket.id)).copied();
                if self.intent.what == What::Undo && entry.is_none() {
                    self.out.skipped.not_ours += 1;
                    continue;
                }
                let plan = Plan { intent: self.intent, entry };
                let record = self.socket(fd, &socket, &memory, instruction, &plan);
                self.out.records.push(record);
            }
        }
        Ok(())
    }

    /// The TCP sockets of the process's namespace, by inode.
    fn sockets(&self) -> Result<BTreeMap<u64, DiagSocket>, String> {
        let dump = || -> io::Result<BTreeMap<u64, DiagSocket>> {
            let mut all = BTreeMap::new();
            let mut diag = Diag::open(&NetNs::of_pid(self.pid)?)?;
            // With tcp_info: only then the kernel tells which ones are subflows of MPTCP.
            diag.dump(&Query { states: States::ALL, info: true, ..Default::default() }, |s| {
                if s.inode != 0 {
                    all.insert(u64::from(s.inode), s);
                }
            })?;
            Ok(all)
        };
        dump().map_err(|e| format!("cannot list the sockets of process {}: {e}", permission::name(self.pid)))
    }

    fn socket(
        &mut self,
        fd: i32,
        socket: &DiagSocket,
        memory: &File,
        instruction: u64,
        plan: &Plan<'_>,
    ) -> ActionRecord {
        let mut record = ActionRecord {
            socket: Some(socket.id),
            pid: Some(self.pid),
            fd: Some(fd),
            remote: Some(socket.flow.remote.to_string()),
            error: None,
            ..failed(self.intent.kind(), Method::Ptrace, String::new())
        };
        if socket.mptcp {
            record.error = Some("MPTCP socket: sock_diag shows only its subflows; use --method pidfd".into());
            return record;
        }
        match self.stop_and_set(fd, socket.id, memory, instruction, plan) {
            Ok(Stop { before, after, goal }) => {
                record.before = Some(before);
                record.after = Some(if self.intent.dry_run { goal } else { after });
                record.result = match () {
                    () if goal == before => ActionResult::Unchanged,
                    () if self.intent.dry_run => ActionResult::WouldApply,
                    () if after == goal => ActionResult::Applied,
                    () => ActionResult::Failed,
                };
                let undone = plan.entry.filter(|_| plan.intent.what == What::Undo);
                if let Some(entry) = undone.filter(|e| before != e.after) {
                    record.note = Some(super::left_alone(&entry, before));
                }
                match (self.ledger.as_deref_mut().filter(|_| !self.intent.dry_run), undone, record.result) {
                    (Some(l), Some(_), ActionResult::Applied | ActionResult::Unchanged) => l.forget(socket.id),
                    (Some(l), None, ActionResult::Applied) => l.note(socket.id, self.pid, before, after),
                    _ => {}
                }
                if record.result == ActionResult::Failed {
                    record.error = Some("the kernel did not take all of the values".into());
                }
            }
            Err(why) => record.error = Some(why),
        }
        record
    }

    /// One short stop per socket.
    fn stop_and_set(
        &mut self,
        fd: i32,
        id: SocketId,
        memory: &File,
        instruction: u64,
        plan: &Plan<'_>,
    ) -> Result<Stop, String> {
        let tid = target::pick(self.pid).ok_or_else(|| permission::gone(self.pid))?;
        let started = Instant::now();
        let mut thread = Stopped::stop(tid, memory, instruction).map_err(|e| reach(self.pid, &e))?;
        let result = set(&mut thread, fd, id, plan);
        drop(thread);
        self.longest = self.longest.max(started.elapsed());
        result
    }
}

fn reach(pid: u32, e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(raw) => permission::reach(pid, "trace a thread", rustix::io::Errno::from_raw_os_error(raw)),
        None => format!("cannot trace a thread of process {}: {e}", permission::name(pid)),
    }
}

const KEEPALIVE: (i32, i32) = (libc::SOL_SOCKET, libc::SO_KEEPALIVE);
const IDLE: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
const INTERVAL: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL);
const COUNT: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_KEEPCNT);
const USER_TIMEOUT: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT);

fn read(thread: &mut Stopped<'_>, fd: i32) -> io::Result<OptionValues> {
    let mut int = |(level, option)| thread.get(fd, level, option, 4).map(|v| v as u32);
    Ok(OptionValues {
        enabled: int(KEEPALIVE)? != 0,
        idle_s: int(IDLE)?,
        interval_s: int(INTERVAL)?,
        count: int(COUNT)?,
        user_timeout_ms: int(USER_TIMEOUT)?,
    })
}

fn set(thread: &mut Stopped<'_>, fd: i32, id: SocketId, plan: &Plan<'_>) -> Result<Stop, String> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |e: io::Error| format!("cannot {what} inside the process: {e}")
    };
    // The other threads run on: the number may mean another socket by now.
    let same = |thread: &mut Stopped<'_>| -> Result<(), String> {
        let cookie = thread.get(fd, libc::SOL_SOCKET, libc::SO_COOKIE, 8).map_err(io("read SO_COOKIE"))?;
        if cookie == id.0 {
            Ok(())
        } else {
            Err(format!("descriptor {fd} became another socket meanwhile; run it again"))
        }
    };
    same(thread)?;
    let before = read(thread, fd).map_err(io("read the options"))?;
    let goal = plan.goal(before);
    if goal == before || plan.intent.dry_run {
        return Ok(Stop { before, after: before, goal });
    }
    let ints = |v: OptionValues| {
        // SO_KEEPALIVE last: it starts a full timer with the times in place.
        [
            (USER_TIMEOUT, v.user_timeout_ms),
            (IDLE, v.idle_s),
            (INTERVAL, v.interval_s),
            (COUNT, v.count),
            (KEEPALIVE, u32::from(v.enabled)),
        ]
    };
    if before.enabled && !goal.enabled {
        // First: changed times then move no running timer.
        thread.set(fd, KEEPALIVE.0, KEEPALIVE.1, 0).map_err(io("set the options"))?;
    }
    for ((what, value), (_, old)) in ints(goal).into_iter().zip(ints(before)) {
        if value != old && !(what == KEEPALIVE && value == 0) {
            thread.set(fd, what.0, what.1, value as i32).map_err(io("set the options"))?;
        }
    }
    let after = read(thread, fd).map_err(io("read the options back"))?;
    same(thread)?;
    Ok(Stop { before, after, goal })
}
