//! Actions beyond the single socket: the guard, thousands at once, few rights, and a process that is only traced.

use std::os::unix::fs::chown;
use std::process::Command;

use agent_tests::lab::Lab;
use agent_tests::runner::{Builder, binary};
use agent_tests::workload::{Conn, Workload};
use serde_json::{Value, json};

use crate::clients::start;
use crate::scene::{PORT, Scene};

const OTHER_PORT: u16 = PORT + 1;

fn options(owner: &Workload, c: &Conn) -> Value {
    owner.call(&format!("options {}", c.id))
}

/// The timer that `ss -tno` shows for a connection, e.g. `keepalive`; empty if none.
fn timer(s: &Scene, c: &Conn) -> String {
    let out = s.lab.client.run(|| Command::new("ss").args(["-tnoH", "src", &c.local]).output()).unwrap().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let shown = text.split("timer:(").nth(1).unwrap_or_default();
    shown.split(',').next().unwrap_or_default().to_owned()
}

/// New connections to the destination get keepalive before their SYN, of the process and of its children; others do
/// not; and nobody does after the guard's end.
#[test]
fn the_guard_sees_every_new_connection() {
    for v6 in [false, true] {
        let s = Scene::new(v6);
        for port in [PORT, OTHER_PORT] {
            s.server.serve(s.server_at(port), "echo");
        }
        let open = s.client.connect(s.server_at(PORT));
        let stranger = Workload::start(&s.lab.client);
        let guard = Builder::new(["guard", "--json", "--tree", "--idle", "41s", "--interval", "7s", "--count", "4"])
            .args(["--pid", &s.client.pid().to_string(), "--dst", &s.server_at(PORT).to_string()])
            .spawn();
        // The open one comes last: then the guard is in place for the new ones.
        let wanted = json!({"enabled": true, "idle_s": 41, "interval_s": 7, "count": 4});
        guard.expect(&json!({"type": "action", "socket": open.cookie, "result": "applied", "after": wanted}));

        for _ in 0..3 {
            let c = s.client.connect(s.server_at(PORT));
            guard.expect(&json!({
                "type": "action", "action": "keepalive", "method": "bpf", "socket": c.cookie, "pid": s.client.pid(),
                "remote": c.remote, "before": {"enabled": false}, "after": wanted, "result": "applied",
            }));
            let now = options(&s.client, &c);
            assert_eq!((&now["keepalive"], &now["idle_s"]), (&json!(true), &json!(41)));
            assert_eq!(timer(&s, &c), "keepalive");
        }
        let child = s.client.call("fork")["pid"].as_u64().unwrap();
        let of_child = s.client.call(&format!("child {child} connect {}", s.server_at(PORT)));
        guard.expect(&json!({"type": "action", "pid": child, "socket": of_child["cookie"], "result": "applied"}));

        let elsewhere = s.client.connect(s.server_at(OTHER_PORT));
        let not_ours = stranger.connect(s.server_at(PORT));
        let end = guard.interrupt();
        assert!(end.status.success(), "{}", end.describe());
        assert!(end.stderr.contains("guarded 4 new connections"), "{}", end.describe());
        let after = s.client.connect(s.server_at(PORT));
        for (owner, c) in [(&s.client, &elsewhere), (&stranger, &not_ours), (&s.client, &after)] {
            assert_eq!(options(owner, c)["keepalive"], false);
            assert_eq!(timer(&s, c), "");
            end.none(&json!({"socket": c.cookie}));
        }
        child_ends(&s, child);
    }
}

fn child_ends(s: &Scene, child: u64) {
    // Its end closes the pipe; the answer is that.
    s.client.call(&format!("child {child} exit 0"));
}

/// A guard of one process ends with it.
#[test]
fn the_guard_ends_with_its_process() {
    let s = Scene::new(false);
    let doomed = Workload::start(&s.lab.client);
    s.server.serve(s.server_at(PORT), "echo");
    let open = doomed.connect(s.server_at(PORT));
    let guard = Builder::new(["guard", "--json", "--pid", &doomed.pid().to_string()]).spawn();
    guard.expect(&json!({"type": "action", "socket": open.cookie}));
    doomed.finish();
    assert!(guard.finish().status.success());
}

/// As many as the limit of open files of this machine allows, at most 10,000: each method changes all of them, reads
/// them back and puts them back.
#[test]
fn ten_thousand_sockets() {
    let s = Scene::new(false);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(20_000);
    let many = limit.saturating_sub(200).min(10_000);
    let raise = ["prlimit", "--nofile=20000:20000"];
    let workload = || {
        let program = raise.iter().map(Into::into).chain([binary("agt-workload", "AGT_WORKLOAD_BIN").into()]);
        Workload::builder().ns(&s.lab.client).program::<std::ffi::OsString>(program).start()
    };
    let (client, server) = (workload(), workload());
    let at = "127.0.0.1:4000";
    server.call(&format!("serve {at} manual"));
    client.call(&format!("pool {at} {many}"));
    let state = tempfile::tempdir().unwrap();
    for method in ["pidfd", "bpf"] {
        for (step, result) in [("--dry-run", "would_apply"), ("--json", "applied"), ("--undo", "applied")] {
            let run = Builder::new(["keepalive", "--json", "--pid", &client.pid().to_string(), "--method", method])
                .args((step != "--json").then_some(step))
                .state(state.path())
                .run();
            assert!(run.status.success(), "{}", run.describe());
            let done = run.all(&json!({"type": "action", "method": method, "result": result}));
            assert_eq!(done.len() as u64, many, "{method} {step}: {}", run.stderr);
        }
    }
}

/// Rights: a process of another user with exactly the four capabilities; one's own without any.
#[test]
fn few_rights() {
    const OWNER: u32 = 48_201;
    const STRANGER: u32 = 48_202;
    let lab = Lab::new();
    let target = Workload::builder().ns(&lab.client).uid(OWNER).start();
    let at = "127.0.0.1:4000".parse().unwrap();
    target.serve(at, "echo");
    let c = target.connect(at);
    let pid = target.pid().to_string();
    let state = tempfile::tempdir().unwrap();
    chown(state.path(), Some(STRANGER), Some(STRANGER)).unwrap();
    let four = "+sys_ptrace,+net_admin,+bpf,+perfmon";
    let with_four = |args: &[&str]| {
        let agent = binary("agent", "AGENT_BIN");
        Builder::new(["--reuid", &STRANGER.to_string(), "--clear-groups"])
            .args([format!("--inh-caps=-all,{four}"), format!("--ambient-caps={four}")])
            .args([format!("--bounding-set=-all,{four}")])
            .arg(agent)
            .args(args.iter().copied())
            .program("setpriv".as_ref())
            .ns(&lab.client)
            .state(state.path())
            .run()
    };
    for (method, idle) in [("pidfd", "11s"), ("bpf", "12s")] {
        let run = with_four(&["keepalive", "--json", "--pid", &pid, "--method", method, "--idle", idle]);
        run.one(&json!({"type": "action", "socket": c.cookie, "result": "applied", "method": method}));
        assert_eq!(format!("{}s", options(&target, &c)["idle_s"]), idle);
    }
    let run = Builder::new(["keepalive", "--json", "--pid", &pid]).uid(OWNER).run();
    run.one(&json!({"type": "action", "socket": c.cookie, "result": "applied", "method": "pidfd"}));
    let run = Builder::new(["keepalive", "--json", "--pid", &pid]).uid(STRANGER).run();
    assert_eq!(run.status.code(), Some(1));
    run.one(&json!({"type": "action", "result": "failed", "error": {"$has": "CAP_SYS_PTRACE"}}));
    let run = with_four(&["close", "--json", "--yes", "--pid", &pid, "--dst", "127.0.0.1:4000"]);
    run.one(&json!({"type": "action", "action": "close", "socket": c.cookie, "result": "applied"}));
}

/// 300 sockets of a busy server, each set by system calls inside one of its threads: no request fails.
#[test]
#[cfg(target_arch = "x86_64")]
fn injected_system_calls_disturb_nobody() {
    const CONNECTIONS: usize = 300;
    let lab = Lab::new();
    let (server, client) = (start(&lab.client, &["node", "busy.mjs"]), start(&lab.client, &["node", "busy.mjs"]));
    let port = server.call("serve 0")["port"].clone();
    let load = client.begin(&format!("load {port} {CONNECTIONS}"));
    client.event(&json!({"event": "loading"}));
    let run = Builder::new(["keepalive", "--json", "--method", "ptrace", "--pid", &server.pid().to_string()]).run();
    let done = run.all(&json!({"type": "action", "method": "ptrace", "result": "applied", "after": {"enabled": true}}));
    assert_eq!(done.len(), CONNECTIONS, "{}", run.describe());
    let again = Builder::new(["keepalive", "--json", "--dry-run", "--pid", &server.pid().to_string()]).run();
    assert_eq!(again.all(&json!({"type": "action", "result": "unchanged"})).len(), CONNECTIONS, "{}", again.describe());
    client.call("stop");
    let answer = client.answer(load);
    assert_eq!(answer["errors"], 0, "{answer}");
    assert!(answer["requests"].as_u64() > Some(2 * CONNECTIONS as u64), "{answer}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_filtered_process_is_not_traced() {
    let lab = Lab::new();
    let filtered = start(&lab.client, &["python3", "filtered.py"]);
    let pid = filtered.pid().to_string();
    let run = Builder::new(["keepalive", "--json", "--method", "ptrace", "--pid", &pid]).run();
    assert_eq!(run.status.code(), Some(1));
    run.one(&json!({"type": "action", "result": "failed", "error": {"$has": "seccomp"}}));
    // The usual method needs no system call inside it.
    let run = Builder::new(["keepalive", "--json", "--pid", &pid]).run();
    run.one(&json!({"type": "action", "method": "pidfd", "result": "applied"}));
}
