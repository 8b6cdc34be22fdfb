//! Many resets in a short time.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::raw::{ACK, Segment};
use super::sock;

/// Keeps a loop at `rate` rounds a second; 0 is full speed.
struct Pace {
    start: Instant,
    rate: u64,
}

impl Pace {
    fn after(&self, round: u64) {
        // Looked at once a millisecond at most, and every 64 rounds: sleeping costs more than a round.
        let every = (self.rate / 1_000).clamp(1, 64);
        if self.rate > 0 && round.is_multiple_of(every) {
            let due = Duration::from_nanos(round.saturating_mul(1_000_000_000) / self.rate) + wander(round / every);
            std::thread::sleep(due.saturating_sub(self.start.elapsed()));
        }
    }
}

/// Goes to and fro over 10 ms, the longest tick of a kernel, by 0.13 ms a look. Of who works in time with the tick, by
/// which CPU time is counted as that of user or of kernel, all of it may be counted as either.
fn wander(look: u64) -> Duration {
    const STEP: Duration = Duration::from_micros(130);
    const STEPS: u64 = 77;
    let at = look % (2 * STEPS);
    STEP * at.min(2 * STEPS - at) as u32
}

/// Connects `count` times to a closed port. Each round is one RST sent (for no socket) and one received in SYN_SENT.
/// Returns how many were refused. On loopback both ends have the address of `to`, so that a filter can name the storm.
pub fn connects(to: SocketAddr, count: u64, rate: u64) -> io::Result<u64> {
    let pace = Pace { start: Instant::now(), rate };
    let mut refused = 0;
    for round in 1..=count {
        let socket = sock::tcp(to.is_ipv6())?;
        if to.ip().is_loopback() {
            sock::bind_address(&socket, to.ip())?;
        }
        match sock::connect(&socket, to) {
            Err(e) if e.raw_os_error() == Some(libc::ECONNREFUSED) => refused += 1,
            Err(e) => return Err(e),
            Ok(()) => return Err(io::Error::other(format!("{to} accepts connections: the storm needs a closed port"))),
        }
        pace.after(round);
    }
    Ok(refused)
}

/// Sends `count` bare ACKs to a closed port from a port that has no socket either. Each is answered by one RST for no
/// socket, which nobody receives.
pub fn no_socket(from: SocketAddr, to: SocketAddr, count: u64, rate: u64) -> io::Result<u64> {
    let pace = Pace { start: Instant::now(), rate };
    let socket = sock::raw(to.is_ipv6())?;
    let packet = Segment { from, to, seq: 1, ack: 1, flags: ACK, ttl: 64, ip_id: 1 }.bytes()?;
    for round in 1..=count {
        sock::send_to(&socket, &packet, to)?;
        pace.after(round);
    }
    Ok(count)
}
