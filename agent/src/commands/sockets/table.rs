//! The table for a person.

use std::io::{self, Write};
use std::sync::Arc;

use super::collect::Row;
use super::wrong::wrong;
use crate::model::{Direction, Finding, Keepalive, TcpState};
use crate::view::text::{bytes, cut_middle, duration, latency, plural, safe, setting, width};

/// Widest destination that stays whole: `[IPv6]:port` in its longest form.
const REMOTE_WIDTH: usize = 47;
const HEAD: [&str; 13] = [
    "DESTINATION",
    "",
    "LOCAL",
    "STATE",
    "OWNER",
    "KEEPALIVE",
    "IDLE",
    "RTT",
    "SENDQ",
    "RETR",
    "TIMER",
    "GIVES UP",
    "WRONG",
];
/// Columns of numbers.
const RIGHT: [bool; 13] = [false, false, false, false, false, false, true, true, true, true, false, true, false];

/// Sockets with a problem first, then by owner and destination.
pub fn print(out: &mut dyn Write, mut rows: Vec<Row>) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no TCP sockets");
    }
    rows.sort_by_cached_key(|r| {
        let owner = r.owners.first().map_or(u32::MAX, |o| o.pid);
        (wrong(r).is_empty(), owner, r.socket.state == TcpState::Listen, r.socket.flow.remote, r.socket.flow.local)
    });
    let cells: Vec<[String; 13]> = rows.iter().map(cells).collect();
    let widths: Vec<usize> =
        (0..HEAD.len()).map(|c| cells.iter().map(|r| width(&r[c])).max().unwrap_or(0).max(HEAD[c].len())).collect();
    line(out, &widths, &HEAD.map(str::to_owned))?;
    for row in &cells {
        line(out, &widths, row)?;
    }
    let bad = rows.iter().filter(|r| !wrong(r).is_empty()).count();
    let verdict = if bad == 0 { "nothing wrong to see".to_owned() } else { format!("{bad} with something wrong") };
    writeln!(out, "{}, {verdict}", plural(rows.len(), "socket"))
}

/// What the rules make of it, under the table: the sentence, and the first thing to do about it.
pub fn causes(out: &mut dyn Write, findings: &[Arc<Finding>]) -> io::Result<()> {
    for f in findings {
        writeln!(out, "\n{} ({}): {}", f.code, f.confidence.name(), safe(&f.summary))?;
        if let Some(advice) = f.advice.first() {
            writeln!(out, "  fix: {}", safe(advice))?;
        }
    }
    Ok(())
}

fn line(out: &mut dyn Write, widths: &[usize], cells: &[String; 13]) -> io::Result<()> {
    let mut text = String::new();
    for (c, cell) in cells.iter().enumerate() {
        // A column that is empty throughout is left out.
        if widths[c] == 0 {
            continue;
        }
        if !text.is_empty() {
            text.push_str("  ");
        }
        let pad = " ".repeat(widths[c] - width(cell));
        if RIGHT[c] {
            text.push_str(&pad);
            text.push_str(cell);
        } else {
            text.push_str(cell);
            text.push_str(&pad);
        }
    }
    writeln!(out, "{}", text.trim_end())
}

fn cells(r: &Row) -> [String; 13] {
    let t = &r.socket.tcp;
    let some = |v: Option<String>| v.unwrap_or_else(|| "-".into());
    let remote = match &r.remote_name {
        Some(name) => format!("{}:{}", safe(name), r.socket.flow.remote.port()),
        None if r.socket.state == TcpState::Listen => "*".into(),
        None => r.socket.flow.remote.to_string(),
    };
    let arrow = match r.direction {
        Some(Direction::Incoming) => "←",
        Some(Direction::Outgoing) => "→",
        None => " ",
    };
    let owner = match r.owners.as_slice() {
        [] => "-".into(),
        [o] => format!("{}/{} fd {}", safe(&o.comm), o.pid, some(o.fd.map(|f| f.to_string()))),
        [o, rest @ ..] => format!("{}/{} +{}", safe(&o.comm), o.pid, rest.len()),
    };
    let total = t.total_retransmits.map(|n| match t.retransmits {
        Some(row) if row > 0 => format!("{row}/{n}"),
        _ => n.to_string(),
    });
    [
        cut_middle(&remote, REMOTE_WIDTH).into_owned(),
        arrow.into(),
        r.socket.flow.local.to_string(),
        r.socket.state.to_string(),
        owner,
        keepalive(r.keepalive, r.socket.state),
        some(r.idle().map(duration)),
        some(t.rtt.map(latency)),
        some(t.send_queue_bytes.map(bytes)),
        some(total),
        timer(t.timer, t.timer_ms, t.backoff),
        some(r.gives_up_in.map(duration)),
        wrong(r).join("; "),
    ]
}

fn keepalive(k: Option<Keepalive>, state: TcpState) -> String {
    match k {
        None => "-".into(),
        Some(_) if state == TcpState::Listen => "-".into(),
        Some(k) => {
            let mut text = if k.enabled {
                format!("{}/{}/{}", setting(k.idle_s), setting(k.interval_s), k.count)
            } else {
                "off".into()
            };
            if k.user_timeout_ms > 0 {
                text.push_str(&format!(
                    " ut {}",
                    latency(std::time::Duration::from_millis(u64::from(k.user_timeout_ms)))
                ));
            }
            text
        }
    }
}

fn timer(kind: Option<u8>, ms: Option<u32>, backoff: Option<u8>) -> String {
    let name = match kind {
        Some(1) => "retransmit",
        Some(2) => "keepalive",
        Some(3) => "timewait",
        Some(4) => "probe",
        _ => return "-".into(),
    };
    let left = ms.map_or(String::new(), |ms| format!(" {}", latency(std::time::Duration::from_millis(u64::from(ms)))));
    let backoff = backoff.filter(|b| *b > 0).map_or(String::new(), |b| format!(" b{b}"));
    format!("{name}{left}{backoff}")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
