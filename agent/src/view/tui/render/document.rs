//! Text that scrolls: the detail, findings and help screens are lists of lines, made for a width.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::line::put;
use crate::view::text;
use crate::view::tui::state::UiState;
use crate::view::tui::theme::Theme;

/// Text is easier to read when its lines are not wider than this.
const READABLE: usize = 100;

pub struct Document {
    pub lines: Vec<Line<'static>>,
    width: usize,
    theme: Theme,
}

impl Document {
    pub fn new(width: u16, theme: Theme) -> Self {
        Self { lines: Vec::new(), width: width as usize, theme }
    }

    pub fn line(&mut self, line: Line<'static>) {
        self.lines.push(line);
    }

    pub fn gap(&mut self) {
        if !self.lines.is_empty() {
            self.lines.push(Line::raw(""));
        }
    }

    pub fn heading(&mut self, title: &str) {
        self.gap();
        self.lines.push(Line::styled(format!(" {title}"), self.theme.strong()));
    }

    /// A wrapped paragraph behind `lead` (a label, a time, a bullet), which stands beside its first line only.
    pub fn paragraph(&mut self, indent: usize, lead: &str, lead_style: Style, body: &str, style: Style) {
        let lead_width = text::width(lead);
        let room = self.width.saturating_sub(indent + lead_width + 1).clamp(10, READABLE);
        for (i, l) in text::wrap(&text::safe(body), room).into_iter().enumerate() {
            let lead = if i == 0 { lead.to_string() } else { " ".repeat(lead_width) };
            self.lines.push(Line::from(vec![
                Span::raw(" ".repeat(indent)),
                Span::styled(lead, lead_style),
                Span::styled(l, style),
            ]));
        }
    }

    /// Label and value pairs, in two columns where they fit side by side; longer values below, over the whole width.
    pub fn facts(&mut self, facts: &[(&str, String, Style)]) {
        const LABEL: usize = 14;
        let cell = (self.width / 2).min(76);
        let room = cell.saturating_sub(LABEL + 4);
        let wide = self.width >= 110;
        let (pairs, rest): (Vec<_>, Vec<_>) = facts.iter().partition(|f| wide && text::width(&f.1) <= room);
        let faint = self.theme.faint();
        let half = pairs.len().div_ceil(2);
        for i in 0..half {
            let mut spans = Vec::new();
            for (label, value, style) in [pairs.get(i), pairs.get(i + half)].into_iter().flatten() {
                spans.push(Span::styled(format!("   {}", text::left(label, LABEL)), faint));
                spans.push(Span::styled(text::left(&text::safe(value), cell - LABEL - 3), *style));
            }
            self.lines.push(Line::from(spans));
        }
        for (label, value, style) in rest {
            self.paragraph(3, &text::left(label, LABEL), faint, value, *style);
        }
    }
}

/// The visible part of `lines`, with a mark in the last column where there is more.
pub fn draw(lines: &[Line<'static>], ui: &UiState, area: Rect, buffer: &mut Buffer) {
    let height = area.height as usize;
    for (y, l) in lines.iter().skip(ui.scroll).take(height).enumerate() {
        put(buffer, area, y as u16, l);
    }
    let corner = |buffer: &mut Buffer, y: u16, mark: &'static str| {
        let place = Rect { x: area.right().saturating_sub(2), width: 2.min(area.width), ..area };
        put(buffer, place, y, &Line::styled(mark, ui.theme().strong()));
    };
    if ui.scroll > 0 {
        corner(buffer, 0, "↑");
    }
    if ui.scroll + height < lines.len() {
        corner(buffer, area.height.saturating_sub(1), "↓");
    }
}
