//! Every kind of event, made in the lab, with the right socket, pid, direction, origin and counts; both address
//! families, both kernel backends.

use agent_tests::runner::Run;
use serde_json::json;

use crate::scene::{FORGED_ID, PORT, Scene, about, expect_retransmits, near_by_chance, watch, with};

#[test]
fn btf_v4() {
    every_event("btf", false);
}

#[test]
fn btf_v6() {
    every_event("btf", true);
}

#[test]
fn tracepoint_v4() {
    every_event("tracepoint", false);
}

#[test]
fn tracepoint_v6() {
    every_event("tracepoint", true);
}

fn every_event(backend: &str, v6: bool) {
    let s = Scene::new(v6);
    let old = s.connect(PORT, "echo");
    let before = s.lab.client.snmp().unwrap();
    // Once from inside the target's network namespace, once from outside.
    let builder = watch(s.client.pid(), backend);
    let agent = if v6 { builder.ns(&s.lab.client) } else { builder }.start();
    let session = agent.expect(&json!({"type": "session"}));
    let name = if backend == "btf" { "tp_btf" } else { "tracepoint" };
    for hook in ["tcp_retransmit_skb", "tcp_receive_reset", "tcp_send_reset", "inet_sock_set_state"] {
        assert!(
            session["hooks"].as_array().is_some_and(|all| all.iter().any(|h| {
                h["name"].as_str().is_some_and(|n| n.contains(hook)) && h["backend"] == name && h["attached"] == true
            })),
            "{hook} is not attached as {name}: {}",
            session["hooks"]
        );
    }

    // A drop rule makes retransmits on a socket that was there before the agent.
    let op = s.stall(&old, PORT, 4);
    expect_retransmits(&agent, &s.client, &old, 3);
    s.recover(op);

    // The server closes with linger 0.
    let aborted = s.connect(PORT + 1, "reset-after:10");
    s.client.call(&format!("send {} 10", aborted.id));
    assert_eq!(s.client.fail(&format!("end {}", aborted.id)), "ECONNRESET");
    // Classic tracepoints do not look at packets: who made a RST stays open there.
    let packets = backend == "btf";
    let origin = |name: &str| json!(if packets { name } else { "unknown" });
    let reset = |c, more| with(about("reset", &s.client, c), more);
    agent.expect(&reset(&aborted, json!({"direction": "received", "origin": origin("peer"), "state": "ESTABLISHED"})));

    // A closed port.
    let (op, refused) = s.client.connecting(s.server_at(9));
    assert_eq!(s.client.answer(op)["errno"], "ECONNREFUSED");
    agent.expect(&json!({
        "type": "reset", "socket": refused, "pid": s.client.pid(), "remote": s.server_at(9).to_string(),
        "direction": "received", "state": "SYN_SENT",
    }));

    // The router rejects.
    let rejected = s.connect(PORT + 2, "echo");
    s.lab.reject(PORT + 2);
    s.client.call(&format!("send {} 10", rejected.id));
    assert_eq!(s.client.fail(&format!("end {}", rejected.id)), "ECONNRESET");
    s.lab.clear_rules();
    agent.expect(&reset(
        &rejected,
        json!({"direction": "received", "origin": origin("middlebox"), "state": "ESTABLISHED"}),
    ));

    // The client itself aborts.
    let abort = s.connect(PORT + 3, "echo");
    s.client.call(&format!("abort {}", abort.id));
    agent.expect(&with(
        json!({"type": "reset", "socket": abort.cookie, "pid": s.client.pid()}),
        json!({"direction": "sent", "origin": "local"}),
    ));

    let after = s.lab.client.snmp().unwrap();
    let retransmitted = s.client.call(&format!("info {}", old.id))["total_retrans"].as_i64().unwrap();
    let run = agent.stop();
    assert_eq!(run.total("retransmits"), after.since(&before, "Tcp.RetransSegs"), "{backend}");
    assert_eq!(run.total("resets_received"), 3);
    assert_eq!(run.total("resets_sent"), after.since(&before, "Tcp.OutRsts"));
    assert_eq!(run.total("lost"), 0);
    counters(&run, &old.cookie, "retransmits", retransmitted);
    for c in [&aborted.cookie, &refused, &rejected.cookie] {
        counters(&run, c, "resets_received", 1);
        assert_eq!(run.all(&json!({"type": "reset", "socket": c})).len(), 1, "one RST, one line");
    }
    counters(&run, &abort.cookie, "resets_sent", 1);
    run.one(&json!({"type": "state", "socket": aborted.cookie, "from": "ESTABLISHED", "to": "CLOSE"}));
    run.one(&json!({"type": "state", "socket": aborted.cookie, "to": "SYN_SENT"}));
    if packets {
        provenance(&run, &aborted.cookie, 63);
        provenance(&run, &rejected.cookie, 64);
    }
}

/// What the last `socket` line says of a counter.
fn counters(run: &Run, cookie: &str, name: &str, expected: i64) {
    let line = run.last(&json!({"type": "socket", "socket": cookie}));
    assert_eq!(line["counters"][name], expected, "{line}");
}

/// The router takes one from the server's TTL of 64, and nothing from its own.
fn provenance(run: &Run, cookie: &str, ttl: i64) {
    let line = run.one(&json!({"type": "reset", "socket": cookie}));
    assert_eq!(line["packet"]["ttl"], ttl, "{line}");
    assert_eq!(line["packet"]["flow_ttl"], 63, "{line}");
}

/// A SYN that is dropped: retransmits in SYN_SENT, before there is a connection.
#[test]
fn a_dropped_syn() {
    let s = Scene::new(false);
    let agent = watch(s.client.pid(), "btf").ns(&s.lab.client).start();
    s.lab.drop(agent_tests::lab::Way::ToServer, PORT);
    let (op, cookie) = s.client.connecting(s.server_at(PORT));
    agent.expect(&json!({
        "type": "retransmit", "socket": cookie, "pid": s.client.pid(), "state": "SYN_SENT", "kind": "syn",
        "remote": s.server_at(PORT).to_string(),
    }));
    assert_eq!(s.client.poll(op, std::time::Duration::ZERO), None);
    let run = agent.stop();
    counters(&run, &cookie, "syn", run.total("retransmits"));
}

/// A SYN-ACK that is dropped is the watched server's retransmit.
#[test]
fn a_dropped_syn_ack() {
    let s = Scene::new(true);
    let listener = s.server.serve(s.server_at(PORT), "echo");
    let agent = watch(s.server.pid(), "btf").ns(&s.lab.server).start();
    s.lab.drop(agent_tests::lab::Way::ToClient, PORT);
    let (_, _) = s.client.connecting(s.server_at(PORT));
    let line = agent.expect(&json!({"type": "retransmit", "pid": s.server.pid(), "kind": "synack"}));
    assert_eq!(line["socket"], listener.cookie.as_str(), "{line}");
    assert!(line["remote"].as_str().is_some_and(|r| r.contains("fd00:77:0:1::2")), "{line}");
    agent.stop();
}

/// A forged RST: one that misses the window's edge does nothing, the exact one resets, and its TTL and IP ID convict.
#[test]
fn a_forged_reset() {
    let s = Scene::new(false);
    let c = s.connect(PORT, "echo");
    let agent = watch(s.client.pid(), "btf").ns(&s.lab.client).start();
    // The flow's own TTL is learned from its segments.
    s.client.call(&format!("ask {} 100", c.id));
    let next = s.client.call(&format!("next {}", c.id))["seq"].as_u64().unwrap();
    let forger = agent_tests::workload::Workload::start(&s.lab.router);
    forger.forge_reset(&c.remote, &c.local, next, 55, FORGED_ID);
    assert_eq!(s.client.fail(&format!("end {}", c.id)), "ECONNRESET");
    if near_by_chance(&agent.expect(&about("reset", &s.client, &c))) {
        return a_forged_reset();
    }
    agent.expect(&with(
        about("reset", &s.client, &c),
        json!({"direction": "received", "origin": "middlebox",
               "packet": {"ttl": 55, "flow_ttl": 63, "ip_id": FORGED_ID, "seq_expected": true}}),
    ));
    agent.stop();
}
