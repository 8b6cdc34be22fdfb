//! Resets of one destination that follow each other: counted as they come, however many there are.

use std::time::Duration;

use crate::model::{Code, Mono};

/// Causes that an incident at the destination shows as. Resets of stale or forgotten idle connections come in
/// bunches too, but their cause is known and lies elsewhere.
pub fn counts(code: Code) -> bool {
    matches!(code, Code::PeerAbort | Code::InjectedReset)
}

/// Resets of which none came later than a window after the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wave {
    pub first: Mono,
    pub last: Mono,
    pub resets: usize,
    /// A socket that was reset twice counts once.
    pub sockets: usize,
    /// Connections that could be hit: those open when it began, and those made since.
    pub could: usize,
}

impl Wave {
    /// The wave with a reset at `at` added, or the next one if it came too late for this; `again` for a socket that
    /// was reset before, `open` connections then being open besides it.
    pub fn with(wave: Option<Self>, at: Mono, again: bool, open: usize, window: Duration) -> Self {
        match wave {
            Some(w) if at.since(w.last) <= window => Self {
                // Those of several processors may be read out of order.
                first: w.first.min(at),
                last: w.last.max(at),
                resets: w.resets + 1,
                sockets: w.sockets + usize::from(!again),
                could: w.could,
            },
            _ => Self { first: at, last: at, resets: 1, sockets: 1, could: open + 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_the_whole_chain_and_not_the_one_before() {
        let at = |s: u64| Mono(s * 1_000_000_000);
        let mut wave = None;
        for (s, again) in [(10, false), (100, false), (150, true), (200, false), (195, false), (230, false)] {
            wave = Some(Wave::with(wave, at(s), again, 9, Duration::from_secs(60)));
        }
        assert_eq!(wave, Some(Wave { first: at(100), last: at(230), resets: 5, sockets: 4, could: 10 }));
    }
}
