//! The child's side: one command a line, each with its number, each answered by one JSON line with that number.
//!
//! Every command runs on a thread of its own, so that a connect that hangs does not stop the others. The process ends
//! with its stdin.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use libc::c_int;
use serde_json::{Value, json};

use super::raw::Segment;
use super::serve::{Behaviour, serve};
use super::table::{Entry, Table, merge};
use super::{sock, storm};

/// One message, whole or not at all: a line shorter than a pipe's atomic write.
fn say(value: &Value) {
    let mut text = value.to_string();
    text.push('\n');
    // The test that reads may be gone: then so is the reason to talk.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

type Grandchild = (Child, ChildStdin, io::BufReader<ChildStdout>);

#[derive(Default)]
struct Process {
    table: Table,
    children: Mutex<HashMap<u32, Grandchild>>,
}

pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => obey(&[]),
        ["--adopt", fds] => obey(&fds.split(',').filter_map(|n| n.parse().ok()).collect::<Vec<_>>()),
        ["--pidns"] => in_pid_namespace(),
        ["do", ref command @ ..] => once(command),
        _ => {
            eprintln!("usage: agt-workload [--pidns | --adopt FD,FD... | do COMMAND]; commands on stdin");
            ExitCode::from(2)
        }
    }
}

/// One command from the command line; the exit code says whether it succeeded.
fn once(command: &[&str]) -> ExitCode {
    match Arc::new(Process::default()).command("0", command) {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the workload as the first process of a new pid namespace; this process only waits for it.
fn in_pid_namespace() -> ExitCode {
    // SAFETY: CLONE_NEWPID changes only where this process's future children live.
    let made = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) };
    // Not through /proc/self/exe: the process would be called «exe».
    let child = made.map_err(io::Error::from).and_then(|()| Command::new(std::env::current_exe()?).spawn());
    match child {
        Ok(mut child) => {
            say(&json!({"event": "inner", "pid": child.id()}));
            let _ = child.wait();
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("cannot start in a new pid namespace: {e}");
            ExitCode::FAILURE
        }
    }
}

fn obey(adopted: &[RawFd]) -> ExitCode {
    let process = Arc::new(Process::default());
    for fd in adopted {
        // SAFETY: the parent left exactly these descriptors open for this process.
        let stream = unsafe { TcpStream::from_raw_fd(*fd) };
        if let Err(e) = process.table.add(Entry::Stream(Arc::new(stream))) {
            eprintln!("descriptor {fd} is no socket: {e}");
            return ExitCode::FAILURE;
        }
    }
    say(&json!({"event": "ready", "pid": std::process::id()}));
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let process = Arc::clone(&process);
        std::thread::spawn(move || {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [op, words @ ..] = &words[..] else { return };
            let answer = match process.command(op, words) {
                Ok(value) => merge(json!({"op": op, "ok": true}), value),
                Err(e) => {
                    json!({"op": op, "ok": false, "errno": sock::errno_name(&e), "error": e.to_string()})
                }
            };
            say(&answer);
        });
    }
    ExitCode::SUCCESS
}

/// Opens that many files, until the process ends.
fn many_files(n: u64) -> io::Result<Value> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = n + 1_000;
    let maximum = getrlimit(Resource::Nofile).maximum.map(|hard| hard.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    for _ in 0..n {
        std::mem::forget(std::fs::File::open("/dev/null")?);
    }
    Ok(json!({}))
}

fn number<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| io::Error::other(format!("'{word}' cannot be read")))
}

impl Process {
    fn command(self: &Arc<Self>, op: &str, words: &[&str]) -> io::Result<Value> {
        match words {
            ["connect", to] => self.connect(op, number(to)?, None),
            ["connect", to, from] => self.connect(op, number(to)?, Some(number(from)?)),
            ["reconnect", id, to] => {
                sock::reconnect(&*self.table.stream(number(id)?)?, number(to)?).map(|()| json!({}))
            }
            ["pool", to, n] => self.pool(number(to)?, number(n)?),
            ["files", n] => many_files(number(n)?),
            ["tap"] => self.tap(),
            ["serve", at, how] => self.listen(number(at)?, number(how)?),
            ["send", id, bytes] => self.send(number(id)?, number(bytes)?),
            ["recv", id, bytes] => self.receive(number(id)?, number(bytes)?),
            ["ask", id, bytes] => {
                self.send(number(id)?, number(bytes)?)?;
                self.receive(number(id)?, number(bytes)?)
            }
            ["pingpong", id, bytes, times] => {
                for _ in 0..number::<u64>(times)? {
                    self.send(number(id)?, number(bytes)?)?;
                    self.receive(number(id)?, number(bytes)?)?;
                }
                Ok(json!({}))
            }
            ["http", id] => self.http(number(id)?),
            ["end", id] => self.read_to_end(number(id)?),
            ["close", id] => self.table.remove(number(id)?).map(|_| json!({})),
            ["abort", id] => {
                let entry = self.table.remove(number(id)?)?;
                sock::linger_zero(entry.as_raw_fd()).map(|()| json!({}))
            }
            ["shutdown", id] => self.table.stream(number(id)?)?.shutdown(std::net::Shutdown::Write).map(|()| json!({})),
            ["keepalive", id, idle, interval, count] => self.keepalive(number(id)?, [idle, interval, count]),
            ["options", id] => self.options(number(id)?),
            ["info", id] => self.info(number(id)?),
            ["next", id] => Ok(json!({"seq": sock::receive_next(self.table.get(number(id)?)?.as_raw_fd())?})),
            ["fork", ids @ ..] => self.fork(ids),
            ["child", pid, rest @ ..] => self.tell_child(number(pid)?, op, rest),
            ["pass", id, path] => {
                let entry = self.table.get(number(id)?)?;
                sock::send_fd(&UnixStream::connect(path)?, entry.as_raw_fd()).map(|()| json!({}))
            }
            ["take", path] => {
                let listener = UnixListener::bind(path)?;
                say(&json!({"event": "taking", "op": op}));
                let fd = sock::receive_fd(&listener.accept()?.0)?;
                self.table.add(Entry::Stream(Arc::new(fd.into())))
            }
            ["storm", to, count, rate] => {
                Ok(json!({"count": storm::connects(number(to)?, number(count)?, number(rate)?)?}))
            }
            ["rawstorm", from, to, count, rate] => Ok(json!({
                "count": storm::no_socket(number(from)?, number(to)?, number(count)?, number(rate)?)?
            })),
            ["segment", from, to, seq, ack, flags, ttl, ip_id] => Segment {
                from: number(from)?,
                to: number(to)?,
                seq: number(seq)?,
                ack: number(ack)?,
                flags: number(flags)?,
                ttl: number(ttl)?,
                ip_id: number(ip_id)?,
            }
            .send()
            .map(|()| json!({})),
            ["exit", code] => std::process::exit(number(code)?),
            _ => Err(io::Error::other(format!("no such command: {}", words.join(" ")))),
        }
    }

    /// One HTTP/1.1 request and its whole answer (by Content-Length) on a kept connection.
    fn http(&self, id: u32) -> io::Result<Value> {
        use std::io::{Read, Write};
        let stream = self.table.stream(id)?;
        let mut stream = &*stream;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let chunked = head.contains("transfer-encoding: chunked") && body.ends_with("0\r\n\r\n");
                let length =
                    head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
                if chunked || length.is_some_and(|n| body.len() >= n) {
                    return Ok(json!({"bytes": answer.len()}));
                }
            }
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => answer.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Says `connecting` with the cookie before the handshake: a connect that hangs is a case of its own.
    fn connect(&self, op: &str, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<Value> {
        let socket = sock::tcp(to.is_ipv6())?;
        if let Some(from) = from {
            sock::bind(&socket, from)?;
        }
        let cookie = format!("{:x}", sock::cookie(socket.as_raw_fd())?);
        say(&json!({"event": "connecting", "op": op, "cookie": cookie}));
        sock::connect(&socket, to)?;
        self.table.add(Entry::Stream(Arc::new(socket.into())))
    }

    /// Many idle connections; only the last is described.
    fn pool(&self, to: SocketAddr, n: u32) -> io::Result<Value> {
        let mut last = json!({});
        for _ in 0..n {
            let socket = sock::tcp(to.is_ipv6())?;
            sock::connect(&socket, to)?;
            last = self.table.add(Entry::Stream(Arc::new(socket.into())))?;
        }
        Ok(last)
    }

    /// Sends one byte on every connection.
    fn tap(&self) -> io::Result<Value> {
        let streams = self.table.streams();
        for stream in &streams {
            (&**stream).write_all(b"x")?;
        }
        Ok(json!({"sent": streams.len()}))
    }

    /// Accepts on a thread of its own; each accepted connection is said as an event.
    fn listen(self: &Arc<Self>, at: SocketAddr, how: Behaviour) -> io::Result<Value> {
        let socket = sock::tcp(at.is_ipv6())?;
        sock::set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1 as c_int)?;
        if matches!(how, Behaviour::Half(_)) {
            sock::set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 8192 as c_int)?;
        }
        sock::bind(&socket, at)?;
        sock::listen(&socket, 4096)?;
        let listener = Arc::new(TcpListener::from(socket));
        let described = self.table.add(Entry::Listener(Arc::clone(&listener)))?;
        let process = Arc::clone(self);
        let listener_id = described["id"].clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                process.accepted(stream, how, &listener_id);
            }
        });
        Ok(described)
    }

    fn accepted(&self, stream: TcpStream, how: Behaviour, listener: &Value) {
        // Only a connection that later commands name may live in the table: an entry there would keep it open.
        let stream = Arc::new(stream);
        let described = match how {
            Behaviour::Manual => self.table.add(Entry::Stream(Arc::clone(&stream))),
            _ => super::table::describe(&Entry::Stream(Arc::clone(&stream))),
        };
        let event = json!({"event": "accepted", "listener": listener});
        match described {
            Ok(d) => say(&merge(event, d)),
            Err(e) => say(&json!({"event": "lost", "error": e.to_string()})),
        }
        if how != Behaviour::Manual {
            std::thread::spawn(move || {
                // An error ends this connection only; the client sees it, and that is what the tests look at.
                let _ = Arc::into_inner(stream).map(|s| serve(s, how));
            });
        }
    }

    fn send(&self, id: u32, bytes: u64) -> io::Result<Value> {
        let stream = self.table.stream(id)?;
        let chunk = vec![b'x'; 256 * 1024];
        let mut left = bytes;
        while left > 0 {
            let n = chunk.len().min(left as usize);
            (&*stream).write_all(&chunk[..n])?;
            left -= n as u64;
        }
        Ok(json!({"sent": bytes}))
    }

    fn receive(&self, id: u32, bytes: u64) -> io::Result<Value> {
        let stream = self.table.stream(id)?;
        let mut buffer = vec![0; bytes as usize];
        (&*stream).read_exact(&mut buffer)?;
        Ok(json!({"received": bytes}))
    }

    /// Waits for the end of the stream: `eof`, or the error as the application sees it.
    fn read_to_end(&self, id: u32) -> io::Result<Value> {
        let stream = self.table.stream(id)?;
        let bytes = io::copy(&mut &*stream, &mut io::sink())?;
        Ok(json!({"eof": true, "received": bytes}))
    }

    /// In the order in which applications do it: switched on first.
    fn keepalive(&self, id: u32, values: [&&str; 3]) -> io::Result<Value> {
        let fd = self.table.get(id)?.as_raw_fd();
        sock::set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1 as c_int)?;
        let names = [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT];
        for (name, value) in names.into_iter().zip(values) {
            sock::set(fd, libc::IPPROTO_TCP, name, number::<c_int>(value)?)?;
        }
        Ok(json!({}))
    }

    fn options(&self, id: u32) -> io::Result<Value> {
        let fd = self.table.get(id)?.as_raw_fd();
        let tcp = |name| sock::get::<c_int>(fd, libc::IPPROTO_TCP, name);
        Ok(json!({
            "keepalive": sock::get::<c_int>(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE)? != 0,
            "idle_s": tcp(libc::TCP_KEEPIDLE)?,
            "interval_s": tcp(libc::TCP_KEEPINTVL)?,
            "count": tcp(libc::TCP_KEEPCNT)?,
            "user_timeout_ms": tcp(libc::TCP_USER_TIMEOUT)?,
        }))
    }

    fn info(&self, id: u32) -> io::Result<Value> {
        let info: libc::tcp_info = sock::get(self.table.get(id)?.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO)?;
        Ok(json!({
            "state": info.tcpi_state,
            "total_retrans": info.tcpi_total_retrans,
            "unacked": info.tcpi_unacked,
            "backoff": info.tcpi_backoff,
            "rto_us": info.tcpi_rto,
        }))
    }

    /// A child that inherits the sockets named, under the numbers 0, 1, ... in their order, and obeys [`Self::tell_child`].
    fn fork(&self, ids: &[&str]) -> io::Result<Value> {
        let entries: Vec<Entry> = ids.iter().map(|id| self.table.get(number(id)?)).collect::<io::Result<_>>()?;
        let fds: Vec<RawFd> = entries.iter().map(AsRawFd::as_raw_fd).collect();
        let list: Vec<String> = fds.iter().map(ToString::to_string).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--adopt", &list.join(",")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: fcntl is safe between fork and exec; the descriptors are held open by `entries`.
        unsafe {
            command.pre_exec(move || {
                for fd in &fds {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the child has no pipes"));
        };
        let mut stdout = io::BufReader::new(stdout);
        stdout.read_line(&mut String::new())?;
        let pid = child.id();
        self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, (child, stdin, stdout));
        Ok(json!({"pid": pid}))
    }

    /// Hands a command to a child and its answer back. Events of the child are left out.
    fn tell_child(&self, pid: u32, op: &str, words: &[&str]) -> io::Result<Value> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, stdin, stdout) = children.get_mut(&pid).ok_or_else(|| io::Error::other(format!("no child {pid}")))?;
        writeln!(stdin, "{op} {}", words.join(" "))?;
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line)? == 0 {
                return Ok(json!({"child": "ended"}));
            }
            let answer: Value = serde_json::from_str(&line)?;
            if answer["op"] == op {
                return Ok(answer);
            }
        }
    }
}
