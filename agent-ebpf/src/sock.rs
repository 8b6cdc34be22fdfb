//! What `struct sock_common` says: the two ends, the cookie, the network namespace.

use core::ffi::c_void;

use agent_common::{ABSENT, flag};
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;

use crate::read::{at, offset, plain_offset, probe, setting};

pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
pub const IPPROTO_TCP: u16 = 6;

/// TCP states (`include/net/tcp_states.h`).
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const NEW_SYN_RECV: u8 = 12;
}

/// 16 bytes of address as they lie in memory, IPv4 as v4-mapped.
pub type Addr = [u32; 4];

/// Bytes 8 to 12 of an IPv4 address in an [`Addr`], as they lie in memory.
pub const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// `::ffff:a.b.c.d`, from the four bytes as they lie in memory.
#[inline(always)]
pub fn v4_mapped(address: u32) -> Addr {
    [0, 0, V4_MAPPED, address]
}

/// One end of a connection; the port in host byte order.
#[derive(Clone, Copy)]
pub struct End {
    pub addr: Addr,
    pub port: u16,
}

impl End {
    pub const NONE: End = End { addr: [0; 4], port: 0 };
}

#[inline(always)]
pub fn family(sk: *const c_void) -> u8 {
    // SAFETY: `sk` points to a socket or minisock: sock_common is there.
    unsafe { at::<u16>(sk, offset!(skc_family)) as u8 }
}

#[inline(always)]
pub fn tcp_state(sk: *const c_void) -> u8 {
    // SAFETY: as above.
    unsafe { at::<u8>(sk, offset!(skc_state)) }
}

/// A `tcp_sock`, not a TIME_WAIT or request minisock, of which only sock_common may be read.
#[inline(always)]
pub fn is_full(state: u8) -> bool {
    state != state::TIME_WAIT && state != state::NEW_SYN_RECV
}

#[inline(always)]
fn address(sk: *const c_void, family: u8, v4: u32, v6: u32) -> Addr {
    // SAFETY: as above.
    unsafe {
        if family == AF_INET6 {
            let a = [at(sk, v6), at(sk, v6 + 4), at(sk, v6 + 8), at(sk, v6 + 12)];
            // A v4-mapped connect fills the IPv4 half only on some kernels.
            if a != [0u32; 4] {
                return a;
            }
            let mapped: u32 = at(sk, v4);
            return if mapped == 0 { a } else { v4_mapped(mapped) };
        }
        v4_mapped(at(sk, v4))
    }
}

#[inline(always)]
pub fn remote(sk: *const c_void, family: u8) -> End {
    End {
        addr: address(sk, family, offset!(skc_daddr), offset!(skc_v6_daddr)),
        // SAFETY: as above.
        port: u16::from_be(unsafe { at(sk, offset!(skc_dport)) }),
    }
}

#[inline(always)]
pub fn local(sk: *const c_void, family: u8) -> End {
    End {
        addr: address(sk, family, offset!(skc_rcv_saddr), offset!(skc_v6_rcv_saddr)),
        // SAFETY: as above.
        port: unsafe { at(sk, offset!(skc_num)) },
    }
}

/// The cookie if the socket already has one, else 0.
#[inline(always)]
pub fn known_cookie(sk: *const c_void) -> u64 {
    // SAFETY: sock_common.
    unsafe { at(sk, offset!(skc_cookie)) }
}

/// The cookie that a record carries. Before 5.12 nothing here can make one: it is 0 until somebody asks the kernel.
#[inline(always)]
pub fn cookie(sk: *const c_void) -> u64 {
    let known = known_cookie(sk);
    if known != 0 || setting!(cookie_helper) == 0 {
        return known;
    }
    // SAFETY: `sk` is BTF-typed; the helper takes any socket.
    unsafe { bpf_get_socket_cookie(sk.cast_mut()) }
}

/// Key of `SOCKS` under which the socket would be found, 0 if it is in there for sure not: a socket that has no cookie
/// is in no table of ours, and asking for one would make it. Before 5.12 the key is the socket's address, unless user
/// space, which knows cookies only, has put it in.
#[inline(always)]
pub fn lookup_key(sk: *const c_void) -> u64 {
    let cookie = known_cookie(sk);
    if setting!(cookie_helper) != 0 || (cookie != 0 && !crate::count::has(sk as u64) && crate::count::has(cookie)) {
        return cookie;
    }
    sk as u64
}

/// Key of `SOCKS` for a socket that is not in there.
#[inline(always)]
pub fn fresh_key(sk: *const c_void) -> u64 {
    if setting!(cookie_helper) == 0 { sk as u64 } else { cookie(sk) }
}

/// Inode number of the network namespace of a `tcp_sock`. Not of a tracepoint's own argument: for a pointer member of
/// a trusted pointer the verifier searches all of BTF by name, three times, in every state it visits, which was a third
/// of the start-up time.
#[inline(always)]
pub fn netns(tp: *const c_void) -> u32 {
    // SAFETY: BTF-typed reads.
    unsafe {
        let net: *const c_void = at(tp, offset!(skc_net));
        at(net, offset!(net_inum))
    }
}

/// The same for a minisock, whose type is not known.
#[inline(always)]
pub fn minisock_netns(sk: *const c_void) -> u32 {
    if offset!(skc_net) == ABSENT || offset!(net_inum) == ABSENT {
        return 0;
    }
    // SAFETY: sock_common is there; addresses are probed.
    unsafe {
        let net: u64 = probe(sk as u64 + u64::from(plain_offset!(skc_net)));
        probe(net + u64::from(plain_offset!(net_inum)))
    }
}

/// connect(), listen() and close() or shutdown() run in the process that asked for it.
#[inline(always)]
pub fn owner_flag(old: u8, new: u8) -> u8 {
    let by_owner = (old == state::CLOSE && (new == state::SYN_SENT || new == state::LISTEN))
        || new == state::FIN_WAIT1
        || new == state::LAST_ACK;
    if by_owner { flag::PID_IS_OWNER } else { 0 }
}
