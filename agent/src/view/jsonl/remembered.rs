//! What was said of a socket before, so that only news gives a line.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::SocketAddr;

use crate::model::{Direction, Mono, TcpState};
use crate::state::Socket;

/// What the last lines of a socket said, to tell what is new.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub fingerprint: u64,
    pub state: Option<TcpState>,
    pub sample: u64,
    pub sample_at: Option<Mono>,
    /// Revision of the socket at its last `socket` line.
    pub revision: u64,
}

/// Compared within one run only.
pub(super) fn hasher() -> impl Hasher {
    foldhash::fast::FixedState::with_seed(0).build_hasher()
}

/// What makes a new `socket` line worth writing.
pub(super) fn fingerprint(s: &Socket) -> u64 {
    let mut h = hasher();
    for o in s.owners.iter() {
        h.write_u64(u64::from(o.pid) << 32 | o.fd.map_or(u64::from(u32::MAX), |fd| fd as u64 & 0xffff_ffff));
        h.write(o.comm.as_bytes());
        o.program.hash(&mut h);
    }
    for end in s.flow.iter().flat_map(|f| [f.local, f.remote]) {
        match end {
            // Two to four numbers as one: each costs as much as the next.
            SocketAddr::V4(a) => h.write_u64(u64::from(a.ip().to_bits()) << 16 | u64::from(a.port())),
            SocketAddr::V6(_) => end.hash(&mut h),
        }
    }
    let direction = s.direction.map_or(0, |d| 1 + u64::from(d == Direction::Incoming));
    let mptcp = s.mptcp.map_or(0, |m| 1 + u64::from(m));
    h.write_u64(s.netns.map_or(1 << 32, u64::from) | direction << 40 | mptcp << 48 | u64::from(s.orphaned) << 56);
    h.write_u64(s.opened.map_or(u64::MAX, |at| at.0));
    if s.keepalive.is_some() {
        s.keepalive.hash(&mut h);
    }
    if s.remote_name.is_some() {
        s.remote_name.hash(&mut h);
    }
    h.finish() | 1
}
