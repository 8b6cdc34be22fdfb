//! Telling someone of an incident: a command (`--on-finding`) or a POST (`--webhook`), outside the data way. Sending
//! happens on threads of its own, one per code; the watch only ever puts into a bounded queue.

mod rule;
mod send;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use crate::model::{Code, Event, EventKind, Finding, FindingStatus, Mono, WallClock};
use crate::view::schema::{Line, LineContext};

pub use rule::{AlertRule, Failures};
pub use send::Sink;

/// Notices waiting per code; more are dropped and counted.
const QUEUE: usize = 16;

/// Which findings are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertOn {
    /// `reset-wave`, once the alert rule holds.
    Incidents,
    /// These codes, whenever one opens with a confidence of at least likely.
    Codes(Vec<Code>),
}

/// One thing to tell.
#[derive(Clone, Debug)]
pub struct Notice {
    pub code: Code,
    pub status: FindingStatus,
    pub destination: Option<String>,
    pub summary: String,
    /// The finding as a line of `agent.events/1`.
    pub json: String,
}

/// What became of a notice, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ok: bool,
    pub text: String,
}

/// Decides what is told and hands it over. Holds no clock.
pub struct Alerts {
    sinks: Vec<Sink>,
    on: AlertOn,
    failures: Failures,
    workers: HashMap<Code, SyncSender<Notice>>,
    /// Findings that were told as open, by id: their end is told too.
    told: HashMap<u64, Finding>,
    /// Open incidents for which the rule does not hold yet.
    waiting: HashMap<u64, Finding>,
    outcomes: Receiver<Outcome>,
    report: Sender<Outcome>,
    pub dropped: u64,
    seq: u64,
}

impl Alerts {
    /// Nobody is to be told.
    pub fn is_idle(&self) -> bool {
        self.sinks.is_empty()
    }

    pub fn new(sinks: Vec<Sink>, on: AlertOn, rule: AlertRule) -> Self {
        let (report, outcomes) = channel();
        Self {
            sinks,
            on,
            failures: Failures::new(rule),
            workers: HashMap::new(),
            told: HashMap::new(),
            waiting: HashMap::new(),
            outcomes,
            report,
            dropped: 0,
            seq: 0,
        }
    }

    /// A connection to `destination` was reset or could not be made.
    pub fn failure(&mut self, at: Mono, destination: &str) {
        if !self.sinks.is_empty() {
            self.failures.add(at, destination);
        }
    }

    /// A finding opened, changed or closed.
    pub fn finding(&mut self, at: Mono, clock: &WallClock, f: &Finding) {
        if self.sinks.is_empty() {
            return;
        }
        if f.status == FindingStatus::Closed {
            self.waiting.remove(&f.id);
            if self.told.remove(&f.id).is_some() {
                self.tell(at, clock, f);
            }
            return;
        }
        if let Some(known) = self.told.get_mut(&f.id) {
            known.clone_from(f);
            return;
        }
        match &self.on {
            AlertOn::Incidents if f.code == Code::ResetWave => {
                self.waiting.insert(f.id, f.clone());
                self.check(at, clock);
            }
            AlertOn::Codes(codes) if codes.contains(&f.code) && f.confidence > crate::model::Confidence::Possible => {
                self.told.insert(f.id, f.clone());
                self.tell(at, clock, f);
            }
            _ => {}
        }
    }

    /// Looks again at incidents whose rule did not hold so far; cheap when there are none.
    pub fn check(&mut self, at: Mono, clock: &WallClock) {
        if self.waiting.is_empty() {
            return;
        }
        let ready: Vec<u64> = self
            .waiting
            .values()
            .filter(|f| f.destination.as_deref().is_some_and(|d| self.failures.holds(at, d)))
            .map(|f| f.id)
            .collect();
        for id in ready {
            if let Some(f) = self.waiting.remove(&id) {
                self.tell(at, clock, &f);
                self.told.insert(id, f);
            }
        }
    }

    fn tell(&mut self, at: Mono, clock: &WallClock, f: &Finding) {
        let event = Event { at, kind: EventKind::Finding(Box::new(f.clone())) };
        let cx = LineContext { seq: self.seq, clock, socket: None, redacted: false, part: 0 };
        let Some(json) = Line::new(&event, cx).and_then(|l| serde_json::to_string(&l).ok()) else { return };
        self.seq += 1;
        let notice = Notice {
            code: f.code,
            status: f.status,
            destination: f.destination.clone(),
            summary: f.summary.clone(),
            json,
        };
        let (sinks, report) = (&self.sinks, &self.report);
        let worker = self.workers.entry(f.code).or_insert_with(|| start_worker(sinks.clone(), report.clone()));
        if let Err(TrySendError::Full(n) | TrySendError::Disconnected(n)) = worker.try_send(notice) {
            self.dropped += 1;
            let text = format!("alert for {} dropped: {QUEUE} others are still waiting", n.code);
            let _ = self.report.send(Outcome { ok: false, text });
        }
    }

    /// What became of earlier notices; never waits.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        self.outcomes.try_iter().collect()
    }

    /// Waits for notices that are under way, but not longer than `limit`: the end of a watch must not hang on a
    /// webhook.
    pub fn finish(mut self, limit: Duration) -> Vec<Outcome> {
        let busy = !self.workers.is_empty();
        self.workers.clear();
        let Self { report, outcomes, .. } = self;
        drop(report);
        let mut all = Vec::new();
        if busy {
            let until = std::time::Instant::now() + limit;
            loop {
                match outcomes.recv_timeout(until.saturating_duration_since(std::time::Instant::now())) {
                    Ok(o) => all.push(o),
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                        all.push(Outcome { ok: false, text: "an alert was still being sent at the end".into() });
                        break;
                    }
                }
            }
        }
        all
    }
}

/// One thread per code: one notice of a code at a time, in order; another code never waits for it.
fn start_worker(sinks: Vec<Sink>, report: Sender<Outcome>) -> SyncSender<Notice> {
    let (tx, rx) = sync_channel::<Notice>(QUEUE);
    let spawned = std::thread::Builder::new().name("alert".into()).spawn({
        let report = report.clone();
        move || {
            for notice in rx {
                for sink in &sinks {
                    let _ = report.send(sink.deliver(&notice));
                }
            }
        }
    });
    if let Err(e) = spawned {
        let _ = report.send(Outcome { ok: false, text: format!("cannot start the alert thread: {e}") });
    }
    tx
}

#[cfg(test)]
mod tests;
