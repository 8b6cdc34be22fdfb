//! sock_diag: `tcp_info`, queues and timers of sockets, per network namespace; works without root.

pub mod kept;
pub mod message;
pub mod netns;
pub mod request;

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::model::{Flow, SocketId};
pub use kept::KeptDiags;
pub use message::{DiagSocket, Malformed};
use message::{Message, Messages, SOCK_DIAG_BY_FAMILY, parse_socket};
pub use netns::NetNs;
use request::{NLM_F_ACK, NLM_F_REQUEST, Request};
pub use request::{States, destination_filter};

const SOCK_DESTROY: u16 = 21;
/// The kernel fills at most 32 KiB per read of a dump (`netlink_dump`).
const BUFFER_LEN: usize = 64 * 1024;

/// A netlink socket inside one network namespace, with its buffers. It keeps the namespace alive.
pub struct Diag {
    socket: Socket,
    netns: u32,
    seq: u32,
    request: Vec<u8>,
    reply: Vec<u8>,
    /// Replies that did not parse, each skipped: a kernel newer than we know, or a bug.
    malformed: u64,
}

/// What to dump.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub states: States,
    /// With `tcp_info` (about 1 µs per socket).
    pub info: bool,
    /// From [`destination_filter`]; empty for all.
    pub filter: &'a [u8],
}

impl Default for Query<'_> {
    fn default() -> Self {
        Self { states: States::ALL, info: true, filter: &[] }
    }
}

impl Diag {
    /// Opens a socket in `netns`; for another namespace than the agent's this needs CAP_SYS_ADMIN.
    pub fn open(netns: &NetNs) -> io::Result<Self> {
        let socket = netns.inside(|| {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        })?;
        Ok(Self { socket, netns: netns.inode(), seq: 0, request: Vec::new(), reply: vec![0; BUFFER_LEN], malformed: 0 })
    }

    /// Inode number of the namespace.
    pub fn netns(&self) -> u32 {
        self.netns
    }

    /// Replies skipped because they did not parse.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Every TCP socket of the namespace that `query` asks for, of both families. A socket that moves between hash
    /// buckets meanwhile may come twice or not at all: the cookie tells.
    pub fn dump(&mut self, query: &Query<'_>, mut each: impl FnMut(DiagSocket)) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        request::dump(query, self.seq, &mut self.request);
        send(&self.socket, &self.request)?;
        self.replies(true, &mut each)
    }

    /// The socket with these addresses, if it still is the one with this cookie; 2 µs, no dump.
    pub fn get(&mut self, flow: &Flow, interface: u32, id: SocketId) -> io::Result<Option<DiagSocket>> {
        self.exact(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, flow, interface, id)?;
        let mut found = None;
        match self.replies(false, &mut |s| found = Some(s)) {
            Err(e) if is_gone(&e) => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// Destroys the socket (RST to the peer, ECONNABORTED to its owner). `false`: it is gone already. Needs
    /// CAP_NET_ADMIN in the namespace and a kernel with CONFIG_INET_DIAG_DESTROY (else EOPNOTSUPP).
    pub fn destroy(&mut self, flow: &Flow, interface: u32, id: SocketId) -> io::Result<bool> {
        self.exact(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, flow, interface, id)?;
        match self.replies(false, &mut |_| {}) {
            Err(e) if is_gone(&e) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn exact(&mut self, kind: u16, flags: u16, flow: &Flow, interface: u32, id: SocketId) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let family = if flow.remote.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let request = Request { kind, flags, seq: self.seq, family: family as u8, info: true, states: States::ALL };
        request.exact(flow, interface, id, &mut self.request);
        send(&self.socket, &self.request)
    }

    /// Reads until the dump ends, or for one answer.
    fn replies(&mut self, dump: bool, each: &mut impl FnMut(DiagSocket)) -> io::Result<()> {
        loop {
            let len = match self.socket.recv(&mut self.reply.as_mut_slice(), libc::MSG_TRUNC) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let datagram = self.reply.get(..len).ok_or(Malformed("longer than any the kernel makes"))?;
            for message in Messages::new(datagram) {
                let (seq, message) = message?;
                if seq != self.seq {
                    // Left over from a dump that an error cut short.
                    continue;
                }
                match message {
                    Message::Done | Message::Error(0) => return Ok(()),
                    Message::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Message::Socket(body) => {
                        match parse_socket(body) {
                            Ok(s) => each(s),
                            Err(_) => self.malformed += 1,
                        }
                        if !dump {
                            return Ok(());
                        }
                    }
                    Message::Other => {}
                }
            }
        }
    }
}

fn send(socket: &Socket, request: &[u8]) -> io::Result<()> {
    socket.send(request, 0).map(|_| ())
}

/// ESTALE: the addresses are those of another socket by now.
fn is_gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}

#[cfg(test)]
mod tests;
