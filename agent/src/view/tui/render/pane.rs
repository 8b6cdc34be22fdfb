//! The lower pane: the story of the socket under the cursor, newest last, and what was found about it.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

use super::document::Document;
use super::footer::hint;
use super::line::{put, split};
use crate::model::{Finding, WallClock};
use crate::state::{History, HistoryKind, Snapshot, Socket};
use crate::view::text;
use crate::view::tui::keys::{self, Screen};
use crate::view::tui::state::UiState;
use crate::view::tui::theme::{Severity, Theme};

/// From this width on the finding stands beside the story.
const WIDE: u16 = 120;

pub fn draw(ui: &UiState, snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let theme = ui.theme();
    let Some(s) = ui.current(snapshot) else { return };
    let mut hints = vec![Span::styled("↑↓", theme.key()), Span::styled(" socket  ", theme.faint())];
    for (b, _) in keys::hints(Screen::Table, ui.is_replay(), true) {
        hints.extend(hint(b, ui));
        hints.push(Span::raw("  "));
    }
    put(buffer, area, 0, &split(title(s, theme), hints, area.width as usize));
    let finding = ui.rows.finding(snapshot, s.id);
    let below = Rect { y: area.y + 1, height: area.height - 1, ..area };
    match finding {
        Some(f) if area.width >= WIDE && below.height >= 6 => {
            let left = Rect { width: area.width * 9 / 20, ..below };
            let right = Rect { x: left.right() + 2, width: area.width - left.width - 2, ..below };
            story(s, snapshot.clock, theme, left, buffer);
            in_full(ui, snapshot, f, right, buffer);
        }
        Some(f) if below.height >= 2 => {
            story(s, snapshot.clock, theme, Rect { height: below.height - 1, ..below }, buffer);
            put(buffer, below, below.height - 1, &verdict(f, theme, area.width as usize));
        }
        _ => story(s, snapshot.clock, theme, below, buffer),
    }
}

/// The last of what happened, as far as it fits.
fn story(s: &Socket, clock: WallClock, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let lines = story_lines(s, clock, theme, area.width as usize);
    if lines.is_empty() {
        put(buffer, area, 0, &Line::styled("   nothing has happened on it since the agent looks", theme.faint()));
    }
    let skip = lines.len().saturating_sub(area.height as usize);
    for (y, l) in lines.iter().skip(skip).enumerate() {
        put(buffer, area, y as u16, l);
    }
}

/// The finding beside the story, where there is room for it.
fn in_full(ui: &UiState, snapshot: &Snapshot, f: &Finding, area: Rect, buffer: &mut Buffer) {
    let mut d = Document::new(area.width, ui.theme());
    super::findings::document_head(&mut d, f, ui, snapshot);
    // What stands above the table already is not said twice.
    if !super::findings::summary(ui, snapshot, ui.area).iter().any(|(_, id)| *id == Some(f.id)) {
        d.paragraph(3, "", ui.theme().plain(), &f.summary, ui.theme().strong());
    }
    super::findings::document_body(&mut d, f, ui, snapshot);
    for (y, l) in d.lines.iter().enumerate() {
        put(buffer, area, y as u16, l);
    }
    if d.lines.len() > area.height as usize {
        let rest = Rect { y: area.bottom() - 1, height: 1, ..area };
        Clear.render(rest, buffer);
        put(buffer, rest, 0, &Line::styled("   … f shows the rest", ui.theme().faint()));
    }
}

/// `53072 → 160.79.104.10:443  claude 4182 fd 23`.
pub fn title(s: &Socket, theme: Theme) -> Vec<Span<'static>> {
    let local = s.flow.map_or_else(|| "?".into(), |f| f.local.port().to_string());
    let remote = s.flow.map_or_else(|| "?".into(), |f| f.remote.to_string());
    vec![Span::styled(format!(" {local} → {remote}"), theme.strong()), Span::raw(format!("  {}", owners(s)))]
}

/// `claude 4182 fd 23`, `claude 4182 fd 23 +2`, `claude 4182, exited`.
pub fn owners(s: &Socket) -> String {
    let Some(first) = s.owners.iter().min_by_key(|o| o.pid) else { return "owner not known".into() };
    let mut out = format!("{} {}", text::safe(&first.comm), first.pid);
    if let Some(fd) = first.fd {
        out.push_str(&format!(" fd {fd}"));
    }
    if s.owners.len() > 1 {
        out.push_str(&format!(" +{}", s.owners.len() - 1));
    }
    if s.orphaned {
        out.push_str(", exited");
    }
    out
}

/// The history in order of time (a sample tells afterwards when data was sent).
pub fn history(s: &Socket) -> Vec<History<'_>> {
    let mut all: Vec<History<'_>> = s.history.iter().collect();
    all.sort_by_key(|h| h.at);
    all
}

pub fn style(kind: HistoryKind, theme: Theme) -> Style {
    match kind {
        HistoryKind::Retransmit | HistoryKind::Reset => theme.bad(),
        HistoryKind::Action => theme.own(),
        HistoryKind::Finding => theme.risk(),
        HistoryKind::State | HistoryKind::Opened | HistoryKind::Closed => theme.faint(),
        HistoryKind::Sent | HistoryKind::Received | HistoryKind::Keepalive => theme.plain(),
    }
}

/// One line per entry; a run of retransmits becomes one line. Findings stand below, in full, so they are left out.
fn story_lines(s: &Socket, clock: WallClock, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let all: Vec<History<'_>> = history(s).into_iter().filter(|h| h.kind() != HistoryKind::Finding).collect();
    let mut lines = Vec::new();
    for run in all.chunk_by(|a, b| a.kind() == HistoryKind::Retransmit && b.kind() == HistoryKind::Retransmit) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let text = match run {
            [one] => one.text().into_owned(),
            _ => format!("{} … {} in {}", first.text(), last.text(), text::duration(last.at.since(first.at))),
        };
        let time = format!("   {}  ", clock.local_time_ms(first.at));
        let room = width.saturating_sub(text::width(&time) + 1).max(10);
        for (i, part) in text::wrap(&text::safe(&text), room).into_iter().enumerate() {
            let lead = if i == 0 { time.clone() } else { " ".repeat(text::width(&time)) };
            lines.push(Line::from(vec![
                Span::styled(lead, theme.faint()),
                Span::styled(part, style(first.kind(), theme)),
            ]));
        }
    }
    lines
}

fn verdict(f: &Finding, theme: Theme, width: usize) -> Line<'static> {
    let severity = Severity::of(f);
    let lead = format!("   {} {} {}", severity.shape(), f.code.name(), f.confidence.name());
    let mut rest = format!(" · {}", text::plural(f.evidence.len(), "fact"));
    match f.rivals.as_slice() {
        [] => {}
        [one] => rest.push_str(&format!(" · rival: {}", text::safe(one))),
        [first, ..] => rest.push_str(&format!(" · {} rivals: {}", f.rivals.len(), text::safe(first))),
    }
    let room = width.saturating_sub(text::width(&lead) + 1);
    Line::from(vec![
        Span::styled(lead, theme.severity(severity)),
        Span::styled(text::cut(&rest, room).into_owned(), theme.faint()),
    ])
}
