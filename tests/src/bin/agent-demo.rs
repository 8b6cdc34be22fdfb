//! The story in a minute: a real client with pooled connections behind a NAT that forgets them after 3 s, and the agent
//! on it. Arguments go to `agent watch`. Needs root; `cargo xtask demo` builds and starts it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};

use agent_tests::lab::{Invalid, Lab, Nat, Ns};
use agent_tests::runner::binary;
use anyhow::{Context, Result, ensure};

const SERVER: &str = include_str!("../demo/server.py");
const CLIENT: &str = include_str!("../demo/client.py");

const STORY: &str = "\
  client 10.77.1.2 ── NAT (forgets an idle connection after 3 s, then drops silently) ── server 10.77.2.2
    :8080  asked every second                        works
    :8080  asked every 8 s                           the request after the pause hangs
    :8080  asked every 8 s, keepalive 1 s            works
    :8081  the server closes idle connections        reset when the client uses one again
    :8082  the server aborts every fourth request    reset in the middle
";

fn main() -> ExitCode {
    match demo() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "it makes network namespaces: run it as root (cargo xtask demo does)"
    );
    // Ctrl-C is the agent's: it ends first, and then everything else ends with this process.
    // SAFETY: SIG_IGN is a valid disposition and no handler of this process is replaced.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    eprint!("{STORY}");

    let lab = Lab::new();
    lab.nat(Nat { established_s: 3, invalid: Invalid::Drop });
    let server = Host::start(&lab.server, SERVER, &[])?;
    let client = Host::start(&lab.client, CLIENT, &[Lab::SERVER.v4.to_string()])?;

    let mut agent = Command::new(binary("agent", "AGENT_BIN"));
    agent
        .args(["watch", "--pid", &client.0.id().to_string()])
        .args(std::env::args_os().skip(1).collect::<Vec<OsString>>());
    // SIGTERM, not SIGKILL: it puts the terminal back.
    dies_with_us(&mut agent, libc::SIGTERM);
    let status = agent.status().context("cannot start the agent")?;
    drop((client, server, lab));
    let code = status.code().or(status.signal().map(|s| 128 + s)).and_then(|c| u8::try_from(c).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A Python program on one of the lab's hosts. Dropped, it is killed.
struct Host(Child);

impl Host {
    /// Starts it and waits for its `ready` line.
    fn start(ns: &Ns, program: &str, args: &[String]) -> Result<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", program]).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        ns.enter_on_exec(&mut command);
        dies_with_us(&mut command, libc::SIGKILL);
        let child = command.spawn().context("cannot start python3")?;
        let mut host = Self(child);
        let mut first = String::new();
        let out = host.0.stdout.take().context("its output is not piped")?;
        BufReader::new(out).read_line(&mut first).context("cannot read its first line")?;
        ensure!(first.trim() == "ready", "the program of {} did not start", ns.name());
        Ok(host)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already; both calls then do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// However this process ends, the child gets `signal`; and Ctrl-C means to it what it means to any program.
fn dies_with_us(command: &mut Command, signal: libc::c_int) {
    // SAFETY: two system calls that allocate nothing, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
}
