//! `agent sockets`: one look, compared with what the sockets' own process says of them.

use agent_tests::runner::{Builder, Sys};
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
