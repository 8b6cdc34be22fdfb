//! How the outcome of an action is told: a table for a person, one JSON line per action for a program.

use std::io::{self, Write};

use crate::action::options::values_text;
use crate::action::{Outcome, milliseconds};
use crate::model::{ActionKind, ActionRecord, ActionResult, Event, EventKind, Mono, WallClock};
use crate::view::schema::{Line, LineContext};
use crate::view::text::{plural, safe};

/// Widest destination that the table leaves whole: `[IPv6]:port` in its longest form.
const REMOTE_WIDTH: usize = 47;

/// Thousands of rows leave in a few writes.
const BUFFER: usize = 256 * 1024;

/// `applied`, ...
pub fn result_text(r: ActionResult) -> &'static str {
    match r {
        ActionResult::Applied => "applied",
        ActionResult::Unchanged => "unchanged",
        ActionResult::Failed => "failed",
        ActionResult::WouldApply => "would apply",
    }
}

/// Prints `outcome`; the exit code is 1 if anything failed.
pub fn print(out: &mut dyn Write, outcome: &Outcome, json: bool) -> io::Result<()> {
    if json { lines(out, outcome) } else { table(&mut io::BufWriter::with_capacity(BUFFER, out), outcome) }
}

pub fn exit_code(outcome: &Outcome) -> u8 {
    u8::from(outcome.count(ActionResult::Failed) > 0)
}

/// One action as a line of the public JSON.
pub fn line(out: &mut dyn Write, record: &ActionRecord, seq: u64, clock: &WallClock) -> io::Result<()> {
    let event = Event { at: Mono::now(), kind: EventKind::Action(Box::new(record.clone())) };
    let cx = LineContext { seq, clock, socket: None, redacted: false, part: 0 };
    if let Some(line) = Line::new(&event, cx) {
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

fn lines(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    let clock = WallClock::read();
    let mut out = io::BufWriter::with_capacity(BUFFER, out);
    for (seq, event) in (0u64..).zip(outcome.events(Mono::now())) {
        let cx = LineContext { seq, clock: &clock, socket: None, redacted: false, part: 0 };
        if let Some(line) = Line::new(&event, cx) {
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

fn table(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    let rows: Vec<&ActionRecord> = outcome.records.iter().filter(|r| r.socket.is_some() || r.fd.is_some()).collect();
    if !rows.is_empty() {
        let remote = |r: &ActionRecord| r.remote.clone().unwrap_or_else(|| "?".into());
        let width =
            |f: &dyn Fn(&ActionRecord) -> usize, head: usize| rows.iter().map(|r| f(r)).max().unwrap_or(0).max(head);
        let value = |v: Option<crate::model::OptionValues>| v.map_or("-".to_owned(), values_text);
        let w_remote = width(&|r| remote(r).len(), 6).min(REMOTE_WIDTH);
        let closes = rows.iter().all(|r| r.action == ActionKind::Close);
        let w_before = width(&|r| value(r.before).len(), 6);
        let w_after = width(&|r| value(r.after).len(), 5);
        if closes {
            writeln!(out, "{:>7} {:>6}  {:<w_remote$}  RESULT", "PID", "FD", "REMOTE")?;
        } else {
            let (b, a) = ("BEFORE", "AFTER");
            writeln!(
                out,
                "{:>7} {:>6}  {:<w_remote$}  {b:<w_before$}    {a:<w_after$}  RESULT",
                "PID", "FD", "REMOTE"
            )?;
        }
        for r in rows {
            let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
            let (pid, fd) = (number(r.pid.map(i64::from)), number(r.fd.map(i64::from)));
            let remote = remote(r);
            write!(out, "{pid:>7} {fd:>6}  {remote:<w_remote$}  ")?;
            if !closes {
                write!(out, "{:<w_before$} →  {:<w_after$}  ", value(r.before), value(r.after))?;
            }
            writeln!(out, "{}", result_text(r.result))?;
            for text in r.error.iter().chain(&r.note) {
                writeln!(out, "{:>16}{}", "", safe(text))?;
            }
        }
    }
    for r in outcome.records.iter().filter(|r| r.socket.is_none() && r.fd.is_none()) {
        writeln!(out, "{}", safe(r.error.as_deref().unwrap_or_default()))?;
    }
    out.flush()
}

/// What is true of the whole, for stderr: `3 sockets: 2 applied, 1 unchanged in 0.2 ms`, what was skipped, notes.
pub fn summary(outcome: &Outcome) -> Vec<String> {
    let mut out = Vec::new();
    let sockets = outcome.records.iter().filter(|r| r.socket.is_some()).count();
    if sockets > 0 {
        let parts: Vec<String> =
            [ActionResult::Applied, ActionResult::WouldApply, ActionResult::Unchanged, ActionResult::Failed]
                .into_iter()
                .map(|r| (outcome.records.iter().filter(|x| x.socket.is_some() && x.result == r).count(), r))
                .filter(|(n, _)| *n > 0)
                .map(|(n, r)| format!("{n} {}", result_text(r)))
                .collect();
        out.push(format!("{}: {} in {}", plural(sockets, "socket"), parts.join(", "), milliseconds(outcome.took)));
    }
    if outcome.skipped != Default::default() {
        out.push(outcome.skipped.to_string());
    }
    out.extend(outcome.notes.iter().cloned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Method, OptionValues, SocketId};

    fn record(result: ActionResult) -> ActionRecord {
        ActionRecord {
            action: ActionKind::Keepalive,
            socket: Some(SocketId(0x1a)),
            pid: Some(4182),
            fd: Some(23),
            method: Method::Pidfd,
            before: Some(OptionValues::default()),
            after: Some(OptionValues { enabled: true, idle_s: 30, interval_s: 10, count: 3, user_timeout_ms: 0 }),
            result,
            error: None,
            remote: Some("192.0.2.1:443".into()),
            note: Some("a\u{1b}[2Jb".into()),
        }
    }

    #[test]
    fn the_table_shows_before_and_after_and_no_escape_sequence() {
        let outcome = Outcome { records: vec![record(ActionResult::Applied)], ..Default::default() };
        let mut text = Vec::new();
        print(&mut text, &outcome, false).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "    PID     FD  REMOTE         BEFORE    AFTER      RESULT\n   \
             4182     23  192.0.2.1:443  off    →  30s/10s/3  applied\n                \
             a\u{fffd}[2Jb\n"
        );
    }

    #[test]
    fn json_is_the_public_line_and_failure_is_an_exit_code() {
        let outcome = Outcome {
            records: vec![record(ActionResult::Applied), record(ActionResult::Failed)],
            ..Default::default()
        };
        let mut text = Vec::new();
        print(&mut text, &outcome, true).unwrap();
        let lines: Vec<serde_json::Value> =
            text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
        assert_eq!(lines[0]["type"], "action");
        assert_eq!(lines[0]["socket"], "1a");
        assert_eq!((lines[0]["seq"].as_u64(), lines[1]["seq"].as_u64()), (Some(0), Some(1)));
        assert_eq!(lines[1]["result"], "failed");
        assert_eq!(exit_code(&outcome), 1);
        assert_eq!(summary(&outcome)[0].split(" in ").next(), Some("2 sockets: 1 applied, 1 failed"));
    }
}
