//! A recording run through today's state and rules, at the recording's own time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::diagnose::{Engine, Thresholds};
use crate::model::{Event, EventKind, Finding, Mono, WallClock};
use crate::source::replay::{Ahead, Recording, Stats};
use crate::state::{Snapshot, Table, TableConfig};
use crate::view::redact::Redactor;

/// How often the rules look, in the recording's time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks between two events at most: a recording may claim a gap of years.
const MAX_LOOKS_IN_GAP: u32 = 10_000;
/// Sockets kept. Fewer than a live run keeps: most of a storm are tombstones, and a report must fit into 200 MiB.
const MAX_SOCKETS: usize = 16_384;

/// What one step brought.
pub struct Step {
    /// The event, already taken into the table; `None` for a look of the rules between events.
    pub event: Option<Event>,
    /// Opened, changed or closed by it, also in the table.
    pub findings: Vec<Finding>,
}

pub struct Player {
    recording: Ahead,
    pub table: Table,
    engine: Engine,
    redactor: Option<Redactor>,
    /// Read and not yet due.
    next: Option<Event>,
    now: Mono,
    start: Mono,
    looked: Mono,
    /// Events since that the rules have not seen.
    unseen: bool,
    expired: Mono,
    looks_in_gap: u32,
    clock: WallClock,
    events: u64,
}

impl Player {
    /// Opens the recording and reads its first event.
    ///
    /// # Errors
    /// The file is no recording, empty, or cannot be read: one sentence.
    pub fn open(path: &Path, thresholds: Thresholds, redactor: Option<Redactor>) -> Result<Self> {
        Self::of(Recording::open(path)?, thresholds, redactor)
    }

    /// Of a recording that is open already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(mut recording: Recording, thresholds: Thresholds, redactor: Option<Redactor>) -> Result<Self> {
        let first = recording.next_event()?.context("the recording holds no event")?;
        let clock = recording.clock().context("the recording holds no time")?;
        let start = first.at;
        let config = TableConfig { max_sockets: MAX_SOCKETS, ..TableConfig::default() };
        Ok(Self {
            recording: Ahead::new(recording)?,
            table: Table::new(config),
            engine: Engine::new(thresholds),
            redactor,
            next: Some(first),
            now: start,
            start,
            looked: start,
            unseen: false,
            expired: start,
            looks_in_gap: 0,
            clock,
            events: 0,
        })
    }

    /// The time of the next step; `None` at the end.
    pub fn next_at(&self) -> Option<Mono> {
        self.next.as_ref().map(|e| e.at)
    }

    /// Plays the next event, or one look of the rules that is due before it. `None` at the end.
    ///
    /// # Errors
    /// The recording cannot be read on.
    pub fn step(&mut self) -> Result<Option<Step>> {
        let Some(next) = &self.next else { return Ok(None) };
        // What is due at many moments close to each other is looked at once, as in a live run.
        let soon = self.looked.plus(LOOK_EVERY);
        let due = self.engine.next_due().map(|due| due.max(soon));
        let due = due.into_iter().chain(self.unseen.then_some(soon)).min();
        if let Some(due) = due.filter(|due| *due < next.at && self.looks_in_gap < MAX_LOOKS_IN_GAP) {
            self.looks_in_gap += 1;
            // A look may be overdue: time does not go back.
            self.now = self.now.max(due);
            return Ok(Some(Step { event: None, findings: self.look() }));
        }
        self.looks_in_gap = 0;
        let event = self.next.take();
        let Some(event) = event else { return Ok(None) };
        self.next = self.recording.next_event()?;
        self.now = self.now.max(event.at);
        let event = match &mut self.redactor {
            Some(r) => r.event(&event),
            None => event,
        };
        self.events += 1;
        // Findings of the recording are those of the rules of its day: they are made anew.
        if !matches!(event.kind, EventKind::Finding(_)) {
            self.table.apply(&event);
            self.unseen = true;
        }
        if self.now.since(self.expired) >= Duration::from_secs(1) {
            self.expired = self.now;
            self.table.expire(self.now);
        }
        let last = self.next.is_none();
        let findings = if last || self.now.since(self.looked) >= LOOK_EVERY { self.look() } else { Vec::new() };
        Ok(Some(Step { event: Some(event), findings }))
    }

    fn look(&mut self) -> Vec<Finding> {
        self.looked = self.now;
        self.unseen = false;
        let changed = self.table.take_changed();
        let findings = self.engine.evaluate(self.now, &self.table, &changed);
        for f in &findings {
            self.table.apply(&Event { at: self.now, kind: EventKind::Finding(Box::new(f.clone())) });
        }
        findings
    }

    /// Lets the time pass to `to`, between events: idle times and countdowns go on.
    pub fn pass(&mut self, to: Mono) {
        let limit = self.next_at().unwrap_or(self.now);
        self.now = self.now.max(to.min(limit));
    }

    pub fn snapshot(&self) -> Snapshot {
        self.table.snapshot(self.now, self.clock, self.engine.open())
    }

    pub fn open_findings(&self) -> Vec<Arc<Finding>> {
        self.engine.open()
    }

    pub fn now(&self) -> Mono {
        self.now
    }

    /// Time of the first event.
    pub fn start(&self) -> Mono {
        self.start
    }

    pub fn clock(&self) -> WallClock {
        self.clock
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn stats(&self) -> &Stats {
        self.recording.stats()
    }
}

/// The time of the last readable line, by a look at the end of the file where that is possible.
///
/// # Errors
/// As [`Recording::open`].
pub fn last_time(path: &Path, clock: &WallClock) -> Result<Option<Mono>> {
    Ok(crate::source::replay::last_line_time(path)?.and_then(|t| clock.mono(t.0.into())))
}

/// Thresholds of a `--config` file, or the defaults.
///
/// # Errors
/// The file cannot be read or has an unknown or senseless threshold.
pub fn thresholds(file: Option<&Path>) -> Result<Thresholds> {
    let Some(file) = file else { return Ok(Thresholds::default()) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Thresholds::from_toml(&text).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::replay::Lines;

    /// Refused connects of one process to one port, one every millisecond, as a storm records them.
    fn storm(connects: u64) -> Player {
        let clock = crate::schema::samples::clock();
        let mut text = String::new();
        let mut seq = 0;
        let mut line = |at_us: u64, kind: &str, rest: String| {
            let time = crate::schema::Time::new(&clock, Mono(at_us * 1_000)).format();
            let time = String::from_utf8_lossy(&time).into_owned();
            text += &format!("{{\"type\":\"{kind}\",\"seq\":{seq},\"time\":\"{time}\",{rest}}}\n");
            seq += 1;
        };
        for n in 0..connects {
            let (at, ends) = (n * 1_000, "\"local\":\"127.0.0.1:40000\",\"remote\":\"127.0.0.1:9\"");
            let socket = format!("\"socket\":\"{:x}\",\"pid\":7,{ends}", 0x1000 + n);
            line(at, "state", format!("{socket},\"from\":\"CLOSE\",\"to\":\"SYN_SENT\""));
            let reset = "\"direction\":\"received\",\"origin\":\"unknown\",\"state\":\"SYN_SENT\"";
            line(at + 50, "reset", format!("{socket},{reset}"));
            line(at + 60, "state", format!("{socket},\"from\":\"SYN_SENT\",\"to\":\"CLOSE\""));
        }
        let lines = Lines::new(std::io::Cursor::new(text.into_bytes())).unwrap();
        Player::of(Recording::new(Path::new("/nowhere/storm"), lines), Thresholds::default(), None).unwrap()
    }

    #[test]
    fn a_storm_is_looked_at_ten_times_a_second_however_many_sockets_it_has() {
        let mut player = storm(5_000);
        let (mut looks, mut told) = (0, 0);
        let mut looked = player.looked;
        while let Some(step) = player.step().unwrap() {
            told += step.findings.len();
            if player.looked != looked {
                looked = player.looked;
                looks += 1;
                assert!(player.engine.next_due().is_none_or(|due| due > looked), "else it would look again at once");
            }
        }
        assert_eq!(player.events(), 15_000);
        assert!((40..=55).contains(&looks), "{looks} looks in 5 s");
        // Once a second at most, and once when its confidence changes.
        assert!((1..=8).contains(&told), "told {told} times");
        assert_eq!(player.open_findings().len(), 1);
        // A large finding is told once a second: the last second may be missing.
        assert!(player.open_findings()[0].numbers["sockets"] >= 4_000.0);
    }
}
