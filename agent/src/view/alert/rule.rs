//! The alert rule: so many failed connections or resets a minute, over so long, at one destination.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::model::Mono;

/// Destinations counted at once; beyond that the one that failed longest ago leaves.
const MAX_DESTINATIONS: usize = 1024;

/// Holds when a destination had `per_minute` failures a minute on average over `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertRule {
    pub per_minute: u32,
    pub window: Duration,
}

impl Default for AlertRule {
    fn default() -> Self {
        Self { per_minute: 5, window: Duration::from_secs(180) }
    }
}

impl AlertRule {
    /// Failures within the window at which it holds; at least 1.
    fn needed(&self) -> usize {
        ((f64::from(self.per_minute) * self.window.as_secs_f64() / 60.0).ceil() as usize).clamp(1, 100_000)
    }
}

/// The newest failures of each destination, as many as the rule needs.
#[derive(Debug)]
pub struct Failures {
    rule: AlertRule,
    times: HashMap<String, VecDeque<Mono>>,
}

impl Failures {
    pub fn new(rule: AlertRule) -> Self {
        Self { rule, times: HashMap::new() }
    }

    pub fn add(&mut self, at: Mono, destination: &str) {
        if !self.times.contains_key(destination) && self.times.len() >= MAX_DESTINATIONS {
            let oldest = self.times.iter().min_by_key(|(_, t)| t.back().copied()).map(|(d, _)| d.clone());
            oldest.map(|d| self.times.remove(&d));
        }
        let times = self.times.entry(destination.to_owned()).or_default();
        if times.len() == self.rule.needed() {
            times.pop_front();
        }
        times.push_back(at);
    }

    pub fn holds(&self, now: Mono, destination: &str) -> bool {
        self.times.get(destination).is_some_and(|t| {
            t.len() == self.rule.needed() && t.front().is_some_and(|first| now.since(*first) <= self.rule.window)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifteen_in_three_minutes_by_default() {
        let mut f = Failures::new(AlertRule::default());
        let at = |s: u64| Mono(s * 1_000_000_000);
        for i in 0..14 {
            f.add(at(i), "a");
        }
        assert!(!f.holds(at(14), "a"));
        f.add(at(14), "a");
        assert!(f.holds(at(14), "a"));
        assert!(f.holds(at(180), "a"));
        assert!(!f.holds(at(181), "a"), "the first of the fifteen is older than the window");
        assert!(!f.holds(at(14), "b"));
    }

    #[test]
    fn slow_failures_do_not_hold() {
        let mut f = Failures::new(AlertRule::default());
        for i in 0..100u64 {
            let now = Mono(i * 20 * 1_000_000_000);
            f.add(now, "a");
            assert!(!f.holds(now, "a"), "3 a minute");
        }
    }

    #[test]
    fn bounded() {
        let mut f = Failures::new(AlertRule { per_minute: 1, window: Duration::from_secs(60) });
        for i in 0..3000u64 {
            f.add(Mono(i), &format!("d{i}"));
        }
        assert_eq!(f.times.len(), MAX_DESTINATIONS);
        assert!(f.holds(Mono(3000), "d2999") && !f.holds(Mono(3000), "d0"));
    }
}
