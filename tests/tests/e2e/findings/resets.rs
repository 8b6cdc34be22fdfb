//! Connections that were reset: by the peer, by something in between, by this host, or before they were one.

use std::time::{Duration, Instant};

use agent_tests::kernel;
use agent_tests::lab::{Invalid, Way};
use agent_tests::runner::Agent;
use agent_tests::workload::Workload;
use serde_json::{Value, json};

use super::stuck::behind_nat;
use super::{about, ms, near, only, quick, sleep, stories};
use crate::scene::{FORGED_ID, PORT, Scene, near_by_chance, with};

stories! {
    idle_path_reset: idle_path_reset_v4, idle_path_reset_v6, [4_500, 6_000, 9_000];
    remapping_nat: remapping_nat_v4, remapping_nat_v6, [4_500, 6_000, 9_000];
    stale_reuse: stale_reuse_v4, stale_reuse_v6, [1_200, 2_000, 4_000];
    peer_abort: peer_abort_v4, peer_abort_v6, [0, 1_000, 3_000];
    peer_abort_late: peer_abort_late_v4, peer_abort_late_v6, [200, 700, 1_300];
    injected: injected_v4, injected_v6, [100, 800, 1_500];
    injected_by_router: injected_by_router_v4, injected_by_router_v6, [300, 800, 1_200];
    reset_wave: reset_wave_v4, reset_wave_v6, [50, 600, 1_500];
    wave_of_pool: wave_of_pool_v4, wave_of_pool_v6, [5_000, 8_000, 12_000];
    refused: refused_v4, refused_v6, [50, 700, 1_500];
    refused_once: refused_once_v4, refused_once_v6, [0, 300, 1_000];
    local_abort_linger: local_abort_linger_v4, local_abort_linger_v6, [100, 1_000, 2_000];
    local_abort_unread: local_abort_unread_v4, local_abort_unread_v6, [200, 1_000, 2_000];
    peer_gone: peer_gone_v4, peer_gone_v6, [1_000, 2_000, 4_000];
    peer_gone_still_probing: peer_gone_still_probing_v4, peer_gone_still_probing_v6, [1_000, 2_000, 3_000];
}

/// The router resets what it has forgotten.
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
    // A busy server closes late: the truth is when its FIN was here.
    s.client.closed_by_peer(&c);
    let limit = used.elapsed().as_secs_f64();
    sleep(ms(1_500));
    let late = used.elapsed().as_secs_f64() - limit;
    s.client.fail(&format!("ask {} 100", c.id));
    let f = agent.expect(&about("stale-reuse", &[&c]));
    near(&f, "server_idle_limit_s", limit);
    near(&f, "reused_after_s", late);
    only(&agent.stop(), &["stale-reuse"]);
}

/// In the middle of a request that is sent in pieces.
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

/// While the client waits for the answer to a request that arrived whole.
fn peer_abort_late(v6: bool, thinks: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "manual");
    let c = s.client.connect(s.server_at(PORT));
    let opened = Instant::now();
    let peer = s.server.accepted(&c);
    s.client.call(&format!("send {} 700", c.id));
    sleep(thinks);
    s.server.call(&format!("abort {}", peer.id));
    let age = opened.elapsed().as_secs_f64();
    assert_eq!(s.client.fail(&format!("end {}", c.id)), "ECONNRESET");
    let f = agent.expect(&about("peer-abort", &[&c]));
    near(&f, "age_s", age);
    near(&f, "bytes_sent", 700.0);
    only(&agent.stop(), &["peer-abort"]);
}

/// Forged by somebody on the way: another TTL, the exact sequence number.
fn injected(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let c = s.connect(PORT, "echo");
    let agent = quick(&s.client).ns(&s.lab.client).start();
    sleep(age);
    s.client.call(&format!("ask {} 100", c.id));
    let next = s.client.call(&format!("next {}", c.id))["seq"].as_u64().unwrap();
    let forger = Workload::start(&s.lab.router);
    s.client.call(&format!("ask {} 1", c.id));
    forger.forge_reset(&c.remote, &c.local, next + 1, 55, FORGED_ID);
    assert_eq!(s.client.fail(&format!("end {}", c.id)), "ECONNRESET");
    if near_by_chance(&agent.expect(&json!({"type": "reset", "socket": c.cookie, "direction": "received"}))) {
        return injected(v6, age);
    }
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

/// A pool of many connections, all busy, when the server aborts them; no retry is tried.
fn wave_of_pool(v6: bool, sockets: Duration) {
    let sockets = sockets.as_millis() as usize / 1_000;
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "manual");
    let all: Vec<_> = (0..sockets).map(|_| s.client.connect(s.server_at(PORT))).collect();
    let peers: Vec<_> = all.iter().map(|c| s.server.accepted(c)).collect();
    for c in &all {
        s.client.call(&format!("send {} 300", c.id));
    }
    sleep(ms(300));
    for p in &peers {
        s.server.call(&format!("abort {}", p.id));
    }
    let f = agent.expect(&about("reset-wave", &all.iter().collect::<Vec<_>>()));
    near(&f, "resets", sockets as f64);
    near(&f, "retries_failed", 0.0);
    only(&agent.stop(), &["reset-wave", "peer-abort"]);
}

fn refuse(s: &Scene, agent: &Agent, times: usize, pause: Duration) -> Value {
    let mut cookies = Vec::new();
    for _ in 0..times {
        sleep(pause);
        let (op, cookie) = s.client.connecting(s.server_at(9));
        assert_eq!(s.client.answer(op)["errno"], "ECONNREFUSED");
        cookies.push(cookie);
    }
    agent.expect(&json!({"type": "finding", "code": "refused", "confidence": "certain", "sockets": cookies}))
}

fn refused(v6: bool, pause: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    near(&refuse(&s, &agent, 3, pause), "refused", 3.0);
    only(&agent.stop(), &["refused"]);
}

/// One connect, and nobody tries again; the connections to another port are fine.
fn refused_once(v6: bool, pause: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.connect(PORT, "echo");
    near(&refuse(&s, &agent, 1, pause), "refused", 1.0);
    only(&agent.stop(), &["refused"]);
}

/// What a finding says of why this host sent a RST.
fn reason(known: &str) -> &str {
    if kernel::gives_reset_reasons() { known } else { "does not tell why" }
}

fn local_abort_linger(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "echo");
    let c = s.client.connect(s.server_at(PORT));
    let opened = Instant::now();
    s.client.call(&format!("ask {} 100", c.id));
    sleep(age);
    let age = opened.elapsed().as_secs_f64();
    s.client.call(&format!("abort {}", c.id));
    let f = agent.expect(&about("local-abort", &[&c]));
    assert!(f["summary"].to_string().contains(reason("SO_LINGER 0")), "{f}");
    near(&f, "age_s", age);
    only(&agent.stop(), &["local-abort"]);
}

fn local_abort_unread(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "echo");
    let c = s.client.connect(s.server_at(PORT));
    let opened = Instant::now();
    s.client.call(&format!("send {} 5000", c.id));
    sleep(age);
    let age = opened.elapsed().as_secs_f64();
    s.client.call(&format!("close {}", c.id));
    let f = agent.expect(&about("local-abort", &[&c]));
    assert!(f["summary"].to_string().contains(reason("unread")), "{f}");
    near(&f, "age_s", age);
    only(&agent.stop(), &["local-abort"]);
}

/// The peer vanishes while idle; keepalive finds out.
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
    // Without the kernel's own word on why the connection ended it stays likely.
    let confidence = if kernel::gives_reset_reasons() { "certain" } else { "likely" };
    let said = json!({"confidence": confidence, "numbers": {"probes": 3.0}});
    let f = agent.expect(&with(about("peer-gone", &[&c]), said));
    near(&f, "found_after_s", found);
    near(&f, "probes", 3.0);
    only(&agent.stop(), &["peer-gone"]);
}

/// Found before the kernel gives up, while the probes still go out.
fn peer_gone_still_probing(v6: bool, idle: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    s.client.call(&format!("ask {} 100", c.id));
    let used = Instant::now();
    sleep(ms(200));
    s.lab.drop(Way::ToServer, PORT);
    s.client.call(&format!("keepalive {} {} 1 9", c.id, idle.as_secs()));
    let f = agent.expect(&with(about("peer-gone", &[&c]), json!({"confidence": "likely"})));
    near(&f, "found_after_s", used.elapsed().as_secs_f64());
    only(&agent.stop(), &["peer-gone"]);
}
