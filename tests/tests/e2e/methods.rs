//! The ways into a process where they differ: MPTCP, 32-bit programs, an undo by injected system calls.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use agent_tests::lab::Lab;
use agent_tests::runner::{Builder, Run};
use agent_tests::workload::Workload;
use serde_json::{Value, json};

use crate::clients::start;

/// `agent keepalive --pid PID --json MORE`, remembering in `state`.
fn keepalive(pid: u32, state: &Path, more: &[&str]) -> Run {
    Builder::new(["keepalive", "--json", "--pid"]).arg(pid.to_string()).args(more.iter().copied()).state(state).run()
}

/// An MPTCP socket: pidfd and the guard reach it and its subflow; the other ways say plainly that they do not.
#[test]
fn mptcp() {
    let lab = Lab::new();
    let peer = start(&lab.client, &["python3", "mptcp.py"]);
    let c = peer.call("connect");
    let state = tempfile::tempdir().unwrap();
    let one = |run: &Run, result: &str, error: Value| {
        let line = json!({"type": "action", "socket": c["cookie"], "remote": c["remote"], "result": result});
        run.one(&crate::scene::with(line, json!({"error": error})));
    };
    one(&keepalive(peer.pid(), state.path(), &["--idle", "31s"]), "applied", Value::Null);
    assert_eq!(peer.call("options")["idle_s"], 31);
    let shown = |local: &Value| {
        let local = local.as_str().unwrap();
        let ss = || Command::new("ss").args(["-tnoH", "src", local]).output();
        String::from_utf8(lab.client.run(ss).unwrap().unwrap().stdout).unwrap()
    };
    assert!(shown(&c["local"]).contains("timer:(keepalive"), "its subflow: {}", shown(&c["local"]));
    let timeout = keepalive(peer.pid(), state.path(), &["--idle", "31s", "--user-timeout", "5s"]);
    one(&timeout, "failed", json!({"$has": "MPTCP socket: this kernel does not let TCP_USER_TIMEOUT be set"}));
    assert_eq!(timeout.status.code(), Some(1));
    let bpf = keepalive(peer.pid(), state.path(), &["--method", "bpf"]);
    one(&bpf, "failed", json!({"$has": "use --method pidfd"}));
    #[cfg(target_arch = "x86_64")]
    {
        let traced = keepalive(peer.pid(), state.path(), &["--method", "ptrace"]);
        assert_eq!(traced.all(&json!({"result": "failed", "error": {"$has": "use --method pidfd"}})).len(), 2);
    }
    // Its subflow's owner is found in both ways that there are to find owners.
    let other = Workload::start(&lab.server);
    for command in ["files 1", "files 10500"] {
        other.call(command);
        let run = Builder::new(["sockets", "--all", "--json"]).ns(&lab.client).run();
        run.one(&json!({"local": c["local"], "mptcp": true, "owners": [{"pid": peer.pid()}]}));
    }
    let host = c["remote"].as_str().unwrap();
    let close = Builder::new(["close", "--json", "--yes", "--dst", host, "--pid", &peer.pid().to_string()]).run();
    one(&close, "failed", json!({"$has": "MPTCP socket"}));
    assert_eq!(peer.call("options")["idle_s"], 31, "a refusal changed something");
    one(&keepalive(peer.pid(), state.path(), &["--undo"]), "applied", Value::Null);
    let options = peer.call("options");
    assert_eq!((&options["keepalive"], &options["idle_s"]), (&json!(false), &json!(7200)));

    let guard = Builder::new(["guard", "--json", "--idle", "41s", "--pid", &peer.pid().to_string()]).spawn();
    guard.expect_n(&json!({"type": "action", "method": "pidfd", "result": "applied"}), 2);
    let new = peer.call("connect");
    guard.expect(&json!({"type": "action", "method": "bpf", "remote": new["remote"], "result": "applied"}));
    assert!(shown(&new["local"]).contains("timer:(keepalive"), "{}", shown(&new["local"]));
    guard.interrupt();
}

/// What an undo by injected system calls restores, and what it leaves alone.
#[test]
#[cfg(target_arch = "x86_64")]
fn undo_by_injection() {
    let lab = Lab::new();
    let target = Workload::start(&lab.client);
    let at = "127.0.0.1:4000".parse().unwrap();
    target.serve(at, "echo");
    let [off, on, changed] = [(); 3].map(|()| target.connect(at));
    target.call(&format!("keepalive {} 77 7 5", on.id));
    let options = |id: u64| {
        let mut now = target.call(&format!("options {id}"));
        now["op"] = Value::Null;
        now
    };
    let before = [options(off.id), options(on.id)];
    let state = tempfile::tempdir().unwrap();
    let ptrace = |more: &[&str]| keepalive(target.pid(), state.path(), &[&["--method", "ptrace"], more].concat());
    ptrace(&["--idle", "30s", "--user-timeout", "9s"]);
    assert_eq!(options(on.id)["idle_s"], 30);
    target.call(&format!("keepalive {} 200 20 2", changed.id));
    let undone = ptrace(&["--undo"]);
    for (c, was) in [&off, &on].into_iter().zip(&before) {
        undone.one(&json!({"action": "undo", "method": "ptrace", "socket": c.cookie, "result": "applied"}));
        assert_eq!(options(c.id), *was);
    }
    undone.one(&json!({"socket": changed.cookie, "result": "unchanged", "note": {"$has": "its application set"}}));
    assert_eq!(options(changed.id)["idle_s"], 200);
    let again = ptrace(&["--undo"]);
    assert!(again.status.success() && again.lines.is_empty(), "{}", again.describe());
}

/// The smallest 32-bit program: waits in pause(2), by the 32-bit system call gate.
fn program_of_32_bits(path: &Path) -> Child {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    // mov eax, 29; int 0x80; jmp back
    let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 3] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let size = HEADERS + code.len() as u32;
    for word in [1, 0, BASE, BASE, size, size, 5, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    std::fs::write(path, file).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(path).spawn().unwrap_or_else(|e| panic!("this kernel runs no 32-bit programs: {e}"))
}

/// A 32-bit program's registers and system calls are others: it is refused, with the reason, and goes on.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_program_is_not_traced() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = program_of_32_bits(&directory.path().join("small"));
    let run = keepalive(child.id(), directory.path(), &["--method", "ptrace"]);
    let lives = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let why = json!({"$has": "it is a 32-bit program"});
    run.one(&json!({"type": "action", "pid": child.id(), "result": "failed", "error": why}));
    assert!(lives, "the refusal hurt it");
}
