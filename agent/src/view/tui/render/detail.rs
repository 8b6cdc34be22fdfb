//! Everything about one socket: facts, its finding in full, its whole timeline.

use ratatui::style::Style;
use ratatui::text::Line;

use super::document::Document;
use super::pane;
use crate::model::{Direction, PacketFacts};
use crate::state::{Snapshot, Socket};
use crate::view::text;
use crate::view::tui::rows::{self, is_stuck};
use crate::view::tui::state::UiState;

pub fn lines(ui: &UiState, snapshot: &Snapshot, width: u16) -> Vec<Line<'static>> {
    let theme = ui.theme();
    let mut d = Document::new(width, theme);
    let Some(s) = ui.current(snapshot) else {
        d.line(Line::raw("   This socket has left the table. esc goes back."));
        return d.lines;
    };
    d.line(Line::from(pane::title(s, theme)));
    d.facts(&facts(ui, snapshot, s));
    for f in snapshot.findings.iter().filter(|f| f.sockets.contains(&s.id)) {
        d.gap();
        super::findings::document(&mut d, f, ui, snapshot);
    }
    d.heading("Timeline");
    let history = pane::history(s);
    if history.is_empty() {
        d.paragraph(3, "", theme.faint(), "Nothing has happened on it since the agent looks.", theme.faint());
    }
    for (i, h) in history.iter().enumerate() {
        if i == 4 && s.history.dropped > 0 {
            let left_out = format!("… {} entries left out …", text::count(s.history.dropped));
            d.paragraph(3, "", theme.faint(), &left_out, theme.faint());
        }
        let time = format!("{}  ", snapshot.clock.local_time_ms(h.at));
        d.paragraph(3, &time, theme.faint(), &h.text(), pane::style(h.kind(), theme));
    }
    d.lines
}

fn facts(ui: &UiState, snapshot: &Snapshot, s: &Socket) -> Vec<(&'static str, String, Style)> {
    let theme = ui.theme();
    let plain = theme.plain();
    let now = snapshot.at;
    let mut out: Vec<(&'static str, String, Style)> = Vec::new();
    let mut fact = |label, value: String, style| out.push((label, value, style));
    fact("destination", s.destination(), plain);
    if let Some(f) = s.flow {
        fact("local", f.local.to_string(), plain);
    }
    let owners: Vec<String> = s
        .owners
        .iter()
        .map(|o| format!("{} {}{}", o.comm, o.pid, o.fd.map_or_else(String::new, |fd| format!(" fd {fd}"))))
        .collect();
    let owners = if owners.is_empty() { "not known".into() } else { owners.join(", ") };
    fact("owner", if s.orphaned { format!("{owners} (exited)") } else { owners }, plain);
    let state = s.state.map_or_else(|| "not known".into(), |x| x.to_string());
    let since = s.state_since.map_or_else(String::new, |t| format!(" for {}", text::duration(now.since(t))));
    fact("state", format!("{state}{since}"), plain);
    let direction = match s.direction {
        Some(Direction::Outgoing) => ", outgoing",
        Some(Direction::Incoming) => ", accepted",
        None => "",
    };
    let opened = s.opened.map_or_else(|| "before the agent looked".into(), |t| snapshot.clock.local_time(t));
    fact("opened", format!("{opened}{direction}"), plain);
    if let Some(t) = s.closed_at {
        fact("closed", format!("{}, {} ago", snapshot.clock.local_time(t), text::duration(now.since(t))), plain);
    }
    fact(
        "idle",
        match (rows::idle(s, now), s.activity.longest_survived_idle) {
            (None, _) => "not known".into(),
            (Some(d), None) => text::duration(d),
            (Some(d), Some(best)) => format!("{}; survived up to {}", text::duration(d), text::duration(best)),
        },
        plain,
    );
    keepalive(s, ui, &mut fact);
    if let Some(l) = snapshot.limits_of(s) {
        fact("idle limits", text::idle_limits(l).join("; "), plain);
        if let Some(advice) = text::idle_advice(l) {
            fact("so set", advice, theme.own());
        }
    }
    let t = &s.tcp;
    let or_dash = |v: Option<String>| v.unwrap_or_else(|| "-".into());
    fact(
        "rtt, rto",
        format!(
            "{}, {}, backoff {}",
            or_dash(t.rtt.map(text::latency)),
            or_dash(t.rto.map(text::latency)),
            or_dash(t.backoff.map(|b| b.to_string()))
        ),
        plain,
    );
    fact(
        "in flight",
        format!(
            "{} unacknowledged, {} in the send queue",
            or_dash(t.unacked_bytes.map(text::bytes)),
            or_dash(t.send_queue_bytes.map(text::bytes))
        ),
        if is_stuck(s) { theme.bad() } else { plain },
    );
    if let (true, Some(left)) = (is_stuck(s), s.gives_up_in(now)) {
        fact("gives up in", text::countdown(left), theme.bad());
    }
    fact(
        "bytes",
        format!(
            "{} sent, {} received",
            or_dash(t.bytes_sent.map(text::bytes)),
            or_dash(t.bytes_received.map(text::bytes))
        ),
        plain,
    );
    let c = &s.counters;
    fact(
        "retransmits",
        format!("{}: RTO {}, fast {}, TLP {}, SYN {}", text::count(c.retransmits), c.rto, c.fast, c.tlp, c.syn),
        plain,
    );
    fact("resets", format!("{} received, {} sent", c.resets_received, c.resets_sent), plain);
    if let Some(r) = s.last_reset.get() {
        let reason = r.kernel_reason.as_ref().map_or_else(String::new, |k| format!("kernel reason {k}"));
        let parts: Vec<String> =
            [r.origin_why.to_string(), packet(&r.packet), reason].into_iter().filter(|p| !p.is_empty()).collect();
        if !parts.is_empty() {
            fact("last reset", parts.join("; "), plain);
        }
    }
    if s.mptcp == Some(true) {
        fact("mptcp", "yes: options may not be settable".into(), plain);
    }
    fact("cookie", s.netns.map_or_else(|| s.id.to_string(), |n| format!("{}, netns {n}", s.id)), theme.faint());
    out
}

fn keepalive(s: &Socket, ui: &UiState, fact: &mut impl FnMut(&'static str, String, Style)) {
    let theme = ui.theme();
    let Some(k) = s.keepalive else { return fact("keepalive", "not read yet".into(), theme.faint()) };
    let (values, style) = super::table::keepalive(k, 40, theme);
    let value = if k.enabled {
        let by = if values.ends_with('✓') { " set by the agent" } else { " set by the application" };
        format!("{values}{by}")
    } else {
        format!("off; if switched on alone: {}/{}/{}", text::setting(k.idle_s), text::setting(k.interval_s), k.count)
    };
    fact("keepalive", value, if s.is_closed() { theme.faint() } else { style });
    if k.user_timeout_ms > 0 {
        let d = std::time::Duration::from_millis(u64::from(k.user_timeout_ms));
        fact("user timeout", text::duration(d), theme.plain());
    }
}

/// What the RST packet showed against the flow.
fn packet(p: &PacketFacts) -> String {
    let mut parts = Vec::new();
    match (p.ttl, p.flow_ttl) {
        (Some(t), Some(f)) => parts.push(format!("TTL {t} (the flow's {f})")),
        (Some(t), None) => parts.push(format!("TTL {t}")),
        _ => {}
    }
    match (p.ip_id, p.flow_ip_id) {
        (Some(a), Some(b)) => parts.push(format!("IP ID {a} (the flow's {b})")),
        (Some(a), None) => parts.push(format!("IP ID {a}")),
        _ => {}
    }
    match p.seq_expected {
        Some(true) => parts.push("sequence exact".into()),
        Some(false) => parts.push("sequence off".into()),
        None => {}
    }
    parts.join(", ")
}
