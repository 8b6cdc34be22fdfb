//! Each wrong input and each missing thing: one clear error, the right exit code, nothing left over.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent_tests::mounts::{Sys, small_tmpfs};
use agent_tests::runner::{Builder, Run};
use agent_tests::wait::until;
use agent_tests::workload::Workload;
use serde_json::json;

use crate::scene::{PORT, Scene};

/// Exit code, and an error of one line that holds all of `words`.
fn refused(run: &Run, code: i32, words: &[&str]) {
    assert_eq!(run.status.code(), Some(code), "{}", run.describe());
    for word in words {
        assert!(run.stderr.contains(word), "the error does not say '{word}': {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked") && !run.stderr.contains("backtrace"), "{}", run.stderr);
    let said = run.stderr.lines().filter(|l| !l.trim().is_empty()).count();
    assert!(code == 2 || said == 1, "one clear error, not {said} lines: {}", run.stderr);
}

fn own() -> String {
    std::process::id().to_string()
}

#[test]
fn wrong_words() {
    agent_tests::lab::need_root();
    let watch = |args: &[&str]| Builder::new(["watch", "--no-tui"]).args(args.iter().copied()).run();
    let me = own();
    refused(&watch(&["--pid", "4194304"]), 1, &["4194304"]);
    refused(&watch(&["--pid", "0"]), 2, &["--pid 0"]);
    refused(&watch(&["--pid", "abc"]), 2, &["abc"]);
    refused(&watch(&[]), 2, &["--pid"]);
    refused(&watch(&["--pid", &me, "--dst", "10.0.0.0/33"]), 2, &["10.0.0.0/33"]);
    refused(&watch(&["--pid", &me, "--dst", "fd00::/129"]), 2, &["fd00::/129"]);
    refused(&watch(&["--pid", &me, "--dst", "10.0.0.1:99999"]), 2, &["10.0.0.1:99999"]);
    refused(&watch(&["--pid", &me, "--dst", "no-such-host.invalid"]), 1, &["no-such-host.invalid"]);
    refused(&watch(&["--pid", &me, "--duration", "0s"]), 2, &["0"]);
    refused(&watch(&["--pid", &me, "--no-such-flag"]), 2, &["--no-such-flag"]);
}

#[test]
fn a_kernel_side_that_is_not_there() {
    agent_tests::lab::need_root();
    let run = |sys, backend: &str| {
        Builder::watch(std::process::id()).args(["--backend", backend, "--duration", "200ms"]).sys(sys).run()
    };
    refused(&run(Sys::NoTracefs, "tracepoint"), 1, &["tracefs", "mount"]);
    refused(&run(Sys::NoBtf, "btf"), 1, &["BTF"]);
    // Without a word on the backend the other one takes over, and the session says why.
    let fallback = run(Sys::NoBtf, "auto");
    fallback.check_frame();
    let session = fallback.one(&json!({"type": "session"}));
    assert!(session["hooks"].to_string().contains("tracepoint"), "{session}");
}

/// An ordinary user gets no kernel programs: forced, it is an error that names what is missing; else the user's own
/// processes are watched through sock_diag, and the session says what that cannot see.
#[test]
fn no_permission() {
    const NOBODY: u32 = 65534;
    let s = Scene::new(false);
    // A place that everybody may read, wherever the build lies.
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    open(directory.path());
    let copy = |name: &str, variable: &str| {
        let to = directory.path().join(name);
        // By another process: a descriptor of ours, open for writing, would be inherited by whatever another test is just
        // starting, and the file would be «busy».
        let from = agent_tests::runner::binary(name, variable);
        assert!(std::process::Command::new("cp").arg(from).arg(&to).status().unwrap().success());
        open(&to);
        to
    };
    let (agent, workload) = (copy("agent", "AGENT_BIN"), copy("agt-workload", "AGT_WORKLOAD_BIN"));
    let own = Workload::builder().ns(&s.lab.client).program([workload]).uid(NOBODY).start();
    s.server.serve(s.server_at(PORT), "echo");
    let c = own.connect(s.server_at(PORT));

    let watch = || Builder::watch(own.pid()).ns(&s.lab.client).program(&agent).uid(NOBODY);
    refused(&watch().args(["--backend", "btf"]).run(), 1, &["CAP_BPF", "CAP_PERFMON"]);

    let running = watch().args(["--sample", "100ms"]).start();
    let session = running.expect(&json!({"type": "session"}));
    assert!(
        session["limits"].as_array().is_some_and(|l| !l.is_empty()),
        "it does not say what it cannot see: {session}"
    );
    running.expect(&json!({"type": "socket", "socket": c.cookie, "owners": [{"pid": own.pid()}]}));
    let late = own.connect(s.server_at(PORT));
    running.expect(&json!({"type": "socket", "socket": late.cookie, "owners": [{"pid": own.pid()}]}));
    running.stop();

    // Somebody else's process.
    let foreign = Builder::watch(s.client.pid()).ns(&s.lab.client).program(&agent).uid(NOBODY);
    let run = foreign.args(["--duration", "300ms"]).run();
    let said = run.stderr.clone() + &run.lines.first().map(|l| l["limits"].to_string()).unwrap_or_default();
    assert!(said.contains("root") || said.contains("CAP_"), "it does not say why it sees nothing: {}", run.describe());
}

#[test]
fn an_output_that_cannot_be_written() {
    agent_tests::lab::need_root();
    let to = |file: &str| Builder::watch(std::process::id()).args(["--json", file]).run();
    refused(&to("/no/such/directory/x.jsonl"), 1, &["/no/such/directory/x.jsonl", "No such file"]);
    refused(&to("/proc/version"), 1, &["/proc/version"]);
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    std::fs::write(&real, "precious").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    refused(&to(&link.display().to_string()), 1, &["link"]);
    assert_eq!(std::fs::read_to_string(&real).unwrap(), "precious", "the agent wrote through a link");
}

/// The disk fills up in the middle of a recording: the agent says so and ends with 1; what is there is whole lines.
#[test]
fn the_disk_is_full() {
    let s = Scene::new(false);
    let directory = tempfile::tempdir().unwrap();
    let disk = small_tmpfs(64 * 1024).unwrap();
    let inside = disk.as_fd().try_clone_to_owned().unwrap();
    let mut agent = Some(
        Builder::watch(s.client.pid())
            .arg("--json")
            .arg(directory.path().join("full.jsonl"))
            .mount(disk, directory.path())
            .spawn(),
    );
    let mut run = None;
    until("the end of the agent on a full disk", || {
        s.client.call(&format!("storm {} 200 0", s.server_at(9)));
        run = agent.take().and_then(|a| a.try_finish().map_err(|a| agent = Some(a)).ok());
        run.is_some()
    });
    let run = run.unwrap();
    refused(&run, 1, &["full.jsonl", "No space left"]);
    let file =
        rustix::fs::openat(&inside, "full.jsonl", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).unwrap();
    assert!(text.len() > 10_000, "only {} bytes on the disk", text.len());
    assert!(
        text.ends_with('\n'),
        "half a line at the end of a full disk: {:?}",
        &text[text.len().saturating_sub(80)..]
    );
    Run::of_text(&text, run.status).check_lines();
}
