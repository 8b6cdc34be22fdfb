//! The cure on real clients: pooled connections behind a NAT that forgets.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_tests::lab::{Invalid, Lab, Nat};
use agent_tests::runner::Builder;
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use serde_json::json;

use crate::clients::start;
use crate::scene::PORT;

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
            .env("XDG_STATE_HOME", directory.path())
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
