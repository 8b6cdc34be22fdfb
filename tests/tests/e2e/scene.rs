//! What most tests begin with: a client and a server in the lab, and an agent that watches one of them.

use std::net::SocketAddr;

use agent_tests::lab::{Lab, Way};
use agent_tests::mounts::Sys;
use agent_tests::runner::{Agent, Builder};
use agent_tests::wait::until;
use agent_tests::workload::{Conn, Op, Workload};
use serde_json::{Value, json};

pub const PORT: u16 = 8080;

/// Client and server by address family.
pub struct Scene {
    // The workloads end before their network does.
    pub client: Workload,
    pub server: Workload,
    pub lab: Lab,
    pub v6: bool,
}

impl Scene {
    pub fn new(v6: bool) -> Self {
        let lab = Lab::new();
        Self { client: Workload::start(&lab.client), server: Workload::start(&lab.server), lab, v6 }
    }

    pub fn server_at(&self, port: u16) -> SocketAddr {
        Lab::SERVER.port(self.v6, port)
    }

    /// A connection to a server that behaves as `how`, used once where the server answers.
    pub fn connect(&self, port: u16, how: &str) -> Conn {
        let at = self.server_at(port);
        self.server.serve(at, how);
        let c = self.client.connect(at);
        if how == "echo" {
            self.client.call(&format!("ask {} 100", c.id));
        }
        c
    }

    /// Sends on a connection whose segments the router drops, until the client's kernel has retransmitted `n` times.
    pub fn stall(&self, c: &Conn, port: u16, n: i64) -> Op {
        self.lab.drop(Way::ToServer, port);
        let before = self.lab.client.snmp().unwrap();
        let op = self.client.begin(&format!("ask {} 100", c.id));
        until("retransmits", || self.lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs") >= n);
        op
    }

    /// Takes the drop rule away and waits for the answer.
    pub fn recover(&self, op: Op) {
        self.lab.clear_rules();
        let answer = self.client.answer(op);
        assert_eq!(answer["ok"], true, "with the rule gone the data must get through: {answer}");
    }
}

/// `watch --no-tui --pid PID --backend BACKEND`, with what that backend needs mounted.
pub fn watch(pid: u32, backend: &str) -> Builder<'static> {
    let sys = if backend == "tracepoint" { Sys::Tracefs } else { Sys::AsIs };
    Builder::watch(pid).args(["--backend", backend]).sys(sys)
}

/// What every line about a connection of `owner` must say.
pub fn about(kind: &str, owner: &Workload, c: &Conn) -> Value {
    json!({"type": kind, "socket": c.cookie, "pid": owner.pid(), "remote": c.remote})
}

/// `a` with the fields of `b` added.
pub fn with(mut a: Value, b: Value) -> Value {
    a.as_object_mut().unwrap().extend(b.as_object().unwrap().clone());
    a
}

/// Waits for `n` retransmit lines of a connection.
pub fn expect_retransmits(agent: &Agent, owner: &Workload, c: &Conn, n: usize) {
    agent.expect_n(&with(about("retransmit", owner, c), json!({"state": "ESTABLISHED"})), n);
}

/// IP ID of the segments that tests forge.
pub const FORGED_ID: u16 = 4242;

/// Whether the flow of a `reset` line happens to have IP IDs near the forged one, as about one in eleven has (they
/// begin at random): then nothing but the TTL speaks against the peer, and the agent rightly says `unknown`.
pub fn near_by_chance(reset: &Value) -> bool {
    let own = reset["packet"]["flow_ip_id"].as_u64().and_then(|id| u16::try_from(id).ok());
    own.is_some_and(|id| id.wrapping_sub(FORGED_ID).min(FORGED_ID.wrapping_sub(id)) <= 3_000)
}
