//! The network and the workloads by themselves, measured by the kernel's own counters: a test of the agent proves
//! nothing if the thing it looks at did not happen.

use std::time::Duration;

use agent_tests::lab::{Invalid, Lab, Nat, Way};
use agent_tests::wait::until;
use agent_tests::workload::Workload;

const PORT: u16 = 8080;

#[test]
fn echo_in_both_families() {
    let lab = Lab::new();
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    for v6 in [false, true] {
        let at = Lab::SERVER.port(v6, PORT);
        server.serve(at, "echo");
        let c = client.connect(at);
        assert_eq!(c.remote, at.to_string());
        assert_eq!(server.accepted(&c).local, at.to_string());
        client.call(&format!("ask {} 1000", c.id));
    }
}

#[test]
fn dropped_packets_are_retransmitted() {
    let lab = Lab::new();
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    for v6 in [false, true] {
        let at = Lab::SERVER.port(v6, PORT);
        server.serve(at, "echo");
        let c = client.connect(at);
        client.call(&format!("ask {} 10", c.id));
        let before = lab.client.snmp().unwrap();
        lab.drop(Way::ToServer, PORT);
        let op = client.begin(&format!("ask {} 10", c.id));
        until("three retransmits", || lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs") >= 3);
        assert!(lab.hits() >= 4, "the rule has not caught the segment and its repetitions");
        lab.clear_rules();
        assert_eq!(client.answer(op)["ok"], true, "with the rule gone the data must get through");
    }
}

#[test]
fn random_loss_is_repaired() {
    let lab = Lab::new();
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    server.serve(Lab::SERVER.port(false, PORT), "sink");
    let c = client.connect(Lab::SERVER.port(false, PORT));
    lab.lose(Way::ToServer, PORT, 30);
    client.call(&format!("send {} 40000000", c.id));
    let retransmitted = lab.client.snmp().unwrap().get("Tcp.RetransSegs");
    assert!(retransmitted > 10, "only {retransmitted} retransmits of 4 MB at 3 % loss");
    // One packet of the rule is up to 64 kB of segments (GSO).
    assert!(lab.hits() > 0);
}

#[test]
fn resets_of_every_kind() {
    let lab = Lab::new();
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    for v6 in [false, true] {
        let sent = |ns: &agent_tests::lab::Ns| ns.snmp().unwrap().get("Tcp.OutRsts");
        // A closed port.
        let before = sent(&lab.server);
        assert_eq!(client.fail(&format!("connect {}", Lab::SERVER.port(v6, 9))), "ECONNREFUSED");
        assert_eq!(sent(&lab.server), before + 1);
        // A server that closes with linger 0.
        let at = Lab::SERVER.port(v6, PORT);
        server.serve(at, "reset-after:10");
        let c = client.connect(at);
        client.call(&format!("send {} 10", c.id));
        assert_eq!(client.fail(&format!("end {}", c.id)), "ECONNRESET");
        assert_eq!(sent(&lab.server), before + 2);
        // A router that rejects: the server sends nothing.
        let at = Lab::SERVER.port(v6, PORT + 1);
        server.serve(at, "echo");
        let c = client.connect(at);
        lab.reject(PORT + 1);
        client.call(&format!("send {} 10", c.id));
        assert_eq!(client.fail(&format!("end {}", c.id)), "ECONNRESET");
        assert_eq!((lab.hits(), sent(&lab.server)), (1, before + 2));
        lab.clear_rules();
        // A forged one, from the router in the server's name: only the exact sequence number counts.
        let at = Lab::SERVER.port(v6, PORT + 2);
        server.serve(at, "echo");
        let c = client.connect(at);
        client.call(&format!("ask {} 10", c.id));
        let next = client.call(&format!("next {}", c.id))["seq"].as_u64().unwrap();
        let forger = Workload::start(&lab.router);
        forger.forge_reset(&c.remote, &c.local, (next + 100) % (1 << 32), 55, 4242);
        client.call(&format!("ask {} 10", c.id));
        let next = client.call(&format!("next {}", c.id))["seq"].as_u64().unwrap();
        forger.forge_reset(&c.remote, &c.local, next, 55, 4242);
        assert_eq!(client.fail(&format!("end {}", c.id)), "ECONNRESET");
    }
}

/// Idle for longer than the NAT remembers: what becomes of the next request in each of its three tempers.
#[test]
fn a_nat_that_forgets() {
    let tempers = [(Invalid::Drop, None), (Invalid::Reject, Some("ECONNRESET")), (Invalid::Remap, Some("ECONNRESET"))];
    std::thread::scope(|scope| {
        for (invalid, error) in tempers {
            for v6 in [false, true] {
                scope.spawn(move || forgetting(invalid, v6, error));
            }
        }
    });
}

fn forgetting(invalid: Invalid, v6: bool, error: Option<&str>) {
    let lab = Lab::new();
    lab.nat(Nat { established_s: 2, invalid });
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    let at = Lab::SERVER.port(v6, PORT);
    server.serve(at, "echo");
    let c = client.connect(at);
    client.call(&format!("ask {} 10", c.id));
    let seen = server.event(&serde_json::json!({"event": "accepted"}));
    let router = Lab::ROUTER.ip(v6).to_string();
    assert!(seen["remote"].as_str().unwrap().contains(&router), "not translated: {seen}");
    // A margin of 2 s over the NAT's memory: its clock counts whole jiffies, the machine may be busy.
    std::thread::sleep(Duration::from_secs(4));
    let op = client.begin(&format!("ask {} 10", c.id));
    match error {
        Some(name) => assert_eq!(client.answer(op)["errno"], name, "{invalid:?}, v6 {v6}"),
        None => {
            until("RTOs into the void", || lab.client.snmp().unwrap().get("Tcp.RetransSegs") >= 3);
            assert_eq!(client.poll(op, Duration::ZERO), None, "the request was answered although the NAT forgot it");
        }
    }
}

#[test]
fn inherited_and_passed_sockets_work() {
    let lab = Lab::new();
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    let at = Lab::SERVER.port(false, PORT);
    server.serve(at, "echo");
    let c = client.connect(at);
    let child = client.call(&format!("fork {}", c.id))["pid"].as_u64().unwrap();
    client.call(&format!("close {}", c.id));
    let answer = client.call(&format!("child {child} ask 0 10"));
    assert_eq!(answer["received"], 10, "{answer}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pass").display().to_string();
    let other = Workload::builder().ns(&lab.server2).pidns().start();
    let take = other.begin(&format!("take {path}"));
    other.event(&serde_json::json!({"event": "taking"}));
    let c = client.connect(at);
    client.call(&format!("pass {} {path}", c.id));
    client.call(&format!("close {}", c.id));
    let taken = other.answer(take);
    assert_eq!(taken["cookie"], c.cookie.as_str());
    other.call(&format!("ask {} 10", taken["id"]));
}

#[test]
fn storms_count_exactly() {
    let lab = Lab::new();
    let storm = Workload::start(&lab.client);
    let before = lab.client.snmp().unwrap();
    assert_eq!(storm.call("storm 127.0.0.1:9 5000 0")["count"], 5000);
    assert_eq!(storm.call("storm [::1]:9 5000 40000")["count"], 5000);
    assert_eq!(lab.client.snmp().unwrap().since(&before, "Tcp.OutRsts"), 10_000);
    storm.call("rawstorm 127.0.0.1:7 127.0.0.1:9 5000 0");
    storm.call("rawstorm [::1]:7 [::1]:9 5000 40000");
    assert_eq!(lab.client.snmp().unwrap().since(&before, "Tcp.OutRsts"), 20_000);
}

#[test]
fn a_server_that_stops_reading_and_one_that_hangs_up() {
    let lab = Lab::new();
    let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.server));
    server.serve(Lab::SERVER.port(false, PORT), "half:1000");
    let c = client.connect(Lab::SERVER.port(false, PORT));
    let op = client.begin(&format!("send {} 50000000", c.id));
    until("zero window", || {
        lab.client.snmp().unwrap().get("TcpExt.TCPFromZeroWindowAdv") >= 0
            && lab.server.snmp().unwrap().get("TcpExt.TCPToZeroWindowAdv") >= 1
    });
    assert_eq!(client.poll(op, Duration::ZERO), None);
    server.serve(Lab::SERVER.port(false, PORT + 1), "close-after:50");
    let c = client.connect(Lab::SERVER.port(false, PORT + 1));
    assert_eq!(client.call(&format!("end {}", c.id))["eof"], true);
}
