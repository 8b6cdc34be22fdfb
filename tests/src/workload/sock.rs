//! Socket calls that std has no word for.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, socklen_t};

/// The kernel's name of an error, as a person knows it from `strace`.
pub fn errno_name(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::ECONNRESET) => "ECONNRESET".into(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".into(),
        Some(libc::ECONNABORTED) => "ECONNABORTED".into(),
        Some(libc::ETIMEDOUT) => "ETIMEDOUT".into(),
        Some(libc::EPIPE) => "EPIPE".into(),
        Some(libc::EAGAIN) => "EAGAIN".into(),
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH".into(),
        Some(n) => format!("errno {n}"),
        None => e.kind().to_string(),
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub fn get<T: Copy>(fd: RawFd, level: c_int, name: c_int) -> io::Result<T> {
    // SAFETY: T is a plain kernel struct or integer at every call here, and the kernel writes at most its size.
    unsafe {
        let mut value: T = zeroed();
        let mut length = size_of::<T>() as socklen_t;
        check(libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length))?;
        Ok(value)
    }
}

pub fn set<T: Copy>(fd: RawFd, level: c_int, name: c_int, value: T) -> io::Result<()> {
    // SAFETY: the pointer is to a live value of the size given.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<T>() as socklen_t) })?;
    Ok(())
}

/// `SO_COOKIE`: the key by which the agent names the socket.
pub fn cookie(fd: RawFd) -> io::Result<u64> {
    get(fd, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// The next close sends a RST.
pub fn linger_zero(fd: RawFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })
}

/// The sequence number expected next from the peer (`RCV.NXT`), through TCP_REPAIR.
pub fn receive_next(fd: RawFd) -> io::Result<u32> {
    const TCP_REPAIR_OFF_NO_WP: c_int = -1;
    const TCP_RECV_QUEUE: c_int = 1;
    set(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1 as c_int)?;
    let next = set(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, TCP_RECV_QUEUE)
        .and_then(|()| get(fd, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ));
    // Without «no window probe» leaving repair mode would send a packet of its own.
    set(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)?;
    next
}

/// A TCP socket, neither bound nor connected.
pub fn tcp(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no pointers; the descriptor is new and owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?)) }
}

pub fn raw(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: as in `tcp`.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, kind, libc::IPPROTO_RAW))?)) }
}

/// Calls `f` with the C form of an address.
fn with_sockaddr<T>(addr: SocketAddr, f: impl FnOnce(*const libc::sockaddr, socklen_t) -> T) -> T {
    // SAFETY: sockaddr_in and sockaddr_in6 are plain integers; all zeroes is a value of theirs.
    unsafe {
        match addr {
            SocketAddr::V4(a) => {
                let mut c: libc::sockaddr_in = zeroed();
                c.sin_family = libc::AF_INET as _;
                c.sin_port = a.port().to_be();
                c.sin_addr.s_addr = u32::from_ne_bytes(a.ip().octets());
                f((&raw const c).cast(), size_of_val(&c) as socklen_t)
            }
            SocketAddr::V6(a) => {
                let mut c: libc::sockaddr_in6 = zeroed();
                c.sin6_family = libc::AF_INET6 as _;
                c.sin6_port = a.port().to_be();
                c.sin6_addr.s6_addr = a.ip().octets();
                f((&raw const c).cast(), size_of_val(&c) as socklen_t)
            }
        }
    }
}

pub fn connect(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    // SAFETY: `with_sockaddr` passes a live address and its length.
    with_sockaddr(to, |a, length| check(unsafe { libc::connect(socket.as_raw_fd(), a, length) })).map(drop)
}

/// Gives the connection up and makes another with the same socket.
pub fn reconnect(socket: impl std::os::fd::AsFd, to: SocketAddr) -> io::Result<()> {
    rustix::net::connect_unspec(&socket)?;
    Ok(rustix::net::connect(&socket, &to)?)
}

pub fn bind(socket: &OwnedFd, at: SocketAddr) -> io::Result<()> {
    // SAFETY: as in `connect`.
    with_sockaddr(at, |a, length| check(unsafe { libc::bind(socket.as_raw_fd(), a, length) })).map(drop)
}

/// Fixes the source address alone: the port is chosen at connect, from all that are free towards that destination.
pub fn bind_address(socket: &OwnedFd, at: std::net::IpAddr) -> io::Result<()> {
    set(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1 as c_int)?;
    bind(socket, SocketAddr::new(at, 0))
}

pub fn listen(socket: &OwnedFd, backlog: c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

pub fn send_to(socket: &OwnedFd, packet: &[u8], to: SocketAddr) -> io::Result<()> {
    // A raw socket takes a port for a protocol number.
    let to = SocketAddr::new(to.ip(), 0);
    // SAFETY: the packet and the address live through the call.
    let sent = with_sockaddr(to, |a, length| unsafe {
        libc::sendto(socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, a, length)
    });
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a descriptor through a Unix socket (SCM_RIGHTS).
pub fn send_fd(through: &std::os::unix::net::UnixStream, fd: RawFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    // SAFETY: the caller's descriptor is open for the length of this call.
    let borrowed = [unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("no room for the descriptor"));
    }
    sendmsg(through, &[io::IoSlice::new(b"f")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives a descriptor sent by [`send_fd`].
pub fn receive_fd(through: &std::os::unix::net::UnixStream) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    recvmsg(through, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("no descriptor came"))
}
