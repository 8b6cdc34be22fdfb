//! Actions beyond the single socket: the guard, thousands at once, few rights, and a process that is only traced.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_tests::kernel;
use agent_tests::lab::{Lab, Ns};
use agent_tests::runner::{Builder, binary};
use agent_tests::workload::{Conn, Workload};
use serde_json::{Value, json};

use crate::clients::start;
use crate::scene::{PORT, Scene};

const OTHER_PORT: u16 = PORT + 1;

/// A cgroup of this test; what is left in it goes back to the root with its end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
        let dir = Path::new(mount.split(' ').nth(1).unwrap()).join(format!("agt-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let left = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in left.lines() {
            let _ = std::fs::write(self.0.parent().unwrap().join("cgroup.procs"), pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The ways into a running process that are not forced and that this kernel has.
pub fn methods() -> Vec<&'static str> {
    if kernel::programs_read_options() { vec!["pidfd", "bpf"] } else { vec!["pidfd"] }
}

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

        // What a program cannot read is not told; the process's own options below are the proof.
        let null = json!({"$in": [null]});
        let (before, after, note) = match kernel::programs_read_options() {
            true => (json!({"enabled": false}), wanted.clone(), null),
            false => (null.clone(), null, json!({"$has": "6.1"})),
        };
        for _ in 0..3 {
            let c = s.client.connect(s.server_at(PORT));
            guard.expect(&json!({
                "type": "action", "action": "keepalive", "method": "bpf", "socket": c.cookie, "pid": s.client.pid(),
                "remote": c.remote, "before": before, "after": after, "result": "applied", "note": note,
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

/// A guard by name with `--tree` sees what a later process of that name starts, whatever the children are called.
#[test]
fn the_guard_follows_the_children_of_a_name() {
    const NAME: &str = "agt-guarded";
    let s = Scene::new(false);
    s.server.serve(s.server_at(PORT), "echo");
    let guard = |more: &[&str]| {
        let guard = Builder::new(["guard", "--idle", "41s", "--comm", NAME]).args(more.iter().copied()).spawn();
        guard.expect_stderr("guarding new connections");
        guard
    };
    let connect = format!("connect {} {PORT}", s.server_at(PORT).ip());
    for (more, followed) in [(&["--tree"][..], true), (&[], false)] {
        let guard = guard(more);
        let later = start(&s.lab.client, &["python3", "named.py", NAME]);
        assert_eq!(later.call(&connect)["keepalive"], followed, "{more:?}");
        let end = guard.interrupt();
        assert!(end.stderr.contains(&format!("guarded {} new", u8::from(followed))), "{}", end.describe());
    }
}

/// `--cgroup` with `--pid`: that process, while it is in that cgroup.
#[test]
fn a_guard_of_a_process_in_a_cgroup() {
    let s = Scene::new(false);
    s.server.serve(s.server_at(PORT), "echo");
    let other = Workload::start(&s.lab.client);
    let cgroup = Cgroup::new();
    let guarded = |owner: &Workload, end: &str| {
        let c = owner.connect(s.server_at(PORT));
        assert_eq!(options(owner, &c)["keepalive"], !end.is_empty(), "{end}");
        c
    };
    let open = guarded(&s.client, "");
    let guard = || {
        Builder::new(["guard", "--json", "--cgroup", cgroup.0.to_str().unwrap()])
            .args(["--pid", &s.client.pid().to_string()])
            .spawn()
    };
    let outside = guard();
    outside.expect_stderr("guarding new connections");
    guarded(&s.client, "");
    outside.interrupt().none(&json!({"type": "action"}));
    for owner in [&s.client, &other] {
        cgroup.take(owner.pid());
    }
    let inside = guard();
    inside.expect(&json!({"type": "action", "method": "pidfd", "socket": open.cookie, "result": "applied"}));
    let new = guarded(&s.client, "in the cgroup and meant");
    inside.expect(&json!({"type": "action", "method": "bpf", "socket": new.cookie}));
    guarded(&other, "");
    let end = inside.interrupt();
    assert!(end.stderr.contains("guarded 1 new connection"), "{}", end.describe());
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
    for method in methods() {
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
    let with_four = |ns: Option<&Ns>, args: &[&str]| {
        let agent = binary("agent", "AGENT_BIN");
        let builder = Builder::new(["--reuid", &STRANGER.to_string(), "--clear-groups"])
            .args([format!("--inh-caps=-all,{four}"), format!("--ambient-caps={four}")])
            .args([format!("--bounding-set=-all,{four}")])
            .arg(agent)
            .args(args.iter().copied())
            .program("setpriv".as_ref())
            .state(state.path());
        if let Some(ns) = ns { builder.ns(ns) } else { builder }.run()
    };
    let inside = Some(&lab.client);
    for (method, idle) in methods().into_iter().zip(["11s", "12s"]) {
        let run = with_four(inside, &["keepalive", "--json", "--pid", &pid, "--method", method, "--idle", idle]);
        run.one(&json!({"type": "action", "socket": c.cookie, "result": "applied", "method": method}));
        assert_eq!(format!("{}s", options(&target, &c)["idle_s"]), idle);
    }
    let run = Builder::new(["keepalive", "--json", "--pid", &pid]).uid(OWNER).run();
    run.one(&json!({"type": "action", "socket": c.cookie, "result": "applied", "method": "pidfd"}));
    let run = Builder::new(["keepalive", "--json", "--pid", &pid]).uid(STRANGER).run();
    assert_eq!(run.status.code(), Some(1));
    run.one(&json!({"type": "action", "result": "failed", "error": {"$has": "CAP_SYS_PTRACE"}}));
    // From another network namespace only the duplicates reach it; what else it takes is said.
    let run = with_four(None, &["keepalive", "--json", "--pid", &pid, "--method", "pidfd", "--idle", "13s"]);
    run.one(&json!({"type": "action", "socket": c.cookie, "result": "applied"}));
    if kernel::programs_read_options() {
        let run = with_four(None, &["keepalive", "--json", "--pid", &pid, "--method", "bpf", "--idle", "14s"]);
        run.one(&json!({"type": "action", "result": "failed", "error": {"$has": "CAP_SYS_ADMIN"}}));
    }
    let close = ["close", "--json", "--yes", "--pid", &pid, "--dst", "127.0.0.1:4000"];
    let run = with_four(None, &close);
    run.one(&json!({"type": "action", "result": "failed", "error": {"$has": "CAP_SYS_ADMIN"}}));
    let run = with_four(inside, &close);
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
