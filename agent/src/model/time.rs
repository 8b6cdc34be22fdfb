//! One clock: CLOCK_MONOTONIC, as the kernel stamps its records. Wall time exists only at the edge.

use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// Reads the clock. For sources and the composition root only: rules and state get the time passed in.
    pub fn now() -> Self {
        let ts = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self(ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64)
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant `d` before this one; stops at the clock's zero.
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(d.as_nanos() as u64))
    }

    /// The instant `d` after this one.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d.as_nanos() as u64))
    }

    pub fn from_secs_f64(s: f64) -> Self {
        Self((s.max(0.0) * 1e9) as u64)
    }

    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

/// Turns monotonic times into wall times: one pair of readings, taken when a session starts, so that a step of the
/// wall clock during a run does not reorder a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Unix time in nanoseconds at monotonic zero.
    offset_ns: i128,
}

impl WallClock {
    pub fn new(unix_ns: i128, at: Mono) -> Self {
        Self { offset_ns: unix_ns - i128::from(at.0) }
    }

    pub fn read() -> Self {
        let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self::new(i128::from(wall.tv_sec) * 1_000_000_000 + i128::from(wall.tv_nsec), Mono::now())
    }

    /// Unix time of `t`, nanoseconds.
    pub fn unix_ns(&self, t: Mono) -> i128 {
        self.offset_ns + i128::from(t.0)
    }

    /// The inverse of [`Self::unix_ns`]; `None` outside of what the monotonic clock can say.
    pub fn mono(&self, unix_ns: i128) -> Option<Mono> {
        u64::try_from(unix_ns - self.offset_ns).ok().map(Mono)
    }

    fn timestamp(&self, t: Mono) -> jiff::Timestamp {
        jiff::Timestamp::from_nanosecond(self.offset_ns + i128::from(t.0)).unwrap_or(jiff::Timestamp::MIN)
    }

    /// Whole seconds of Unix time.
    pub fn unix_seconds(&self, t: Mono) -> i64 {
        self.timestamp(t).as_second()
    }

    /// RFC 3339, UTC, nanoseconds: the `time` of the JSON contract.
    pub fn rfc3339(&self, t: Mono) -> String {
        format!("{:.9}", self.timestamp(t))
    }

    /// `HH:MM:SS.mmm` in the user's time zone, for a screen.
    pub fn local_time_ms(&self, t: Mono) -> String {
        let z = self.timestamp(t).to_zoned(jiff::tz::TimeZone::system());
        z.strftime("%H:%M:%S%.3f").to_string()
    }

    /// `HH:MM:SS` in the user's time zone, for a screen.
    pub fn local_time(&self, t: Mono) -> String {
        let z = self.timestamp(t).to_zoned(jiff::tz::TimeZone::system());
        z.strftime("%H:%M:%S").to_string()
    }

    /// The inverse of [`Self::rfc3339`], for replay; `None` if `text` is no RFC 3339 time or lies before monotonic
    /// zero.
    pub fn parse_rfc3339(&self, text: &str) -> Option<Mono> {
        let ts: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(ts.as_nanosecond() - self.offset_ns).ok().map(Mono)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_has_nanoseconds_and_comes_back() {
        let clock = WallClock::new(1_795_453_200_000_000_000, Mono(1_000));
        let text = clock.rfc3339(Mono(1_001));
        assert_eq!(text, "2026-11-23T17:00:00.000000001Z");
        assert_eq!(clock.parse_rfc3339(&text), Some(Mono(1_001)));
        assert_eq!(clock.parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Mono(5).since(Mono(9)), Duration::ZERO);
        assert_eq!(Mono(5).minus(Duration::from_secs(1)), Mono(0));
    }
}
