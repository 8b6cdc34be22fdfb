//! What is known of how long one destination, and the path to it, let a connection idle. Pure data: durations in
//! seconds, no clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::book::Key;
use crate::model::{IdleFigure, IdleLimits};

/// Samples kept per kind: enough for a spread, small enough to keep for a thousand destinations.
pub const SAMPLES: usize = 32;

/// Idle gaps shorter than this say nothing of an idle limit: a pause between two packets of one exchange.
pub const SHORTEST_GAP: Duration = Duration::from_secs(1);

/// Idle times at which one thing happened; the newest [`SAMPLES`] of `count`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    pub count: u64,
    /// Seconds, oldest first.
    pub recent_s: Vec<f64>,
}

impl Samples {
    pub fn add(&mut self, idle: Duration) {
        self.count += 1;
        if self.recent_s.len() == SAMPLES {
            self.recent_s.remove(0);
        }
        self.recent_s.push(round_ms(idle));
    }

    /// The middle sample.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.recent_s.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        match n {
            0 => None,
            _ if n % 2 == 1 => Some(sorted[n / 2]),
            _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
        }
    }

    pub fn shortest(&self) -> Option<f64> {
        self.recent_s.iter().copied().min_by(f64::total_cmp)
    }

    /// Largest minus smallest.
    pub fn spread(&self) -> Option<f64> {
        let largest = self.recent_s.iter().copied().max_by(f64::total_cmp)?;
        Some(largest - self.shortest()?)
    }

    fn merge(&mut self, newer: &Samples) {
        self.count += newer.count;
        self.recent_s.extend_from_slice(&newer.recent_s);
        let excess = self.recent_s.len().saturating_sub(SAMPLES);
        self.recent_s.drain(..excess);
    }
}

fn round_ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e3).round() / 1e3
}

/// Upper bounds of the idle-time buckets, seconds; the last bucket is open.
pub const BUCKETS_S: [f64; 4] = [10.0, 60.0, 300.0, 900.0];
pub const BUCKET_NAMES: [&str; 5] = ["under 10 s", "10-60 s", "1-5 min", "5-15 min", "over 15 min"];

/// Sends after an idle gap, by its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub sends: u64,
    /// Of them, answered by a RST or never.
    pub failed: u64,
}

pub fn bucket_of(idle: Duration) -> usize {
    let s = idle.as_secs_f64();
    BUCKETS_S.iter().position(|limit| s < *limit).unwrap_or(BUCKETS_S.len())
}

/// Everything learned of one destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The server sent FIN on an idle connection.
    pub server_close: Samples,
    /// A send after that gap was swallowed: retransmits without an answer.
    pub path_drop: Samples,
    /// A send after that gap was answered by a RST that the server did not make.
    pub path_reset: Samples,
    /// A send after that gap was answered by a RST of which it is not known who made it, or by the server itself
    /// without a FIN before (it, or a NAT that gave the flow a new mapping, had forgotten the connection).
    pub reset: Samples,
    /// Sends after a gap that were answered, and the longest such gap.
    pub survived: u64,
    pub longest_survivor_s: Option<f64>,
    pub buckets: [Bucket; 5],
    /// Unix seconds of the newest sample: which destination leaves first when there are too many.
    pub updated: i64,
}

impl Limits {
    pub fn survive(&mut self, idle: Duration) {
        self.survived += 1;
        let s = round_ms(idle);
        self.longest_survivor_s = Some(self.longest_survivor_s.map_or(s, |old| old.max(s)));
        self.buckets[bucket_of(idle)].sends += 1;
    }

    /// A send after `idle` that came to nothing.
    pub fn fail(&mut self, idle: Duration) {
        let b = &mut self.buckets[bucket_of(idle)];
        b.sends += 1;
        b.failed += 1;
    }

    /// Adds what another run learned.
    pub fn merge(&mut self, newer: &Limits) {
        self.server_close.merge(&newer.server_close);
        self.path_drop.merge(&newer.path_drop);
        self.path_reset.merge(&newer.path_reset);
        self.reset.merge(&newer.reset);
        self.survived += newer.survived;
        self.longest_survivor_s = match (self.longest_survivor_s, newer.longest_survivor_s) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        for (a, b) in self.buckets.iter_mut().zip(newer.buckets) {
            a.sends += b.sends;
            a.failed += b.failed;
        }
        self.updated = self.updated.max(newer.updated);
    }

    /// Shortest idle gap that the path is known to have killed a connection after, seconds.
    pub fn shortest_path_failure(&self) -> Option<f64> {
        [&self.path_drop, &self.path_reset, &self.reset]
            .into_iter()
            .filter_map(Samples::shortest)
            .min_by(f64::total_cmp)
    }

    pub fn is_empty(&self) -> bool {
        *self == Limits { updated: self.updated, ..Limits::default() }
    }
}

/// What to set, and which of the two would help.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Upper bound for the client's pool idle timeout, seconds: below the server's limit with a margin.
    pub pool_timeout_s: Option<f64>,
    /// TCP keepalive idle that keeps the path's mapping, whole seconds.
    pub keepalive_idle_s: Option<u32>,
}

impl Samples {
    fn figure(&self) -> Option<IdleFigure> {
        let d = |s: f64| Duration::from_secs_f64(s.max(0.0));
        Some(IdleFigure {
            count: self.count,
            median: d(self.median()?),
            shortest: d(self.shortest()?),
            spread: d(self.spread()?),
        })
    }
}

impl Limits {
    /// For the other parts of the program; `None` if the key's address cannot be read.
    pub fn told(&self, key: &Key) -> Option<IdleLimits> {
        let advice = self.advice();
        Some(IdleLimits {
            name: key.name.as_deref().map(Into::into),
            remote: key.address.parse().ok()?,
            server_closes: self.server_close.figure(),
            path_drops: self.path_drop.figure(),
            path_resets: self.path_reset.figure(),
            resets: self.reset.figure(),
            survived: self.survived,
            longest_survivor: self.longest_survivor_s.map(Duration::from_secs_f64),
            pool_timeout: advice.pool_timeout_s.map(Duration::from_secs_f64),
            keepalive_idle: advice.keepalive_idle_s.map(|s| Duration::from_secs(s.into())),
        })
    }

    /// A margin of a tenth, at least half a second, below the earliest close: the request must arrive before the
    /// server's timer fires, and the timers are not in step. Keepalive at a third of the shortest gap that killed: one
    /// lost probe may not be the end.
    pub fn advice(&self) -> Advice {
        let earliest_close = self.server_close.shortest();
        let pool_timeout_s = earliest_close.map(|s| round_down(s - (s * 0.1).max(0.5)).max(0.1));
        let keepalive_idle_s = self.shortest_path_failure().map(|s| ((s / 3.0).floor() as u32).clamp(1, 32_767));
        Advice { pool_timeout_s, keepalive_idle_s }
    }
}

fn round_down(s: f64) -> f64 {
    if s >= 10.0 { s.floor() } else { (s * 10.0).floor() / 10.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn figures_of_a_few_samples() {
        let mut s = Samples::default();
        assert_eq!((s.median(), s.spread()), (None, None));
        for v in [60.1, 59.9, 60.0] {
            s.add(secs(v));
        }
        assert_eq!(s.median(), Some(60.0));
        assert!((s.spread().unwrap() - 0.2).abs() < 1e-9);
        assert_eq!(s.shortest(), Some(59.9));
        for _ in 0..100 {
            s.add(secs(1.0));
        }
        assert_eq!((s.count, s.recent_s.len()), (103, SAMPLES));
    }

    #[test]
    fn buckets_have_their_bounds() {
        let of: Vec<usize> = [0.0, 9.999, 10.0, 59.9, 60.0, 299.0, 300.0, 899.0, 900.0, 1e6]
            .iter()
            .map(|s| bucket_of(secs(*s)))
            .collect();
        assert_eq!(of, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn advice_leaves_a_margin_and_keepalive_needs_a_path_that_forgets() {
        let mut l = Limits::default();
        assert_eq!(l.advice(), Advice { pool_timeout_s: None, keepalive_idle_s: None });
        l.server_close.add(secs(60.0));
        assert_eq!(l.advice(), Advice { pool_timeout_s: Some(54.0), keepalive_idle_s: None });
        l.path_drop.add(secs(3.4));
        assert_eq!(l.advice().keepalive_idle_s, Some(1));
        l.server_close.add(secs(2.0));
        assert_eq!(l.advice().pool_timeout_s, Some(1.5));
    }

    #[test]
    fn merging_adds_up() {
        let mut a = Limits { updated: 5, ..Limits::default() };
        a.survive(secs(4.0));
        let mut b = Limits { updated: 9, ..Limits::default() };
        b.survive(secs(12.0));
        b.fail(secs(20.0));
        b.path_drop.add(secs(20.0));
        a.merge(&b);
        assert_eq!((a.survived, a.longest_survivor_s, a.updated), (2, Some(12.0), 9));
        assert_eq!(a.buckets[0], Bucket { sends: 1, failed: 0 });
        assert_eq!(a.buckets[1], Bucket { sends: 2, failed: 1 });
        assert_eq!(a.shortest_path_failure(), Some(20.0));
    }
}
