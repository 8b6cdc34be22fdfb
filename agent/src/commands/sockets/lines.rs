//! `--json`: the contract's `socket` and `finding` lines.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

use super::collect::Row;
use crate::model::{Event, EventKind, Finding, Mono, WallClock};
use crate::view::schema::{
    Addr, Clock, Cookie, CountersPart, Line, LineContext, OwnerPart, Seconds, SocketLine, Time, hot,
};

/// Written at once.
const PART: usize = 256 * 1024;
/// Parts that may wait for a slow reader.
const PARTS: usize = 2;

/// Collects lines and writes them in large parts, on a thread of its own: writing to a file takes 23 ms where making the lines takes 38
/// (50,000 sockets).
pub struct Writer {
    buffer: Vec<u8>,
    full: Option<SyncSender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    seq: u64,
    time: Time,
    clock: WallClock,
    text: Clock,
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
            time: Time::new(&clock, now),
            clock,
            text: Clock::default(),
            now,
        }
    }

    pub fn write(&mut self, row: &Row) -> io::Result<()> {
        hot::socket(&mut self.buffer, &line(self.seq, self.time, row), &mut self.text);
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

fn line(seq: u64, time: Time, row: &Row) -> SocketLine<'_> {
    let s = &row.socket;
    SocketLine {
        seq,
        time,
        socket: Cookie(s.id),
        family: Some(s.family.into()),
        local: Some(Addr(s.flow.local)),
        remote: Some(Addr(s.flow.remote)).filter(|a| a.0.port() != 0),
        remote_name: row.remote_name.as_deref().map(Cow::from),
        netns: Some(row.netns),
        owners: (row.owners.iter())
            .map(|o| OwnerPart { pid: o.pid, comm: (&*o.comm).into(), fd: o.fd, program: Vec::new() })
            .collect(),
        direction: row.direction.map(Into::into),
        state: Some(s.state.into()),
        opened: None,
        idle_s: row.idle().map(Seconds),
        keepalive: row.keepalive.map(Into::into),
        counters: CountersPart::default(),
        tcp: s.tcp.into(),
        gives_up_in_s: row.gives_up_in.map(Seconds),
        mptcp: Some(s.mptcp),
        orphaned: s.is_orphan(),
        destroyed: false,
    }
}
