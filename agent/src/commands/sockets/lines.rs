//! `--json`: the contract's `socket` and `finding` lines.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

use super::collect::Row;
use crate::model::{Counters, Event, EventKind, Finding, Mono, WallClock};
use crate::view::schema::{Described, Line, LineContext, Recent, hot};

/// Written at once.
const PART: usize = 256 * 1024;
/// Parts that may wait for a slow reader.
const PARTS: usize = 2;

/// Collects lines and writes them in large parts, on a thread of its own: writing to a file takes 23 ms where making
/// the lines takes 38 (50,000 sockets).
pub struct Writer {
    buffer: Vec<u8>,
    full: Option<SyncSender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    seq: u64,
    clock: WallClock,
    recent: Recent,
    now: Mono,
}

impl Writer {
    pub fn new(out: impl Write + Send + 'static, clock: WallClock, now: Mono) -> Self {
        let (full, parts) = mpsc::sync_channel(PARTS);
        let (back, empty) = mpsc::channel();
        let thread = std::thread::spawn(move || write_all(out, parts, back));
        Self {
            buffer: Vec::with_capacity(PART + 4096),
            full: Some(full),
            empty,
            thread: Some(thread),
            seq: 0,
            clock,
            recent: Recent::default(),
            now,
        }
    }

    pub fn write(&mut self, row: &Row) -> io::Result<()> {
        hot::socket(&mut self.buffer, &described(row), self.now, self.seq, &mut self.recent, &self.clock);
        self.end_line()
    }

    pub fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let event = Event { at: self.now, kind: EventKind::Finding(Box::new(finding.clone())) };
        let cx = LineContext { seq: self.seq, clock: &self.clock, socket: None, redacted: false, part: 0 };
        let Some(line) = Line::new(&event, cx) else { return Ok(()) };
        serde_json::to_writer(&mut self.buffer, &line)?;
        self.end_line()
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.seq += 1;
        self.buffer.push(b'\n');
        if self.buffer.len() >= PART { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> io::Result<()> {
        let next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(PART + 4096));
        let part = std::mem::replace(&mut self.buffer, next);
        match &self.full {
            Some(full) if full.send(part).is_ok() => Ok(()),
            _ => self.join(),
        }
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// Here or from an earlier call: what writing failed with, once.
    pub fn finish(&mut self) -> io::Result<()> {
        self.send()?;
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        self.full = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

fn write_all(mut out: impl Write, parts: Receiver<Vec<u8>>, back: Sender<Vec<u8>>) -> io::Result<()> {
    for mut part in parts {
        out.write_all(&part)?;
        part.clear();
        // Nobody needs it any more.
        let _ = back.send(part);
    }
    out.flush()
}

fn described(row: &Row) -> Described<'_> {
    let s = &row.socket;
    Described {
        id: s.id,
        family: Some(s.family),
        local: Some(s.flow.local),
        remote: Some(s.flow.remote).filter(|a| a.port() != 0),
        remote_name: row.remote_name.as_deref(),
        netns: Some(row.netns),
        owners: &row.owners,
        direction: row.direction,
        state: Some(s.state),
        opened: None,
        idle: row.idle(),
        keepalive: row.keepalive,
        counters: Counters::default(),
        tcp: s.tcp,
        gives_up_in: row.gives_up_in,
        mptcp: Some(s.mptcp),
        orphaned: s.is_orphan(),
        destroyed: false,
    }
}
