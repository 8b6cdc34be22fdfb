//! What TCP says of a socket.

use std::fmt;
use std::time::Duration;

/// TCP states with the kernel's numbers (`include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TcpState {
    Established = 1,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
    /// Bound, not connected (`TCP_BOUND_INACTIVE`, from 6.8).
    BoundInactive,
}

impl TcpState {
    /// In the order of the kernel's numbers, from 1.
    const ALL: [(TcpState, &'static str); 13] = [
        (Self::Established, "ESTABLISHED"),
        (Self::SynSent, "SYN_SENT"),
        (Self::SynRecv, "SYN_RECV"),
        (Self::FinWait1, "FIN_WAIT1"),
        (Self::FinWait2, "FIN_WAIT2"),
        (Self::TimeWait, "TIME_WAIT"),
        (Self::Close, "CLOSE"),
        (Self::CloseWait, "CLOSE_WAIT"),
        (Self::LastAck, "LAST_ACK"),
        (Self::Listen, "LISTEN"),
        (Self::Closing, "CLOSING"),
        (Self::NewSynRecv, "NEW_SYN_RECV"),
        (Self::BoundInactive, "BOUND_INACTIVE"),
    ];

    /// The state of a kernel number; `None` for a number that no kernel we know uses.
    pub fn from_kernel(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n).checked_sub(1)?).map(|(s, _)| *s)
    }

    pub fn kernel(self) -> u8 {
        self as u8
    }

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize - 1].1
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(s, _)| *s)
    }

    /// A connection that can still carry data in at least one direction.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Close | Self::TimeWait | Self::Listen | Self::BoundInactive)
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Outgoing,
    Incoming,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetransmitKind {
    Rto,
    Fast,
    Tlp,
    Syn,
    Synack,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetDirection {
    Received,
    Sent,
}

/// Who made a RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetOrigin {
    Peer,
    Middlebox,
    Local,
    Unknown,
}

/// What the RST packet itself showed, against the flow's ordinary segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PacketFacts {
    /// TTL or hop limit of the RST as it arrived.
    pub ttl: Option<u8>,
    /// TTL of the flow's ordinary segments (SYN-ACK and later); the lowest seen.
    pub flow_ttl: Option<u8>,
    /// The highest seen; differs from `flow_ttl` where the flow itself takes several paths.
    pub flow_ttl_max: Option<u8>,
    pub ip_id: Option<u16>,
    /// IP ID of the flow's latest ordinary segment.
    pub flow_ip_id: Option<u16>,
    /// Whether the RST's sequence number was exactly RCV.NXT.
    pub seq_expected: Option<bool>,
    /// RST with ACK.
    pub with_ack: Option<bool>,
    pub window: Option<u16>,
}

impl PacketFacts {
    /// Nothing was seen of the packet.
    pub const NONE: Self = Self {
        ttl: None,
        flow_ttl: None,
        flow_ttl_max: None,
        ip_id: None,
        flow_ip_id: None,
        seq_expected: None,
        with_ack: None,
        window: None,
    };
}

/// Who switched keepalive on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetBy {
    Application,
    Agent,
}

/// Keepalive as `getsockopt` tells it; the kernel's defaults are filled in (7200 s, 75 s, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keepalive {
    pub enabled: bool,
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    /// 0 = the kernel's own limit (`tcp_retries2`).
    pub user_timeout_ms: u32,
    /// `None` while off.
    pub set_by: Option<SetBy>,
}

/// Events of one socket since the agent saw it; retransmits in segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    pub retransmits: u64,
    pub rto: u64,
    pub fast: u64,
    pub tlp: u64,
    /// SYN and SYN-ACK.
    pub syn: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
}

impl Counters {
    /// Nothing happened.
    pub const NONE: Self = Self { retransmits: 0, rto: 0, fast: 0, tlp: 0, syn: 0, resets_received: 0, resets_sent: 0 };
}

/// `tcp_info` and the queues, as sampled through sock_diag. `None`: this kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TcpMetrics {
    pub rtt: Option<Duration>,
    pub rto: Option<Duration>,
    /// `icsk_backoff`: doublings of the RTO (or of the probe interval) so far.
    pub backoff: Option<u8>,
    /// Unanswered RTOs in a row (`tcpi_retransmits`).
    pub retransmits: Option<u8>,
    /// Unanswered keepalive or zero-window probes (`tcpi_probes`).
    pub probes: Option<u8>,
    /// Segments sent and not acknowledged (`tcpi_unacked`).
    pub unacked_segments: Option<u32>,
    /// Bytes sent and not acknowledged.
    pub unacked_bytes: Option<u64>,
    /// Bytes in the send queue, sent or not.
    pub send_queue_bytes: Option<u64>,
    /// Bytes received and not read by the application.
    pub receive_queue_bytes: Option<u64>,
    /// Since the last data was sent, received, and since the last ACK arrived; milliseconds at the sample.
    pub last_sent_ms: Option<u64>,
    pub last_received_ms: Option<u64>,
    pub last_ack_ms: Option<u64>,
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    pub bytes_acked: Option<u64>,
    /// Data segments sent and received, retransmits included (`tcpi_data_segs_out`, `_in`).
    pub data_segments_sent: Option<u32>,
    pub data_segments_received: Option<u32>,
    /// `tcpi_total_retrans`, segments over the socket's whole life.
    pub total_retransmits: Option<u32>,
    pub send_mss: Option<u32>,
    /// The peer's last advertised window, bytes (`tcpi_snd_wnd`, 5.4).
    pub send_window_bytes: Option<u32>,
    pub congestion_window: Option<u32>,
    /// Timer that sock_diag shows: 0 none, 1 retransmit (or TLP), 2 keepalive, 3 TIME_WAIT, 4 zero-window probe.
    pub timer: Option<u8>,
    /// Milliseconds until that timer fires.
    pub timer_ms: Option<u32>,
}

impl TcpMetrics {
    /// Whether nothing is known. Of each connection at first sight: without a branch per field.
    pub fn is_empty(&self) -> bool {
        let Self {
            rtt,
            rto,
            backoff,
            retransmits,
            probes,
            unacked_segments,
            unacked_bytes,
            send_queue_bytes,
            receive_queue_bytes,
            last_sent_ms,
            last_received_ms,
            last_ack_ms,
            bytes_sent,
            bytes_received,
            bytes_acked,
            data_segments_sent,
            data_segments_received,
            total_retransmits,
            send_mss,
            send_window_bytes,
            congestion_window,
            timer,
            timer_ms,
        } = self;
        rtt.is_none()
            & rto.is_none()
            & backoff.is_none()
            & retransmits.is_none()
            & probes.is_none()
            & unacked_segments.is_none()
            & unacked_bytes.is_none()
            & send_queue_bytes.is_none()
            & receive_queue_bytes.is_none()
            & last_sent_ms.is_none()
            & last_received_ms.is_none()
            & last_ack_ms.is_none()
            & bytes_sent.is_none()
            & bytes_received.is_none()
            & bytes_acked.is_none()
            & data_segments_sent.is_none()
            & data_segments_received.is_none()
            & total_retransmits.is_none()
            & send_mss.is_none()
            & send_window_bytes.is_none()
            & congestion_window.is_none()
            & timer.is_none()
            & timer_ms.is_none()
    }
}
