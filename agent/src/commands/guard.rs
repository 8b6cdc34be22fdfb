//! `agent guard`: keepalive on sockets that are open and on every new one, until stopped.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use super::select::{self, Selected};
use super::{keepalive, outcome};
use crate::action::options::values_text;
use crate::action::{self, Intent, Ledger, What, guard};
use crate::attribute::{TargetSpec, names, targets};
use crate::cli::GuardArgs;
use crate::config;
use crate::model::{ActionRecord, ActionResult, Method, Mono, WallClock};
use crate::source::ebpf::guard::{Guard, Spec};
use crate::view::text::{duration, plural, safe};

/// Rows taken from the ring before other work gets its turn.
const DRAIN: usize = 1_000;

/// Returns the exit code.
pub fn run(args: GuardArgs) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    runtime.block_on(watch(args))
}

async fn watch(args: GuardArgs) -> Result<u8> {
    let targets = config::targets(args.target, true)?;
    let destinations = config::destinations(&args.destination)?;
    let wanted = keepalive::wanted(args.values);
    let on = |kind| signal(kind).context("cannot listen for signals");
    let (mut int, mut term, mut hup) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?);
    let Selected { mut selection, mut names, cgroup } = select::select(&targets, destinations).await?;
    // Numbers and names are meant within the cgroup: the programs are attached there, which is half of it.
    let every = targets.all || (cgroup.is_some() && targets.pids.is_empty() && targets.comms.is_empty());
    let meant = if every { BTreeSet::new() } else { targets::discover(&targets, None, &BTreeSet::new()) };
    if let Some(dir) = cgroup.as_deref().filter(|_| !every) {
        selection.pids = targets::discover(&TargetSpec::default(), Some(dir), &BTreeSet::new())
            .intersection(&meant)
            .copied()
            .collect();
    }

    // First the new ones, then those that are open: none slips through between.
    let spec = Spec {
        idle_s: args.values.idle,
        interval_s: args.values.interval,
        count: args.values.count,
        user_timeout_ms: wanted.user_timeout_ms.unwrap_or(0),
        all: every,
        pids: named(&targets, &meant),
        tree: targets.tree,
        comms: targets.comms.clone(),
        cgroup,
        destinations: (!names.is_empty()).then(|| names.prefixes()),
    };
    let attached = Guard::attach(&spec)?;
    let mut ending = Ending::of(&targets)?;
    let mut report = Report { json: args.json, seq: 0, clock: WallClock::read(), notes: attached.limits.clone() };
    let existing = if selection.pids.is_empty() {
        action::Outcome::default()
    } else {
        let intent = Intent { what: What::Set(wanted), selection, method: Method::Pidfd, dry_run: false };
        with_ledger(|ledger| action::perform(&intent, ledger), &mut report.notes)
    };
    for record in &existing.records {
        report.record(record)?;
    }
    report.ready(&existing, &spec)?;

    // SAFETY: the guard owns the ring whose descriptor it names, for as long as it lives, and nothing replaces it.
    let mut ring = unsafe { AsyncFd::register_with_interest(attached, Interest::READABLE) }
        .context("cannot wait for the guard's ring")?;
    let mut new: Vec<ActionRecord> = Vec::new();
    let started = Instant::now();
    let mut resolve = tokio::time::interval_at(tokio::time::Instant::now() + names::REFRESH, names::REFRESH);
    let until = args.duration.map(|d| tokio::time::Instant::now() + d);
    loop {
        tokio::select! {
            ready = ring.readable_mut() => {
                let mut ready = ready.context("cannot wait for the guard's ring")?;
                let mut n = 0;
                while n < DRAIN && let Some(row) = ready.get_inner_mut().take() {
                    let record = guard::record(&row, &wanted);
                    report.record(&record)?;
                    new.push(record);
                    n += 1;
                }
                if n < DRAIN {
                    ready.clear_ready();
                }
                if new.len() >= DRAIN {
                    note(&mut new, &mut report.notes);
                }
            }
            _ = resolve.tick(), if names.has_names() => {
                let answers = names.lookup().await;
                if names.apply(answers, Mono::now()) {
                    ring.get_mut().set_destinations(&names.prefixes())?;
                }
            }
            () = ending.targets_gone() => break,
            _ = int.recv() => break,
            _ = term.recv() => break,
            _ = hup.recv() => break,
            () = sleep_until(until) => break,
        }
    }
    let counts = ring.get_ref().counts()?;
    drop(ring);
    note(&mut new, &mut report.notes);
    report.end(counts.guarded, counts.untold, started.elapsed());
    Ok(u8::from(existing.count(ActionResult::Failed) > 0))
}

/// The processes that the kernel shall know by number: those given, with their present children.
fn named(targets: &TargetSpec, found: &BTreeSet<u32>) -> Vec<u32> {
    // Those found by name alone are recognised by name, with the later ones.
    if targets.pids.is_empty() && !targets.tree { Vec::new() } else { found.iter().copied().collect() }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(t) => tokio::time::sleep_until(t).await,
        None => std::future::pending().await,
    }
}

/// Runs `work` with the undo file; without one the work is done all the same, and said.
fn with_ledger<T>(work: impl FnOnce(Option<&mut Ledger>) -> T, notes: &mut Vec<String>) -> T {
    match Ledger::open() {
        Ok(mut ledger) => work(Some(&mut ledger)),
        Err(why) => {
            let text = format!("these changes cannot be undone later: {why}");
            if !notes.contains(&text) {
                notes.push(text);
            }
            work(None)
        }
    }
}

/// Writes new sockets into the undo file.
fn note(records: &mut Vec<ActionRecord>, notes: &mut Vec<String>) {
    let done = std::mem::take(records);
    if done.is_empty() {
        return;
    }
    let failed = with_ledger(
        |ledger| {
            let ledger = ledger?;
            for r in done.iter().filter(|r| r.result == ActionResult::Applied) {
                if let (Some(id), Some(pid), Some(before), Some(after)) = (r.socket, r.pid, r.before, r.after) {
                    ledger.note(id, pid, before, after);
                }
            }
            ledger.save().err()
        },
        notes,
    );
    notes.extend(failed);
}

/// Ends the guard when every process it was given has ended. Only where nothing else can join.
struct Ending {
    left: Vec<AsyncFd<OwnedFd>>,
    open_ended: bool,
}

impl Ending {
    fn of(targets: &TargetSpec) -> Result<Self> {
        let mut left = Vec::new();
        if !targets.is_open_ended() {
            for pid in &targets.pids {
                let raw = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw);
                let Some(raw) = raw else { continue };
                // Without pidfds (before 5.3) the guard runs until it is stopped.
                match rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) {
                    // SAFETY: an OwnedFd stays open and the same until it is dropped.
                    Ok(fd) => left.push(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?),
                    Err(rustix::io::Errno::SRCH) => {}
                    Err(_) => return Ok(Self { left: Vec::new(), open_ended: true }),
                }
            }
        }
        Ok(Self { left, open_ended: targets.is_open_ended() })
    }

    /// Cancel-safe: a process that has ended stays ended.
    async fn targets_gone(&mut self) {
        if self.open_ended {
            std::future::pending::<()>().await;
        }
        while let Some(next) = self.left.last() {
            // An error would come again at once: then the process counts as ended.
            let _ = next.readable().await;
            self.left.pop();
        }
    }
}

struct Report {
    json: bool,
    seq: u64,
    clock: WallClock,
    notes: Vec<String>,
}

impl Report {
    fn record(&mut self, r: &ActionRecord) -> Result<()> {
        let mut out = io::stdout().lock();
        let done = if self.json {
            let line = outcome::line(&mut out, r, self.seq, &self.clock);
            self.seq += 1;
            line
        } else if r.socket.is_none() {
            writeln!(io::stderr(), "{}", safe(r.error.as_deref().unwrap_or_default()))
        } else {
            let at = self.clock.local_time(Mono::now());
            let values = |v: Option<crate::model::OptionValues>| v.map_or("?".to_owned(), values_text);
            let pid = r.pid.map_or("?".to_owned(), |p| p.to_string());
            let remote = r.remote.as_deref().unwrap_or("?");
            let (before, after) = (values(r.before), values(r.after));
            let result = outcome::result_text(r.result);
            let why = r.error.as_ref().or(r.note.as_ref()).map_or(String::new(), |w| format!(" ({})", safe(w)));
            writeln!(out, "{at} {pid:>7}  {remote}  {before} → {after}  {result}{why}").and_then(|()| out.flush())
        };
        done.context("cannot write what was guarded")
    }

    fn ready(&mut self, existing: &action::Outcome, spec: &Spec) -> Result<()> {
        let inside = spec.cgroup.as_ref().map_or(String::new(), |dir| format!(" in {}", dir.display()));
        let whose = if spec.all {
            if inside.is_empty() { "all processes".into() } else { "processes".into() }
        } else {
            let children = if spec.tree { " and their children" } else { "" };
            let mut parts = Vec::new();
            if !spec.pids.is_empty() {
                parts.push(super::processes(&spec.pids) + children);
            }
            parts.extend(spec.comms.iter().map(|c| format!("processes named {}{children}", safe(c))));
            parts.join(", ")
        };
        for line in outcome::summary(existing) {
            eprintln!("{line}");
        }
        for note in self.notes.drain(..) {
            eprintln!("{note}");
        }
        eprintln!("guarding new connections of {whose}{inside}; stop with Ctrl-C");
        io::stderr().flush().context("cannot write")
    }

    fn end(&mut self, guarded: u64, untold: u64, for_: Duration) {
        for note in self.notes.drain(..) {
            eprintln!("{note}");
        }
        let lost = if untold > 0 { format!(", {untold} of them not shown one by one") } else { String::new() };
        let n = usize::try_from(guarded).unwrap_or(usize::MAX);
        eprintln!(
            "guarded {}{lost} in {}; nothing is left attached, what was set stays set",
            plural(n, "new connection"),
            duration(for_)
        );
    }
}
