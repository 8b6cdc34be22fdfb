//! The fields of each line. What DESIGN and docs call the contract is always present, `null` where unknown; fields that
//! were added later to inner objects may be absent instead, which means the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wire::{
    ActionKind, ActionResult, Addr, Confidence, Cookie, Direction, Family, FindingStatus, Method, ResetDirection,
    ResetOrigin, RetransmitKind, Seconds, SetBy, TcpState, Time,
};

/// Text that is borrowed from the event when writing and from the line when reading.
pub type Text<'a> = Cow<'a, str>;

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
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetsPart<'a> {
    #[serde(default)]
    pub pids: Vec<u32>,
    #[serde(default)]
    pub tree: bool,
    /// As the user wrote them.
    #[serde(default)]
    pub destinations: Vec<Text<'a>>,
    #[serde(default)]
    pub all: bool,
    #[serde(default)]
    pub comms: Vec<Text<'a>>,
    #[serde(borrow, default)]
    pub cgroup: Option<Text<'a>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HookPart<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub backend: Text<'a>,
    pub attached: bool,
    #[serde(borrow, default)]
    pub why_not: Option<Text<'a>>,
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
pub struct OwnerPart<'a> {
    pub pid: u32,
    #[serde(borrow)]
    pub comm: Text<'a>,
    /// null once the process has exited.
    #[serde(default)]
    pub fd: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeepalivePart {
    pub enabled: bool,
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    /// 0 = the kernel's own limit (`tcp_retries2`).
    pub user_timeout_ms: u32,
    /// null while off.
    #[serde(default)]
    pub set_by: Option<SetBy>,
}

/// Events since the agent saw the socket; retransmits in segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CountersPart {
    pub retransmits: u64,
    pub rto: u64,
    pub fast: u64,
    pub tlp: u64,
    pub syn: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
}

/// `tcp_info` and the queues, as last sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TcpPart {
    pub rtt_us: Option<u64>,
    pub rto_us: Option<u64>,
    /// Doublings of the RTO so far.
    pub backoff: Option<u8>,
    /// Sent and not acknowledged.
    pub unacked_bytes: Option<u64>,
    /// In the send queue, sent or not.
    pub send_queue_bytes: Option<u64>,
    /// Since data was last sent.
    pub last_sent_ms: Option<u64>,
    /// Since data was last received.
    pub last_received_ms: Option<u64>,
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    /// Since the last ACK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ack_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_acked: Option<u64>,
    /// Unanswered RTOs in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u8>,
    /// Unanswered keepalive or zero-window probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacked_segments: Option<u32>,
    /// Received and not read by the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_queue_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_segments_sent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_segments_received: Option<u32>,
    /// Segments over the socket's whole life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_retransmits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_mss_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_window_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion_window_segments: Option<u32>,
    /// 0 none, 1 retransmit or TLP, 2 keepalive, 3 TIME_WAIT, 4 zero-window probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<u8>,
    /// Until that timer fires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer_ms: Option<u32>,
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

/// The socket at the very moment of an event; an absent field is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DetailPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Before the doubling that this retransmit causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<u8>,
    /// Unanswered RTOs in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_retransmits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacked_segments: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacked_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_queue_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_acked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// A retransmit counts as sending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sent_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_received_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ack_ms: Option<u64>,
    /// Of the retransmitted buffer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_mss_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_window_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_timeout_ms: Option<u32>,
    /// SO_KEEPALIVE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<bool>,
    /// Unanswered keepalive or zero-window probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u8>,
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

/// The RST packet against the flow's ordinary segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PacketPart {
    pub ttl: Option<u8>,
    /// Lowest of the flow's ordinary segments.
    pub flow_ttl: Option<u8>,
    pub ip_id: Option<u16>,
    /// The sequence number was exactly RCV.NXT.
    pub seq_expected: Option<bool>,
    /// Highest of the flow's ordinary segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_ttl_max: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_ip_id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with_ack: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u16>,
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidencePart<'a> {
    pub time: Time,
    #[serde(borrow)]
    pub text: Text<'a>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OptionsPart {
    pub enabled: bool,
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    pub user_timeout_ms: u32,
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

/// Idle times after which one thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IdleFigurePart {
    pub count: u64,
    pub median_s: Seconds,
    pub shortest_s: Seconds,
    /// Largest minus smallest.
    pub spread_s: Seconds,
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TotalsPart {
    pub sockets: u64,
    pub retransmits: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
    pub findings: u64,
    pub lost: u64,
}
