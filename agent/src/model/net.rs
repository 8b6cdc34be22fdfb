//! Sockets and the addresses they join.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A socket's cookie (`SO_COOKIE`): the same in BPF, sock_diag and getsockopt, unique across network namespaces,
/// never reused while the machine is up. Written as lower-case hex without prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for SocketId {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s, 16).map(Self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

/// The two ends of a connection, seen from this host. v4-mapped addresses are kept as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// `::ffff:a.b.c.d` as `a.b.c.d`: what a dual-stack socket really speaks on the wire.
pub fn canonical(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}
