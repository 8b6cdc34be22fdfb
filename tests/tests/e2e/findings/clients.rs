//! Findings about real clients (Python requests and http.client, Node http and fetch, curl) and real servers (nginx,
//! Node, Python): the three stories that began this, and healthy traffic that must stay quiet.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_tests::lab::{Invalid, Lab, Nat, Ns, Way};
use agent_tests::runner::Builder;
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use serde_json::{Value, json};

use super::{keep, near, only, quick, sleep};
use crate::clients::start;
use crate::scene::PORT;

const PYTHON: &[&str] = &["python3", "client.py"];
const NODE: &[&str] = &["node", "client.mjs"];

/// A server that only serves; ends with the value.
struct Server {
    child: Child,
    _files: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn spawn(lab: &Lab, at: SocketAddr, mut command: Command, files: tempfile::TempDir) -> Self {
        lab.server.enter_on_exec(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        until("the server listens", || lab.server.run(|| TcpStream::connect(at).is_ok()).unwrap_or(false));
        Self { child, _files: files }
    }

    fn nginx(lab: &Lab, at: SocketAddr, keepalive_s: u32) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let conf = files.path().join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; error_log stderr crit; pid {}/pid; events {{ }}\n\
             http {{ access_log off; keepalive_timeout {keepalive_s}s; server {{ listen {at}; \
             location / {{ return 200 \"ok\"; }} }} }}\n",
            files.path().display()
        );
        std::fs::write(&conf, text).expect("writable");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(files.path()).arg("-c").arg(&conf);
        Self::spawn(lab, at, command, files)
    }

    fn node(lab: &Lab, at: SocketAddr, keepalive_ms: u32) -> Self {
        let code = format!(
            "const s = require('http').createServer((q, r) => r.end('ok')); s.keepAliveTimeout = {keepalive_ms}; \
             s.listen({}, '{}')",
            at.port(),
            at.ip()
        );
        let mut command = Command::new("node");
        command.args(["-e", &code]);
        Self::spawn(lab, at, command, tempfile::tempdir().expect("a directory"))
    }
}

fn python_server(lab: &Lab, at: SocketAddr) -> Workload {
    start(&lab.server, &["python3", "server.py", &at.ip().to_string(), &at.port().to_string()])
}

fn finding(code: &str, client: &Workload) -> Value {
    json!({"type": "finding", "code": code, "status": "open", "pid": client.pid()})
}

/// (a) Resets in the middle of the response, and the retries fail too: an incident at the destination.
fn seed_a(client: &[&str], verb: &str, v6: bool, pause: Duration) {
    let lab = Lab::new();
    let at = Lab::SERVER.port(v6, PORT);
    let _server = python_server(&lab, at);
    let client = start(&lab.client, client);
    let agent = quick(&client).ns(&lab.client).start();
    for _ in 0..6 {
        client.fail(&format!("{verb} http://{at}/partial"));
        sleep(pause);
    }
    let f = agent.expect(&json!({"type": "finding", "code": "reset-wave", "pid": client.pid(), "status": "open",
        "destination": at.to_string(), "numbers": {"resets": 6.0}}));
    near(&f, "retries_failed", 5.0);
    assert!(f["advice"][0].to_string().contains("Stop debugging locally"), "{f}");
    let abort = agent.expect(&finding("peer-abort", &client));
    near(&abort, "bytes_received", 20_000.0 + 150.0);
    only(&agent.stop(), &["reset-wave", "peer-abort"]);
}

#[test]
fn seed_a_requests_v4() {
    seed_a(PYTHON, "get", false, Duration::from_millis(50));
}

#[test]
fn seed_a_httpx_v6() {
    seed_a(PYTHON, "httpx", true, Duration::from_millis(700));
}

#[test]
fn seed_a_fetch_v6() {
    seed_a(NODE, "fetch", true, Duration::from_millis(400));
}

#[test]
fn seed_a_node_http_v4() {
    seed_a(NODE, "get", false, Duration::from_secs(1));
}

/// (b) The server's idle limit is shorter than the client's pool: first the leak, then the reset on reuse.
fn seed_b(server: impl Fn(&Lab, SocketAddr) -> Server, v6: bool) {
    let lab = Lab::new();
    let at = Lab::SERVER.port(v6, PORT);
    let _server = server(&lab, at);
    let limit = idle_limit(&lab.client, at);
    let client = start(&lab.client, PYTHON);
    let agent = quick(&client).ns(&lab.client).start();
    let ask = format!("raw {} {PORT}", at.ip());
    client.call(&ask);
    let used = Instant::now();
    let leak = agent.expect(&finding("close-wait-leak", &client));
    near(&leak, "server_idle_limit_s", limit);
    let late = used.elapsed().as_secs_f64() - limit;
    client.fail(&ask);
    let f = agent.expect(&finding("stale-reuse", &client));
    assert_eq!(f["confidence"], "certain", "{f}");
    assert_eq!(f["sockets"], leak["sockets"]);
    near(&f, "server_idle_limit_s", limit);
    near(&f, "reused_after_s", late);
    assert!(f["advice"].to_string().contains("keepalive_expiry"), "the client's own setting: {f}");
    only(&agent.stop(), &["close-wait-leak", "stale-reuse"]);
}

#[test]
fn seed_b_nginx_2s_v4() {
    seed_b(|lab, at| Server::nginx(lab, at, 2), false);
}

#[test]
fn seed_b_nginx_5s_v6() {
    seed_b(|lab, at| Server::nginx(lab, at, 5), true);
}

#[test]
fn seed_b_node_3s_v4() {
    seed_b(|lab, at| Server::node(lab, at, 3_000), false);
}

/// How long the server keeps an idle connection, as another client sees it: Node adds a second to what is set.
fn idle_limit(ns: &Ns, at: SocketAddr) -> f64 {
    let measure = || {
        let mut c = TcpStream::connect(at)?;
        c.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let n = c.read(&mut [0; 4096])?;
        assert!(n > 0, "no answer");
        let answered = Instant::now();
        while c.read(&mut [0; 4096])? > 0 {}
        std::io::Result::Ok(answered.elapsed().as_secs_f64())
    };
    ns.run(measure).expect("a thread in the namespace").expect("a server that closes")
}

/// (c) A CGNAT forgets three pooled connections: they hang together, and the forecast comes true.
fn seed_c(client: &[&str], verb: &str, v6: bool, memory_s: u32, gap: Duration) {
    let lab = Lab::new();
    lab.client.sysctl("net.ipv4.tcp_retries2", 5).unwrap();
    lab.nat(Nat { established_s: memory_s, invalid: Invalid::Drop });
    let at = Lab::SERVER.port(v6, PORT);
    let _server = python_server(&lab, at);
    let client = start(&lab.client, client);
    let agent = quick(&client).ns(&lab.client).start();
    let three = |path: &str| [(); 3].map(|()| client.begin(&format!("{verb} http://{at}{path}")));
    for op in three("/slow") {
        assert_eq!(client.answer(op)["status"], 200);
    }
    let used = Instant::now();
    sleep(gap);
    let idle = used.elapsed().as_secs_f64();
    let sent = Instant::now();
    let ops = three("/ok");
    let f = agent.expect(
        &json!({"type": "finding", "code": "idle-path-dead", "pid": client.pid(), "numbers": {"sockets": 3.0}}),
    );
    let promised = sent.elapsed().as_secs_f64() + f["gives_up_in_s"].as_f64().unwrap();
    near(&f, "idle_s", idle);
    let mut took = Vec::new();
    for op in ops {
        assert_eq!(client.answer(op)["ok"], false);
        took.push(sent.elapsed().as_secs_f64());
    }
    assert!((took[0] - promised).abs() <= 0.1 * took[0], "hung {took:?} s, forecast {promised:.2} s: {f}");
    near(&f, "stall_s", 3.0 * took[0]);
    assert!(f["summary"].to_string().contains("one after another"), "{f}");
    only(&agent.stop(), &["idle-path-dead"]);
}

#[test]
fn seed_c_requests_v4() {
    seed_c(PYTHON, "get", false, 3, Duration::from_secs(6));
}

/// httpx drops pooled connections after 5 s by itself.
#[test]
fn seed_c_httpx_v4() {
    seed_c(PYTHON, "httpx", false, 2, Duration::from_secs(4));
}

#[test]
fn seed_c_requests_v6() {
    seed_c(PYTHON, "get", true, 3, Duration::from_secs(10));
}

/// undici drops pooled connections after 4 s by itself: the NAT must be quicker.
#[test]
fn seed_c_fetch_v4() {
    seed_c(NODE, "fetch", false, 1, Duration::from_secs(3));
}

/// A pooled connection, reset by a router that forgot it.
fn behind_a_rejecting_router(client: &[&str], verb: &str, v6: bool, memory_s: u32, gap: Duration, setting: &str) {
    let lab = Lab::new();
    lab.nat(Nat { established_s: memory_s, invalid: Invalid::Reject });
    let at = Lab::SERVER.port(v6, PORT);
    let _server = python_server(&lab, at);
    let client = start(&lab.client, client);
    let agent = quick(&client).ns(&lab.client).start();
    client.call(&format!("{verb} http://{at}/ok"));
    let used = Instant::now();
    sleep(gap);
    client.fail(&format!("{verb} http://{at}/ok"));
    let f = agent.expect(&finding("idle-path-reset", &client));
    near(&f, "idle_s", used.elapsed().as_secs_f64());
    assert!(f["advice"].to_string().contains(setting), "{f}");
    only(&agent.stop(), &["idle-path-reset"]);
}

#[test]
fn node_behind_a_rejecting_router_v6() {
    behind_a_rejecting_router(NODE, "get", true, 2, Duration::from_secs(4), "undici");
}

#[test]
fn fetch_behind_a_rejecting_router_v4() {
    behind_a_rejecting_router(NODE, "fetch", false, 1, Duration::from_secs(3), "undici");
}

#[test]
fn requests_behind_a_rejecting_router_v4() {
    behind_a_rejecting_router(PYTHON, "get", false, 3, Duration::from_secs(8), "requests and urllib3");
}

/// A server that does not answer: the network is fine.
fn waits_for_a_slow_server(client: &[&str], verb: &str, v6: bool, setting: &str) {
    let lab = Lab::new();
    let at = Lab::SERVER.port(v6, PORT);
    let _server = python_server(&lab, at);
    let client = start(&lab.client, client);
    let agent = quick(&client).ns(&lab.client).start();
    client.begin(&format!("{verb} http://{at}/wait"));
    let f = agent.expect(&finding("app-waiting", &client));
    assert!(f["summary"].to_string().contains("The network is fine"), "{f}");
    assert!(f["advice"].to_string().contains(setting), "{f}");
    only(&agent.stop(), &["app-waiting"]);
}

#[test]
fn requests_waits_for_a_slow_server_v4() {
    waits_for_a_slow_server(PYTHON, "get", false, "requests: `timeout=");
}

#[test]
fn fetch_waits_for_a_slow_server_v6() {
    waits_for_a_slow_server(NODE, "fetch", true, "undici");
}

/// Requests for `lasting` from Python, Node and curl; the server closes idle connections politely.
fn traffic(lab: &Lab, at: SocketAddr, lasting: Duration) -> Vec<Value> {
    let python = start(&lab.client, PYTHON);
    let node = start(&lab.client, NODE);
    let curl = curl_loop(&lab.client, at);
    let agent = Builder::new(["watch", "--no-tui", "--tree", "--pid"])
        .arg(python.pid().to_string())
        .args(["--pid", &node.pid().to_string(), "--pid", &curl.0.id().to_string()])
        .ns(&lab.client)
        .start();
    let url = format!("http://{at}/");
    let end = Instant::now() + lasting;
    // Pauses on both sides of the server's limit of 3 s.
    for pause in [200, 1_000, 4_000, 500, 300, 2_000, 5_000].iter().cycle() {
        for (client, verb) in [(&python, "get"), (&python, "httpx"), (&node, "get"), (&node, "fetch")] {
            assert_eq!(client.call(&format!("{verb} {url}"))["status"], 200);
        }
        if Instant::now() >= end {
            break;
        }
        sleep(Duration::from_millis(*pause));
    }
    drop(curl);
    let run = agent.stop();
    keep(&run, "healthy");
    let comms: Vec<&Value> =
        run.lines.iter().filter(|l| l["type"] == "socket").map(|l| &l["owners"][0]["comm"]).collect();
    assert!(comms.iter().any(|c| **c == "curl") && comms.iter().any(|c| **c == "node"), "{comms:?}");
    run.lines.into_iter().filter(|l| l["type"] == "finding" && l["confidence"] != "possible").collect()
}

struct Curl(Child);

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn curl_loop(ns: &Ns, at: SocketAddr) -> Curl {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("while :; do curl -sg http://{at}/ http://{at}/2 -o /dev/null -o /dev/null; sleep 1; done"),
    ]);
    ns.enter_on_exec(&mut command);
    Curl(command.stdin(Stdio::null()).spawn().expect("a shell"))
}

/// 60 s of keep-alive traffic against nginx that closes idle connections after 3 s: nothing to say.
#[test]
fn healthy_traffic_is_quiet() {
    let lab = Lab::new();
    let at = Lab::SERVER.port(false, PORT);
    let _server = Server::nginx(&lab, at, 3);
    let said = traffic(&lab, at, Duration::from_secs(60));
    assert!(said.is_empty(), "{said:?}");
}

/// The same with 0.1 % random loss: at most the loss itself.
#[test]
fn a_little_loss_is_at_most_loss() {
    let lab = Lab::new();
    let at = Lab::SERVER.port(true, PORT);
    let _server = Server::nginx(&lab, at, 3);
    lab.lose(Way::ToServer, PORT, 1);
    let said = traffic(&lab, at, Duration::from_secs(40));
    assert!(said.iter().all(|f| f["code"] == "lossy-path"), "{said:?}");
}
