//! `agent keepalive`: force it on the sockets of a running process, read it back, say what changed; or undo that.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{outcome, select};
use crate::action::{self, Intent, Ledger, Outcome, Selection, Wanted, What};
use crate::cli::{KeepaliveArgs, KeepaliveValues, MethodChoice};
use crate::config;
use crate::model::{ActionResult, Method};

/// From here on it is said where the time went.
const SLOW: Duration = Duration::from_millis(10);

/// Returns the exit code.
pub fn run(args: KeepaliveArgs) -> Result<u8> {
    let started = Instant::now();
    let targets = config::targets(args.target, !args.undo)?;
    let destinations = config::destinations(&args.destination)?;
    // Until the changes are written down for an undo, an interrupt waits.
    let _uninterrupted = super::HoldSignals::new();
    let mut notes = Vec::new();
    let mut ledger = match Ledger::open() {
        Ok(l) => Some(l),
        Err(why) if args.undo => bail!("cannot undo: {why}"),
        Err(_) if args.dry_run => None,
        Err(why) => {
            notes.push(format!("these changes cannot be undone later: {why}"));
            None
        }
    };
    let mut selection: Selection = select::now(&targets, destinations)?;
    if args.undo && targets == config::TargetSpec::default() {
        // Whoever was changed.
        selection.pids = ledger.as_ref().map(Ledger::pids).unwrap_or_default();
        selection.pids.retain(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    if args.undo && ledger.as_ref().is_some_and(Ledger::is_empty) {
        eprintln!("nothing to undo: the agent changed no socket since this machine booted");
        return Ok(0);
    }
    if args.undo && selection.pids.is_empty() {
        eprintln!("nothing to undo: the processes that the agent changed have ended");
        return Ok(0);
    }
    let what = if args.undo { What::Undo } else { What::Set(wanted(args.values)) };
    let intent = Intent { what, selection, method: method(args.method), dry_run: args.dry_run };
    let mut done = action::perform(&intent, ledger.as_mut());
    if done.count(ActionResult::Applied) > 0 {
        done.notes.extend(notes);
    }
    let code = report(&done, args.json, &intent)?;
    if done.took > SLOW {
        // The figure above is what the sockets waited for; this is what the user did.
        eprintln!("{} in all, with the undo file and the output", action::milliseconds(started.elapsed()));
    }
    Ok(code)
}

pub(super) fn wanted(v: KeepaliveValues) -> Wanted {
    Wanted::keepalive(v.idle, v.interval, v.count, v.user_timeout)
}

fn method(choice: MethodChoice) -> Method {
    match choice {
        MethodChoice::Pidfd => Method::Pidfd,
        MethodChoice::Bpf => Method::Bpf,
        MethodChoice::Ptrace => Method::Ptrace,
    }
}

/// Prints what was done; nothing done at all is a failure, except for an undo.
pub(super) fn report(done: &Outcome, json: bool, intent: &Intent) -> Result<u8> {
    match outcome::print(&mut std::io::stdout().lock(), done, json) {
        // The reader (`head`) has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    for line in outcome::summary(done) {
        eprintln!("{line}");
    }
    if done.records.is_empty() {
        if intent.what == What::Undo {
            eprintln!("nothing to undo here");
            return Ok(0);
        }
        eprintln!("no TCP connection of {} matches", super::processes(&intent.selection.pids));
        return Ok(1);
    }
    if done.count(ActionResult::WouldApply) > 0 {
        eprintln!("nothing was changed (--dry-run)");
    }
    Ok(outcome::exit_code(done))
}
