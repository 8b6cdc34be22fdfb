//! Which events matter: the destination first (it is the cheapest to fail), then the target.

use core::ffi::c_void;

use agent_common::{ListenKey, SockStats, dest_mode, stats_seen};
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_map_lookup_elem};

use crate::maps::{CONTROL, DESTS, FOUND, LISTENERS, PIDS};
use crate::read::setting;
use crate::sock::{End, V4_MAPPED};

/// Bits of a full key of `DESTS`: port and address.
const FULL_PREFIX: u32 = 16 + 128;

/// No target filter.
#[inline(always)]
pub fn all() -> bool {
    setting!(all) != 0
}

#[inline(always)]
pub fn dest_mode() -> u32 {
    // SAFETY: one aligned word.
    unsafe { (&raw const (*CONTROL.get()).dest_mode).read_volatile() }
}

/// [`Control::target_mode`].
#[inline(always)]
pub fn target_mode() -> u32 {
    // SAFETY: one aligned word.
    unsafe { (&raw const (*CONTROL.get()).target_mode).read_volatile() }
}

#[inline(always)]
fn dests_version() -> u32 {
    // SAFETY: one aligned word.
    unsafe { (&raw const (*CONTROL.get()).dests_version).read_volatile() }
}

/// Whether the remote end passes the destination filter.
#[inline(always)]
pub fn destination(remote: &End) -> bool {
    let (mode, version) = (dest_mode(), dests_version());
    mode == 0 || listed(mode, version, remote)
}

/// The same for a connected socket: what passed when its entry was made is not looked up again, unless the filter has
/// lost a destination since. A lookup is a tenth of what an event costs.
#[inline(always)]
pub fn passes(stats: Option<*mut SockStats>, remote: &End) -> bool {
    // Both at once, here and above: where the version was read later, the compiler spilled a register that it had not
    // set, which the verifier refuses (and the slower way is taken).
    let (mode, version) = (dest_mode(), dests_version());
    if mode == 0 {
        return true;
    }
    if let Some(stats) = stats
        // SAFETY: a live map value.
        && unsafe { (*stats).seen } >> stats_seen::DESTS_VERSION_SHIFT == version
    {
        return true;
    }
    listed(mode, version, remote)
}

/// [`SockStats::seen`] of a socket whose remote end has just passed.
#[inline(always)]
pub fn passed() -> u32 {
    dests_version() << stats_seen::DESTS_VERSION_SHIFT
}

/// A socket that connects anew, perhaps elsewhere, is looked up again.
#[inline(always)]
pub fn forget_destination(stats: *mut SockStats) {
    // SAFETY: a live map value; connect() holds the socket's lock.
    unsafe { (*stats).seen &= (1 << stats_seen::DESTS_VERSION_SHIFT) - 1 };
}

/// Whether a lookup in `DESTS` finds it. An IPv4 destination that this CPU has found before is not looked up again, if
/// the filter has lost none since: a lookup costs 25 ns, a storm comes from one destination. Address, port and version
/// are one word, which no other program on this CPU can leave half written.
#[inline(always)]
fn listed(mode: u32, version: u32, remote: &End) -> bool {
    let a = &remote.addr;
    if a[0] | a[1] != 0 || a[2] != V4_MAPPED {
        return looked_up(mode, remote);
    }
    let port = if mode & dest_mode::ONE_PORT != 0 { remote.port } else { 0 };
    // Never 0, as `FOUND` is at first. `version` was read before the lookup.
    let word = u64::from(a[3]) << 32 | u64::from(port) << 16 | 1 << 15 | u64::from(version & 0x7fff);
    let found = FOUND.get_ptr_mut(0);
    // SAFETY: a live map value.
    if found.is_some_and(|f| unsafe { f.read_volatile() } == word) {
        return true;
    }
    let listed = looked_up(mode, remote);
    if let (Some(f), true) = (found, listed) {
        // SAFETY: as above.
        unsafe { f.write_volatile(word) };
    }
    listed
}

/// One lookup, two only if some destinations have a port and others have none.
#[inline(always)]
fn looked_up(mode: u32, remote: &End) -> bool {
    (mode & dest_mode::ANY_PORT != 0 && in_dests(remote, 0))
        || (mode & dest_mode::ONE_PORT != 0 && in_dests(remote, remote.port))
}

#[inline(always)]
fn in_dests(remote: &End, port: u16) -> bool {
    let a = &remote.addr;
    // `Key<DestKey>` as aligned words: prefix length, port (big-endian), address. Byte-wise stores cost more than
    // these shifts. The last two bytes are not part of the key.
    let key: [u32; 6] = [
        FULL_PREFIX,
        u32::from(port.to_be()) | a[0] << 16,
        a[0] >> 16 | a[1] << 16,
        a[1] >> 16 | a[2] << 16,
        a[2] >> 16 | a[3] << 16,
        a[3] >> 16,
    ];
    // SAFETY: the key is longer than the map's 22 bytes, and initialised.
    unsafe { !bpf_map_lookup_elem((&raw const DESTS).cast_mut().cast(), (&raw const key).cast::<c_void>()).is_null() }
}

/// tgid of the current task, in the initial pid namespace.
#[inline(always)]
pub fn current_tgid() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Whether `tgid` is a target; the value says whether its children are too.
#[inline(always)]
pub fn target(tgid: u32) -> Option<u32> {
    // SAFETY: the value is copied out at once; a concurrent update replaces one u32 by another.
    unsafe { PIDS.get(tgid) }.copied()
}

/// Whether a target listens there.
#[inline(always)]
pub fn listens(netns: u32, port: u16) -> bool {
    LISTENERS.get_ptr(ListenKey { netns, port, pad: 0 }).is_some()
}

#[inline(always)]
pub fn add_listener(netns: u32, port: u16) {
    let key = ListenKey { netns, port, pad: 0 };
    match LISTENERS.get_ptr_mut(key) {
        // SAFETY: a live map value; adds are atomic.
        Some(n) => unsafe { crate::count::add32(n, 1) },
        None => {
            let _ = LISTENERS.insert(key, 1, 0);
        }
    }
}

/// One listener of a port closed; others may share it (SO_REUSEPORT).
#[inline(always)]
pub fn remove_listener(netns: u32, port: u16) {
    let key = ListenKey { netns, port, pad: 0 };
    if let Some(n) = LISTENERS.get_ptr_mut(key) {
        // SAFETY: a live map value; a torn count can only keep the port too long.
        unsafe {
            if *n <= 1 {
                let _ = LISTENERS.remove(key);
            } else {
                *n -= 1;
            }
        }
    }
}
