//! The standard network: client – router – server, and a second server where a test wants to tell two apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use super::Ns;
use crate::wait::until;

/// A host's IPv4 and IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Addresses {
    const fn on(net: u8, host: u8) -> Self {
        Self {
            v4: Ipv4Addr::new(10, 77, net, host),
            v6: Ipv6Addr::new(0xfd00, 0x77, 0, net as u16, 0, 0, 0, host as u16),
        }
    }

    pub fn ip(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    pub fn port(&self, v6: bool, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(v6), port)
    }
}

/// Three or four hosts. Interfaces: `c0` at the client, `s0` at each server, `rc`, `rs` and `rt` at the router
/// towards the client, the server and the second server.
#[derive(Debug)]
pub struct Lab {
    pub client: Ns,
    pub router: Ns,
    pub server: Ns,
    pub server2: Ns,
}

impl Lab {
    pub const CLIENT: Addresses = Addresses::on(1, 2);
    /// The router's address towards the servers: what they see behind a NAT.
    pub const ROUTER: Addresses = Addresses::on(2, 1);
    pub const SERVER: Addresses = Addresses::on(2, 2);
    pub const SERVER2: Addresses = Addresses::on(3, 2);

    /// Makes the namespaces, links, addresses and routes. Panics with the failing command: a test cannot go on.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        super::need_root();
        match Self::make() {
            Ok(lab) => lab,
            Err(e) => panic!("cannot make the test network: {e:#}"),
        }
    }

    fn make() -> Result<Self> {
        let lab = Self {
            client: Ns::new("client")?,
            router: Ns::new("router")?,
            server: Ns::new("server")?,
            server2: Ns::new("server2")?,
        };
        let r = lab.router.path();
        connect(&lab.client, "c0", &r, "rc", 1)?;
        connect(&lab.server, "s0", &r, "rs", 2)?;
        connect(&lab.server2, "s0", &r, "rt", 3)?;
        lab.router.sysctl("net.ipv4.ip_forward", 1)?;
        lab.router.sysctl("net.ipv6.conf.all.forwarding", 1)?;
        lab.router.ip(&[("rc", 1), ("rs", 2), ("rt", 3)].map(|(link, net)| address(link, net, 1)).concat())?;
        for (host, links) in [(&lab.client, 1), (&lab.router, 3), (&lab.server, 1), (&lab.server2, 1)] {
            until("links that carry packets", || links_up(host) == links);
        }
        Ok(lab)
    }
}

/// Links that the kernel has found ready: it looks at a new carrier up to a second later, and only then has the link
/// a queue and a link-local address. A SYN sent before would be lost and its repetition would spoil the RTT.
fn links_up(host: &Ns) -> usize {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6")).map(Result::unwrap_or_default);
    text.unwrap_or_default().lines().filter(|l| l.starts_with("fe80")).count()
}

/// A veth pair between `host` and the router, with the host's addresses and default routes.
fn connect(host: &Ns, link: &str, router: &str, router_link: &str, net: u8) -> Result<()> {
    let gateway = Addresses::on(net, 1);
    host.ip(&format!("link add {link} type veth peer name {router_link} netns {router}\n{}", address(link, net, 2)))?;
    host.ip(&format!(
        "route add default via {} dev {link}\nroute add ::/0 via {} dev {link}\n",
        gateway.v4, gateway.v6
    ))?;
    Ok(())
}

/// `nodad`: an address under duplicate detection cannot be used for its first second.
fn address(link: &str, net: u8, host: u8) -> String {
    let a = Addresses::on(net, host);
    format!("addr add {}/24 dev {link}\naddr add {}/64 dev {link} nodad\nlink set {link} up\n", a.v4, a.v6)
}
