//! The agent as a child process: started, its lines read as they come, interrupted, and its whole output judged.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::expect::{matches, nearest};
use crate::lab::Ns;
use crate::mounts::{Sys, arrange};
use crate::terminal::Terminal;
use crate::wait::{Lines, patience, until};

/// A program of this build: `variable` names another one, else it lies beside the test's own file.
pub fn binary(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let found = own.ancestors().skip(1).take(2).map(|d| d.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("cannot find {name} beside {}: build it, or name it in {variable}", own.display()))
}

/// How the agent is started.
#[derive(Debug)]
pub struct Builder<'a> {
    args: Vec<OsString>,
    ns: Option<&'a Ns>,
    sys: Sys,
    tmpfs: Option<(OwnedFd, PathBuf)>,
    uid: Option<u32>,
    env: Vec<(String, OsString)>,
    program: Option<PathBuf>,
    state: Option<PathBuf>,
    /// Where the agent keeps what it remembers unless [`Builder::state`] says: never this machine's own place.
    own_state: tempfile::TempDir,
}

/// A running agent. Dropped, it is killed.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    lines: Lines,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<std::thread::JoinHandle<()>>,
    /// The start, or the signal that was to end it.
    since: Instant,
    _state: tempfile::TempDir,
}

/// A finished one.
#[derive(Debug)]
pub struct Run {
    pub lines: Vec<Value>,
    pub stderr: String,
    pub status: ExitStatus,
    /// From the signal (or the start, when it ended by itself) to its end.
    pub took: Duration,
    broken: Vec<(usize, String)>,
    rest: String,
}

impl<'a> Builder<'a> {
    pub fn new<S: Into<OsString>>(args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self {
            args,
            ns: None,
            sys: Sys::AsIs,
            tmpfs: None,
            uid: None,
            env: Vec::new(),
            program: None,
            state: None,
            own_state: tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a directory: {e}")),
        }
    }

    /// `watch --no-tui --pid PID`.
    pub fn watch(pid: u32) -> Self {
        Self::new(["watch", "--no-tui", "--pid"]).arg(pid.to_string())
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn ns(mut self, ns: &'a Ns) -> Self {
        self.ns = Some(ns);
        self
    }

    pub fn sys(mut self, sys: Sys) -> Self {
        self.sys = sys;
        self
    }

    /// As an ordinary user.
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// The directory of its state files, shared with other runs.
    pub fn state(mut self, directory: &Path) -> Self {
        self.state = Some(directory.to_owned());
        self
    }

    /// Another file than the one of this build.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Shows a detached file system (see [`crate::mounts::small_tmpfs`]) to the agent, and to nobody else, at `at`.
    pub fn mount(mut self, fs: OwnedFd, at: &Path) -> Self {
        self.tmpfs = Some((fs, at.to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program.clone().unwrap_or_else(|| binary("agent", "AGENT_BIN")));
        command.args(&self.args).stdin(Stdio::null());
        command.env("AGENT_STATE_DIR", self.state.as_deref().unwrap_or(self.own_state.path()));
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        let sys = self.sys;
        let tmpfs = self.tmpfs.as_ref().map(|(fd, at)| {
            let at = std::ffi::CString::new(at.as_os_str().as_encoded_bytes()).expect("a path has no zero byte");
            (fd.as_raw_fd(), at)
        });
        // SAFETY: only system calls with memory prepared before the fork.
        unsafe {
            command.pre_exec(move || arrange(sys, tmpfs.as_ref().map(|(fd, at)| (*fd, at.as_c_str()))));
        }
        if let Some(ns) = self.ns {
            ns.enter_on_exec(&mut command);
        }
        if let Some(uid) = self.uid {
            std::os::unix::fs::chown(self.own_state.path(), Some(uid), Some(uid))
                .unwrap_or_else(|e| panic!("cannot give the state directory away: {e}"));
            crate::lab::become_on_exec(&mut command, uid);
        }
        // The agent must not outlive the test. Last: a change of user takes it back.
        // SAFETY: one system call without pointers.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        command
    }

    /// Starts it and waits for its `session` line.
    pub fn start(self) -> Agent {
        let mut agent = self.spawn();
        if agent.lines.wait(patience(), |p| p.lines.first().map(drop)).is_none() {
            let run = agent.wait_end(Duration::from_secs(1));
            panic!("the agent printed no session line; {}", run.map_or("it still runs".into(), |r| r.describe()));
        }
        agent
    }

    /// Starts it with its stdout as a pipe that this value reads.
    pub fn spawn(self) -> Agent {
        let mut child = self.spawn_with(Stdio::piped());
        let lines = Lines::read_from(child.stdout.take().expect("stdout was asked for as a pipe"));
        Agent::around(child, lines, self.own_state)
    }

    /// Starts it with another stdout.
    pub fn spawn_with(&self, stdout: Stdio) -> Child {
        self.command()
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start the agent: {e}"))
    }

    /// Starts it on a terminal.
    pub fn on_terminal(&self) -> Terminal {
        Terminal::start(self.command())
    }

    /// Runs it to its own end; its stdout as text.
    pub fn run_text(self) -> String {
        let out = self
            .spawn_with(Stdio::piped())
            .wait_with_output()
            .unwrap_or_else(|e| panic!("cannot wait for the agent: {e}"));
        assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs it to its own end.
    pub fn run(self) -> Run {
        let mut agent = self.spawn();
        agent.wait_end(patience()).unwrap_or_else(|| panic!("the agent did not end by itself within {:?}", patience()))
    }
}

impl Agent {
    fn around(mut child: Child, lines: Lines, state: tempfile::TempDir) -> Self {
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stderr_reader = child.stderr.take().map(|mut pipe| {
            let text = Arc::clone(&stderr);
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                // What came before an error is what there is to show.
                while let Ok(n @ 1..) = pipe.read(&mut part) {
                    text.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&part[..n]);
                }
            })
        });
        Self { child, lines, stderr, stderr_reader, since: Instant::now(), _state: state }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line; panics with the nearest ones.
    pub fn expect(&self, expected: &Value) -> Value {
        self.expect_n(expected, 1).remove(0)
    }

    /// Waits until `n` lines match.
    pub fn expect_n(&self, expected: &Value, n: usize) -> Vec<Value> {
        let found = self.lines.wait(patience(), |p| {
            let found: Vec<Value> = p.lines.iter().filter(|l| matches(expected, l)).cloned().collect();
            (found.len() >= n).then_some(found)
        });
        found.unwrap_or_else(|| {
            let p = self.lines.lock();
            panic!("the agent did not print {n} such lines within {:?}: {}", patience(), nearest(expected, &p.lines))
        })
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until its stderr has `text`.
    pub fn expect_stderr(&self, text: &str) {
        until(&format!("{text:?} on stderr"), || self.stderr().contains(text));
    }

    /// What it has printed so far.
    pub fn lines(&self) -> Vec<Value> {
        self.lines.lock().lines.clone()
    }

    /// SIGINT, and everything that it printed. Checks the frame of the output.
    pub fn stop(self) -> Run {
        let run = self.interrupt();
        run.check_frame();
        run
    }

    /// SIGINT, without looking at what it printed.
    pub fn interrupt(mut self) -> Run {
        self.since = Instant::now();
        self.signal(libc::SIGINT);
        self.wait_end(patience()).unwrap_or_else(|| panic!("the agent did not end within {:?} of SIGINT", patience()))
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child is not yet waited for, so that the number is still its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Waits for it to end by itself.
    pub fn finish(mut self) -> Run {
        self.wait_end(patience()).unwrap_or_else(|| panic!("the agent did not end by itself within {:?}", patience()))
    }

    /// What it printed if it has ended by now, else itself.
    pub fn try_finish(mut self) -> Result<Run, Self> {
        self.wait_end(Duration::ZERO).ok_or(self)
    }

    fn wait_end(&mut self, within: Duration) -> Option<Run> {
        let deadline = Instant::now() + within;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Ok(None) => return None,
                Err(e) => panic!("cannot wait for the agent: {e}"),
            }
        };
        let took = self.since.elapsed();
        self.lines.wait(patience(), |p| p.ended.then_some(()));
        if let Some(reader) = self.stderr_reader.take() {
            let _ = reader.join();
        }
        let stderr = self.stderr();
        let mut p = self.lines.lock();
        Some(Run {
            lines: std::mem::take(&mut p.lines),
            broken: std::mem::take(&mut p.broken),
            rest: std::mem::take(&mut p.rest),
            stderr,
            status,
            took,
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run {
    /// Reads a recording as if the agent had printed it.
    pub fn of_text(text: &str, status: ExitStatus) -> Self {
        let lines = Lines::read_from(io::Cursor::new(text.as_bytes().to_vec()));
        lines.wait(patience(), |p| p.ended.then_some(()));
        let p = std::mem::take(&mut *lines.lock());
        Self { lines: p.lines, broken: p.broken, rest: p.rest, stderr: String::new(), status, took: Duration::ZERO }
    }

    pub fn describe(&self) -> String {
        let tail: Vec<String> = self.lines.iter().rev().take(5).map(Value::to_string).collect();
        format!("it ended with {}, stderr:\n{}\nlast lines:\n{}", self.status, self.stderr, tail.join("\n"))
    }

    /// Exit code 0, `session` first, `end` last, `seq` without a gap, every line whole.
    pub fn check_frame(&self) {
        assert!(self.status.success(), "{}", self.describe());
        self.check_lines();
        assert_eq!(self.lines.last().map(|l| &l["type"]), Some(&json!("end")), "{}", self.describe());
    }

    /// As [`Self::check_frame`], for an output that was cut off: whole lines in order, no end.
    pub fn check_lines(&self) {
        assert!(self.broken.is_empty(), "lines that are no JSON: {:?}", self.broken);
        assert!(self.rest.is_empty(), "half a line at the end: {:?}", self.rest);
        assert!(
            self.lines.first().is_some_and(|l| matches(&json!({"type": "session", "schema": "agent.events/1"}), l)),
            "the first line is no session: {}",
            self.describe()
        );
        for (i, line) in self.lines.iter().enumerate() {
            assert_eq!(line["seq"], json!(i), "seq has a gap at {line}");
            assert!(line["type"].is_string() && line["time"].is_string(), "without type or time: {line}");
        }
    }

    pub fn all(&self, expected: &Value) -> Vec<&Value> {
        self.lines.iter().filter(|l| matches(expected, l)).collect()
    }

    /// The first line that matches; panics with the nearest ones.
    pub fn one(&self, expected: &Value) -> &Value {
        self.all(expected).first().copied().unwrap_or_else(|| self.missing(expected))
    }

    fn missing(&self, expected: &Value) -> ! {
        panic!(
            "no such line: {}\nit ended with {}, stderr:\n{}",
            nearest(expected, &self.lines),
            self.status,
            self.stderr
        )
    }

    /// The last line that matches.
    pub fn last(&self, expected: &Value) -> &Value {
        self.all(expected).last().copied().unwrap_or_else(|| self.missing(expected))
    }

    pub fn none(&self, expected: &Value) {
        let found = self.all(expected);
        assert!(found.is_empty(), "{} lines that should not be there, the first: {}", found.len(), found[0]);
    }

    /// A number of the `end` line's totals.
    pub fn total(&self, name: &str) -> i64 {
        self.one(&json!({"type": "end"}))["totals"][name].as_i64().unwrap_or(-1)
    }
}
