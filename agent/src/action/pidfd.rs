//! The usual method: duplicate a descriptor of the target (`pidfd_getfd`) and call setsockopt on the duplicate. The
//! target neither stops nor notices; a socket belongs to no process, so that setting it here sets it there.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustix::io::Errno;

use super::lookup::{Connecting, Tcp};
use super::options::{self, OptionError, Wanted, values_text};
use super::scan::{Visit, Walk};
use super::{Intent, Ledger, LedgerEntry, Outcome, Skipped, What, failed, stuck};
use crate::model::{ActionRecord, ActionResult, Method, OptionValues, SocketId};

/// Descriptors that a thread takes at a time. One takes about 8 µs, a quarter of it in /proc; a thread costs 100 µs.
const PART: usize = 512;
const MAX_THREADS: usize = 4;

/// Sockets that were handled, by whichever thread and through whichever process.
type Done = Mutex<BTreeSet<SocketId>>;

pub(super) fn perform(intent: &Intent, mut ledger: Option<&mut Ledger>) -> Outcome {
    let started = Instant::now();
    let mut out = Outcome::default();
    let done = Done::default();
    for pid in &intent.selection.pids {
        if let Err(why) = process(intent, *pid, ledger.as_deref(), &done, &mut out) {
            super::process_failed(intent, Method::Pidfd, *pid, why, &mut out);
        }
    }
    out.took = started.elapsed();
    if let Some(ledger) = ledger.as_deref_mut().filter(|_| !intent.dry_run) {
        note_changes(intent, &out.records, ledger);
    }
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    super::finish(intent, &mut out, ledger, &done);
    out
}

/// Works on one process, in parallel if it has very many descriptors. An error ends the walk: what was done stays done
/// and is in `out`.
fn process(intent: &Intent, pid: u32, ledger: Option<&Ledger>, done: &Done, out: &mut Outcome) -> Result<(), String> {
    let walk = Walk::of(pid)?;
    let parts: Vec<&[i32]> = walk.numbers().chunks(PART).collect();
    let next = AtomicUsize::new(0);
    // Whoever is ready takes the next part: the processors may be busy with others, each differently.
    let work = || {
        let mut finished = Vec::new();
        while let Some((nth, numbers)) = take(&next, &parts) {
            let out = Outcome { records: Vec::with_capacity(numbers.len()), ..Default::default() };
            let mut pass = Pass { intent, pid, out, done, ledger, connecting: Connecting::default() };
            let result = walk.part(numbers, &mut pass);
            finished.push((nth, pass.out, result));
        }
        finished
    };
    let mut finished = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)).min(parts.len());
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut finished = work();
        for helper in helpers {
            match helper.join() {
                Ok(more) => finished.extend(more),
                Err(_) => return Err("a working thread panicked".to_owned()),
            }
        }
        Ok(finished)
    })?;
    finished.sort_unstable_by_key(|(nth, ..)| *nth);
    out.records.reserve(finished.iter().map(|(_, part, _)| part.records.len()).sum());
    let mut vanished = 0;
    let mut first_error = None;
    for (_, part, result) in finished {
        out.records.extend(part.records);
        out.skipped += part.skipped;
        match result {
            Ok(n) => vanished += n,
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    first_error.map_or_else(|| walk.end(vanished), Err)
}

fn take<'a>(next: &AtomicUsize, parts: &[&'a [i32]]) -> Option<(usize, &'a [i32])> {
    let nth = next.fetch_add(1, Ordering::Relaxed);
    parts.get(nth).map(|numbers| (nth, *numbers))
}

/// Writes into the undo file what was changed, or put back.
fn note_changes(intent: &Intent, records: &[ActionRecord], ledger: &mut Ledger) {
    for r in records {
        let Some(id) = r.socket else { continue };
        match (&intent.what, r.result) {
            // Put back, or not the agent's any more.
            (What::Undo, ActionResult::Applied | ActionResult::Unchanged) => ledger.forget(id),
            (What::Set(_), ActionResult::Applied) => {
                if let (Some(pid), Some(before), Some(after)) = (r.pid, r.before, r.after) {
                    ledger.note(id, pid, before, after);
                }
            }
            _ => {}
        }
    }
}

struct Pass<'a> {
    intent: &'a Intent,
    pid: u32,
    out: Outcome,
    done: &'a Done,
    ledger: Option<&'a Ledger>,
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
        } else if !self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(tcp.id) {
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
        let entry = self.ledger.and_then(|l| l.get(tcp.id)).copied();
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
            What::Undo => match undo_plan(entry?, before, &mut record) {
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

    fn change(&self, dup: BorrowedFd<'_>, tcp: &Tcp, wanted: &Wanted, before: OptionValues, record: &mut ActionRecord) {
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
            (Ok(()), Ok(after)) if after == goal => record.result = ActionResult::Applied,
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
}

/// What undoing means for a socket that the agent changed; `None`: `record` says why it is left alone.
fn undo_plan(entry: LedgerEntry, now: OptionValues, record: &mut ActionRecord) -> Option<Wanted> {
    if now == entry.after {
        return Some(Wanted::exactly(entry.before));
    }
    record.result = ActionResult::Unchanged;
    record.after = Some(now);
    record.note = Some(super::left_alone(&entry, now));
    None
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
