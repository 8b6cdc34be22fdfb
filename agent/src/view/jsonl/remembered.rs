//! What was said of a socket before, so that only news gives a line.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::SocketAddr;

use crate::model::{Direction, Flow, Mono, TcpState};
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
        if o.program.is_some() {
            seldom(&o.program, &mut h);
        }
    }
    if let Some(Flow { local, remote }) = &s.flow {
        for end in [local, remote] {
            match end {
                // As one number: the hasher works by numbers, whatever their size.
                SocketAddr::V4(a) => h.write_u64(u64::from(a.ip().to_bits()) << 16 | u64::from(a.port())),
                SocketAddr::V6(_) => seldom(end, &mut h),
            }
        }
    }
    let direction = s.direction.map_or(0, |d| 1 + u64::from(d == Direction::Incoming));
    let mptcp = s.mptcp.map_or(0, |m| 1 + u64::from(m));
    h.write_u64(s.netns.map_or(1 << 32, u64::from) | direction << 40 | mptcp << 48 | u64::from(s.orphaned) << 56);
    h.write_u64(s.opened.map_or(u64::MAX, |at| at.0));
    if s.keepalive.is_some() {
        seldom(&s.keepalive, &mut h);
    }
    if s.remote_name.is_some() {
        seldom(&s.remote_name, &mut h);
    }
    h.finish() | 1
}

/// What sockets of a storm do not have: out of the way of what they have.
#[inline(never)]
fn seldom(value: &impl Hash, h: &mut impl Hasher) {
    value.hash(h);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Keepalive, Owner, SocketId};

    #[test]
    fn whatever_a_line_would_say_anew_changes_the_fingerprint() {
        let ends = |local: &str, remote: &str| Flow { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        let owned = |pid, comm: &str, fd| [Owner { pid, comm: comm.into(), fd, program: None }].into();
        let keepalive =
            Keepalive { enabled: true, idle_s: 60, interval_s: 10, count: 3, user_timeout_ms: 0, set_by: None };
        let changes: [&dyn Fn(&mut Socket); 17] = [
            &|_| {},
            &|s| s.owners = owned(1, "a", None),
            &|s| s.owners = owned(1, "a", Some(0)),
            &|s| s.owners = owned(1, "b", Some(0)),
            &|s| s.owners = owned(2, "a", None),
            &|s| s.orphaned = true,
            &|s| s.keepalive = Some(keepalive),
            &|s| s.keepalive = Some(Keepalive { idle_s: 61, ..keepalive }),
            &|s| s.flow = Some(ends("10.0.0.1:1", "10.0.0.2:2")),
            &|s| s.flow = Some(ends("10.0.0.2:2", "10.0.0.1:1")),
            &|s| s.flow = Some(ends("[::1]:1", "[::1]:2")),
            &|s| s.remote_name = Some("name".into()),
            &|s| s.netns = Some(0),
            &|s| s.direction = Some(Direction::Outgoing),
            &|s| s.mptcp = Some(false),
            &|s| s.mptcp = Some(true),
            &|s| s.opened = Some(Mono(0)),
        ];
        let prints = changes.map(|change| {
            let mut socket = Socket::new(SocketId(1), Mono(0));
            change(&mut socket);
            fingerprint(&socket)
        });
        for (n, print) in prints.iter().enumerate() {
            assert_eq!(prints.iter().position(|p| p == print), Some(n));
        }
    }
}
