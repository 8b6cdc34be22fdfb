//! Drawing: reads [`UiState`] and a snapshot, changes nothing. One file per part of the screen.

mod columns;
mod confirm;
mod detail;
mod document;
mod findings;
mod footer;
mod header;
mod help;
mod layout;
mod line;
mod pane;
mod replay;
mod table;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::keys::Screen;
use super::rows::Column;
use super::state::UiState;
use crate::state::Snapshot;
use layout::Needs;

/// What a click meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    Title(Column),
    Row(usize),
    Finding(u64),
}

/// Draws `snapshot`; [`UiState::prepare`] must have seen the same one and the same size.
pub fn draw(ui: &UiState, snapshot: &Snapshot, frame: &mut Frame<'_>) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    if !layout::fits(area) {
        return too_small(area, buffer);
    }
    let f = parts(ui, snapshot, area);
    header::draw(ui, snapshot, f.header, buffer);
    header::draw_alert(ui, snapshot, f.alert, buffer);
    match ui.screen {
        Screen::Table => {
            findings::draw_summary(ui, snapshot, f.findings, buffer);
            let body = layout::body(f.body);
            table::draw_rule(ui, snapshot, body, f.rule, buffer);
            table::draw(ui, snapshot, body, buffer);
            line::rule(buffer, body.rule, ui.theme().faint());
            pane::draw(ui, snapshot, body.pane, buffer);
        }
        Screen::Findings => findings::draw_screen(ui, snapshot, f.body, buffer),
        Screen::Detail => document::draw(&detail::lines(ui, snapshot, f.body.width), ui, f.body, buffer),
        Screen::Help => document::draw(&help::lines(ui, snapshot, f.body.width), ui, f.body, buffer),
    }
    if ui.screen != Screen::Table {
        line::rule(buffer, f.rule, ui.theme().faint());
    }
    replay::draw(ui, f.replay, buffer);
    footer::draw(ui, snapshot, f.footer, buffer);
    if let Some(question) = &ui.confirm {
        confirm::draw(question, ui, area, buffer);
    }
}

fn parts(ui: &UiState, snapshot: &Snapshot, area: Rect) -> layout::Frame {
    let findings = match ui.screen {
        Screen::Table => findings::summary(ui, snapshot, area).len() as u16,
        _ => 0,
    };
    layout::frame(area, Needs { alert: header::has_alert(ui, snapshot), findings, replay: ui.is_replay() })
}

/// Rows of the table that are visible; 0 on other screens' sizes too small to draw.
pub fn rows_height(ui: &UiState, snapshot: &Snapshot) -> usize {
    if ui.screen != Screen::Table || !layout::fits(ui.area) {
        return 0;
    }
    layout::body(parts(ui, snapshot, ui.area).body).rows.height as usize
}

/// Length and visible height of the text that scrolls on this screen.
pub fn text_extent(ui: &UiState, snapshot: &Snapshot) -> (usize, usize) {
    if !layout::fits(ui.area) {
        return (0, 0);
    }
    let body = parts(ui, snapshot, ui.area).body;
    match ui.screen {
        Screen::Table => (0, 0),
        Screen::Detail => (detail::lines(ui, snapshot, body.width).len(), body.height as usize),
        Screen::Help => (help::lines(ui, snapshot, body.width).len(), body.height as usize),
        Screen::Findings => findings::text_extent(ui, snapshot, body),
    }
}

/// What is at this cell of the table screen.
pub fn hit(ui: &UiState, snapshot: &Snapshot, x: u16, y: u16) -> Option<Hit> {
    if ui.screen != Screen::Table || !layout::fits(ui.area) {
        return None;
    }
    let f = parts(ui, snapshot, ui.area);
    let body = layout::body(f.body);
    let at = ratatui::layout::Position { x, y };
    if body.titles.contains(at) {
        return columns::column_at(ui, body.titles, x).map(Hit::Title);
    }
    if body.rows.contains(at) {
        let row = ui.offset + (y - body.rows.y) as usize;
        return (row < ui.rows.len()).then_some(Hit::Row(row));
    }
    if f.findings.contains(at) {
        return findings::summary(ui, snapshot, ui.area).get((y - f.findings.y) as usize)?.1.map(Hit::Finding);
    }
    None
}

fn too_small(area: Rect, buffer: &mut Buffer) {
    let text = format!(
        "The terminal is {}x{}; this needs at least {}x{}. q quits.",
        area.width,
        area.height,
        layout::MIN_WIDTH,
        layout::MIN_HEIGHT
    );
    for (y, l) in crate::view::text::wrap(&text, area.width as usize).into_iter().enumerate() {
        line::put(buffer, area, y as u16, &Line::raw(l));
    }
}
