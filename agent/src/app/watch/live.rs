//! The middle of a watch: events through attribution into the state, findings out of it, everything to the outlets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::feed::Feed;
use super::outlets::Outlets;
use crate::attribute::{Attribution, Lookup};
use crate::commands::clue;
use crate::config::WatchConfig;
use crate::diagnose::{Engine, Thresholds};
use crate::model::{End, Event, EventKind, Mono, SocketId, TcpState, WallClock};
use crate::source::diag::KeptDiags;
use crate::state::{Snapshot, Table, TableConfig};

/// Actions whose outcome is not yet taken in.
const ACTIONS: usize = 16;
/// Notes kept for the end of the run.
const NOTES: usize = 32;
/// Sockets looked at because their peer closed, per batch of events (3 µs each).
const CLOSING_LOOKS: usize = 64;
/// Sockets that are gone and stay on the screen for a while: more than anybody scrolls through.
const SHOWN_GONE: usize = 4_096;
/// The same without a screen, where the recording has told of them: few, so that in a storm their memory is still warm
/// when it is used again, and more than change between two looks of the rules.
const KEPT_GONE: usize = 64;
/// Sockets that changed when the rules look at them: each is looked at before it can leave the table.
const LOOK_AT: usize = 24;
/// Records taken per call: a storm must not keep signals and the screen waiting.
const DRAIN: usize = 1_000;
/// Records that go through one stage before the next begins: the code of all stages together does not fit into a
/// processor's first cache. Of 8 at a time a refused connection fetched 446 lines of code anew, of 32 at a time 288
/// (callgrind, 32 KiB).
const AT_ONCE: usize = 32;
// None leaves before the rules have looked.
const _: () = assert!(LOOK_AT + AT_ONCE <= KEPT_GONE);
/// After a child or the last target ended: how long its sockets may still have something to say.
const LAST_WORDS: Duration = Duration::from_millis(30);

/// Events of the source on their way, which stay where they were made: they are long. Empty between calls.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    /// Of each event: how many of `learned` come before it, and whether it is of a target.
    marks: Vec<(usize, bool)>,
    /// What became known through them.
    learned: Vec<Event>,
}

pub struct Live {
    pub clock: WallClock,
    started: Mono,
    table: Table,
    attribution: Attribution,
    diags: KeptDiags,
    engine: Engine,
    done: (Sender<Vec<Event>>, Receiver<Vec<Event>>),
    notes: Vec<String>,
    limits_said: usize,
    told: BTreeSet<u32>,
    /// Of the attribution's processes when `told` was made.
    pids_revision: u64,
    /// Findings opened so far: the engine numbers them.
    opened: u64,
    over: bool,
    batch: Batch,
    /// Sockets that changed; memory that is used again.
    changed: Vec<SocketId>,
}

impl Live {
    pub fn new(
        config: &WatchConfig,
        attribution: Attribution,
        diags: KeptDiags,
        clock: WallClock,
        started: Mono,
    ) -> Result<Self> {
        let table = Table::new(TableConfig {
            max_sockets: config.max_sockets as usize,
            max_gone: if config.screen { SHOWN_GONE } else { KEPT_GONE },
            ..TableConfig::default()
        });
        Ok(Self {
            clock,
            started,
            table,
            attribution,
            diags,
            engine: Engine::new(thresholds(config)?),
            done: channel(ACTIONS),
            notes: Vec::new(),
            limits_said: 0,
            told: BTreeSet::new(),
            pids_revision: 0,
            opened: 0,
            over: false,
            batch: Batch::default(),
            changed: Vec::new(),
        })
    }

    /// One event, complete: into the state, then to the outlets.
    pub fn take(&mut self, event: &mut Event, outlets: &mut Outlets) {
        self.table.take(event);
        outlets.event(event, &self.table, &self.clock);
        if let EventKind::Action(a) = &event.kind {
            self.attribution.reread_keepalive(a.socket);
        }
    }

    pub fn take_all(&mut self, mut events: Vec<Event>, outlets: &mut Outlets) {
        for event in &mut events {
            self.take(event, outlets);
        }
        self.diagnose(outlets);
    }

    /// What the source has by now, but no more than a person or a signal can wait for. A few records go through each
    /// stage before the next: made events, completed, then folded and written one by one (a line tells of a socket as
    /// it is right after its event), then judged.
    pub fn take_live(&mut self, feed: &mut Feed, outlets: &mut Outlets) {
        let mut taken = 0;
        let mut looks = CLOSING_LOOKS;
        loop {
            let mut batch = std::mem::take(&mut self.batch);
            let n = feed.take(AT_ONCE, &mut batch.events);
            for fork in feed.forks() {
                batch.learned.extend(self.attribution.forked(fork.parent, fork.child, fork.at));
            }
            for event in &mut batch.events {
                // What becomes known through it comes before it.
                let ours = self.attribution.enrich(event, &mut batch.learned);
                batch.marks.push((batch.learned.len(), ours));
                if ours && let Some(id) = closing(event).filter(|_| looks > 0) {
                    // The idle time at which a server closes is only as exact as what is known of the last data.
                    looks -= 1;
                    batch.learned.extend(self.attribution.sample_closing(id, Mono::now()));
                }
            }
            self.take_batch(&mut batch, outlets);
            for event in batch.events.drain(..).chain(batch.learned.drain(..)) {
                match event.kind {
                    EventKind::Reset(reset) => feed.reuse(reset),
                    EventKind::Socket(update) => self.attribution.reuse(update),
                    _ => {}
                }
            }
            batch.marks.clear();
            self.batch = batch;
            if self.table.changed() >= LOOK_AT {
                self.look(outlets);
            }
            taken += n;
            if n < AT_ONCE {
                break;
            }
            if taken >= DRAIN {
                self.introduce(feed);
                self.diagnose(outlets);
                // Full buffers are sent as they fill.
                return;
            }
        }
        self.introduce(feed);
        self.diagnose(outlets);
        outlets.flush(&self.table, &self.clock);
    }

    fn take_batch(&mut self, batch: &mut Batch, outlets: &mut Outlets) {
        let mut learned = batch.learned.iter_mut();
        let mut told = 0;
        for (event, (before, ours)) in batch.events.iter_mut().zip(&batch.marks) {
            for event in learned.by_ref().take(before - told) {
                self.take(event, outlets);
            }
            told = *before;
            if *ours {
                self.take(event, outlets);
            }
        }
        for event in learned {
            self.take(event, outlets);
        }
    }

    /// Once a sample period: what polling brings, exact counts, what was lost, what time alone decides.
    pub fn tick(&mut self, feed: &mut Feed, outlets: &mut Outlets) {
        let now = Mono::now();
        let found = self.attribution.refresh(now);
        self.introduce(feed);
        self.tell(feed);
        for mut event in found {
            self.take(&mut event, outlets);
        }
        self.sample(feed, outlets);
        self.table.expire(now);
        self.say_limits();
        self.over = self.attribution.all_gone();
        self.diagnose(outlets);
        outlets.tick(now, self);
    }

    /// tcp_info of all sockets, exact counts and losses.
    pub fn sample(&mut self, feed: &mut Feed, outlets: &mut Outlets) {
        let now = Mono::now();
        for mut event in self.attribution.sample(now) {
            self.take(&mut event, outlets);
        }
        self.count(now, false, feed, outlets);
    }

    /// The kernel's exact counts over what the detail gave, and what of the detail was lost.
    fn count(&mut self, now: Mono, end: bool, feed: &mut Feed, outlets: &mut Outlets) {
        let lost = feed.lost();
        if lost.total() > 0 {
            self.take(&mut Event { at: now, kind: EventKind::Lost(lost) }, outlets);
        }
        for mut event in feed.sweep(end) {
            if self.is_news(&event) {
                self.take(&mut event, outlets);
            }
        }
        if let Some(t) = feed.totals() {
            self.table.set_totals(t.retransmits, t.resets_received, t.resets_sent);
        }
    }

    /// What the engine may know of a process, once per process: it names the client's own settings.
    fn recognise(&mut self, pids: &BTreeSet<u32>) {
        for pid in pids.difference(&self.told) {
            self.engine.know_process(*pid, clue::of(*pid));
        }
    }

    /// New processes and sockets that an event made known must be watched by the kernel side too.
    fn introduce(&mut self, feed: &mut Feed) {
        let revision = self.attribution.pids_revision();
        if revision != self.pids_revision {
            self.pids_revision = revision;
            let pids: BTreeSet<u32> = self.attribution.pids().collect();
            self.recognise(&pids);
            self.told = pids;
            self.tell(feed);
        }
    }

    fn tell(&mut self, feed: &mut Feed) {
        if let Err(e) = feed.know(&mut self.attribution) {
            self.note(format!("{e:#}"));
        }
    }

    /// Whether exact counts say more than the detail did.
    fn is_news(&self, event: &Event) -> bool {
        let EventKind::Socket(u) = &event.kind else { return true };
        let Some(s) = u.id.and_then(|id| self.table.get(id)) else { return false };
        u.counters.is_some_and(|c| c != s.counters) || (u.destroyed && !s.is_closed())
    }

    /// Learns from what changed and lets the rules look at it.
    fn look(&mut self, outlets: &mut Outlets) {
        let mut changed = std::mem::take(&mut self.changed);
        self.table.take_changed_into(&mut changed);
        outlets.learn(&changed, &self.table, &self.clock);
        let now = Mono::now();
        for limits in outlets.learner.take_news() {
            // Before the rules look: their advice counts on what is known.
            self.take(&mut Event { at: now, kind: EventKind::Limits(Box::new(limits)) }, outlets);
        }
        self.engine.look(now, &self.table, &changed);
        self.changed = changed;
    }

    fn diagnose(&mut self, outlets: &mut Outlets) {
        self.look(outlets);
        let now = Mono::now();
        for finding in self.engine.tell(now, &self.table) {
            self.opened = self.opened.max(finding.id);
            self.take(&mut Event { at: now, kind: EventKind::Finding(Box::new(finding)) }, outlets);
        }
    }

    /// Fetches what is still in the ring, for a moment after the end of what was watched.
    pub async fn drain(&mut self, feed: &mut Feed, outlets: &mut Outlets) {
        let until = tokio::time::Instant::now() + LAST_WORDS;
        loop {
            // First without waiting: not every record wakes us, and the wait may be longer than the moment.
            self.take_live(feed, outlets);
            // A storm goes on while we leave.
            if tokio::time::Instant::now() >= until {
                break;
            }
            if let Ok(Err(_)) = tokio::time::timeout_at(until, feed.ready()).await {
                break;
            }
        }
        feed.abandon();
    }

    /// The last counts and the `end` event.
    pub fn finish(&mut self, feed: &mut Feed, outlets: &mut Outlets, reason: &str) {
        let now = Mono::now();
        self.count(now, true, feed, outlets);
        let mut totals = self.table.totals();
        totals.findings = self.opened;
        let end = End { reason: reason.into(), duration: now.since(self.started), totals };
        self.take(&mut Event { at: now, kind: EventKind::End(Box::new(end)) }, outlets);
    }

    pub fn snapshot(&self) -> Snapshot {
        self.table.snapshot(Mono::now(), self.clock, self.engine.open())
    }

    pub fn revision(&self) -> u64 {
        self.table.revision()
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    pub fn attribution(&self) -> &Attribution {
        &self.attribution
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn say_over(&mut self) {
        self.note("every watched process has ended".into());
    }

    pub fn follows_names(&self) -> bool {
        self.attribution.names().has_names()
    }

    pub fn lookup(&self) -> impl Future<Output = Lookup> + Send + 'static {
        self.attribution.names().lookup()
    }

    pub fn follow(&mut self, answers: Lookup, feed: &mut Feed) {
        if self.attribution.apply_lookup(answers, Mono::now())
            && let Err(e) = feed.set_destinations(self.attribution.names())
        {
            self.note(format!("the new addresses could not be given to the kernel's filter: {e:#}"));
        }
    }

    /// Something a person should know; shown at the end, each once.
    pub fn note(&mut self, text: String) {
        if self.notes.len() < NOTES && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Limits that came up after the start (a process that may not be looked into, a full table).
    fn say_limits(&mut self) {
        let limits = self.attribution.limits();
        if limits.len() > self.limits_said {
            self.limits_said = limits.len();
            for l in limits {
                self.note(l);
            }
        }
    }

    /// Carries an intent out on a thread; its records come through [`Self::action_done`].
    pub fn act(&mut self, intent: crate::action::Intent) {
        let (tell, diags) = (self.done.0.clone(), self.diags.clone());
        tokio::task::spawn_blocking(move || {
            let mut ledger = crate::action::Ledger::open().ok();
            let outcome = crate::action::perform_with(&intent, ledger.as_mut(), &diags);
            let events: Vec<Event> = outcome.events(Mono::now()).collect();
            let _ = tell.blocking_send(events);
        });
    }

    /// Cancel-safe.
    pub async fn action_done(&mut self) -> Vec<Event> {
        self.done.1.recv().await.unwrap_or_default()
    }

    pub fn pids_of(&self, ids: &[SocketId]) -> BTreeSet<u32> {
        ids.iter().filter_map(|id| self.table.get(*id)).flat_map(|s| s.owners.iter().map(|o| o.pid)).collect()
    }

    pub fn open_findings(&self) -> Vec<Arc<crate::model::Finding>> {
        self.engine.open()
    }

    pub fn started(&self) -> Mono {
        self.started
    }
}

fn thresholds(config: &WatchConfig) -> Result<Thresholds> {
    let mut t = match &config.thresholds_file {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read --config {}", path.display()))?;
            Thresholds::from_toml(&text).map_err(|e| anyhow::anyhow!("--config {}: {e}", path.display()))?
        }
        None => Thresholds::default(),
    };
    if let Some(d) = config.idle_threshold {
        t.no_keepalive_idle = d;
    }
    if let Some(d) = config.wave_window {
        t.wave_window = d;
    }
    t.check().map_err(anyhow::Error::msg)?;
    Ok(t)
}

/// The socket whose peer has just closed.
fn closing(event: &Event) -> Option<SocketId> {
    match &event.kind {
        EventKind::State(c) if c.to == TcpState::CloseWait => c.socket,
        _ => None,
    }
}
