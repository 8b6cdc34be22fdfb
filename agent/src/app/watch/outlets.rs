//! Everything that leaves a watch: the recording, alerts, what was learned, the report for a person.

use std::time::Duration;

use anyhow::Result;

use super::live::Live;
use crate::config::WatchConfig;
use crate::learn::{Book, Learner, Loaded};
use crate::model::{Event, EventKind, Mono, ResetDirection, ResetOrigin, SocketId, TcpState, WallClock};
use crate::state::{Socket, Table};
use crate::store::{self, Store};
use crate::view::alert::{AlertOn, Alerts, Sink};
use crate::view::jsonl::{RecordError, Recorder};
use crate::view::text::plural;

/// What was learned is written this often; a crash loses at most as much.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// An alert that is being sent may hold the end up for this long.
const ALERT_PATIENCE: Duration = Duration::from_secs(2);

pub struct Outlets {
    recorder: Option<Recorder>,
    trouble: Option<RecordError>,
    failed: bool,
    alerts: Alerts,
    pub learner: Learner,
    store: Option<Store>,
    saved: Mono,
    notes: Vec<String>,
    report: Option<Report>,
}

/// The line a minute for a person.
struct Report {
    every: Duration,
    last: Option<Mono>,
    resets: [u64; 4],
    retransmits: u64,
    stall: Duration,
    stalled_at: Option<Mono>,
}

impl Outlets {
    pub fn open(config: &WatchConfig) -> Result<Self> {
        let recorder = super::recorder(config)?;
        let mut sinks = Vec::new();
        sinks.extend(config.on_finding.clone().map(Sink::command));
        sinks.extend(config.webhook.clone().map(Sink::webhook));
        let alerts = Alerts::new(sinks, config.alert_on.clone(), config.alert_rule);
        let mut notes = Vec::new();
        let (store, book) = match known() {
            Ok((store, Loaded::Known(book))) => (Some(store), book),
            Ok((store, Loaded::Fresh)) => (Some(store), Book::default()),
            Ok((store, Loaded::Unusable(why))) => {
                notes.push(why);
                (Some(store), Book::default())
            }
            Err(e) => {
                notes.push(format!("nothing learned will be kept: {e:#}"));
                (None, Book::default())
            }
        };
        let report = config.interval_report.map(|every| Report {
            every,
            last: None,
            resets: [0; 4],
            retransmits: 0,
            stall: Duration::ZERO,
            stalled_at: None,
        });
        Ok(Self {
            recorder,
            trouble: None,
            failed: false,
            alerts,
            learner: Learner::new(book),
            store,
            saved: Mono(0),
            notes,
            report,
        })
    }

    pub fn event(&mut self, event: &Event, table: &Table, clock: &WallClock) {
        if let Some(r) = &mut self.recorder
            && let Err(e) = r.write(event, table, clock)
        {
            self.trouble = Some(e);
        }
        if !self.alerts.is_idle() || self.report.is_some() {
            self.pass_on(event, table, clock);
        }
    }

    /// To alerts and the report for a person, of which most watches have none.
    #[inline(never)]
    fn pass_on(&mut self, event: &Event, table: &Table, clock: &WallClock) {
        match &event.kind {
            EventKind::Finding(f) => self.alerts.finding(event.at, clock, f),
            EventKind::Reset(r) if r.direction == ResetDirection::Received => {
                if let Some(s) = self.alerted(r.socket, table) {
                    self.failure(event, s, clock);
                }
                if let Some(report) = &mut self.report {
                    let slot = match r.origin {
                        ResetOrigin::Peer => 0,
                        ResetOrigin::Middlebox => 1,
                        ResetOrigin::Local => 2,
                        ResetOrigin::Unknown => 3,
                    };
                    report.resets[slot] += 1;
                }
            }
            EventKind::Reset(_) => {
                if let Some(report) = &mut self.report {
                    report.resets[2] += 1;
                }
            }
            // A handshake that ended without a RST: the connection failed all the same.
            EventKind::State(c) if c.from == TcpState::SynSent && c.to == TcpState::Close => {
                if let Some(s) = self.alerted(c.socket, table).filter(|s| s.last_reset.get().is_none()) {
                    self.failure(event, s, clock);
                }
            }
            EventKind::Retransmit(r) => {
                if let Some(report) = &mut self.report {
                    report.retransmits += u64::from(r.segments);
                }
            }
            _ => {}
        }
    }

    /// The socket, if anybody is alerted to its failure.
    fn alerted<'t>(&self, socket: Option<SocketId>, table: &'t Table) -> Option<&'t Socket> {
        if self.alerts.is_idle() { None } else { table.get(socket?).map(|s| &**s) }
    }

    fn failure(&mut self, event: &Event, s: &Socket, clock: &WallClock) {
        self.alerts.failure(event.at, &s.destination());
        self.alerts.check(event.at, clock);
    }

    /// Learns from the sockets that changed, and forgets those that left.
    pub fn learn(&mut self, changed: &[SocketId], table: &Table, clock: &WallClock) {
        for id in changed {
            match table.get(*id) {
                Some(s) => self.learner.observe(s, || clock.unix_seconds(s.tcp_at.unwrap_or(s.first_seen))),
                None => self.learner.forget(*id),
            }
        }
    }

    pub fn tick(&mut self, now: Mono, live: &mut Live) {
        self.flush(live.table(), &live.clock);
        for note in self.notes.drain(..) {
            live.note(note);
        }
        for outcome in self.alerts.outcomes().into_iter().filter(|o| !o.ok) {
            live.note(outcome.text);
        }
        if now.since(self.saved) >= SAVE_EVERY {
            self.saved = now;
            self.save(live);
        }
        if let Some(report) = &mut self.report {
            report.tick(now, live);
        }
    }

    fn save(&mut self, live: &mut Live) {
        let (Some(store), Some(learned)) = (&self.store, self.learner.unsaved()) else { return };
        match Book::save(store, learned) {
            Ok(merged) => self.learner.saved(merged),
            // It stays in memory and is tried again.
            Err(e) => live.note(format!("what was learned is not saved: {e:#}")),
        }
    }

    /// Sends what is recorded so far.
    pub fn flush(&mut self, table: &Table, clock: &WallClock) {
        if let Some(Err(e)) = self.recorder.as_mut().map(|r| r.flush(table, clock)) {
            self.trouble = Some(e);
        }
    }

    pub fn is_stalled(&self) -> bool {
        self.recorder.as_ref().is_some_and(Recorder::is_stalled)
    }

    pub fn trouble(&mut self) -> Option<RecordError> {
        self.trouble.take()
    }

    /// The recording ended early; the watch goes on without it and fails at the end.
    pub fn recorder_is_gone(&mut self) {
        self.recorder = None;
        self.failed = true;
    }

    /// Closes everything; whether something that was asked for could not be done.
    pub fn close(&mut self, live: &mut Live) -> bool {
        if let Some(Err(e)) = self.recorder.as_mut().map(Recorder::finish)
            && let RecordError::Failed(why) = e
        {
            live.note(why);
            self.failed = true;
        }
        self.save(live);
        for note in self.notes.drain(..) {
            live.note(note);
        }
        let alerts =
            std::mem::replace(&mut self.alerts, Alerts::new(Vec::new(), AlertOn::Incidents, Default::default()));
        for outcome in alerts.finish(ALERT_PATIENCE).into_iter().filter(|o| !o.ok) {
            live.note(outcome.text);
        }
        self.failed
    }
}

fn known() -> Result<(Store, Loaded)> {
    let store = Store::open(store::directory()?)?;
    let loaded = Book::load(&store)?;
    Ok((store, loaded))
}

impl Report {
    fn tick(&mut self, now: Mono, live: &Live) {
        let stuck = live.table().iter().filter(|s| is_stuck(s)).count();
        if let Some(before) = self.stalled_at
            && stuck > 0
        {
            self.stall += now.since(before) * stuck as u32;
        }
        self.stalled_at = Some(now);
        let last = *self.last.get_or_insert(live.started());
        if now.since(last) < self.every {
            return;
        }
        self.last = Some(now);
        let open = live.table().iter().filter(|s| !s.is_closed()).count();
        let [peer, middlebox, local, unknown] = self.resets;
        let findings = live.open_findings();
        let named: Vec<String> = findings.iter().take(3).map(|f| f.code.to_string()).collect();
        eprintln!(
            "{} {} ({stuck} stuck), resets: {peer} by peers, {middlebox} by middleboxes, {local} by this host, \
             {unknown} unknown; {} retransmits; {:.0} s of stall; {}{}",
            live.clock.local_time(now),
            plural(open, "socket"),
            self.retransmits,
            self.stall.as_secs_f64(),
            match findings.len() {
                0 => "no findings".to_owned(),
                1 => "1 finding: ".to_owned(),
                n => format!("{n} findings: "),
            },
            named.join(", ")
        );
        self.resets = [0; 4];
        self.retransmits = 0;
        self.stall = Duration::ZERO;
    }
}

/// Data is out and the peer has been silent for at least two RTOs.
fn is_stuck(s: &Socket) -> bool {
    !s.is_closed() && s.activity.rto_since_heard >= 2
}
