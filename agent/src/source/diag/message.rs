//! Reading replies of NETLINK_SOCK_DIAG: our own parser, which trusts no length. Layouts: `linux/netlink.h`,
//! `linux/inet_diag.h`, `linux/tcp.h`; `tcp_info` grows at its end, so a short one is an older kernel's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::request::TCPDIAG_GETSOCK;
use crate::model::{Family, Flow, SocketId, TcpMetrics, TcpState, canonical};

/// One socket as sock_diag shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct DiagSocket {
    /// Of the socket; of the request sock or TIME_WAIT sock where the kernel shows one.
    pub id: SocketId,
    /// Family of the socket: V6 with IPv4 addresses in `flow` is a dual-stack socket.
    pub family: Family,
    /// v4-mapped addresses as IPv4. The remote end is unspecified for listeners.
    pub flow: Flow,
    pub state: TcpState,
    /// Interface the socket is bound to, 0 = none: an exact look-up needs it.
    pub interface: u32,
    pub uid: u32,
    /// Inode of the socket file; 0 once no process has it open (orphan, TIME_WAIT, not yet accepted).
    pub inode: u32,
    /// Unanswered probes or retransmits of the timer shown in `tcp.timer`.
    pub timer_retransmits: u8,
    /// Bytes to read (for a listener: connections that wait for accept).
    pub receive_queue: u32,
    /// Bytes not acknowledged or not sent (for a listener: the backlog's limit).
    pub send_queue: u32,
    /// Empty for listeners and TIME_WAIT, except for the timer.
    pub tcp: TcpMetrics,
    /// IPV6_V6ONLY; `None` for IPv4 sockets.
    pub v6only: Option<bool>,
    /// A subflow of MPTCP (upper layer protocol `mptcp`).
    pub mptcp: bool,
}

impl DiagSocket {
    /// No process holds it: closed by its owner, the kernel still works on it.
    pub fn is_orphan(&self) -> bool {
        self.inode == 0 && !matches!(self.state, TcpState::SynRecv | TcpState::NewSynRecv)
    }
}

/// A reply that is not what the kernel's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed sock_diag reply: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for std::io::Error {
    fn from(m: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, m)
    }
}

/// One netlink message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// `inet_diag_msg` with its attributes: for [`parse_socket`].
    Socket(&'a [u8]),
    /// End of a dump.
    Done,
    /// errno; 0 acknowledges.
    Error(i32),
    /// NLMSG_NOOP and types we did not ask for.
    Other,
}

/// The messages of one datagram, with their sequence numbers; ends after the first malformed one.
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

const NLMSG_HDRLEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;

impl<'a> Iterator for Messages<'a> {
    type Item = Result<(u32, Message<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.rest);
        let (Some(len), Some(kind), Some(seq)) = (u32_at(all, 0), u16_at(all, 4), u32_at(all, 8)) else {
            return Some(Err(Malformed("shorter than a netlink header")));
        };
        let len = len as usize;
        let Some(body) = all.get(NLMSG_HDRLEN..len) else {
            return Some(Err(Malformed("message length out of bounds")));
        };
        self.rest = all.get(len.next_multiple_of(4)..).unwrap_or_default();
        let message = match kind {
            NLMSG_DONE => Message::Done,
            NLMSG_ERROR => match u32_at(body, 0) {
                // The kernel sends -errno.
                Some(e) => Message::Error((e as i32).saturating_neg()),
                None => return Some(Err(Malformed("error without number"))),
            },
            SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => Message::Socket(body),
            _ => Message::Other,
        };
        Some(Ok((seq, message)))
    }
}

/// `sizeof(struct inet_diag_msg)`.
const DIAG_MSG_LEN: usize = 72;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Reads `inet_diag_msg` and the attributes behind it.
pub fn parse_socket(body: &[u8]) -> Result<DiagSocket, Malformed> {
    let head = body.get(..DIAG_MSG_LEN).ok_or(Malformed("shorter than inet_diag_msg"))?;
    let u32_of = |at: usize| u32_at(head, at).unwrap_or_default();
    let port_of = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let family = match i32::from(head[0]) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return Err(Malformed("family is neither IPv4 nor IPv6")),
    };
    let state = TcpState::from_kernel(head[1]).ok_or(Malformed("unknown TCP state"))?;
    let end = |at: usize, port: u16| SocketAddr::new(address(family, &head[at..at + 16]), port);
    let mut s = DiagSocket {
        id: SocketId(u64::from(u32_of(44)) | u64::from(u32_of(48)) << 32),
        family,
        flow: Flow { local: end(8, port_of(4)), remote: end(24, port_of(6)) },
        state,
        interface: u32_of(40),
        uid: u32_of(64),
        inode: u32_of(68),
        timer_retransmits: head[3],
        receive_queue: u32_of(56),
        send_queue: u32_of(60),
        tcp: TcpMetrics::default(),
        v6only: None,
        mptcp: false,
    };
    s.tcp.timer = Some(head[2]);
    s.tcp.timer_ms = (head[2] != 0).then(|| u32_of(52));
    for attribute in Attributes(&body[DIAG_MSG_LEN..]) {
        match attribute? {
            (INET_DIAG_INFO, info) if !matches!(state, TcpState::Listen | TcpState::TimeWait) => {
                tcp_info(&mut s.tcp, info, state, s.send_queue);
                s.tcp.send_queue_bytes = Some(u64::from(s.send_queue));
                s.tcp.receive_queue_bytes = Some(u64::from(s.receive_queue));
            }
            (INET_DIAG_SKV6ONLY, v) => s.v6only = v.first().map(|b| *b != 0),
            (INET_DIAG_ULP_INFO, nested) => {
                for inner in Attributes(nested) {
                    if let (INET_ULP_INFO_NAME, name) = inner? {
                        s.mptcp = name.strip_suffix(b"\0").unwrap_or(name) == b"mptcp";
                    }
                }
            }
            _ => {}
        }
    }
    Ok(s)
}

/// `struct tcp_info`, as far as `info` reaches.
fn tcp_info(t: &mut TcpMetrics, info: &[u8], state: TcpState, send_queue: u32) {
    let u8_of = |at: usize| info.get(at).copied();
    let u32_of = |at: usize| u32_at(info, at);
    let u64_of = |at: usize| u64_at(info, at);
    let us = |at: usize| u32_of(at).filter(|v| *v != 0).map(|v| Duration::from_micros(u64::from(v)));
    t.retransmits = u8_of(2);
    t.probes = u8_of(3);
    t.backoff = u8_of(4);
    t.rto = us(8);
    t.send_mss = u32_of(16);
    t.unacked_segments = u32_of(24);
    // Before the handshake is done these stamps are the boot time, not an event, and the window is not known.
    if !matches!(state, TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv | TcpState::Close) {
        t.send_window_bytes = u32_of(228);
        t.last_sent_ms = u32_of(44).map(u64::from);
        t.last_received_ms = u32_of(52).map(u64::from);
        t.last_ack_ms = u32_of(56).map(u64::from);
    }
    // 0 = never measured.
    t.rtt = us(68);
    t.congestion_window = u32_of(80);
    t.total_retransmits = u32_of(100);
    t.bytes_acked = u64_of(120);
    t.bytes_received = u64_of(128);
    t.unacked_bytes = u32_of(144).map(|unsent| u64::from(send_queue.saturating_sub(unsent)));
    t.data_segments_received = u32_of(152);
    t.data_segments_sent = u32_of(156);
    t.bytes_sent = u64_of(200);
}

/// Netlink attributes: (type, payload).
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        let (Some(len), Some(kind)) = (u16_at(all, 0), u16_at(all, 2)) else {
            return Some(Err(Malformed("attribute shorter than its header")));
        };
        let len = usize::from(len);
        let Some(payload) = all.get(4..len) else {
            return Some(Err(Malformed("attribute length out of bounds")));
        };
        self.0 = all.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((kind & NLA_TYPE_MASK, payload)))
    }
}

/// `raw` has 16 bytes; IPv4 uses the first four.
fn address(family: Family, raw: &[u8]) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(raw[0], raw[1], raw[2], raw[3])),
        Family::V6 => {
            let mut a = [0; 16];
            a.copy_from_slice(raw);
            canonical(IpAddr::V6(Ipv6Addr::from(a)))
        }
    }
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    b.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
