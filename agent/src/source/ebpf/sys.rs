//! The bpf() commands that aya 0.14 does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `struct bpf_prog_info` up to `recursion_misses` (5.12), which lies behind `run_time_ns` and `run_cnt`
/// (`include/uapi/linux/bpf.h`; the layout only ever grows at its end).
#[repr(C)]
struct ProgInfo {
    before: [u64; 24],
    run_time_ns: u64,
    run_cnt: u64,
    recursion_misses: u64,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// Runs of a program that the kernel skipped because one was already under way on that CPU; 0 on kernels that do not
/// count them.
pub fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = ProgInfo { before: [0; 24], run_time_ns: 0, run_cnt: 0, recursion_misses: 0 };
    let mut attr =
        InfoByFd { fd: program.as_raw_fd() as u32, length: size_of::<ProgInfo>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: `attr` and what it points to live through the call, and the lengths are theirs. The buffer is zeroed:
    // the kernel takes its pointers and counts (map ids, instructions) as «not wanted».
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<InfoByFd>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // An older kernel fills less and leaves the rest zero.
    Ok(info.recursion_misses)
}

const _: () = assert!(size_of::<ProgInfo>() == 216);
