//! The screen, driven by keys on a terminal: what a user sees and does while a real client is in trouble.

use agent_tests::runner::Builder;
use agent_tests::wait::until;
use serde_json::json;

use crate::scene::{PORT, Scene};

/// `k`, `K` and `x`, each after its confirmation, on a process in another network namespace: the agent has given its
/// capabilities away by then, all but those that these need.
#[test]
fn keys_change_and_close_real_sockets() {
    for v6 in [false, true] {
        let s = Scene::new(v6);
        let conns: Vec<_> = (0..3).map(|i| s.connect(PORT + i, "echo")).collect();
        let enabled =
            || conns.iter().filter(|c| s.client.call(&format!("options {}", c.id))["keepalive"] == true).count();
        let watch = Builder::new(["watch", "--pid", &s.client.pid().to_string()]);
        let mut t = watch.on_terminal();
        t.expect("3 sockets");
        assert_eq!(enabled(), 0);

        t.press("k");
        t.expect("force keepalive");
        assert_eq!(enabled(), 0, "before the confirmation nothing is changed");
        t.press("n");
        t.expect_that("the dialog gone", |screen| !screen.contains("force keepalive"));
        t.press("k");
        t.expect("Set SO_KEEPALIVE 30s/10s/3 on");
        t.press("y");
        t.expect("keepalive applied: 30s/10s/3");
        t.expect("30s/10s/3 ✓");
        assert_eq!(enabled(), 1);

        t.press("K");
        t.expect("on 2 sockets");
        t.press("y");
        until("keepalive on all three", || enabled() == 3);
        t.expect_that("three sockets with keepalive", |screen| screen.matches("30s/10s/3 ✓").count() == 3);

        t.press("x");
        t.expect("ECONNABORTED at once");
        t.press("y");
        t.expect("close applied");
        // TCP_CLOSE
        let closed = conns.iter().filter(|c| s.client.call(&format!("info {}", c.id))["state"] == 7).count();
        assert_eq!(closed, 1, "{}", t.text());
        t.press("q");
        assert!(t.ends_well());
    }
}

/// What cannot be done is said on the screen: keepalive cannot rescue what is in flight, `x` can.
#[test]
fn a_stuck_socket_is_shown_and_closed() {
    let s = Scene::new(false);
    let c = s.connect(PORT, "echo");
    let mut t = Builder::new(["watch", "--pid", &s.client.pid().to_string()]).on_terminal();
    t.expect("1 socket");
    let op = s.stall(&c, PORT, 3);
    t.expect("retransmit");
    t.press("x");
    t.expect("y  yes");
    t.press("y");
    t.expect("close applied");
    assert_eq!(s.client.answer(op)["errno"], json!("ECONNABORTED"));
    s.lab.clear_rules();
    t.press("q");
    assert!(t.ends_well());
}
