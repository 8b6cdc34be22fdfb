//! Who owns a socket: each case that an observer easily gets wrong.

use std::process::{Command, Stdio};

use agent_tests::lab::Way;
use agent_tests::runner::{Builder, binary};
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use serde_json::json;

use crate::scene::{PORT, Scene, about, watch, with};

fn owners(pid: u32) -> serde_json::Value {
    json!({"owners": [{"pid": pid, "comm": "agt-workload", "fd": {"$some": true}}]})
}

/// A watched server: a connection accepted before the agent came and one accepted after, in both families.
#[test]
fn accepted_by_a_watched_server() {
    for (v6, backend) in [(false, "tracepoint"), (true, "btf")] {
        let s = Scene::new(v6);
        let old = s.connect(PORT, "manual");
        let old_end = s.server.accepted(&old);
        let agent = watch(s.server.pid(), backend).start();
        agent.expect(&with(
            json!({"type": "socket", "socket": old_end.cookie, "direction": "incoming", "remote": old_end.remote}),
            owners(s.server.pid()),
        ));
        let new = s.client.connect(s.server_at(PORT));
        let new_end = s.server.accepted(&new);
        s.lab.drop(Way::ToClient, PORT);
        for end in [&old_end, &new_end] {
            s.server.call(&format!("send {} 100", end.id));
            agent.expect(&about("retransmit", &s.server, end));
        }
        agent.expect(&with(json!({"type": "socket", "socket": new_end.cookie}), owners(s.server.pid())));
        s.lab.clear_rules();
        let run = agent.stop();
        // The client's ends of the same connections are not the server's.
        run.none(&json!({"socket": new.cookie}));
        run.none(&json!({"socket": old.cookie}));
    }
}

/// A socket that only a child still holds, watched through the parent with `--tree`.
#[test]
fn inherited_by_a_child() {
    let s = Scene::new(false);
    let agent = watch(s.client.pid(), "btf").arg("--tree").start();
    let c = s.connect(PORT, "echo");
    let child = s.client.call(&format!("fork {}", c.id))["pid"].as_u64().unwrap() as u32;
    agent.expect(&json!({
        "type": "socket", "socket": c.cookie,
        "owners": [{"pid": s.client.pid(), "fd": c.fd}, {"pid": child, "fd": c.fd}],
    }));
    s.client.call(&format!("close {}", c.id));
    s.lab.drop(Way::ToServer, PORT);
    s.client.call(&format!("child {child} send 0 100"));
    agent.expect(&json!({"type": "retransmit", "socket": c.cookie, "pid": child, "remote": c.remote}));
    // A socket that the child opens itself.
    s.client.call(&format!("child {child} connect {}", s.server_at(9)));
    agent.expect(&json!({"type": "reset", "pid": child, "remote": s.server_at(9).to_string(), "state": "SYN_SENT"}));
    agent.stop();
}

/// The child alone is watched: what it inherited is its, what the parent opens is not.
#[test]
fn a_child_watched_by_itself() {
    let s = Scene::new(false);
    let c = s.connect(PORT, "echo");
    let child = s.client.call(&format!("fork {}", c.id))["pid"].as_u64().unwrap() as u32;
    let agent = watch(child, "btf").start();
    agent.expect(&json!({"type": "socket", "socket": c.cookie, "owners": [{"pid": child}]}));
    s.client.fail(&format!("connect {}", s.server_at(9)));
    let op = s.stall(&c, PORT, 3);
    agent.expect(&json!({"type": "retransmit", "socket": c.cookie}));
    s.recover(op);
    let run = agent.stop();
    run.none(&json!({"type": "reset"}));
}

/// A socket that came over a Unix socket (SCM_RIGHTS), to a process in other namespaces, which alone holds it then.
#[test]
fn passed_to_another_process() {
    let s = Scene::new(false);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pass").display().to_string();
    let receiver = Workload::builder().ns(&s.lab.server2).pidns().start();
    let agent = watch(receiver.pid(), "btf").start();
    let c = s.connect(PORT, "echo");
    let take = receiver.begin(&format!("take {path}"));
    receiver.event(&json!({"event": "taking"}));
    s.client.call(&format!("pass {} {path}", c.id));
    s.client.call(&format!("close {}", c.id));
    let id = receiver.answer(take)["id"].as_u64().unwrap();
    s.lab.drop(Way::ToServer, PORT);
    receiver.call(&format!("send {id} 100"));
    agent.expect(&about("retransmit", &receiver, &c));
    agent.expect(&with(json!({"type": "socket", "socket": c.cookie}), owners(receiver.pid())));
    agent.stop();
}

/// A process in another pid and network namespace, as in a container, watched from the host.
#[test]
fn in_another_pid_and_network_namespace() {
    for (v6, backend) in [(false, "btf"), (true, "tracepoint")] {
        let s = Scene::new(v6);
        let contained = Workload::builder().ns(&s.lab.client).pidns().start();
        s.server.serve(s.server_at(PORT), "echo");
        let old = contained.connect(s.server_at(PORT));
        let agent = watch(contained.pid(), backend).start();
        agent.expect(&with(
            json!({"type": "socket", "socket": old.cookie, "netns": s.lab.client.inode().unwrap()}),
            owners(contained.pid()),
        ));
        let new = contained.connect(s.server_at(PORT));
        s.lab.drop(Way::ToServer, PORT);
        for c in [&old, &new] {
            contained.call(&format!("send {} 100", c.id));
            agent.expect(&about("retransmit", &contained, c));
        }
        contained.fail(&format!("connect {}", agent_tests::lab::Lab::ROUTER.port(v6, 9)));
        agent.expect(&json!({"type": "reset", "pid": contained.pid(), "direction": "received", "state": "SYN_SENT"}));
        agent.stop();
    }
}

/// With `--all`: the connect of a process that has ended before anybody could look at it.
#[test]
fn a_process_that_ended_at_once() {
    let s = Scene::new(false);
    let at = s.server_at(9).to_string();
    let agent = Builder::new(["watch", "--no-tui", "--all", "--dst", &at]).ns(&s.lab.client).start();
    let ended: Vec<u32> = std::iter::repeat_with(|| {
        let mut command = Command::new(binary("agt-workload", "AGT_WORKLOAD_BIN"));
        s.lab.client.enter_on_exec(&mut command);
        let mut child = command.args(["do", "connect", &at]).stderr(Stdio::null()).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "the refused connect's code");
        child.id()
    })
    .take(8)
    .collect();
    for pid in ended {
        agent.expect(&json!({"type": "state", "from": "CLOSE", "to": "SYN_SENT", "pid": pid, "remote": at}));
        agent.expect(&json!({"type": "socket", "owners": [{"pid": pid}], "family": "ipv4", "remote": at}));
    }
    agent.stop();
}

/// A busy process that is no target, in the same namespace and to the same server, causes no line.
#[test]
fn an_unrelated_process_causes_no_line() {
    let s = Scene::new(false);
    let quiet = s.connect(PORT, "echo");
    let agent = watch(s.client.pid(), "btf").start();
    agent.expect(&json!({"type": "socket", "socket": quiet.cookie}));
    let busy = Workload::start(&s.lab.client);
    let before = s.lab.client.snmp().unwrap();
    busy.call(&format!("storm {} 2000 0", s.server_at(9)));
    let other = busy.connect(s.server_at(PORT));
    s.lab.drop(Way::ToServer, PORT);
    busy.call(&format!("send {} 100", other.id));
    until("the busy process's retransmits", || s.lab.client.snmp().unwrap().since(&before, "Tcp.RetransSegs") >= 3);
    s.lab.clear_rules();
    // The watched process does one thing at the end: its line must come, and so nothing from before is still under way.
    let (op, refused) = s.client.connecting(s.server_at(9));
    s.client.answer(op);
    agent.expect(&json!({"type": "reset", "socket": refused}));
    let run = agent.stop();
    // `lost` speaks of the machine: program runs that the kernel skipped in the storms of tests beside this one.
    for line in &run.lines {
        let socket = line["socket"].as_str().unwrap_or_default();
        assert!(
            matches!(line["type"].as_str(), Some("session" | "end" | "finding" | "exit" | "lost"))
                || [quiet.cookie.as_str(), &refused].contains(&socket),
            "a line of a process that is no target: {line}"
        );
    }
    assert_eq!(run.total("resets_received"), 1);
    assert_eq!(run.total("retransmits"), 0);
}

/// The owner dies with data unacknowledged: the kernel goes on retransmitting, and the line still has the owner's name.
#[test]
fn after_the_owner_has_exited() {
    let s = Scene::new(false);
    let survivor = Workload::start(&s.lab.client);
    s.server.serve(s.server_at(PORT), "echo");
    let dying = Workload::start(&s.lab.client);
    let c = dying.connect(s.server_at(PORT));
    let pid = dying.pid();
    let agent = Builder::watch(survivor.pid()).args(["--pid", &pid.to_string()]).start();
    agent.expect(&json!({"type": "socket", "socket": c.cookie, "owners": [{"pid": pid}]}));
    s.lab.drop(Way::ToServer, PORT);
    dying.call(&format!("send {} 100", c.id));
    dying.finish();
    agent.expect_n(&json!({"type": "retransmit", "socket": c.cookie, "state": "FIN_WAIT1"}), 2);
    let run = agent.stop();
    let late = run.last(&json!({"type": "retransmit", "socket": c.cookie}));
    assert_eq!(late["pid"], pid, "{late}");
    let socket = run.last(&json!({"type": "socket", "socket": c.cookie}));
    assert_eq!(socket["owners"][0]["pid"], pid, "{socket}");
    assert_eq!(socket["owners"][0]["comm"], "agt-workload", "{socket}");
}
