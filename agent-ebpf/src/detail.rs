//! `TcpDetail`: what `struct tcp_sock` says at an event.

use core::ffi::c_void;

use agent_common::{ABSENT, FlowSeen, TcpDetail, flag, retransmit};
use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;

use crate::emit::put;
use crate::maps::FLOWS;
use crate::read::{at, offset, setting};
use crate::sock::state;

/// `TCP_CA_*` (`include/net/tcp.h`) and `ICSK_TIME_LOSS_PROBE` (`inet_connection_sock.h`).
const CA_RECOVERY: u8 = 3;
const CA_LOSS: u8 = 4;
const TIME_LOSS_PROBE: u8 = 5;

/// `sk` as a `tcp_sock`; null if it is none.
#[inline(always)]
pub fn tcp_sock(sk: *const c_void) -> *const c_void {
    // SAFETY: the helper takes any BTF-typed socket and checks what it is.
    unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()).cast_const().cast() }
}

#[inline(always)]
pub fn ca_state(tp: *const c_void) -> u8 {
    // SAFETY: `tp` is a tcp_sock, whose first member is the inet_connection_sock.
    let byte: u8 = unsafe { at(tp, setting!(ca_state_byte)) };
    (u32::from(byte) >> setting!(ca_state_shift) & setting!(ca_state_mask)) as u8
}

/// How the segment came to be retransmitted. Recovery and Loss are asked first: a loss probe may still be armed
/// while ACKs drive a recovery.
#[inline(always)]
pub fn how(tp: *const c_void, tcp_state: u8) -> u8 {
    if tcp_state == state::SYN_SENT || tcp_state == state::SYN_RECV {
        return retransmit::SYN;
    }
    if tp.is_null() || setting!(ca_state_byte) == ABSENT {
        return retransmit::UNKNOWN;
    }
    match ca_state(tp) {
        CA_RECOVERY => retransmit::FAST,
        CA_LOSS => retransmit::RTO,
        // SAFETY: as above.
        _ if unsafe { at::<u8>(tp, offset!(icsk_pending)) } == TIME_LOSS_PROBE => retransmit::TLP,
        _ => retransmit::UNKNOWN,
    }
}

/// Fills `d` from the socket, and from the RST that the provenance program saw on it; returns record flags.
///
/// # Safety
/// `d` is writable; `tp` is a tcp_sock, not null.
#[inline(always)]
pub unsafe fn fill(d: *mut TcpDetail, tp: *const c_void, skb_len: u32, rst: Option<*const FlowSeen>) -> u8 {
    // SAFETY: by contract; every byte of `d` is written, ring memory is not zeroed.
    unsafe {
        (*d).bytes_acked = at(tp, offset!(tp_bytes_acked));
        (*d).bytes_received = at(tp, offset!(tp_bytes_received));
        (*d).bytes_sent = at(tp, offset!(tp_bytes_sent));
        (*d).snd_una = at(tp, offset!(tp_snd_una));
        (*d).snd_nxt = at(tp, offset!(tp_snd_nxt));
        (*d).write_seq = at(tp, offset!(tp_write_seq));
        (*d).rcv_nxt = at(tp, offset!(tp_rcv_nxt));
        (*d).total_retrans = at(tp, offset!(tp_total_retrans));
        (*d).rto = at(tp, offset!(icsk_rto));
        (*d).srtt_us_x8 = at(tp, offset!(tp_srtt_us));
        (*d).packets_out = at(tp, offset!(tp_packets_out));
        (*d).mss_cache = at(tp, offset!(tp_mss_cache));
        (*d).snd_wnd = at(tp, offset!(tp_snd_wnd));
        (*d).lsndtime = at(tp, offset!(tp_lsndtime));
        (*d).rcv_tstamp = at(tp, offset!(tp_rcv_tstamp));
        (*d).lrcvtime = at(tp, offset!(icsk_lrcvtime));
        (*d).user_timeout_ms = at(tp, offset!(icsk_user_timeout));
        (*d).skb_len = skb_len;
        (*d).backoff = at(tp, offset!(icsk_backoff));
        (*d).retransmits = at(tp, offset!(icsk_retransmits));
        (*d).keepalive = if setting!(keepopen_bit) == ABSENT {
            255
        } else {
            let flags: u64 = at(tp, offset!(sk_flags));
            (flags >> setting!(keepopen_bit) & 1) as u8
        };
        (*d).probes_out = at(tp, offset!(icsk_probes_out));
        put!(d, pad, [0; 2]);
        if let Some(f) = rst {
            (*d).seq = (*f).rst_seq;
            (*d).ip_id = (*f).rst_ip_id;
            (*d).flow_ip_id = (*f).ip_id;
            (*d).window = (*f).rst_window;
            (*d).tcp_flags = (*f).rst_flags;
            (*d).ttl = (*f).rst_ttl;
            (*d).flow_ttl = (*f).ttl_min;
            (*d).flow_ttl_max = (*f).ttl_max;
            return flag::HAS_PACKET;
        }
        put!(d, seq, 0);
        put!(d, ip_id, 0);
        put!(d, flow_ip_id, 0);
        put!(d, window, 0);
        put!(d, tcp_flags, 0);
        put!(d, ttl, 0);
        put!(d, flow_ttl, 0);
        put!(d, flow_ttl_max, 0);
        0
    }
}

/// The RST that the provenance program saw for this cookie.
#[inline(always)]
pub fn seen_rst(cookie: u64) -> Option<*const FlowSeen> {
    if setting!(provenance) == 0 {
        return None;
    }
    let flow = FLOWS.get_ptr(cookie)?;
    // SAFETY: a live map value.
    if unsafe { (*flow).rst } != 0 { Some(flow) } else { None }
}
