//! The signals that end a watch in order.

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
