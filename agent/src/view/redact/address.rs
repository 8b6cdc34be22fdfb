//! Pseudonyms for addresses and ports: what matters for a diagnosis stays (family, private, CGNAT or public, same or
//! different, kind of port), what identifies goes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses remembered; all further ones of a class share one pseudonym, which says less, never more.
const MAX_ADDRESSES: usize = 200_000;

/// Ports from 1024 on that name a service, not a machine.
const SERVICE_PORTS: [u16; 22] = [
    1080, 1433, 1521, 1883, 3000, 3128, 3306, 5000, 5432, 5671, 5672, 6379, 6443, 8000, 8080, 8443, 8883, 8888, 9000,
    9092, 9200, 11_211,
];

/// What about an address a diagnosis needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Loopback,
    LinkLocal,
    Private,
    /// 100.64.0.0/10, RFC 6598.
    Cgnat,
    Public,
}

impl Class {
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(a) => {
                let [first, second, ..] = a.octets();
                if a.is_loopback() {
                    Self::Loopback
                } else if a.is_link_local() {
                    Self::LinkLocal
                } else if a.is_private() {
                    Self::Private
                } else if first == 100 && (64..128).contains(&second) {
                    Self::Cgnat
                } else {
                    Self::Public
                }
            }
            IpAddr::V6(a) => {
                let first = a.segments()[0];
                if a.is_loopback() {
                    Self::Loopback
                } else if first & 0xffc0 == 0xfe80 {
                    Self::LinkLocal
                } else if first & 0xfe00 == 0xfc00 {
                    Self::Private
                } else {
                    Self::Public
                }
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::Cgnat => "CGNAT",
            Self::Public => "public",
        }
    }
}

#[derive(Debug, Default)]
pub struct Addresses {
    /// Addresses the user wants to stay.
    keep: HashSet<IpAddr>,
    names: HashMap<IpAddr, IpAddr>,
    next: HashMap<(Class, bool), u32>,
    ports: HashMap<u16, u16>,
    next_port: [u16; 2],
}

impl Addresses {
    pub fn keep(&mut self, ip: IpAddr) {
        self.keep.insert(ip.to_canonical());
    }

    pub fn is_kept(&self, ip: IpAddr) -> bool {
        self.keep.contains(&ip.to_canonical())
    }

    pub fn ip(&mut self, ip: IpAddr) -> IpAddr {
        let ip = ip.to_canonical();
        let names_nobody =
            ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
        if names_nobody || self.keep.contains(&ip) {
            return ip;
        }
        if let Some(known) = self.names.get(&ip) {
            return *known;
        }
        let class = Class::of(ip);
        if self.names.len() >= MAX_ADDRESSES {
            return pseudonym(class, ip.is_ipv4(), 0);
        }
        // Neither a real address that was seen nor one the user keeps may serve as a pseudonym for another.
        let new = loop {
            let n = self.next.entry((class, ip.is_ipv4())).or_insert(0);
            *n += 1;
            let candidate = pseudonym(class, ip.is_ipv4(), *n);
            if !self.names.contains_key(&candidate) && !self.keep.contains(&candidate) && candidate != ip {
                break candidate;
            }
        };
        self.names.insert(ip, new);
        new
    }

    pub fn port(&mut self, port: u16) -> u16 {
        if port < 1024 || SERVICE_PORTS.contains(&port) {
            return port;
        }
        // Registered ports to 20001.., ephemeral ones to 40001..: 32768 is where Linux begins to hand them out.
        let class = usize::from(port >= 32_768);
        let [first, room] = [[20_001, 12_000], [40_001, 25_000]][class];
        let next = &mut self.next_port[class];
        *self.ports.entry(port).or_insert_with(|| {
            let new = first + *next % room;
            *next = next.wrapping_add(1);
            new
        })
    }

    pub fn socket(&mut self, addr: SocketAddr) -> SocketAddr {
        if self.is_kept(addr.ip()) {
            // Its port is part of the destination's name.
            return addr;
        }
        SocketAddr::new(self.ip(addr.ip()), self.port(addr.port()))
    }
}

/// The n-th pseudonym of a class; 0 is the one that all share when there are too many. Public IPv4 ones come from
/// 198.19.0.0/16 (RFC 2544) and go on in 240.0.0.0/8 (reserved), public IPv6 ones from 2001:db8::/32 (RFC 3849): nobody
/// owns them.
fn pseudonym(class: Class, v4: bool, n: u32) -> IpAddr {
    let [_, b, c, d] = n.to_be_bytes();
    let (high, low) = ((n >> 16) as u16, n as u16);
    match (class, v4) {
        (Class::Loopback, true) => Ipv4Addr::new(127, 1 + b, c, d).into(),
        (Class::LinkLocal, true) => Ipv4Addr::new(169, 254, c, d).into(),
        (Class::Private, true) => Ipv4Addr::new(10, 240u8.wrapping_add(b), c, d).into(),
        (Class::Cgnat, true) => Ipv4Addr::new(100, 100 + (b & 15), c, d).into(),
        (Class::Public, true) if b == 0 => Ipv4Addr::new(198, 19, c, d).into(),
        (Class::Public, true) => Ipv4Addr::new(240, b, c, d).into(),
        (Class::Loopback, false) => Ipv6Addr::LOCALHOST.into(),
        (Class::LinkLocal, false) => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, high, low).into(),
        (Class::Private | Class::Cgnat, false) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, high, low).into(),
        (Class::Public, false) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn family_and_class_stay_and_nothing_else() {
        let mut a = Addresses::default();
        for real in [
            "10.1.2.3",
            "172.16.0.9",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.254",
            "100.63.0.1",
            "8.8.8.8",
            "127.0.0.9",
            "169.254.1.1",
            "2a00::1",
            "fd12::9",
            "fe80::abcd",
            "198.19.0.1",
        ] {
            let new = a.ip(ip(real));
            assert_ne!(new, ip(real));
            assert_eq!(new.is_ipv4(), ip(real).is_ipv4(), "{real}");
            assert_eq!(Class::of(new), Class::of(ip(real)), "{real} {new}");
            assert_eq!(a.ip(ip(real)), new, "stable");
        }
        assert_eq!(a.ip(ip("127.0.0.1")), ip("127.0.0.1"));
        assert_eq!(a.ip(ip("::ffff:8.8.8.8")), a.ip(ip("8.8.8.8")));
    }

    #[test]
    fn different_addresses_stay_different_up_to_the_cap() {
        let mut a = Addresses::default();
        let all: HashSet<IpAddr> = (0..70_000u32).map(|n| a.ip(Ipv4Addr::from(0x0800_0000 + n).into())).collect();
        assert_eq!(all.len(), 70_000);
    }

    #[test]
    fn ports_keep_their_class() {
        let mut a = Addresses::default();
        assert_eq!(a.port(443), 443);
        assert_eq!(a.port(8443), 8443);
        let (x, y) = (a.port(53_072), a.port(53_080));
        assert!(x >= 32_768 && y >= 32_768 && x != y && x != 53_072);
        assert!((1024..32_768).contains(&a.port(7_777)));
    }

    #[test]
    fn what_the_user_names_stays() {
        let mut a = Addresses::default();
        a.keep(ip("8.8.8.8"));
        assert_eq!(a.socket("8.8.8.8:7777".parse().unwrap()).to_string(), "8.8.8.8:7777");
    }
}
