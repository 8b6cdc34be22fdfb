//! The usual method: duplicate a descriptor of the target (`pidfd_getfd`) and call setsockopt on the duplicate. The
//! target neither stops nor notices; a socket belongs to no process, so that setting it here sets it there.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::io::Errno;

use super::lookup::{Connecting, Tcp};
use super::options::{self, OptionError, Wanted, values_text};
use super::scan::{self, Visit};
use super::{Intent, Ledger, LedgerEntry, Outcome, Skipped, What, failed, stuck};
use crate::model::{ActionRecord, ActionResult, Method, OptionValues, SocketId};

pub(super) fn perform(intent: &Intent, mut ledger: Option<&mut Ledger>) -> Outcome {
    let started = Instant::now();
    let mut out = Outcome::default();
    let mut done = BTreeSet::new();
    for pid in &intent.selection.pids {
        let mut pass = Pass {
            intent,
            pid: *pid,
            out: &mut out,
            done: &mut done,
            ledger: ledger.as_deref_mut(),
            connecting: Connecting::default(),
        };
        if let Err(why) = scan::process(*pid, &mut pass) {
            super::process_failed(intent, Method::Pidfd, *pid, why, &mut out);
        }
    }
    out.took = started.elapsed();
    super::finish(intent, &mut out, ledger, &done);
    out
}

struct Pass<'a> {
    intent: &'a Intent,
    pid: u32,
    out: &'a mut Outcome,
    /// Sockets that were handled, in this process or one before.
    done: &'a mut BTreeSet<SocketId>,
    ledger: Option<&'a mut Ledger>,
    connecting: Connecting,
}

impl Visit for Pass<'_> {
    fn skipped(&mut self) -> &mut Skipped {
        &mut self.out.skipped
    }

    fn connection(&mut self, fd: i32, dup: BorrowedFd<'_>, mut tcp: Tcp) {
        if tcp.remote.is_none() {
            tcp.remote = self.connecting.remote(tcp.id, dup, self.pid);
        }
        if !self.intent.selection.wants(tcp.id) || !self.intent.selection.wants_remote(tcp.remote) {
            self.out.skipped.filtered += 1;
        } else if !self.done.insert(tcp.id) {
            self.out.skipped.shared += 1;
        } else {
            let record = self.socket(fd, dup, &tcp);
            self.out.records.extend(record);
        }
    }

    fn broken(&mut self, fd: i32, e: OptionError) {
        let why = format!("cannot read {}: {}", e.option, e.errno);
        let record = failed(self.intent.kind(), Method::Pidfd, why);
        self.out.records.push(ActionRecord { pid: Some(self.pid), fd: Some(fd), ..record });
    }
}

impl Pass<'_> {
    /// `None`: nothing to say of it.
    fn socket(&mut self, fd: i32, dup: BorrowedFd<'_>, tcp: &Tcp) -> Option<ActionRecord> {
        let entry = self.ledger.as_deref().and_then(|l| l.get(tcp.id)).copied();
        if self.intent.what == What::Undo && entry.is_none() {
            self.out.skipped.not_ours += 1;
            return None;
        }
        let mut record = ActionRecord {
            action: self.intent.kind(),
            socket: Some(tcp.id),
            pid: Some(self.pid),
            fd: Some(fd),
            method: Method::Pidfd,
            before: None,
            after: None,
            result: ActionResult::Failed,
            error: None,
            remote: tcp.remote.map(|r| r.to_string()),
            note: None,
        };
        let before = match options::read(dup) {
            Ok(v) => v,
            Err(e) => {
                record.error = Some(option_error(e, tcp.mptcp));
                return Some(record);
            }
        };
        record.before = Some(before);
        let wanted = match self.intent.what {
            What::Set(w) => w,
            What::Undo => match self.undo_plan(tcp.id, entry?, before, &mut record) {
                Some(w) => w,
                None => return Some(record),
            },
            What::Close => return None,
        };
        self.change(dup, tcp, &wanted, before, &mut record);
        if self.intent.kind() != crate::model::ActionKind::Undo {
            record.note = record.after.or(record.before).and_then(|v| note(tcp, v));
        }
        Some(record)
    }

    /// What undoing means for this socket; `None`: `record` says why it is left alone.
    fn undo_plan(
        &mut self,
        id: SocketId,
        entry: LedgerEntry,
        now: OptionValues,
        record: &mut ActionRecord,
    ) -> Option<Wanted> {
        if now == entry.after {
            return Some(Wanted::exactly(entry.before));
        }
        record.result = ActionResult::Unchanged;
        record.after = Some(now);
        record.note = Some(super::left_alone(&entry, now));
        if !self.intent.dry_run
            && let Some(l) = self.ledger.as_deref_mut()
        {
            l.forget(id);
        }
        None
    }

    fn change(
        &mut self,
        dup: BorrowedFd<'_>,
        tcp: &Tcp,
        wanted: &Wanted,
        before: OptionValues,
        record: &mut ActionRecord,
    ) {
        let goal = wanted.over(before);
        if goal == before || self.intent.dry_run {
            record.after = Some(goal);
            record.result = if goal == before { ActionResult::Unchanged } else { ActionResult::WouldApply };
            return;
        }
        let set = options::set(dup, wanted, before);
        let after = options::read_back(dup, wanted, before);
        record.after = after.ok();
        match (set, after) {
            (Ok(()), Ok(after)) if after == goal => {
                record.result = ActionResult::Applied;
                self.note_change(tcp.id, before, after);
            }
            (Ok(()), Ok(after)) => {
                record.error = Some(format!(
                    "the kernel took the values but reads back {}: somebody else set it at the same moment",
                    values_text(after)
                ));
            }
            (Ok(()), Err(e)) => record.error = Some(option_error(e, tcp.mptcp)),
            (Err(e), after) => {
                record.error = Some(option_error(e, tcp.mptcp));
                // All or nothing: a socket with half of the options would behave like neither.
                if let Ok(now) = after
                    && now != before
                    && options::set(dup, &Wanted::exactly(before), now).is_ok()
                {
                    record.after = Some(before);
                }
            }
        }
    }

    fn note_change(&mut self, id: SocketId, before: OptionValues, after: OptionValues) {
        if let Some(l) = self.ledger.as_deref_mut() {
            match self.intent.what {
                What::Undo => l.forget(id),
                _ => l.note(id, self.pid, before, after),
            }
        }
    }
}

fn option_error(e: OptionError, mptcp: bool) -> String {
    let verb = if e.setting { "set" } else { "read" };
    match e.errno {
        Errno::OPNOTSUPP | Errno::NOPROTOOPT if mptcp => format!(
            "MPTCP socket: this kernel does not let {} be {verb} on it; its subflows keep their values",
            e.option
        ),
        errno => format!("cannot {verb} {}: {errno}", e.option),
    }
}

/// What keepalive cannot do for this socket, if so.
fn note(tcp: &Tcp, now: OptionValues) -> Option<String> {
    stuck::note(&tcp.look?, now.user_timeout_ms)
}
