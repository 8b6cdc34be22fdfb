//! Connections that hang: sent data that nobody acknowledges, or that the peer has no room for.

use std::time::{Duration, Instant};

use agent_tests::expect::matches;
use agent_tests::lab::{Invalid, Nat, Snmp, Way};
use agent_tests::runner::{Agent, Run};
use agent_tests::wait::{slowness, until};
use agent_tests::workload::{Conn, Op};
use serde_json::{Value, json};

use super::{about, ms, near, only, quick, sleep, stories};
use crate::scene::{PORT, Scene, with};

stories! {
    idle_path_dead: idle_path_dead_v4, idle_path_dead_v6, [4_500, 6_000, 9_000];
    late_keepalive: late_keepalive_v4, late_keepalive_v6, [4_200, 5_500, 8_000];
    changed_sysctl: changed_sysctl_v4, changed_sysctl_v6, [0, 700, 2_000];
    connect_timeout: connect_timeout_v4, connect_timeout_v6, [0, 400, 1_500];
    syn_ack_lost: syn_ack_lost_v4, syn_ack_lost_v6, [0, 300, 1_000];
    path_outage: path_outage_v4, path_outage_v6, [300, 1_000, 1_700];
    one_way_outage: one_way_outage_v4, one_way_outage_v6, [100, 600, 1_500];
    lossy_path: lossy_path_v4, lossy_path_v6, [30, 60, 100];
    lossy_requests: lossy_requests_v4, lossy_requests_v6, [80, 120, 180];
    mtu_black_hole: mtu_black_hole_v4, mtu_black_hole_v6, [4_800, 9_000, 20_000];
    mtu_others_alive: mtu_others_alive_v4, mtu_others_alive_v6, [3_000, 6_000, 30_000];
    peer_not_reading: peer_not_reading_v4, peer_not_reading_v6, [3_000, 4_500, 7_000];
    stops_reading_later: stops_reading_later_v4, stops_reading_later_v6, [0, 800, 2_500];
}

/// A connection that was used once, watched from before, then idle for `gap` behind a NAT that forgets after 3 s.
pub fn behind_nat(v6: bool, invalid: Invalid, gap: Duration) -> (Scene, Conn, Agent, Instant) {
    let s = Scene::new(v6);
    s.lab.nat(Nat { established_s: 3, invalid });
    s.lab.client.sysctl("net.ipv4.tcp_retries2", 5).unwrap();
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    let used = Instant::now();
    sleep(gap);
    (s, c, agent, used)
}

/// Retransmits as the kernel counts them, against the last word of the finding: an update waits until a count moved by a
/// tenth.
fn retransmits_agree(run: &Run, finding: &Value, truth: i64) {
    let last = run.last(finding)["numbers"]["retransmits"].as_f64().unwrap_or(-1.0);
    let seen = run.total("retransmits");
    let lines: Vec<&Value> = run.lines.iter().filter(|l| l["type"] == "retransmit" || l["type"] == "lost").collect();
    assert_eq!(seen, truth, "the run's retransmits: {lines:?}");
    assert!(last <= truth as f64 && last * 1.1 + 1.0 >= truth as f64, "{last} retransmits, in truth {truth}");
}

/// The kernel gives up when the finding said it would.
fn gives_up_as_promised(s: &Scene, op: Op, f: &Value, sent: Instant) {
    let left = f["gives_up_in_s"].as_f64().unwrap_or_else(|| panic!("no forecast: {f}"));
    let promised = sent.elapsed().as_secs_f64() + left;
    assert_eq!(s.client.answer(op)["errno"], "ETIMEDOUT");
    let took = sent.elapsed().as_secs_f64();
    assert!((took - promised).abs() <= took * 0.1, "hung {took:.2} s, forecast {promised:.2} s: {f}");
}

fn idle_path_dead(v6: bool, gap: Duration) {
    let (s, c, agent, used) = behind_nat(v6, Invalid::Drop, gap);
    let before = s.lab.client.snmp().unwrap();
    let idle = used.elapsed().as_secs_f64();
    let sent = Instant::now();
    let op = s.client.begin(&format!("ask {} 100", c.id));
    let f = agent.expect(&about("idle-path-dead", &[&c]));
    near(&f, "idle_s", idle);
    near(&f, "stuck_bytes", 100.0);
    gives_up_as_promised(&s, op, &f, sent);
    let truth = s.lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs");
    let run = agent.stop();
    retransmits_agree(&run, &about("idle-path-dead", &[&c]), truth);
    only(&run, &["idle-path-dead"]);
}

/// Keepalive is on, but its first probe comes later than the NAT forgets.
fn late_keepalive(v6: bool, gap: Duration) {
    let (s, c, agent, _) = behind_nat(v6, Invalid::Drop, ms(0));
    s.client.call(&format!("keepalive {} 60 10 3", c.id));
    s.client.call(&format!("ask {} 100", c.id));
    let used = Instant::now();
    sleep(gap);
    let idle = used.elapsed().as_secs_f64();
    let sent = Instant::now();
    let op = s.client.begin(&format!("ask {} 3000", c.id));
    let f = agent.expect(&about("idle-path-dead", &[&c]));
    near(&f, "idle_s", idle);
    near(&f, "stuck_bytes", 3_000.0);
    assert!(f["evidence"].to_string().contains("keepalive on, first probe after 60 s"), "{f}");
    gives_up_as_promised(&s, op, &f, sent);
    only(&agent.stop(), &["idle-path-dead"]);
}

/// Somebody lowers tcp_retries2 where the connection hangs: the forecast follows, although the agent is outside and has
/// given up the right to enter.
fn changed_sysctl(v6: bool, pause: Duration) {
    let s = Scene::new(v6);
    s.lab.nat(Nat { established_s: 2, invalid: Invalid::Drop });
    let agent = quick(&s.client).start();
    let c = s.connect(PORT, "echo");
    sleep(ms(3_500));
    let sent = Instant::now();
    let op = s.client.begin(&format!("ask {} 100", c.id));
    let f = agent.expect(&about("idle-path-dead", &[&c]));
    assert!(f["gives_up_in_s"].as_f64().unwrap() > 800.0, "{f}");
    sleep(pause);
    s.lab.client.sysctl("net.ipv4.tcp_retries2", 5).unwrap();
    let f = agent.expect(&with(about("idle-path-dead", &[&c]), json!({"gives_up_in_s": {"$le": 15.0}})));
    gives_up_as_promised(&s, op, &f, sent);
    only(&agent.stop(), &["idle-path-dead"]);
}

fn unanswered_connect(s: &Scene, age: Duration) {
    s.lab.client.sysctl("net.ipv4.tcp_syn_retries", 3).unwrap();
    let agent = quick(&s.client).ns(&s.lab.client).start();
    sleep(age);
    let before = s.lab.client.snmp().unwrap();
    let started = Instant::now();
    let (op, cookie) = s.client.connecting(s.server_at(PORT));
    let f = agent.expect(&json!({"type": "finding", "code": "connect-timeout", "sockets": [cookie]}));
    near(&f, "waiting_s", started.elapsed().as_secs_f64());
    let promised = started.elapsed().as_secs_f64() + f["gives_up_in_s"].as_f64().unwrap();
    assert_eq!(s.client.answer(op)["errno"], "ETIMEDOUT");
    let took = started.elapsed().as_secs_f64();
    assert!((took - promised).abs() <= 0.1 * took, "took {took:.2} s, forecast {promised:.2} s: {f}");
    let truth = s.lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs");
    let run = agent.stop();
    assert_eq!(
        run.total("retransmits"),
        truth,
        "the run's SYN retransmits: {:?}",
        run.all(&json!({"type": "retransmit"}))
    );
    let last = run.last(&json!({"type": "finding", "code": "connect-timeout"}));
    let told = last["numbers"]["retransmits"].as_f64().unwrap_or(-1.0) as i64;
    assert!((truth - 2..=truth).contains(&told), "{told} SYN retransmits, in truth {truth}: {last}");
    only(&run, &["connect-timeout"]);
}

fn connect_timeout(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    s.lab.drop(Way::ToServer, PORT);
    unanswered_connect(&s, age);
}

/// The server answers, and its answers get lost.
fn syn_ack_lost(v6: bool, age: Duration) {
    let s = Scene::new(v6);
    s.server.serve(s.server_at(PORT), "echo");
    s.lab.drop(Way::ToClient, PORT);
    unanswered_connect(&s, age);
}

fn path_outage(v6: bool, pace: Duration) {
    outage(v6, pace, 3, Way::ToServer, "likely");
}

/// Only the way back is down, and there is one connection.
fn one_way_outage(v6: bool, pace: Duration) {
    outage(v6, pace, 1, Way::ToClient, "likely");
}

fn outage(v6: bool, pace: Duration, sockets: usize, way: Way, confidence: &str) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let a = s.connect(PORT, "echo");
    let rest: Vec<Conn> = (1..sockets).map(|_| s.client.connect(s.server_at(PORT))).collect();
    let all: Vec<&Conn> = std::iter::once(&a).chain(&rest).collect();
    for _ in 0..3 {
        for c in &all {
            s.client.call(&format!("ask {} 100", c.id));
        }
        sleep(pace);
    }
    s.lab.drop(way, PORT);
    let down = Instant::now();
    let ops: Vec<_> = all.iter().map(|c| s.client.begin(&format!("ask {} 100", c.id))).collect();
    let f = agent.expect(&with(about("path-outage", &all), json!({"confidence": confidence})));
    near(&f, "down_s", down.elapsed().as_secs_f64());
    near(&f, "stuck_bytes", 100.0 * sockets as f64);
    s.lab.clear_rules();
    for op in ops {
        assert_eq!(s.client.answer(op)["ok"], true);
    }
    agent.expect(&json!({"type": "finding", "code": "path-outage", "status": "closed"}));
    only(&agent.stop(), &["path-outage"]);
}

/// What the finding says of loss agrees with the kernel's counters.
///
/// `left_out`: the truth in parts of what is told, at most. Retransmits of an interruption (three timeouts and more) and
/// of the recovery from it count as no loss.
fn loss_agrees(s: &Scene, agent: Agent, c: &Conn, before: &Snmp, left_out: f64) {
    agent.expect(&about("lossy-path", &[c]));
    sleep(ms(2_500));
    let again = s.lab.client.snmp().unwrap().since(before, "Tcp.RetransSegs");
    let run = agent.stop();
    let f = run.last(&about("lossy-path", &[c]));
    let got = f["numbers"]["retransmits"].as_f64().unwrap();
    // An update waits until the number moved by a quarter.
    assert!(got <= again as f64 && got * left_out >= again as f64, "{got} retransmits, in truth {again}: {f}");
    let (percent, segments) = (f["numbers"]["loss_percent"].as_f64(), f["numbers"]["segments"].as_f64());
    let of = 100.0 * got / segments.unwrap();
    assert!((percent.unwrap() - of).abs() <= of * 0.1, "{f}");
    // An emulated machine takes so long to tell that the silent server is told of, too.
    only(&run, if slowness() > 1 { &["lossy-path", "app-waiting"] } else { &["lossy-path"] });
}

fn lossy_path(v6: bool, per_mille: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), "sink");
    let c = s.client.connect(s.server_at(PORT));
    s.lab.lose(Way::ToServer, PORT, per_mille.as_millis() as u32);
    let before = s.lab.client.snmp().unwrap();
    s.client.call(&format!("send {} 20000000", c.id));
    until("the upload", || s.client.call(&format!("info {}", c.id))["unacked"].as_i64().is_none_or(|n| n == 0));
    loss_agrees(&s, agent, &c, &before, 1.4);
}

/// Requests of a few segments, one after another.
fn lossy_requests(v6: bool, per_mille: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    s.lab.lose(Way::ToServer, PORT, per_mille.as_millis() as u32);
    let before = s.lab.client.snmp().unwrap();
    // Chance may put many of the losses into one interruption, which says nothing of a rate: on until it is told.
    let told = about("lossy-path", &[&c]);
    until("the finding", || {
        s.client.call(&format!("ask {} 6000", c.id));
        agent.lines().iter().any(|l| matches(&told, l))
    });
    loss_agrees(&s, agent, &c, &before, 3.0);
}

fn mtu_black_hole(v6: bool, bytes: Duration) {
    large_only(v6, bytes, false);
}

/// Another connection to the same server goes on with small requests.
fn mtu_others_alive(v6: bool, bytes: Duration) {
    large_only(v6, bytes, true);
}

fn large_only(v6: bool, bytes: Duration, others: bool) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    let c = s.connect(PORT, "echo");
    let other = others.then(|| s.client.connect(s.server_at(PORT)));
    s.lab.drop_larger(PORT, 1_300);
    s.client.call(&format!("ask {} 400", c.id));
    let op = s.client.begin(&format!("ask {} {}", c.id, bytes.as_millis()));
    let mine = about("mtu-black-hole", &[&c]);
    if let Some(other) = &other {
        until("the finding", || {
            s.client.call(&format!("ask {} 200", other.id));
            sleep(ms(150));
            agent.lines().iter().any(|l| matches(&mine, l))
        });
    }
    let f = agent.expect(&mine);
    near(&f, "mss_bytes", if v6 { 1_428.0 } else { 1_448.0 });
    s.lab.clear_rules();
    assert_eq!(s.client.answer(op)["ok"], true);
    only(&agent.stop(), &["mtu-black-hole"]);
}

fn peer_not_reading(v6: bool, wait: Duration) {
    full_window(v6, 1_000, wait, ms(0));
}

/// The server reads for a while first, and the client comes back to a connection that was fine.
fn stops_reading_later(v6: bool, pause: Duration) {
    full_window(v6, 600_000, ms(3_500), pause);
}

fn full_window(v6: bool, reads: u64, wait: Duration, pause: Duration) {
    let s = Scene::new(v6);
    let agent = quick(&s.client).ns(&s.lab.client).start();
    s.server.serve(s.server_at(PORT), &format!("half:{reads}"));
    let c = s.client.connect(s.server_at(PORT));
    s.client.call(&format!("send {} {}", c.id, reads / 2));
    sleep(pause);
    s.client.begin(&format!("send {} 8000000", c.id));
    // The buffer is full within a few round trips.
    let full = Instant::now();
    let f = agent.expect(&about("peer-not-reading", &[&c]));
    near(&f, "zero_window_s", full.elapsed().as_secs_f64());
    sleep(wait.saturating_sub(full.elapsed()));
    let run = agent.stop();
    let f = run.last(&about("peer-not-reading", &[&c]));
    assert!(f["numbers"]["send_queue_bytes"].as_f64().unwrap() > 10_000.0, "{f}");
    only(&run, &["peer-not-reading"]);
}
