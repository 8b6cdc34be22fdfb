//! Building requests of NETLINK_SOCK_DIAG: look-ups, dumps, and the filter that the kernel runs during a dump.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Query;
use crate::model::{DestPrefix, Flow, SocketId, TcpState};

/// `struct nlmsghdr` + `struct inet_diag_req_v2`.
const REQUEST_LEN: usize = 16 + 56;
/// `struct nlmsghdr` + `struct inet_diag_req`.
const DUMP_LEN: usize = 16 + 60;
/// Asks for the sockets of TCP, both families; the type of its answers too.
pub(super) const TCPDIAG_GETSOCK: u16 = 18;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// `1 << (INET_DIAG_INFO - 1)`: the kernel shall add `tcp_info`.
const EXT_INFO: u8 = 1 << 1;

/// Sets of TCP states, one bit each: `1 << state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(pub u32);

impl States {
    /// Everything that sock_diag shows.
    pub const ALL: States = States(!0);

    pub fn of(states: &[TcpState]) -> Self {
        Self(states.iter().fold(0, |bits, s| bits | 1 << s.kernel()))
    }

    /// All but sockets that are bound and nothing else, which only kernels since 6.8 show, and by a walk over all bound
    /// sockets.
    pub fn with_peer() -> Self {
        Self(!Self::of(&[TcpState::BoundInactive]).0)
    }

    /// Connections: all but listeners, TIME_WAIT and bound-only sockets.
    pub fn connections() -> Self {
        let no = Self::of(&[TcpState::Listen, TcpState::TimeWait, TcpState::Close, TcpState::BoundInactive]);
        Self(!no.0)
    }
}

/// The head that all requests share.
pub(super) struct Request {
    /// SOCK_DIAG_BY_FAMILY or SOCK_DESTROY.
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub family: u8,
    pub info: bool,
    pub states: States,
}

impl Request {
    fn head(&self, out: &mut Vec<u8>) {
        out.clear();
        out.resize(REQUEST_LEN, 0);
        out[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        out[6..8].copy_from_slice(&self.flags.to_ne_bytes());
        out[8..12].copy_from_slice(&self.seq.to_ne_bytes());
        out[16] = self.family;
        out[17] = libc::IPPROTO_TCP as u8;
        out[18] = if self.info { EXT_INFO } else { 0 };
        out[20..24].copy_from_slice(&self.states.0.to_ne_bytes());
    }

    /// One socket by addresses and cookie; the kernel refuses if the cookie is another's.
    pub(super) fn exact(&self, flow: &Flow, interface: u32, id: SocketId, out: &mut Vec<u8>) {
        self.head(out);
        out[24..26].copy_from_slice(&flow.local.port().to_be_bytes());
        out[26..28].copy_from_slice(&flow.remote.port().to_be_bytes());
        address(flow.local.ip(), &mut out[28..44]);
        address(flow.remote.ip(), &mut out[44..60]);
        out[60..64].copy_from_slice(&interface.to_ne_bytes());
        out[64..68].copy_from_slice(&(id.0 as u32).to_ne_bytes());
        out[68..72].copy_from_slice(&((id.0 >> 32) as u32).to_ne_bytes());
        finish(out);
    }
}

/// A dump of both families, in the older form of the request (`struct inet_diag_req`): the newer one names a family, so
/// that all sockets would be walked over twice.
pub(super) fn dump(query: &Query<'_>, seq: u32, out: &mut Vec<u8>) {
    out.clear();
    out.resize(DUMP_LEN, 0);
    out[4..6].copy_from_slice(&TCPDIAG_GETSOCK.to_ne_bytes());
    out[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    out[8..12].copy_from_slice(&seq.to_ne_bytes());
    out[19] = if query.info { EXT_INFO } else { 0 };
    out[68..72].copy_from_slice(&query.states.0.to_ne_bytes());
    if !query.filter.is_empty() {
        out.extend_from_slice(&((4 + query.filter.len()) as u16).to_ne_bytes());
        out.extend_from_slice(&INET_DIAG_REQ_BYTECODE.to_ne_bytes());
        out.extend_from_slice(query.filter);
    }
    finish(out);
}

fn finish(out: &mut [u8]) {
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_ne_bytes());
}

fn address(ip: IpAddr, out: &mut [u8]) {
    match ip {
        IpAddr::V4(a) => out[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => out.copy_from_slice(&a.octets()),
    }
}

/// A netlink attribute holds 64 KiB; past this many prefixes the caller filters alone.
pub const MAX_FILTER: usize = 1_000;

const BC_JMP: u8 = 1;
const BC_D_COND: u8 = 8;

/// The kernel's filter program «remote end is in one of `prefixes`» (`inet_diag_bc_op`). Empty: no filter.
///
/// A condition jumps to its `yes` offset or its `no` offset; running out exactly at the end accepts, four bytes
/// beyond it rejects.
pub fn destination_filter(prefixes: &[DestPrefix]) -> Vec<u8> {
    let conditions: Vec<Vec<u8>> = prefixes.iter().flat_map(host_conditions).collect();
    if conditions.len() > MAX_FILTER {
        return Vec::new();
    }
    let mut program = Vec::new();
    // From the last to the first, as each jump over the rest needs the rest's length.
    for condition in conditions.iter().rev() {
        let own = (4 + condition.len()) as u8;
        let rest = program.len();
        let mut op = vec![BC_D_COND, own];
        op.extend_from_slice(&(u16::from(own) + 4).to_ne_bytes());
        op.extend_from_slice(condition);
        if rest > 0 {
            op.extend_from_slice(&[BC_JMP, 4]);
            op.extend_from_slice(&((rest + 4) as u16).to_ne_bytes());
        }
        op.extend_from_slice(&program);
        program = op;
    }
    program
}

/// `struct inet_diag_hostcond` with its address. An IPv4 condition also matches v4-mapped addresses; an IPv6 one
/// does not match IPv4 sockets, so a short prefix that covers ::ffff:0:0/96 needs both.
fn host_conditions(p: &DestPrefix) -> Vec<Vec<u8>> {
    let condition = |family: i32, bits: u8, addr: &[u8]| {
        let port: i32 = if p.port == 0 { -1 } else { i32::from(p.port) };
        let mut c = vec![family as u8, bits, 0, 0];
        c.extend_from_slice(&port.to_ne_bytes());
        c.extend_from_slice(addr);
        c
    };
    let v6 = Ipv6Addr::from(p.addr);
    match v6.to_ipv4_mapped() {
        Some(v4) if p.bits >= 96 => vec![condition(libc::AF_INET, p.bits - 96, &v4.octets())],
        _ if p.bits == 0 => vec![condition(libc::AF_UNSPEC, 0, &[])],
        _ => {
            let mut all = vec![condition(libc::AF_INET6, p.bits, &p.addr)];
            let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
            if p.bits < 96 && DestPrefix::new(mapped, p.bits, 0).addr == p.addr {
                all.push(condition(libc::AF_INET, 0, &[0; 4]));
            }
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(addr: &str, bits: u8, port: u16) -> DestPrefix {
        DestPrefix::new(crate::model::mapped(addr.parse().unwrap()), bits, port)
    }

    #[test]
    fn one_condition_accepts_at_the_end_and_rejects_beyond_it() {
        let p = destination_filter(&[prefix("10.0.0.0", 104, 443)]);
        assert_eq!(&p[..4], [BC_D_COND, 16, 20, 0]);
        assert_eq!(&p[4..], [2, 8, 0, 0, 187, 1, 0, 0, 10, 0, 0, 0]);
    }

    #[test]
    fn several_conditions_are_a_chain_of_or() {
        let p = destination_filter(&[prefix("10.0.0.1", 128, 0), prefix("2001:db8::", 32, 0), prefix("::", 0, 443)]);
        // Walk it as the kernel does, with each condition's answer chosen.
        let run = |answers: [bool; 3]| {
            let (mut at, mut n) = (0usize, 0);
            while at < p.len() {
                let yes = if p[at] == BC_JMP {
                    false
                } else {
                    n += 1;
                    answers[n - 1]
                };
                at +=
                    if yes { usize::from(p[at + 1]) } else { usize::from(u16::from_ne_bytes([p[at + 2], p[at + 3]])) };
            }
            at == p.len()
        };
        assert!(run([true, false, false]));
        assert!(run([false, true, false]));
        assert!(run([false, false, true]));
        assert!(!run([false, false, false]));
    }

    #[test]
    fn a_short_ipv6_prefix_over_the_mapped_range_also_asks_for_ipv4() {
        assert_eq!(host_conditions(&prefix("::", 8, 0)).len(), 2);
        assert_eq!(host_conditions(&prefix("2001:db8::", 32, 0)).len(), 1);
        assert!(destination_filter(&vec![prefix("10.0.0.1", 128, 0); MAX_FILTER + 1]).is_empty());
    }

    #[test]
    fn states_are_bits() {
        assert_eq!(States::of(&[TcpState::Established, TcpState::Listen]), States(1 << 1 | 1 << 10));
        assert_eq!(States::connections().0 & (1 << 10), 0);
    }
}
