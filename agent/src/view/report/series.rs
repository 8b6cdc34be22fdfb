//! Numbers over time in a fixed number of bins, and idle times before resets in fixed buckets.

use std::time::Duration;

use crate::model::{Mono, ResetOrigin};

/// Most bins of a chart: about what a screen can show. When they are used up, neighbours are joined.
pub const MAX_BINS: usize = 240;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    rtt_us_sum: u64,
    rtt_count: u64,
    pub rtt_us_max: u64,
    pub retransmits: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
}

impl Bin {
    pub fn rtt(&mut self, rtt: Duration) {
        let us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        self.rtt_us_sum = self.rtt_us_sum.saturating_add(us);
        self.rtt_count += 1;
        self.rtt_us_max = self.rtt_us_max.max(us);
    }

    pub fn rtt_us_mean(&self) -> Option<u64> {
        (self.rtt_count > 0).then(|| self.rtt_us_sum / self.rtt_count)
    }

    fn join(self, other: Bin) -> Bin {
        Bin {
            rtt_us_sum: self.rtt_us_sum.saturating_add(other.rtt_us_sum),
            rtt_count: self.rtt_count + other.rtt_count,
            rtt_us_max: self.rtt_us_max.max(other.rtt_us_max),
            retransmits: self.retransmits + other.retransmits,
            resets_received: self.resets_received + other.resets_received,
            resets_sent: self.resets_sent + other.resets_sent,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Series {
    start: Option<Mono>,
    /// Width of a bin; doubles as time goes on.
    pub width: Duration,
    pub bins: Vec<Bin>,
}

impl Default for Series {
    fn default() -> Self {
        Self { start: None, width: Duration::from_secs(1), bins: Vec::new() }
    }
}

impl Series {
    /// The bin of `at`; what comes from before the first event goes to the first bin.
    pub fn at(&mut self, at: Mono) -> &mut Bin {
        let start = *self.start.get_or_insert(at);
        let mut n = (at.since(start).as_nanos() / self.width.as_nanos()) as usize;
        while n >= MAX_BINS {
            self.bins = self.bins.chunks(2).map(|c| c[0].join(c.get(1).copied().unwrap_or_default())).collect();
            self.width *= 2;
            n = (at.since(start).as_nanos() / self.width.as_nanos()) as usize;
        }
        if self.bins.len() <= n {
            self.bins.resize(n + 1, Bin::default());
        }
        &mut self.bins[n]
    }

    pub fn start(&self) -> Option<Mono> {
        self.start
    }
}

/// Upper ends of the buckets in seconds: the idle limits that devices on the way are known for lie between them (60 s,
/// 120 s, 240 s, 350 s, 20 min, an hour).
pub const EDGES: [f64; 11] = [0.1, 1.0, 5.0, 15.0, 30.0, 61.0, 121.0, 241.0, 361.0, 1_201.0, 3_601.0];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdleHistogram {
    /// Per bucket: from the peer, from a middlebox, from elsewhere.
    pub buckets: [[u64; 3]; EDGES.len() + 1],
}

impl IdleHistogram {
    pub fn add(&mut self, idle: Duration, origin: ResetOrigin) {
        let s = idle.as_secs_f64();
        let bucket = EDGES.iter().position(|edge| s < *edge).unwrap_or(EDGES.len());
        let who = match origin {
            ResetOrigin::Peer => 0,
            ResetOrigin::Middlebox => 1,
            ResetOrigin::Local | ResetOrigin::Unknown => 2,
        };
        self.buckets[bucket][who] += 1;
    }

    pub fn total(&self) -> u64 {
        self.buckets.iter().flatten().sum()
    }

    /// `< 0.1 s`, `1-5 s`, `≥ 60 min`.
    pub fn label(bucket: usize) -> &'static str {
        const LABELS: [&str; EDGES.len() + 1] = [
            "< 0.1 s",
            "0.1-1 s",
            "1-5 s",
            "5-15 s",
            "15-30 s",
            "30-60 s",
            "1-2 min",
            "2-4 min",
            "4-6 min",
            "6-20 min",
            "20-60 min",
            "> 60 min",
        ];
        LABELS[bucket.min(EDGES.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_join_and_lose_nothing() {
        let mut s = Series::default();
        for second in 0..10_000u64 {
            let bin = s.at(Mono(second * 1_000_000_000));
            bin.retransmits += 1;
            bin.rtt(Duration::from_micros(second));
        }
        assert!(s.bins.len() <= MAX_BINS && s.bins.len() > MAX_BINS / 4, "{}", s.bins.len());
        assert_eq!(s.bins.iter().map(|b| b.retransmits).sum::<u64>(), 10_000);
        assert_eq!(s.bins.iter().map(|b| b.rtt_us_max).max(), Some(9_999));
        // A year at once is no loop of a year.
        s.at(Mono(u64::MAX)).retransmits += 1;
        assert!(s.bins.len() <= MAX_BINS);
    }

    #[test]
    fn idle_times_fall_into_their_buckets() {
        let mut h = IdleHistogram::default();
        for s in [0.0, 0.5, 60.0, 350.0, 100_000.0] {
            h.add(Duration::from_secs_f64(s), ResetOrigin::Middlebox);
        }
        let used: Vec<&str> =
            h.buckets.iter().enumerate().filter(|(_, b)| b[1] == 1).map(|(n, _)| IdleHistogram::label(n)).collect();
        assert_eq!(used, ["< 0.1 s", "0.1-1 s", "30-60 s", "4-6 min", "> 60 min"]);
    }
}
