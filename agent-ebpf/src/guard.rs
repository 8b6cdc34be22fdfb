//! Keepalive on new connections: at connect(), in the process that calls it, before the SYN.

use agent_common::{GuardOptions, GuardRow, guard_target, totals};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns};
use aya_ebpf::macros::{cgroup_sock_addr, map};
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use aya_ebpf::programs::SockAddrContext;

use crate::count::total;
use crate::filter;
use crate::options::{self, Values};
use crate::sock::{AF_INET, AF_INET6, End, IPPROTO_TCP, v4_mapped};

#[map]
pub static GUARD: Array<GuardOptions> = Array::with_max_entries(1, 0);

/// Names of processes that are meant, zero-padded.
#[map]
pub static GUARD_COMMS: HashMap<[u8; 16], u32> = HashMap::with_max_entries(64, 0);

/// One [`GuardRow`] per socket. A connect() is rare enough to wake the reader for each.
#[map]
pub static GUARDED: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Whether this object was loaded for a guard, which reads [`GUARDED`] only: records for others would fill a ring that
/// nobody empties, and count as lost.
#[inline(always)]
pub fn on() -> bool {
    GUARD.get(0).is_some_and(|g| g.target != 0)
}

/// 1 if the current process is guarded by its name and its children shall be too.
#[inline(always)]
pub fn named_with_children() -> u32 {
    let wanted = GUARD.get(0).is_some_and(|g| g.target & guard_target::CHILDREN != 0);
    u32::from(wanted && bpf_get_current_comm().is_ok_and(|comm| GUARD_COMMS.get_ptr(comm).is_some()))
}

/// Always: let the connect go on.
const PROCEED: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn guard_connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: context fields, read one by one as the verifier wants them.
    let remote = unsafe {
        let c = ctx.sock_addr;
        End {
            addr: v4_mapped(core::ptr::read_volatile(&raw const (*c).user_ip4)),
            port: u16::from_be(core::ptr::read_volatile(&raw const (*c).user_port) as u16),
        }
    };
    connect(&ctx, AF_INET, &remote)
}

#[cgroup_sock_addr(connect6)]
pub fn guard_connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    let remote = unsafe {
        let c = ctx.sock_addr;
        let word = |n: usize| core::ptr::read_volatile((&raw const (*c).user_ip6).cast::<u32>().add(n));
        End {
            addr: [word(0), word(1), word(2), word(3)],
            port: u16::from_be(core::ptr::read_volatile(&raw const (*c).user_port) as u16),
        }
    };
    connect(&ctx, AF_INET6, &remote)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: u8, remote: &End) -> i32 {
    // SAFETY: a context field.
    let protocol = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).protocol) };
    if protocol != u32::from(IPPROTO_TCP) || !filter::destination(remote) {
        return PROCEED;
    }
    let Some(guard) = GUARD.get(0) else { return PROCEED };
    let comm = bpf_get_current_comm().unwrap_or_default();
    let pid = filter::current_tgid();
    let meant = guard.target & guard_target::ALL != 0
        || (guard.target & guard_target::PIDS != 0 && filter::target(pid).is_some())
        || (guard.target & guard_target::COMMS != 0 && GUARD_COMMS.get_ptr(comm).is_some());
    if !meant {
        return PROCEED;
    }
    let wanted = Values {
        keepalive: 1,
        idle_s: guard.idle_s as i32,
        interval_s: guard.interval_s as i32,
        count: guard.count as i32,
        user_timeout_ms: if guard.user_timeout_ms == 0 { -1 } else { guard.user_timeout_ms as i32 },
    };
    // SAFETY: the context is what the helpers take in this program type.
    let (before, error, cookie) = unsafe {
        let before = options::read(ctx.as_ptr());
        (before, options::set(ctx.as_ptr(), &wanted, &before), bpf_get_socket_cookie(ctx.as_ptr()))
    };
    total(u32::from(agent_common::kind::GUARD), 1);
    let Some(mut entry) = GUARDED.reserve::<GuardRow>(0) else {
        total(totals::RING_FULL, 1);
        return PROCEED;
    };
    let mut row = GuardRow {
        // SAFETY: a helper without arguments.
        ts: unsafe { bpf_ktime_get_ns() },
        cookie,
        pid,
        error,
        keepalive: before.keepalive,
        idle_s: before.idle_s,
        interval_s: before.interval_s,
        count: before.count,
        user_timeout_ms: before.user_timeout_ms,
        dport: remote.port,
        family,
        pad: 0,
        daddr: [0; 16],
        comm,
    };
    // SAFETY: 16 bytes each.
    unsafe { core::ptr::copy_nonoverlapping(remote.addr.as_ptr().cast::<u8>(), row.daddr.as_mut_ptr(), 16) };
    entry.write(row);
    entry.submit(0);
    PROCEED
}
