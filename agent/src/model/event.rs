//! The events that flow through the program, live or replayed. State is a fold over them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ActionRecord, Counters, Direction, End, Family, Finding, Flow, IdleLimits, Keepalive, Mono, Owners, PacketFacts,
    ResetDirection, ResetOrigin, RetransmitKind, Session, SocketId, TcpMetrics, TcpState,
};

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at: Mono,
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    Session(Box<Session>),
    /// Something was learned of a socket; absent parts stay as they were.
    Socket(Box<SocketUpdate>),
    State(StateChange),
    Retransmit(Box<Retransmit>),
    Reset(Box<Reset>),
    /// A look at `tcp_info`.
    Sample(Box<Sample>),
    /// A watched process ended; its sockets keep it as their last owner.
    Exit {
        pid: u32,
    },
    Finding(Box<Finding>),
    Action(Box<ActionRecord>),
    /// Something was learned of a destination's idle limits, now or in an earlier run.
    Limits(Box<IdleLimits>),
    Lost(Lost),
    End(Box<End>),
}

/// A partial description of a socket. `None` = nothing new; the fold keeps what it had.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SocketUpdate {
    /// Always present in an event; an option only so that `Default` exists.
    pub id: Option<SocketId>,
    pub family: Option<Family>,
    pub flow: Option<Flow>,
    /// The name the user gave (`--dst`) or that resolves to the remote address.
    pub remote_name: Option<Arc<str>>,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Replaces the set of owners, when present.
    pub owners: Option<Owners>,
    pub direction: Option<Direction>,
    pub state: Option<TcpState>,
    /// When it was opened, if the agent saw it.
    pub opened: Option<Mono>,
    pub keepalive: Option<Keepalive>,
    /// Exact counts from the kernel's map: they replace what was counted from the detail.
    pub counters: Option<Counters>,
    /// MPTCP subflow or fallback: options may not be settable.
    pub mptcp: Option<bool>,
    /// The socket is gone (`tcp_destroy_sock`, or no longer in a dump).
    pub destroyed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StateChange {
    pub socket: Option<SocketId>,
    pub flow: Option<Flow>,
    pub netns: Option<u32>,
    pub family: Option<Family>,
    pub from: TcpState,
    pub to: TcpState,
    /// The process that did it, where the kernel's context proves it (connect, listen, close).
    pub pid: Option<u32>,
    /// The source will tell nothing more of the socket, not even its end: it is closed, and as good as gone.
    pub last: bool,
}

/// What `tcp_sock` said at a retransmit or reset: exact, where a sample is up to a second old.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TcpDetail {
    pub rtt: Option<Duration>,
    /// Before the doubling that this retransmit causes.
    pub rto: Option<Duration>,
    pub backoff: Option<u8>,
    /// Unanswered RTOs in a row, as the kernel counts at the event.
    pub retransmits: Option<u8>,
    pub total_retransmits: Option<u32>,
    pub unacked_segments: Option<u32>,
    pub unacked_bytes: Option<u64>,
    pub send_queue_bytes: Option<u64>,
    pub bytes_sent: Option<u64>,
    pub bytes_acked: Option<u64>,
    pub bytes_received: Option<u64>,
    /// Since data was last sent (a retransmit counts as sending), received, and since the last ACK.
    pub last_sent: Option<Duration>,
    pub last_received: Option<Duration>,
    pub last_ack: Option<Duration>,
    /// Of the retransmitted skb, bytes.
    pub segment_bytes: Option<u32>,
    pub send_mss: Option<u32>,
    pub send_window_bytes: Option<u32>,
    pub user_timeout_ms: Option<u32>,
    /// SO_KEEPALIVE at the event.
    pub keepalive: Option<bool>,
    /// Keepalive or zero-window probes that nobody has answered.
    pub probes: Option<u8>,
}

impl TcpDetail {
    /// Nothing could be read.
    pub const NONE: Self = Self {
        rtt: None,
        rto: None,
        backoff: None,
        retransmits: None,
        total_retransmits: None,
        unacked_segments: None,
        unacked_bytes: None,
        send_queue_bytes: None,
        bytes_sent: None,
        bytes_acked: None,
        bytes_received: None,
        last_sent: None,
        last_received: None,
        last_ack: None,
        segment_bytes: None,
        send_mss: None,
        send_window_bytes: None,
        user_timeout_ms: None,
        keepalive: None,
        probes: None,
    };

    /// Whether nothing could be read: without a branch per field.
    pub fn is_empty(&self) -> bool {
        let Self {
            rtt,
            rto,
            backoff,
            retransmits,
            total_retransmits,
            unacked_segments,
            unacked_bytes,
            send_queue_bytes,
            bytes_sent,
            bytes_acked,
            bytes_received,
            last_sent,
            last_received,
            last_ack,
            segment_bytes,
            send_mss,
            send_window_bytes,
            user_timeout_ms,
            keepalive,
            probes,
        } = self;
        rtt.is_none()
            & rto.is_none()
            & backoff.is_none()
            & retransmits.is_none()
            & total_retransmits.is_none()
            & unacked_segments.is_none()
            & unacked_bytes.is_none()
            & send_queue_bytes.is_none()
            & bytes_sent.is_none()
            & bytes_acked.is_none()
            & bytes_received.is_none()
            & last_sent.is_none()
            & last_received.is_none()
            & last_ack.is_none()
            & segment_bytes.is_none()
            & send_mss.is_none()
            & send_window_bytes.is_none()
            & user_timeout_ms.is_none()
            & keepalive.is_none()
            & probes.is_none()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retransmit {
    pub socket: Option<SocketId>,
    pub flow: Option<Flow>,
    pub netns: Option<u32>,
    /// An owner, from attribution; never the task that the CPU happened to run.
    pub pid: Option<u32>,
    pub state: Option<TcpState>,
    pub how: RetransmitKind,
    /// Segments that the skb held: what RetransSegs counts.
    pub segments: u32,
    pub detail: TcpDetail,
    /// Time until the kernel gives up, if nothing is acknowledged from now on.
    pub gives_up_in: Option<Duration>,
}

#[derive(Debug, PartialEq)]
pub struct Reset {
    pub socket: Option<SocketId>,
    pub flow: Option<Flow>,
    pub netns: Option<u32>,
    pub pid: Option<u32>,
    pub direction: ResetDirection,
    pub origin: ResetOrigin,
    /// Why that origin, in words; empty for unknown.
    pub origin_why: Cow<'static, str>,
    pub state: Option<TcpState>,
    /// How long the connection had been silent before the last thing that was sent (or, if nothing was sent since,
    /// before the RST).
    pub idle_before: Option<Duration>,
    /// The kernel's reset reason, e.g. `TCP_STATE`, decoded from the running kernel.
    pub kernel_reason: Option<Cow<'static, str>>,
    pub packet: PacketFacts,
    pub detail: TcpDetail,
}

impl Clone for Reset {
    fn clone(&self) -> Self {
        let mut new = Self::NONE;
        new.clone_from(self);
        new
    }

    /// Part by part where it stays: a whole one is long, and to move what was just put together makes the processor wait.
    fn clone_from(&mut self, from: &Self) {
        let Self {
            socket,
            flow,
            netns,
            pid,
            direction,
            origin,
            origin_why,
            state,
            idle_before,
            kernel_reason,
            packet,
            detail,
        } = self;
        *socket = from.socket;
        *flow = from.flow;
        *netns = from.netns;
        *pid = from.pid;
        *direction = from.direction;
        *origin = from.origin;
        origin_why.clone_from(&from.origin_why);
        *state = from.state;
        *idle_before = from.idle_before;
        kernel_reason.clone_from(&from.kernel_reason);
        *packet = from.packet;
        *detail = from.detail;
    }
}

impl Reset {
    /// Of which nothing is known.
    pub const NONE: Self = Self {
        socket: None,
        flow: None,
        netns: None,
        pid: None,
        direction: ResetDirection::Received,
        origin: ResetOrigin::Unknown,
        origin_why: Cow::Borrowed(""),
        state: None,
        idle_before: None,
        kernel_reason: None,
        packet: PacketFacts::NONE,
        detail: TcpDetail::NONE,
    };
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub socket: SocketId,
    pub state: TcpState,
    pub tcp: TcpMetrics,
    /// Time until the kernel gives up; `None` while nothing is unacknowledged.
    pub gives_up_in: Option<Duration>,
}

/// What was not seen in detail since the last such event. Totals and per-socket counts stay exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub ring_full: u64,
    pub recursion_misses: u64,
    pub table_full: u64,
}

impl Lost {
    pub fn total(&self) -> u64 {
        self.ring_full + self.recursion_misses + self.table_full
    }
}
