//! What the agent under test finds mounted: changes in a mount namespace of its own.

use std::io;
use std::os::fd::OwnedFd;

/// What the agent finds at /sys/kernel/tracing and /sys/kernel/btf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sys {
    /// As on this machine.
    #[default]
    AsIs,
    /// tracefs mounted.
    Tracefs,
    /// No tracefs, neither there nor below debugfs.
    NoTracefs,
    /// No BTF, but tracefs.
    NoBtf,
    /// Neither.
    NoTracefsNoBtf,
}

/// Mount changes of the agent's own mount namespace.
pub(crate) fn arrange(sys: Sys, tmpfs: Option<(i32, &std::ffi::CStr)>) -> io::Result<()> {
    if sys == Sys::AsIs && tmpfs.is_none() {
        return Ok(());
    }
    let check = |result: libc::c_int, accept: libc::c_int| match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        e if e.raw_os_error() == Some(accept) => Ok(()),
        e => Err(e),
    };
    // An empty, read-only tmpfs over a directory is as if nothing were mounted there.
    let hide = |at: &std::ffi::CStr| {
        // SAFETY: all strings are constants that end in a zero byte.
        let result =
            unsafe { libc::mount(c"none".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), libc::MS_RDONLY, std::ptr::null()) };
        check(result, libc::ENOENT)
    };
    // SAFETY: as above; the mount namespace is this process's own after unshare.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS), 0)?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()), 0)?;
    }
    if matches!(sys, Sys::Tracefs | Sys::NoBtf) {
        let (fs, at) = (c"tracefs".as_ptr(), c"/sys/kernel/tracing".as_ptr());
        // EBUSY: it is mounted there already.
        // SAFETY: constants, as above.
        check(unsafe { libc::mount(fs, at, fs, 0, std::ptr::null()) }, libc::EBUSY)?;
    }
    if matches!(sys, Sys::NoTracefs | Sys::NoTracefsNoBtf) {
        hide(c"/sys/kernel/tracing")?;
        hide(c"/sys/kernel/debug")?;
    }
    if matches!(sys, Sys::NoBtf | Sys::NoTracefsNoBtf) {
        hide(c"/sys/kernel/btf")?;
    }
    if let Some((fd, at)) = tmpfs {
        const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
        // SAFETY: both strings end in a zero byte; the descriptor is held by the builder.
        let moved = unsafe {
            libc::syscall(libc::SYS_move_mount, fd, c"".as_ptr(), libc::AT_FDCWD, at.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH)
        };
        check(moved as libc::c_int, 0)?;
    }
    Ok(())
}

/// A file system of `bytes` that is mounted nowhere: give it to [`crate::runner::Builder::mount`], read it through the
/// descriptor.
pub fn small_tmpfs(bytes: u64) -> io::Result<OwnedFd> {
    detached("tmpfs", "size", &bytes.to_string())
}

/// A `/proc` that shows an ordinary user its own processes only, for [`crate::runner::Builder::mount`].
pub fn hiding_proc() -> io::Result<OwnedFd> {
    detached("proc", "hidepid", "2")
}

fn detached(kind: &str, option: &str, value: &str) -> io::Result<OwnedFd> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, option, value)?;
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}
