//! Reading kernel memory at positions that the user side resolved.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use agent_common::{ABSENT, ClassicFields, Offsets, PROBED, Settings};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// Set by the loader; frozen before the programs load, so that the verifier knows every value.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

#[unsafe(no_mangle)]
pub static CLASSIC: ClassicFields = ClassicFields::NONE;

#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    all: 0,
    kernel_log: 0,
    provenance: 0,
    cookie_helper: 1,
    reset_reason: 0,
    retransmit_err: 0,
    exit_group_dead: 0,
    ca_state_byte: ABSENT,
    ca_state_shift: 0,
    ca_state_mask: 0,
    keepopen_bit: ABSENT,
    ring_high: 1024,
    wake_window_ns: 5_000_000,
    ring_busy: 1024,
    present_mask: 0,
};

/// A value that the loader set. A volatile read: the compiler must not fold the placeholder in.
#[inline(always)]
pub fn frozen(value: &'static u32) -> u32 {
    // SAFETY: a valid reference; the loader replaces its bytes by another integer.
    unsafe { core::ptr::read_volatile(value) }
}

macro_rules! offset {
    ($member:ident) => {
        $crate::read::frozen(&$crate::read::OFFSETS.$member)
    };
}

/// The same as a plain number of bytes; the member must not be [`ABSENT`].
macro_rules! plain_offset {
    ($member:ident) => {
        $crate::read::offset!($member) & !agent_common::PROBED
    };
}

macro_rules! setting {
    ($name:ident) => {
        $crate::read::frozen(&$crate::read::SETTINGS.$name)
    };
}

macro_rules! field {
    ($tracepoint:ident . $name:ident) => {
        $crate::read::frozen(&$crate::read::CLASSIC.$tracepoint.$name)
    };
}

pub(crate) use {field, offset, plain_offset, setting};

/// Reads `T` at `base + offset`, where `base` is a BTF-typed kernel pointer; zero if the kernel lacks the member.
///
/// # Safety
/// `T` is an integer or an array of integers, `base` came from the context or from such a read.
#[inline(always)]
pub unsafe fn at<T: Copy>(base: *const c_void, offset: u32) -> T {
    if offset & PROBED != 0 {
        if offset == ABSENT {
            // SAFETY: all-zero is a value of integers.
            return unsafe { MaybeUninit::zeroed().assume_init() };
        }
        // SAFETY: by contract.
        return unsafe { probe(base as u64 + u64::from(offset & !PROBED)) };
    }
    // SAFETY: the verifier checks the access against the kernel's BTF and makes it fault-safe.
    unsafe { core::ptr::read_volatile(base.cast::<u8>().add(offset as usize).cast()) }
}

/// Reads `T` from a kernel address that has no BTF type; zero if the page is not there.
///
/// # Safety
/// `T` is an integer or an array of integers.
#[inline(always)]
pub unsafe fn probe<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is `size_of::<T>()` bytes on the stack; the helper checks the source and fills all of it,
    // with zeros where it cannot read.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), core::mem::size_of::<T>() as u32, address as *const c_void);
        value.assume_init()
    }
}
