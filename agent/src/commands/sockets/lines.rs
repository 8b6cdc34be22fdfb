//! `--json`: the contract's `socket` and `finding` lines.

use std::io::{self, Write};
use std::thread::JoinHandle;

use super::collect::Row;
use crate::model::{Counters, Event, EventKind, Finding, Mono, WallClock};
use crate::view::schema::{Described, Line, LineContext, Recent, hot};

/// Written at once.
const PART: usize = 512 * 1024;
/// A line fits into what is left of a part.
const ROOM: usize = 4096;

type Out = Box<dyn Write + Send>;
/// Ends with what it was given: where it wrote, and the memory of the part.
type Writing = JoinHandle<io::Result<(Out, Vec<u8>)>>;

/// Collects lines and writes them in large parts, each on a thread of its own while the next lines are made: writing to
/// a file takes as long as making half of them. A new thread goes to a processor that is idle, where one that is woken
/// may stay on that of its waker (virtual machines whose processors seem to share no cache).
pub struct Writer {
    buffer: Vec<u8>,
    /// Absent while a part is being written, and after an error.
    out: Option<Out>,
    writing: Option<Writing>,
    seq: u64,
    clock: WallClock,
    recent: Recent,
    now: Mono,
}

impl Writer {
    pub fn new(out: impl Write + Send + 'static, clock: WallClock, now: Mono) -> Self {
        Self {
            buffer: Vec::with_capacity(PART + ROOM),
            out: Some(Box::new(out)),
            writing: None,
            seq: 0,
            clock,
            recent: Recent::listing(),
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
        if self.buffer.len() < PART {
            return Ok(());
        }
        let next = self.written()?;
        let mut part = std::mem::replace(&mut self.buffer, next);
        let Some(mut out) = self.out.take() else { return Ok(()) };
        self.writing = Some(std::thread::Builder::new().spawn(move || {
            out.write_all(&part)?;
            part.clear();
            Ok((out, part))
        })?);
        Ok(())
    }

    /// Waits until the part before is written; returns its memory.
    fn written(&mut self) -> io::Result<Vec<u8>> {
        match self.writing.take().map(JoinHandle::join) {
            Some(Ok(written)) => {
                let (out, part) = written?;
                self.out = Some(out);
                Ok(part)
            }
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(Vec::with_capacity(PART + ROOM)),
        }
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// Here or from an earlier call: what writing failed with, once.
    pub fn finish(&mut self) -> io::Result<()> {
        self.written()?;
        let Some(out) = &mut self.out else { return Ok(()) };
        out.write_all(&self.buffer)?;
        self.buffer.clear();
        out.flush()
    }
}

fn described(row: &Row) -> Described<'_> {
    let s = &row.socket;
    Described {
        id: s.id,
        family: Some(s.family),
        local: Some(&s.flow.local),
        remote: Some(&s.flow.remote).filter(|a| a.port() != 0),
        remote_name: row.remote_name.as_deref(),
        netns: Some(row.netns),
        owners: &row.owners,
        direction: row.direction,
        state: Some(s.state),
        opened: None,
        idle: row.idle(),
        keepalive: row.keepalive.as_ref(),
        counters: &Counters::NONE,
        tcp: Some(&s.tcp),
        gives_up_in: row.gives_up_in,
        mptcp: Some(s.mptcp),
        orphaned: s.is_orphan(),
        destroyed: false,
    }
}
