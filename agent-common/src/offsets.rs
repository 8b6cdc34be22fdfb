//! Where the running kernel keeps what the programs read: resolved in user space (vmlinux BTF, tracefs `format`) and
//! handed over in `.rodata`, which aya freezes before loading: the verifier sees constants and drops dead branches.

/// A member or field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;
/// Set in the offset of a member that is read with `bpf_probe_read_kernel`, not directly through the BTF pointer. One
/// glance at an offset tells both this and [`ABSENT`].
pub const PROBED: u32 = 1 << 30;

/// `offset` as one that is [`PROBED`], if there is one.
pub const fn probed(offset: u32) -> u32 {
    if offset == ABSENT { ABSENT } else { offset | PROBED }
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident: $path:literal, $size:literal;)*) => {
        /// Byte offsets of structure members; [`ABSENT`] where the kernel lacks the member or it has another size.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Offsets {
            /// Nothing resolved.
            pub const NONE: Self = Self { $($name: ABSENT,)* };
            /// Path in BTF («struct.member.member») and the member's size in bytes, 0 = any, in field order.
            pub const PATHS: &'static [(&'static str, u32)] = &[$(($path, $size),)*];

            /// All of them [`PROBED`].
            pub fn probed(self) -> Self {
                Self { $($name: probed(self.$name),)* }
            }

            /// From offsets in the order of [`Self::PATHS`]; `None` if there are too few or too many.
            pub fn from_slice(values: &[u32]) -> Option<Self> {
                let mut next = values.iter().copied();
                let all = Self { $($name: next.next()?,)* };
                if next.next().is_none() { Some(all) } else { None }
            }
        }
    };
}

offsets! {
    skc_dport: "sock_common.skc_dport", 2;
    skc_num: "sock_common.skc_num", 2;
    skc_family: "sock_common.skc_family", 2;
    skc_state: "sock_common.skc_state", 1;
    skc_daddr: "sock_common.skc_daddr", 4;
    skc_rcv_saddr: "sock_common.skc_rcv_saddr", 4;
    skc_v6_daddr: "sock_common.skc_v6_daddr", 16;
    skc_v6_rcv_saddr: "sock_common.skc_v6_rcv_saddr", 16;
    skc_cookie: "sock_common.skc_cookie", 8;
    /// A pointer.
    skc_net: "sock_common.skc_net.net", 8;
    net_inum: "net.ns.inum", 4;
    /// Absent before 5.6, where it was a bit field of another size.
    sk_protocol: "sock.sk_protocol", 2;
    skc_prot: "sock_common.skc_prot", 8;
    proto_name: "proto.name", 32;
    sk_flags: "sock.sk_flags", 8;
    /// Big-endian; outlives `skc_num`, which is cleared before → CLOSE.
    inet_sport: "inet_sock.inet_sport", 2;
    icsk_pending: "inet_connection_sock.icsk_pending", 1;
    icsk_rto: "inet_connection_sock.icsk_rto", 4;
    icsk_backoff: "inet_connection_sock.icsk_backoff", 1;
    icsk_retransmits: "inet_connection_sock.icsk_retransmits", 1;
    icsk_user_timeout: "inet_connection_sock.icsk_user_timeout", 4;
    icsk_probes_out: "inet_connection_sock.icsk_probes_out", 1;
    icsk_lrcvtime: "inet_connection_sock.icsk_ack.lrcvtime", 4;
    tp_bytes_acked: "tcp_sock.bytes_acked", 8;
    tp_bytes_received: "tcp_sock.bytes_received", 8;
    tp_bytes_sent: "tcp_sock.bytes_sent", 8;
    tp_snd_una: "tcp_sock.snd_una", 4;
    tp_snd_nxt: "tcp_sock.snd_nxt", 4;
    tp_write_seq: "tcp_sock.write_seq", 4;
    tp_rcv_nxt: "tcp_sock.rcv_nxt", 4;
    tp_total_retrans: "tcp_sock.total_retrans", 4;
    tp_srtt_us: "tcp_sock.srtt_us", 4;
    tp_packets_out: "tcp_sock.packets_out", 4;
    tp_mss_cache: "tcp_sock.mss_cache", 4;
    tp_snd_wnd: "tcp_sock.snd_wnd", 4;
    tp_lsndtime: "tcp_sock.lsndtime", 4;
    tp_rcv_tstamp: "tcp_sock.rcv_tstamp", 4;
    skb_len: "sk_buff.len", 4;
    skb_cb: "sk_buff.cb", 48;
    skb_head: "sk_buff.head", 8;
    skb_network_header: "sk_buff.network_header", 2;
    skb_transport_header: "sk_buff.transport_header", 2;
    /// Ethernet type, big-endian.
    skb_protocol: "sk_buff.protocol", 2;
    /// A pointer.
    skb_dev: "sk_buff.dev", 8;
    /// A pointer.
    dev_net: "net_device.nd_net.net", 8;
    /// Within `sk_buff.cb`.
    cb_gso_segs: "tcp_skb_cb.tcp_gso_segs", 2;
    task_tgid: "task_struct.tgid", 4;
    task_pid: "task_struct.pid", 4;
    task_comm: "task_struct.comm", 16;
    /// A pointer.
    task_signal: "task_struct.signal", 8;
    /// Threads of the group still alive.
    signal_live: "signal_struct.live.counter", 4;
    /// Of `struct socket`, a pointer.
    socket_sk: "socket.sk", 8;
}

/// What else differs between kernels, and what the user asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// 1 = no target filter (`--all`).
    pub all: u32,
    /// 1 = aya-log on.
    pub kernel_log: u32,
    /// 1 = the provenance program is attached: resets look into `FLOWS`.
    pub provenance: u32,
    /// 1 = `bpf_get_socket_cookie` exists for tracing programs (5.12); 0 = read `skc_cookie`.
    pub cookie_helper: u32,
    /// 1 = `tcp_send_reset` has a reason (6.10).
    pub reset_reason: u32,
    /// 1 = `tcp_retransmit_skb` has an error (6.18).
    pub retransmit_err: u32,
    /// 1 = `sched_process_exit` says whether the whole group is gone (6.15).
    pub exit_group_dead: u32,
    /// `icsk_ca_state` is a bit field: its byte, shift and mask; byte is [`ABSENT`] where unknown.
    pub ca_state_byte: u32,
    pub ca_state_shift: u32,
    pub ca_state_mask: u32,
    /// Bit number of SOCK_KEEPOPEN in `sk_flags`; [`ABSENT`] where unknown.
    pub keepopen_bit: u32,
    /// Bytes in the ring from which a wake-up is due soon (a quarter of its size).
    pub ring_high: u32,
    /// Nanoseconds after a wake-up during which no further one is asked for: the reader polls meanwhile.
    pub wake_window_ns: u32,
    /// Bytes in the ring by which events come thick: then it is [`BUSY_WINDOWS`] windows.
    pub ring_busy: u32,
    /// Index mask of the map `PRESENT`, see [`present_slot`].
    pub present_mask: u32,
}

/// Windows between two wake-ups while events come thick. What a reader costs before its first record (code and memory that
/// the processor no longer has at hand) is paid per wake-up.
pub const BUSY_WINDOWS: u32 = 8;

/// Where the map `PRESENT` counts the entries of `SOCKS` with this key: sockets that are made one after the other lie
/// side by side. Addresses are multiples of a large power of two, cookies are not: both are spread.
#[inline(always)]
pub const fn present_slot(key: u64, mask: u32) -> u32 {
    (key ^ key >> 11) as u32 & mask
}

/// No field of a classic tracepoint reaches beyond this.
pub const CLASSIC_BYTES: u32 = 128;

/// Field positions of one classic tracepoint (tracefs `format`); [`ABSENT`] for a field that this kernel lacks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracepointFields {
    pub skaddr: u32,
    /// `tcp_retransmit_skb`.
    pub skbaddr: u32,
    pub state: u32,
    pub new_state: u32,
    pub family: u32,
    pub protocol: u32,
    pub sport: u32,
    pub dport: u32,
    /// 16 bytes, IPv4 as v4-mapped.
    pub saddr_v6: u32,
    pub daddr_v6: u32,
    /// `struct sockaddr`s instead of the four above (`tcp_send_reset` from 6.12); ports big-endian.
    pub saddr_sockaddr: u32,
    pub daddr_sockaddr: u32,
    pub cookie: u32,
    pub reason: u32,
    pub err: u32,
    /// `sched_process_fork`, `sched_process_exit`.
    pub parent_pid: u32,
    pub child_pid: u32,
    pub pid: u32,
    pub group_dead: u32,
}

impl TracepointFields {
    pub const NONE: Self = Self {
        skaddr: ABSENT,
        skbaddr: ABSENT,
        state: ABSENT,
        new_state: ABSENT,
        family: ABSENT,
        protocol: ABSENT,
        sport: ABSENT,
        dport: ABSENT,
        saddr_v6: ABSENT,
        daddr_v6: ABSENT,
        saddr_sockaddr: ABSENT,
        daddr_sockaddr: ABSENT,
        cookie: ABSENT,
        reason: ABSENT,
        err: ABSENT,
        parent_pid: ABSENT,
        child_pid: ABSENT,
        pid: ABSENT,
        group_dead: ABSENT,
    };
}

/// Field positions of every classic tracepoint the programs know.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicFields {
    pub retransmit_skb: TracepointFields,
    pub retransmit_synack: TracepointFields,
    pub receive_reset: TracepointFields,
    pub send_reset: TracepointFields,
    pub set_state: TracepointFields,
    pub destroy_sock: TracepointFields,
    pub process_fork: TracepointFields,
    pub process_exit: TracepointFields,
}

impl ClassicFields {
    pub const NONE: Self = Self {
        retransmit_skb: TracepointFields::NONE,
        retransmit_synack: TracepointFields::NONE,
        receive_reset: TracepointFields::NONE,
        send_reset: TracepointFields::NONE,
        set_state: TracepointFields::NONE,
        destroy_sock: TracepointFields::NONE,
        process_fork: TracepointFields::NONE,
        process_exit: TracepointFields::NONE,
    };
}

/// What may change while the programs run: entry 0 of the map `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// [`dest_mode`] bits; 0 = no destination filter.
    pub dest_mode: u32,
    /// [`target_mode`] bits.
    pub target_mode: u32,
    /// Raised whenever a destination leaves the filter; never 0, at most 24 bits.
    pub dests_version: u32,
}

/// Bits of [`Control::dest_mode`]: which lookups in `DESTS` can succeed.
pub mod dest_mode {
    /// Entries for any port (port 0).
    pub const ANY_PORT: u32 = 1;
    /// Entries for one port.
    pub const ONE_PORT: u32 = 2;
    /// The filter exists but is empty: nothing matches (a name that resolves to nothing yet).
    pub const NOTHING: u32 = 4;
}

/// Bits of [`Control::target_mode`].
pub mod target_mode {
    /// Classic backend: entries in `TUPLES`, sockets known by their addresses only.
    pub const TUPLES: u32 = 1;
}

/// Key of `TUPLES` (classic backend): a socket that was open before the agent, known by its addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TupleKey {
    pub saddr: [u8; 16],
    pub daddr: [u8; 16],
    pub sport: u16,
    pub dport: u16,
}

/// What the provenance program saw of one flow: the value of the LRU map `FLOWS`, keyed by cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSeen {
    /// Of the latest RST: sequence number, host byte order.
    pub rst_seq: u32,
    pub rst_window: u16,
    pub rst_ip_id: u16,
    /// IP ID of the latest ordinary segment.
    pub ip_id: u16,
    /// TTL or hop limit of ordinary segments: lowest and highest; 0 = none seen.
    pub ttl_min: u8,
    pub ttl_max: u8,
    pub rst_ttl: u8,
    pub rst_flags: u8,
    /// 1 once a RST was seen.
    pub rst: u8,
    pub pad: u8,
}

const _: () = {
    use core::mem::{align_of, size_of};
    assert!(size_of::<Offsets>() == 4 * Offsets::PATHS.len() && align_of::<Offsets>() == 4);
    assert!(size_of::<Settings>() == 60 && align_of::<Settings>() == 4);
    assert!(size_of::<TracepointFields>() == 76 && align_of::<TracepointFields>() == 4);
    assert!(size_of::<ClassicFields>() == 8 * 76);
    assert!(size_of::<Control>() == 12 && align_of::<Control>() == 4);
    assert!(size_of::<TupleKey>() == 36 && align_of::<TupleKey>() == 2);
    assert!(size_of::<FlowSeen>() == 16 && align_of::<FlowSeen>() == 4);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: all are `repr(C)`, `Copy`, of integers only, without implicit padding: any byte pattern is a value.
    unsafe impl aya::Pod for super::Offsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ClassicFields {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Control {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::TupleKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FlowSeen {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_probed_keeps_its_place_and_what_is_absent_stays_so() {
        let offsets = Offsets { skc_dport: 0, tp_srtt_us: 1_912, ..Offsets::NONE }.probed();
        assert_eq!(offsets, Offsets { skc_dport: PROBED, tp_srtt_us: PROBED | 1_912, ..Offsets::NONE });
        assert_ne!(ABSENT & PROBED, 0);
    }
}
