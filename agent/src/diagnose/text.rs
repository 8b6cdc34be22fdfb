//! Numbers as a person reads them.

use std::time::Duration;

/// `350 ms`, `4.2 s`, `42 s`, `5:02`, `2:00:00`.
pub fn span(d: Duration) -> String {
    let s = d.as_secs_f64();
    let whole = s.round() as u64;
    if s < 0.9995 {
        format!("{:.0} ms", s * 1e3)
    } else if s < 9.95 {
        format!("{s:.1} s")
    } else if whole < 60 {
        format!("{whole} s")
    } else if whole < 3600 {
        format!("{}:{:02}", whole / 60, whole % 60)
    } else {
        format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
    }
}

/// `512 B`, `94 KiB`, `3 MiB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..=1023 => format!("{n} B"),
        1024..=1_048_575 => format!("{} KiB", (n + 512) >> 10),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// `1 socket`, `3 sockets`.
pub fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let f = |s: f64| span(Duration::from_secs_f64(s));
        assert_eq!(f(0.35), "350 ms");
        assert_eq!(f(4.24), "4.2 s");
        assert_eq!(f(9.97), "10 s");
        assert_eq!(f(59.6), "1:00");
        assert_eq!(f(302.0), "5:02");
        assert_eq!(f(7200.0), "2:00:00");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(96_000), "94 KiB");
        assert_eq!(count(1, "socket"), "1 socket");
        assert_eq!(count(3, "socket"), "3 sockets");
    }
}
