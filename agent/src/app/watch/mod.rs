//! A live watch: sets the parts up in the order that loses nothing, runs the loop, ends it in order.

mod feed;
mod live;
mod outlets;
mod screen;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::app::child::Child;
use crate::app::privileges::{self, Work};
use crate::app::signals::{Ended, Signals};
use crate::attribute::{Attribution, Names};
use crate::config::{Output, WatchConfig};
use crate::model::{Event, EventKind, Mono, Session, Targets, WallClock};
use crate::source::diag::KeptDiags;
use crate::view::jsonl::{RecordError, Recorder};

use feed::Feed;
use live::Live;
use outlets::Outlets;
use screen::Screen;

/// sysctls that decide how long a hang lasts or whether keepalive helps, are told by `attribute`.
const DNS_REFRESH: Duration = crate::attribute::names::REFRESH;

pub fn run(config: WatchConfig) -> Result<u8> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    let code = runtime.block_on(watch(config));
    // A resolver or an action that still runs must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn watch(mut config: WatchConfig) -> Result<u8> {
    // Signals first: from here on nothing is left attached or half written.
    let mut signals = Signals::listen()?;
    let clock = WallClock::read();
    let started = Mono::now();
    crate::attribute::targets::check(&config.targets).map_err(anyhow::Error::msg)?;
    let mut outlets = Outlets::open(&config)?;
    let mut names = Names::new(std::mem::take(&mut config.destinations));
    if names.has_names() {
        tokio::select! {
            answers = names.lookup() => names.apply_first(answers, started).map_err(anyhow::Error::msg)?,
            _ = signals.next() => bail!("interrupted"),
        }
    }
    let mut child = None;
    if !config.command.is_empty() {
        let prepared = Child::prepare(&config.command)?;
        config.targets.pids.push(prepared.pid);
        child = Some(prepared);
    }
    // Hooks before the first look: what happens in between is in the ring.
    let diags = KeptDiags::default();
    let mut feed = Feed::attach(&config, &names, &diags)?;
    let (mut attribution, first) = Attribution::new(&config.targets, names, config.max_sockets as usize, Mono::now())
        .map_err(anyhow::Error::msg)?;
    attribution.give_met(feed.wants_met());
    feed.know(&mut attribution)?;
    let session = session(&config, &feed, &mut attribution, started);
    attribution.keep_diags(&diags);
    let mut live = Live::new(&config, attribution, diags, clock, started)?;
    live.take(&mut Event { at: started, kind: EventKind::Session(Box::new(session)) }, &mut outlets);
    live.take_all(first, &mut outlets);
    live.sample(&mut feed, &mut outlets);
    outlets.flush(live.table(), &live.clock);

    release_memory();
    let mut screen = if config.screen { Some(Screen::enter(&live)?) } else { None };
    if let Some(log) = feed.kernel_log() {
        tokio::spawn(log.run());
    }
    let t = &config.targets;
    privileges::drop_to(&Work {
        new_namespaces: t.tree || t.all || t.cgroup.is_some() || !t.comms.is_empty(),
        new_files: config.screen || config.max_size.is_some(),
        kernel: feed.has_kernel(),
    })?;
    if let Some(child) = &mut child {
        child.release()?;
    }
    let outcome = looped(&config, &mut live, &mut feed, &mut outlets, &mut screen, &mut child, &mut signals).await;
    // The terminal first: whatever follows may print.
    drop(screen);
    live.drain(&mut feed, &mut outlets).await;
    let (reason, code) = match outcome {
        Ok(ended) => ended,
        Err(e) => {
            live.finish(&mut feed, &mut outlets, "error");
            outlets.close(&mut live);
            return Err(e);
        }
    };
    live.finish(&mut feed, &mut outlets, &reason);
    let failed = outlets.close(&mut live);
    for note in live.notes() {
        eprintln!("agent: {note}");
    }
    if reason == TARGETS_GONE && !config.screen {
        eprintln!("agent: every watched process has ended");
    }
    Ok(if failed && code == 0 { 1 } else { code })
}

/// Gives back what the start took (the kernel's BTF and our copy of it: some 10 MiB) and the allocator keeps in case.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments but a size, no effect on live allocations (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

const TARGETS_GONE: &str = "targets exited";

/// Until a reason to end: its name for the `end` line, and the exit code.
async fn looped(
    config: &WatchConfig,
    live: &mut Live,
    feed: &mut Feed,
    outlets: &mut Outlets,
    screen: &mut Option<Screen>,
    child: &mut Option<Child>,
    signals: &mut Signals,
) -> Result<(String, u8)> {
    let mut tick = tokio::time::interval(config.sample);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick of an interval comes at once; the first look was taken already.
    tick.tick().await;
    let end = config.duration.map(|d| tokio::time::Instant::now() + d);
    let mut next_lookup = tokio::time::Instant::now() + DNS_REFRESH;
    let mut lookup = None;
    loop {
        // A reader of stdout that does not keep up: leave the records in the ring, where the kernel counts what is lost.
        let fetch = !outlets.is_stalled();
        let frame = screen.as_ref().map_or(Duration::MAX, |s| s.next_frame(live));
        tokio::select! {
            biased;
            ended = signals.next() => {
                if let (Some(child), Ended::Terminated | Ended::HungUp) = (child.as_ref(), ended) {
                    // SIGINT of a terminal reached the child already.
                    child.signal(ended.signal());
                } else if let (Some(child), Ended::Interrupted) = (child.as_mut(), ended) {
                    let code = tokio::time::timeout(CHILD_PATIENCE, child.wait()).await.unwrap_or(Ok(130))?;
                    return Ok((ended.reason().into(), code));
                }
                return Ok((ended.reason().into(), 0));
            }
            code = exit_of(child) => {
                let code = code?;
                return Ok(("command exited".into(), code));
            }
            input = next_input(screen), if screen.is_some() => {
                let Some(s) = screen.as_mut() else { continue };
                if s.input(input?, live) {
                    return Ok(("quit".into(), 0));
                }
            }
            _ = tokio::time::sleep(frame), if screen.is_some() => {
                if let Some(s) = screen.as_mut() {
                    s.draw(live)?;
                }
            }
            _ = tick.tick() => {
                live.tick(feed, outlets);
                if live.is_over() && child.is_none() {
                    if screen.is_none() {
                        return Ok((TARGETS_GONE.into(), 0));
                    }
                    live.say_over();
                }
                if tokio::time::Instant::now() >= next_lookup && lookup.is_none() && live.follows_names() {
                    next_lookup = tokio::time::Instant::now() + DNS_REFRESH;
                    lookup = Some(Box::pin(live.lookup()));
                }
            }
            answers = resolved(&mut lookup), if lookup.is_some() => {
                lookup = None;
                live.follow(answers, feed);
            }
            done = live.action_done() => {
                if let Some(s) = screen.as_mut() {
                    s.say_outcome(&done);
                }
                live.take_all(done, outlets);
            }
            _ = tokio::time::sleep_until(end.unwrap_or_else(far)), if end.is_some() => {
                return Ok(("duration".into(), 0));
            }
            ready = feed.ready(), if fetch => {
                ready?;
                live.take_live(feed, outlets);
            }
            _ = tokio::time::sleep(STALL_PAUSE), if !fetch => outlets.flush(live.table(), &live.clock),
        }
        match outlets.trouble() {
            // Whoever read our output has enough: not an error.
            Some(RecordError::ReaderGone) => return Ok(("output closed".into(), 0)),
            Some(RecordError::Failed(why)) => {
                // Nothing is left to write to: that is the end, and a failure. A command that was started goes on.
                if screen.is_none() && child.is_none() && !config.has_other_outlets() {
                    bail!("{why}");
                }
                let why = format!("{why}; the watch goes on without it");
                if let Some(s) = screen {
                    s.say_error(&why);
                }
                live.note(why);
                outlets.recorder_is_gone();
            }
            None => {}
        }
    }
}

/// How long a child may take to end after SIGINT before the agent goes without it.
const CHILD_PATIENCE: Duration = Duration::from_secs(5);
const STALL_PAUSE: Duration = Duration::from_millis(20);

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400 * 365)
}

async fn exit_of(child: &mut Option<Child>) -> Result<u8> {
    match child {
        Some(c) => c.wait().await,
        None => std::future::pending().await,
    }
}

async fn next_input(screen: &mut Option<Screen>) -> Result<crossterm::event::Event> {
    match screen {
        Some(s) => s.next_input().await,
        None => std::future::pending().await,
    }
}

async fn resolved<F: Future<Output = crate::attribute::Lookup> + Unpin>(
    lookup: &mut Option<F>,
) -> crate::attribute::Lookup {
    match lookup {
        Some(f) => f.await,
        None => std::future::pending().await,
    }
}

fn session(config: &WatchConfig, feed: &Feed, attribution: &mut Attribution, now: Mono) -> Session {
    let uname = rustix::system::uname();
    let netns = {
        let of_targets: std::collections::BTreeSet<u32> = attribution.sockets().filter_map(|k| k.netns).collect();
        // One namespace: its sysctls are the ones that matter. Several: the agent's own.
        (of_targets.len() == 1).then(|| of_targets.into_iter().next()).flatten()
    };
    let mut limits = feed.limits().to_vec();
    limits.extend(attribution.limits());
    Session {
        agent_version: env!("CARGO_PKG_VERSION").into(),
        kernel_release: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        command: std::env::args().map(|a| crate::model::sanitize(a.as_bytes())).collect(),
        targets: Targets {
            pids: config.targets.pids.clone(),
            tree: config.targets.tree,
            all: config.targets.all,
            comms: config.targets.comms.clone(),
            cgroup: config.targets.cgroup.as_ref().map(|c| c.display().to_string()),
            destinations: config.destination_texts.clone(),
        },
        hooks: feed.hooks().to_vec(),
        sysctl: attribution.sysctl_map(netns, now),
        limits,
    }
}

/// The recorder of this run, if any is asked for.
fn recorder(config: &WatchConfig) -> Result<Option<Recorder>> {
    use crate::view::jsonl::{Options, Target};
    use crate::view::redact::Redactor;
    let target = match &config.output {
        Output::None => return Ok(None),
        Output::Stdout => Target::Stdout,
        Output::File(path) => Target::File(path.clone()),
    };
    let options = Options {
        max_bytes: config.max_size,
        max_files: Some(config.max_files),
        redactor: config.redact.then(|| Redactor::for_this_machine(&config.keep)),
    };
    Ok(Some(Recorder::create(target, options)?))
}
