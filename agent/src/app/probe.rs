//! `agent probe`, with the agent's own kernel programs on its own connections where they can be had: they tell who
//! sent a RST.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::signals;
use crate::attribute::idle_before;
use crate::attribute::origin::{self, Facts};
use crate::cli::ProbeArgs;
use crate::commands;
use crate::model::{Event, EventKind, ResetDirection, ResetOrigin};
use crate::source::cgroup2;
use crate::source::ebpf::{EbpfSource, Loaded, Options};

/// A RST ends a connection before its record is read: the reader may need a moment.
const PATIENCE: Duration = Duration::from_millis(200);
/// Origins remembered; a probe makes far fewer connections.
const MAX: usize = 1_024;
/// Records taken at once.
const AT_ONCE: usize = 1_000;

type Origins = Arc<Mutex<HashMap<u64, ResetOrigin>>>;

pub fn run(args: ProbeArgs) -> Result<u8> {
    let stop = signals::stop_flag()?;
    let origins: Origins = Arc::default();
    let done = Arc::new(AtomicBool::new(false));
    // Without the permission the probe works all the same, and says that it does not know who sent a RST.
    let watcher = watch_own(origins.clone(), done.clone()).ok();
    let known = watcher.is_some();
    let code = commands::probe::run(args, stop, |cookie| known.then(|| origin_of(&origins, cookie)).flatten());
    done.store(true, Ordering::Relaxed);
    if let Some(thread) = watcher {
        let _ = thread.join();
    }
    code
}

fn origin_of(origins: &Origins, cookie: u64) -> Option<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = origins.lock().unwrap_or_else(PoisonError::into_inner).get(&cookie).copied();
        match found {
            Some(ResetOrigin::Peer) => return Some("peer".into()),
            Some(ResetOrigin::Middlebox) => return Some("middlebox".into()),
            Some(ResetOrigin::Local) => return Some("local".into()),
            Some(ResetOrigin::Unknown) => return None,
            None if Instant::now() >= until => return None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Attaches to this process and notes the origin of every RST it receives. Returns once everything is attached.
fn watch_own(origins: Origins, done: Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>> {
    let (ready, attached) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("own-resets".into())
        .spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let me = std::process::id();
                let options = Options {
                    pids: vec![(me, false)],
                    provenance: cgroup2::of_process(me).into_iter().collect(),
                    max_sockets: MAX as u32,
                    ..Options::default()
                };
                let Ok(Loaded::Source(mut source)) = EbpfSource::load(&options) else { return };
                let _ = ready.send(());
                let mut batch = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let waited = tokio::time::timeout(Duration::from_millis(500), source.ready()).await;
                    if matches!(waited, Ok(Err(_))) {
                        return;
                    }
                    source.take(AT_ONCE, &mut batch);
                    for event in batch.drain(..) {
                        note(&origins, &event);
                    }
                }
            });
        })
        .context("cannot start a thread")?;
    attached.recv().context("no kernel programs can be loaded")?;
    Ok(thread)
}

fn note(origins: &Origins, event: &Event) {
    let EventKind::Reset(r) = &event.kind else { return };
    if r.direction != ResetDirection::Received {
        return;
    }
    let Some(id) = r.socket else { return };
    let idle_before = r.idle_before.or_else(|| idle_before(&r.detail));
    let verdict = origin::classify(&Facts { packet: r.packet, state: r.state, idle_before });
    let mut map = origins.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() < MAX {
        map.insert(id.0, verdict.origin);
    }
}
