//! Each cause in the test network: the right code, the right socket, and numbers that agree with what the test itself
//! measured. Every cause over IPv4 and IPv6, at several timings.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_tests::kernel;
use agent_tests::lab::{Invalid, Nat, Way};
use agent_tests::runner::{Agent, Builder, Run};
use agent_tests::wait::{slowness, until};
use agent_tests::workload::{Conn, Workload};
use serde_json::{Value, json};

use crate::scene::{PORT, Scene, watch, with};

/// Thresholds of these tests; what is not in the file keeps its default.
pub fn quick(client: &Workload) -> Builder<'static> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/findings.toml");
    watch(client.pid(), "btf").arg("--config").arg(file)
}

pub fn about(code: &str, sockets: &[&Conn]) -> Value {
    let cookies: Vec<&str> = sockets.iter().map(|c| c.cookie.as_str()).collect();
    with(json!({"type": "finding", "code": code, "status": "open"}), json!({"sockets": cookies}))
}

/// A number of a finding lies within a tenth of what the test knows.
pub fn near(finding: &Value, name: &str, truth: f64) {
    let got = finding["numbers"][name].as_f64().unwrap_or_else(|| panic!("no number {name}: {finding}"));
    assert!(
        (got - truth).abs() <= truth.abs() * 0.1 + 0.05 * f64::from(slowness()),
        "{name} is {got}, in truth {truth}: {finding}"
    );
}

/// Findings above `possible` are of these codes only, and the first of them explains the rest.
pub fn only(run: &Run, codes: &[&str]) {
    for f in run.lines.iter().filter(|l| l["type"] == "finding" && l["confidence"] != "possible") {
        assert!(codes.iter().any(|c| f["code"] == *c), "beside {codes:?}: {f}");
    }
}

pub fn sleep(d: Duration) {
    std::thread::sleep(d);
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// One test per address family and timing.
macro_rules! cases {
    ($($name:ident = $story:ident($v6:literal, $timing:literal);)+) => {
        $(#[test] fn $name() { $story($v6, ms($timing)); })+
    };
}

cases! {
    idle_path_dead_v4_4s = idle_path_dead(false, 4_500);
    idle_path_dead_v6_6s = idle_path_dead(true, 6_000);
    idle_path_dead_v4_9s = idle_path_dead(false, 9_000);
    idle_path_reset_v4_4s = idle_path_reset(false, 4_500);
    idle_path_reset_v6_6s = idle_path_reset(true, 6_000);
    idle_path_reset_v4_9s = idle_path_reset(false, 9_000);
    remapping_nat_v4_4s = remapping_nat(false, 4_500);
    remapping_nat_v6_6s = remapping_nat(true, 6_000);
    remapping_nat_v4_9s = remapping_nat(false, 9_000);
    stale_reuse_v4_1s = stale_reuse(false, 1_200);
    stale_reuse_v6_2s = stale_reuse(true, 2_000);
    stale_reuse_v4_4s = stale_reuse(false, 4_000);
    close_wait_leak_v4 = close_wait_leak(false, 1_200);
    close_wait_leak_v6 = close_wait_leak(true, 2_500);
    peer_abort_v4_now = peer_abort(false, 0);
    peer_abort_v6_1s = peer_abort(true, 1_000);
    peer_abort_v4_3s = peer_abort(false, 3_000);
    injected_v4_now = injected(false, 100);
    injected_v4_1s = injected(false, 1_000);
    injected_by_router_v6 = injected_by_router(true, 300);
    injected_by_router_v4 = injected_by_router(false, 1_200);
    reset_wave_v4 = reset_wave(false, 50);
    reset_wave_v6 = reset_wave(true, 600);
    refused_v4 = refused(false, 50);
    refused_v6 = refused(true, 700);
    connect_timeout_v4 = connect_timeout(false, 0);
    connect_timeout_v6 = connect_timeout(true, 0);
    local_abort_linger_v4 = local_abort_linger(false, 100);
    local_abort_linger_v6 = local_abort_linger(true, 2_000);
    local_abort_unread_v4 = local_abort_unread(false, 100);
    local_abort_unread_v6 = local_abort_unread(true, 2_000);
    no_keepalive_v4 = no_keepalive(false, 6_000);
    no_keepalive_v6 = no_keepalive(true, 9_000);
    peer_gone_v4 = peer_gone(false, 1_000);
    peer_gone_v6 = peer_gone(true, 2_000);
    path_outage_v4 = path_outage(false, 300);
    path_outage_v6 = path_outage(true, 1_000);
    lossy_path_v4 = lossy_path(false, 30);
    lossy_path_v6 = lossy_path(true, 60);
    mtu_black_hole_v4 = mtu_black_hole(false, 4_800);
    mtu_black_hole_v6 = mtu_black_hole(true, 20_000);
    peer_not_reading_v4 = peer_not_reading(false, 4_000);
    peer_not_reading_v6 = peer_not_reading(true, 7_000);
    app_waiting_v4 = app_waiting(false, 5_000);
    app_waiting_v6 = app_waiting(true, 9_000);
}

/// A connection that was used once, watched from before, then idle for `gap` behind a NAT that forgets after 3 s.
fn behind_nat(v6: bool, invalid: Invalid, gap: Duration) -> (Scene, Conn, Agent, Instant) {
    let s = Scene::new(v6);
    s.lab.nat(Nat { established_s: 3, invalid });
    // The agent reads the limit that it forecasts with when it first sees a namespace.
    s.lab.client.sysctl("net.ipv4.tcp_retries2", 5).unwrap();
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    let used = Instant::now();
    sleep(gap);
    (s, c, agent, used)
}

fn idle_path_dead(v6: bool, gap: Duration) {
    let (s, c, agent, used) = behind_nat(v6, Invalid::Drop, gap);
    let idle = used.elapsed().as_secs_f64();
    let op = s.client.begin(&format!("ask {} 100", c.id));
    let f = agent.expect(&about("idle-path-dead", &[&c]));
    let promised = Instant::now() + Duration::from_secs_f64(f["gives_up_in_s"].as_f64().unwrap());
    near(&f, "idle_s", idle);
    let started = Instant::now();
    assert_eq!(s.client.answer(op)["errno"], "ETIMEDOUT");
    let early = promised.saturating_duration_since(Instant::now()).as_secs_f64();
    let late = Instant::now().saturating_duration_since(promised).as_secs_f64();
    let whole = started.elapsed().as_secs_f64();
    assert!(early.max(late) <= whole * 0.1 + 0.1, "gave up {early:.2} s before or {late:.2} s after the forecast: {f}");
    let run = agent.stop();
    only(&run, &["idle-path-dead"]);
}

fn idle_path_reset(v6: bool, gap: Duration) {
    let (s, c, agent, used) = behind_nat(v6, Invalid::Reject, gap);
    let idle = used.elapsed().as_secs_f64();
    assert_eq!(s.client.fail(&format!("ask {} 100", c.id)), "ECONNRESET");
    let f = agent.expect(&about("idle-path-reset", &[&c]));
    assert_eq!(f["confidence"], "likely", "{f}");
    near(&f, "idle_s", idle);
    near(&f, "ttl", 64.0);
    near(&f, "flow_ttl", 63.0);
    only(&agent.stop(), &["idle-path-reset"]);
}

/// The real server resets what a remapping NAT sends it: its own TTL, so nobody in between is accused.
fn remapping_nat(v6: bool, gap: Duration) {
    let (s, c, agent, used) = behind_nat(v6, Invalid::Remap, gap);
    let idle = used.elapsed().as_secs_f64();
    assert_eq!(s.client.fail(&format!("ask {} 100", c.id)), "ECONNRESET");
    let f = agent.expect(&about("stale-reuse", &[&c]));
    near(&f, "idle_s", idle);
    assert!(f["rivals"].to_string().contains("NAT"), "{f}");
    only(&agent.stop(), &["stale-reuse"]);
}

fn stale_reuse(v6: bool, limit: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, &format!("close-after:{}", limit.as_millis()));
    s.client.call(&format!("ask {} 100", c.id));
    let used = Instant::now();
    sleep(limit + ms(1_500));
    let late = used.elapsed().as_secs_f64() - limit.as_secs_f64();
    s.client.fail(&format!("ask {} 100", c.id));
    let f = agent.expect(&about("stale-reuse", &[&c]));
    near(&f, "server_idle_limit_s", limit.as_secs_f64());
    near(&f, "reused_after_s", late);
    only(&agent.stop(), &["stale-reuse"]);
}

fn close_wait_leak(v6: bool, limit: Duration) {
    let s = Scene::new(v6);
    let how = format!("close-after:{}", limit.as_millis());
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let a = s.connect(PORT, &how);
    let b = s.client.connect(s.server_at(PORT));
    for c in [&a, &b] {
        s.client.call(&format!("ask {} 100", c.id));
    }
    let f = agent.expect(&about("close-wait-leak", &[&a, &b]));
    assert_eq!(f["confidence"], "certain", "{f}");
    near(&f, "connections", 2.0);
    near(&f, "server_idle_limit_s", limit.as_secs_f64());
    only(&agent.stop(), &["close-wait-leak"]);
}

fn peer_abort(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "reset-after:250");
    let c = s.client.connect(s.server_at(PORT));
    let opened = Instant::now();
    s.client.call(&format!("send {} 100", c.id));
    sleep(age);
    s.client.call(&format!("send {} 100", c.id));
    let age = opened.elapsed().as_secs_f64();
    s.client.call(&format!("send {} 100", c.id));
    assert_eq!(s.client.fail(&format!("end {}", c.id)), "ECONNRESET");
    let f = agent.expect(&about("peer-abort", &[&c]));
    assert_eq!(f["confidence"], "likely", "{f}");
    near(&f, "age_s", age);
    near(&f, "bytes_sent", 300.0);
    only(&agent.stop(), &["peer-abort"]);
}

fn injected(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let c = s.connect(PORT, "echo");
    let agent = quick(&s.client).ns(&s.lab.client).start();
    sleep(age);
    s.client.call(&format!("ask {} 100", c.id));
    let next = s.client.call(&format!("next {}", c.id))["seq"].as_u64().unwrap();
    let forger = Workload::start(&s.lab.router);
    s.client.call(&format!("ask {} 1", c.id));
    forger.forge_reset(&c.remote, &c.local, next + 1, 55, 4242);
    assert_eq!(s.client.fail(&format!("end {}", c.id)), "ECONNRESET");
    let f = agent.expect(&about("injected-reset", &[&c]));
    near(&f, "ttl", 55.0);
    near(&f, "flow_ttl", 63.0);
    only(&agent.stop(), &["injected-reset"]);
}

/// A router that rejects a living connection.
fn injected_by_router(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let c = s.connect(PORT, "echo");
    let agent = quick(&s.client).ns(&s.lab.client).start();
    sleep(age);
    s.client.call(&format!("ask {} 100", c.id));
    s.lab.reject(PORT);
    assert_eq!(s.client.fail(&format!("ask {} 100", c.id)), "ECONNRESET");
    let f = agent.expect(&about("injected-reset", &[&c]));
    near(&f, "ttl", 64.0);
    only(&agent.stop(), &["injected-reset"]);
}

/// Six connections reset while in use, one after another: retries fail too.
fn reset_wave(v6: bool, pause: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "reset-after:50");
    let mut all = Vec::new();
    for _ in 0..6 {
        let c = s.client.connect(s.server_at(PORT));
        s.client.fail(&format!("ask {} 100", c.id));
        all.push(c);
        sleep(pause);
    }
    let f = agent.expect(&about("reset-wave", &all.iter().collect::<Vec<_>>()));
    near(&f, "resets", 6.0);
    near(&f, "retries_failed", 5.0);
    only(&agent.stop(), &["reset-wave", "peer-abort"]);
}

fn refused(v6: bool, pause: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let mut cookies = Vec::new();
    for _ in 0..3 {
        let (op, cookie) = s.client.connecting(s.server_at(9));
        assert_eq!(s.client.answer(op)["errno"], "ECONNREFUSED");
        cookies.push(cookie);
        sleep(pause);
    }
    let f = agent.expect(&json!({"type": "finding", "code": "refused", "confidence": "certain", "sockets": cookies}));
    near(&f, "refused", 3.0);
    only(&agent.stop(), &["refused"]);
}

fn connect_timeout(v6: bool, _: Duration) {
    let s = Scene::new(v6);
    s.lab.client.sysctl("net.ipv4.tcp_syn_retries", 3).unwrap();
    s.lab.drop(Way::ToServer, PORT);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let started = Instant::now();
    let (op, cookie) = s.client.connecting(s.server_at(PORT));
    let f = agent.expect(&json!({"type": "finding", "code": "connect-timeout", "sockets": [cookie]}));
    let promised = started.elapsed().as_secs_f64() + f["gives_up_in_s"].as_f64().unwrap();
    assert_eq!(s.client.answer(op)["errno"], "ETIMEDOUT");
    let took = started.elapsed().as_secs_f64();
    assert!((took - promised).abs() <= 0.1 * took, "took {took:.2} s, forecast {promised:.2} s: {f}");
    only(&agent.stop(), &["connect-timeout"]);
}

/// What a finding says of why this host sent a RST.
fn reason(known: &str) -> &str {
    if kernel::gives_reset_reasons() { known } else { "does not tell why" }
}

fn local_abort_linger(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    sleep(age);
    s.client.call(&format!("abort {}", c.id));
    let f = agent.expect(&about("local-abort", &[&c]));
    assert!(f["summary"].to_string().contains(reason("SO_LINGER 0")), "{f}");
    only(&agent.stop(), &["local-abort"]);
}

fn local_abort_unread(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    s.client.call(&format!("send {} 5000", c.id));
    sleep(age.max(ms(200)));
    s.client.call(&format!("close {}", c.id));
    let f = agent.expect(&about("local-abort", &[&c]));
    assert!(f["summary"].to_string().contains(reason("unread")), "{f}");
    only(&agent.stop(), &["local-abort"]);
}

fn no_keepalive(v6: bool, idle: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    let d = s.client.connect(s.server_at(PORT));
    s.client.call(&format!("ask {} 100", d.id));
    s.client.call(&format!("keepalive {} 30 10 3", d.id));
    sleep(idle);
    let f = agent.expect(&about("no-keepalive", &[&c]));
    near(&f, "connections", 1.0);
    let run = agent.stop();
    only(&run, &["no-keepalive"]);
    run.none(&json!({"type": "finding", "code": "no-keepalive", "sockets": [d.cookie]}));
}

fn peer_gone(v6: bool, idle: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    s.client.call(&format!("ask {} 100", c.id));
    let used = Instant::now();
    // The ACK of the answer may be delayed; dropped, it would make the server send, and the client hear, again.
    sleep(ms(200));
    s.lab.drop(Way::ToServer, PORT);
    s.client.call(&format!("keepalive {} {} 1 3", c.id, idle.as_secs()));
    let op = s.client.begin(&format!("end {}", c.id));
    assert_eq!(s.client.answer(op)["errno"], "ETIMEDOUT");
    let found = used.elapsed().as_secs_f64();
    let f = agent.expect(&with(about("peer-gone", &[&c]), json!({"confidence": "certain"})));
    near(&f, "found_after_s", found);
    near(&f, "probes", 3.0);
    only(&agent.stop(), &["peer-gone"]);
}

fn path_outage(v6: bool, pace: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let a = s.connect(PORT, "echo");
    let rest: Vec<Conn> = (0..2).map(|_| s.client.connect(s.server_at(PORT))).collect();
    let all: Vec<&Conn> = std::iter::once(&a).chain(&rest).collect();
    for _ in 0..3 {
        for c in &all {
            s.client.call(&format!("ask {} 100", c.id));
        }
        sleep(pace);
    }
    s.lab.drop(Way::ToServer, PORT);
    let ops: Vec<_> = all.iter().map(|c| s.client.begin(&format!("ask {} 100", c.id))).collect();
    let down = Instant::now();
    let f = agent.expect(&with(about("path-outage", &all), json!({"confidence": "likely"})));
    assert!(f["numbers"]["down_s"].as_f64().unwrap() <= down.elapsed().as_secs_f64() + 0.3, "{f}");
    s.lab.clear_rules();
    for op in ops {
        assert_eq!(s.client.answer(op)["ok"], true);
    }
    agent.expect(&json!({"type": "finding", "code": "path-outage", "status": "closed"}));
    only(&agent.stop(), &["path-outage"]);
}

fn lossy_path(v6: bool, per_mille: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "sink");
    let c = s.client.connect(s.server_at(PORT));
    s.lab.lose(Way::ToServer, PORT, per_mille.as_millis() as u32);
    let before = s.lab.client.snmp().unwrap();
    s.client.call(&format!("send {} 40000000", c.id));
    until("the upload", || s.client.call(&format!("info {}", c.id))["unacked"].as_i64().is_none_or(|n| n == 0));
    agent.expect(&about("lossy-path", &[&c]));
    sleep(ms(2_500));
    let again = s.lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs") as f64;
    let run = agent.stop();
    let f = run.last(&about("lossy-path", &[&c]));
    // An update waits until the number moved by a quarter.
    let got = f["numbers"]["retransmits"].as_f64().unwrap();
    assert!(got <= again && got * 1.4 >= again, "{got} retransmits, in truth {again}: {f}");
    only(&run, &["lossy-path"]);
}

fn mtu_black_hole(v6: bool, bytes: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    s.lab.drop_larger(PORT, 1_300);
    s.client.call(&format!("ask {} 400", c.id));
    let op = s.client.begin(&format!("ask {} {}", c.id, bytes.as_millis()));
    let f = agent.expect(&about("mtu-black-hole", &[&c]));
    near(&f, "mss_bytes", if v6 { 1_428.0 } else { 1_448.0 });
    s.lab.clear_rules();
    assert_eq!(s.client.answer(op)["ok"], true);
    only(&agent.stop(), &["mtu-black-hole"]);
}

fn peer_not_reading(v6: bool, wait: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "half:1000");
    let c = s.client.connect(s.server_at(PORT));
    s.client.begin(&format!("send {} 8000000", c.id));
    let full = Instant::now();
    agent.expect(&about("peer-not-reading", &[&c]));
    sleep(wait.saturating_sub(full.elapsed()));
    let run = agent.stop();
    let f = run.last(&about("peer-not-reading", &[&c]));
    assert!(f["numbers"]["send_queue_bytes"].as_f64().unwrap() > 10_000.0, "{f}");
    assert!(f["numbers"]["zero_window_s"].as_f64().unwrap() >= 1.9, "{f}");
    only(&run, &["peer-not-reading"]);
}

fn app_waiting(v6: bool, wait: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "silent");
    let c = s.client.connect(s.server_at(PORT));
    s.client.call(&format!("send {} 700", c.id));
    sleep(wait);
    let f = agent.expect(&about("app-waiting", &[&c]));
    near(&f, "request_bytes", 700.0);
    assert!(f["summary"].to_string().contains("network is fine"), "{f}");
    only(&agent.stop(), &["app-waiting", "no-keepalive"]);
}

/// A file of thresholds that is not there is an error, not a silent default.
#[test]
fn thresholds_that_cannot_be_read() {
    let out = Builder::new(["watch", "--no-tui", "--all", "--config", "/nonexistent/findings.toml"]).run();
    assert!(!out.status.success(), "{}", out.describe());
    assert!(out.stderr.contains("/nonexistent/findings.toml"), "{}", out.stderr);
}
