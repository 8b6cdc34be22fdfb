//! The file that keeps what was learned: killed at any moment, on a full disk, with two writers.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use agent_tests::lab::Lab;
use agent_tests::mounts::small_tmpfs;
use agent_tests::runner::{Agent, Builder};
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use serde_json::{Value, json};

/// The server closes idle connections after this: long enough to count as an idle limit.
const CLOSES: &str = "close-after:1500";
/// Agents that are killed.
const KILLS: u64 = 24;

/// A client and a server in one namespace.
struct Pair {
    client: Workload,
    at: std::net::SocketAddr,
    _server: Workload,
}

impl Pair {
    fn new(lab: &Lab, at: &str) -> Self {
        let (client, server) = (Workload::start(&lab.client), Workload::start(&lab.client));
        let at = at.parse().unwrap();
        server.serve(at, CLOSES);
        Self { client, at, _server: server }
    }

    fn watch(&self, state: &Path) -> Agent {
        Builder::watch(self.client.pid()).state(state).start()
    }

    /// One idle limit to be learned; returns when the agent has learned it.
    fn learn(&self, agent: &Agent) {
        let c = self.client.connect(self.at);
        self.client.call(&format!("ask {} 100", c.id));
        agent.expect(&json!({"type": "state", "socket": c.cookie, "to": "CLOSE_WAIT"}));
        until("its limit", || {
            agent.lines().iter().any(|l| l["type"] == "limits" && l["remote"] == self.at.to_string().as_str())
        });
        self.client.call(&format!("close {}", c.id));
    }
}

/// How many idle limits the file has of `address`; panics if the file cannot be read.
fn count(state: &Path, address: &str) -> u64 {
    let run = Builder::new(["limits", "--json", address]).state(state).run();
    assert!(run.status.success(), "{}", run.describe());
    run.lines.first().map_or(0, |l| l["server_close"]["count"].as_u64().unwrap())
}

/// A file of as many destinations as it holds at most, so that writing it takes its time.
fn large() -> String {
    let destinations: Vec<Value> = (0..1_000)
        .map(|n| {
            let samples: Vec<f64> = (0..32).map(|i| f64::from(n + i)).collect();
            let address = format!("10.9.{}.{}:443", n / 250, n % 250);
            let close = json!({"count": 32, "recent_s": samples});
            json!({"name": format!("host-{n}.example.com"), "address": address, "server_close": close, "updated": n})
        })
        .collect();
    json!({"version": 1, "destinations": destinations}).to_string()
}

#[test]
fn killed_at_any_moment() {
    let lab = Lab::new();
    let pair = Pair::new(&lab, "127.0.0.1:4001");
    let address = pair.at.to_string();
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("limits.json"), large()).unwrap();
    let mut before = 0;
    let mut saved = 0;
    for n in 0..KILLS {
        let agent = pair.watch(state.path());
        pair.learn(&agent);
        // Its end begins with saving: the kill comes somewhere in between, each time a little later.
        agent.signal(2);
        std::thread::sleep(Duration::from_millis(12 * n));
        agent.signal(9);
        agent.finish();
        let now = count(state.path(), &address);
        assert!(now == before || now == before + 1, "{before} became {now}");
        saved += u64::from(now > before);
        before = now;
        assert_eq!(count(state.path(), "host-7.example.com"), 32, "others were lost");
    }
    println!("{saved} of {KILLS} had saved before they were killed");
    let agent = pair.watch(state.path());
    pair.learn(&agent);
    agent.stop();
    assert_eq!(count(state.path(), &address), before + 1);
    let mut left: Vec<String> =
        std::fs::read_dir(state.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["limits.json", "limits.json.lock"], "something is left over");
}

/// Through the descriptor of a file system that is mounted nowhere here.
fn inside(disk: BorrowedFd<'_>, name: &str, flags: OFlags) -> File {
    File::from(openat(disk, name, flags, Mode::RUSR | Mode::WUSR).unwrap())
}

#[test]
fn on_a_full_disk() {
    let lab = Lab::new();
    let pair = Pair::new(&lab, "127.0.0.1:4002");
    let state = tempfile::tempdir().unwrap();
    let disk = small_tmpfs(64 * 1024).unwrap();
    let view = disk.as_fd().try_clone_to_owned().unwrap();
    let old = json!({"version": 1, "destinations": [
        {"name": null, "address": "192.0.2.1:443", "server_close": {"count": 1, "recent_s": [9.0]}, "updated": 1},
    ]})
    .to_string();
    let new = OFlags::CREATE | OFlags::WRONLY;
    inside(view.as_fd(), "limits.json", new).write_all(old.as_bytes()).unwrap();
    // The lock is there already: it is the content that finds no room.
    inside(view.as_fd(), "limits.json.lock", new);
    let mut filler = inside(view.as_fd(), "filler", new);
    while filler.write(&[7; 4096]).is_ok() {}
    drop(filler);
    let content = || {
        let mut text = String::new();
        inside(view.as_fd(), "limits.json", OFlags::RDONLY).read_to_string(&mut text).unwrap();
        text
    };
    let agent = Builder::watch(pair.client.pid()).state(state.path()).mount(disk, state.path()).start();
    pair.learn(&agent);
    // It tries every 10 s, and keeps what it could not write.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(content(), old, "the old content is gone");
    unlinkat(&view, "filler", AtFlags::empty()).unwrap();
    let run = agent.stop();
    assert!(run.stderr.contains("No space left"), "{}", run.stderr);
    let after: Value = serde_json::from_str(&content()).unwrap();
    let known: Vec<&str> =
        after["destinations"].as_array().unwrap().iter().map(|d| d["address"].as_str().unwrap()).collect();
    assert_eq!(known, ["127.0.0.1:4002", "192.0.2.1:443"], "what was learned meanwhile is saved once there is room");
}

#[test]
fn two_agents_at_once() {
    let lab = Lab::new();
    let pairs = ["127.0.0.1:4003", "127.0.0.1:4004"].map(|at| Pair::new(&lab, at));
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("limits.json"), large()).unwrap();
    for round in 1..=3 {
        let agents = pairs.each_ref().map(|p| p.watch(state.path()));
        for (pair, agent) in pairs.iter().zip(&agents) {
            pair.learn(agent);
        }
        // Both save at the same moment.
        for agent in &agents {
            agent.signal(2);
        }
        for agent in agents {
            let run = agent.finish();
            assert!(run.status.success(), "{}", run.describe());
        }
        for pair in &pairs {
            assert_eq!(count(state.path(), &pair.at.to_string()), round, "one overwrote the other");
        }
    }
    assert_eq!(count(state.path(), "host-999.example.com"), 32);
}
