//! The bpf() commands that aya 0.14 does not offer, and what keeps it from what nobody needs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_TRACE_ITER: u32 = 28;

/// From here on the calling thread, and no other, finds nothing at absolute paths: its root is a directory that has
/// none of them. Needs CAP_SYS_CHROOT; without it nothing changes.
pub fn leave_files() -> rustix::io::Result<()> {
    // SAFETY: of what threads share this separates the root, the working directory and the umask only.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS)? };
    rustix::process::chroot("/sys/kernel/btf")
}

/// `union bpf_iter_link_info`, its member `task`.
#[repr(C)]
struct IterTask {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    rest: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    pad: u32,
}

#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// The members that are used of `struct { } batch` in `union bpf_attr`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// # Safety
/// `attr` is the layout that the kernel reads for `command`, and what it points to lives through the call.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: by contract; the size is that of `attr`.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as i32) }
}

/// Opens an `iter/task_file` program for one process instead of the whole machine (Linux 6.1).
pub fn task_iterator(program: BorrowedFd<'_>, pid: u32) -> io::Result<File> {
    let task = IterTask { tid: 0, pid, pid_fd: 0, rest: 0 };
    let mut create = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        iter_info: (&raw const task) as u64,
        iter_info_len: size_of::<IterTask>() as u32,
        pad: 0,
    };
    // SAFETY: the layouts are those of linux/bpf.h; `task` lives. The result is a new descriptor, owned by nobody.
    let link = unsafe { OwnedFd::from_raw_fd(bpf(BPF_LINK_CREATE, &mut create)?) };
    let mut open = IterCreate { link_fd: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: as above.
    Ok(unsafe { File::from_raw_fd(bpf(BPF_ITER_CREATE, &mut open)?) })
}

/// Writes many entries of a hash map with one call (Linux 5.6).
pub fn update_batch<V: aya::Pod>(map: BorrowedFd<'_>, keys: &[u64], values: &[V]) -> io::Result<()> {
    let count = u32::try_from(keys.len()).map_err(|_| io::Error::other("too many entries for one call"))?;
    if keys.len() != values.len() {
        return Err(io::Error::other("as many keys as values are needed"));
    }
    let mut batch = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the layout is that of linux/bpf.h; both arrays live and have `count` elements of the map's sizes (the
    // kernel knows them; the caller names the map that was declared with these types).
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut batch) }.map(drop)
}

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
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    // An older kernel fills less and leaves the rest zero.
    Ok(info.recursion_misses)
}

/// Entries read by one call; a bucket of the kernel's hash table must fit in whole.
const AT_ONCE: usize = 4096;

/// Every entry of a hash map with a few system calls (5.6), where one by one takes three for each entry.
///
/// The caller names the map's own key and value types: any bytes must be a value of theirs (`Pod`), and the kernel
/// writes as many as the map was made with.
pub fn lookup_all<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    // SAFETY: all-zero is a value of a `Pod`.
    let (mut keys, mut values) =
        unsafe { (vec![std::mem::zeroed::<K>(); AT_ONCE], vec![std::mem::zeroed::<V>(); AT_ONCE]) };
    // Where to go on: a bucket number for hash maps.
    let mut position = 0u64;
    let mut first = true;
    loop {
        let mut attr = Batch {
            in_batch: if first { 0 } else { (&raw const position) as u64 },
            out_batch: (&raw mut position) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the arrays hold `count` elements of the map's types, and live through the call like `position`.
        let last = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => false,
            // The end of the table; what was copied counts.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(e),
        };
        let n = (attr.count as usize).min(AT_ONCE);
        all.extend(keys[..n].iter().copied().zip(values[..n].iter().copied()));
        if last {
            return Ok(all);
        }
        first = false;
    }
}

const _: () = assert!(size_of::<ProgInfo>() == 216 && size_of::<LinkCreate>() == 32 && size_of::<Batch>() == 56);
