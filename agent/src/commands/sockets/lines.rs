//! `--json`: the contract's `socket` and `finding` lines.

use std::borrow::Cow;
use std::io::{self, Write};

use super::collect::Row;
use crate::model::{Event, EventKind, Finding, Mono, WallClock};
use crate::view::schema::{Addr, Cookie, CountersPart, Line, LineContext, OwnerPart, Seconds, SocketLine, Time};

pub struct Writer {
    seq: u64,
    time: Time,
    clock: WallClock,
    now: Mono,
}

impl Writer {
    pub fn new(clock: WallClock, now: Mono) -> Self {
        Self { seq: 0, time: Time::new(&clock, now), clock, now }
    }

    pub fn write(&mut self, out: &mut dyn Write, row: &Row) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &self.line(row))?;
        self.seq += 1;
        out.write_all(b"\n")
    }

    pub fn finding(&mut self, out: &mut dyn Write, finding: &Finding) -> io::Result<()> {
        let event = Event { at: self.now, kind: EventKind::Finding(Box::new(finding.clone())) };
        let cx = LineContext { seq: self.seq, clock: &self.clock, socket: None, redacted: false, part: 0 };
        let Some(line) = Line::new(&event, cx) else { return Ok(()) };
        serde_json::to_writer(&mut *out, &line)?;
        self.seq += 1;
        out.write_all(b"\n")
    }

    fn line<'a>(&self, row: &'a Row) -> Line<'a> {
        let s = &row.socket;
        Line::Socket(Box::new(SocketLine {
            seq: self.seq,
            time: self.time,
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
        }))
    }
}
