//! Socket options of one socket: read, compare, set in the right order.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::model::{OptionValues, TcpState};
use crate::source::diag::DiagSocket;

/// What shall hold afterwards. `None` = leave as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub keepalive: Option<KeepaliveWanted>,
    /// TCP_USER_TIMEOUT, milliseconds; 0 = the kernel's own limit.
    pub user_timeout_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveWanted {
    pub enabled: bool,
    /// Seconds, 1 to 32767.
    pub idle_s: u32,
    /// Seconds, 1 to 32767.
    pub interval_s: u32,
    /// Probes, 1 to 127.
    pub count: u32,
}

impl Wanted {
    /// Keepalive on with these times, and optionally a user timeout.
    pub fn keepalive(idle_s: u32, interval_s: u32, count: u32, user_timeout: Option<Duration>) -> Self {
        Self {
            keepalive: Some(KeepaliveWanted { enabled: true, idle_s, interval_s, count }),
            user_timeout_ms: user_timeout.map(millis),
        }
    }

    /// Exactly these values: what an undo puts back.
    pub fn exactly(v: OptionValues) -> Self {
        let OptionValues { enabled, idle_s, interval_s, count, user_timeout_ms } = v;
        Self {
            keepalive: Some(KeepaliveWanted { enabled, idle_s, interval_s, count }),
            user_timeout_ms: Some(user_timeout_ms),
        }
    }

    /// What a socket that now has `v` would have.
    pub fn over(&self, v: OptionValues) -> OptionValues {
        let mut out = v;
        if let Some(k) = self.keepalive {
            out = OptionValues {
                enabled: k.enabled,
                idle_s: k.idle_s,
                interval_s: k.interval_s,
                count: k.count,
                user_timeout_ms: out.user_timeout_ms,
            };
        }
        out.user_timeout_ms = self.user_timeout_ms.unwrap_or(out.user_timeout_ms);
        out
    }

    /// `30s/10s/3, user timeout 60000 ms`.
    pub fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(k) = self.keepalive {
            parts.push(if k.enabled {
                format!("SO_KEEPALIVE {}s/{}s/{}", k.idle_s, k.interval_s, k.count)
            } else {
                "SO_KEEPALIVE off".into()
            });
        }
        if let Some(ms) = self.user_timeout_ms {
            parts.push(format!("TCP_USER_TIMEOUT {}", user_timeout_text(ms)));
        }
        parts.join(", ")
    }
}

/// Whole milliseconds, at least one, at most what the option's `int` holds.
pub fn millis(d: Duration) -> u32 {
    d.as_millis().clamp(1, i32::MAX as u128) as u32
}

/// `60s`, `1500ms`, `off`.
pub fn user_timeout_text(ms: u32) -> String {
    match ms {
        0 => "off".into(),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// `off`, `30s/10s/3`, `off, user timeout 60s`.
pub fn values_text(v: OptionValues) -> String {
    let mut text = if v.enabled { format!("{}s/{}s/{}", v.idle_s, v.interval_s, v.count) } else { "off".to_owned() };
    if v.user_timeout_ms > 0 {
        text.push_str(&format!(", user timeout {}", user_timeout_text(v.user_timeout_ms)));
    }
    text
}

/// A system call that the kernel refused, by the option's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionError {
    pub option: &'static str,
    pub setting: bool,
    pub errno: Errno,
}

fn err(option: &'static str, setting: bool) -> impl FnOnce(Errno) -> OptionError {
    move |errno| OptionError { option, setting, errno }
}

/// Reads back what `wanted` touches; the rest is as it was `before`. One to five system calls.
pub fn read_back(fd: impl AsFd, wanted: &Wanted, before: OptionValues) -> Result<OptionValues, OptionError> {
    let fd = fd.as_fd();
    let mut now = before;
    if wanted.keepalive.is_some() {
        let user_timeout_ms = now.user_timeout_ms;
        now = OptionValues { user_timeout_ms, ..keepalive(fd)? };
    }
    if wanted.user_timeout_ms.is_some() {
        now.user_timeout_ms = user_timeout(fd)?;
    }
    Ok(now)
}

/// Reads all options that actions touch. Five system calls. An MPTCP socket knows no TCP_USER_TIMEOUT (up to 6.18 at
/// least): that reads as none.
pub fn read(fd: impl AsFd) -> Result<OptionValues, OptionError> {
    let fd = fd.as_fd();
    Ok(OptionValues { user_timeout_ms: user_timeout(fd)?, ..keepalive(fd)? })
}

/// Everything but the user timeout.
fn keepalive(fd: BorrowedFd<'_>) -> Result<OptionValues, OptionError> {
    Ok(OptionValues {
        enabled: sockopt::socket_keepalive(fd).map_err(err("SO_KEEPALIVE", false))?,
        idle_s: seconds(sockopt::tcp_keepidle(fd).map_err(err("TCP_KEEPIDLE", false))?),
        interval_s: seconds(sockopt::tcp_keepintvl(fd).map_err(err("TCP_KEEPINTVL", false))?),
        count: sockopt::tcp_keepcnt(fd).map_err(err("TCP_KEEPCNT", false))?,
        user_timeout_ms: 0,
    })
}

fn user_timeout(fd: BorrowedFd<'_>) -> Result<u32, OptionError> {
    match sockopt::tcp_user_timeout(fd) {
        Err(Errno::OPNOTSUPP) => Ok(0),
        other => other.map_err(err("TCP_USER_TIMEOUT", false)),
    }
}

fn seconds(d: Duration) -> u32 {
    u32::try_from(d.as_secs()).unwrap_or(u32::MAX)
}

/// Sets what differs from `now`.
///
/// Order: TCP_KEEP* first, SO_KEEPALIVE last. Switching it on with the times already in place starts a full timer
/// from now; the reverse subtracts the time already idle, and a socket that has been idle for long bursts its probes
/// at once (kernel `tcp_set_keepalive`, `tcp_sock_set_keepidle_locked`). Switching off comes first, so that changed
/// times move no running timer.
pub fn set(fd: impl AsFd, wanted: &Wanted, now: OptionValues) -> Result<(), OptionError> {
    let fd = fd.as_fd();
    if let Some(ms) = wanted.user_timeout_ms
        && ms != now.user_timeout_ms
    {
        sockopt::set_tcp_user_timeout(fd, ms).map_err(err("TCP_USER_TIMEOUT", true))?;
    }
    let Some(k) = wanted.keepalive else { return Ok(()) };
    if !k.enabled && now.enabled {
        sockopt::set_socket_keepalive(fd, false).map_err(err("SO_KEEPALIVE", true))?;
    }
    if k.idle_s != now.idle_s {
        sockopt::set_tcp_keepidle(fd, Duration::from_secs(k.idle_s.into())).map_err(err("TCP_KEEPIDLE", true))?;
    }
    if k.interval_s != now.interval_s {
        let d = Duration::from_secs(k.interval_s.into());
        sockopt::set_tcp_keepintvl(fd, d).map_err(err("TCP_KEEPINTVL", true))?;
    }
    if k.count != now.count {
        sockopt::set_tcp_keepcnt(fd, k.count).map_err(err("TCP_KEEPCNT", true))?;
    }
    if k.enabled && !now.enabled {
        sockopt::set_socket_keepalive(fd, true).map_err(err("SO_KEEPALIVE", true))?;
    }
    Ok(())
}

/// The parts of `struct tcp_info` that decide whether keepalive can help (`include/uapi/linux/tcp.h`; all of them
/// have been at these offsets since 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLook {
    pub state: Option<TcpState>,
    /// Unanswered RTOs in a row.
    pub retransmits: u8,
    /// Unanswered zero-window or keepalive probes.
    pub probes: u8,
    pub backoff: u8,
    pub rto: Duration,
    pub unacked_segments: u32,
    /// Since data was last sent, retransmits included.
    pub last_sent: Duration,
    /// Bytes in the send queue, sent or not (SIOCOUTQ); `None` if the socket has none to tell of.
    pub queued_bytes: Option<u32>,
}

impl TcpLook {
    /// The same, from a sock_diag dump with `tcp_info`.
    pub fn from_diag(s: &DiagSocket) -> Self {
        Self {
            state: Some(s.state),
            retransmits: s.tcp.retransmits.unwrap_or(0),
            probes: s.tcp.probes.unwrap_or(0),
            backoff: s.tcp.backoff.unwrap_or(0),
            rto: s.tcp.rto.unwrap_or_default(),
            unacked_segments: s.tcp.unacked_segments.unwrap_or(0),
            last_sent: Duration::from_millis(s.tcp.last_sent_ms.unwrap_or(0)),
            queued_bytes: Some(s.send_queue),
        }
    }
}

/// Bytes in the send queue, sent or not (SIOCOUTQ); `None` for a listener.
pub fn queued(fd: impl AsFd) -> Option<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (= TIOCOUTQ) writes one int.
    let rc = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    (rc == 0).then_some(bytes).and_then(|b| u32::try_from(b).ok())
}

/// Reads `tcp_info` and the send queue. Two system calls.
pub fn look(fd: impl AsFd) -> Result<TcpLook, OptionError> {
    let fd = fd.as_fd();
    let mut info = [0u8; 104];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, which lives and is this long.
    let rc = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
    };
    if rc != 0 {
        return Err(OptionError { option: "TCP_INFO", setting: false, errno: last_errno() });
    }
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok(TcpLook {
        state: TcpState::from_kernel(info[0]),
        retransmits: info[2],
        probes: info[3],
        backoff: info[4],
        rto: Duration::from_micros(word(8).into()),
        unacked_segments: word(24),
        last_sent: Duration::from_millis(word(44).into()),
        queued_bytes: queued(fd),
    })
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn sets_reads_back_and_restores_on_a_real_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let before = read(&stream).unwrap();
        assert!(!before.enabled);
        let wanted = Wanted::keepalive(30, 10, 3, Some(Duration::from_secs(60)));
        set(&stream, &wanted, before).unwrap();
        let after = read(&stream).unwrap();
        assert_eq!(after, wanted.over(before));
        assert_eq!(read_back(&stream, &wanted, before).unwrap(), after);
        assert_eq!(queued(&stream), Some(0));
        assert_eq!(
            after,
            OptionValues { enabled: true, idle_s: 30, interval_s: 10, count: 3, user_timeout_ms: 60_000 }
        );
        set(&stream, &Wanted::exactly(before), after).unwrap();
        assert_eq!(read(&stream).unwrap(), before);
    }

    #[test]
    fn a_user_timeout_alone_leaves_keepalive() {
        let v = OptionValues { enabled: true, idle_s: 7, interval_s: 6, count: 5, user_timeout_ms: 0 };
        let w = Wanted { keepalive: None, user_timeout_ms: Some(9) };
        assert_eq!(w.over(v), OptionValues { user_timeout_ms: 9, ..v });
    }

    #[test]
    fn looks_at_state_and_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(look(&listener).unwrap().state, Some(TcpState::Listen));
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let seen = look(&stream).unwrap();
        assert_eq!((seen.state, seen.queued_bytes, seen.backoff), (Some(TcpState::Established), Some(0), 0));
    }

    #[test]
    fn texts_are_short() {
        assert_eq!(Wanted::keepalive(30, 10, 3, None).text(), "SO_KEEPALIVE 30s/10s/3");
        let v = OptionValues { enabled: false, user_timeout_ms: 1500, ..Default::default() };
        assert_eq!(values_text(v), "off, user timeout 1500ms");
    }
}
