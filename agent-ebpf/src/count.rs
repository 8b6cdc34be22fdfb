//! Exact counts, independent of the ring.

use core::arch::asm;
use core::mem::size_of;

use agent_common::{SockStats, present_slot, retransmit, stats_seen, totals};

use crate::emit::{self, Head};
use crate::maps::{PRESENT, SOCKS, TOTALS};
use crate::read::setting;

#[inline(always)]
pub fn total(index: u32, n: u64) {
    if let Some(p) = TOTALS.get_ptr_mut(index) {
        // Atomic, because a softirq may interrupt another program of ours on the same CPU. In assembly, because Rust
        // offers no atomic add for a target without compare-and-swap; this form needs no later kernel than 4.x.
        // SAFETY: a live, aligned map value.
        unsafe { asm!("lock *(u64 *)({p} + 0) += {n}", p = in(reg) p, n = in(reg) n) };
    }
}

/// # Safety
/// `p` points into a live map value and is aligned.
#[inline(always)]
pub unsafe fn add32(p: *mut u32, n: u32) {
    // SAFETY: by contract.
    unsafe { asm!("lock *(u32 *)({p} + 0) += {n}", p = in(reg) p, n = in(reg) u64::from(n)) };
}

/// The entry of a socket, if it belongs to a target. One that waits for the user's sweep is nobody's: where entries are
/// kept by address, the address may be another socket's by now.
#[inline(always)]
pub fn entry(key: u64) -> Option<*mut SockStats> {
    if key == 0 || !present(key) {
        return None;
    }
    SOCKS.get_ptr_mut(key).filter(|stats| !destroyed(*stats))
}

/// False: `SOCKS` has no such key. Where keys are addresses it cannot tell: the verifier lets nobody calculate with those.
#[inline(always)]
fn present(key: u64) -> bool {
    if setting!(cookie_helper) == 0 {
        return true;
    }
    // SAFETY: a live map value, read at once.
    PRESENT.get_ptr(present_slot(key, setting!(present_mask))).is_none_or(|n| unsafe { n.read_volatile() } != 0)
}

/// One entry more, or, with `u64::MAX`, one less.
#[inline(always)]
fn count_present(key: u64, n: u64) {
    if setting!(cookie_helper) == 0 {
        return;
    }
    if let Some(p) = PRESENT.get_ptr_mut(present_slot(key, setting!(present_mask))) {
        // SAFETY: a live, aligned map value; atomic as in `total`.
        unsafe { asm!("lock *(u64 *)({p} + 0) += {n}", p = in(reg) p, n = in(reg) n) };
    }
}

/// Takes an entry away.
#[inline(always)]
pub fn remove(key: u64) {
    if SOCKS.remove(key).is_ok() {
        count_present(key, u64::MAX);
    }
}

#[inline(always)]
fn destroyed(stats: *const SockStats) -> bool {
    // SAFETY: a live map value.
    unsafe { (*stats).seen & stats_seen::DESTROYED != 0 }
}

/// Whether there is such an [`entry`]: also here one that waits for the sweep is nobody's, or a new socket at its
/// address would count as known and never get an entry of its own.
#[inline(always)]
pub fn has(key: u64) -> bool {
    present(key) && SOCKS.get_ptr(key).is_some_and(|stats| !destroyed(stats))
}

/// Makes an entry and finds it, see [`add_entry`].
#[inline(always)]
pub fn make_entry(key: u64, total_retrans: Option<u32>, seen: u32) -> Option<*mut SockStats> {
    if add_entry(key, total_retrans, seen) { SOCKS.get_ptr_mut(key) } else { None }
}

/// Makes an entry; `total_retrans` is the baseline of its segment count, where known; `seen` has further bits. False
/// if there is none.
#[inline(always)]
pub fn add_entry(key: u64, total_retrans: Option<u32>, seen: u32) -> bool {
    if key == 0 {
        return false;
    }
    let seen = seen | if total_retrans.is_some() { stats_seen::TOTAL } else { 0 };
    let fresh = fresh(total_retrans.unwrap_or(0), seen);
    // Before the entry itself: whoever looks for it must find it.
    count_present(key, 1);
    // BPF_NOEXIST: two CPUs may both find it missing.
    if SOCKS.insert(key, fresh, 1).is_err() {
        count_present(key, u64::MAX);
        match SOCKS.get_ptr(key) {
            None => {
                total(totals::TABLE_FULL, 1);
                return false;
            }
            // The sweep has not come by yet, but the address is a new socket's.
            Some(old) if destroyed(old) => drop(SOCKS.insert(key, fresh, 0)),
            Some(_) => {}
        }
    }
    true
}

/// Nothing counted yet. In words: for a structure of this size the compiler calls `memset`, which costs as much as a
/// look-up.
#[inline(always)]
fn fresh(last_total: u32, seen: u32) -> SockStats {
    const WORDS: usize = size_of::<SockStats>() / 8;
    let mut words = [0u64; WORDS];
    // The last two members.
    words[WORDS - 1] = if cfg!(target_endian = "little") {
        u64::from(last_total) | u64::from(seen) << 32
    } else {
        u64::from(last_total) << 32 | u64::from(seen)
    };
    // SAFETY: integers of the same size and alignment.
    unsafe { core::mem::transmute(words) }
}

/// The socket's last record could not be written: an entry of its own, for the user's sweep, tells its end.
#[inline(always)]
pub fn leave_behind(key: u64) {
    if let Some(stats) = make_entry(key, None, 0) {
        // SAFETY: a live map value; nobody else knows of it.
        unsafe { (*stats).seen |= stats_seen::DESTROYED };
    }
}

/// A target's own listener: its SYN-ACKs and RSTs are the target's.
#[inline(always)]
pub fn make_listener(key: u64) {
    if let Some(stats) = make_entry(key, None, 0) {
        // SAFETY: a live map value.
        unsafe { (*stats).seen |= stats_seen::LISTENER };
    }
}

/// A listener under a destination filter: nothing of its own is shown.
#[inline(always)]
pub fn hidden(stats: *const SockStats) -> bool {
    // SAFETY: a live map value.
    unsafe { (*stats).seen & stats_seen::LISTENER != 0 && crate::filter::dest_mode() != 0 }
}

/// Segments of a retransmit after which `total_retrans` is `now`: what it grew by since the last look; for the first
/// look `held`, what the skb holds.
///
/// # Safety
/// `stats` is a live map value, and the socket is locked.
#[inline(always)]
pub unsafe fn grown(stats: *mut SockStats, now: u32, held: u32) -> u32 {
    // SAFETY: by contract.
    unsafe {
        let grown = now.wrapping_sub((*stats).last_total);
        let known = (*stats).seen & stats_seen::TOTAL != 0 && grown < 1 << 30;
        (*stats).last_total = now;
        (*stats).seen |= stats_seen::TOTAL;
        if known { grown } else { held }
    }
}

/// Adds `segments` retransmitted in the way `how`.
#[inline(always)]
pub fn retransmitted(stats: *mut SockStats, how: u8, segments: u32) {
    // SAFETY: a live map value; its members are aligned.
    unsafe {
        add32(&raw mut (*stats).retransmits, segments);
        let member = match how {
            retransmit::RTO => &raw mut (*stats).rto,
            retransmit::FAST => &raw mut (*stats).fast,
            retransmit::TLP => &raw mut (*stats).tlp,
            retransmit::SYN | retransmit::SYNACK => &raw mut (*stats).syn,
            _ => &raw mut (*stats).unknown,
        };
        add32(member, segments);
    }
}

/// Hands the final counts over and forgets the socket; if the ring has no room the entry waits for the user's sweep.
#[inline(always)]
pub fn leave(head: &Head, key: u64, stats: *mut SockStats) {
    if emit::with_stats(head, stats) {
        remove(key);
    } else {
        // SAFETY: a live map value; nobody else writes to a destroyed socket's entry.
        unsafe { (*stats).seen |= stats_seen::DESTROYED };
    }
}
