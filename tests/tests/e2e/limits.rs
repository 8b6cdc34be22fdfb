//! What the agent learns of idle limits, and what `agent probe` finds: real servers, real NATs.

use std::path::Path;
use std::time::{Duration, Instant};

use agent_tests::lab::{Invalid, Lab, Nat};
use agent_tests::nginx::Nginx;
use agent_tests::runner::Builder;
use agent_tests::wait::slowness;
use agent_tests::workload::{Conn, Workload};
use serde_json::{Value, json};

use crate::clients::start;
use crate::scene::{PORT, watch};

/// The learned limits of the destination at `address`, from the state directory alone.
fn limits(state: &Path, address: &str) -> Value {
    let run = Builder::new(["limits", "--json", address]).state(state).run();
    assert!(run.status.success(), "{}", run.describe());
    assert_eq!(run.lines.len(), 1, "one destination: {}", run.describe());
    run.lines[0].clone()
}

fn near(found: &Value, truth: f64, share: f64) {
    let found = found.as_f64().unwrap_or_else(|| panic!("no figure: {found}"));
    assert!((found - truth).abs() <= truth * share * f64::from(slowness()), "found {found}, the truth is {truth}");
}

fn median(samples: &Value) -> Value {
    let mut all: Vec<f64> = samples["recent_s"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().map_or(Value::Null, Value::from)
}

/// Three pooled connections of http.client, used once, then idle until the server closes them.
#[test]
fn server_limits_are_learned_and_kept() {
    let lab = Lab::new();
    let state = tempfile::tempdir().unwrap();
    let at = |port| Lab::SERVER.port(false, port);
    let _servers = [Nginx::start(&lab.server, at(8002), "2s"), Nginx::start(&lab.server, at(8005), "5s")];
    let _node = start(&lab.server, &["node", "node_server.mjs", &at(8003).ip().to_string(), "8003", "2000"]);
    let client = Workload::start(&lab.client);
    let learn = |port: u16, n: usize| -> Vec<Conn> {
        let conns: Vec<Conn> = (0..n).map(|_| client.connect(at(port))).collect();
        for c in &conns {
            client.call(&format!("http {}", c.id));
        }
        conns
    };
    let agent = watch(client.pid(), "btf").ns(&lab.client).state(state.path()).start();
    // The truth is what a client sees: Node adds a second of its own to what it is told.
    let mut ends = Vec::new();
    for port in [8002, 8003, 8005] {
        let conns = learn(port, 3);
        ends.push((port, Instant::now(), client.begin(&format!("end {}", conns[2].id))));
    }
    let truths: Vec<(u16, f64)> = ends
        .into_iter()
        .map(|(port, since, op)| {
            assert_eq!(client.answer(op)["ok"], true);
            (port, since.elapsed().as_secs_f64())
        })
        .collect();
    agent.expect_n(&json!({"type": "state", "remote": at(8005).to_string(), "to": "CLOSE_WAIT"}), 3);
    agent.stop();
    for (port, truth) in truths {
        let l = limits(state.path(), &at(port).to_string());
        assert_eq!(l["server_close"]["count"], 3, "{l}");
        near(&median(&l["server_close"]), truth, 0.1);
        assert!(l["advice"]["pool_timeout_s"].as_f64().unwrap() < truth, "{l}");
        assert_eq!(l["advice"]["keepalive_idle_s"], Value::Null, "keepalive does not help here: {l}");
    }
    // Another run adds to it.
    let agent = watch(client.pid(), "btf").ns(&lab.client).state(state.path()).start();
    learn(8002, 1);
    agent.expect(&json!({"type": "state", "remote": at(8002).to_string(), "to": "CLOSE_WAIT"}));
    let run = agent.stop();
    // What earlier runs knew is told when the destination is met, what this one adds as it is learned.
    let told = run.all(&json!({"type": "limits", "remote": at(8002).to_string()}));
    let counts: Vec<_> = told.iter().map(|l| l["server_closes"]["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [3, 4], "{}", run.describe());
    assert_eq!(told[0]["keepalive_idle_s"], Value::Null);
    assert!(told[0]["pool_timeout_s"].as_f64().unwrap() < 2.0, "{}", told[0]);
    assert_eq!(limits(state.path(), &at(8002).to_string())["server_close"]["count"], 4);
}

/// Connections behind a NAT of 3 s: idle for less, they survive; for more, they are swallowed or reset.
fn nat_limit(invalid: Invalid, kind: &str) {
    let lab = Lab::new();
    lab.nat(Nat { established_s: 3, invalid });
    let state = tempfile::tempdir().unwrap();
    let server = Workload::start(&lab.server);
    let client = Workload::start(&lab.client);
    let at = Lab::SERVER.port(false, PORT);
    server.serve(at, "echo");
    let agent = watch(client.pid(), "btf").ns(&lab.client).state(state.path()).start();
    let (short, long): (Vec<Conn>, Vec<Conn>) = (0..6).map(|_| client.connect(at)).partition(|c| c.id % 2 == 0);
    for c in short.iter().chain(&long) {
        client.call(&format!("ask {} 100", c.id));
    }
    std::thread::sleep(Duration::from_millis(2_500));
    for c in &short {
        client.call(&format!("ask {} 100", c.id));
    }
    std::thread::sleep(Duration::from_millis(650));
    let ops: Vec<_> = long.iter().map(|c| client.begin(&format!("ask {} 100", c.id))).collect();
    for c in &long {
        match invalid {
            Invalid::Drop => {
                agent.expect_n(&json!({"type": "retransmit", "socket": c.cookie, "kind": "rto"}), 2);
            }
            _ => {
                agent.expect(
                    &json!({"type": "reset", "socket": c.cookie, "direction": "received", "origin": "middlebox"}),
                );
            }
        }
    }
    // One more look, so that the answers to the short ones are seen.
    agent.expect(&json!({"type": "sample", "socket": short[0].cookie}));
    std::thread::sleep(Duration::from_millis(1_100));
    agent.stop();
    drop(ops);
    let l = limits(state.path(), &at.to_string());
    assert_eq!(l[kind]["count"], long.len() as u64, "{l}");
    near(&median(&l[kind]), 3.0, 0.1);
    near(&l["longest_survivor_s"], 2.5, 0.1);
    assert_eq!(l["advice"]["keepalive_idle_s"], 1, "{l}");
    assert_eq!(l["buckets"][0]["failed"], long.len() as u64);
}

#[test]
fn a_nat_that_drops_is_learned() {
    nat_limit(Invalid::Drop, "path_drop");
}

#[test]
fn a_nat_that_resets_is_learned() {
    nat_limit(Invalid::Reject, "path_reset");
}

/// `agent probe` in the client's namespace; the report it gives as JSON.
fn probe(lab: &Lab, words: &[&str]) -> Value {
    let run = Builder::new(["probe", "--json"]).args(words.iter().copied()).ns(&lab.client).run();
    assert!(run.status.success(), "{}", run.describe());
    run.lines[0].clone()
}

#[test]
fn probe_finds_a_nat_that_drops_and_its_advice_works() {
    let lab = Lab::new();
    lab.nat(Nat { established_s: 3, invalid: Invalid::Drop });
    let at = Lab::SERVER.port(false, PORT);
    let _nginx = Nginx::start(&lab.server, at, "300s");
    let r = probe(&lab, &[&at.to_string(), "--http", "/", "--max", "60s"]);
    assert_eq!(r["mechanism"], "path_drops", "{r}");
    near(&r["estimate_s"], 3.0, 0.2);
    assert_eq!(r["keepalive_helps"], true, "{r}");
    let idle = r["keepalive_idle_s"].as_u64().unwrap();
    // The advice, applied from outside to a client behind the same NAT, keeps its connection.
    let client = Workload::start(&lab.client);
    let c = client.connect(at);
    client.call(&format!("http {}", c.id));
    let (pid, idle) = (client.pid().to_string(), format!("{idle}s"));
    let run =
        Builder::new(["keepalive", "--json", "--pid", &pid, "--idle", &idle, "--interval", &idle, "--count", "3"])
            .run();
    run.one(&json!({"type": "action", "socket": c.cookie, "result": "applied"}));
    std::thread::sleep(Duration::from_secs(7));
    let before = lab.client.snmp().unwrap();
    client.call(&format!("http {}", c.id));
    assert_eq!(lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs"), 0);
}

#[test]
fn probe_finds_a_nat_that_resets() {
    let lab = Lab::new();
    lab.nat(Nat { established_s: 3, invalid: Invalid::Reject });
    let at = Lab::SERVER.port(true, PORT);
    let _nginx = Nginx::start(&lab.server, at, "300s");
    let r = probe(&lab, &[&at.to_string(), "--http", "/", "--max", "60s"]);
    assert_eq!(r["mechanism"], "reset", "{r}");
    assert_eq!(r["reset_origin"], "middlebox", "{r}");
    near(&r["estimate_s"], 3.0, 0.2);
    assert_eq!(r["keepalive_helps"], true, "{r}");
}

#[test]
fn probe_finds_a_servers_limit_and_none_on_a_free_path() {
    let lab = Lab::new();
    let (limited, free) = (Lab::SERVER.port(false, 8005), Lab::SERVER.port(false, 8300));
    let _servers = [Nginx::start(&lab.server, limited, "5s"), Nginx::start(&lab.server, free, "300s")];
    let r = probe(&lab, &[&limited.to_string(), "--http", "/", "--max", "60s"]);
    assert_eq!((&r["mechanism"], &r["keepalive_helps"]), (&json!("server_closes"), &json!(false)), "{r}");
    near(&r["estimate_s"], 5.0, 0.2);
    // Without a protocol the path alone is tested.
    let r = probe(&lab, &[&free.to_string(), "--max", "6s"]);
    assert_eq!((&r["limit"], &r["s"]), (&json!("none_below"), &json!(6.0)), "{r}");
}
