//! The test's side of a workload process.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::expect;
use crate::lab::Ns;
use crate::wait::{Lines, patience, until};

/// `TCP_CLOSE_WAIT` of the kernel's `net/tcp_states.h`.
const CLOSE_WAIT: u8 = 8;

/// A socket of a workload, as the workload itself knows it: what the agent's lines are compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conn {
    /// The workload's number for it.
    pub id: u64,
    pub fd: i64,
    /// `SO_COOKIE`, written as the agent writes it.
    pub cookie: String,
    pub local: String,
    pub remote: String,
}

impl Conn {
    fn from(v: &Value) -> Self {
        let text = |name: &str| v[name].as_str().unwrap_or_default().to_owned();
        Self {
            id: v["id"].as_u64().unwrap_or(u64::MAX),
            fd: v["fd"].as_i64().unwrap_or(-1),
            cookie: text("cookie"),
            local: text("local"),
            remote: text("remote"),
        }
    }
}

/// Where and how a workload starts.
#[derive(Debug, Default)]
pub struct Builder<'a> {
    ns: Option<&'a Ns>,
    pidns: bool,
    program: Option<Vec<OsString>>,
    uid: Option<u32>,
}

impl<'a> Builder<'a> {
    pub fn ns(mut self, ns: &'a Ns) -> Self {
        self.ns = Some(ns);
        self
    }

    /// As process 1 of a pid namespace of its own, like a container's.
    pub fn pidns(mut self) -> Self {
        self.pidns = true;
        self
    }

    /// As an ordinary user.
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Another program that speaks the same lines: a real client.
    pub fn program<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.program = Some(words.into_iter().map(Into::into).collect());
        self
    }

    pub fn start(self) -> Workload {
        let own = || vec![crate::runner::binary("agt-workload", "AGT_WORKLOAD_BIN").into()];
        let words = self.program.unwrap_or_else(own);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if self.pidns {
            command.arg("--pidns");
        }
        if let Some(ns) = self.ns {
            ns.enter_on_exec(&mut command);
        }
        if let Some(uid) = self.uid {
            crate::lab::become_on_exec(&mut command, uid);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", words[0].display()));
        let stdin = child.stdin.take().expect("stdin was asked for as a pipe");
        let lines = Lines::read_from(child.stdout.take().expect("stdout was asked for as a pipe"));
        let mut workload = Workload { child, stdin, lines, ops: Cell::new(0), pid: 0 };
        let first = if self.pidns { json!({"event": "inner"}) } else { json!({"event": "ready"}) };
        let pid = workload.event(&first)["pid"].as_u64().unwrap_or_default();
        workload.event(&json!({"event": "ready"}));
        workload.pid = pid as u32;
        workload
    }
}

/// A running workload. Ends with the value.
#[derive(Debug)]
pub struct Workload {
    child: Child,
    stdin: ChildStdin,
    lines: Lines,
    ops: Cell<u64>,
    pid: u32,
}

/// A command that was sent and not yet waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op(u64);

impl Workload {
    pub fn builder<'a>() -> Builder<'a> {
        Builder::default()
    }

    pub fn start(ns: &Ns) -> Self {
        Self::builder().ns(ns).start()
    }

    /// The process, as the test's own pid namespace numbers it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a command and does not wait for its answer.
    pub fn begin(&self, command: &str) -> Op {
        let op = self.ops.get() + 1;
        self.ops.set(op);
        // One write: a line must not be torn.
        let line = format!("{op} {command}\n");
        (&self.stdin).write_all(line.as_bytes()).unwrap_or_else(|e| panic!("the workload is gone: {e} ({command})"));
        Op(op)
    }

    /// The answer, if it comes within the time.
    pub fn poll(&self, op: Op, patience: Duration) -> Option<Value> {
        let wanted = json!(op.0.to_string());
        self.lines.wait(patience, |p| p.lines.iter().find(|l| l["op"] == wanted && l.get("ok").is_some()).cloned())
    }

    /// The answer, success or not.
    pub fn answer(&self, op: Op) -> Value {
        self.answer_within(op, patience())
    }

    fn answer_within(&self, op: Op, patience: Duration) -> Value {
        self.poll(op, patience).unwrap_or_else(|| panic!("no answer to command {} within {patience:?}", op.0))
    }

    /// Does a command that must succeed.
    pub fn call(&self, command: &str) -> Value {
        self.call_within(command, patience())
    }

    /// Does a command that must succeed and may take this long.
    pub fn call_within(&self, command: &str, patience: Duration) -> Value {
        let answer = self.answer_within(self.begin(command), patience);
        assert!(answer["ok"] == true, "the workload could not do '{command}': {answer}");
        answer
    }

    /// Does a command that must fail; the error's name.
    pub fn fail(&self, command: &str) -> String {
        let answer = self.answer(self.begin(command));
        assert!(answer["ok"] == false, "'{command}' succeeded although it should not: {answer}");
        answer["errno"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for something the workload says on its own.
    pub fn event(&self, expected: &Value) -> Value {
        self.lines.wait(patience(), |p| p.lines.iter().find(|l| expect::matches(expected, l)).cloned()).unwrap_or_else(
            || panic!("the workload did not say it: {}", expect::nearest(expected, &self.lines.lock().lines)),
        )
    }

    /// Everything of a kind that it has said on its own so far.
    pub fn said(&self, expected: &Value) -> Vec<Value> {
        self.lines.lock().lines.iter().filter(|l| expect::matches(expected, l)).cloned().collect()
    }

    pub fn connect(&self, to: SocketAddr) -> Conn {
        Conn::from(&self.call(&format!("connect {to}")))
    }

    /// Begins to connect; the cookie is known before the handshake.
    pub fn connecting(&self, to: SocketAddr) -> (Op, String) {
        let op = self.begin(&format!("connect {to}"));
        let said = self.event(&json!({"event": "connecting", "op": op.0.to_string()}));
        (op, said["cookie"].as_str().unwrap_or_default().to_owned())
    }

    /// Listens, treating each connection as `how` says (see `serve::Behaviour`).
    pub fn serve(&self, at: SocketAddr, how: &str) -> Conn {
        Conn::from(&self.call(&format!("serve {at} {how}")))
    }

    /// Waits until the peer's FIN is here: the socket is in CLOSE_WAIT.
    pub fn closed_by_peer(&self, conn: &Conn) {
        until("the peer's FIN", || self.call(&format!("info {}", conn.id))["state"] == json!(CLOSE_WAIT));
    }

    /// The server's end of a client's connection.
    pub fn accepted(&self, client: &Conn) -> Conn {
        Conn::from(&self.event(&json!({"event": "accepted", "remote": client.local})))
    }

    /// Sends a RST that claims to come from elsewhere. For a workload in the router's namespace.
    pub fn forge_reset(&self, from: &str, to: &str, seq: u64, ttl: u8, ip_id: u16) {
        self.call(&format!("segment {from} {to} {seq} 0 {} {ttl} {ip_id}", super::raw::RST));
    }

    /// Ends the process as an application that stops: its sockets close in order.
    pub fn finish(mut self) {
        let _ = self.begin("exit 0");
        let _ = self.child.wait();
    }

    /// Ends it with SIGKILL and waits for it.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.end();
    }
}
