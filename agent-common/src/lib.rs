//! The ABI between the kernel programs (`agent-ebpf`) and the user side (`agent`).
//!
//! Every type is `repr(C)` with explicit padding, of integers only: never an enum, `bool` or `Option`, because a
//! value the reader does not know would be undefined behaviour there. Sizes and alignments are asserted below, so
//! that a change on one side alone does not compile. Addresses are 16 bytes, IPv4 as v4-mapped IPv6; ports are in
//! host byte order.
#![no_std]

mod offsets;

pub use offsets::*;

/// What a [`Record`] tells. `u8` on the wire.
pub mod kind {
    /// An skb was retransmitted (`tcp:tcp_retransmit_skb`). Carries [`super::TcpDetail`] with a BTF backend.
    pub const RETRANSMIT: u8 = 1;
    /// A SYN-ACK was retransmitted (`tcp:tcp_retransmit_synack`); the cookie is the listener's.
    pub const RETRANSMIT_SYNACK: u8 = 2;
    /// A RST arrived (`tcp:tcp_receive_reset`), before the state change it causes.
    pub const RECEIVE_RESET: u8 = 3;
    /// This host sent a RST (`tcp:tcp_send_reset`), after the state change to CLOSE.
    pub const SEND_RESET: u8 = 4;
    /// `sock:inet_sock_set_state`: `state` to `new_state`.
    pub const STATE: u8 = 5;
    /// `tcp:tcp_destroy_sock`: the socket leaves; carries [`super::SockStats`] as its tail.
    pub const DESTROY: u8 = 6;
    /// A watched process forked (`pid` is the child, `aux` the parent's tgid).
    pub const FORK: u8 = 7;
    /// A watched process exited (`pid`).
    pub const EXIT: u8 = 8;
    /// The guard set options on a socket before its SYN; `aux` is a bit set of [`super::guard_error`].
    pub const GUARD: u8 = 9;
    /// One more than the largest kind: the length of [`super::totals`].
    pub const COUNT: usize = 10;
}

/// Bits of [`Record::flags`].
pub mod flag {
    /// `pid` is the process that really did it (connect, close, listen), not whoever the CPU was running.
    pub const PID_IS_OWNER: u8 = 1;
    /// A [`super::TcpDetail`] follows the record.
    pub const HAS_DETAIL: u8 = 2;
    /// The socket was a full `tcp_sock`, not a TIME_WAIT or request minisock.
    pub const FULL_SOCK: u8 = 4;
    /// The detail's packet fields (`ttl`, `ip_id`, `seq`, ...) were seen by the provenance program.
    pub const HAS_PACKET: u8 = 8;
    /// `reason` holds the kernel's reset reason.
    pub const HAS_REASON: u8 = 16;
    /// A [`super::SockStats`] follows the record.
    pub const HAS_STATS: u8 = 32;
    /// The kernel side keeps nothing of this socket: no DESTROY record will follow.
    pub const LAST: u8 = 64;
}

/// Bits of a GUARD record's `aux`: which option the kernel refused.
pub mod guard_error {
    pub const KEEPIDLE: u32 = 1;
    pub const KEEPINTVL: u32 = 2;
    pub const KEEPCNT: u32 = 4;
    pub const USER_TIMEOUT: u32 = 8;
    pub const KEEPALIVE: u32 = 16;
}

/// How an skb came to be retransmitted, as far as `icsk_pending` and `icsk_ca_state` tell.
pub mod retransmit {
    pub const UNKNOWN: u8 = 0;
    /// The retransmission timer fired, or the loss recovery that it began.
    pub const RTO: u8 = 1;
    /// SACK/RACK or duplicate ACKs (`TCP_CA_Recovery`).
    pub const FAST: u8 = 2;
    /// Tail-loss probe (RFC 8985).
    pub const TLP: u8 = 3;
    pub const SYN: u8 = 4;
    pub const SYNACK: u8 = 5;
}

/// The head of every ring record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `bpf_ktime_get_ns`: CLOCK_MONOTONIC, nanoseconds.
    pub ts: u64,
    /// `bpf_get_socket_cookie`; 0 where the kernel had no socket or could not tell.
    pub cookie: u64,
    /// Kernel address of the socket: joins records of one socket where there is no cookie; never shown.
    pub sk: u64,
    /// Inode number of the socket's network namespace; 0 where unknown (classic tracepoints).
    pub netns: u32,
    /// tgid of the current task; means something only with [`flag::PID_IS_OWNER`].
    pub pid: u32,
    /// Kernel reset reason (`enum sk_rst_reason`) with [`flag::HAS_REASON`], errno of a failed retransmit.
    pub reason: u32,
    /// Per kind: segments of the skb (RETRANSMIT), parent tgid (FORK), [`guard_error`] bits (GUARD).
    pub aux: u32,
    /// Low 32 bits of the kernel's jiffies at `ts`: the clock of [`TcpDetail`]'s time stamps; 0 without one.
    pub jiffies: u32,
    pub sport: u16,
    pub dport: u16,
    pub saddr: [u8; 16],
    pub daddr: [u8; 16],
    pub kind: u8,
    /// AF_INET or AF_INET6 of the socket; 0 unknown.
    pub family: u8,
    /// TCP state before (STATE) or at the event.
    pub state: u8,
    pub new_state: u8,
    /// [`retransmit`] for RETRANSMIT and RETRANSMIT_SYNACK.
    pub how: u8,
    /// [`flag`] bits.
    pub flags: u8,
    pub pad: [u8; 2],
}

/// What `struct tcp_sock` said at the event. A member that this kernel lacks is 0 here; the user side knows which
/// (it resolved the offsets) and says «unknown» for them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpDetail {
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub snd_una: u32,
    pub snd_nxt: u32,
    pub write_seq: u32,
    pub rcv_nxt: u32,
    pub total_retrans: u32,
    /// `icsk_rto`, jiffies.
    pub rto: u32,
    /// `srtt_us`, microseconds << 3 as in the kernel.
    pub srtt_us_x8: u32,
    pub packets_out: u32,
    pub mss_cache: u32,
    pub snd_wnd: u32,
    /// Jiffies (low 32 bits) of the last data segment sent, the last ACK received, the last data received.
    pub lsndtime: u32,
    pub rcv_tstamp: u32,
    pub lrcvtime: u32,
    /// `icsk_user_timeout`, milliseconds.
    pub user_timeout_ms: u32,
    /// Length of the retransmitted skb, bytes.
    pub skb_len: u32,
    /// Of the RST packet: sequence number, and the receiver's RCV.NXT when it came.
    pub seq: u32,
    pub ip_id: u16,
    /// IP ID of the flow's latest ordinary segment.
    pub flow_ip_id: u16,
    pub window: u16,
    pub tcp_flags: u8,
    /// TTL (hop limit) of the RST, and of the flow: lowest and highest seen on its ordinary segments; 0 unknown.
    pub ttl: u8,
    pub flow_ttl: u8,
    pub flow_ttl_max: u8,
    pub backoff: u8,
    /// `icsk_retransmits`: unanswered RTOs in a row.
    pub retransmits: u8,
    /// 1 if SO_KEEPALIVE was on (`sk_flags`), 0 if off, 255 unknown.
    pub keepalive: u8,
    pub probes_out: u8,
    pub pad: [u8; 2],
}

/// Exact counts of one socket, kept by the kernel whatever happens to the ring: the value of map `SOCKS`.
/// Aligned, so that it is copied in words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockStats {
    /// Retransmitted segments since the agent saw the socket.
    pub retransmits: u32,
    pub rto: u32,
    pub fast: u32,
    pub tlp: u32,
    pub syn: u32,
    pub unknown: u32,
    pub resets_received: u32,
    pub resets_sent: u32,
    /// `total_retrans` at the last event, valid if `seen` has [`stats_seen::TOTAL`].
    pub last_total: u32,
    /// [`stats_seen`] bits.
    pub seen: u32,
}

/// Bits of [`SockStats::seen`].
pub mod stats_seen {
    pub const TOTAL: u32 = 1;
    /// The socket was destroyed but the ring had no room for the DESTROY record: the user side sweeps it.
    pub const DESTROYED: u32 = 2;
    /// Made by the user side at its first look, not by an event.
    pub const FROM_USER: u32 = 4;
    /// A listener: it has no remote end, so a destination filter leaves it out of what is shown.
    pub const LISTENER: u32 = 8;
    /// The bits from here on: [`super::Control::dests_version`] when the socket's remote end passed the destination
    /// filter; 0 = to be looked up at each event.
    pub const DESTS_VERSION_SHIFT: u32 = 8;
}

/// Indexes of the per-CPU array `TOTALS`: matching events per kind (index = [`kind`]) of which the ring has no record, then
/// losses. GUARD counts all: its ring is another.
pub mod totals {
    /// Segments retransmitted: what RetransSegs counts, summed over RETRANSMIT and RETRANSMIT_SYNACK.
    pub const SEGMENTS: u32 = 16;
    /// Records that found the ring full.
    pub const RING_FULL: u32 = 17;
    /// Per-socket entries that found `SOCKS` full.
    pub const TABLE_FULL: u32 = 18;
    /// Wake-ups asked of the ring.
    pub const WAKEUPS: u32 = 19;
    pub const LEN: u32 = 24;
}

/// Key data of the LPM trie `DESTS`: port first so that a prefix can fix the port and leave address bits open, or
/// leave both out. An entry «any port» uses port 0.
///
/// Prefix length = 16 (port) + bits of the v4-mapped address: 16 + 96 + n for an IPv4 /n.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestKey {
    /// Host byte order bytes are irrelevant to the trie; big-endian by convention.
    pub port_be: [u8; 2],
    pub addr: [u8; 16],
}

/// Key of the map `LISTENERS`: a listening port of a target, by which accepted sockets are recognised.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenKey {
    pub netns: u32,
    pub port: u16,
    pub pad: u16,
}

/// Options that the guard sets on each new matching socket, and whose sockets: entry 0 of the map `GUARD`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardOptions {
    pub idle_s: u32,
    pub interval_s: u32,
    pub count: u32,
    /// 0 = leave.
    pub user_timeout_ms: u32,
    /// [`guard_target`] bits; 0 = nobody's (the guard is not set up yet).
    pub target: u32,
}

/// Bits of [`GuardOptions::target`].
pub mod guard_target {
    /// Every process below the cgroup that the program is attached to.
    pub const ALL: u32 = 1;
    /// Processes in the map `PIDS`.
    pub const PIDS: u32 = 2;
    /// Processes whose name is in the map `GUARD_COMMS`.
    pub const COMMS: u32 = 4;
    /// With [`COMMS`]: what such a process forks goes into `PIDS`, whatever it is called later.
    pub const CHILDREN: u32 = 8;
}

/// What the guard did to one socket, before its SYN: a record of the ring `GUARDED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardRow {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ts: u64,
    pub cookie: u64,
    /// tgid of the connecting process.
    pub pid: u32,
    /// [`guard_error`] bits.
    pub error: u32,
    /// Values found; -1 unknown.
    pub keepalive: i32,
    pub idle_s: i32,
    pub interval_s: i32,
    pub count: i32,
    pub user_timeout_ms: i32,
    pub dport: u16,
    pub family: u8,
    pub pad: u8,
    pub daddr: [u8; 16],
    pub comm: [u8; 16],
}

/// One row of `iter/tcp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpRow {
    pub cookie: u64,
    pub sk: u64,
    pub netns: u32,
    pub uid: u32,
    /// `bpf_getsockopt` values, before a change; -1 unknown.
    pub keepalive: i32,
    pub idle_s: i32,
    pub interval_s: i32,
    pub count: i32,
    pub user_timeout_ms: i32,
    /// After a change; -1 where nothing was asked.
    pub after_keepalive: i32,
    pub after_idle_s: i32,
    pub after_interval_s: i32,
    pub after_count: i32,
    pub after_user_timeout_ms: i32,
    /// [`guard_error`] bits of a change.
    pub error: u32,
    pub family: u8,
    pub state: u8,
    /// 1 if a change was tried on this socket.
    pub changed: u8,
    pub pad: u8,
    pub sport: u16,
    pub dport: u16,
    pub saddr: [u8; 16],
    pub daddr: [u8; 16],
    /// Bytes that wait to be acknowledged, sent or not; `u32::MAX` unknown.
    pub queued_bytes: u32,
}

/// `FileRow::protocol` of a socket whose subflows carry the traffic (`linux/in.h`).
pub const IPPROTO_MPTCP: u16 = 262;

/// One row of `iter/task_file`: a TCP or MPTCP socket among the files of a thread group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileRow {
    pub cookie: u64,
    pub sk: u64,
    pub tgid: u32,
    pub fd: u32,
    pub comm: [u8; 16],
    /// Of the socket, not of the process.
    pub netns: u32,
    /// IPPROTO_TCP or [`IPPROTO_MPTCP`].
    pub protocol: u16,
    pub family: u8,
    pub state: u8,
    pub sport: u16,
    pub dport: u16,
    pub pad: [u8; 4],
    pub saddr: [u8; 16],
    pub daddr: [u8; 16],
}

/// One row of `iter/task_file` where all sockets of a machine are listed with their owners: what [`FileRow`] has of use
/// there, in half the bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerRow {
    pub cookie: u64,
    pub comm: [u8; 16],
    pub tgid: u32,
    pub fd: u32,
    /// Of the socket, not of the process.
    pub netns: u32,
    /// IPPROTO_TCP or [`IPPROTO_MPTCP`].
    pub protocol: u16,
    pub pad: u16,
}

/// What `iter/tcp` shall do to one socket: value of the map `ITER_SET`, keyed by cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetRow {
    /// Options wanted; -1 = leave as it is.
    pub keepalive: i32,
    pub idle_s: i32,
    pub interval_s: i32,
    pub count: i32,
    pub user_timeout_ms: i32,
    /// The socket is touched only while its options are these; -1 = whatever they are.
    pub if_keepalive: i32,
    pub if_idle_s: i32,
    pub if_interval_s: i32,
    pub if_count: i32,
    pub if_user_timeout_ms: i32,
    /// Set by the kernel side once it has tried; the `if_` fields then hold what it found before. An iterator comes
    /// twice to a socket whose row did not fit into its buffer.
    pub done: u32,
    /// [`guard_error`] bits, with `done`.
    pub error: u32,
}

const _: () = {
    use core::mem::{align_of, size_of};
    assert!(size_of::<Record>() == 88 && align_of::<Record>() == 8);
    assert!(size_of::<TcpDetail>() == 104 && align_of::<TcpDetail>() == 8);
    assert!(size_of::<SockStats>() == 40 && align_of::<SockStats>() == 8);
    assert!(size_of::<DestKey>() == 18 && align_of::<DestKey>() == 1);
    assert!(size_of::<ListenKey>() == 8 && align_of::<ListenKey>() == 4);
    assert!(size_of::<GuardOptions>() == 20 && align_of::<GuardOptions>() == 4);
    assert!(size_of::<GuardRow>() == 80 && align_of::<GuardRow>() == 8);
    assert!(size_of::<TcpRow>() == 112 && align_of::<TcpRow>() == 8);
    assert!(size_of::<OwnerRow>() == 40 && align_of::<OwnerRow>() == 8);
    assert!(size_of::<FileRow>() == 88 && align_of::<FileRow>() == 8);
    assert!(size_of::<SetRow>() == 48 && align_of::<SetRow>() == 4);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: all are `repr(C)`, `Copy`, of integers only, without implicit padding: any byte pattern is a value.
    unsafe impl aya::Pod for super::SockStats {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::DestKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ListenKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::GuardOptions {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SetRow {}
}
