//! The objects inside of lines. Fields that were added later may be absent, which means that they are unknown.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wire::{Seconds, SetBy, Time};

/// Text that is borrowed from the event when writing and from the line when reading.
pub type Text<'a> = Cow<'a, str>;

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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerPart<'a> {
    pub pid: u32,
    /// `?` of a process that ended before its name could be read.
    #[serde(borrow)]
    pub comm: Text<'a>,
    /// null once the process has exited.
    #[serde(default)]
    pub fd: Option<i32>,
    /// The runtime or library that makes its connections and the program on it, the runtime first; absent where files
    /// do not tell.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub program: Vec<ProgramPart<'a>>,
}

/// A program and its version, as its files tell: nothing of the process is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramPart<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub version: Text<'a>,
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidencePart<'a> {
    pub time: Time,
    #[serde(borrow)]
    pub text: Text<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OptionsPart {
    pub enabled: bool,
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    pub user_timeout_ms: u32,
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
