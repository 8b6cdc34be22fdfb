//! `test --kernels`: the end-to-end tests on other kernels, each in a virtual machine of its own.

mod archive;
mod boot;
mod doctor;
mod initramfs;
mod modules;
mod packages;
mod qemu;
mod report;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, find, line, say};
use crate::{build, workspace};

/// The kernels of a run that names none: the oldest that the agent is for, each Debian release's own, the first with
/// all of today's hooks, and the newest there is.
const ALL: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", packages::NEWEST];
/// Tests that are not for a machine: their clients or servers are Python, Node.js or nginx (others that need one of
/// these are noticed by themselves, see report.rs); or two storms at full speed, which leave nobody else any of the two
/// emulated processors; or files, which no kernel decides.
const NOT_THERE: [&str; 10] = [
    "interrupted_in_a_storm",
    "state_file::",
    "the_children_of_a_name",
    "methods::mptcp",
    "clients::",
    "python_and_node",
    "injected_system_calls",
    "a_filtered_process",
    "server_limits_are_learned",
    "limits::probe",
];
/// One test or two of each feature, for every change (.ci/run). Of the findings those that events decide: the others
/// depend on looks at the sockets at the right moment, for which an emulated processor under load may be too slow.
const QUICK: [&str; 13] = [
    "actions::the_guard_sees",
    "attribution::accepted_by",
    "attribution::in_another_pid",
    "counts::a_storm",
    "events::",
    "filters::a_v4_mapped",
    "keepalive::keepalive_in_a_container",
    "sockets::",
    "findings::resets::refused_v4",
    "findings::resets::idle_path_reset_v6",
    "findings::resets::peer_abort_v4",
    "findings::resets::injected_v4",
    "findings::resets::local_abort_linger_v4",
];
/// Tests wait for timers of TCP more than they compute, also where computing is slow.
const THREADS: u32 = 4;
/// How much longer than on real hardware anything may take (tests/src/wait.rs).
const SLOWNESS: u32 = 5;
/// For everything in one machine. The whole suite takes about ten minutes.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// Boots the kernels of those `words` that are versions, and runs the tests whose names contain one of the others;
/// `quick`: only the few that say most.
pub fn run(words: &[String], release: bool, quick: bool) -> Result<ExitCode> {
    let (versions, mut names): (Vec<&str>, Vec<&str>) =
        words.iter().map(String::as_str).partition(|w| packages::is_version(w));
    if quick {
        names.extend(QUICK);
    }
    let whole = names.is_empty();
    let versions = if versions.is_empty() { ALL.to_vec() } else { versions };

    qemu::ensure()?;
    let archive = archive::Archive::open()?;
    let busybox = qemu::busybox(&archive)?;
    let kernels: Vec<_> = versions.iter().map(|v| packages::kernel(&archive, v)).collect::<Result<_>>()?;
    say("building the agent and its tests");
    build::build(release)?;
    let programs = Programs::build(release)?;

    let mut rows = Vec::new();
    for (version, kernel) in versions.iter().zip(&kernels) {
        say(format_args!("{} in a virtual machine", kernel.release));
        let dir = cache().join("machine");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let image = dir.join("initramfs");
        let bytes = initramfs::build(&initramfs::Contents {
            busybox: &busybox,
            agent: &programs.agent,
            workload: &programs.workload,
            tests: &programs.tests,
            data: &[workspace::root().join("agent/tests/recordings/thresholds.toml")],
            modules: &modules::in_order(&kernel.modules, &busybox)?,
            arguments: &arguments(&names),
            environment: &environment(),
        })?;
        std::fs::write(&image, bytes).with_context(|| format!("cannot write {}", image.display()))?;
        let console = dir.join("console");
        let answer = boot::run(kernel, &image, &console, LIMIT)?;
        std::fs::remove_file(&image).with_context(|| format!("cannot remove {}", image.display()))?;
        if answer.exit.is_none() {
            eprintln!("{}: no answer; the kernel's last words:\n{}", kernel.release, last_words(&console));
        }
        rows.push(report::row(&kernel.version(), &answer));
        if whole {
            keep(version, &answer)?;
        }
    }

    println!("\n{}\n{}", report::table(&rows), report::summary(&rows));
    if whole {
        document()?;
    }
    let passed: usize = rows.iter().map(|r| r.passed).sum();
    // A machine without an end is a failure even if no test is.
    let failed: usize = rows.iter().map(|r| r.failed.len().max(usize::from(!r.ok))).sum();
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Keeps what a machine said of the whole suite, so that one kernel can be tested anew without the others.
fn keep(version: &str, answer: &boot::Answer) -> Result<()> {
    let dir = cache().join("answers");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = dir.join(version);
    std::fs::write(&file, answer.text()).with_context(|| format!("cannot write {}", file.display()))
}

/// Writes docs/KERNELS.md from what is kept of each kernel in [`ALL`].
fn document() -> Result<()> {
    let answers = ALL.iter().filter_map(|v| std::fs::read_to_string(cache().join("answers").join(v)).ok());
    let rows: Vec<report::Row> = answers
        .map(|text| boot::Answer::of_text(&text))
        .map(|answer| report::row(&packages::version(&answer.release), &answer))
        .collect();
    let file = workspace::root().join("docs/KERNELS.md");
    std::fs::write(&file, report::document(&rows)).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}

/// Where packages and machines are kept between runs.
fn cache() -> PathBuf {
    workspace::cache().join("kernels")
}

fn arguments(names: &[&str]) -> String {
    let skipped = NOT_THERE.iter().flat_map(|s| ["--skip", s]);
    names.iter().copied().chain(skipped).collect::<Vec<_>>().join(" ")
}

fn environment() -> String {
    format!(
        "export AGENT_BIN=/agent AGT_WORKLOAD_BIN=/agt-workload RUST_TEST_THREADS={THREADS} \
         AGENT_TEST_SLOWNESS={SLOWNESS} HOME=/root TMPDIR=/tmp\n"
    )
}

fn last_words(console: &Path) -> String {
    let text = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The programs for the machines, without the debugging information that would fill their memory.
struct Programs {
    agent: PathBuf,
    workload: PathBuf,
    tests: PathBuf,
}

impl Programs {
    fn build(release: bool) -> Result<Self> {
        let mut command = cargo();
        command.args(["test", "--package", "agent-tests", "--no-run", "--message-format=json-render-diagnostics"]);
        let done =
            command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run `{}`", line(&command)))?;
        if !done.status.success() {
            bail!("`{}` failed", line(&command));
        }
        let messages = String::from_utf8_lossy(&done.stdout);
        let tests = executable(&messages, "e2e").context("cargo did not say where the end-to-end tests are")?;
        let workload = workspace::target().join("debug/agt-workload");
        Ok(Self {
            agent: stripped(&workspace::agent(release), "agent")?,
            workload: stripped(&workload, "agt-workload")?,
            tests: stripped(Path::new(&tests), "tests")?,
        })
    }
}

/// The `executable` of a test target in cargo's messages, one JSON object per line.
fn executable(messages: &str, target: &str) -> Option<String> {
    let name = format!("\"name\":\"{target}\"");
    let line = messages.lines().find(|l| l.contains(&name) && l.contains("\"executable\":\""))?;
    let rest = line.split("\"executable\":\"").nth(1)?;
    Some(rest.split('"').next()?.to_owned())
}

/// A copy without debugging information; as it is where binutils are missing.
fn stripped(from: &Path, name: &str) -> Result<PathBuf> {
    let dir = cache().join("programs");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let to = dir.join(name);
    let strip = find("strip")
        .map(|strip| std::process::Command::new(strip).arg("--strip-debug").arg("-o").arg(&to).arg(from).status());
    if !matches!(strip, Some(Ok(status)) if status.success()) {
        std::fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_found_in_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"agent\"},\"executable\":\"/t/agent\"}\n\
                        {\"target\":{\"kind\":[\"test\"],\"name\":\"e2e\"},\"executable\":\"/t/deps/e2e-1\",\"fresh\":true}\n";
        assert_eq!(executable(messages, "e2e").as_deref(), Some("/t/deps/e2e-1"));
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn names_come_before_what_is_left_out() {
        let words = arguments(&["events::"]);
        assert!(words.starts_with("events:: --skip ") && words.contains("--skip clients::"), "{words}");
    }
}
