//! The cure on real clients: pooled connections behind a NAT that forgets.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_tests::lab::{Invalid, Lab, Nat};
use agent_tests::runner::{Builder, Run};
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use serde_json::json;

use crate::actions::methods;
use crate::clients::start;
use crate::scene::{PORT, Scene};

const TLS_PORT: u16 = 8443;
/// What the NAT remembers, and how long the pools are idle.
const FORGETS_AFTER_S: u32 = 3;
const IDLE: Duration = Duration::from_secs(6);

/// A certificate and its key in one file, for the test's own TLS server.
fn certificate(directory: &Path) -> String {
    let file = directory.join("both.pem").display().to_string();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=server", "-keyout", &file, "-out"])
        .arg(directory.join("certificate.pem"))
        .output()
        .unwrap();
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let certificate = std::fs::read_to_string(directory.join("certificate.pem")).unwrap();
    let key = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, key + &certificate).unwrap();
    file
}

#[test]
fn python_and_node_behind_a_forgetful_cgnat() {
    let lab = Lab::new();
    lab.nat(Nat { established_s: FORGETS_AFTER_S, invalid: Invalid::Drop });
    let directory = tempfile::tempdir().unwrap();
    let pem = certificate(directory.path());
    let address = Lab::SERVER.v4.to_string();
    let servers = [
        start(&lab.server, &["python3", "server.py", &address, &PORT.to_string()]),
        start(&lab.server, &["python3", "server.py", &address, &TLS_PORT.to_string(), &pem]),
    ];
    let requests = [format!("get http://{address}:{PORT}/ok"), format!("get https://{address}:{TLS_PORT}/ok")];
    let clients = || [start(&lab.client, &["python3", "client.py"]), start(&lab.client, &["node", "client.mjs"])];

    // Without help: the next request after the pause hangs.
    let helpless = clients();
    for (client, request) in helpless.iter().zip(&requests) {
        client.call(request);
    }
    std::thread::sleep(IDLE);
    let before = lab.client.snmp().unwrap();
    let asked = Instant::now();
    let hanging: Vec<_> = helpless.iter().zip(&requests).map(|(c, request)| (c, c.begin(request))).collect();
    until("both requests retransmitted into the void", || {
        lab.client.snmp().unwrap().since(&before, "TcpExt.TCPTimeouts") >= 4 && lab.hits() >= 6
    });
    for (client, op) in hanging {
        assert_eq!(client.poll(op, Duration::ZERO), None, "answered although the NAT forgot the connection");
    }
    assert!(asked.elapsed() > Duration::from_millis(500), "two RTOs cannot pass in {:?}", asked.elapsed());
    helpless.into_iter().for_each(Workload::kill);

    // With keepalive forced from outside while the pool is idle: the same request on the same connection.
    let helped = clients();
    let mut used = Vec::new();
    for ((client, request), server) in helped.iter().zip(&requests).zip(&servers) {
        let seen = server.said(&json!({"event": "request"})).len();
        client.call(request);
        until("the server's line", || server.said(&json!({"event": "request"})).len() > seen);
        used.push(server.said(&json!({"event": "request"}))[seen]["peer"].clone());
    }
    for client in &helped {
        let run = Builder::new(["keepalive", "--pid", &client.pid().to_string()])
            .args(["--idle", "1s", "--interval", "1s", "--count", "3", "--json"])
            .run();
        assert!(run.status.success(), "{}", run.describe());
        run.one(&json!({
            "type": "action", "action": "keepalive", "pid": client.pid(), "method": "pidfd", "result": "applied",
            "after": {"enabled": true, "idle_s": 1, "interval_s": 1, "count": 3},
        }));
    }
    std::thread::sleep(IDLE);
    let before = lab.client.snmp().unwrap();
    for (((client, request), server), peer) in helped.iter().zip(&requests).zip(&servers).zip(&used) {
        assert_eq!(client.call(request)["status"], 200);
        let last = server.said(&json!({"event": "request"})).pop().unwrap();
        assert_eq!(last["peer"], *peer, "answered, but over a new connection");
    }
    assert_eq!(lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs"), 0, "not at once: it retransmitted");
}

/// `agent keepalive --pid PID --json MORE`, remembering in `state`.
fn keepalive(pid: u32, state: &Path, more: &[&str]) -> Run {
    Builder::new(["keepalive", "--json", "--pid"]).arg(pid.to_string()).args(more.iter().copied()).state(state).run()
}

/// Data that nobody acknowledges: keepalive says that it cannot help; a user timeout and a close do.
#[test]
fn a_stuck_socket() {
    for v6 in [false, true] {
        let s = Scene::new(v6);
        let directory = tempfile::tempdir().unwrap();
        let (timed, closed) = (s.connect(PORT, "echo"), s.client.connect(s.server_at(PORT)));
        s.lab.drop(agent_tests::lab::Way::ToServer, PORT);
        let ops = [&timed, &closed].map(|c| s.client.begin(&format!("ask {} 100", c.id)));
        for c in [&timed, &closed] {
            until("two RTOs", || s.client.call(&format!("info {}", c.id))["backoff"].as_u64() >= Some(2));
        }
        let run = keepalive(s.client.pid(), directory.path(), &["--idle", "1s"]);
        for c in [&timed, &closed] {
            run.one(&json!({"type": "action", "socket": c.cookie, "note": {"$has": "cannot rescue"}}));
        }
        let address = s.server_at(PORT).to_string();
        let run = Builder::new(["close", "--json", "--yes", "--pid", &s.client.pid().to_string(), "--dst"])
            .arg(if v6 { "[::1]:1" } else { "127.0.0.1:1" })
            .run();
        assert_eq!(run.status.code(), Some(1), "nothing matches: {}", run.describe());
        keepalive(s.client.pid(), directory.path(), &["--user-timeout", "1s"]);
        assert_eq!(s.client.answer(ops[0])["errno"], "ETIMEDOUT", "the user timeout ends it");
        // The other one has the same timeout and may be gone: a third is closed by hand.
        assert_eq!(s.client.answer(ops[1])["errno"], "ETIMEDOUT");
        s.lab.clear_rules();
        let third = s.client.connect(s.server_at(PORT));
        s.client.call(&format!("ask {} 100", third.id));
        s.lab.drop(agent_tests::lab::Way::ToServer, PORT);
        let op = s.client.begin(&format!("ask {} 100", third.id));
        until("an RTO", || s.client.call(&format!("info {}", third.id))["backoff"].as_u64() >= Some(1));
        let run =
            Builder::new(["close", "--json", "--yes", "--pid", &s.client.pid().to_string(), "--dst", &address]).run();
        assert!(run.status.success(), "{}", run.describe());
        run.one(&json!({"type": "action", "action": "close", "socket": third.cookie, "result": "applied"}));
        assert_eq!(s.client.answer(op)["errno"], "ECONNABORTED");
    }
}

/// Undo restores what was there before, and leaves alone what the application has changed since.
#[test]
fn undo() {
    let s = Scene::new(true);
    let directory = tempfile::tempdir().unwrap();
    let (off, on, changed) =
        (s.connect(PORT, "echo"), s.client.connect(s.server_at(PORT)), s.client.connect(s.server_at(PORT)));
    s.client.call(&format!("keepalive {} 77 7 5", on.id));
    let options = |c: &agent_tests::workload::Conn| s.client.call(&format!("options {}", c.id));
    let before = [&off, &on].map(options);
    let dry = keepalive(s.client.pid(), directory.path(), &["--idle", "30s", "--dry-run"]);
    assert_eq!(dry.all(&json!({"type": "action", "result": "would_apply"})).len(), 3);
    assert_eq!(options(&on)["idle_s"], 77, "a dry run changed something");
    let run = keepalive(s.client.pid(), directory.path(), &["--idle", "30s", "--interval", "10s", "--count", "3"]);
    assert_eq!(run.all(&json!({"type": "action", "result": "applied"})).len(), 3, "{}", run.describe());
    run.one(&json!({
        "socket": on.cookie, "fd": on.fd, "before": {"enabled": true, "idle_s": 77, "interval_s": 7, "count": 5},
        "after": {"enabled": true, "idle_s": 30, "interval_s": 10, "count": 3},
    }));
    let now = options(&off);
    assert_eq!((&now["keepalive"], &now["idle_s"]), (&json!(true), &json!(30)));
    let again = keepalive(s.client.pid(), directory.path(), &["--idle", "30s", "--interval", "10s", "--count", "3"]);
    assert_eq!(again.all(&json!({"type": "action", "result": "unchanged"})).len(), 3, "{}", again.describe());
    s.client.call(&format!("keepalive {} 200 20 2", changed.id));
    let undone = keepalive(s.client.pid(), directory.path(), &["--undo"]);
    for (c, was) in [&off, &on].into_iter().zip(&before) {
        undone.one(&json!({"action": "undo", "socket": c.cookie, "result": "applied"}));
        let mut now = options(c);
        now["op"] = was["op"].clone();
        assert_eq!(now, *was);
    }
    assert_eq!(options(&changed)["idle_s"], 200, "undo overwrote the application's own change");
}

/// A process in another pid and network namespace.
#[test]
fn keepalive_in_a_container() {
    let s = Scene::new(false);
    let directory = tempfile::tempdir().unwrap();
    let contained = Workload::builder().ns(&s.lab.client).pidns().start();
    s.server.serve(s.server_at(PORT), "echo");
    let c = contained.connect(s.server_at(PORT));
    for method in methods() {
        let idle = if method == "bpf" { "20s" } else { "10s" };
        let run = keepalive(contained.pid(), directory.path(), &["--idle", idle, "--method", method]);
        run.one(&json!({"type": "action", "socket": c.cookie, "result": "applied", "method": method}));
        let now = contained.call(&format!("options {}", c.id));
        assert_eq!(format!("{}s", now["idle_s"]), idle);
    }
    if !methods().contains(&"bpf") {
        let run = keepalive(contained.pid(), directory.path(), &["--idle", "20s", "--method", "bpf"]);
        run.one(&json!({"type": "action", "result": "failed", "error": {"$has": "--method pidfd"}}));
    }
}
