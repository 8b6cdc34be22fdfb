//! One connection: open it, use it once, let it idle, test it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::plan::Fate;

/// How to talk, and so how to test.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub tls: Option<Arc<ClientConfig>>,
    /// Path of a HEAD request; without it a TCP keepalive probe is the test.
    pub http: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub address: SocketAddr,
}

/// Connecting, the handshake and the first request together must be done within this.
const SETUP: Duration = Duration::from_secs(10);
/// A test unanswered for this long is a drop: four RTOs of a path with an RTT well below a second.
const ANSWER: Duration = Duration::from_secs(3);
/// How often a waiting connection looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(100);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

pub struct Connection {
    stream: Stream,
    host: String,
    http: Option<String>,
    /// Since when nothing was sent or received.
    quiet_since: Instant,
}

impl Connection {
    /// Opens it and makes one exchange, so that it is like a pooled connection after its first use.
    pub fn open(target: &Target, protocol: &Protocol, keepalive_idle_s: Option<u32>) -> io::Result<Self> {
        let tcp = TcpStream::connect_timeout(&target.address, SETUP)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(SETUP))?;
        tcp.set_write_timeout(Some(SETUP))?;
        if let Some(idle) = keepalive_idle_s {
            keepalive(tcp.as_fd(), idle)?;
        }
        let stream = match &protocol.tls {
            None => Stream::Plain(tcp),
            Some(config) => {
                let name = ServerName::try_from(target.host.clone()).map_err(|e| io::Error::other(e.to_string()))?;
                let tls = ClientConnection::new(config.clone(), name).map_err(|e| io::Error::other(e.to_string()))?;
                let mut stream = StreamOwned::new(tls, tcp);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Stream::Tls(Box::new(stream))
            }
        };
        let mut c =
            Self { stream, host: target.host.clone(), http: protocol.http.clone(), quiet_since: Instant::now() };
        if c.http.is_some() {
            c.request()?;
            c.quiet_since = Instant::now();
        }
        Ok(c)
    }

    /// SO_COOKIE, to join what was seen of its packets.
    pub fn cookie(&self) -> Option<u64> {
        sockopt::socket_cookie(self.fd()).ok()
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(s) => s,
            Stream::Tls(s) => &s.sock,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }

    /// Waits for `idle`; gives the fate if the connection ended meanwhile, `Ok(None)` if it is still there. `stop`
    /// ends the wait early with an `Interrupted` error.
    pub fn idle(&mut self, idle: Duration, stop: &AtomicBool) -> io::Result<Option<Fate>> {
        loop {
            let quiet = self.quiet_since.elapsed();
            let Some(left) = idle.checked_sub(quiet).filter(|l| !l.is_zero()) else { return Ok(None) };
            if stop.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            if self.readable(left.min(SLICE))? {
                let after_s = self.quiet_since.elapsed().as_secs_f64();
                match self.read_some() {
                    Ok(0) => return Ok(Some(Fate::Fin { after_s })),
                    // Session tickets, a 408 before the close: the idle time goes on from what was last asked for.
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) if is_reset(&e) => return Ok(Some(Fate::ResetWhileIdle { after_s })),
                    Err(e) if e.kind() == ErrorKind::TimedOut => return Ok(Some(Fate::Dropped)),
                    Err(e) => return Err(e),
                }
            }
        }
    }

    fn readable(&self, wait: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN | PollFlags::RDHUP)];
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(n) => Ok(n > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes what is there; 0 = the server ended the connection (FIN, or TLS close_notify).
    fn read_some(&mut self) -> io::Result<usize> {
        let mut buf = [0u8; 4096];
        match &mut self.stream {
            Stream::Plain(s) => s.read(&mut buf),
            Stream::Tls(s) => {
                let n = s.conn.read_tls(&mut s.sock)?;
                let state = s.conn.process_new_packets().map_err(|e| io::Error::other(e.to_string()))?;
                if n == 0 || state.peer_has_closed() {
                    return Ok(0);
                }
                while state.plaintext_bytes_to_read() > 0 && s.conn.reader().read(&mut buf).unwrap_or(0) > 0 {}
                Ok(n)
            }
        }
    }

    /// Does it still work?
    pub fn test(mut self) -> Fate {
        let outcome = if self.http.is_some() { self.request() } else { self.keepalive_probe() };
        match outcome {
            Ok(()) => Fate::Survived,
            Err(e) if is_reset(&e) => Fate::ResetOnTest,
            Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Fate::Dropped,
            // The FIN was under way when the test left.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Fate::Fin { after_s: self.quiet_since.elapsed().as_secs_f64() }
            }
            Err(e) => Fate::Unusable { why: e.to_string() },
        }
    }

    /// A HEAD request and its answer: legal on any HTTP/1.1 connection at any time between requests.
    fn request(&mut self) -> io::Result<()> {
        let (path, host) = (self.http.clone().unwrap_or_default(), self.host.clone());
        let text = format!("HEAD {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: agent-probe\r\nAccept: */*\r\n\r\n");
        let tcp = self.tcp();
        tcp.set_read_timeout(Some(ANSWER))?;
        tcp.set_write_timeout(Some(ANSWER))?;
        let stream: &mut dyn ReadWrite = match &mut self.stream {
            Stream::Plain(s) => s,
            Stream::Tls(s) => s.as_mut(),
        };
        stream.write_all(text.as_bytes())?;
        stream.flush()?;
        let mut answer = Vec::new();
        let mut buf = [0u8; 1024];
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut buf) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) if answer.len() < 65_536 => answer.extend_from_slice(&buf[..n]),
                Ok(_) => return Err(io::Error::other("the answer's header is longer than 64 KiB")),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if !answer.starts_with(b"HTTP/1.") {
            return Err(io::Error::other("the answer is no HTTP/1.x"));
        }
        let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if head.contains("\r\nconnection: close") {
            return Err(io::Error::other("the server closes after every answer (Connection: close)"));
        }
        Ok(())
    }

    /// A TCP keepalive probe: an empty segment that any TCP must acknowledge, and that no application sees.
    fn keepalive_probe(&mut self) -> io::Result<()> {
        let fd = self.fd();
        let sent = Instant::now();
        sockopt::set_tcp_keepidle(fd, Duration::from_secs(1))?;
        sockopt::set_tcp_keepintvl(fd, Duration::from_secs(1))?;
        sockopt::set_tcp_keepcnt(fd, 2)?;
        // Off and on again: the timer starts anew, one second from now, whatever it was set to.
        sockopt::set_socket_keepalive(fd, false)?;
        sockopt::set_socket_keepalive(fd, true)?;
        let until = sent + Duration::from_secs(1) + ANSWER;
        while Instant::now() < until {
            if self.readable(SLICE)? {
                match self.read_some() {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            if last_ack(self.fd()).is_some_and(|age| age < sent.elapsed()) {
                return Ok(());
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn is_reset(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

fn keepalive(fd: BorrowedFd<'_>, idle_s: u32) -> io::Result<()> {
    let idle = Duration::from_secs(u64::from(idle_s));
    sockopt::set_tcp_keepidle(fd, idle)?;
    sockopt::set_tcp_keepintvl(fd, idle)?;
    sockopt::set_tcp_keepcnt(fd, 3)?;
    Ok(sockopt::set_socket_keepalive(fd, true)?)
}

/// Since the last ACK came, from `tcp_info`.
fn last_ack(fd: BorrowedFd<'_>) -> Option<Duration> {
    use std::os::fd::AsRawFd;
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer is `len` bytes, zeroed, and any bytes are a valid `tcp_info` (integers only); rustix has no
    // wrapper for TCP_INFO.
    let info = unsafe {
        if libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len) != 0
        {
            return None;
        }
        info.assume_init()
    };
    Some(Duration::from_millis(u64::from(info.tcpi_last_ack_recv)))
}
