//! `agent sockets`: one look, compared with what the sockets' own process says of them.

use std::time::{Duration, Instant};

use agent_tests::lab::Way;
use agent_tests::mounts::Sys;
use agent_tests::runner::{Builder, Run, binary};
use agent_tests::workload::Workload;
use serde_json::json;

use crate::scene::{PORT, Scene};

#[test]
fn every_socket_with_its_keepalive_truth() {
    for v6 in [false, true] {
        let s = Scene::new(v6);
        let (plain, kept) = (s.connect(PORT, "echo"), s.client.connect(s.server_at(PORT)));
        s.client.call(&format!("keepalive {} 77 7 5", kept.id));
        let pid = s.client.pid();
        let run = Builder::new(["sockets", "--json", "--pid", &pid.to_string()]).run();
        assert!(run.status.success(), "{}", run.describe());
        for c in [&plain, &kept] {
            run.one(&json!({
                "type": "socket", "socket": c.cookie, "local": c.local, "remote": c.remote, "state": "ESTABLISHED",
                "family": if v6 { "ipv6" } else { "ipv4" }, "netns": s.lab.client.inode().unwrap(),
                "owners": [{"pid": pid, "comm": "agt-workload", "fd": c.fd}],
            }));
        }
        run.one(&json!({"socket": plain.cookie, "keepalive": {"enabled": false, "idle_s": 7200, "count": 9}}));
        run.one(&json!({
            "socket": kept.cookie, "keepalive": {"enabled": true, "idle_s": 77, "interval_s": 7, "count": 5},
        }));
        assert_eq!(run.all(&json!({"type": "socket"})).len(), 2, "{}", run.describe());
        let table = Builder::new(["sockets", "--pid", &pid.to_string()]).run_text();
        assert!(table.contains(&plain.remote), "{table}");
    }
}

/// A filter leaves the rest out; a listener is shown as one.
#[test]
fn filtered() {
    let s = Scene::new(false);
    let listener = s.client.serve("127.0.0.1:7000".parse().unwrap(), "echo");
    let c = s.connect(PORT, "echo");
    let look = |more: &[&str]| {
        let run =
            Builder::new(["sockets", "--json", "--pid", &s.client.pid().to_string()]).args(more.iter().copied()).run();
        run.lines
    };
    let all = look(&[]);
    assert!(all.iter().any(|l| l["socket"] == listener.cookie.as_str() && l["state"] == "LISTEN"), "{all:?}");
    let some = look(&["--dst", "10.77.2.2:8080"]);
    assert_eq!(some.len(), 1, "{some:?}");
    assert_eq!(some[0]["socket"], c.cookie.as_str());
}

/// Without kernel programs the same look works through sock_diag.
#[test]
fn without_btf_and_tracefs() {
    let s = Scene::new(true);
    let c = s.connect(PORT, "echo");
    let contained = Workload::builder().ns(&s.lab.client).pidns().start();
    let d = contained.connect(s.server_at(PORT));
    let pids = [s.client.pid(), contained.pid()].map(|p| p.to_string());
    let run = Builder::new(["sockets", "--json", "--pid", &pids[0], "--pid", &pids[1]]).sys(Sys::NoTracefsNoBtf).run();
    run.one(&json!({"socket": c.cookie, "owners": [{"pid": s.client.pid()}]}));
    run.one(&json!({"socket": d.cookie, "owners": [{"pid": contained.pid()}]}));
}

/// Open files from which on the agent asks the kernel who holds what.
const MANY_FILES: &str = "files 10500";

/// With many open files the owners come from one walk in the kernel: the same ones, and those of processes whose
/// descriptors /proc does not show.
#[test]
fn owners_on_a_machine_with_many_files() {
    const STRANGER: u32 = 48_203;
    let s = Scene::new(false);
    let (own, shared) = (s.connect(PORT, "echo"), s.connect(PORT + 1, "echo"));
    let child = s.client.call(&format!("fork {}", shared.id))["pid"].as_u64().unwrap();
    let (pid, inside) = (u64::from(s.client.pid()), Workload::builder().ns(&s.lab.client).pidns().start());
    let contained = inside.connect(s.server_at(PORT));
    let look = || Builder::new(["sockets", "--all", "--json"]).ns(&s.lab.client).run();
    let stranger = || {
        let rights = "+bpf,+perfmon";
        Builder::new(["--reuid", &STRANGER.to_string(), "--clear-groups"])
            .args([format!("--inh-caps=-all,{rights}"), format!("--ambient-caps={rights}")])
            .args([format!("--bounding-set=-all,{rights}")])
            .arg(binary("agent", "AGENT_BIN"))
            .args(["sockets", "--all", "--json"])
            .program("setpriv".as_ref())
            .ns(&s.lab.client)
            .run()
    };
    let known = |run: &Run, whether: bool| {
        let owner = |pid: u64, fd: i64| json!({"pid": pid, "comm": "agt-workload", "fd": fd});
        let owners = |all: serde_json::Value| if whether { all } else { json!([]) };
        run.one(&json!({"socket": own.cookie, "state": "ESTABLISHED", "owners": owners(json!([owner(pid, own.fd)]))}));
        let found = run.one(&json!({"type": "socket", "socket": shared.cookie}));
        let pids: Vec<u64> = found["owners"].as_array().unwrap().iter().map(|o| o["pid"].as_u64().unwrap()).collect();
        assert_eq!(pids, if whether { vec![pid.min(child), pid.max(child)] } else { vec![] }, "{found}");
        let contained =
            json!({"socket": contained.cookie, "owners": owners(json!([owner(inside.pid().into(), contained.fd)]))});
        run.one(&contained);
        run.one(&json!({"state": "LISTEN", "local": {"$has": ":7000"}, "netns": s.lab.client.inode().unwrap()}));
        let all: Vec<_> = run.all(&json!({"type": "socket"})).iter().map(|l| l["socket"].clone()).collect();
        let distinct: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all.len(), distinct.len(), "a socket came twice");
    };
    s.client.serve("127.0.0.1:7000".parse().unwrap(), "echo");
    let other = Workload::start(&s.lab.server);
    known(&look(), true);
    other.call(MANY_FILES);
    known(&look(), true);
    // Programs for tracing make cookies from 5.12 on; before, owners are what /proc shows.
    known(&stranger(), agent_tests::kernel::at_least(5, 12));
}

/// One look ends with the causes that it allows: by the rules and thresholds of `watch`.
#[test]
fn one_look_names_causes() {
    for_both(|v6| {
        let s = Scene::new(v6);
        let port = |n: u16| s.server_at(PORT + n);
        let leak = s.connect(PORT, "close-after:300");
        s.client.call(&format!("ask {} 100", leak.id));
        let idle = s.connect(PORT + 1, "echo");
        let waits = s.connect(PORT + 2, "silent");
        s.client.call(&format!("send {} 500", waits.id));
        let healthy = s.connect(PORT + 3, "echo");
        s.client.call(&format!("keepalive {} 20 5 3", healthy.id));
        let stuck = s.connect(PORT + 4, "echo");
        std::thread::sleep(Duration::from_secs(28));
        s.lab.drop(Way::ToServer, PORT + 4);
        let op = s.client.begin(&format!("ask {} 900", stuck.id));
        let sent = Instant::now();
        std::thread::sleep(Duration::from_secs(4));
        let pid = s.client.pid().to_string();
        let run = Builder::new(["sockets", "--json", "--pid", &pid]).run();
        for (c, code) in
            [(&leak, "close-wait-leak"), (&idle, "no-keepalive"), (&waits, "app-waiting"), (&stuck, "idle-path-dead")]
        {
            let f = run.one(&json!({"type": "finding", "code": code, "status": "open", "sockets": [c.cookie]}));
            assert!(f["advice"][0].is_string() && f["evidence"][0]["text"].is_string(), "{f}");
        }
        run.none(&json!({"type": "finding", "sockets": [healthy.cookie]}));
        let hung = run.one(&json!({"code": "idle-path-dead"}));
        let idle_s = hung["numbers"]["idle_s"].as_f64().unwrap();
        assert!((idle_s - 28.0).abs() < 2.8, "{hung}");
        assert!(hung["gives_up_in_s"].as_f64().unwrap() > 900.0 - sent.elapsed().as_secs_f64(), "{hung}");
        let of = port(2).to_string();
        let text = Builder::new(["sockets", "--pid", &pid]).run_text();
        let below = text.split("with something wrong\n").nth(1).unwrap_or_else(|| panic!("{text}"));
        assert!(below.starts_with("\nidle-path-dead (") && below.contains("  fix: Close the stuck socket"), "{text}");
        assert!(below.contains("The network is fine") && below.contains(&of), "{text}");
        s.recover(op);
    });
}

fn for_both(story: impl Fn(bool) + Sync) {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| story(true));
        story(false);
        other.join().expect("IPv6 as IPv4");
    });
}
