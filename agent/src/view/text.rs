//! Words and numbers as a person reads them on a terminal: durations `m:ss`, bytes `94Ki`, counts `1,204`; text that
//! came from the network, a recording or a process made safe; cutting and wrapping by display width.

use std::borrow::Cow;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::{IdleFigure, IdleLimits};

/// `5:02` below an hour, then `1h02m`, then `4d05h`: at most six columns up to 99 days.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..3_600 => format!("{}:{:02}", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// Time that is left, to the nearest second.
pub fn countdown(d: Duration) -> String {
    duration(d + Duration::from_millis(500))
}

/// A round-trip or timer value: `0.4ms`, `31ms`, `1.2s`, `120s`: at most five columns up to 9,999 s.
pub fn latency(d: Duration) -> String {
    let us = d.as_micros();
    match us {
        0..9_950 => format!("{:.1}ms", us as f64 / 1e3),
        9_950..999_500 => format!("{}ms", (us + 500) / 1_000),
        999_500..9_950_000 => format!("{:.1}s", us as f64 / 1e6),
        _ => format!("{}s", (us + 500_000) / 1_000_000),
    }
}

/// Binary units, one letter and an `i`: `0`, `712`, `94Ki`, `1.5Mi`; at most five columns.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if n < 1_000 {
        return n.to_string();
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// Thousands apart: `1,204`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A setting in whole seconds, as short as it can be said exactly: `30s`, `60s`, `2m`, `2h`.
pub fn setting(seconds: u32) -> String {
    match seconds {
        0 => "0s".into(),
        s if s % 3_600 == 0 => format!("{}h", s / 3_600),
        s if s >= 120 && s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// `1 socket`, `5 sockets`.
pub fn plural(n: usize, word: &str) -> String {
    format!("{} {word}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// Text that must not steer the terminal: control characters, bidirectional overrides and invisible separators become
/// U+FFFD. Sources sanitise names already ([`crate::model::sanitize`]); a recording or a DNS answer may not have been.
pub fn safe(text: &str) -> Cow<'_, str> {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}'
                | '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    if text.contains(bad) {
        Cow::Owned(text.chars().map(|c| if bad(c) { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Columns that `text` takes on a terminal.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// The longest beginning of `text` that fits into `max` columns, as a byte length.
fn fitting(text: &str, max: usize) -> usize {
    let mut used = 0;
    for (i, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > max {
            return i;
        }
    }
    text.len()
}

/// Cuts the end off, with `…` in the last column, if `text` is wider than `max`.
pub fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if width(text) <= max {
        return Cow::Borrowed(text);
    }
    if max == 0 {
        return Cow::Borrowed("");
    }
    let end = fitting(text, max - 1);
    Cow::Owned(format!("{}…", text[..end].trim_end()))
}

/// Cuts the middle out: of a destination the port, at the end, must stay.
pub fn cut_middle(text: &str, max: usize) -> Cow<'_, str> {
    if width(text) <= max {
        return Cow::Borrowed(text);
    }
    if max < 5 {
        return cut(text, max);
    }
    let tail_width = (max - 1) / 2;
    let head = &text[..fitting(text, max - 1 - tail_width)];
    let mut start = text.len();
    let mut used = 0;
    for (i, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > tail_width {
            break;
        }
        start = i;
    }
    Cow::Owned(format!("{head}…{}", &text[start..]))
}

/// `text` in exactly `columns` columns, cut or filled on the right.
pub fn left(text: &str, columns: usize) -> String {
    let t = cut(text, columns);
    let pad = columns - width(&t).min(columns);
    format!("{t}{:pad$}", "")
}

/// `text` in exactly `columns` columns, cut or filled on the left.
pub fn right(text: &str, columns: usize) -> String {
    let t = cut(text, columns);
    let pad = columns - width(&t).min(columns);
    format!("{:pad$}{t}", "")
}

/// Breaks at blanks into lines of at most `columns`; a longer word is broken inside. Never empty.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut word = word;
        let mut w = width(word);
        if used > 0 && used + 1 + w > columns {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        while w > columns {
            // A character wider than the whole line still has to make progress.
            let end = fitting(word, columns).max(word.chars().next().map_or(1, char::len_utf8));
            lines.push(word[..end].to_string());
            word = &word[end..];
            w = width(word);
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += w;
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// What is known of a destination's idle limits, one statement each, the most telling first; never empty.
pub fn idle_limits(l: &IdleLimits) -> Vec<String> {
    let figure = |f: IdleFigure| format!("{} (n={})", idle_seconds(f.median), count(f.count));
    let mut out = Vec::new();
    out.extend(l.server_closes.map(|f| format!("server closes after {}", figure(f))));
    out.extend(l.path_drops.map(|f| format!("path swallows after {}", figure(f))));
    out.extend(l.path_resets.map(|f| format!("path resets after {}", figure(f))));
    out.extend(l.resets.map(|f| format!("reset after {}", figure(f))));
    if l.path_drops.is_none() && l.path_resets.is_none() && l.resets.is_none() {
        out.push("path: none seen to fail".into());
    }
    out.extend(l.longest_survivor.map(|d| format!("longest survivor {}", idle_seconds(d))));
    out
}

/// What to set because of them; `None` if nothing is known to fail.
pub fn idle_advice(l: &IdleLimits) -> Option<String> {
    let pool = l.pool_timeout.map(|d| format!("pool idle timeout ≤ {}", idle_seconds(d)));
    let keepalive = l.keepalive_idle.map(|d| format!("keepalive idle ≤ {} s", d.as_secs()));
    let parts: Vec<String> = pool.into_iter().chain(keepalive).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn idle_seconds(d: Duration) -> String {
    format!("{:.1} s", d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let d = |s| duration(Duration::from_secs(s));
        assert_eq!(d(0), "0:00");
        assert_eq!(d(302), "5:02");
        assert_eq!(d(3_599), "59:59");
        assert_eq!(d(3_600), "1h00m");
        assert_eq!(d(86_399), "23h59m");
        assert_eq!(d(90_000), "1d01h");
        assert_eq!(countdown(Duration::from_millis(817_600)), "13:38");
    }

    #[test]
    fn latencies() {
        let l = |us| latency(Duration::from_micros(us));
        assert_eq!(l(0), "0.0ms");
        assert_eq!(l(431), "0.4ms");
        assert_eq!(l(9_949), "9.9ms");
        assert_eq!(l(9_950), "10ms");
        assert_eq!(l(31_200), "31ms");
        assert_eq!(l(999_499), "999ms");
        assert_eq!(l(999_500), "1.0s");
        assert_eq!(l(1_204_000), "1.2s");
        assert_eq!(l(120_000_000), "120s");
    }

    #[test]
    fn byte_counts_stay_within_five_columns() {
        assert_eq!(bytes(0), "0");
        assert_eq!(bytes(999), "999");
        assert_eq!(bytes(1_000), "1.0Ki");
        assert_eq!(bytes(94 << 10), "94Ki");
        assert_eq!(bytes(1_023 << 10), "1.0Mi");
        assert_eq!(bytes(3 << 19), "1.5Mi");
        assert_eq!(bytes(u64::MAX), "16Ei");
        for shift in 0..64 {
            assert!(bytes(1 << shift).len() <= 5, "{}", bytes(1 << shift));
            assert!(bytes((1 << shift) - 1).len() <= 5, "{}", bytes((1 << shift) - 1));
        }
    }

    #[test]
    fn counts_and_settings() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_204), "1,204");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(setting(30), "30s");
        assert_eq!(setting(60), "60s");
        assert_eq!(setting(75), "75s");
        assert_eq!(setting(120), "2m");
        assert_eq!(setting(7_200), "2h");
        assert_eq!(plural(1, "socket"), "1 socket");
        assert_eq!(plural(5, "socket"), "5 sockets");
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(safe("api.example"), "api.example");
        assert_eq!(safe("a\x1b[2Jb\u{202e}c\u{9b}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }

    #[test]
    fn cutting_keeps_to_the_width() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcdef", 0), "");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut_middle("api.anthropic.com:443", 21), "api.anthropic.com:443");
        assert_eq!(cut_middle("api.anthropic.com:443", 15), "api.ant…com:443");
        for n in 0..22 {
            assert!(width(&cut_middle("api.anthropic.com:443", n)) <= n);
            assert_eq!(width(&left("日本語x", n)), n);
            assert_eq!(width(&right("日本語x", n)), n);
        }
    }

    #[test]
    fn wrapping() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("日本", 1), ["日", "本"]);
    }
}
