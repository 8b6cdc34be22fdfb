//! What /proc says of processes and their descriptors. Few system calls, no allocation per descriptor: this runs
//! every second.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{Access, Dir, Mode, OFlags, readlinkat_raw};
use rustix::io::Errno;

use crate::model::sanitize;

/// A descriptor that is a socket, and the inode number of that socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketFd {
    pub inode: u64,
    pub fd: i32,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The sockets among the descriptors of `pid`, into `out`; returns how many descriptors there are in all.
/// EACCES or EPERM: another user's process; ENOENT or ESRCH: it is gone.
pub fn sockets_of(pid: u32, out: &mut Vec<SocketFd>) -> Result<usize, Errno> {
    out.clear();
    let dir = rustix::fs::open(format!("/proc/{pid}/fd"), DIRECTORY, Mode::empty())?;
    let mut total = 0;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let Some(fd) = number::<i32>(entry.file_name()) else { continue };
        total += 1;
        if let Some(inode) = socket_inode(&dir, entry.file_name(), pid)? {
            out.push(SocketFd { inode, fd });
        }
    }
    Ok(total)
}

/// `socket:[123]`; `None` for other files and for descriptors closed meanwhile.
fn socket_inode(dir: &OwnedFd, name: &CStr, pid: u32) -> Result<Option<u64>, Errno> {
    let mut link = [MaybeUninit::<u8>::uninit(); 40];
    match readlinkat_raw(dir, name, &mut link) {
        Ok((text, _)) => Ok(parse_socket_link(text)),
        Err(Errno::NOENT) => Ok(None),
        // The kernel says so of a process that has just ended, too.
        Err(Errno::ACCESS) if rustix::fs::access(format!("/proc/{pid}"), Access::EXISTS).is_err() => Err(Errno::SRCH),
        Err(e) => Err(e),
    }
}

fn parse_socket_link(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn number<T: std::str::FromStr>(name: &CStr) -> Option<T> {
    name.to_str().ok()?.parse().ok()
}

/// Every process id that /proc shows (with hidepid: those the user may see).
pub fn all_pids() -> Result<Vec<u32>, Errno> {
    let dir = rustix::fs::open("/proc", DIRECTORY, Mode::empty())?;
    let mut pids = Vec::new();
    for entry in Dir::read_from(&dir)? {
        pids.extend(number::<u32>(entry?.file_name()));
    }
    Ok(pids)
}

/// The name of a process, harmless to print; `None` if it is gone.
pub fn comm(pid: u32) -> Option<String> {
    let raw = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(sanitize(raw.strip_suffix(b"\n").unwrap_or(&raw)))
}

/// The parent's pid; `None` if the process is gone.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_parent(&stat)
}

/// `pid (comm) state ppid ...`; the comm may hold anything, parentheses and newlines too.
fn parse_parent(stat: &[u8]) -> Option<u32> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let text = std::str::from_utf8(&stat[end + 1..]).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The process that `tid` is a thread of; `None` if there is no such thread.
pub fn thread_group(tid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("Tgid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        assert_eq!(parse_socket_link(b"socket:[123456]"), Some(123_456));
        for other in [&b"socket:[]"[..], b"socket:[12", b"pipe:[1]", b"/tmp/socket:[1]", b""] {
            assert_eq!(parse_socket_link(other), None);
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        assert_eq!(parse_parent(b"7 (a) S 1 (x) R 99 1 1"), Some(99));
        assert_eq!(parse_parent(b"7 (sh) S 42 7 7"), Some(42));
        assert_eq!(parse_parent(b"7 sh S 42"), None);
    }

    #[test]
    fn finds_its_own_sockets() {
        let s = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut out = Vec::new();
        let total = sockets_of(std::process::id(), &mut out).unwrap();
        use std::os::fd::AsRawFd;
        assert!(total > 3 && out.iter().any(|f| f.fd == s.as_raw_fd()), "{out:?}");
        assert_eq!(sockets_of(u32::MAX, &mut out), Err(Errno::NOENT));
    }

    #[test]
    fn a_process_that_ends_while_it_is_read_is_gone_not_hidden() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let dir = rustix::fs::open(format!("/proc/{pid}/fd"), DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(socket_inode(&dir, c"0", pid), Ok(None));
        child.kill().unwrap();
        child.wait().unwrap();
        // Which of the two depends on how far the kernel had come.
        assert!(matches!(socket_inode(&dir, c"0", pid), Ok(None) | Err(Errno::SRCH)));
    }

    #[test]
    fn knows_itself() {
        let me = std::process::id();
        assert!(all_pids().unwrap().contains(&me));
        assert_eq!(parent(me), Some(std::os::unix::process::parent_id()));
        assert_eq!(thread_group(me), Some(me));
        assert!(comm(me).is_some_and(|c| !c.is_empty()));
    }
}
