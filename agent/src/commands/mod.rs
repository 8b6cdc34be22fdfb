//! One file per command that is not a live watch: parse nothing, print, return.

pub mod close;
pub mod clue;
pub mod completions;
pub mod diff;
pub mod doctor;
pub mod guard;
pub mod keepalive;
pub mod limits;
pub mod man;
mod outcome;
pub mod probe;
pub mod replay;
pub mod report;
pub mod schema;
mod select;
pub mod sockets;

use nix::sys::signal::{SigSet, Signal};

/// Keeps SIGINT, SIGTERM and SIGHUP waiting while it lives: something half done must first be written down.
struct HoldSignals {
    before: Option<SigSet>,
}

impl HoldSignals {
    fn new() -> Self {
        let held: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        let before = SigSet::thread_get_mask().ok().filter(|_| held.thread_block().is_ok());
        Self { before }
    }
}

impl Drop for HoldSignals {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = before.thread_set_mask();
        }
    }
}

/// `process 4182 (claude)`, `3 processes`.
fn processes(pids: &[u32]) -> String {
    match pids {
        [pid] => match std::fs::read(format!("/proc/{pid}/comm")) {
            Ok(comm) => format!("process {pid} ({})", crate::model::sanitize(comm.trim_ascii_end())),
            Err(_) => format!("process {pid}"),
        },
        many => format!("{} processes", many.len()),
    }
}

/// Prints `text` to standard output. A reader that goes away (`| head`) has seen what it wanted.
fn print(text: &str) -> anyhow::Result<u8> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("cannot write to standard output: {e}"))
        }
        _ => Ok(0),
    }
}
