//! What was said of a socket before, so that only news gives a line.

use std::hash::{BuildHasher, Hash, Hasher};

use crate::model::{Mono, TcpState};
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
    (&s.owners, s.orphaned, s.keepalive, s.flow, &s.remote_name).hash(&mut h);
    (s.netns, s.direction, s.mptcp, s.opened).hash(&mut h);
    h.finish() | 1
}
