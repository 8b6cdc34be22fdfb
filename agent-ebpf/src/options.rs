//! Socket options from inside the kernel.

use core::ffi::c_void;

use agent_common::guard_error;
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_setsockopt};

const SOL_SOCKET: i32 = 1;
const IPPROTO_TCP: i32 = 6;
const SO_KEEPALIVE: i32 = 9;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

/// Values of the options; -1 = unknown when read, «leave it» when set.
#[derive(Clone, Copy)]
pub struct Values {
    pub keepalive: i32,
    pub idle_s: i32,
    pub interval_s: i32,
    pub count: i32,
    pub user_timeout_ms: i32,
}

impl Values {
    pub const UNKNOWN: Values = Values { keepalive: -1, idle_s: -1, interval_s: -1, count: -1, user_timeout_ms: -1 };

    /// Whether these meet `condition`, where -1 is met by anything.
    #[inline(always)]
    pub fn meet(&self, condition: &Values) -> bool {
        let same = |have: i32, want: i32| want == -1 || have == want;
        same(self.keepalive, condition.keepalive)
            && same(self.idle_s, condition.idle_s)
            && same(self.interval_s, condition.interval_s)
            && same(self.count, condition.count)
            && same(self.user_timeout_ms, condition.user_timeout_ms)
    }
}

/// # Safety
/// `sk` is what the helper takes in the calling program: a socket or the context.
#[inline(always)]
unsafe fn get(sk: *mut c_void, level: i32, option: i32) -> i32 {
    let mut value: i32 = -1;
    // SAFETY: the value is four bytes on the stack; the rest by contract.
    if unsafe { bpf_getsockopt(sk, level, option, (&raw mut value).cast(), 4) } == 0 { value } else { -1 }
}

/// # Safety
/// As [`get`].
#[inline(always)]
unsafe fn put(sk: *mut c_void, level: i32, option: i32, mut value: i32) -> bool {
    // SAFETY: as above.
    unsafe { bpf_setsockopt(sk, level, option, (&raw mut value).cast(), 4) == 0 }
}

/// Reads all; -1 where this kernel's helper does not tell.
///
/// # Safety
/// `sk` is what `bpf_getsockopt` takes in the calling program.
#[inline(always)]
pub unsafe fn read(sk: *mut c_void) -> Values {
    // SAFETY: by contract.
    unsafe {
        Values {
            keepalive: get(sk, SOL_SOCKET, SO_KEEPALIVE),
            idle_s: get(sk, IPPROTO_TCP, TCP_KEEPIDLE),
            interval_s: get(sk, IPPROTO_TCP, TCP_KEEPINTVL),
            count: get(sk, IPPROTO_TCP, TCP_KEEPCNT),
            user_timeout_ms: get(sk, IPPROTO_TCP, TCP_USER_TIMEOUT),
        }
    }
}

/// Sets what is wanted and differs from `now`; the result has a [`guard_error`] bit for each option refused. The order
/// is that of the user side (agent/src/action/options.rs): off first, the times, on last, so that the timer starts
/// with the times in place.
///
/// # Safety
/// `sk` is what `bpf_setsockopt` takes in the calling program.
#[inline(always)]
pub unsafe fn set(sk: *mut c_void, wanted: &Values, now: &Values) -> u32 {
    let mut error = 0;
    let differs = |want: i32, have: i32| want != -1 && want != have;
    // SAFETY: by contract.
    unsafe {
        if differs(wanted.user_timeout_ms, now.user_timeout_ms)
            && !put(sk, IPPROTO_TCP, TCP_USER_TIMEOUT, wanted.user_timeout_ms)
        {
            error |= guard_error::USER_TIMEOUT;
        }
        if wanted.keepalive == 0 && now.keepalive != 0 && !put(sk, SOL_SOCKET, SO_KEEPALIVE, 0) {
            error |= guard_error::KEEPALIVE;
        }
        if differs(wanted.idle_s, now.idle_s) && !put(sk, IPPROTO_TCP, TCP_KEEPIDLE, wanted.idle_s) {
            error |= guard_error::KEEPIDLE;
        }
        if differs(wanted.interval_s, now.interval_s) && !put(sk, IPPROTO_TCP, TCP_KEEPINTVL, wanted.interval_s) {
            error |= guard_error::KEEPINTVL;
        }
        if differs(wanted.count, now.count) && !put(sk, IPPROTO_TCP, TCP_KEEPCNT, wanted.count) {
            error |= guard_error::KEEPCNT;
        }
        if wanted.keepalive == 1 && now.keepalive != 1 && !put(sk, SOL_SOCKET, SO_KEEPALIVE, 1) {
            error |= guard_error::KEEPALIVE;
        }
    }
    error
}
