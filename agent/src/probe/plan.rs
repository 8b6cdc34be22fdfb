//! Which idle times to try next, and where the limit lies; pure.

use std::time::Duration;

use serde::Serialize;

/// What became of one connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    /// The test after the idle time was answered.
    Survived,
    /// The server closed it (FIN) after this much idle time, by itself.
    Fin { after_s: f64 },
    /// A RST came while it idled.
    ResetWhileIdle { after_s: f64 },
    /// The test was answered by a RST.
    ResetOnTest,
    /// The test was not answered.
    Dropped,
    /// The connection could not be made, or broke before it idled.
    Unusable { why: String },
}

/// One connection's story.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Planned idle time, seconds.
    pub idle_s: f64,
    pub keepalive_idle_s: Option<u32>,
    #[serde(flatten)]
    pub fate: Fate,
    /// Who sent the RST, where packets could be looked at.
    pub reset_origin: Option<String>,
}

impl Trial {
    /// The idle time at which it failed, seconds.
    pub fn failed_at(&self) -> Option<f64> {
        match self.fate {
            Fate::Fin { after_s } | Fate::ResetWhileIdle { after_s } => Some(after_s),
            Fate::ResetOnTest | Fate::Dropped => Some(self.idle_s),
            Fate::Survived | Fate::Unusable { .. } => None,
        }
    }

    /// Whether the moment of the failure was seen, not only that it lay before the test.
    fn exact(&self) -> bool {
        matches!(self.fate, Fate::Fin { .. } | Fate::ResetWhileIdle { .. })
    }
}

/// Where the limit lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "limit")]
pub enum Limit {
    /// No connection was usable, or nothing was tried.
    Unknown,
    /// Everything survived up to here, seconds.
    NoneBelow { s: f64 },
    /// Seconds; seen as it happened, so without bounds. `n` connections showed it.
    At { s: f64, n: usize },
    /// Between a survivor and a failure, seconds. `low_s` is 0 if nothing survived.
    Between { low_s: f64, high_s: f64 },
}

impl Limit {
    /// One figure for it, seconds.
    pub fn estimate_s(&self) -> Option<f64> {
        match self {
            Self::At { s, .. } => Some(*s),
            Self::Between { low_s, high_s } => Some((low_s + high_s) / 2.0),
            Self::Unknown | Self::NoneBelow { .. } => None,
        }
    }
}

/// Narrow enough: the bounds are this close to each other, so that their middle is off by half of it at most.
const PRECISION: f64 = 0.15;
/// Rounds of narrowing: each leaves a fraction of 1 / (points + 1).
const ROUNDS: usize = 4;
/// The first idle time tried, seconds.
const FIRST_S: f64 = 1.0;

pub struct Plan {
    max_s: f64,
    connections: usize,
    rounds: usize,
}

impl Plan {
    pub fn new(max: Duration, connections: usize) -> Self {
        Self { max_s: max.as_secs_f64(), connections: connections.clamp(1, 16), rounds: 0 }
    }

    /// Idle times of the first round: doubling, up to the longest.
    pub fn first(&self) -> Vec<f64> {
        let mut times = Vec::new();
        let mut t = FIRST_S.min(self.max_s);
        while t < self.max_s {
            times.push(t);
            t *= 2.0;
        }
        times.push(self.max_s);
        times
    }

    /// Idle times of the next round; empty when the limit is known well enough.
    pub fn next(&mut self, trials: &[Trial]) -> Vec<f64> {
        let Limit::Between { low_s, high_s } = limit(trials) else { return Vec::new() };
        if (high_s - low_s) / high_s <= PRECISION || self.rounds == ROUNDS {
            return Vec::new();
        }
        self.rounds += 1;
        let points = self.connections.min(4);
        let step = (high_s - low_s) / (points as f64 + 1.0);
        (1..=points).map(|i| low_s + step * i as f64).collect()
    }

    /// Longest time that all rounds together can take, without the test of each: for the forecast.
    pub fn longest(&self) -> Duration {
        // A first round up to `max`, then narrowing rounds that each idle for less than it, and the check with
        // keepalive for twice the limit.
        let narrowing = 1.0 + (1.0 / PRECISION).ln() / ((self.connections.min(4) + 1) as f64).ln();
        Duration::from_secs_f64(self.max_s * (1.0 + narrowing.ceil().min(ROUNDS as f64) + 2.0))
    }
}

/// What the trials without keepalive say.
pub fn limit(trials: &[Trial]) -> Limit {
    let plain = || trials.iter().filter(|t| t.keepalive_idle_s.is_none());
    let survived = |below: f64| {
        plain().filter(|t| t.fate == Fate::Survived && t.idle_s < below).map(|t| t.idle_s).max_by(f64::total_cmp)
    };
    let first_failure =
        plain().filter_map(|t| t.failed_at().map(|s| (s, t.exact()))).min_by(|a, b| a.0.total_cmp(&b.0));
    match first_failure {
        None => survived(f64::INFINITY).map_or(Limit::Unknown, |s| Limit::NoneBelow { s }),
        Some((s, true)) => {
            let mut all: Vec<f64> = plain().filter(|t| t.exact()).filter_map(Trial::failed_at).collect();
            all.sort_by(f64::total_cmp);
            let near: Vec<f64> = all.into_iter().filter(|t| *t <= s * 1.2).collect();
            Limit::At { s: near[near.len() / 2], n: near.len() }
        }
        Some((high_s, false)) => Limit::Between { low_s: survived(high_s).unwrap_or(0.0), high_s },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(idle_s: f64, fate: Fate) -> Trial {
        Trial { idle_s, keepalive_idle_s: None, fate, reset_origin: None }
    }

    /// Runs the plan against a path that drops after `limit_s`.
    fn against(limit_s: f64, max_s: u64) -> (Limit, usize) {
        let mut plan = Plan::new(Duration::from_secs(max_s), 8);
        let mut trials = Vec::new();
        let mut times = plan.first();
        let mut rounds = 0;
        while !times.is_empty() {
            rounds += 1;
            for t in times {
                trials.push(trial(t, if t < limit_s { Fate::Survived } else { Fate::Dropped }));
            }
            times = plan.next(&trials);
        }
        (limit(&trials), rounds)
    }

    #[test]
    fn narrows_any_limit() {
        for limit_s in [1.3, 3.0, 5.0, 60.0, 350.0, 400.0, 899.0] {
            let (found, rounds) = against(limit_s, 900);
            let Limit::Between { low_s, high_s } = found else { panic!("{found:?}") };
            assert!(low_s <= limit_s && limit_s <= high_s, "{limit_s}: {found:?}");
            assert!((found.estimate_s().unwrap() - limit_s).abs() <= 0.1 * limit_s, "{limit_s}: {found:?}");
            assert!(rounds <= 1 + ROUNDS);
        }
    }

    #[test]
    fn no_limit_and_no_connection() {
        assert_eq!(against(1e9, 20).0, Limit::NoneBelow { s: 20.0 });
        assert_eq!(limit(&[trial(1.0, Fate::Unusable { why: "refused".into() })]), Limit::Unknown);
    }

    #[test]
    fn a_fin_is_exact_and_counts_its_witnesses() {
        let trials = [
            trial(1.0, Fate::Survived),
            trial(8.0, Fate::Fin { after_s: 5.0 }),
            trial(16.0, Fate::Fin { after_s: 5.1 }),
            trial(32.0, Fate::Fin { after_s: 5.02 }),
        ];
        assert_eq!(limit(&trials), Limit::At { s: 5.02, n: 3 });
        assert_eq!(Plan::new(Duration::from_secs(60), 8).next(&trials), [] as [f64; 0]);
    }

    #[test]
    fn the_first_round_doubles_up_to_the_longest() {
        assert_eq!(Plan::new(Duration::from_secs(20), 8).first(), [1.0, 2.0, 4.0, 8.0, 16.0, 20.0]);
        assert!(Plan::new(Duration::from_secs(900), 8).first().len() <= 16);
    }
}
