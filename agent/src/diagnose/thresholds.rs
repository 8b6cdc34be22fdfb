//! The numbers that decide when a rule speaks: each with its reason, each changeable by configuration.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Silence before a send from which on the path may have forgotten the flow. Shorter pauses are ordinary think
/// time; the shortest idle limits seen on real paths and servers are a few seconds.
pub const IDLE_GAP: Duration = Duration::from_secs(2);
/// The same in round trips, so that a slow path's ordinary pauses are no gap.
pub const IDLE_GAP_ROUND_TRIPS: u32 = 20;
/// A gap from which on idleness is the likely cause of a failure rather than a possible one: server and NAT limits
/// of 5 s and more are common, think times of 10 s are not.
pub const LONG_IDLE_GAP: Duration = Duration::from_secs(10);
/// RTO retransmits without an ACK before a connection counts as stuck. One is ordinary loss; a tail-loss probe
/// (RFC 8985) is none at all.
pub const STUCK_RTOS: u32 = 2;
/// SYN retransmits before a connect counts as unanswered: one lost SYN is ordinary.
pub const CONNECT_SYNS: u32 = 2;
/// Idle time from which a connection without keepalive is worth a word: the shortest limits of common NATs.
pub const NO_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Idle time that the common cloud NATs and load balancers do not allow (Azure 4 min, AWS 350 s).
pub const CLOUD_IDLE_LIMIT: Duration = Duration::from_secs(240);
/// CLOSE_WAIT longer than this is no close in progress: nobody is going to close it.
pub const CLOSE_WAIT: Duration = Duration::from_secs(30);
/// Silence after an acknowledged request; ordinary answers begin sooner.
pub const APP_WAITING: Duration = Duration::from_secs(20);
/// Zero window this long: the peer's application has stopped reading, not merely paused.
pub const ZERO_WINDOW: Duration = Duration::from_secs(2);
/// Loss worth reporting: TCP's throughput suffers visibly from 1 % on (Mathis et al., 1997).
pub const LOSS_PERCENT: f64 = 1.0;
/// Retransmits below which a percentage means nothing.
pub const LOSS_SEGMENTS: u64 = 10;
/// Retransmits of nothing but full-size segments that make a pattern.
pub const MTU_RETRANSMITS: u32 = 3;
/// Resets, sockets and time that make a wave.
pub const WAVE_RESETS: usize = 5;
pub const WAVE_SOCKETS: usize = 3;
pub const WAVE_WINDOW: Duration = Duration::from_secs(60);
/// A refused connect that another connect to the same destination makes good within this time was a fallback
/// (Happy Eyeballs, RFC 8305: 250 ms) or a quick retry.
pub const REFUSED_GRACE: Duration = Duration::from_secs(2);
/// How long a single occurrence (a reset, a refusal) keeps its finding open after the last one.
pub const HOLD: Duration = Duration::from_secs(120);

/// What a user may change, in a TOML file (`--config`) or by flags. Durations are written `"30s"`, `"2m"` or as a
/// number of seconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    #[serde(deserialize_with = "duration")]
    pub idle_gap: Duration,
    pub idle_gap_round_trips: u32,
    #[serde(deserialize_with = "duration")]
    pub long_idle_gap: Duration,
    pub stuck_rtos: u32,
    pub connect_syns: u32,
    #[serde(deserialize_with = "duration")]
    pub no_keepalive_idle: Duration,
    #[serde(deserialize_with = "duration")]
    pub close_wait: Duration,
    #[serde(deserialize_with = "duration")]
    pub app_waiting: Duration,
    #[serde(deserialize_with = "duration")]
    pub zero_window: Duration,
    pub loss_percent: f64,
    pub loss_segments: u64,
    pub mtu_retransmits: u32,
    pub wave_resets: usize,
    pub wave_sockets: usize,
    #[serde(deserialize_with = "duration")]
    pub wave_window: Duration,
    #[serde(deserialize_with = "duration")]
    pub refused_grace: Duration,
    #[serde(deserialize_with = "duration")]
    pub hold: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            idle_gap: IDLE_GAP,
            idle_gap_round_trips: IDLE_GAP_ROUND_TRIPS,
            long_idle_gap: LONG_IDLE_GAP,
            stuck_rtos: STUCK_RTOS,
            connect_syns: CONNECT_SYNS,
            no_keepalive_idle: NO_KEEPALIVE_IDLE,
            close_wait: CLOSE_WAIT,
            app_waiting: APP_WAITING,
            zero_window: ZERO_WINDOW,
            loss_percent: LOSS_PERCENT,
            loss_segments: LOSS_SEGMENTS,
            mtu_retransmits: MTU_RETRANSMITS,
            wave_resets: WAVE_RESETS,
            wave_sockets: WAVE_SOCKETS,
            wave_window: WAVE_WINDOW,
            refused_grace: REFUSED_GRACE,
            hold: HOLD,
        }
    }
}

impl Thresholds {
    /// Reads a configuration file's text. What it does not name keeps its default; an unknown name is an error, so
    /// that a misspelt threshold is not silently ignored.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let t: Self = toml::from_str(text).map_err(|e| format!("thresholds: {}", e.message()))?;
        t.check()?;
        Ok(t)
    }

    /// Whether the values make sense together; flags may have changed some.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("idle_gap", self.idle_gap),
            ("no_keepalive_idle", self.no_keepalive_idle),
            ("close_wait", self.close_wait),
            ("app_waiting", self.app_waiting),
            ("wave_window", self.wave_window),
            ("hold", self.hold),
        ];
        for (name, d) in positive {
            if d.is_zero() {
                return Err(format!("threshold {name} is zero: the rule would fire on every socket; give a duration"));
            }
        }
        if self.stuck_rtos == 0 || self.connect_syns == 0 || self.wave_resets == 0 || self.wave_sockets == 0 {
            return Err(
                "a threshold that counts events is zero: the rule would fire without any; give at least 1".into()
            );
        }
        if !(self.loss_percent > 0.0 && self.loss_percent < 100.0) {
            return Err(format!("threshold loss_percent is {}; give a value between 0 and 100", self.loss_percent));
        }
        Ok(())
    }

    /// The shortest silence that counts as an idle gap on a path of this round-trip time.
    pub fn gap(&self, rtt: Option<Duration>) -> Duration {
        self.idle_gap.max(rtt.unwrap_or_default() * self.idle_gap_round_trips)
    }
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Whole(u64),
        Seconds(f64),
    }
    match Form::deserialize(d)? {
        Form::Text(t) => humantime::parse_duration(&t)
            .map_err(|e| serde::de::Error::custom(format!("{t:?} is no duration ({e}); write it like \"30s\""))),
        Form::Whole(s) => Ok(Duration::from_secs(s)),
        Form::Seconds(s) => Duration::try_from_secs_f64(s)
            .map_err(|e| serde::de::Error::custom(format!("{s} is no number of seconds: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changes_what_it_names() {
        let t = Thresholds::from_toml("no_keepalive_idle = \"5s\"\nwave_window = 30\nzero_window = 1.5\n").unwrap();
        assert_eq!(t.no_keepalive_idle, Duration::from_secs(5));
        assert_eq!(t.wave_window, Duration::from_secs(30));
        assert_eq!(t.zero_window, Duration::from_millis(1500));
        assert_eq!(t.close_wait, CLOSE_WAIT);
    }

    /// The file shown in docs/FINDINGS.md is the default, name by name.
    #[test]
    fn the_documented_file_is_the_default() {
        let doc = include_str!("../../../docs/FINDINGS.md");
        let file = doc.split("```toml").nth(1).and_then(|t| t.split("```").next()).unwrap();
        assert_eq!(Thresholds::from_toml(file).unwrap(), Thresholds::default());
        let fields = format!("{:?}", Thresholds::default()).matches(": ").count();
        assert_eq!(file.lines().filter(|l| l.contains('=')).count(), fields);
    }

    #[test]
    fn a_mistake_is_named() {
        assert!(Thresholds::from_toml("idle_treshold = 3").unwrap_err().contains("idle_treshold"));
        assert!(Thresholds::from_toml("hold = \"soon\"").unwrap_err().contains("soon"));
        assert!(Thresholds::from_toml("app_waiting = 0").unwrap_err().contains("app_waiting"));
        assert!(Thresholds::from_toml("loss_percent = 0.0").unwrap_err().contains("between"));
    }

    #[test]
    fn the_gap_grows_with_the_round_trip() {
        let t = Thresholds::default();
        assert_eq!(t.gap(Some(Duration::from_millis(1))), IDLE_GAP);
        assert_eq!(t.gap(Some(Duration::from_millis(600))), Duration::from_secs(12));
    }
}
