//! Findings: the answer. A few lines above the table; a screen of their own with evidence, rivals and advice.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::document::Document;
use super::layout;
use super::line::{put, rule, split};
use crate::model::{Code, Finding};
use crate::state::Snapshot;
use crate::view::text;
use crate::view::tui::state::UiState;
use crate::view::tui::theme::Severity;

/// Columns of code and confidence before a summary.
const CODE: usize = 17;
const CONFIDENCE: usize = 10;
/// Below this the confidence would leave no room for the answer.
const NARROW: usize = 72;
const HANGING: usize = 100;

/// Lines above the table, each with the finding that it belongs to.
pub fn summary(ui: &UiState, snapshot: &Snapshot, area: Rect) -> Vec<(Line<'static>, Option<u64>)> {
    let theme = ui.theme();
    let width = area.width as usize;
    let max = layout::findings_max(area) as usize;
    if snapshot.findings.is_empty() {
        let quiet = if snapshot.sockets.is_empty() { " ○ nothing seen yet" } else { " ○ nothing wrong so far" };
        return vec![(Line::styled(quiet, theme.faint()), None)];
    }
    let mut lines = Vec::new();
    let total = snapshot.findings.len();
    for (i, f) in snapshot.findings.iter().enumerate() {
        let left = max - lines.len();
        if left == 0 {
            break;
        }
        // The first is the answer: it may take a second line before the last ones get one; else each gets one first.
        let others = (total - i - 1).min(left - if i == 0 { left.min(2) } else { 1 });
        let mut own = finding(ui, snapshot, f, i, width, left - others);
        let hidden = total - i - 1;
        if left == own.len() && hidden > 0 {
            let more = vec![Span::styled(format!("+{hidden} more "), theme.faint()), Span::styled("f ", theme.key())];
            if let Some(last) = own.last_mut() {
                let w = more.iter().map(Span::width).sum::<usize>() + 2;
                let kept = cut_line(std::mem::take(last), width.saturating_sub(w));
                *last = split(kept.spans, more, width);
            }
        }
        lines.extend(own.into_iter().map(|l| (l, Some(f.id))));
    }
    lines
}

fn cut_line(line: Line<'static>, width: usize) -> Line<'static> {
    if line.width() <= width {
        return line;
    }
    let mut room = width;
    let mut spans = Vec::new();
    for s in line.spans {
        let w = s.width();
        if w > room {
            spans.push(Span::styled(text::cut(&s.content, room).into_owned(), s.style));
            break;
        }
        room -= w;
        spans.push(s);
    }
    Line::from(spans)
}

fn finding(
    ui: &UiState,
    snapshot: &Snapshot,
    f: &Finding,
    index: usize,
    width: usize,
    max: usize,
) -> Vec<Line<'static>> {
    let theme = ui.theme();
    let severity = Severity::of(f);
    let style = theme.severity(severity);
    let lead = 3 + CODE + if width < NARROW { 0 } else { CONFIDENCE };
    let room = width.saturating_sub(lead + 1);
    let sentence = text::safe(&f.summary);
    let mut parts = text::wrap(&sentence, room);
    // A narrow screen has no room for aligning the second line with the first.
    let hanging = if width < HANGING { 3 } else { lead };
    let rest_room = width.saturating_sub(hanging + 1);
    if parts.len() > 1 && hanging < lead {
        let rest = parts.split_off(1).join(" ");
        parts.extend(text::wrap(&rest, rest_room));
    }
    let truncated = parts.len() > max;
    parts.truncate(max);
    let room = if parts.len() > 1 { rest_room } else { room };
    let mut beside = Vec::new();
    // The sentence says when the kernel gives up, unless that part of it had to go.
    if let Some(t) = ui.rows.finding_gives_up(index).filter(|_| f.gives_up_in_s.is_some())
        && !parts.join(" ").contains("gives up in")
    {
        beside.push(vec![Span::styled(format!("{} left", text::countdown(t.since(snapshot.at))), theme.bad())]);
    }
    if truncated && let Some(last) = parts.last_mut() {
        let kept: usize = beside.iter().flatten().map(|s| s.width() + 3).sum();
        *last = format!("{}…", text::cut(last, room.saturating_sub(kept + 1)).trim_end_matches('…'));
    }
    beside.extend(remedies(ui, f));
    let free = room.saturating_sub(parts.last().map_or(0, |l| text::width(l)));
    let beside = fitting(beside, free);
    let last = parts.len() - 1;
    parts
        .into_iter()
        .enumerate()
        .map(|(i, part)| {
            let mut left = if i > 0 {
                vec![Span::raw(" ".repeat(hanging))]
            } else {
                vec![
                    Span::styled(format!(" {} ", severity.shape()), style),
                    Span::styled(text::left(f.code.name(), CODE), style.patch(theme.strong())),
                    Span::styled(text::left(f.confidence.name(), lead - 3 - CODE), theme.faint()),
                ]
            };
            left.push(Span::raw(part));
            split(left, if i == last { beside.clone() } else { Vec::new() }, width)
        })
        .collect()
}

/// What the user can do about it right here.
fn remedies(ui: &UiState, f: &Finding) -> Vec<Vec<Span<'static>>> {
    let theme = ui.theme();
    let keys: &[(&str, &str)] = match f.code {
        _ if ui.is_replay() => &[],
        Code::NoKeepalive => &[("K", "force keepalive")],
        Code::IdlePathDead | Code::PathOutage | Code::PeerNotReading => &[("x", "close"), ("u", "user timeout")],
        Code::CloseWaitLeak => &[("x", "close")],
        _ => &[],
    };
    let hint = |(key, word): &(&'static str, &str)| {
        vec![Span::styled(*key, theme.key()), Span::styled(format!(" {word}"), theme.faint())]
    };
    keys.iter().map(hint).collect()
}

/// As many of `parts` as fit into `room`, two columns before each and one behind.
fn fitting(parts: Vec<Vec<Span<'static>>>, room: usize) -> Vec<Span<'static>> {
    let mut spans: Vec<Span<'static>> = Vec::new();
    let mut used = 1;
    for part in parts {
        used += part.iter().map(Span::width).sum::<usize>() + 2;
        if used > room {
            break;
        }
        spans.push(Span::raw("  "));
        spans.extend(part);
    }
    if !spans.is_empty() {
        spans.push(Span::raw(" "));
    }
    spans
}

pub fn draw_summary(ui: &UiState, snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    for (y, (l, _)) in summary(ui, snapshot, ui.area).iter().enumerate() {
        put(buffer, area, y as u16, l);
    }
}

/// A finding in full: for the findings screen and the detail screen.
pub fn document(d: &mut Document, f: &Finding, ui: &UiState, snapshot: &Snapshot) {
    document_head(d, f, ui, snapshot);
    let about = format!("{}{}", text::plural(f.sockets.len(), "socket"), about(ui, f));
    d.paragraph(3, "", ui.theme().plain(), &about, ui.theme().faint());
    d.paragraph(3, "", ui.theme().plain(), &f.summary, ui.theme().strong());
    document_body(d, f, ui, snapshot);
}

pub fn document_head(d: &mut Document, f: &Finding, ui: &UiState, snapshot: &Snapshot) {
    let theme = ui.theme();
    let severity = Severity::of(f);
    let style = theme.severity(severity);
    let clock = snapshot.clock;
    d.line(Line::from(vec![
        Span::styled(format!(" {} ", severity.shape()), style),
        Span::styled(f.code.name(), style.patch(theme.strong())),
        Span::styled(format!("  {}, since {}", f.confidence.name(), clock.local_time(f.opened)), theme.faint()),
    ]));
}

/// Evidence, rivals, advice.
pub fn document_body(d: &mut Document, f: &Finding, ui: &UiState, snapshot: &Snapshot) {
    let theme = ui.theme();
    let clock = snapshot.clock;
    let section = |d: &mut Document, title: &str| {
        d.gap();
        d.line(Line::styled(format!("   {title}"), theme.faint()));
    };
    section(d, "What was seen");
    for e in &f.evidence {
        d.paragraph(3, &format!("{}  ", clock.local_time_ms(e.at)), theme.faint(), &e.text, theme.plain());
    }
    if !f.rivals.is_empty() {
        section(d, "What else it could be");
        for r in &f.rivals {
            d.paragraph(3, "? ", theme.faint(), r, theme.plain());
        }
    }
    if !f.advice.is_empty() {
        section(d, "What to do");
        for (i, a) in f.advice.iter().enumerate() {
            d.paragraph(3, &format!("{}. ", i + 1), theme.key(), a, theme.plain());
        }
    }
}

fn about(ui: &UiState, f: &Finding) -> String {
    let mut out = String::new();
    if let Some(pid) = f.pid {
        let name = super::header::name_of(ui, pid).map_or_else(String::new, |n| text::safe(n).into_owned());
        out.push_str(&format!(" of {name} ({pid})"));
    }
    if let Some(d) = &f.destination {
        out.push_str(&format!(" → {}", text::safe(d)));
    }
    out
}

/// The list takes at most a third of the screen; the rest is for the one that is selected.
fn areas(snapshot: &Snapshot, body: Rect) -> (Rect, Rect, Rect) {
    let rows = (snapshot.findings.len() as u16).min(body.height / 3).max(1);
    let list = Rect { height: rows.min(body.height), ..body };
    let line = Rect { y: list.bottom(), height: u16::from(body.height > rows), ..body };
    let text = Rect { y: line.bottom(), height: body.height.saturating_sub(rows + 1), ..body };
    (list, line, text)
}

fn selected_document(ui: &UiState, snapshot: &Snapshot, width: u16) -> Vec<Line<'static>> {
    let mut d = Document::new(width, ui.theme());
    if let Some(f) = snapshot.findings.get(ui.finding_index(snapshot)) {
        document(&mut d, f, ui, snapshot);
    }
    d.lines
}

pub fn text_extent(ui: &UiState, snapshot: &Snapshot, body: Rect) -> (usize, usize) {
    let (_, _, place) = areas(snapshot, body);
    (selected_document(ui, snapshot, place.width).len(), place.height as usize)
}

pub fn draw_screen(ui: &UiState, snapshot: &Snapshot, body: Rect, buffer: &mut Buffer) {
    let theme = ui.theme();
    if snapshot.findings.is_empty() {
        put(buffer, body, 1, &Line::raw("   No findings: nothing seen so far needs an explanation."));
        put(buffer, body, 2, &Line::styled("   They appear as soon as the evidence suffices.", theme.faint()));
        return;
    }
    let (list, line, place) = areas(snapshot, body);
    let at = ui.finding_index(snapshot);
    let first = (at + 1).saturating_sub(list.height as usize);
    for y in 0..list.height as usize {
        let Some(f) = snapshot.findings.get(first + y) else { break };
        let severity = Severity::of(f);
        let here = first + y == at;
        let text_style = if here { theme.strong() } else { theme.plain() };
        let l = Line::from(vec![
            Span::raw(if here { " ▶ " } else { "   " }),
            Span::styled(format!("{} ", severity.shape()), theme.severity(severity)),
            Span::styled(text::left(f.code.name(), CODE), text_style.patch(theme.severity(severity))),
            Span::styled(text::left(f.confidence.name(), CONFIDENCE), theme.faint()),
            Span::styled(text::safe(&f.summary).into_owned(), text_style),
        ]);
        put(buffer, list, y as u16, &cut_line(l, list.width.saturating_sub(1) as usize));
    }
    rule(buffer, line, theme.faint());
    super::document::draw(&selected_document(ui, snapshot, place.width), ui, place, buffer);
}
