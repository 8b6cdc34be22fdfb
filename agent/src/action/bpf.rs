//! Thousands of sockets in one pass: `iter/task_file` tells whose sockets they are, `iter/tcp` sets their options
//! inside the kernel, once per network namespace. No descriptor is duplicated, the target is not touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use agent_common::{FileRow, IPPROTO_MPTCP, SetRow, TcpRow, guard_error};

use super::options::{TcpLook, Wanted};
use super::{Intent, Ledger, LedgerEntry, Outcome, What, failed, stuck};
use crate::model::{ActionKind, ActionRecord, ActionResult, Method, OptionValues, SocketId, TcpState, canonical};
use crate::source::diag::request::States;
use crate::source::diag::{Diag, NetNs, Query};
use crate::source::ebpf::iter::{Iterators, MAX_SET};

/// A socket to be changed.
struct Chosen {
    file: FileRow,
    /// What the undo file says of it.
    entry: Option<LedgerEntry>,
}

pub(super) fn perform(intent: &Intent, mut ledger: Option<&mut Ledger>) -> Outcome {
    let mut out = Outcome::default();
    let mut done = BTreeSet::new();
    let loading = Instant::now();
    let result = Iterators::load().and_then(|mut i| i.prepare_set().map(|()| i)).and_then(|mut iterators| {
        out.notes.push(format!("the kernel programs were loaded in {} before", super::milliseconds(loading.elapsed())));
        let started = Instant::now();
        let queues = run(intent, &mut iterators, ledger.as_deref_mut(), &mut out, &mut done)?;
        if queues && intent.kind() != ActionKind::Undo {
            stuck_notes(&mut out, intent);
        }
        out.took = started.elapsed();
        Ok(())
    });
    if let Err(e) = result {
        let why = format!("{e:#}; `--method pidfd` needs no kernel program");
        out.records.push(failed(intent.kind(), Method::Bpf, why));
    }
    super::finish(intent, &mut out, ledger, &done);
    out
}

/// Whether some of the sockets have something in their send queues, of which keepalive may be no cure.
fn run(
    intent: &Intent,
    iterators: &mut Iterators,
    mut ledger: Option<&mut Ledger>,
    out: &mut Outcome,
    done: &mut BTreeSet<SocketId>,
) -> anyhow::Result<bool> {
    let mut queues = false;
    let files = iterators.files_of(&intent.selection.pids)?;
    let mut spaces: BTreeMap<u32, Vec<Chosen>> = BTreeMap::new();
    choose(intent, &files, ledger.as_deref(), out, done, &mut spaces);
    let known = namespaces(intent, spaces.keys().copied());
    for (inode, chosen) in spaces {
        let Some(netns) = known.get(&inode) else {
            for c in &chosen {
                let why = format!("no process is left in its network namespace ({inode}); use --method pidfd");
                out.records.push(ActionRecord { error: Some(why), ..record(intent, &c.file) });
            }
            continue;
        };
        for part in chosen.chunks(MAX_SET) {
            let asked: Vec<(SocketId, SetRow)> =
                part.iter().map(|c| (SocketId(c.file.cookie), request(intent, c.entry))).collect();
            let rows = iterators.set(netns, &asked)?;
            queues |= rows.iter().any(|r| r.queued_bytes > 0);
            out.records.reserve(part.len());
            let rows: HashMap<u64, &TcpRow> = rows.iter().map(|r| (r.cookie, r)).collect();
            for c in part {
                let record = result(intent, c, rows.get(&c.file.cookie).copied(), ledger.as_deref_mut());
                out.records.push(record);
            }
        }
    }
    Ok(queues)
}

/// Which of all sockets on the machine are meant.
fn choose(
    intent: &Intent,
    files: &[FileRow],
    ledger: Option<&Ledger>,
    out: &mut Outcome,
    done: &mut BTreeSet<SocketId>,
    spaces: &mut BTreeMap<u32, Vec<Chosen>>,
) {
    let pids: BTreeSet<u32> = intent.selection.pids.iter().copied().collect();
    for file in files.iter().filter(|f| pids.contains(&f.tgid)) {
        let id = SocketId(file.cookie);
        match TcpState::from_kernel(file.state) {
            Some(TcpState::Listen) => {
                out.skipped.listeners += 1;
                continue;
            }
            Some(TcpState::Close | TcpState::TimeWait) => {
                out.skipped.unconnected += 1;
                continue;
            }
            _ => {}
        }
        if !intent.selection.wants(id) || !intent.selection.wants_remote(Some(remote(file))) {
            out.skipped.filtered += 1;
            continue;
        }
        if !done.insert(id) {
            out.skipped.shared += 1;
            continue;
        }
        let entry = ledger.and_then(|l| l.get(id)).copied();
        if intent.what == What::Undo && entry.is_none() {
            out.skipped.not_ours += 1;
        } else if file.protocol == IPPROTO_MPTCP {
            let why = "MPTCP socket: the iterator sees only its subflows; use --method pidfd".to_owned();
            out.records.push(ActionRecord { error: Some(why), ..record(intent, file) });
        } else {
            spaces.entry(file.netns).or_default().push(Chosen { file: *file, entry });
        }
    }
}

/// Open handles of the wanted namespaces: those of the targets, else of whatever process is in one.
fn namespaces(intent: &Intent, wanted: impl Iterator<Item = u32>) -> BTreeMap<u32, NetNs> {
    let mut missing: BTreeSet<u32> = wanted.collect();
    let mut found = BTreeMap::new();
    let mut take = |netns: std::io::Result<NetNs>, missing: &mut BTreeSet<u32>| {
        if let Ok(n) = netns
            && missing.remove(&n.inode())
        {
            found.insert(n.inode(), n);
        }
    };
    take(NetNs::own(), &mut missing);
    for pid in &intent.selection.pids {
        if missing.is_empty() {
            break;
        }
        take(NetNs::of_pid(*pid), &mut missing);
    }
    if !missing.is_empty()
        && let Ok(proc) = std::fs::read_dir("/proc")
    {
        for pid in proc.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()) {
            take(NetNs::of_pid(pid), &mut missing);
        }
    }
    found
}

fn remote(file: &FileRow) -> SocketAddr {
    SocketAddr::new(canonical(IpAddr::V6(Ipv6Addr::from(file.daddr))), file.dport)
}

fn record(intent: &Intent, file: &FileRow) -> ActionRecord {
    ActionRecord {
        socket: Some(SocketId(file.cookie)),
        pid: Some(file.tgid),
        fd: i32::try_from(file.fd).ok(),
        remote: Some(remote(file).to_string()),
        error: None,
        ..failed(intent.kind(), Method::Bpf, String::new())
    }
}

/// What the kernel side shall do.
fn request(intent: &Intent, entry: Option<LedgerEntry>) -> SetRow {
    const LEAVE: SetRow = SetRow {
        keepalive: -1,
        idle_s: -1,
        interval_s: -1,
        count: -1,
        user_timeout_ms: -1,
        if_keepalive: -1,
        if_idle_s: -1,
        if_interval_s: -1,
        if_count: -1,
        if_user_timeout_ms: -1,
        done: 0,
        error: 0,
    };
    let int = |v: u32| i32::try_from(v).unwrap_or(i32::MAX);
    let mut row = LEAVE;
    let wanted = match (&intent.what, entry) {
        _ if intent.dry_run => return LEAVE,
        (What::Set(w), _) => *w,
        (What::Undo, Some(e)) => {
            row.if_keepalive = i32::from(e.after.enabled);
            row.if_idle_s = int(e.after.idle_s);
            row.if_interval_s = int(e.after.interval_s);
            row.if_count = int(e.after.count);
            row.if_user_timeout_ms = int(e.after.user_timeout_ms);
            Wanted::exactly(e.before)
        }
        (What::Undo, None) | (What::Close, _) => return LEAVE,
    };
    if let Some(k) = wanted.keepalive {
        row.keepalive = i32::from(k.enabled);
        row.idle_s = int(k.idle_s);
        row.interval_s = int(k.interval_s);
        row.count = int(k.count);
    }
    row.user_timeout_ms = wanted.user_timeout_ms.map_or(-1, int);
    row
}

pub(super) fn values(
    keepalive: i32,
    idle_s: i32,
    interval_s: i32,
    count: i32,
    user_timeout_ms: i32,
) -> Option<OptionValues> {
    Some(OptionValues {
        enabled: u32::try_from(keepalive).ok()? != 0,
        idle_s: u32::try_from(idle_s).ok()?,
        interval_s: u32::try_from(interval_s).ok()?,
        count: u32::try_from(count).ok()?,
        user_timeout_ms: u32::try_from(user_timeout_ms).ok()?,
    })
}

fn result(intent: &Intent, chosen: &Chosen, row: Option<&TcpRow>, ledger: Option<&mut Ledger>) -> ActionRecord {
    let mut r = record(intent, &chosen.file);
    let id = SocketId(chosen.file.cookie);
    let Some(row) = row else {
        r.result = ActionResult::Unchanged;
        r.note = Some("it was closed meanwhile".into());
        return r;
    };
    let before = values(row.keepalive, row.idle_s, row.interval_s, row.count, row.user_timeout_ms);
    let Some(before) = before else {
        r.error = Some("this kernel's iterator cannot read the options (it can from 6.1); use --method pidfd".into());
        return r;
    };
    r.before = Some(before);
    let wanted = match (&intent.what, chosen.entry) {
        (What::Undo, Some(e)) if before == e.after => Wanted::exactly(e.before),
        (What::Undo, Some(e)) => {
            r.result = ActionResult::Unchanged;
            r.after = Some(before);
            r.note = Some(super::left_alone(&e, before));
            if let Some(l) = ledger.filter(|_| !intent.dry_run) {
                l.forget(id);
            }
            return r;
        }
        (What::Set(w), _) => *w,
        _ => Wanted::default(),
    };
    let goal = wanted.over(before);
    if goal == before || intent.dry_run {
        r.after = Some(goal);
        r.result = if goal == before { ActionResult::Unchanged } else { ActionResult::WouldApply };
        return r;
    }
    r.after =
        values(row.after_keepalive, row.after_idle_s, row.after_interval_s, row.after_count, row.after_user_timeout_ms);
    if r.after == Some(goal) {
        r.result = ActionResult::Applied;
    } else {
        r.error = Some(format!("the kernel did not take {}", refused(row.error)));
    }
    // Whatever was changed can be undone, also the half.
    if let (Some(l), Some(after)) = (ledger, r.after) {
        match intent.what {
            What::Undo if after == goal => l.forget(id),
            What::Undo => {}
            _ => l.note(id, chosen.file.tgid, before, after),
        }
    }
    r
}

pub(super) fn refused(bits: u32) -> String {
    let names = [
        (guard_error::KEEPIDLE, "TCP_KEEPIDLE"),
        (guard_error::KEEPINTVL, "TCP_KEEPINTVL"),
        (guard_error::KEEPCNT, "TCP_KEEPCNT"),
        (guard_error::USER_TIMEOUT, "TCP_USER_TIMEOUT"),
        (guard_error::KEEPALIVE, "SO_KEEPALIVE"),
    ];
    let list: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, n)| *n).collect();
    if list.is_empty() { "all of the values".into() } else { list.join(", ") }
}

/// What keepalive cannot do, from one sock_diag dump per namespace.
fn stuck_notes(out: &mut Outcome, intent: &Intent) {
    let mut looks: HashMap<SocketId, TcpLook> = HashMap::new();
    let mut seen = BTreeSet::new();
    for pid in &intent.selection.pids {
        let Ok(netns) = NetNs::of_pid(*pid) else { continue };
        if !seen.insert(netns.inode()) {
            continue;
        }
        let Ok(mut diag) = Diag::open(&netns) else { continue };
        // Without the dump the notes are missing, nothing else.
        let _ = diag.dump(&Query { states: States::connections(), ..Default::default() }, |s| {
            if s.send_queue > 0 {
                looks.insert(s.id, TcpLook::from_diag(&s));
            }
        });
    }
    for r in &mut out.records {
        let (Some(look), Some(now)) = (r.socket.and_then(|id| looks.get(&id)), r.after.or(r.before)) else { continue };
        if r.note.is_none() {
            r.note = stuck::note(look, now.user_timeout_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Selection;
    use crate::action::options::values_text;

    fn intent(what: What) -> Intent {
        Intent {
            what,
            selection: Selection { pids: vec![1], ..Default::default() },
            method: Method::Bpf,
            dry_run: false,
        }
    }

    fn file(cookie: u64, tgid: u32, state: u8) -> FileRow {
        let daddr = crate::model::mapped("10.0.0.1".parse().unwrap());
        FileRow { cookie, tgid, state, daddr, dport: 443, netns: 5, protocol: 6, ..Default::default() }
    }

    #[test]
    fn each_socket_of_the_targets_is_chosen_once() {
        let files = [file(1, 1, 1), file(1, 1, 1), file(2, 1, 10), file(3, 1, 7), file(4, 2, 1)];
        let (mut out, mut done, mut spaces) = (Outcome::default(), BTreeSet::new(), BTreeMap::new());
        let i = intent(What::Set(Wanted::keepalive(30, 10, 3, None)));
        choose(&i, &files, None, &mut out, &mut done, &mut spaces);
        assert_eq!(spaces[&5].len(), 1);
        assert_eq!((out.skipped.listeners, out.skipped.unconnected, out.skipped.shared), (1, 1, 1));
    }

    #[test]
    fn a_row_becomes_a_record() {
        let i = intent(What::Set(Wanted::keepalive(30, 10, 3, None)));
        let chosen = Chosen { file: file(1, 1, 1), entry: None };
        let mut row = TcpRow {
            cookie: 1,
            keepalive: 0,
            idle_s: 7200,
            interval_s: 75,
            count: 9,
            changed: 1,
            after_keepalive: 1,
            after_idle_s: 30,
            after_interval_s: 10,
            after_count: 3,
            ..Default::default()
        };
        let r = result(&i, &chosen, Some(&row), None);
        assert_eq!((r.result, r.after.map(values_text)), (ActionResult::Applied, Some("30s/10s/3".into())));
        row.after_keepalive = 0;
        row.error = guard_error::KEEPALIVE;
        assert!(result(&i, &chosen, Some(&row), None).error.unwrap().contains("SO_KEEPALIVE"));
        row.keepalive = -1;
        assert!(result(&i, &chosen, Some(&row), None).error.unwrap().contains("pidfd"));
        assert_eq!(result(&i, &chosen, None, None).result, ActionResult::Unchanged);
    }

    #[test]
    fn a_dry_run_asks_for_nothing() {
        let mut i = intent(What::Set(Wanted::keepalive(30, 10, 3, None)));
        assert_eq!(request(&i, None).idle_s, 30);
        assert_eq!(request(&i, None).user_timeout_ms, -1);
        i.dry_run = true;
        assert_eq!(request(&i, None).idle_s, -1);
    }
}
