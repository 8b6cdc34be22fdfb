//! How a watch begins and ends.

use std::process::Stdio;
use std::time::Duration;

use agent_tests::runner::{Builder, Run, binary};
use agent_tests::wait::{slowness, until};
use agent_tests::workload::Workload;
use serde_json::json;

use crate::scene::{PORT, Scene, watch};

#[test]
fn run_gives_the_commands_exit_code() {
    agent_tests::lab::need_root();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let run = Builder::new(["run", "--", "sh", "-c", script]).run();
        assert_eq!(run.status.code(), Some(code), "{script}: {}", run.describe());
    }
    let run = Builder::new(["run", "--", "/no/such/program"]).run();
    assert_ne!(run.status.code(), Some(0));
    assert!(run.stderr.contains("/no/such/program"), "{}", run.stderr);
}

/// `run` sees the command's first packet.
#[test]
fn run_watches_from_the_first_packet() {
    let s = Scene::new(true);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.jsonl");
    let at = s.server_at(9).to_string();
    let workload = binary("agt-workload", "AGT_WORKLOAD_BIN");
    let run = Builder::new(["run", "--json"])
        .arg(&file)
        .arg("--")
        .arg(workload)
        .args(["do", "connect", &at])
        .ns(&s.lab.client)
        .run();
    assert_eq!(run.status.code(), Some(1), "the refused connect's code: {}", run.describe());
    let recording = Run::of_text(&std::fs::read_to_string(&file).unwrap(), Default::default());
    recording.check_frame();
    recording.one(&json!({"type": "state", "from": "CLOSE", "to": "SYN_SENT"}));
    recording.one(&json!({"type": "reset", "remote": at, "direction": "received", "pid": {"$some": true}}));
}

/// A process in another network namespace without a socket at the start: the right to enter that namespace is given up
/// before its first one comes. What must be read in there is opened in time, and followed when it changes.
#[test]
fn a_foreign_namespace_is_read_to_the_end() {
    let s = Scene::new(false);
    let agent = Builder::watch(s.client.pid()).start();
    let c = s.connect(PORT, "echo");
    let op = s.stall(&c, PORT, 1);
    agent.expect(&json!({"type": "retransmit", "socket": c.cookie, "gives_up_in_s": {"$ge": 60}}));
    // 15 by default: a quarter of an hour.
    s.lab.client.sysctl("net.ipv4.tcp_retries2", 5).unwrap();
    agent.expect(&json!({"type": "retransmit", "socket": c.cookie, "gives_up_in_s": {"$le": 30}}));
    s.recover(op);
    let run = agent.stop();
    let limits = run.one(&json!({"type": "session"}))["limits"].to_string();
    assert!(!limits.contains("cannot enter"), "{limits}");
    assert!(!run.stderr.contains("cannot enter"), "{}", run.stderr);
    // Only a sample from inside tells when it last sent.
    run.last(&json!({"type": "socket", "socket": c.cookie, "tcp": {"last_sent_ms": {"$some": true}}}));
}

#[test]
fn a_duration() {
    let s = Scene::new(false);
    let run = Builder::watch(s.client.pid()).args(["--duration", "700ms"]).start().finish();
    run.check_frame();
    let end = run.one(&json!({"type": "end", "reason": {"$has": "duration"}}));
    let lasted = end["duration_s"].as_f64().unwrap();
    assert!((0.7..5.0 * f64::from(slowness())).contains(&lasted), "{end}");
}

#[test]
fn sigterm_ends_it_in_order() {
    let s = Scene::new(false);
    let agent = Builder::watch(s.client.pid()).start();
    agent.signal(libc::SIGTERM);
    let run = agent.finish();
    run.check_frame();
    run.one(&json!({"type": "end", "totals": {"retransmits": 0, "resets_sent": 0}}));
}

/// The watched process ends: so does the watch, and says so.
#[test]
fn the_target_exits() {
    let s = Scene::new(false);
    let c = s.connect(PORT, "echo");
    let agent = watch(s.client.pid(), "btf").start();
    agent.expect(&json!({"type": "socket", "socket": c.cookie}));
    s.client.finish();
    let run = agent.finish();
    run.check_frame();
    run.one(&json!({"type": "end", "reason": {"$has": "exited"}}));
}

/// The reader of stdout goes away.
#[test]
fn stdout_is_closed() {
    let s = Scene::new(false);
    let mut child = watch(s.client.pid(), "btf").spawn_with(Stdio::piped());
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut String::new()).unwrap();
    drop(out);
    let mut status = None;
    until("the agent's end after SIGPIPE", || {
        s.client.fail(&format!("connect {}", s.server_at(9)));
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// SIGKILL loses at most the last second and leaves no half line before the end.
#[test]
fn killed_while_recording() {
    let s = Scene::new(false);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("killed.jsonl");
    let agent = watch(s.client.pid(), "btf").arg("--json").arg(&file).spawn();
    let storm = s.server_at(9);
    let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    until("the session line", || lines() >= 1);
    let first = s.client.begin(&format!("storm {storm} 1000 0"));
    s.client.answer(first);
    until("the first thousand resets on disk", || {
        std::fs::read_to_string(&file).unwrap_or_default().matches("\"type\":\"reset\"").count() >= 1000
    });
    s.client.begin(&format!("storm {storm} 100000000 0"));
    let before = lines();
    until("more lines", || lines() > before + 500);
    drop(agent);
    let text = std::fs::read_to_string(&file).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned() + "\n";
    let run = Run::of_text(&whole, Default::default());
    run.check_lines();
    assert!(run.all(&json!({"type": "reset"})).len() >= 1000);
}

/// The session line says what was asked for and what this machine is.
#[test]
fn the_session_line() {
    let s = Scene::new(false);
    let other = Workload::start(&s.lab.client);
    s.lab.client.sysctl("net.ipv4.tcp_retries2", 6).unwrap();
    let agent = Builder::watch(s.client.pid())
        .args(["--pid", &other.pid().to_string(), "--dst", "10.77.2.2:8080", "--tree"])
        .ns(&s.lab.client)
        .start();
    let line = agent.expect(&json!({
        "type": "session", "seq": 0, "schema": "agent.events/1", "arch": std::env::consts::ARCH,
        "targets": {"pids": [s.client.pid(), other.pid()], "tree": true, "destinations": ["10.77.2.2:8080"]},
        "sysctl": {"tcp_retries2": 6},
    }));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(line["kernel_release"], release.trim());
    let run = agent.stop();
    assert!(run.took < Duration::from_secs(2) * slowness(), "an idle watch took {:?} to end", run.took);
}
