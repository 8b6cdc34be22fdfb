//! The public JSON: schema `agent.events/1`, one object per line (`agent schema` prints the JSON
//! Schema that is generated from these types).
//!
//! `Line::new` writes an event, `Line::parse` and `Line::events` read it back, so that a recording gives the same
//! state and findings as the run it was made from.

mod alike;
mod described;
mod digits;
mod fields;
pub mod hot;
mod kinds;
mod lines;
mod parts;
mod read;
mod recent;
mod room;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
mod wire;
mod write;

pub use described::Described;
pub use lines::*;
pub use parts::*;
pub use read::ReadError;
pub use recent::Recent;
pub use wire::*;
pub use write::LineContext;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

/// The name and major version of the schema.
pub const SCHEMA: &str = "agent.events/1";

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Line<'a> {
    Session(Box<SessionLine<'a>>),
    Socket(Box<SocketLine<'a>>),
    State(StateLine),
    Retransmit(RetransmitLine),
    Reset(ResetLine<'a>),
    Sample(SampleLine),
    Exit(ExitLine),
    Finding(FindingLine<'a>),
    Action(ActionLine<'a>),
    Limits(LimitsLine<'a>),
    Lost(LostLine),
    End(EndLine<'a>),
}

impl Line<'_> {
    pub fn time(&self) -> Time {
        match self {
            Self::Session(l) => l.time,
            Self::Socket(l) => l.time,
            Self::State(l) => l.time,
            Self::Retransmit(l) => l.time,
            Self::Reset(l) => l.time,
            Self::Sample(l) => l.time,
            Self::Exit(l) => l.time,
            Self::Finding(l) => l.time,
            Self::Action(l) => l.time,
            Self::Limits(l) => l.time,
            Self::Lost(l) => l.time,
            Self::End(l) => l.time,
        }
    }

    pub fn seq(&self) -> u64 {
        match self {
            Self::Session(l) => l.seq,
            Self::Socket(l) => l.seq,
            Self::State(l) => l.seq,
            Self::Retransmit(l) => l.seq,
            Self::Reset(l) => l.seq,
            Self::Sample(l) => l.seq,
            Self::Exit(l) => l.seq,
            Self::Finding(l) => l.seq,
            Self::Action(l) => l.seq,
            Self::Limits(l) => l.seq,
            Self::Lost(l) => l.seq,
            Self::End(l) => l.seq,
        }
    }
}

/// The JSON Schema (draft 2020-12) of one line.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Line<'static>);
    schema.insert("title".into(), SCHEMA.into());
    schema.into()
}

/// The files of a recording in parts: `FILE`, `FILE.1`, `FILE.2`, ...
pub fn part_path(base: &Path, part: u32) -> PathBuf {
    if part == 0 {
        return base.to_owned();
    }
    let mut name = base.as_os_str().to_owned();
    name.push(format!(".{part}"));
    PathBuf::from(name)
}
