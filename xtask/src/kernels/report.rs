//! The table kernel × feature: what `agent doctor` said there, held against the tests that prove it.

use std::fmt::Write;

use super::boot::Answer;
use super::doctor::{self, Check};

/// A column: doctor's checks by name, and the tests that would fail if it were not so.
struct Feature {
    title: &'static str,
    checks: &'static [&'static str],
    tests: &'static [&'static str],
}

const FEATURES: [Feature; 8] = [
    Feature {
        title: "hooks",
        checks: &[
            "tcp_retransmit_skb",
            "tcp_retransmit_synack",
            "tcp_receive_reset",
            "tcp_send_reset",
            "inet_sock_set_state",
            "tcp_destroy_sock",
        ],
        tests: &["events::", "counts::", "filters::"],
    },
    Feature { title: "backend btf", checks: &["agent watch"], tests: &["events::btf", "attribution::"] },
    Feature { title: "backend tracepoint", checks: &["tracefs"], tests: &["events::tracepoint"] },
    Feature { title: "provenance", checks: &["who sent a RST"], tests: &["events::btf", "events::a_forged_reset"] },
    Feature { title: "guard", checks: &["agent guard"], tests: &["actions::the_guard"] },
    Feature { title: "iter", checks: &["iter/task_file", "iter/tcp"], tests: &["attribution::", "sockets::"] },
    Feature { title: "pidfd", checks: &["pidfd_getfd"], tests: &["keepalive::", "actions::few_rights"] },
    Feature { title: "findings", checks: &[], tests: &["findings::", "limits::"] },
];
/// Sections of doctor whose shortcomings are the kernel's; the others are about rights and settings.
const OF_THE_KERNEL: [&str; 4] = ["What works here", "Kernel", "Hooks", "Tried"];

/// What tests use besides their Rust workloads. Where it is missing, the test's first words are that.
const OTHER_CLIENTS: [&str; 4] = ["python3", "node", "nginx", "curl"];
/// libtest's exit code.
const TESTS_FAILED: i32 = 101;

/// One kernel's line.
#[derive(Debug)]
pub struct Row {
    pub release: String,
    /// As the kernel calls itself.
    full: String,
    cells: Vec<String>,
    pub passed: usize,
    pub failed: Vec<String>,
    /// Failed beside others, passed alone.
    pub unsteady: Vec<String>,
    /// The machine came to its end and its tests passed.
    pub ok: bool,
    seconds: u64,
    /// What doctor says this kernel cannot do.
    limits: Vec<String>,
}

/// Judges what a machine said; `release` names it if it said nothing.
pub fn row(release: &str, answer: &Answer) -> Row {
    let checks = doctor::checks(&answer.doctor);
    let (mut results, left_out) = results(&answer.tests);
    let unsteady = passed_alone(&mut results, &answer.again);
    let failed: Vec<String> = results.iter().filter(|(_, ok)| !ok).map(|(name, _)| name.clone()).collect();
    let cells = FEATURES.iter().map(|f| cell(f, &checks, &results)).collect();
    let limits = checks
        .iter()
        .filter(|c| OF_THE_KERNEL.contains(&c.section.as_str()) && matches!(c.status.as_str(), "limited" | "missing"))
        .map(|c| format!("{}: {}. {}", c.name, c.found, c.advice))
        .collect();
    Row {
        release: release.to_owned(),
        full: answer.release.clone(),
        cells,
        passed: results.len() - failed.len(),
        // The test program's own verdict counts those that were left out.
        ok: (answer.exit == Some(0) || (left_out && answer.exit == Some(TESTS_FAILED)))
            && failed.is_empty()
            && !results.is_empty()
            && !checks.is_empty(),
        failed,
        unsteady,
        seconds: answer.took.as_secs(),
        limits,
    }
}

/// `✓`: doctor says that it works and every test of it passed; `~`: works with limits; `–`: not on this kernel;
/// `FAILED`: a test of it did; `?`: no answer, or not tested in this run.
fn cell(feature: &Feature, checks: &[Check], results: &[(String, bool)]) -> String {
    let tested: Vec<&(String, bool)> =
        results.iter().filter(|(name, _)| feature.tests.iter().any(|t| name.starts_with(t))).collect();
    if tested.iter().any(|(_, ok)| !ok) {
        return "FAILED".into();
    }
    if tested.is_empty() {
        return "?".into();
    }
    let of = |name: &&str| checks.iter().find(|c| c.name == *name).map(|c| c.status.as_str());
    let said: Vec<Option<&str>> = feature.checks.iter().map(of).collect();
    let has = |status: &str| said.iter().flatten().any(|s| *s == status);
    if said.iter().any(Option::is_none) {
        "?".into()
    } else if has("missing") {
        "–".into()
    } else if has("limited") {
        "~".into()
    } else {
        "✓".into()
    }
}

/// Takes in what became of failed tests when they ran alone; returns the names of those that passed then.
fn passed_alone(all: &mut [(String, bool)], again: &[String]) -> Vec<String> {
    let (again, _) = results(again);
    let failed = all.iter_mut().filter(|(_, ok)| !ok);
    let passed = failed.filter(|(name, _)| again.iter().any(|(n, ok)| n == name && *ok));
    passed
        .map(|(name, ok)| {
            *ok = true;
            name.clone()
        })
        .collect()
}

/// `test NAME ... ok` and `test NAME ... FAILED`; and whether some were left out because their client or server is no
/// part of a machine, which says so itself.
fn results(lines: &[String]) -> (Vec<(String, bool)>, bool) {
    let result = |l: &String| {
        let (name, result) = l.strip_prefix("test ")?.split_once(" ... ")?;
        match result {
            "ok" => Some((name.to_owned(), true)),
            "FAILED" => Some((name.to_owned(), false)),
            _ => None,
        }
    };
    let without = without_client(lines);
    let all: Vec<(String, bool)> = lines.iter().filter_map(result).collect();
    let kept: Vec<_> = all.iter().filter(|(name, ok)| *ok || !without.contains(&name.as_str())).cloned().collect();
    let left_out = kept.len() < all.len();
    (kept, left_out)
}

/// Tests whose output, below `---- NAME stdout ----`, says that such a program could not be started.
fn without_client(lines: &[String]) -> Vec<&str> {
    let mut found = Vec::new();
    let mut name = "";
    for line in lines {
        if let Some(rest) = line.strip_prefix("---- ") {
            name = rest.split(' ').next().unwrap_or_default();
        } else if OTHER_CLIENTS.iter().any(|c| {
            line.starts_with(&format!("cannot start {c}: No such file")) || line.contains(&format!("the program '{c}'"))
        }) {
            found.push(name);
        }
    }
    found
}

/// The table, as Markdown that can also be read on a terminal.
pub fn table(rows: &[Row]) -> String {
    let mut head: Vec<String> = vec!["kernel".into()];
    head.extend(FEATURES.iter().map(|f| f.title.to_owned()));
    head.push("tests".into());
    let mut lines = vec![head];
    for row in rows {
        let mut line = vec![row.release.clone()];
        line.extend(row.cells.iter().cloned());
        line.push(match (row.ok, row.failed.len()) {
            (true, _) => format!("{} passed", row.passed),
            (false, 0) => format!("NO END after {} passed", row.passed),
            (false, n) => format!("{} passed, {n} FAILED", row.passed),
        });
        lines.push(line);
    }
    let columns = lines[0].len();
    let widths: Vec<usize> =
        (0..columns).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    lines.insert(1, widths.iter().map(|w| "-".repeat(*w)).collect());
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// docs/KERNELS.md.
pub fn document(rows: &[Row]) -> String {
    let mut text = String::from(
        "# Kernels\n\nWritten by `cargo xtask test --kernels`, which boots each of these Debian kernels in QEMU (software \
         emulation), asks `agent doctor` there what it can do, and runs the end-to-end tests whose clients and servers \
         are Rust; those with Python, Node.js or nginx run against the kernel of the machine that builds. Each line is of that kernel's last whole run.\n\n",
    );
    text += &table(rows);
    text += "\n✓ works and is tested there · ~ works with the limits below · – this kernel cannot · ? not tested\n\n\
             - hooks: `tcp_retransmit_skb`, `tcp_retransmit_synack`, `tcp_receive_reset`, `tcp_send_reset`, \
             `inet_sock_set_state`, `tcp_destroy_sock`\n\
             - provenance: the RST packet itself is seen (`cgroup_skb`): who sent it\n\
             - guard: keepalive on new sockets before their SYN (`cgroup/connect4`, `connect6`)\n\
             - iter: owners and options of all sockets in one pass (`iter/task_file`, `iter/tcp`); without it they come \
             from /proc and one by one\n\
             - pidfd: options of a running process read and set (`pidfd_getfd`)\n\
             - findings: every cause in a network made for it, named with its numbers\n";
    for row in rows {
        let _ = write!(text, "\n## {}\n\n", row.full);
        if row.limits.is_empty() {
            text += "`agent doctor` finds nothing missing.\n";
        }
        for limit in &row.limits {
            let _ = writeln!(text, "- {limit}");
        }
        for name in &row.failed {
            let _ = writeln!(text, "- FAILED: `{name}`");
        }
        for name in &row.unsteady {
            let _ = writeln!(text, "- unsteady, failed beside other tests and passed alone: `{name}`");
        }
    }
    text
}

/// One line per kernel for the end of a run.
pub fn summary(rows: &[Row]) -> String {
    let line = |r: &Row| {
        let mut what = if r.ok { "all well".into() } else { format!("failed: {}", r.failed.join(" ")) };
        if !r.unsteady.is_empty() {
            what.push_str(&format!("; unsteady, failed beside other tests and passed alone: {}", r.unsteady.join(" ")));
        }
        format!("{:>10}: {} passed, {} s, {what}\n", r.release, r.passed, r.seconds)
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tests: &[&str], exit: Option<i32>) -> Answer {
        let check = |name: &str, status: &str| {
            format!(r#"{{"section":"Hooks","name":"{name}","status":"{status}","found":"f","advice":"do it"}}"#)
        };
        Answer {
            doctor: vec![check("agent guard", "works"), check("pidfd_getfd", "missing")],
            tests: tests.iter().map(|t| (*t).to_owned()).collect(),
            exit,
            ..Answer::default()
        }
    }

    #[test]
    fn a_cell_needs_doctor_and_tests() {
        let good =
            row("5.10", &answer(&["test actions::the_guard_sees ... ok", "test keepalive::undo ... ok"], Some(0)));
        assert!(good.ok);
        let of = |row: &Row, title: &str| row.cells[FEATURES.iter().position(|f| f.title == title).unwrap()].clone();
        assert_eq!(of(&good, "guard"), "✓");
        assert_eq!(of(&good, "pidfd"), "–");
        assert_eq!(of(&good, "iter"), "?");
        assert_eq!(good.limits, ["pidfd_getfd: f. do it"]);
        let bad = row("5.10", &answer(&["test actions::the_guard_sees ... FAILED"], Some(101)));
        assert_eq!((of(&bad, "guard").as_str(), bad.ok), ("FAILED", false));
    }

    #[test]
    fn a_test_with_another_client_is_left_out() {
        let said = [
            "test methods::mptcp ... FAILED",
            "test keepalive::undo ... ok",
            "---- methods::mptcp stdout ----",
            "cannot start python3: No such file or directory (os error 2)",
        ];
        let r = row("5.10", &answer(&said, Some(101)));
        assert_eq!((r.ok, r.passed, r.failed.len()), (true, 1, 0));
        let real = ["test keepalive::undo ... FAILED", "---- keepalive::undo stdout ----", "assertion failed"];
        assert!(!row("5.10", &answer(&real, Some(101))).ok);
    }

    #[test]
    fn what_passes_alone_is_unsteady_and_what_fails_again_has_failed() {
        let mut said = answer(&["test keepalive::undo ... FAILED", "test keepalive::b ... FAILED"], Some(0));
        said.again = vec!["test keepalive::undo ... ok".into(), "test keepalive::b ... ok".into()];
        let r = row("5.10", &said);
        assert_eq!((r.ok, r.passed, r.unsteady.len()), (true, 2, 2));
        assert!(summary(&[r]).contains("unsteady"));
        said.again.pop();
        said.again.push("test keepalive::b ... FAILED".into());
        said.exit = Some(101);
        let r = row("5.10", &said);
        assert_eq!((r.ok, r.failed), (false, vec!["keepalive::b".to_owned()]));
    }

    #[test]
    fn no_answer_is_a_failure() {
        assert!(!row("5.10", &Answer::default()).ok);
        let cut = row("5.10", &answer(&["test keepalive::undo ... ok"], None));
        assert!(!cut.ok);
        assert!(table(&[cut]).contains("NO END"));
        assert!(!row("5.10", &answer(&[], Some(0))).ok, "no test ran");
    }
}
