//! The signals that end a watch in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

/// Which one came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Interrupted,
    Terminated,
    /// The terminal is gone: nothing may be drawn any more.
    HungUp,
}

impl Ended {
    /// To hand on to a child.
    pub fn signal(self) -> rustix::process::Signal {
        match self {
            Self::Interrupted => rustix::process::Signal::INT,
            Self::Terminated => rustix::process::Signal::TERM,
            Self::HungUp => rustix::process::Signal::HUP,
        }
    }

    /// The `reason` of the `end` line.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
            Self::HungUp => "terminal closed",
        }
    }
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            int: on(SignalKind::interrupt())?,
            term: on(SignalKind::terminate())?,
            hup: on(SignalKind::hangup())?,
        })
    }

    /// Cancel-safe.
    pub async fn next(&mut self) -> Ended {
        tokio::select! {
            _ = self.int.recv() => Ended::Interrupted,
            _ = self.term.recv() => Ended::Terminated,
            _ = self.hup.recv() => Ended::HungUp,
        }
    }
}

/// A flag that the first SIGINT or SIGTERM sets, for work that runs on threads; the second one ends the program.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    // The handlers are in place before this returns.
    let mut signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let shared = flag.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                signals.next().await;
                shared.store(true, Ordering::Relaxed);
                signals.next().await;
                std::process::exit(130);
            });
        })
        .context("cannot start a thread")?;
    Ok(flag)
}
