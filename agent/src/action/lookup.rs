//! The descriptors of a process, and which of them are TCP connections.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, readlinkat_raw};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, sockopt};

use super::options::{self, OptionError, TcpLook};
use crate::model::{SocketId, TcpState, canonical};
use crate::source::diag::request::States;
use crate::source::diag::{Diag, NetNs, Query};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

/// What one descriptor of a process is, seen from /proc without touching it.
pub(super) enum Kind {
    Socket,
    Other,
    /// Closed in the meantime.
    Gone,
}

/// The descriptors of a process, listed once: a moving target, as the process goes on opening and closing.
pub(super) struct Descriptors {
    /// `/proc/PID/fd`; `None` where its permissions keep us out.
    dir: Option<OwnedFd>,
    /// Those that are worth a try, in order.
    pub numbers: Vec<i32>,
    /// How many of them were open.
    pub open: usize,
}

/// Open descriptors from which on each number of the table is tried without a listing: making the kernel's list costs
/// 2 µs a descriptor, on one processor, and each is looked at afterwards anyway.
const UNLISTED: usize = 1_000;

impl Descriptors {
    /// `/proc/PID/fd` belongs to the process's user, and CAP_SYS_PTRACE does not open it (that takes
    /// CAP_DAC_READ_SEARCH); but it does allow to duplicate a descriptor whose number is known. Then every number up
    /// to the size of the process's table is worth a try.
    pub fn of(pid: u32) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::ACCESS) if may_trace() => {
                let numbers: Vec<i32> = (0..table_size(pid).ok_or(Errno::ACCESS)?).collect();
                return Ok(Self { dir: None, open: numbers.len(), numbers });
            }
            Err(e) => return Err(e),
        };
        let mut numbers = Vec::new();
        for entry in Dir::read_from(&dir)? {
            if let Some(n) = number(entry?.file_name()) {
                numbers.push(n);
            }
        }
        numbers.sort_unstable();
        Ok(Self { dir: Some(dir), open: numbers.len(), numbers })
    }

    /// As [`Self::of`], but a large table without many holes is not listed: its holes are among the numbers.
    pub fn of_unlisted(pid: u32) -> Result<Self, Errno> {
        let path = format!("/proc/{pid}/fd");
        // Since Linux 6.2 the size of that directory is the number of open descriptors; before, 0.
        let open = rustix::fs::stat(&path).map_or(0, |s| usize::try_from(s.st_size).unwrap_or(0));
        let size = if open >= UNLISTED { table_size(pid) } else { None };
        let Some(size) = size.filter(|n| usize::try_from(*n).is_ok_and(|n| n <= 2 * open)) else {
            return Self::of(pid);
        };
        match rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => Ok(Self { dir: Some(dir), open, numbers: (0..size).collect() }),
            Err(_) => Self::of(pid),
        }
    }

    /// Whether descriptor `fd` is a socket. The link is only a hint: the descriptor may change right after. Where
    /// there is no look at it, it may be one.
    pub fn kind(&self, fd: i32) -> Result<Kind, Errno> {
        let Some(dir) = &self.dir else { return Ok(Kind::Socket) };
        let mut name = [0u8; 12];
        let digits = decimal(fd, &mut name);
        let mut link = [MaybeUninit::<u8>::uninit(); 16];
        match readlinkat_raw(dir, digits, &mut link) {
            Ok((text, _)) if text.starts_with(b"socket:[") => Ok(Kind::Socket),
            Ok(_) => Ok(Kind::Other),
            Err(Errno::NOENT) => Ok(Kind::Gone),
            Err(e) => Err(e),
        }
    }

    /// The inode of a socket, as sock_diag shows it; `None` if `fd` is no socket (any more).
    #[cfg(target_arch = "x86_64")]
    pub fn inode(&self, fd: i32) -> Option<u64> {
        let mut name = [0u8; 12];
        let digits = decimal(fd, &mut name);
        let link = rustix::fs::readlinkat(self.dir.as_ref()?, digits, Vec::new()).ok()?;
        link.to_str().ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    }
}

fn may_trace() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_PTRACE).unwrap_or(false)
}

/// Slots of a process's descriptor table (`FDSize`, which everybody may read); at most what `fs.nr_open` is by default.
fn table_size(pid: u32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse_table_size(&status)
}

fn parse_table_size(status: &str) -> Option<i32> {
    const MOST: i32 = 1 << 20;
    let size: i32 = status.lines().find_map(|l| l.strip_prefix("FDSize:"))?.trim().parse().ok()?;
    Some(size.min(MOST))
}

fn number(name: &CStr) -> Option<i32> {
    name.to_str().ok()?.parse().ok()
}

/// `fd` as text without allocating: this runs once per descriptor.
fn decimal(fd: i32, buffer: &mut [u8; 12]) -> &[u8] {
    let mut n = fd.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &buffer[at..];
        }
    }
}

/// What a duplicated descriptor turned out to be.
#[derive(Debug)]
pub(super) enum Seen {
    Tcp(Tcp),
    Listener,
    /// TCP, but neither connected nor listening.
    Unconnected,
    Udp,
    OtherSocket,
    NoSocket,
}

#[derive(Debug)]
pub(super) struct Tcp {
    pub id: SocketId,
    pub remote: Option<SocketAddr>,
    pub mptcp: bool,
    /// `None` where nothing waits to be sent.
    pub look: Option<TcpLook>,
}

/// Classifies a socket that we hold a duplicate of: it cannot be closed, replaced or reused under our hands.
pub(super) fn classify(fd: BorrowedFd<'_>) -> Result<Seen, OptionError> {
    let error = |option| move |errno| OptionError { option, setting: false, errno };
    // A connection tells its family with its peer; only the others must be asked for it.
    let peer = match rustix::net::getpeername(fd) {
        Ok(peer) => peer,
        Err(Errno::NOTSOCK) => return Ok(Seen::NoSocket),
        // SYN_SENT: the address is known to the kernel but getpeername does not tell it before the connection is up.
        Err(_) => None,
    };
    let remote = peer.as_ref().and_then(address);
    if remote.is_none() {
        let domain = sockopt::socket_domain(fd).map_err(error("SO_DOMAIN"))?;
        if domain != AddressFamily::INET && domain != AddressFamily::INET6 {
            return Ok(Seen::OtherSocket);
        }
    }
    let protocol = sockopt::socket_protocol(fd).map_err(error("SO_PROTOCOL"))?;
    let mptcp = match protocol.map(|p| p.as_raw().get()) {
        Some(IPPROTO_TCP) => false,
        Some(IPPROTO_MPTCP) => true,
        Some(IPPROTO_UDP) => return Ok(Seen::Udp),
        _ => return Ok(Seen::OtherSocket),
    };
    let look = if remote.is_some() {
        // Connected. Only what waits to be sent is worth more than one cheap call: this runs for thousands. The queue
        // of an MPTCP socket is not that of its subflows.
        let waiting = !mptcp && options::queued(fd).is_some_and(|n| n > 0);
        if waiting { Some(options::look(fd)?) } else { None }
    } else {
        match options::look(fd) {
            Ok(look) => Some(look),
            Err(_) if mptcp => None,
            Err(e) => return Err(e),
        }
    };
    match look.and_then(|l| l.state) {
        Some(TcpState::Listen) => return Ok(Seen::Listener),
        Some(TcpState::Close | TcpState::TimeWait) => return Ok(Seen::Unconnected),
        _ => {}
    }
    let id = SocketId(sockopt::socket_cookie(fd.as_fd()).map_err(error("SO_COOKIE"))?);
    Ok(Seen::Tcp(Tcp { id, remote, mptcp, look }))
}

/// Where connecting sockets (SYN_SENT) connect to: getpeername does not tell before the connection is up, sock_diag
/// does. One dump per process that has such a socket, at the first of them.
#[derive(Default)]
pub(super) struct Connecting {
    found: Option<BTreeMap<SocketId, SocketAddr>>,
}

impl Connecting {
    /// `dup`: the socket, `pid`: who holds it. `None` if it is not connecting (any more) or sock_diag is out of reach.
    pub fn remote(&mut self, id: SocketId, dup: BorrowedFd<'_>, pid: u32) -> Option<SocketAddr> {
        let found = self.found.get_or_insert_with(|| dump_connecting(dup, pid).unwrap_or_default());
        found.get(&id).copied()
    }
}

fn dump_connecting(dup: BorrowedFd<'_>, pid: u32) -> std::io::Result<BTreeMap<SocketId, SocketAddr>> {
    let netns = NetNs::of_socket(dup).or_else(|_| NetNs::of_pid(pid))?;
    let mut found = BTreeMap::new();
    let query = Query { states: States::of(&[TcpState::SynSent]), info: false, ..Default::default() };
    Diag::open(&netns)?.dump(&query, |s| {
        found.insert(s.id, s.flow.remote);
    })?;
    Ok(found)
}

fn address(any: &SocketAddrAny) -> Option<SocketAddr> {
    let addr = SocketAddr::try_from(any.clone()).ok()?;
    Some(SocketAddr::new(canonical(addr.ip()), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    #[test]
    fn the_table_size_is_read_and_bounded() {
        assert_eq!(parse_table_size("Name:\tx\nFDSize:\t256\n"), Some(256));
        assert_eq!(parse_table_size("FDSize:\t1073741816\n"), Some(1 << 20));
        assert_eq!(parse_table_size("Name:\tx\n"), None);
        assert!(table_size(std::process::id()).unwrap() >= 3);
    }

    #[test]
    fn numbers_become_text() {
        let mut b = [0; 12];
        assert_eq!(decimal(0, &mut b), b"0");
        assert_eq!(decimal(1_048_575, &mut b), b"1048575");
    }

    #[test]
    fn each_kind_of_descriptor_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = TcpStream::connect(addr).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(matches!(classify(listener.as_fd()).unwrap(), Seen::Listener));
        assert!(matches!(classify(udp.as_fd()).unwrap(), Seen::Udp));
        assert!(matches!(classify(unix.as_fd()).unwrap(), Seen::OtherSocket));
        assert!(matches!(classify(file.as_fd()).unwrap(), Seen::NoSocket));
        let Seen::Tcp(tcp) = classify(stream.as_fd()).unwrap() else { panic!("no TCP socket") };
        assert_eq!((tcp.remote, tcp.mptcp), (Some(addr), false));
        assert_ne!(tcp.id.0, 0);
        assert_eq!(Connecting::default().remote(tcp.id, stream.as_fd(), std::process::id()), None);
        let own = Descriptors::of(std::process::id()).unwrap();
        assert!(own.numbers.contains(&stream.as_raw_fd()));
        assert!(matches!(own.kind(stream.as_raw_fd()).unwrap(), Kind::Socket));
        assert!(matches!(own.kind(file.as_raw_fd()).unwrap(), Kind::Other));
    }
}
