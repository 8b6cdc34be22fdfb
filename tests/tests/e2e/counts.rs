//! The counts against the kernel's own, where events come fast.

use std::time::Duration;

use agent_tests::kernel;
use agent_tests::lab::{Ns, Way};
use agent_tests::mounts::Sys;
use agent_tests::runner::Builder;
use agent_tests::wait::slowness;
use agent_tests::workload::Workload;
use serde_json::json;

use crate::scene::{PORT, Scene, watch};

/// Random loss under a bulk transfer with GSO: one retransmitted skb may hold several segments.
#[test]
fn retransmits_equal_retranssegs() {
    for (backend, v6) in [("btf", false), ("btf", true), ("tracepoint", false), ("tracepoint", true)] {
        let s = Scene::new(v6);
        let c = s.connect(PORT, "sink");
        let agent = watch(s.client.pid(), backend).start();
        agent.expect(&json!({"type": "socket", "socket": c.cookie}));
        let before = s.lab.client.snmp().unwrap();
        s.lab.lose(Way::ToServer, PORT, 20);
        s.client.call(&format!("send {} 20000000", c.id));
        s.lab.clear_rules();
        // Acknowledged to the last byte, so that nothing is retransmitted between the two looks.
        s.client.call(&format!("shutdown {}", c.id));
        s.client.call(&format!("end {}", c.id));
        let truth = s.lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs");
        let run = agent.stop();
        let counted = run.total("retransmits");
        assert!(truth > 20, "only {truth} retransmits: nothing is proved");
        assert!((counted - truth).abs() * 50 <= truth, "{backend}: counted {counted}, the kernel says {truth}");
        let socket = run.last(&json!({"type": "socket", "socket": c.cookie}));
        let counters = &socket["counters"];
        assert_eq!(counters["retransmits"], counted, "the socket's own count: {socket}");
        if backend == "btf" {
            let parts: i64 = ["rto", "fast", "tlp"].iter().filter_map(|k| counters[k].as_i64()).sum();
            assert!(parts > 0 && parts <= counted, "{socket}");
        }
    }
}

/// A storm of resets, RSTs for no socket included: no event is lost in the counts.
#[test]
fn a_storm_is_counted_exactly() {
    for backend in ["btf", "tracepoint"] {
        let ns = Ns::new("storm").unwrap();
        let storm = Workload::start(&ns);
        // Addresses that no other program on this machine uses: all loopbacks look alike to --all.
        let pid = std::process::id();
        let host = if backend == "btf" { 1 } else { 2 };
        let address = format!("127.{}.{}.{host}", 100 + pid / 256 % 100, pid % 256);
        let sys = if backend == "tracepoint" { Sys::Tracefs } else { Sys::AsIs };
        let agent = Builder::new(["watch", "--no-tui", "--all", "--dst", &address, "--backend", backend])
            .ns(&ns)
            .sys(sys)
            .start();
        let before = ns.snmp().unwrap();
        let each = 20_000 / i64::from(slowness());
        // Faster than it can work a kernel drops packets of its own.
        let rate = 40_000 / slowness();
        storm.call(&format!("storm {address}:9 {each} {rate}"));
        storm.call(&format!("rawstorm {address}:7 {address}:9 {each} {rate}"));
        let truth = ns.snmp().unwrap().since(&before, "Tcp.OutRsts");
        assert_eq!(truth, 2 * each);
        let run = agent.stop();
        // A closed port answers without a socket: old kernels do not show that.
        let sent = if kernel::shows_resets_without_socket() { truth } else { 0 };
        let lost = run.total("lost");
        // A classic tracepoint's program is skipped where its processor is in another one (that of a test beside this
        // one); the kernel counts such, and the agent shows them as lost.
        let misses = |line: &serde_json::Value| line["recursion_misses"].as_i64().unwrap_or(0);
        let skipped =
            if backend == "tracepoint" { run.all(&json!({"type": "lost"})).iter().map(|l| misses(l)).sum() } else { 0 };
        for (figure, truth) in [("resets_sent", sent), ("resets_received", each)] {
            let counted = run.total(figure);
            assert!(
                counted <= truth && counted + skipped >= truth,
                "{backend}: {figure} {counted} of {truth}, {lost} lost"
            );
        }
        // Where the programs were loaded the direct way, such sockets have no entry in the kernel's table, but for those
        // that the ring had no room for or whose SYN was retransmitted. Loaded the slower way, each has one.
        if backend == "btf" && kernel::at_least(5, 12) {
            let entries = run.all(&json!({"type": "socket", "destroyed": true})).len() as i64;
            assert!(entries <= lost + each / 10, "{entries} entries of {each} sockets, {lost} lost");
        }
        // What the ring had no room for is said, and adds up.
        let lines = run.all(&json!({"type": "reset"})).len() as i64;
        assert!(lines + lost >= each + sent, "{backend}: {lines} lines and {lost} lost of {} resets", each + sent);
        if sent > 0 {
            run.one(&json!({"type": "reset", "direction": "sent", "socket": null_or_absent()}));
        }
    }
}

/// `null` as a value to match: a RST for no socket.
fn null_or_absent() -> serde_json::Value {
    json!({"$in": [null]})
}

/// SIGINT ends it within a second even while a storm goes on.
#[test]
fn interrupted_in_a_storm() {
    let ns = Ns::new("storm").unwrap();
    let storm = Workload::start(&ns);
    let address = format!("127.{}.{}.3", 100 + std::process::id() / 256 % 100, std::process::id() % 256);
    let agent = Builder::new(["watch", "--no-tui", "--all", "--dst", &address]).ns(&ns).start();
    storm.begin(&format!("storm {address}:9 100000000 0"));
    storm.begin(&format!("rawstorm {address}:7 {address}:9 100000000 0"));
    agent.expect_n(&json!({"type": "reset"}), 1000);
    let run = agent.stop();
    drop(storm);
    assert!(run.took < Duration::from_secs(1) * slowness(), "SIGINT took {:?}", run.took);
    assert_eq!(run.one(&json!({"type": "end"}))["reason"], "interrupted");
}
