//! Times and sizes in a socket's history.

use std::time::Duration;

/// `8.0 s`, from a minute on `5:02`.
pub(super) fn span(d: Duration) -> String {
    match d.as_secs() {
        0..60 => format!("{:.1} s", d.as_secs_f64()),
        s => format!("{}:{:02}", s / 60, s % 60),
    }
}

/// `94 KiB`: binary units, no fraction from 10 on.
pub(super) fn bytes(n: u64) -> String {
    match n {
        0..=1023 => format!("{n} B"),
        1024..=1_048_575 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
}
