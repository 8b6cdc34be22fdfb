//! Connections on which nothing happens: idle at risk, closed by the server and kept, or waiting for an answer.

use std::time::{Duration, Instant};

use agent_tests::lab::{Invalid, Nat};
use serde_json::json;

use super::{about, ms, near, only, quick, sleep, stories};
use crate::scene::{PORT, Scene, with};

stories! {
    close_wait_leak: close_wait_leak_v4, close_wait_leak_v6, [1_200, 2_500, 4_000];
    close_wait_old: close_wait_old_v4, close_wait_old_v6, [600, 1_500, 3_000];
    no_keepalive: no_keepalive_v4, no_keepalive_v6, [5_500, 7_000, 9_000];
    no_keepalive_known_path: no_keepalive_known_path_v4, no_keepalive_known_path_v6, [3_200, 4_000, 4_800];
    app_waiting: app_waiting_v4, app_waiting_v6, [4_500, 6_000, 9_000];
    app_waiting_pool: app_waiting_pool_v4, app_waiting_pool_v6, [200, 700, 1_200];
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

/// Closed by the server before the agent came.
fn close_wait_old(v6: bool, before: Duration) {
    let s = Scene::new(v6);
    let c = s.connect(PORT, "close-after:300");
    s.client.call(&format!("ask {} 100", c.id));
    sleep(ms(400) + before);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let f = agent.expect(&about("close-wait-leak", &[&c]));
    near(&f, "connections", 1.0);
    assert!(f["numbers"].get("server_idle_limit_s").is_none(), "nobody saw the FIN: {f}");
    only(&agent.stop(), &["close-wait-leak"]);
}

fn no_keepalive(v6: bool, idle: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    let used = Instant::now();
    let d = s.client.connect(s.server_at(PORT));
    s.client.call(&format!("ask {} 100", d.id));
    s.client.call(&format!("keepalive {} 30 10 3", d.id));
    let f = agent.expect(&about("no-keepalive", &[&c]));
    near(&f, "idle_now_s", used.elapsed().as_secs_f64());
    near(&f, "connections", 1.0);
    sleep(idle.saturating_sub(used.elapsed()));
    let run = agent.stop();
    only(&run, &["no-keepalive"]);
    run.none(&json!({"type": "finding", "code": "no-keepalive", "sockets": [d.cookie]}));
}

/// This path is known to kill: one connection hung, the next idles without keepalive for as long.
fn no_keepalive_known_path(v6: bool, gap: Duration) {
    let s = Scene::new(v6);
    s.lab.client.sysctl("net.ipv4.tcp_retries2", 3).unwrap();
    s.lab.nat(Nat { established_s: 2, invalid: Invalid::Drop });
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    let used = Instant::now();
    sleep(gap);
    let idle = used.elapsed().as_secs_f64();
    let op = s.client.begin(&format!("ask {} 100", c.id));
    agent.expect(&about("idle-path-dead", &[&c]));
    assert_eq!(s.client.answer(op)["errno"], "ETIMEDOUT");
    let d = s.client.connect(s.server_at(PORT));
    s.client.call(&format!("ask {} 100", d.id));
    let f = agent.expect(&with(about("no-keepalive", &[&d]), json!({"confidence": "certain"})));
    near(&f, "killed_after_s", idle);
    only(&agent.stop(), &["idle-path-dead", "no-keepalive"]);
}

fn app_waiting(v6: bool, wait: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "silent");
    let c = s.client.connect(s.server_at(PORT));
    s.client.call(&format!("send {} 700", c.id));
    let asked = Instant::now();
    let f = agent.expect(&about("app-waiting", &[&c]));
    near(&f, "waiting_s", asked.elapsed().as_secs_f64());
    near(&f, "request_bytes", 700.0);
    assert!(f["summary"].to_string().contains("network is fine"), "{f}");
    sleep(wait.saturating_sub(asked.elapsed()));
    only(&agent.stop(), &["app-waiting"]);
}

/// Two requests wait, on connections that had answers before; keepalive is on and changes nothing.
fn app_waiting_pool(v6: bool, pace: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "manual");
    let all = [(), ()].map(|()| s.client.connect(s.server_at(PORT)));
    for c in &all {
        let peer = s.server.accepted(c);
        s.client.call(&format!("keepalive {} 2 1 3", c.id));
        s.client.call(&format!("send {} 200", c.id));
        s.server.call(&format!("recv {} 200", peer.id));
        s.server.call(&format!("send {} 5000", peer.id));
        s.client.call(&format!("recv {} 5000", c.id));
    }
    sleep(pace);
    let asked = Instant::now();
    for c in &all {
        s.client.call(&format!("send {} 400", c.id));
    }
    let f = agent.expect(&about("app-waiting", &[&all[0], &all[1]]));
    near(&f, "waiting_s", asked.elapsed().as_secs_f64());
    assert!(f["advice"].to_string().contains("does not make a slow server answer"), "{f}");
    only(&agent.stop(), &["app-waiting"]);
}
