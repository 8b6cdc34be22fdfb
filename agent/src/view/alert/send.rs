//! Delivering one notice: a command with the finding on its standard input, or a POST.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Notice, Outcome};
use crate::model::FindingStatus;

/// Where notices go, and how long and how often it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    pub to: To,
    /// Of one try.
    pub timeout: Duration,
    /// Pauses before the second and later tries; their number bounds the tries.
    pub backoff: Vec<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Run by `sh -c`.
    Command(String),
    Url(String),
}

impl Sink {
    /// A command is run once: it may have done half of its work.
    pub fn command(command: String) -> Self {
        Self { to: To::Command(command), timeout: Duration::from_secs(30), backoff: Vec::new() }
    }

    pub fn webhook(url: String) -> Self {
        let backoff = [1, 4, 16].map(Duration::from_secs).to_vec();
        Self { to: To::Url(url), timeout: Duration::from_secs(10), backoff }
    }

    /// Tries until it worked, was refused for good, or the tries are used up. Blocks.
    pub fn deliver(&self, notice: &Notice) -> Outcome {
        let status = match notice.status {
            FindingStatus::Open => "open",
            FindingStatus::Closed => "closed",
        };
        let what = match &self.to {
            To::Command(c) => format!("alert command '{c}' for {} ({status})", notice.code),
            To::Url(u) => format!("webhook {u} for {} ({status})", notice.code),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let failed = match &self.to {
                To::Command(c) => run(c, status, notice, self.timeout),
                To::Url(u) => post(u, notice, self.timeout),
            };
            match failed {
                Ok(()) => return Outcome { ok: true, text: format!("{what}: done") },
                Err(Failed { why, again }) => match self.backoff.get(tries - 1).filter(|_| again) {
                    Some(pause) => std::thread::sleep(jitter(*pause)),
                    None => return Outcome { ok: false, text: format!("{what} failed after {tries} tries: {why}") },
                },
            }
        }
    }
}

struct Failed {
    why: String,
    again: bool,
}

/// The pause, a quarter more or less: many agents must not knock at once when a receiver comes back.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0u8; 1];
    // Without random bytes all wait the same time; nothing else depends on it.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    pause.mul_f64(0.75 + f64::from(random[0]) / 255.0 * 0.5)
}

fn run(command: &str, status: &str, notice: &Notice, timeout: Duration) -> Result<(), Failed> {
    let failed = |why: String| Failed { why, again: false };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("AGENT_FINDING", &notice.json)
        .env("AGENT_FINDING_CODE", notice.code.name())
        .env("AGENT_FINDING_STATUS", status)
        .env("AGENT_FINDING_DESTINATION", notice.destination.as_deref().unwrap_or(""))
        .env("AGENT_FINDING_SUMMARY", &notice.summary)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(format!("cannot start: {e}")))?;
    // A finding fits into a pipe (64 KiB); a command that does not read it gets the environment. EPIPE is its choice.
    if let Some(mut stdin) = child.stdin.take() {
        let fits = notice.json.len() < 60_000;
        let _ = if fits { writeln!(stdin, "{}", notice.json) } else { Ok(()) };
    }
    let until = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(exit)) if exit.success() => return Ok(()),
            Ok(Some(exit)) => return Err(failed(exit.to_string())),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("killed after {} s", timeout.as_secs())));
            }
            Err(e) => return Err(failed(format!("cannot wait for it: {e}"))),
        }
    }
}

fn post(url: &str, notice: &Notice, timeout: Duration) -> Result<(), Failed> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(timeout)).build().into();
    match agent.post(url).header("content-type", "application/json").send(notice.json.as_str()) {
        Ok(_) => Ok(()),
        // The receiver understood and said no: asking again changes nothing, unless it asks for patience.
        Err(ureq::Error::StatusCode(code)) => {
            Err(Failed { why: format!("HTTP status {code}"), again: code >= 500 || code == 429 })
        }
        Err(e) => Err(Failed { why: e.to_string(), again: true }),
    }
}
