//! Words and tables that the formats share: each cell is plain text, escaped by the format that draws it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Report;
use super::collect::Destination;
use crate::model::{ActionKind, ActionResult, FindingStatus, Keepalive, Mono, OptionValues, Owner, ResetOrigin, SetBy};
use crate::state::{History, HistoryKind, Socket};
use crate::view::text::{bytes, count, duration, latency};

/// A table: its head, and rows of as many cells.
pub struct Table {
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

const NONE: &str = "-";

impl Report {
    /// `12:03:04.567`, UTC.
    pub fn time(&self, at: Mono) -> String {
        self.snapshot.clock.rfc3339(at).get(11..23).unwrap_or_default().to_owned()
    }

    /// `2026-11-23 12:03:04 UTC`.
    pub fn date(&self, at: Mono) -> String {
        let t = self.snapshot.clock.rfc3339(at);
        format!("{} {} UTC", t.get(..10).unwrap_or_default(), t.get(11..19).unwrap_or_default())
    }

    /// One sentence on the whole.
    pub fn headline(&self) -> String {
        match self.main() {
            // What was said while it went on («gives up in») is followed by how it ended.
            Some(f) => match f.evidence.last().filter(|_| f.status == FindingStatus::Closed) {
                Some(end) => format!("{} It is over: {}.", f.summary, end.text),
                None => f.summary.clone(),
            },
            None => "no cause of resets or hangs was found in this recording".into(),
        }
    }

    pub fn title(&self) -> String {
        match self.main() {
            Some(f) => match &f.destination {
                Some(d) => format!("{}: {d}", f.code),
                None => f.code.to_string(),
            },
            None => "TCP sockets: nothing found".into(),
        }
    }

    /// What people paste from `ss -tnoe`, and what it lacks.
    pub fn socket_table(&self) -> Table {
        let head = vec![
            "destination",
            "local",
            "process",
            "state",
            "send-q",
            "unacked",
            "timer",
            "retrans",
            "backoff",
            "rtt",
            "idle",
            "keepalive",
            "resets",
            "gives up in",
        ];
        Table { head, rows: self.sockets.iter().map(|s| self.socket_row(s)).collect() }
    }

    fn socket_row(&self, s: &Socket) -> Vec<String> {
        let end = s.closed_at.unwrap_or(self.snapshot.at);
        let size = |n: Option<u64>| n.map_or(NONE.to_owned(), |n| if n == 0 { "0".into() } else { bytes(n) });
        let open = !s.is_closed();
        vec![
            s.destination(),
            s.flow.map_or(NONE.into(), |f| f.local.to_string()),
            process(s),
            match (s.state, s.closed_at) {
                (_, Some(at)) => format!("closed {}", self.time(at)),
                (Some(state), None) => state.to_string(),
                (None, None) => NONE.into(),
            },
            if open { size(s.tcp.send_queue_bytes) } else { NONE.into() },
            if open { size(s.tcp.unacked_bytes) } else { NONE.into() },
            if open { timer(s) } else { NONE.into() },
            count(s.counters.retransmits),
            s.tcp.backoff.filter(|_| open).map_or(NONE.into(), |b| b.to_string()),
            s.tcp.rtt.map_or(NONE.into(), latency),
            s.idle(end).map_or(NONE.into(), duration),
            s.keepalive.as_ref().map_or(NONE.into(), keepalive),
            resets(s),
            s.gives_up_in(self.snapshot.at).map_or(NONE.into(), duration),
        ]
    }

    pub fn destination_table(&self, most: usize) -> Table {
        let head = vec![
            "destination",
            "sockets",
            "resets in",
            "resets out",
            "retransmits",
            "of segments",
            "stalled",
            "longest stall",
        ];
        let row = |(name, d): (&str, &Destination)| {
            vec![
                name.to_owned(),
                count(d.sockets),
                count(d.resets_received),
                count(d.resets_sent),
                count(d.retransmits),
                share(d).map_or(NONE.into(), |p| format!("{p:.2} %")),
                if d.stalls == 0 { NONE.into() } else { duration(d.stalled) },
                if d.stalls == 0 { NONE.into() } else { duration(d.longest_stall) },
            ]
        };
        Table { head, rows: self.collected.destinations().into_iter().take(most).map(row).collect() }
    }

    /// Name and value, what decides how long a hang lasts first.
    pub fn environment(&self) -> Vec<(String, String)> {
        let s = &self.snapshot.session;
        let known = |t: &str| if t.is_empty() { "unknown".to_owned() } else { t.to_owned() };
        let mut rows = vec![
            ("kernel".to_owned(), format!("{} {}", known(&s.kernel_release), s.arch)),
            ("agent".to_owned(), known(&s.agent_version)),
        ];
        let clients = self.clients();
        if !clients.is_empty() {
            rows.push(("clients".into(), clients));
        }
        let keepalives = self.keepalives();
        if !keepalives.is_empty() {
            rows.push(("keepalive".into(), keepalives));
        }
        if !s.targets.destinations.is_empty() {
            rows.push(("destinations watched".into(), s.targets.destinations.join(", ")));
        }
        if !s.command.is_empty() {
            rows.push(("command".into(), s.command.join(" ")));
        }
        for (name, value) in &s.sysctl {
            rows.push((name.clone(), value.map_or("unknown".into(), |v| v.to_string())));
        }
        for h in &s.hooks {
            let state = match (&h.why_not, h.attached) {
                (_, true) => "attached".to_owned(),
                (Some(why), false) => format!("not attached: {why}"),
                (None, false) => "not attached".to_owned(),
            };
            rows.push((format!("hook {} ({})", h.name, h.backend), state));
        }
        for limit in &s.limits {
            rows.push(("limit".into(), limit.clone()));
        }
        rows
    }

    /// `node: Node.js 20.19.2 (pid 4182), 5 sockets`.
    fn clients(&self) -> String {
        let mut by: BTreeMap<(String, u32), usize> = BTreeMap::new();
        for s in &self.sockets {
            if let Some(o) = s.owners.iter().min_by_key(|o| o.pid) {
                *by.entry((program(o), o.pid)).or_default() += 1;
            }
        }
        let all: Vec<String> = by
            .iter()
            .take(10)
            .map(|((program, pid), n)| format!("{program} (pid {pid}), {n} socket{}", if *n == 1 { "" } else { "s" }))
            .collect();
        all.join("; ")
    }

    fn keepalives(&self) -> String {
        let mut by: BTreeMap<String, usize> = BTreeMap::new();
        for s in self.sockets.iter().filter(|s| !s.is_closed()) {
            if let Some(k) = &s.keepalive {
                *by.entry(keepalive(k)).or_default() += 1;
            }
        }
        let all: Vec<String> = by.iter().take(10).map(|(k, n)| format!("{k} on {n}")).collect();
        all.join("; ")
    }

    pub fn counts(&self) -> Vec<(String, String)> {
        let t = &self.snapshot.totals;
        let l = &self.snapshot.lost;
        let mut rows = vec![
            ("watched".to_owned(), duration(self.snapshot.at.since(self.start))),
            ("events read".to_owned(), count(self.snapshot.events)),
            ("sockets".to_owned(), count(t.sockets)),
            ("segments retransmitted".to_owned(), count(t.retransmits)),
            ("resets received".to_owned(), count(t.resets_received)),
            ("resets sent".to_owned(), count(t.resets_sent)),
        ];
        let lost = if l.total() == 0 {
            "nothing".to_owned()
        } else {
            format!(
                "{} in detail (ring full {}, kernel recursion {}, table full {}); totals stay exact",
                count(l.total()),
                count(l.ring_full),
                count(l.recursion_misses),
                count(l.table_full)
            )
        };
        rows.push(("lost".into(), lost));
        rows
    }

    /// What the agent was told to do, and what the socket did after it.
    pub fn action_table(&self) -> Table {
        let rows = self.collected.actions.iter().map(|(at, a)| {
            let socket = a.socket.and_then(|id| self.sockets.iter().find(|s| s.id == id));
            vec![
                self.time(*at),
                match a.action {
                    ActionKind::Keepalive => "keepalive",
                    ActionKind::UserTimeout => "user timeout",
                    ActionKind::Close => "close",
                    ActionKind::Undo => "undo",
                }
                .to_owned(),
                a.remote.clone().or_else(|| socket.map(|s| s.destination())).unwrap_or(NONE.into()),
                a.before.map_or(NONE.into(), options),
                a.after.map_or(NONE.into(), options),
                match a.result {
                    ActionResult::Applied => "applied".to_owned(),
                    ActionResult::Unchanged => "unchanged".to_owned(),
                    ActionResult::WouldApply => "would apply".to_owned(),
                    ActionResult::Failed => format!("failed: {}", a.error.as_deref().unwrap_or("unknown")),
                },
                socket.map_or(NONE.into(), |s| self.effect(*at, s)),
            ]
        });
        Table {
            head: vec!["time", "action", "destination", "before", "after", "result", "the socket since"],
            rows: rows.collect(),
        }
    }

    fn effect(&self, at: Mono, s: &Socket) -> String {
        if let Some(closed) = s.closed_at {
            return format!("closed {} later", duration(closed.since(at)));
        }
        match s.activity.last_heard {
            Some(heard) if heard > at => "answered".into(),
            _ if s.activity.retransmits_since_heard > 0 => "still without an ACK".into(),
            _ => "quiet".into(),
        }
    }
}

/// A socket's history in order, each finding once: what came of it later stands with the finding.
pub fn timeline(s: &Socket) -> Vec<History<'_>> {
    let mut told = std::collections::HashSet::new();
    let mut all: Vec<History<'_>> = (s.history.iter())
        .filter(|h| {
            h.kind() != HistoryKind::Finding || told.insert(h.text().split_whitespace().next().map(str::to_owned))
        })
        .collect();
    all.sort_by_key(|h| h.at);
    all
}

/// Retransmitted share of the data segments sent, per cent.
pub fn share(d: &Destination) -> Option<f64> {
    (d.segments > 0).then(|| d.retransmits as f64 * 100.0 / d.segments as f64)
}

/// A process by its name, and what it runs.
fn program(o: &Owner) -> String {
    match &o.program {
        Some(parts) => {
            let parts: Vec<String> = parts.iter().map(|c| format!("{} {}", c.name, c.version)).collect();
            format!("{}: {}", o.comm, parts.join(", "))
        }
        None => format!("{}: version unknown", o.comm),
    }
}

fn process(s: &Socket) -> String {
    match s.owners.iter().min_by_key(|o| o.pid) {
        Some(o) => {
            let more = s.owners.len() - 1;
            let gone = if s.orphaned { ", exited" } else { "" };
            let more = if more > 0 { format!(" +{more}") } else { String::new() };
            format!("{} {}{more}{gone}", o.comm, o.pid)
        }
        None => NONE.into(),
    }
}

/// As `ss -o` names it.
fn timer(s: &Socket) -> String {
    let name = match s.tcp.timer {
        Some(1) => "on",
        Some(2) => "keepalive",
        Some(3) => "timewait",
        Some(4) => "persist",
        Some(0) => "off",
        _ => return NONE.into(),
    };
    match s.tcp.timer_ms.filter(|_| s.tcp.timer != Some(0)) {
        Some(ms) => format!("{name} {}", latency(Duration::from_millis(ms.into()))),
        None => name.into(),
    }
}

pub fn keepalive(k: &Keepalive) -> String {
    let limit = if k.user_timeout_ms > 0 { format!(", user timeout {} ms", k.user_timeout_ms) } else { String::new() };
    if !k.enabled {
        return format!("off{limit}");
    }
    let by = if k.set_by == Some(SetBy::Agent) { " by agent" } else { "" };
    format!("{}s/{}s/{}{by}{limit}", k.idle_s, k.interval_s, k.count)
}

fn options(o: OptionValues) -> String {
    keepalive(&Keepalive {
        enabled: o.enabled,
        idle_s: o.idle_s,
        interval_s: o.interval_s,
        count: o.count,
        user_timeout_ms: o.user_timeout_ms,
        set_by: None,
    })
}

fn resets(s: &Socket) -> String {
    let c = &s.counters;
    let mut out = Vec::new();
    if c.resets_received > 0 {
        let who = match s.last_reset.get().map(|r| r.origin) {
            Some(ResetOrigin::Peer) => " peer",
            Some(ResetOrigin::Middlebox) => " middlebox",
            _ => "",
        };
        out.push(format!("← {}{who}", c.resets_received));
    }
    if c.resets_sent > 0 {
        out.push(format!("→ {}", c.resets_sent));
    }
    if out.is_empty() { NONE.into() } else { out.join(" ") }
}

/// The parts of a sentence outside and inside of back quotes, in turn, the first outside. One part where the back quotes
/// are no pairs, or what they hold is not plainly a command or a name.
pub fn spans(text: &str) -> Vec<&str> {
    let parts: Vec<&str> = text.split('`').collect();
    let last = parts.len() - 1;
    let plain =
        |(n, part): (usize, &&str)| n == 0 || n == last || !part.is_empty() && !part.contains(['<', '>', '&', '@']);
    if last.is_multiple_of(2) && parts.iter().enumerate().all(plain) { parts } else { vec![text] }
}

#[cfg(test)]
mod tests {
    use super::spans;

    #[test]
    fn back_quotes_make_code_only_in_pairs_around_plain_words() {
        assert_eq!(spans("run `agent close` now"), ["run ", "agent close", " now"]);
        assert_eq!(spans("`sysctl a=1`"), ["", "sysctl a=1", ""]);
        for whole in ["plain", "", "a ` b", "a `` b", "a `<b>` c", "`a``b`", "cut `agent clo…"] {
            assert_eq!(spans(whole), [whole]);
        }
    }
}
