//! The socket table. Cells are built for visible rows only; columns leave in a fixed order as the screen narrows.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::columns::{Columns, columns, is_right, several};
use super::layout::Body;
use super::line::put;
use crate::model::{Keepalive, ResetDirection, ResetOrigin, SetBy, TcpState};
use crate::state::{Snapshot, Socket};
use crate::view::text;
use crate::view::tui::rows::{self, Column, is_stuck};
use crate::view::tui::state::UiState;
use crate::view::tui::theme::{Severity, Theme};

pub fn draw(ui: &UiState, snapshot: &Snapshot, body: Body, buffer: &mut Buffer) {
    let columns = columns(body.titles.width, several(ui));
    put(buffer, body.titles, 0, &titles(ui, &columns));
    if ui.rows.is_empty() {
        return empty(ui, snapshot, body.rows, buffer);
    }
    for y in 0..body.rows.height {
        let row = ui.offset + y as usize;
        let Some(socket) = ui.rows.get(snapshot, row) else { break };
        let selected = row == ui.cursor;
        put(buffer, body.rows, y, &line(ui, snapshot, socket, &columns, selected));
    }
}

/// The rule above the table says which part of it is visible, and what decides that.
pub fn draw_rule(ui: &UiState, snapshot: &Snapshot, body: Body, area: Rect, buffer: &mut Buffer) {
    let theme = ui.theme();
    let shown = ui.rows.len();
    let height = body.rows.height as usize;
    let all = snapshot.sockets.len();
    let range = if shown > height && height > 0 {
        format!("{}–{} of ", text::count(ui.offset as u64 + 1), text::count((ui.offset + height).min(shown) as u64))
    } else {
        String::new()
    };
    let of_all = if shown < all { format!("{} of ", text::count(shown as u64)) } else { String::new() };
    let range = if of_all.is_empty() { range } else { of_all };
    let mut status = vec![Span::styled(format!(" {range}{} ", text::plural(all, "socket")), theme.faint())];
    if !ui.filter.is_empty() {
        let words = text::cut(&text::safe(&ui.filter), 30).into_owned();
        status.push(Span::styled("· ", theme.faint()));
        status.push(Span::styled(format!("filter {words} "), theme.strong()));
    }
    if let Some(c) = ui.sort.by {
        let arrow = if ui.sort.ascending() { '↑' } else { '↓' };
        status.push(Span::styled("· ", theme.faint()));
        status.push(Span::styled(format!("by {} {arrow} ", c.title()), theme.strong()));
    }
    let used: usize = status.iter().map(Span::width).sum();
    let width = area.width as usize;
    if used + 4 > width {
        return super::line::rule(buffer, area, theme.faint());
    }
    let mut spans = vec![Span::styled("─".repeat(width - used - 2), theme.faint())];
    spans.extend(status);
    spans.push(Span::styled("──", theme.faint()));
    put(buffer, area, 0, &Line::from(spans));
}

fn titles(ui: &UiState, columns: &Columns) -> Line<'static> {
    let theme = ui.theme();
    let mut line = Builder::new(Style::new());
    for (c, x, w) in &columns.list {
        let sorted = ui.sort.by == Some(*c);
        let mut title = match c {
            Column::Retransmits if *w < 7 => "RETR".to_string(),
            c => c.title().to_string(),
        };
        if sorted {
            let arrow = if ui.sort.ascending() { '↑' } else { '↓' };
            title = format!("{}{arrow}", text::cut(&title, (*w as usize).saturating_sub(1)));
        }
        let style = if sorted { theme.strong() } else { theme.faint() };
        line.cell(*x, *w, &title, style, is_right(*c));
    }
    line.finish()
}

/// Spans at fixed places.
struct Builder {
    spans: Vec<Span<'static>>,
    at: u16,
    base: Style,
}

impl Builder {
    fn new(base: Style) -> Self {
        Self { spans: Vec::new(), at: 0, base }
    }

    fn cell(&mut self, x: u16, w: u16, value: &str, style: Style, right: bool) {
        if x > self.at {
            self.spans.push(Span::styled(" ".repeat((x - self.at) as usize), self.base));
        }
        let value = if right { text::right(value, w as usize) } else { text::left(value, w as usize) };
        self.spans.push(Span::styled(value, self.base.patch(style)));
        self.at = x + w;
    }

    fn finish(self) -> Line<'static> {
        Line::from(self.spans)
    }
}

fn line(ui: &UiState, snapshot: &Snapshot, s: &Socket, columns: &Columns, selected: bool) -> Line<'static> {
    let theme = ui.theme();
    let closed = s.is_closed();
    let mut base = if closed { theme.faint() } else { Style::new() };
    if selected {
        base = base.add_modifier(Modifier::BOLD);
    }
    let mut line = Builder::new(base);
    let (cursor_x, shape_x) = if columns.narrow { (0, 1) } else { (1, 3) };
    line.cell(cursor_x, 1, if selected { "▶" } else { "" }, Style::new(), false);
    let finding = ui.rows.finding(snapshot, s.id);
    let severity = finding.map(|f| Severity::of(f));
    line.cell(
        shape_x,
        1,
        severity.map_or("", Severity::shape),
        severity.map_or(Style::new(), |x| theme.severity(x)),
        false,
    );
    for (column, x, w) in &columns.list {
        let (value, style) = match column {
            Column::Finding => (
                finding.map(|f| f.code.name().to_string()).unwrap_or_default(),
                severity.map_or(Style::new(), |x| theme.severity(x)),
            ),
            c => cell(*c, s, snapshot, theme, columns, *w),
        };
        line.cell(*x, *w, &value, if closed { Style::new() } else { style }, is_right(*column));
    }
    line.finish()
}

fn cell(column: Column, s: &Socket, snapshot: &Snapshot, theme: Theme, columns: &Columns, w: u16) -> (String, Style) {
    let plain = Style::new();
    let none = || ("-".to_string(), theme.faint());
    match column {
        Column::Destination => {
            let name = s.destination();
            (text::cut_middle(&text::safe(&name), w as usize).into_owned(), plain)
        }
        Column::Local => s.flow.map_or_else(none, |f| (f.local.port().to_string(), plain)),
        Column::Owner => owner(s).map_or_else(none, |o| (o, plain)),
        Column::State => state(s, snapshot, columns.narrow, theme),
        Column::Keepalive => s.keepalive.map_or_else(none, |k| keepalive(k, w as usize, theme)),
        Column::Idle => rows::idle(s, snapshot.at).map_or_else(none, |d| (text::duration(d), plain)),
        Column::Rtt => s.tcp.rtt.map_or_else(none, |d| (text::latency(d), plain)),
        Column::SendQueue => match s.tcp.send_queue_bytes {
            _ if s.is_closed() => none(),
            None | Some(0) => none(),
            Some(n) => (text::bytes(n), if is_stuck(s) { theme.bad() } else { plain }),
        },
        Column::Retransmits => retransmits(s, snapshot, columns.spark, theme),
        Column::Reset => reset(s, columns.narrow, theme),
        Column::GivesUp => match s.gives_up_in(snapshot.at) {
            Some(d) if is_stuck(s) => (text::countdown(d), theme.bad()),
            _ => none(),
        },
        // Drawn by the caller, which knows the findings.
        Column::Finding => (String::new(), plain),
    }
}

/// `claude 4182`; of several holders the lowest pid.
fn owner(s: &Socket) -> Option<String> {
    let o = s.owners.iter().min_by_key(|o| o.pid)?;
    let pid = o.pid.to_string();
    let name = text::safe(&o.comm);
    Some(format!("{} {pid}", text::cut(&name, 14_usize.saturating_sub(pid.len()))))
}

fn state(s: &Socket, snapshot: &Snapshot, narrow: bool, theme: Theme) -> (String, Style) {
    if let Some(t) = s.closed_at {
        let ago = text::duration(snapshot.at.since(t));
        return (if narrow { "CLOSED".into() } else { format!("CLOSED {ago}") }, Style::new());
    }
    let Some(state) = s.state else { return ("-".into(), theme.faint()) };
    let name = match state {
        TcpState::Established if narrow => "ESTAB",
        TcpState::CloseWait if narrow => "CLOSEWAIT",
        TcpState::NewSynRecv if narrow => "SYN_RECV",
        TcpState::NewSynRecv => "SYN_RECV",
        TcpState::BoundInactive => "BOUND",
        other => other.name(),
    };
    (name.into(), if state == TcpState::CloseWait { theme.risk() } else { Style::new() })
}

/// `off`, `30s/10s/3`; `✓` and green where the agent set it.
pub fn keepalive(k: Keepalive, width: usize, theme: Theme) -> (String, Style) {
    if !k.enabled {
        return ("off".into(), theme.risk());
    }
    let values = format!("{}/{}/{}", text::setting(k.idle_s), text::setting(k.interval_s), k.count);
    match k.set_by {
        Some(SetBy::Agent) => {
            let blank = if text::width(&values) + 2 <= width { " " } else { "" };
            (format!("{values}{blank}✓"), theme.own())
        }
        _ => (values, Style::new()),
    }
}

fn retransmits(s: &Socket, snapshot: &Snapshot, spark: bool, theme: Theme) -> (String, Style) {
    let n = s.counters.retransmits;
    let style = match (is_stuck(s), n) {
        (true, _) => theme.bad(),
        (false, 0) => theme.faint(),
        _ => Style::new(),
    };
    let number = if n < 10_000 { n.to_string() } else { format!("{}k", n / 1_000) };
    if spark { (format!("{number:>4} {}", sparkline(s, snapshot)), style) } else { (format!("{number:>4}"), style) }
}

/// The socket's last slots, moved on to the present; the scale is logarithmic, for one retransmit matters and
/// a thousand must not flatten it. Empty where nothing was retransmitted.
pub fn sparkline(s: &Socket, snapshot: &Snapshot) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let now = snapshot.at.0 / Socket::SPARK_SLOT.as_nanos() as u64;
    let moved = now.saturating_sub(s.spark_slot).min(8) as usize;
    let slots = s.spark.iter().skip(moved).copied().chain(std::iter::repeat_n(0, moved));
    slots.map(|n| if n == 0 { ' ' } else { LEVELS[(n.ilog2() as usize).min(7)] }).collect()
}

fn reset(s: &Socket, narrow: bool, theme: Theme) -> (String, Style) {
    let Some(r) = s.last_reset.get() else { return ("-".into(), theme.faint()) };
    let arrow = match r.direction {
        ResetDirection::Received => "←",
        ResetDirection::Sent => "→",
    };
    let origin = match (r.direction, r.origin) {
        (ResetDirection::Sent, _) | (_, ResetOrigin::Local) => "local",
        (_, ResetOrigin::Peer) => "peer",
        (_, ResetOrigin::Middlebox) if narrow => "mbox",
        (_, ResetOrigin::Middlebox) => "middlebox",
        (_, ResetOrigin::Unknown) => "?",
    };
    let n = s.counters.resets_received + s.counters.resets_sent;
    let times = if n > 1 && !narrow && origin.len() < 9 { format!(" ×{n}") } else { String::new() };
    (format!("{arrow} {origin}{times}"), theme.bad())
}

fn empty(ui: &UiState, snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let theme = ui.theme();
    let who = super::header::targets(ui, snapshot);
    let (first, second) = if snapshot.sockets.is_empty() {
        let second = if ui.is_replay() {
            "The recording has not come to its first socket. → goes on."
        } else {
            "They appear here with the first connection; the ones already open within a moment."
        };
        (format!("No TCP sockets of {who} yet; waiting…"), second.to_string())
    } else {
        (
            format!(
                "None of {} matches \"{}\".",
                text::plural(snapshot.sockets.len(), "socket"),
                text::safe(&ui.filter)
            ),
            "esc clears the filter.".to_string(),
        )
    };
    let width = (area.width as usize).saturating_sub(8);
    let mut lines: Vec<Line<'static>> = text::wrap(&first, width).into_iter().map(Line::raw).collect();
    lines.extend(text::wrap(&second, width).into_iter().map(|l| Line::styled(l, theme.faint())));
    let top = area.height.saturating_sub(lines.len() as u16) / 3;
    for (i, l) in lines.into_iter().enumerate() {
        let inset = Rect { x: area.x + 5.min(area.width), width: area.width.saturating_sub(5), ..area };
        put(buffer, inset, top + i as u16, &l);
    }
}
