//! Recorded events as a source: reads a recording line by line, whatever happened to it on the way.
//!
//! Lines of later minor versions, garbage, cuts at any byte and missing parts are counted, never fatal: what can be read
//! is read, and [`Stats`] says what could not.

mod ahead;
mod input;

pub use ahead::Ahead;
pub use input::{Found, Lines, MAX_LINE};

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::model::{Event, EventKind, Mono, WallClock};
use crate::schema::{Line, ReadError, TIME_LEN, Time, part_path};

/// Lines that may be unreadable before the first readable one; a recording begins with its session.
const MAX_BAD_START: u64 = 1_000;
/// Monotonic time of the first line where a recording does not tell: 30 days, so that earlier times fit before it.
const DEFAULT_START: Mono = Mono(30 * 86_400 * 1_000_000_000);

/// What was read and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lines with an event.
    pub events: u64,
    /// No JSON, or fields that are not what they should be.
    pub unreadable: u64,
    /// Of a type or with a word that this version does not know.
    pub unknown: u64,
    pub too_long: u64,
    /// Lines that are missing by their `seq`.
    pub missing: u64,
    /// The last line is cut, or the compressed stream breaks off.
    pub cut: bool,
    /// There was an `end` line.
    pub ended: bool,
    /// Addresses and names are pseudonyms already.
    pub redacted: bool,
    /// Continuations (FILE.1, ...) that were read.
    pub parts: u32,
    /// Continuations before them that are gone, as `--max-files` has it.
    pub parts_gone: u32,
}

impl Stats {
    /// What a reader of the outcome must know; empty for a whole recording.
    pub fn remarks(&self) -> Vec<String> {
        let n = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut out = Vec::new();
        if self.cut {
            out.push("the recording is cut off in its last line".to_owned());
        } else if !self.ended {
            out.push("the recording has no end: the agent was killed, or is still writing".to_owned());
        }
        if self.unreadable > 0 {
            out.push(format!("{} could not be read", n(self.unreadable, "line")));
        }
        if self.too_long > 0 {
            out.push(format!("{} longer than 1 MiB skipped", n(self.too_long, "line")));
        }
        if self.unknown > 0 {
            out.push(format!("{} of a later version of the schema skipped", n(self.unknown, "line")));
        }
        if self.parts_gone > 0 {
            out.push(format!("{} of the rotated recording deleted", n(self.parts_gone.into(), "file")));
        }
        if self.missing > 0 {
            out.push(format!("{} missing", n(self.missing, "line")));
        }
        out
    }
}

/// A recording, read from its beginning.
pub struct Recording {
    path: PathBuf,
    lines: Lines,
    line: Vec<u8>,
    clock: Option<WallClock>,
    stats: Stats,
    next_seq: Option<u64>,
    part: u32,
    /// Time of the first session line.
    started: Option<Time>,
    done: bool,
}

impl Recording {
    /// Opens `path`; its continuations follow by themselves.
    ///
    /// # Errors
    /// The file cannot be opened: one sentence.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::new(path, Lines::open(path)?))
    }

    /// A recording from bytes; `path` names it and its continuations.
    pub fn new(path: &Path, lines: Lines) -> Self {
        Self {
            path: path.to_owned(),
            lines,
            line: Vec::with_capacity(4_096),
            clock: None,
            stats: Stats::default(),
            next_seq: None,
            part: 0,
            started: None,
            done: false,
        }
    }

    /// The clock of the recording, from its first line on.
    pub fn clock(&self) -> Option<WallClock> {
        self.clock
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The next event; `None` at the end, or where the rest is lost.
    ///
    /// # Errors
    /// The file is no recording at all, or of a later major version, or cannot be read.
    pub fn next_event(&mut self) -> anyhow::Result<Option<Event>> {
        while !self.done {
            let found = self.lines.next(&mut self.line);
            let found = found.with_context(|| format!("cannot read the recording {}", self.path.display()))?;
            let tail = found == Found::Tail;
            match found {
                Found::Line | Found::Tail => {}
                Found::TooLong => {
                    self.stats.too_long += 1;
                    continue;
                }
                Found::NotText => {
                    self.stats.unreadable += 1;
                    self.finish(false)?;
                    continue;
                }
                Found::Broken(_) => {
                    self.finish(true)?;
                    continue;
                }
                Found::End => {
                    self.finish(false)?;
                    continue;
                }
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            match self.take() {
                Ok(event) => return Ok(Some(event)),
                Err(Refused::Major(why)) => bail!(why),
                Err(Refused::Read(ReadError::Unknown(_))) => self.stats.unknown += 1,
                Err(Refused::Read(ReadError::Malformed(_))) if tail => self.stats.cut = true,
                Err(Refused::Read(ReadError::Malformed(_))) => self.stats.unreadable += 1,
            }
            if self.clock.is_none() && self.stats.unreadable + self.stats.unknown >= MAX_BAD_START {
                bail!(self.no_recording());
            }
        }
        Ok(None)
    }

    fn take(&mut self) -> Result<Event, Refused> {
        let line = Line::parse(&self.line).map_err(Refused::Read)?;
        let at = line.time();
        if let Line::Session(s) = &line {
            let version = s.schema.strip_prefix("agent.events/").and_then(|v| v.split('.').next());
            match version.and_then(|v| v.parse::<u32>().ok()) {
                Some(1) => {}
                Some(v) if v > 1 => {
                    return Err(Refused::Major(format!(
                        "{} is written in schema agent.events/{v}; this agent reads agent.events/1: use a later agent",
                        self.path.display()
                    )));
                }
                _ => return Err(Refused::Read(ReadError::Unknown("schema".into()))),
            }
            self.stats.redacted |= s.redacted;
            self.started = self.started.or(Some(s.time));
        }
        let clock = match self.clock {
            Some(clock) => clock,
            None => {
                let start = match &line {
                    Line::Session(s) => s.monotonic_ns.map_or(DEFAULT_START, Mono),
                    _ => DEFAULT_START,
                };
                *self.clock.insert(WallClock::new(at.0.into(), start))
            }
        };
        let seq = line.seq();
        let event = line.event(&clock);
        if let Some(expected) = self.next_seq {
            self.stats.missing = self.stats.missing.saturating_add(seq.saturating_sub(expected));
        }
        self.next_seq = Some(seq.saturating_add(1));
        let event = event.map_err(Refused::Read)?;
        self.stats.events += 1;
        self.stats.ended |= matches!(event.kind, EventKind::End(_));
        Ok(event)
    }

    /// The end of a file: goes on in the next part of a rotated recording, if there is one that continues this one.
    fn finish(&mut self, cut: bool) -> anyhow::Result<()> {
        self.done = true;
        self.stats.cut |= cut;
        if self.clock.is_none() {
            if self.stats == Stats::default() {
                bail!("the recording {} is empty: nothing was written to it", self.path.display());
            }
            bail!(self.no_recording());
        }
        if self.stats.ended || self.stats.cut {
            return Ok(());
        }
        // Only right after the first file does a recorder delete any.
        let next = if self.part == 0 { first_part(&self.path) } else { Some(self.part + 1) };
        let Some(next) = next else { return Ok(()) };
        let Ok(mut lines) = Lines::open(&part_path(&self.path, next)) else { return Ok(()) };
        let mut first = Vec::new();
        if matches!(lines.next(&mut first), Ok(Found::Line))
            && let Ok(Line::Session(s)) = Line::parse(&first)
            && s.part == next
            && let Some(expected) = self.next_seq
            && (s.seq == expected || (next > 1 && s.seq > expected && s.started.is_some() && s.started == self.started))
        {
            self.lines = lines;
            self.stats.missing = self.stats.missing.saturating_add(s.seq - expected);
            self.stats.parts_gone += next - self.part - 1;
            self.part = next;
            self.stats.parts += 1;
            self.next_seq = Some(s.seq + 1);
            self.done = false;
        }
        Ok(())
    }

    fn no_recording(&self) -> String {
        format!(
            "{} is no recording of agent: no line of schema agent.events/1 in it; record with `agent watch --json FILE`",
            self.path.display()
        )
    }
}

/// The lowest number of a continuation of `path` that is there.
fn first_part(path: &Path) -> Option<u32> {
    let prefix = format!("{}.", path.file_name()?.to_str()?);
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = std::fs::read_dir(dir).ok()?.flatten().map(|e| e.file_name());
    names.filter_map(|n| n.to_str()?.strip_prefix(&prefix)?.parse::<u32>().ok()).filter(|n| *n > 0).min()
}

enum Refused {
    Read(ReadError),
    /// A later major version: nothing of it can be trusted.
    Major(String),
}

/// Bytes at the end of a plain file that surely hold its last line.
const TAIL: u64 = 2 * MAX_LINE as u64;

/// The time of the last readable line of a recording and its continuations. A plain file is read from its end; a
/// compressed one has to be read through.
///
/// # Errors
/// The file cannot be read.
pub fn last_line_time(path: &Path) -> anyhow::Result<Option<Time>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let first = first_part(path).unwrap_or(1);
    let last_part = (first..).map(|n| part_path(path, n)).take_while(|p| p.exists()).last();
    let path = last_part.as_deref().unwrap_or(path);
    let time_of = |line: &[u8]| Line::parse(line).ok().map(|l| l.time());
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let length = file.metadata()?.len();
    let mut lines = Lines::open(path)?;
    if !lines.is_compressed() {
        let mut end = Vec::new();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        file.take(TAIL).read_to_end(&mut end)?;
        return Ok(end.split(|b| *b == b'\n').rev().find_map(time_of));
    }
    let (mut line, mut last) = (Vec::new(), None);
    loop {
        match lines.next(&mut line)? {
            // Only the start of a line is looked at: `time` is one of the first fields.
            Found::Line | Found::Tail => last = leading_time(&line).or(last),
            Found::TooLong => {}
            Found::End | Found::NotText | Found::Broken(_) => return Ok(last),
        }
    }
}

/// The time of a line as this program writes it, without parsing the rest.
fn leading_time(line: &[u8]) -> Option<Time> {
    const KEY: &[u8] = b",\"time\":\"";
    let start = memchr::memmem::find(&line[..line.len().min(200)], KEY)? + KEY.len();
    let text = line.get(start..start + TIME_LEN)?;
    Time::parse(std::str::from_utf8(text).ok()?)
}
