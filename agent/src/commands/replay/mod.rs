//! `agent replay FILE`: a recording as `watch` would have shown it; the findings are those of today's rules.

mod player;
#[cfg(test)]
mod roundtrip;
mod screen;

pub use player::{Player, last_time, thresholds};

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};

use crate::cli::ReplayArgs;
use crate::model::{Finding, FindingStatus, Mono, WallClock};
use crate::view::text::count;

/// Fastest speed that is a number; beyond it, `max`.
const MAX_SPEED: f64 = 10_000.0;

/// `screen`: there is a terminal that a screen can be drawn on; `stop` then gives the flag that SIGTERM sets.
///
/// # Errors
/// One sentence: the file, the speed or the time cannot be used.
pub fn run(args: &ReplayArgs, screen: bool, stop: impl FnOnce() -> Result<Arc<AtomicBool>>) -> Result<u8> {
    let speed = speed(&args.speed)?;
    let thresholds = thresholds(args.config.as_deref())?;
    let player = Player::open(&args.file, thresholds.clone(), None)?;
    let end = last_time(&args.file, &player.clock())?.unwrap_or(player.start()).max(player.start());
    let from = args.at.as_deref().map(|text| moment(text, &player.clock(), player.start(), end)).transpose()?;
    if screen && !args.no_tui {
        return screen::run(&args.file, thresholds, player, screen::Span { from, end, speed }, &stop()?);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    match print(player, from, &mut out) {
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => Ok(0),
        other => other,
    }
}

/// Each finding as it opens and closes, then what it was all about.
fn print(mut player: Player, from: Option<Mono>, out: &mut dyn Write) -> Result<u8> {
    let clock = player.clock();
    let from = from.unwrap_or(Mono(0));
    let mut found = 0u64;
    let mut told = std::collections::HashMap::new();
    while let Some(step) = player.step()? {
        for f in &step.findings {
            let state = (f.confidence, f.status);
            if told.get(&f.id) == Some(&state) {
                continue;
            }
            let new = told.insert(f.id, state).is_none();
            found += u64::from(new);
            if player.now() >= from {
                tell(out, &clock, player.now(), f, new)?;
            }
        }
    }
    let t = player.table.totals();
    writeln!(
        out,
        "{} from {} on, {}: {}, {} retransmitted, {} received, {} sent, {} lost",
        plural(player.events(), "event"),
        clock.local_time(player.start()),
        length(player.now().since(player.start())),
        plural(t.sockets, "socket"),
        plural(t.retransmits, "segment"),
        plural(t.resets_received, "reset"),
        count(t.resets_sent),
        count(t.lost),
    )?;
    writeln!(out, "{} found, {} still open at the end", plural(found, "cause"), player.open_findings().len())?;
    for remark in player.stats().remarks() {
        writeln!(out, "note: {remark}")?;
    }
    out.flush()?;
    Ok(0)
}

fn tell(out: &mut dyn Write, clock: &WallClock, at: Mono, f: &Finding, new: bool) -> Result<()> {
    let mark = match (f.status, new) {
        (FindingStatus::Closed, _) => "closed",
        (FindingStatus::Open, true) => "found",
        (FindingStatus::Open, false) => "now",
    };
    writeln!(out, "{} {mark} {} ({}): {}", clock.local_time_ms(at), f.code, f.confidence.name(), f.summary)?;
    if new {
        for e in &f.evidence {
            writeln!(out, "    {}  {}", clock.local_time_ms(e.at), e.text)?;
        }
        for a in &f.advice {
            writeln!(out, "    fix: {a}")?;
        }
    }
    Ok(())
}

fn length(d: std::time::Duration) -> String {
    format!("{} long", crate::view::text::duration(d))
}

fn plural(n: u64, word: &str) -> String {
    format!("{} {word}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `1x`, `0.5x`, `4`, `max`.
fn speed(text: &str) -> Result<f64> {
    if text.eq_ignore_ascii_case("max") {
        return Ok(f64::INFINITY);
    }
    let number = text.trim_end_matches(['x', 'X']).parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    let number = number.with_context(|| format!("'{text}' is no speed; write it like 4x, 0.5x or max"))?;
    Ok(if number > MAX_SPEED { f64::INFINITY } else { number })
}

/// A time of day (local) or an RFC 3339 time, inside the recording.
fn moment(text: &str, clock: &WallClock, start: Mono, end: Mono) -> Result<Mono> {
    let outside = || {
        format!(
            "'{text}' is not in the recording, which goes from {} to {}",
            clock.local_time(start),
            clock.local_time(end)
        )
    };
    if let Ok(t) = text.parse::<jiff::Timestamp>() {
        let at = clock.mono(t.as_nanosecond()).with_context(outside)?;
        if at < start || at > end {
            bail!(outside());
        }
        return Ok(at);
    }
    let time: jiff::civil::Time = text
        .parse()
        .ok()
        .with_context(|| format!("'{text}' is no time; write it like 12:03:04 (local) or 2026-11-23T12:03:04Z"))?;
    let zone = jiff::tz::TimeZone::system();
    let first =
        jiff::Timestamp::from_nanosecond(clock.unix_ns(start)).context("the recording's time is out of range")?;
    let mut day = first.to_zoned(zone.clone()).date();
    // A recording over midnight holds the next day's morning.
    for _ in 0..2 {
        if let Ok(z) = day.to_datetime(time).to_zoned(zone.clone())
            && let Some(at) = clock.mono(z.timestamp().as_nanosecond())
        {
            // Whole seconds are asked for: the one in which the recording begins counts as inside.
            if at <= end && at.plus(std::time::Duration::from_secs(1)) > start {
                return Ok(at.max(start));
            }
        }
        day = day.tomorrow().unwrap_or(day);
    }
    bail!(outside())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds() {
        assert_eq!(speed("4x").unwrap(), 4.0);
        assert_eq!(speed("0.5").unwrap(), 0.5);
        assert!(speed("max").unwrap().is_infinite());
        for wrong in ["0x", "-1", "fast", "", "nan", "inf"] {
            assert!(speed(wrong).unwrap_err().to_string().contains("is no speed"), "{wrong}");
        }
    }

    #[test]
    fn moments_inside_and_outside() {
        let clock = crate::schema::samples::clock();
        let (start, end) = (Mono(5_000_000_000), Mono(65_000_000_000));
        let at = moment("2026-11-23T17:00:30Z", &clock, start, end).unwrap();
        assert_eq!(at, Mono(30_000_000_000));
        let local = clock.local_time(at);
        assert_eq!(moment(&local, &clock, start, end).unwrap(), at);
        assert_eq!(moment(&clock.local_time(start), &clock, start, end).unwrap(), start);
        assert!(moment("2026-11-23T18:00:30Z", &clock, start, end).unwrap_err().to_string().contains("goes from"));
        assert!(moment("noon", &clock, start, end).unwrap_err().to_string().contains("is no time"));
    }
}
