//! How single values are written: times, cookies, addresses, seconds, and the words of the contract.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model;

/// RFC 3339, UTC, always nine decimals: Unix nanoseconds inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub i64);

/// Length of a [`Time`] as text: `2026-11-23T17:00:00.000000001Z`.
pub const TIME_LEN: usize = 30;
/// Where the digits of the nanoseconds begin in it.
pub(super) const NANOS_AT: usize = 20;
/// In nanoseconds.
pub(super) const SECOND: i64 = 1_000_000_000;

impl Time {
    /// `at` on the wall; the ends of the `i64` range (years 1677 and 2262) where it does not fit.
    pub fn new(clock: &model::WallClock, at: model::Mono) -> Self {
        let ns = clock.unix_ns(at);
        Self(i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX }))
    }

    /// The text, without allocation.
    pub fn format(self) -> [u8; TIME_LEN] {
        let seconds = self.0.div_euclid(SECOND);
        let mut out = *b"0000-00-00T00:00:00.000000000Z";
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400) as u32;
        digits(&mut out[0..4], year);
        digits(&mut out[5..7], month);
        digits(&mut out[8..10], day);
        digits(&mut out[11..13], of_day / 3600);
        digits(&mut out[14..16], of_day / 60 % 60);
        digits(&mut out[17..19], of_day % 60);
        digits(&mut out[20..29], self.0.rem_euclid(SECOND) as u32);
        out
    }

    /// Reads what [`Self::format`] writes fast, and any other RFC 3339 time correctly.
    pub fn parse(text: &str) -> Option<Self> {
        exact(text.as_bytes()).or_else(|| {
            let t: jiff::Timestamp = text.parse().ok()?;
            i64::try_from(t.as_nanosecond()).ok().map(Self)
        })
    }
}

fn digits(out: &mut [u8], mut n: u32) {
    for slot in out.iter_mut().rev() {
        *slot = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// Days since 1970-01-01 to year, month, day in the proleptic Gregorian calendar: Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> (u32, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year.clamp(0, 9_999) as u32, month as u32, day as u32)
}

/// The inverse of [`civil`]: `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// The exact form only; `None` sends the text to the general parser.
fn exact(t: &[u8]) -> Option<Time> {
    if t.len() != TIME_LEN {
        return None;
    }
    for (at, c) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (29, b'Z')] {
        if t[at] != c {
            return None;
        }
    }
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        t[range].iter().try_fold(0i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days 29 to 31 depend on the month: the general parser decides about those that may not exist.
    let plain = (1700..2262).contains(&year) && (1..=12).contains(&month) && (1..=28).contains(&day);
    if !plain || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Time(seconds * SECOND + number(20..29)?))
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let text = self.format();
        s.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "description": "RFC 3339, UTC, nanoseconds" })
    }
}

/// A socket's cookie: hex, lower case, no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub model::SocketId);

impl Serialize for Cookie {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl JsonSchema for Cookie {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cookie".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{1,16}$", "description": "SO_COOKIE, hex" })
    }
}

/// `ip:port` or `[v6]:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub SocketAddr);

impl Serialize for Addr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl JsonSchema for Addr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Addr".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9.]+|\\[[0-9a-f:.%]+\\]):[0-9]+$",
                       "description": "ip:port or [v6]:port" })
    }
}

/// Deserialize a type that is written as text from that text, without allocation.
macro_rules! from_text {
    ($name:ident, $what:literal, |$text:ident| $parse:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: Error>(self, $text: &str) -> Result<$name, E> {
                        $parse.ok_or_else(|| E::custom(format_args!("'{}' is no {}", $text, $what)))
                    }
                }
                d.deserialize_str(Text)
            }
        }
    };
}

from_text!(Time, "RFC 3339 time", |text| Time::parse(text));
from_text!(Cookie, "socket cookie", |text| text.parse().ok().map(Cookie));
from_text!(Addr, "address with port", |text| text.parse().ok().map(Addr));

/// A duration in seconds, as a JSON number; nanoseconds survive up to 52 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Seconds(pub Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // 317 years: no real time is longer, and sums stay far from what a `Duration` holds.
        let s = f64::deserialize(d)?.min(1e10);
        Duration::try_from_secs_f64(s).map(Self).map_err(|e| D::Error::custom(format_args!("{s} seconds: {e}")))
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seconds".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0.0 })
    }
}

/// The words of the contract and the model's enums, one for one. A word that a later minor version added reads as
/// `Later` and becomes `None` in the model.
macro_rules! words {
    ($($name:ident { $($variant:ident $text:literal),+ $(,)? })+) => { $(
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $(#[serde(rename = $text)] $variant,)+
            #[serde(other, skip_serializing)]
            #[schemars(skip)]
            Later,
        }

        impl From<model::$name> for $name {
            fn from(m: model::$name) -> Self {
                match m { $(model::$name::$variant => Self::$variant,)+ }
            }
        }

        impl $name {
            pub fn model(self) -> Option<model::$name> {
                match self { $(Self::$variant => Some(model::$name::$variant),)+ Self::Later => None }
            }
        }

        impl $name {
            /// The word as it stands in a line.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::Later => "unknown" }
            }
        }
    )+ };
}

words! {
    Family { V4 "ipv4", V6 "ipv6" }
    TcpState {
        Established "ESTABLISHED", SynSent "SYN_SENT", SynRecv "SYN_RECV", FinWait1 "FIN_WAIT1",
        FinWait2 "FIN_WAIT2", TimeWait "TIME_WAIT", Close "CLOSE", CloseWait "CLOSE_WAIT", LastAck "LAST_ACK",
        Listen "LISTEN", Closing "CLOSING", NewSynRecv "NEW_SYN_RECV", BoundInactive "BOUND_INACTIVE",
    }
    Direction { Outgoing "outgoing", Incoming "incoming" }
    RetransmitKind { Rto "rto", Fast "fast", Tlp "tlp", Syn "syn", Synack "synack", Unknown "unknown" }
    ResetDirection { Received "received", Sent "sent" }
    ResetOrigin { Peer "peer", Middlebox "middlebox", Local "local", Unknown "unknown" }
    SetBy { Application "application", Agent "agent" }
    Confidence { Possible "possible", Likely "likely", Certain "certain" }
    FindingStatus { Open "open", Closed "closed" }
    ActionKind { Keepalive "keepalive", UserTimeout "user_timeout", Close "close", Undo "undo" }
    Method { Pidfd "pidfd", Bpf "bpf", Ptrace "ptrace", SockDiag "sock_diag" }
    ActionResult { Applied "applied", Unchanged "unchanged", Failed "failed", WouldApply "would_apply" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_agree_with_the_library_over_four_centuries() {
        // A prime step of about 11 days and 7 hours, so that every month, leap day and time of day comes by.
        let mut ns = i64::from(i32::MIN) * 1_000_000_000;
        while ns < 9_000_000_000_000_000_000 {
            let text = String::from_utf8(Time(ns).format().to_vec()).unwrap();
            let library = jiff::Timestamp::from_nanosecond(ns.into()).unwrap();
            assert_eq!(text, format!("{library:.9}"));
            assert_eq!(Time::parse(&text), Some(Time(ns)));
            ns = ns.saturating_add(977_777_777_777_777);
        }
        assert_eq!(Time::parse("2026-02-30T00:00:00.000000000Z"), None);
        assert_eq!(Time::parse("2026-02-01T24:00:00.000000000Z"), None);
        assert_eq!(Time::parse("2026-11-23T18:00:00+01:00"), Time::parse("2026-11-23T17:00:00.000000000Z"));
    }

    #[test]
    fn seconds_keep_their_nanoseconds() {
        for ns in [0, 1, 200_000_000, 1_999_999_999, 4_499_999_999_999_999] {
            let d = Duration::from_nanos(ns);
            let text = serde_json::to_string(&Seconds(d)).unwrap();
            assert_eq!(serde_json::from_str::<Seconds>(&text).unwrap().0, d, "{text}");
        }
        assert!(serde_json::from_str::<Seconds>("-1").is_err());
        assert_eq!(serde_json::from_str::<Seconds>("1e300").unwrap().0, Duration::from_secs(10_000_000_000));
    }

    #[test]
    fn a_later_word_is_no_error() {
        assert_eq!(serde_json::from_str::<ResetOrigin>("\"proxy\"").unwrap().model(), None);
        assert_eq!(serde_json::from_str::<ResetOrigin>("\"peer\"").unwrap().model(), Some(model::ResetOrigin::Peer));
        assert_eq!(serde_json::to_string(&TcpState::CloseWait).unwrap(), "\"CLOSE_WAIT\"");
    }
}
