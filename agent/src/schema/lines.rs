//! The fields of each line. What DESIGN and docs call the contract is always present, `null` where unknown; fields that
//! were added later to inner objects may be absent instead, which means the same.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{
    CountersPart, DetailPart, EvidencePart, HookPart, IdleFigurePart, KeepalivePart, OptionsPart, OwnerPart,
    PacketPart, TargetsPart, TcpPart, Text, TotalsPart,
};
use super::wire::{
    ActionKind, ActionResult, Addr, Confidence, Cookie, Direction, Family, FindingStatus, Method, ResetDirection,
    ResetOrigin, RetransmitKind, Seconds, TcpState, Time,
};

/// First line: what was watched, and with what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionLine<'a> {
    /// From 0, no gaps.
    pub seq: u64,
    pub time: Time,
    /// `agent.events/1`; a later minor version may write `agent.events/1.N`.
    #[serde(borrow)]
    pub schema: Text<'a>,
    #[serde(borrow)]
    pub agent_version: Text<'a>,
    #[serde(borrow)]
    pub kernel_release: Text<'a>,
    #[serde(borrow)]
    pub arch: Text<'a>,
    #[serde(default)]
    pub command: Vec<Text<'a>>,
    #[serde(borrow, default)]
    pub targets: TargetsPart<'a>,
    #[serde(default)]
    pub hooks: Vec<HookPart<'a>>,
    /// sysctl by its file name; null where it could not be read.
    #[serde(default)]
    pub sysctl: BTreeMap<Text<'a>, Option<i64>>,
    /// What this run cannot see or do, each with its remedy.
    #[serde(default)]
    pub limits: Vec<Text<'a>>,
    /// CLOCK_MONOTONIC at `time`, nanoseconds.
    #[serde(default)]
    pub monotonic_ns: Option<u64>,
    /// Addresses and names are pseudonyms.
    #[serde(default)]
    pub redacted: bool,
    /// Which file of a rotated recording this is, from 0.
    #[serde(default)]
    pub part: u32,
    /// In later files of a rotated recording: `time` of the first file's session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
}

/// A whole socket: at first sight, when its owners or keepalive change, when it closes, and at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SocketLine<'a> {
    pub seq: u64,
    pub time: Time,
    pub socket: Cookie,
    #[serde(default)]
    pub family: Option<Family>,
    #[serde(default)]
    pub local: Option<Addr>,
    #[serde(default)]
    pub remote: Option<Addr>,
    #[serde(borrow, default)]
    pub remote_name: Option<Text<'a>>,
    /// Inode number of the network namespace.
    #[serde(default)]
    pub netns: Option<u32>,
    /// The processes that hold it, or held it last.
    #[serde(default)]
    pub owners: Vec<OwnerPart<'a>>,
    #[serde(default)]
    pub direction: Option<Direction>,
    #[serde(default)]
    pub state: Option<TcpState>,
    /// When it was opened, if the agent saw it.
    #[serde(default)]
    pub opened: Option<Time>,
    /// Since anything was sent or received.
    #[serde(default)]
    pub idle_s: Option<Seconds>,
    #[serde(default)]
    pub keepalive: Option<KeepalivePart>,
    #[serde(default)]
    pub counters: CountersPart,
    #[serde(default)]
    pub tcp: TcpPart,
    /// Until the kernel gives up on unacknowledged data.
    #[serde(default)]
    pub gives_up_in_s: Option<Seconds>,
    /// An MPTCP subflow or fallback.
    #[serde(default)]
    pub mptcp: Option<bool>,
    /// All owners have exited; `owners` are the last ones.
    #[serde(default)]
    pub orphaned: bool,
    /// The kernel has freed it.
    #[serde(default)]
    pub destroyed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateLine {
    pub seq: u64,
    pub time: Time,
    pub socket: Option<Cookie>,
    pub from: TcpState,
    pub to: TcpState,
    /// The process that did it, where the kernel's context proves it.
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub local: Option<Addr>,
    #[serde(default)]
    pub remote: Option<Addr>,
    #[serde(default)]
    pub netns: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetransmitLine {
    pub seq: u64,
    pub time: Time,
    pub socket: Option<Cookie>,
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub local: Option<Addr>,
    #[serde(default)]
    pub remote: Option<Addr>,
    #[serde(default)]
    pub netns: Option<u32>,
    #[serde(default)]
    pub state: Option<TcpState>,
    pub kind: RetransmitKind,
    #[serde(default)]
    pub backoff: Option<u8>,
    #[serde(default)]
    pub gives_up_in_s: Option<Seconds>,
    /// Segments that the retransmitted buffer held.
    #[serde(default = "one")]
    pub segments: u32,
    /// What the kernel's socket said at this moment; null where nothing could be read.
    #[serde(default)]
    pub tcp: Option<DetailPart>,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResetLine<'a> {
    pub seq: u64,
    pub time: Time,
    /// null where the kernel had none: a RST for no socket.
    pub socket: Option<Cookie>,
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub local: Option<Addr>,
    #[serde(default)]
    pub remote: Option<Addr>,
    #[serde(default)]
    pub netns: Option<u32>,
    pub direction: ResetDirection,
    pub origin: ResetOrigin,
    #[serde(default)]
    pub state: Option<TcpState>,
    /// Silence before the last send, or before the RST if nothing was sent since.
    #[serde(default)]
    pub idle_before_s: Option<Seconds>,
    #[serde(borrow, default)]
    pub kernel_reason: Option<Text<'a>>,
    #[serde(default)]
    pub packet: PacketPart,
    /// Why that origin.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub origin_why: Option<Text<'a>>,
    #[serde(default)]
    pub tcp: Option<DetailPart>,
}

/// A look at `tcp_info` that differs from the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SampleLine {
    pub seq: u64,
    pub time: Time,
    pub socket: Cookie,
    pub state: TcpState,
    pub tcp: TcpPart,
    #[serde(default)]
    pub gives_up_in_s: Option<Seconds>,
}

/// A watched process ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExitLine {
    pub seq: u64,
    pub time: Time,
    pub pid: u32,
}

/// A cause, when it opens, gains evidence or closes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FindingLine<'a> {
    pub seq: u64,
    pub time: Time,
    /// The same from open to closed.
    #[serde(default)]
    pub id: u64,
    #[serde(borrow)]
    pub code: Text<'a>,
    pub confidence: Confidence,
    pub status: FindingStatus,
    #[serde(default)]
    pub opened: Option<Time>,
    #[serde(default)]
    pub sockets: Vec<Cookie>,
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(borrow, default)]
    pub destination: Option<Text<'a>>,
    #[serde(borrow)]
    pub summary: Text<'a>,
    #[serde(default)]
    pub evidence: Vec<EvidencePart<'a>>,
    #[serde(default)]
    pub rivals: Vec<Text<'a>>,
    #[serde(default)]
    pub advice: Vec<Text<'a>>,
    #[serde(default)]
    pub gives_up_in_s: Option<f64>,
    /// The case's numbers by name.
    #[serde(default)]
    pub numbers: BTreeMap<Text<'a>, Option<f64>>,
}

/// What the agent did to a socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActionLine<'a> {
    pub seq: u64,
    pub time: Time,
    pub action: ActionKind,
    pub socket: Option<Cookie>,
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub fd: Option<i32>,
    pub method: Method,
    #[serde(default)]
    pub before: Option<OptionsPart>,
    #[serde(default)]
    pub after: Option<OptionsPart>,
    pub result: ActionResult,
    #[serde(borrow, default)]
    pub error: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub remote: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub note: Option<Text<'a>>,
}

/// What is known of how long a destination and the path to it let a connection idle, earlier runs included (`agent
/// limits` prints all). Written when a destination of which something is known is first met, and whenever more is
/// learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitsLine<'a> {
    pub seq: u64,
    pub time: Time,
    pub remote: Addr,
    #[serde(borrow, default)]
    pub remote_name: Option<Text<'a>>,
    /// The server sent FIN on an idle connection.
    #[serde(default)]
    pub server_closes: Option<IdleFigurePart>,
    /// The next send was swallowed.
    #[serde(default)]
    pub path_drops: Option<IdleFigurePart>,
    /// The next send was answered by a RST that the server did not make.
    #[serde(default)]
    pub path_resets: Option<IdleFigurePart>,
    /// The next send was answered by a RST of the server's, or nobody knows whose.
    #[serde(default)]
    pub resets: Option<IdleFigurePart>,
    /// Sends after an idle gap that were answered.
    #[serde(default)]
    pub survived: u64,
    #[serde(default)]
    pub longest_survivor_s: Option<Seconds>,
    /// Advice: at most this long may a client's pool keep a connection.
    #[serde(default)]
    pub pool_timeout_s: Option<Seconds>,
    /// Advice: TCP_KEEPIDLE.
    #[serde(default)]
    pub keepalive_idle_s: Option<Seconds>,
}

/// Detail that was not seen since the last such line; totals and counters stay exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LostLine {
    pub seq: u64,
    pub time: Time,
    pub ring_full: u64,
    pub recursion_misses: u64,
    pub table_full: u64,
}

/// Last line of a run that ended in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndLine<'a> {
    pub seq: u64,
    pub time: Time,
    #[serde(borrow)]
    pub reason: Text<'a>,
    pub duration_s: Seconds,
    pub totals: TotalsPart,
}
