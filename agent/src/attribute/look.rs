//! The costly look at a descriptor: a duplicate of it (`pidfd_getfd`) and a dozen getsockopt calls, about 4 µs. Works
//! across pid and network namespaces; needs the right to attach to the process.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, getpeername, getsockname, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::model::{Family, Flow, Keepalive, SocketId, TcpState, canonical};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

/// A TCP (or MPTCP) socket, as its owner would see it.
#[derive(Debug)]
pub struct Look {
    pub id: SocketId,
    pub family: Family,
    /// An MPTCP socket: its packets belong to subflows, which have cookies of their own and this one's inode.
    pub mptcp: bool,
    pub listener: bool,
    pub state: Option<TcpState>,
    /// `None` while not connected (or in SYN_SENT, where the kernel does not tell).
    pub flow: Option<Flow>,
    pub keepalive: Option<Keepalive>,
}

/// Duplicates descriptor `fd` of the process behind `pidfd`.
pub fn duplicate(pidfd: &OwnedFd, fd: i32) -> Result<OwnedFd, Errno> {
    pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())
}

/// What the socket is; `None` if it is not TCP.
pub fn look(socket: BorrowedFd<'_>) -> Option<Look> {
    let protocol = sockopt::socket_protocol(socket).ok()??.as_raw().get();
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return None;
    }
    let local = address(getsockname(socket).ok()?)?;
    let family =
        if sockopt::socket_domain(socket).ok()? == rustix::net::AddressFamily::INET6 { Family::V6 } else { Family::V4 };
    let listener = sockopt::socket_acceptconn(socket).unwrap_or(false);
    let remote = getpeername(socket).ok().flatten().and_then(address);
    Some(Look {
        id: SocketId(sockopt::socket_cookie(socket).ok()?),
        family,
        mptcp: protocol == IPPROTO_MPTCP,
        listener,
        state: state(socket),
        flow: remote.map(|remote| Flow { local, remote }),
        keepalive: keepalive(socket),
    })
}

/// Only the cookie: whether the descriptor still is the socket it was.
pub fn cookie(socket: BorrowedFd<'_>) -> Option<SocketId> {
    sockopt::socket_cookie(socket).ok().map(SocketId)
}

/// Keepalive as the kernel holds it, its defaults filled in. `None` if any part cannot be read.
pub fn keepalive(socket: BorrowedFd<'_>) -> Option<Keepalive> {
    let seconds = |d: std::time::Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    Some(Keepalive {
        enabled: sockopt::socket_keepalive(socket).ok()?,
        idle_s: seconds(sockopt::tcp_keepidle(socket).ok()?),
        interval_s: seconds(sockopt::tcp_keepintvl(socket).ok()?),
        count: sockopt::tcp_keepcnt(socket).ok()?,
        user_timeout_ms: sockopt::tcp_user_timeout(socket).ok()?,
        set_by: None,
    })
}

/// The first byte of `tcp_info`.
fn state(socket: BorrowedFd<'_>) -> Option<TcpState> {
    let mut info = [0u8; 1];
    let mut len: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `len` = 1 byte into `info`.
    let rc = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
    };
    if rc == 0 && len == 1 { TcpState::from_kernel(info[0]) } else { None }
}

fn address(any: SocketAddrAny) -> Option<SocketAddr> {
    let a = SocketAddr::try_from(any).ok()?;
    Some(SocketAddr::new(canonical(a.ip()), a.port()))
}

/// What `duplicate` and `look` say of a socket of our own, for tests.
#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    #[test]
    fn sees_a_connection_a_listener_and_nothing_else() {
        let l = TcpListener::bind("[::]:0").unwrap();
        let seen = look(l.as_fd()).unwrap();
        assert!(seen.listener && seen.flow.is_none() && seen.family == Family::V6);
        assert_eq!(seen.state, Some(TcpState::Listen));
        let s = TcpStream::connect(("127.0.0.1", l.local_addr().unwrap().port())).unwrap();
        rustix::net::sockopt::set_tcp_keepidle(&s, std::time::Duration::from_secs(33)).unwrap();
        rustix::net::sockopt::set_socket_keepalive(&s, true).unwrap();
        let seen = look(s.as_fd()).unwrap();
        assert_eq!(seen.state, Some(TcpState::Established));
        assert_eq!(seen.flow, Some(Flow { local: s.local_addr().unwrap(), remote: s.peer_addr().unwrap() }));
        let k = seen.keepalive.unwrap();
        assert_eq!((k.enabled, k.idle_s, k.interval_s, k.count), (true, 33, 75, 9));
        let accepted = l.accept().unwrap().0;
        let seen = look(accepted.as_fd()).unwrap();
        let remote = seen.flow.unwrap().remote;
        assert_eq!(remote, s.local_addr().unwrap(), "v4-mapped is shown as IPv4");
        assert!(look(UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()).is_none());
    }
}
