//! Real clients: Python (requests, http.client), Node (http agent) and curl, with pooled connections.

use std::path::PathBuf;

use agent_tests::lab::{Lab, Ns, Way};
use agent_tests::runner::{Builder, Run};
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use serde_json::{Value, json};

use crate::scene::{PORT, watch, with};

/// A file of tests/clients.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

pub fn start(ns: &Ns, words: &[&str]) -> Workload {
    let [program, name, rest @ ..] = words else { panic!("a program and its script") };
    let words = [(*program).into(), script(name).into_os_string()].into_iter().chain(rest.iter().map(Into::into));
    Workload::builder().ns(ns).program(words).start()
}

#[test]
fn python_requests_v4_btf() {
    story(&["python3", "client.py"], false, "btf", |url| format!("get {url}"));
}

#[test]
fn python_requests_v6_tracepoint() {
    story(&["python3", "client.py"], true, "tracepoint", |url| format!("get {url}"));
}

#[test]
fn node_v6_btf() {
    story(&["node", "client.mjs"], true, "btf", |url| format!("get {url}"));
}

#[test]
fn node_v4_tracepoint() {
    story(&["node", "client.mjs"], false, "tracepoint", |url| format!("get {url}"));
}

/// One pooled client through all four mishaps.
fn story(client: &[&str], v6: bool, backend: &str, request: impl Fn(&str) -> String) {
    let lab = Lab::new();
    let at = Lab::SERVER.port(v6, PORT);
    let server = start(&lab.server, &["python3", "server.py", &at.ip().to_string(), &PORT.to_string()]);
    let client = start(&lab.client, client);
    let ask = |path: &str| request(&format!("http://{at}{path}"));
    client.call(&ask("/ok"));
    let local = server.event(&json!({"event": "request"}))["peer"].clone();
    let agent = watch(client.pid(), backend).ns(&lab.client).start();
    let mine = |kind: &str, local: &Value, more: Value| {
        let line = json!({"type": kind, "pid": client.pid(), "local": local, "remote": at.to_string()});
        with(line, more)
    };
    agent.expect(&with(
        json!({"type": "socket", "local": local, "remote": at.to_string(), "state": "ESTABLISHED"}),
        json!({"owners": [{"pid": client.pid(), "fd": {"$some": true}}]}),
    ));

    // Drop rules make retransmits on the pooled connection.
    let before = lab.client.snmp().unwrap();
    lab.drop(Way::ToServer, PORT);
    let op = client.begin(&ask("/ok"));
    until("retransmits", || lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs") >= 3);
    agent.expect_n(&mine("retransmit", &local, json!({"state": "ESTABLISHED"})), 2);
    lab.clear_rules();
    assert_eq!(client.answer(op)["status"], 200);

    // The server closes with linger 0. Classic tracepoints do not look at packets: who made a RST stays open there.
    let origin = |name: &str| json!(if backend == "btf" { name } else { "unknown" });
    assert_eq!(client.fail(&ask("/reset")), "ECONNRESET");
    agent.expect(&mine(
        "reset",
        &local,
        json!({"direction": "received", "origin": origin("peer"), "state": "ESTABLISHED"}),
    ));

    // The router rejects: on the connection that replaced it.
    client.call(&ask("/ok?second"));
    let second = server.event(&json!({"event": "request", "path": "/ok?second"}))["peer"].clone();
    assert_ne!(second, local);
    lab.reject(PORT);
    assert_eq!(client.fail(&ask("/ok")), "ECONNRESET");
    lab.clear_rules();
    agent.expect(&mine("reset", &second, json!({"direction": "received", "origin": origin("middlebox")})));

    // A port is closed.
    let closed = Lab::SERVER.port(v6, 9);
    assert_eq!(client.fail(&request(&format!("http://{closed}/"))), "ECONNREFUSED");
    agent.expect(&json!({
        "type": "reset", "pid": client.pid(), "remote": closed.to_string(), "direction": "received", "state": "SYN_SENT",
    }));

    let after = lab.client.snmp().unwrap();
    let run = agent.stop();
    assert_eq!(run.total("resets_received"), 3);
    assert_eq!(run.total("retransmits"), after.since(&before, "Tcp.RetransSegs"));
}

/// http.client keeps one connection: the server's abort in the middle is the peer's.
#[test]
fn python_http_client() {
    let lab = Lab::new();
    let server = Workload::start(&lab.server);
    let at = Lab::SERVER.port(false, PORT);
    // Reads a request's first bytes and aborts.
    server.serve(at, "reset-after:20");
    let client = start(&lab.client, &["python3", "client.py"]);
    let agent = watch(client.pid(), "btf").start();
    assert_eq!(client.fail(&format!("raw {} {PORT}", at.ip())), "ECONNRESET");
    agent.expect(&json!({
        "type": "reset", "pid": client.pid(), "remote": at.to_string(), "direction": "received", "origin": "peer",
    }));
    agent.stop();
}

/// `agent run -- curl`: curl's exit code, and its refused connection in the recording.
#[test]
fn curl_under_run() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("curl.jsonl");
    let url = format!("http://{}/", Lab::SERVER.port(true, 9));
    let run = Builder::new(["run", "--json"]).arg(&file).args(["--", "curl", "-sS", "-g", &url]).ns(&lab.client).run();
    assert_eq!(run.status.code(), Some(7), "curl's own code for a refused connection: {}", run.describe());
    let recording = Run::of_text(&std::fs::read_to_string(&file).unwrap(), Default::default());
    recording.check_frame();
    recording.one(&json!({"type": "reset", "direction": "received", "state": "SYN_SENT"}));
    recording.one(&json!({"type": "socket", "owners": [{"comm": "curl"}]}));
}

/// The clients and their server by themselves: what the stories above rest on.
#[test]
fn the_clients_see_what_happens() {
    let lab = Lab::new();
    for (v6, words) in [(false, ["python3", "client.py"]), (true, ["node", "client.mjs"])] {
        let at = Lab::SERVER.port(v6, PORT);
        let server = start(&lab.server, &["python3", "server.py", &at.ip().to_string(), &PORT.to_string()]);
        let client = start(&lab.client, &words);
        let before = lab.server.snmp().unwrap();
        for _ in 0..2 {
            assert_eq!(client.call(&format!("get http://{at}/ok"))["status"], 200);
        }
        until("the server's lines", || server.said(&json!({"event": "request"})).len() >= 2);
        let peers: Vec<Value> = server.said(&json!({"event": "request"})).iter().map(|r| r["peer"].clone()).collect();
        assert_eq!(peers[0], peers[1], "the pool did not keep its connection");
        assert_eq!(client.fail(&format!("get http://{at}/reset")), "ECONNRESET");
        assert_eq!(lab.server.snmp().unwrap().since(&before, "Tcp.OutRsts"), 1);
        assert_eq!(client.fail(&format!("get http://{}/", Lab::SERVER.port(v6, 9))), "ECONNREFUSED");
    }
}
