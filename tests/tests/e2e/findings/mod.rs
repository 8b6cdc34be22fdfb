//! Each cause in the test network: the right code, the right socket, and numbers that agree with what the test itself
//! measured. Every scenario over IPv4 and IPv6, each at three timings, so that no rule is fitted to one.

mod clients;
mod resets;
mod silent;
mod stuck;

use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_tests::runner::{Builder, Run};
use agent_tests::wait::slowness;
use agent_tests::workload::{Conn, Workload};
use serde_json::{Value, json};

use crate::scene::{watch, with};

/// Where the recordings are that the rules are tested on without a kernel, and the thresholds they were made with.
fn recordings() -> PathBuf {
    // Without `..`: of the sources, an emulated machine has this folder only.
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("agent").join("tests/recordings")
}

/// Shorter thresholds than the defaults where time alone decides; what is not in the file keeps its default.
fn quick(client: &Workload) -> Builder<'static> {
    watch(client.pid(), "btf").arg("--config").arg(recordings().join("thresholds.toml"))
}

fn about(code: &str, sockets: &[&Conn]) -> Value {
    let cookies: Vec<&str> = sockets.iter().map(|c| c.cookie.as_str()).collect();
    with(json!({"type": "finding", "code": code, "status": "open"}), json!({"sockets": cookies}))
}

/// A number of a finding lies within a tenth of what the test knows.
fn near(finding: &Value, name: &str, truth: f64) {
    let got = finding["numbers"][name].as_f64().unwrap_or_else(|| panic!("no number {name}: {finding}"));
    assert!(
        (got - truth).abs() <= truth.abs() * 0.1 + 0.05 * f64::from(slowness()),
        "{name} is {got}, in truth {truth}: {finding}"
    );
}

/// Findings above `possible` are of these codes only; the first is the one that the scenario is about.
fn only(run: &Run, codes: &[&str]) {
    keep(run, codes[0]);
    for f in run.lines.iter().filter(|l| l["type"] == "finding" && l["confidence"] != "possible") {
        assert!(codes.iter().any(|c| f["code"] == *c), "beside {codes:?}: {f}");
    }
}

/// With `AGENT_KEEP_RECORDINGS=DIR` the run is kept as `DIR/CODE/SCENARIO.jsonl` (agent/tests/recordings/README.md).
fn keep(run: &Run, code: &str) {
    let Some(dir) = std::env::var_os("AGENT_KEEP_RECORDINGS") else { return };
    let scenario = std::thread::current().name().and_then(|n| n.rsplit("::").next()).unwrap_or("unnamed").to_owned();
    let dir = Path::new(&dir).join(code);
    std::fs::create_dir_all(&dir).expect("a directory for recordings");
    let mut text = String::new();
    for line in &run.lines {
        let mut line = line.clone();
        if line["type"] == "session" {
            // The paths of the machine it was made on are nobody's business.
            line["command"] = json!(["agent", "watch"]);
        }
        text.push_str(&line.to_string());
        text.push('\n');
    }
    std::fs::write(dir.join(format!("{scenario}.jsonl")), text).expect("a recording can be written");
}

fn sleep(d: Duration) {
    std::thread::sleep(d);
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// One story at several timings side by side, each in a network of its own: nearly all of their time is waiting.
fn side_by_side(name: &str, timings: &[u64], story: impl Fn(Duration) + Sync) {
    // An emulated machine is too slow for more than one at a time.
    let timings = if slowness() > 1 { &timings[..1] } else { timings };
    std::thread::scope(|scope| {
        let runs: Vec<_> = timings
            .iter()
            .map(|t| {
                let thread = std::thread::Builder::new().name(format!("{name}-{t}ms"));
                (t, thread.spawn_scoped(scope, || story(ms(*t))).expect("a thread"))
            })
            .collect();
        let failed: Vec<_> = runs.into_iter().filter_map(|(t, run)| run.join().is_err().then_some(t)).collect();
        assert!(failed.is_empty(), "{name} failed at {failed:?} ms; why is said above");
    });
}

/// Two tests per story: IPv4 and IPv6, each at the given timings in milliseconds.
macro_rules! stories {
    ($($story:ident: $v4:ident, $v6:ident, [$($ms:literal),+];)+) => {
        $(
            #[test]
            fn $v4() {
                super::side_by_side(stringify!($v4), &[$($ms),+], |t| $story(false, t));
            }
            #[test]
            fn $v6() {
                super::side_by_side(stringify!($v6), &[$($ms),+], |t| $story(true, t));
            }
        )+
    };
}
use stories;

/// A file of thresholds that is not there is an error, not a silent default.
#[test]
fn thresholds_that_cannot_be_read() {
    let out = Builder::new(["watch", "--no-tui", "--all", "--config", "/nonexistent/findings.toml"]).run();
    assert!(!out.status.success(), "{}", out.describe());
    assert!(out.stderr.contains("/nonexistent/findings.toml"), "{}", out.stderr);
}
