//! Sockets and the addresses they join.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
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

/// For maps by [`SocketId`].
pub type CookieHash = BuildHasherDefault<CookieHasher>;

/// Cookies are unique integers handed out in sequence: one multiplication spreads them well enough, at a tenth of
/// the cost of the default hasher.
#[derive(Clone, Copy, Debug, Default)]
pub struct CookieHasher(u64);

impl Hasher for CookieHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
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

/// A destination filter as the kernel's LPM trie takes it: IPv4 as v4-mapped IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestPrefix {
    /// Bits beyond `bits` are 0.
    pub addr: [u8; 16],
    /// 0 to 128 leading bits of `addr` must be equal; an IPv4 /n is 96 + n.
    pub bits: u8,
    /// Host byte order; 0 = any port.
    pub port: u16,
}

impl DestPrefix {
    /// Masks `addr` to `bits`; more than 128 counts as 128.
    pub fn new(addr: [u8; 16], bits: u8, port: u16) -> Self {
        let bits = bits.min(128);
        let this = Self { addr, bits, port };
        Self { addr: (u128::from_be_bytes(addr) & this.keep()).to_be_bytes(), ..this }
    }

    /// One address, IPv4 or IPv6.
    pub fn host(addr: IpAddr, port: u16) -> Self {
        Self::new(mapped(addr), 128, port)
    }

    pub fn matches(&self, remote: &SocketAddr) -> bool {
        DestMask::from(*self).matches(remote)
    }

    /// Ones where an address must be equal.
    fn keep(&self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.bits.min(128))).unwrap_or(0)
    }
}

/// A [`DestPrefix`] as numbers, for who asks often.
#[derive(Clone, Copy, Debug)]
pub struct DestMask {
    addr: u128,
    keep: u128,
    port: u16,
}

impl From<DestPrefix> for DestMask {
    fn from(p: DestPrefix) -> Self {
        Self { addr: u128::from_be_bytes(p.addr), keep: p.keep(), port: p.port }
    }
}

impl DestMask {
    pub fn matches(&self, remote: &SocketAddr) -> bool {
        let addr = match remote {
            SocketAddr::V4(a) => 0xffff << 32 | u128::from(a.ip().to_bits()),
            SocketAddr::V6(a) => a.ip().to_bits(),
        };
        (self.port == 0 || self.port == remote.port()) && (addr ^ self.addr) & self.keep == 0
    }
}

/// The 16 bytes of an IPv6 address, or of the v4-mapped form of an IPv4 one.
pub fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}
