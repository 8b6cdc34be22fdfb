//! The recording: events of the run as JSON Lines, to a file or standard output.
//!
//! What `kill -9` may cost is the last second: the buffer goes out in whole lines at least that often, provided that the
//! caller comes by ([`Recorder::flush`]) when no event does. A recording that can no longer be written closes with its
//! last whole line, and the run goes on.

mod remembered;
mod sink;
#[cfg(test)]
mod tests;

pub use sink::{RecordError, open_private};

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use self::remembered::{Remembered, fingerprint, hasher};
use self::sink::{Sink, SinkError};
use super::redact::Redactor;
use super::schema::{Described, Line, LineContext, Recent, Time, hot, part_path};
use crate::model::{CookieHash, End, Event, EventKind, Lost, Mono, Sample, SocketId, SocketUpdate, Totals, WallClock};
use crate::state::{Socket, Table};

/// Buffered before a write(2).
const BATCH_BYTES: usize = 64 << 10;
/// The longest a line waits in the buffer while events come.
const FLUSH_EVERY: Duration = Duration::from_millis(900);
/// Of one socket, at most one `sample` line in this time.
const SAMPLE_EVERY: Duration = Duration::from_millis(900);
/// Backlog of a pipe whose reader pauses; what comes on top is not written and counted in `lost`.
const MAX_BACKLOG_BYTES: usize = 64 << 20;
/// Backlog from which the caller had better not fetch more ([`Recorder::is_stalled`]).
const STALLED_BYTES: usize = 1 << 20;
/// Sockets whose last line is remembered; beyond it the memory starts anew, which only repeats `socket` lines.
const MAX_REMEMBERED: usize = 262_144;

/// Where a recording goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    /// A name ending in `.zst` is compressed.
    File(PathBuf),
}

#[derive(Debug, Default)]
pub struct Options {
    /// Go on in FILE.1, FILE.2, ... when a file has reached this size.
    pub max_bytes: Option<u64>,
    /// How many of those files stay: the first, which says what was watched, and the latest. At least 2.
    pub max_files: Option<u32>,
    /// Pseudonyms instead of addresses and names.
    pub redactor: Option<Redactor>,
}

pub struct Recorder {
    target: Target,
    options: Options,
    /// `None` once closed or failed: every call then does nothing.
    sink: Option<Sink>,
    buffer: Vec<u8>,
    seq: u64,
    part: u32,
    session: Option<Event>,
    recent: Recent,
    remembered: HashMap<SocketId, Remembered, CookieHash>,
    last_flush: Mono,
    last_event: Mono,
    /// Lines that a stalled reader of standard output cost since the last `lost` line.
    dropped: u64,
    dropped_total: u64,
}

impl Recorder {
    /// Opens the target; nothing is written yet.
    ///
    /// # Errors
    /// The target cannot be opened: one sentence with the way out.
    pub fn create(target: Target, options: Options) -> Result<Self, RecordError> {
        let sink = match &target {
            Target::Stdout => Sink::stdout()?,
            Target::File(path) => Sink::create(path)?,
        };
        Ok(Self {
            target,
            options,
            sink: Some(sink),
            buffer: Vec::with_capacity(BATCH_BYTES + 8_192),
            seq: 0,
            part: 0,
            session: None,
            recent: Recent::default(),
            remembered: HashMap::default(),
            last_flush: Mono(0),
            last_event: Mono(0),
            dropped: 0,
            dropped_total: 0,
        })
    }

    /// Records `event`, which `table` has already taken in. An event that says nothing new (a sample without change, a
    /// socket update the last line already has) gives no line. After `End` the recording is complete.
    ///
    /// # Errors
    /// Once, when the recording cannot go on; it is then closed and later calls do nothing.
    pub fn write(&mut self, event: &Event, table: &Table, clock: &WallClock) -> Result<(), RecordError> {
        if self.sink.is_none() {
            return Ok(());
        }
        self.last_event = self.last_event.max(event.at);
        if self.dropped > 0 || self.options.max_bytes.is_some() {
            self.make_room(event, clock)?;
        }
        match &event.kind {
            EventKind::Socket(update) => self.socket(event, update, table, clock),
            EventKind::Sample(sample) => {
                if self.sample_is_new(event.at, sample) {
                    self.introduce(Some(sample.socket), event.at, table, clock);
                    self.hot(event, clock);
                }
            }
            EventKind::State(change) => {
                self.introduce(change.socket, event.at, table, clock);
                self.hot(event, clock);
                match change.socket {
                    // Nobody will tell when it is gone.
                    Some(id) if change.last => {
                        self.remembered.remove(&id);
                        if let Some(socket) = table.get(id) {
                            self.whole(socket, event.at, false, clock);
                        }
                    }
                    Some(id) => {
                        if let Some(known) = self.remembered.get_mut(&id) {
                            known.state = Some(change.to);
                        }
                    }
                    None => {}
                }
            }
            EventKind::Retransmit(r) => {
                self.introduce(r.socket, event.at, table, clock);
                self.hot(event, clock);
            }
            EventKind::Reset(r) => {
                self.introduce(r.socket, event.at, table, clock);
                self.hot(event, clock);
            }
            _ => self.rare(event, table, clock),
        }
        if self.buffer.len() >= BATCH_BYTES || event.at.since(self.last_flush) >= FLUSH_EVERY {
            self.last_flush = event.at;
            self.flush(table, clock)?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn rare(&mut self, event: &Event, table: &Table, clock: &WallClock) {
        match &event.kind {
            EventKind::Session(_) => self.session = Some(event.clone()),
            EventKind::End(_) => self.final_sockets(event.at, table, clock),
            _ => {}
        }
        self.line(event, clock);
    }

    /// Sends what is buffered. To be called at least once a second; for standard output after each batch of events.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self, table: &Table, clock: &WallClock) -> Result<(), RecordError> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        match sink.take(&mut self.buffer) {
            Ok(()) => Ok(()),
            Err(e) => Err(self.fail(e, table.totals(), clock)),
        }
    }

    /// Sends the rest and closes the recording.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(&mut self) -> Result<(), RecordError> {
        let Some(mut sink) = self.sink.take() else { return Ok(()) };
        sink.finish(&mut self.buffer).map_err(|e| e.error)
    }

    /// The reader of standard output does not keep up: fetch no more from the kernel for now (what the ring cannot hold
    /// is counted there), flush and see.
    pub fn is_stalled(&self) -> bool {
        self.buffer.len() > STALLED_BYTES
    }

    /// False once the recording was finished or has failed.
    pub fn is_open(&self) -> bool {
        self.sink.is_some()
    }

    /// Lines written so far.
    pub fn lines(&self) -> u64 {
        self.seq
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// A socket line where it says something new.
    fn socket(&mut self, event: &Event, update: &SocketUpdate, table: &Table, clock: &WallClock) {
        let Some(id) = update.id else { return };
        let Some(socket) = table.get(id) else {
            self.line(event, clock);
            return;
        };
        if update.destroyed {
            self.remembered.remove(&id);
            self.whole(socket, event.at, true, clock);
            return;
        }
        let print = fingerprint(socket);
        let known = self.remembered.get(&id);
        let new = known.is_none_or(|k| k.fingerprint != print || (update.state.is_some() && k.state != socket.state));
        if new {
            self.remember(id, socket, print);
            self.whole(socket, event.at, false, clock);
        }
    }

    fn remember(&mut self, id: SocketId, socket: &Socket, print: u64) {
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        let known = self.remembered.entry(id).or_default();
        known.fingerprint = print;
        known.state = socket.state;
        known.revision = socket.revision;
    }

    /// In a continued file, a socket's own line before its first event: each part can be read alone.
    #[inline]
    fn introduce(&mut self, id: Option<SocketId>, at: Mono, table: &Table, clock: &WallClock) {
        if self.part > 0 {
            self.introduce_again(id, at, table, clock);
        }
    }

    #[cold]
    #[inline(never)]
    fn introduce_again(&mut self, id: Option<SocketId>, at: Mono, table: &Table, clock: &WallClock) {
        if let Some(id) = id
            && self.remembered.get(&id).is_none_or(|k| k.fingerprint == 0)
            && let Some(socket) = table.get(id)
        {
            self.remember(id, socket, fingerprint(socket));
            self.whole(socket, at, false, clock);
        }
    }

    fn final_sockets(&mut self, at: Mono, table: &Table, clock: &WallClock) {
        for socket in table.iter() {
            let seen = self.remembered.get(&socket.id).map(|k| k.revision);
            // A destroyed socket was forgotten with its last line.
            let told = seen == Some(socket.revision) || (seen.is_none() && socket.closed_at.is_some());
            if !told {
                self.whole(socket, at, false, clock);
            }
        }
    }

    /// The differences that a later reader could miss: bytes, queues, state, timer, failures. Ages alone are none.
    fn sample_is_new(&mut self, at: Mono, s: &Sample) -> bool {
        let t = &s.tcp;
        let mut h = hasher();
        (s.state, t.bytes_sent, t.bytes_received, t.bytes_acked, t.unacked_bytes, t.send_queue_bytes).hash(&mut h);
        (t.receive_queue_bytes, t.timer, t.backoff, t.retransmits, t.probes, t.total_retransmits).hash(&mut h);
        (t.unacked_segments, t.send_window_bytes == Some(0), s.gives_up_in.is_some()).hash(&mut h);
        let print = h.finish();
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        let known = self.remembered.entry(s.socket).or_default();
        let soon = known.sample_at.is_some_and(|last| at.since(last) < SAMPLE_EVERY);
        if soon || (known.sample == print && known.sample_at.is_some()) {
            return false;
        }
        known.sample = print;
        known.sample_at = Some(at);
        known.state = Some(s.state);
        true
    }

    fn hot(&mut self, event: &Event, clock: &WallClock) {
        if self.over_backlog() {
            return;
        }
        let written = match &mut self.options.redactor {
            None => hot::write(&mut self.buffer, event, self.seq, &mut self.recent, clock),
            Some(r) => hot::write(&mut self.buffer, &r.event(event), self.seq, &mut self.recent, clock),
        };
        if written {
            self.buffer.push(b'\n');
            self.seq += 1;
        }
    }

    /// Any line but that of a whole socket.
    #[inline(never)]
    fn line(&mut self, event: &Event, clock: &WallClock) {
        if self.over_backlog() {
            return;
        }
        let (redacted, part, seq) = (self.options.redactor.is_some(), self.part, self.seq);
        let copy;
        let event = match &mut self.options.redactor {
            None => event,
            Some(r) => {
                copy = r.event(event);
                &copy
            }
        };
        if let Some(mut line) = Line::new(event, LineContext { seq, clock, socket: None, redacted, part }) {
            if let (Line::Session(l), true, Some(first)) = (&mut line, part > 0, &self.session) {
                l.started = Some(Time::new(clock, first.at));
            }
            push(&mut self.buffer, &line, &mut self.seq);
        }
    }

    fn whole(&mut self, socket: &Socket, at: Mono, destroyed: bool, clock: &WallClock) {
        if self.over_backlog() {
            return;
        }
        let copy;
        let socket = match &mut self.options.redactor {
            None => socket,
            Some(r) => {
                copy = r.socket(socket);
                &copy
            }
        };
        let described = Described::whole(socket, at, destroyed);
        hot::socket(&mut self.buffer, &described, at, self.seq, &mut self.recent, clock);
        self.buffer.push(b'\n');
        self.seq += 1;
    }

    fn over_backlog(&mut self) -> bool {
        let over = self.buffer.len() > MAX_BACKLOG_BYTES;
        if over {
            self.dropped += 1;
            self.dropped_total += 1;
        }
        over
    }

    /// Before a line: says what a stalled reader cost, and moves on to the next file when this one is full.
    #[inline(never)]
    fn make_room(&mut self, event: &Event, clock: &WallClock) -> Result<(), RecordError> {
        if self.dropped > 0 && self.buffer.len() < STALLED_BYTES {
            let lost = Lost { ring_full: std::mem::take(&mut self.dropped), ..Lost::default() };
            self.line(&Event { at: event.at, kind: EventKind::Lost(lost) }, clock);
        }
        let (Some(max), Some(sink), Target::File(base)) = (self.options.max_bytes, &self.sink, &self.target) else {
            return Ok(());
        };
        // Compressed text takes about an eighth; the estimate only decides when to look.
        let pending = if sink.is_compressed() { self.buffer.len() / 8 } else { self.buffer.len() } as u64;
        if self.seq == 0 || sink.len() + pending < max {
            return Ok(());
        }
        let next = part_path(base, self.part + 1);
        let beyond = self.options.max_files.and_then(|n| (self.part + 2).checked_sub(n)).filter(|n| *n > 0);
        let beyond = beyond.map(|n| part_path(base, n));
        self.finish()?;
        self.sink = Some(Sink::create(&next)?);
        self.part += 1;
        if let Some(old) = beyond {
            // Best effort, like every housekeeping: a file that is gone already is what was wanted.
            let _ = std::fs::remove_file(old);
        }
        self.remembered.clear();
        if let Some(mut session) = self.session.clone() {
            session.at = event.at;
            self.line(&session, clock);
        }
        Ok(())
    }

    /// Closes a recording that cannot be written, with an `end` line where there is room for one.
    fn fail(&mut self, e: SinkError, totals: Totals, clock: &WallClock) -> RecordError {
        if let (Some(mut sink), RecordError::Failed(why)) = (self.sink.take(), &e.error)
            && let Some(session) = &self.session
            && !sink.is_compressed()
        {
            let at = self.last_event;
            let duration = at.since(session.at);
            let end = End { reason: format!("recording failed: {why}"), duration, totals };
            let mut event = Event { at, kind: EventKind::End(Box::new(end)) };
            if let Some(r) = &mut self.options.redactor {
                event = r.event(&event);
            }
            let mut seq = self.seq.saturating_sub(e.unwritten_lines);
            let cx = LineContext { seq, clock, socket: None, redacted: false, part: self.part };
            let mut last = Vec::new();
            if let Some(line) = Line::new(&event, cx) {
                push(&mut last, &line, &mut seq);
            }
            // No room even for this line: the recording then simply ends, and its reader says so.
            let _ = sink.take(&mut last);
        }
        self.buffer = Vec::new();
        e.error
    }
}

fn push(buffer: &mut Vec<u8>, line: &Line<'_>, seq: &mut u64) {
    let start = buffer.len();
    match serde_json::to_writer(&mut *buffer, line) {
        Ok(()) => {
            buffer.push(b'\n');
            *seq += 1;
        }
        // Cannot happen when writing into memory; half a line must not stay all the same.
        Err(_) => buffer.truncate(start),
    }
}
