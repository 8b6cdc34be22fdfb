//! The kernel programs' own diagnostics (`--kernel-log`).

use std::io::Write;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Writes each message as one line to stderr.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // Whether anybody reads stderr is not this program's concern.
        let _ = writeln!(std::io::stderr(), "kernel: {}", record.args());
    }

    fn flush(&self) {}
}

/// The reader's end of the programs' log.
pub struct KernelLog(AsyncFd<EbpfLogger<Stderr>>);

impl KernelLog {
    /// Takes the log's ring out of `ebpf`; needs a tokio runtime.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let logger = EbpfLogger::init_with_logger(ebpf, Stderr).context("cannot open the kernel log")?;
        // SAFETY: the logger owns its descriptor and keeps it open for as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(std::io::Error::from)
            .context("cannot wait for the kernel log")?;
        Ok(Self(fd))
    }

    /// Forwards until dropped.
    pub async fn run(mut self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
