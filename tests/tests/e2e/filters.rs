//! `--dst`: what is not asked for causes no event.

use agent_tests::lab::Lab;
use agent_tests::workload::Workload;
use serde_json::json;

use crate::scene::{PORT, Scene, watch};

#[test]
fn one_of_two_servers() {
    for (v6, backend) in [(false, "btf"), (true, "btf"), (false, "tracepoint"), (true, "tracepoint")] {
        let wanted = [Lab::SERVER.ip(v6).to_string(), if v6 { "fd00:77:0:2::/64" } else { "10.77.2.0/24" }.to_owned()];
        let port = [Lab::SERVER.port(v6, 9).to_string()];
        let s = Scene::new(v6);
        let second = Workload::start(&s.lab.server2);
        second.serve(Lab::SERVER2.port(v6, PORT), "reset-after:10");
        for dst in wanted.iter().chain(&port) {
            let agent = watch(s.client.pid(), backend).args(["--dst", dst]).start();
            let other = s.client.connect(Lab::SERVER2.port(v6, PORT));
            s.client.call(&format!("send {} 10", other.id));
            assert_eq!(s.client.fail(&format!("end {}", other.id)), "ECONNRESET");
            s.client.fail(&format!("connect {}", Lab::SERVER2.port(v6, 9)));
            // Another port of the wanted server counts for an address and a network, not for an address with port.
            s.client.fail(&format!("connect {}", Lab::SERVER.port(v6, 10)));
            let (op, refused) = s.client.connecting(Lab::SERVER.port(v6, 9));
            s.client.answer(op);
            agent.expect(&json!({"type": "reset", "socket": refused}));
            let run = agent.stop();
            let expected = if port.contains(dst) { 1 } else { 2 };
            assert_eq!(run.total("resets_received"), expected, "--dst {dst}, {backend}");
            assert_eq!(run.all(&json!({"type": "reset"})).len() as i64, expected, "--dst {dst}, {backend}");
            run.none(&json!({"socket": other.cookie}));
            run.none(&json!({"remote": {"$has": Lab::SERVER2.ip(v6).to_string()}}));
        }
    }
}

/// One socket, two destinations one after the other: each of its connections is judged for itself.
#[test]
fn a_socket_that_connects_anew() {
    let s = Scene::new(false);
    let second = Workload::start(&s.lab.server2);
    second.serve(Lab::SERVER2.port(false, PORT), "reset-after:10");
    s.server.serve(s.server_at(PORT), "echo");
    for backend in ["btf", "tracepoint"] {
        let agent = watch(s.client.pid(), backend).args(["--dst", &Lab::SERVER.ip(false).to_string()]).start();
        let c = s.client.connect(s.server_at(PORT));
        agent.expect(&json!({"type": "state", "socket": c.cookie, "to": "ESTABLISHED"}));
        s.client.call(&format!("reconnect {} {}", c.id, Lab::SERVER2.port(false, PORT)));
        s.client.call(&format!("send {} 10", c.id));
        assert_eq!(s.client.fail(&format!("end {}", c.id)), "ECONNRESET");
        assert_eq!(s.client.fail(&format!("reconnect {} {}", c.id, s.server_at(9))), "ECONNREFUSED");
        agent.expect(&json!({"type": "reset", "remote": s.server_at(9).to_string(), "direction": "received"}));
        let run = agent.stop();
        assert_eq!(run.total("resets_received"), 1, "{backend}: {}", run.describe());
        run.none(&json!({"type": "reset", "remote": {"$has": Lab::SERVER2.ip(false).to_string()}}));
    }
}

/// A v4-mapped socket speaks IPv4: an IPv4 filter finds it, and its lines show IPv4.
#[test]
fn a_v4_mapped_socket() {
    let s = Scene::new(false);
    for backend in ["btf", "tracepoint"] {
        let agent = watch(s.client.pid(), backend).args(["--dst", "10.77.2.2"]).start();
        assert_eq!(s.client.fail("connect [::ffff:10.77.2.2]:9"), "ECONNREFUSED");
        agent.expect(&json!({"type": "reset", "pid": s.client.pid(), "remote": "10.77.2.2:9", "state": "SYN_SENT"}));
        agent.stop();
    }
}

/// A name is resolved, and shown beside the address.
#[test]
fn a_name() {
    let s = Scene::new(false);
    let agent = watch(s.client.pid(), "btf").args(["--dst", "localhost:9"]).start();
    s.client.fail(&format!("connect {}", s.server_at(9)));
    let (op, cookie) = s.client.connecting("127.0.0.1:9".parse().unwrap());
    s.client.answer(op);
    agent.expect(&json!({"type": "reset", "socket": cookie, "remote": "127.0.0.1:9"}));
    let run = agent.stop();
    assert_eq!(run.total("resets_received"), 1);
    run.one(&json!({"type": "socket", "socket": cookie, "remote_name": "localhost"}));
}
