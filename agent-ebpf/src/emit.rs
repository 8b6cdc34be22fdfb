//! Writing records into the ring, and waking the reader seldom.

use core::ffi::c_void;
use core::mem::size_of;

use agent_common::{BUSY_WINDOWS, Record, SockStats, TcpDetail, flag, totals};
use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};

use crate::count::total;
use crate::maps::{EVENTS, HEARD, HEARD_SLOTS, STRANGER, WAKE};
use crate::read::setting;
use crate::sock::{Addr, End};

/// `BPF_RB_AVAIL_DATA` of `bpf_ringbuf_query`: bytes not yet consumed.
const AVAIL_DATA: u64 = 0;

/// Writes a member of ring memory. Volatile: the compiler makes one call of `memset` out of zeros that lie side by side,
/// which here is a loop over bytes.
macro_rules! put {
    ($to:expr, $member:ident, $value:expr) => {
        (&raw mut (*$to).$member).write_volatile($value)
    };
}

pub(crate) use put;

/// # Safety
/// `to` is writable and aligned to 4.
#[inline(always)]
unsafe fn put_address(to: *mut [u8; 16], from: Addr) {
    let to = to.cast::<u32>();
    let mut n = 0;
    while n < from.len() {
        // SAFETY: by contract; four words.
        unsafe { to.add(n).write_volatile(from[n]) };
        n += 1;
    }
}

/// What a record says besides its time.
#[derive(Clone, Copy)]
pub struct Head {
    pub kind: u8,
    pub cookie: u64,
    pub sk: u64,
    pub netns: u32,
    pub pid: u32,
    pub reason: u32,
    pub aux: u32,
    pub local: End,
    pub remote: End,
    pub family: u8,
    pub state: u8,
    pub new_state: u8,
    pub how: u8,
    pub flags: u8,
}

impl Head {
    /// A record of `kind` about the socket at `sk`, everything else unknown.
    #[inline(always)]
    pub fn new(kind: u8, sk: *const c_void) -> Self {
        Self {
            kind,
            cookie: 0,
            sk: sk as u64,
            netns: 0,
            pid: 0,
            reason: 0,
            aux: 0,
            local: End::NONE,
            remote: End::NONE,
            family: 0,
            state: 0,
            new_state: 0,
            how: 0,
            flags: 0,
        }
    }

    #[inline(always)]
    unsafe fn write(&self, to: *mut Record, now: u64, jiffies: u32, more_flags: u8) {
        // SAFETY: `to` is reserved ring memory of at least a Record, 8-aligned; every byte is written.
        unsafe {
            put!(to, ts, now);
            put!(to, cookie, self.cookie);
            put!(to, sk, self.sk);
            put!(to, netns, self.netns);
            put!(to, pid, self.pid);
            put!(to, reason, self.reason);
            put!(to, aux, self.aux);
            put!(to, jiffies, jiffies);
            put!(to, sport, self.local.port);
            put!(to, dport, self.remote.port);
            put_address(&raw mut (*to).saddr, self.local.addr);
            put_address(&raw mut (*to).daddr, self.remote.addr);
            put!(to, kind, self.kind);
            put!(to, family, self.family);
            put!(to, state, self.state);
            put!(to, new_state, self.new_state);
            put!(to, how, self.how);
            put!(to, flags, self.flags | more_flags);
            put!(to, pad, 0u16.to_ne_bytes());
        }
    }
}

#[repr(C)]
struct WithDetail {
    record: Record,
    detail: TcpDetail,
}

#[repr(C)]
struct WithStats {
    record: Record,
    stats: SockStats,
}

/// Writes a bare record; false if the ring was full.
#[inline(always)]
pub fn record(head: &Head) -> bool {
    let Some(mut entry) = EVENTS.reserve::<Record>(0) else { return full(head.kind) };
    let now = now();
    // SAFETY: reserved for a Record.
    unsafe { head.write(entry.as_mut_ptr(), now, 0, 0) };
    entry.submit(wake_flags(now, head.pid));
    true
}

/// Writes a record with what `fill` puts into the detail (all of it, reserved memory is not zeroed); `fill` returns
/// further flags.
#[inline(always)]
pub fn with_detail(head: &Head, fill: impl FnOnce(*mut TcpDetail) -> u8) -> bool {
    let Some(mut entry) = EVENTS.reserve::<WithDetail>(0) else { return full(head.kind) };
    let now = now();
    let p = entry.as_mut_ptr();
    // SAFETY: reserved for both.
    unsafe {
        let more = fill(&raw mut (*p).detail);
        head.write(&raw mut (*p).record, now, bpf_jiffies64() as u32, flag::HAS_DETAIL | more);
    }
    entry.submit(wake_flags(now, head.pid));
    true
}

/// Writes a record with the socket's final counts.
#[inline(always)]
pub fn with_stats(head: &Head, stats: *const SockStats) -> bool {
    let Some(mut entry) = EVENTS.reserve::<WithStats>(0) else { return full(head.kind) };
    let now = now();
    let p = entry.as_mut_ptr();
    // SAFETY: reserved for both; `stats` is a live map value.
    unsafe {
        // In words, as they are aligned: not the call of `memmove` that a structure of this size becomes.
        let (from, to) = (stats.cast::<u64>(), (&raw mut (*p).stats).cast::<u64>());
        let mut n = 0;
        while n < size_of::<SockStats>() / 8 {
            to.add(n).write(from.add(n).read_volatile());
            n += 1;
        }
        head.write(&raw mut (*p).record, now, 0, flag::HAS_STATS);
    }
    entry.submit(wake_flags(now, head.pid));
    true
}

#[inline(always)]
fn full(kind: u8) -> bool {
    total(totals::RING_FULL, 1);
    untold(kind);
    false
}

/// Counts an event that has no record. Those that have one are counted where it is read: here it would cost each of them
/// a locked addition, which waits until everything written before has reached the cache.
#[inline(always)]
pub fn untold(kind: u8) {
    total(u32::from(kind), 1);
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether none of the last events was of this process, as far as `HEARD` remembers; 0 is none.
#[inline(always)]
fn is_new(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    // SAFETY: below `HEARD_SLOTS`, which is a power of two; one aligned word.
    unsafe {
        let slot = HEARD.get().cast::<u32>().add(pid as usize & (HEARD_SLOTS - 1));
        if slot.read_volatile() == pid {
            return false;
        }
        slot.write_volatile(pid);
    }
    true
}

/// A wake-up per event costs twenty times the record itself and makes the kernel skip nested runs. So: one if the
/// last is older than the window (than [`BUSY_WINDOWS`] of them while events come thick), or at most eight per window if
/// the ring fills or a process is new: it may not live until the window is over, and its name is looked up by the reader.
/// The reader polls for as long after it has seen anything, so that no record is stranded.
#[inline(always)]
fn wake_flags(now: u64, pid: u32) -> u64 {
    let stranger = STRANGER.get();
    if is_new(pid) {
        // SAFETY: one aligned word; a race costs one wake-up more or delays one by a window.
        unsafe { stranger.write_volatile(1) };
    }
    let no = u64::from(BPF_RB_NO_WAKEUP);
    let last = WAKE.get();
    let window = u64::from(setting!(wake_window_ns));
    // SAFETY: one aligned word; a race costs one wake-up more.
    unsafe {
        let since = now.wrapping_sub(last.read_volatile());
        // Another CPU may have stamped a later time than ours.
        if since > i64::MAX as u64 || since < window / 8 {
            return no;
        }
        if since < window * u64::from(BUSY_WINDOWS) {
            let waiting = EVENTS.query(AVAIL_DATA);
            let soon = since < window || waiting >= u64::from(setting!(ring_busy));
            if soon && waiting < u64::from(setting!(ring_high)) && stranger.read_volatile() == 0 {
                return no;
            }
        }
        last.write_volatile(now);
        stranger.write_volatile(0);
    }
    total(totals::WAKEUPS, 1);
    u64::from(BPF_RB_FORCE_WAKEUP)
}
