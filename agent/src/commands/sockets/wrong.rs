//! What is wrong with a socket, as far as one look can tell: a few words, the worst first. Causes are named by the findings
//! below the table.

use std::time::Duration;

use super::collect::Row;
use crate::diagnose::Thresholds;
use crate::model::TcpState;
use crate::view::text::{bytes, duration, plural};

const UNREAD: Duration = Duration::from_secs(5);

/// Empty: nothing to complain of.
pub fn wrong(row: &Row) -> Vec<String> {
    let t = &row.socket.tcp;
    let limits = Thresholds::default();
    let mut out = Vec::new();
    let retries = t.retransmits.unwrap_or(0);
    let probes = t.probes.unwrap_or(0);
    let ms = |v: Option<u64>| v.map(Duration::from_millis);
    match row.socket.state {
        TcpState::Listen if row.socket.send_queue > 0 && row.socket.receive_queue >= row.socket.send_queue => {
            out.push(format!("backlog full: {} wait for accept", row.socket.receive_queue));
        }
        TcpState::Listen | TcpState::TimeWait | TcpState::Close | TcpState::BoundInactive => return out,
        TcpState::SynSent if retries > 0 => out.push(format!("no answer to {} SYNs", u32::from(retries) + 1)),
        TcpState::CloseWait => {
            if let Some(since) = ms(t.last_received_ms.or(t.last_ack_ms)).filter(|d| *d >= limits.close_wait) {
                out.push(format!("closed by the peer {} ago, still open here", duration(since)));
            }
        }
        _ => {}
    }
    if retries > 0 && row.socket.state != TcpState::SynSent {
        let stuck = t.unacked_bytes.map_or(String::new(), |n| format!(", {} stuck", bytes(n)));
        let since = ms(t.last_ack_ms).map_or(String::new(), |d| format!(", no ACK for {}", duration(d)));
        out.push(format!("{} unanswered{stuck}{since}", plural(retries.into(), "RTO")));
    } else if probes > 1 {
        let what = if t.timer == Some(4) { "zero-window" } else { "keepalive" };
        out.push(format!("{} unanswered", plural(probes.into(), &format!("{what} probe"))));
    }
    if t.send_window_bytes == Some(0) && t.send_queue_bytes.is_some_and(|n| n > 0) {
        out.push("the peer's window is full".into());
    }
    if let Some(n) = t.receive_queue_bytes.filter(|n| *n > 0)
        && ms(t.last_received_ms).is_some_and(|d| d >= UNREAD)
    {
        out.push(format!("{} not read by the application", bytes(n)));
    }
    if row.socket.state == TcpState::Established
        && row.keepalive.is_some_and(|k| !k.enabled)
        && row.idle().is_some_and(|d| d >= limits.no_keepalive_idle)
        && !row.socket.flow.remote.ip().is_loopback()
    {
        out.push("no keepalive".into());
    }
    out
}
