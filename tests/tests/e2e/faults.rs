//! What goes wrong around the agent: processes and namespaces that vanish, kernels' tables that are full, the agent
//! itself killed, stopped or left without a terminal.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agent_tests::lab::Ns;
use agent_tests::mounts::hiding_proc;
use agent_tests::runner::{Builder, binary};
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use serde_json::{Value, json};

use crate::scene::{PORT, Scene, watch};

/// An address that only this test uses: all loopbacks look alike to `--all`.
fn address(host: u8) -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{host}", 100 + pid / 256 % 100, pid % 256)
}

/// A line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

#[test]
fn the_target_is_killed_at_any_moment() {
    for delay in [0, 3, 10, 40, 120] {
        let s = Scene::new(delay % 2 == 0);
        s.connect(PORT, "echo");
        let agent = watch(s.client.pid(), "btf").spawn();
        s.client.begin(&format!("storm {} 100000000 0", s.server_at(9)));
        std::thread::sleep(Duration::from_millis(delay));
        s.client.kill();
        let run = agent.finish();
        assert!(!run.stderr.contains("panicked"), "{}", run.describe());
        if run.lines.is_empty() {
            // It was gone before the agent had looked.
            assert_eq!(run.status.code(), Some(1), "{}", run.describe());
            assert!(run.stderr.contains("no such process"), "{}", run.stderr);
        } else {
            run.check_frame();
            run.one(&json!({"type": "end", "reason": {"$has": "exited"}}));
        }
    }
}

/// SIGKILL: the guard's programs go with it, and what was set stays set.
#[test]
fn a_killed_guard_leaves_nothing_attached() {
    let s = Scene::new(false);
    s.server.serve(s.server_at(PORT), "echo");
    let open = s.client.connect(s.server_at(PORT));
    let guard = Builder::new(["guard", "--json", "--idle", "41s", "--pid", &s.client.pid().to_string()])
        .args(["--dst", &s.server_at(PORT).to_string()])
        .spawn();
    guard.expect(&json!({"type": "action", "socket": open.cookie, "result": "applied"}));
    let during = s.client.connect(s.server_at(PORT));
    let keepalive = |id: u64| s.client.call(&format!("options {id}"))["keepalive"].clone();
    assert_eq!(keepalive(during.id), true);
    guard.signal(libc::SIGKILL);
    guard.finish();
    // The kernel frees a dead process's links after its end was told.
    until("a new connection without the guard", || {
        let c = s.client.connect(s.server_at(PORT));
        keepalive(c.id) == false
    });
    assert_eq!((keepalive(open.id), keepalive(during.id)), (json!(true), json!(true)));
}

/// Stopped for longer than anything is buffered: the counts are exact, and what the ring had no room for is told.
#[test]
fn stopped_and_continued() {
    let ns = Ns::new("stop").unwrap();
    let storm = Workload::start(&ns);
    let at = address(11);
    let agent = Builder::new(["watch", "--no-tui", "--all", "--ring-size", "64KiB", "--dst", &at]).ns(&ns).start();
    agent.signal(libc::SIGSTOP);
    let before = ns.snmp().unwrap();
    storm.call(&format!("storm {at}:9 20000 0"));
    std::thread::sleep(Duration::from_secs(10));
    agent.signal(libc::SIGCONT);
    storm.call(&format!("storm {at}:9 100 100"));
    let truth = ns.snmp().unwrap().since(&before, "Tcp.OutRsts");
    let run = agent.stop();
    run.check_frame();
    assert_eq!(run.total("resets_received"), truth);
    let lines = run.all(&json!({"type": "reset", "direction": "received"})).len() as i64;
    let lost = run.total("lost");
    assert!(lines < truth, "64 KiB cannot hold 20,000 resets: nothing is proved");
    assert!(lines + lost >= truth, "{lines} lines and {lost} lost of {truth}");
    // It sees again what comes now.
    assert!(lines >= 100, "{lines} lines");
}

/// More sockets than the kernel's table was made for.
#[test]
fn more_sockets_than_the_cap() {
    let s = Scene::new(true);
    s.server.serve(s.server_at(PORT), "manual");
    let agent = watch(s.client.pid(), "btf").args(["--max-sockets", "64"]).start();
    s.client.call(&format!("pool {} 300", s.server_at(PORT)));
    let lost = agent.expect(&json!({"type": "lost"}));
    let run = agent.stop();
    run.check_frame();
    assert!(run.total("lost") > 0, "{lost}");
    // The ones that found room are told of as ever.
    assert!(run.all(&json!({"type": "state", "to": "ESTABLISHED"})).len() >= 64);
}

#[test]
fn short_connections_by_the_thousand() {
    let ns = Ns::new("short").unwrap();
    let storm = Workload::start(&ns);
    let at = address(12);
    let agent = Builder::new(["watch", "--no-tui", "--pid", &storm.pid().to_string()]).ns(&ns).start();
    let before = ns.snmp().unwrap();
    let each = 40_000 / i64::from(agent_tests::wait::slowness());
    // Faster than it can work a kernel drops packets of its own.
    let rate = 20_000 / agent_tests::wait::slowness();
    storm.call(&format!("storm {at}:9 {each} {rate}"));
    let truth = ns.snmp().unwrap().since(&before, "Tcp.OutRsts");
    assert_eq!(truth, each);
    let run = agent.stop();
    run.check_frame();
    assert_eq!(run.total("resets_received"), each);
}

/// A namespace with everything in it goes away while `--all` watches; another comes.
#[test]
fn a_namespace_is_deleted() {
    let at = address(13);
    let first = Ns::new("first").unwrap();
    let agent = Builder::new(["watch", "--no-tui", "--all", "--dst", &at]).start();
    let doomed = Workload::start(&first);
    doomed.serve(format!("{at}:{PORT}").parse().unwrap(), "echo");
    let c = doomed.connect(format!("{at}:{PORT}").parse().unwrap());
    agent.expect(&json!({"type": "socket", "socket": c.cookie}));
    doomed.kill();
    drop(first);
    let second = Ns::new("second").unwrap();
    let w = Workload::start(&second);
    w.fail(&format!("connect {at}:9"));
    agent.expect(&json!({"type": "reset", "direction": "received", "pid": w.pid()}));
    let run = agent.stop();
    run.check_frame();
}

/// A `/proc` that hides other users' processes: a user sees its own, and is told why not the others; root sees all.
#[test]
fn a_proc_that_hides_processes() {
    const USER: u32 = 65_534;
    let ns = Ns::new("hide").unwrap();
    let at = format!("127.0.0.1:{PORT}");
    let (own, other) = (Workload::builder().ns(&ns).uid(USER).start(), Workload::start(&ns));
    other.serve(at.parse().unwrap(), "echo");
    let c = own.connect(at.parse().unwrap());
    let agent = |args: &[&str]| {
        let proc = hiding_proc().unwrap();
        Builder::new(args.iter().copied()).ns(&ns).mount(proc, Path::new("/proc"))
    };
    let (own_pid, other_pid) = (own.pid().to_string(), other.pid().to_string());
    let listed = agent(&["sockets", "--json", "--pid", &own_pid]).uid(USER).run_text();
    assert!(listed.contains(&c.cookie), "{listed}");
    let run = agent(&["watch", "--no-tui", "--pid", &other_pid]).uid(USER).run();
    assert_eq!(run.status.code(), Some(1), "{}", run.describe());
    assert!(run.stderr.contains("hidden from this user"), "{}", run.stderr);
    let watch = agent(&["watch", "--no-tui", "--pid", &other_pid]).start();
    own.call(&format!("ask {} 100", c.id));
    watch.expect(&json!({"type": "socket", "remote": c.local}));
    watch.stop().check_frame();
}

/// Times come from the clock that nobody sets: a step of the wall clock moves none of them.
#[test]
fn a_step_of_the_wall_clock() {
    const STEP: i64 = 100;
    let s = Scene::new(false);
    let agent = watch(s.client.pid(), "btf").start();
    let nanoseconds = |line: &Value| line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_nanosecond();
    let reset = |n: usize| {
        s.client.fail(&format!("connect {}", s.server_at(9)));
        nanoseconds(&agent.expect_n(&json!({"type": "reset", "direction": "received"}), n)[n - 1])
    };
    let (first, begun) = (reset(1), std::time::Instant::now());
    let second = {
        let _stepped = Stepped::by(STEP);
        reset(2)
    };
    let between = (second - first) as f64 / 1e9;
    assert!(between >= 0.0 && between <= begun.elapsed().as_secs_f64() + 1.0, "{between} s apart");
    let run = agent.stop();
    run.check_frame();
    let times: Vec<i128> = run.lines.iter().map(nanoseconds).collect();
    assert!(times.iter().all(|t| (t - first).abs() < i128::from(STEP) * 900_000_000), "{times:?}");
}

/// CLOCK_REALTIME set forward, and back when this goes.
struct Stepped(i64);

impl Stepped {
    fn by(seconds: i64) -> Self {
        step(seconds);
        Self(seconds)
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        step(-self.0);
    }
}

fn step(seconds: i64) {
    use rustix::time::{ClockId, clock_gettime, clock_settime};
    let mut t = clock_gettime(ClockId::Realtime);
    t.tv_sec += seconds;
    clock_settime(ClockId::Realtime, t).expect("root may set the clock");
}

/// The terminal goes away.
#[test]
fn sighup_ends_it_in_order() {
    let s = Scene::new(false);
    let agent = Builder::watch(s.client.pid()).start();
    agent.signal(libc::SIGHUP);
    let run = agent.finish();
    run.check_frame();
    run.one(&json!({"type": "end"}));
}

/// What docs/PRIVILEGES.md says is kept, and nothing else; and no program that it might start could gain more.
#[test]
fn only_the_needed_capabilities_remain() {
    const DAC_READ_SEARCH: u32 = 2;
    const NET_ADMIN: u32 = 12;
    const SYS_PTRACE: u32 = 19;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let s = Scene::new(false);
    let agent = Builder::watch(s.client.pid()).start();
    let wanted: u64 =
        [DAC_READ_SEARCH, NET_ADMIN, SYS_PTRACE, PERFMON, BPF].iter().map(|capability| 1 << capability).sum();
    let of = |name: &str| u64::from_str_radix(&status(agent.pid(), name), 16).unwrap();
    // The session line comes a moment before.
    until("capabilities dropped", || of("CapPrm:") == wanted);
    assert_eq!((of("CapEff:"), of("CapBnd:"), of("CapInh:"), of("CapAmb:")), (wanted, wanted, 0, 0));
    assert_eq!(status(agent.pid(), "NoNewPrivs:"), "1");
    agent.stop().check_frame();
}

/// A process names itself and its file: what it writes there must not steer the terminal of who looks.
#[test]
fn a_name_with_escape_sequences() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("\u{1b}[31mevil\u{7}");
    std::fs::copy(binary("agt-workload", "AGT_WORKLOAD_BIN"), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let ns = Ns::new("evil").unwrap();
    let evil = Workload::builder().ns(&ns).program([&program]).start();
    let at = format!("127.0.0.1:{PORT}");
    evil.serve(at.parse().unwrap(), "echo");
    evil.connect(at.parse().unwrap());
    let pid = evil.pid().to_string();
    for args in [
        vec!["sockets", "--pid", &pid],
        vec!["sockets", "--json", "--pid", &pid],
        vec!["keepalive", "--dry-run", "--idle", "30s", "--pid", &pid],
        vec!["watch", "--no-tui", "--duration", "500ms", "--pid", &pid],
    ] {
        let mut child = Builder::new(args.clone()).ns(&ns).spawn_with(std::process::Stdio::piped());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut text).unwrap();
        child.wait().unwrap();
        // The table of an action names no process.
        assert!(args[0] == "keepalive" || text.contains("evil"), "{args:?}: {text}");
        let raw = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        assert_eq!(raw, None, "{args:?}: {text:?}");
    }
    let listed = Builder::new(["sockets", "--json", "--pid", &pid]).ns(&ns).run_text();
    let first: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!(first["owners"][0]["comm"], "\u{fffd}[31mevil\u{fffd}", "{first}");
}
