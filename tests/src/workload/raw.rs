//! TCP segments made by hand: forged resets, and packets for which no socket exists.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::sock;

/// The fields of a forged segment that a test chooses.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    /// TCP flag bits: RST is 4, ACK 16.
    pub flags: u8,
    pub ttl: u8,
    /// IPv4 only.
    pub ip_id: u16,
}

pub const RST: u8 = 4;
pub const ACK: u8 = 16;

impl Segment {
    /// The packet from its IP header on.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut tcp = Vec::with_capacity(20);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([5 << 4, self.flags]);
        tcp.extend(0u16.to_be_bytes());
        tcp.extend([0; 4]);
        let mut pseudo = Vec::new();
        let mut packet = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                pseudo.extend(from.octets());
                pseudo.extend(to.octets());
                // Version and length, total length, ID, don't-fragment; the kernel fills the header's checksum in.
                let mut ip = vec![0x45, 0];
                ip.extend(40u16.to_be_bytes());
                ip.extend(self.ip_id.to_be_bytes());
                ip.extend([0x40, 0, self.ttl, libc::IPPROTO_TCP as u8, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                ip
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                pseudo.extend(from.octets());
                pseudo.extend(to.octets());
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(20u16.to_be_bytes());
                ip.extend([libc::IPPROTO_TCP as u8, self.ttl]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                ip
            }
            _ => return Err(io::Error::other("the two addresses are of different families")),
        };
        pseudo.extend([0, libc::IPPROTO_TCP as u8, 0, 20]);
        pseudo.extend(&tcp);
        let sum = checksum(&pseudo);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend(tcp);
        Ok(packet)
    }

    pub fn send(&self) -> io::Result<()> {
        sock::send_to(&sock::raw(self.to.is_ipv6())?, &self.bytes()?, self.to)
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_rfc_1071s_example() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
