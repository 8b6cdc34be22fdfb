//! `--json`: the contract's `socket` and `finding` lines.

use std::borrow::Cow;
use std::io::{self, Write};

use super::collect::Row;
use crate::model::{Event, EventKind, Finding, Mono, WallClock};
use crate::view::schema::{
    Addr, Clock, Cookie, CountersPart, Line, LineContext, OwnerPart, Seconds, SocketLine, Time, hot,
};

/// Written at once.
const PART: usize = 256 * 1024;

/// Collects lines and writes them in large parts: the JSON of a line is made of dozens of tiny pieces.
pub struct Writer<W> {
    out: W,
    buffer: Vec<u8>,
    seq: u64,
    time: Time,
    clock: WallClock,
    text: Clock,
    now: Mono,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W, clock: WallClock, now: Mono) -> Self {
        let (buffer, text) = (Vec::with_capacity(PART + 4096), Clock::default());
        Self { out, buffer, seq: 0, time: Time::new(&clock, now), clock, text, now }
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
        if self.buffer.len() >= PART { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }
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
