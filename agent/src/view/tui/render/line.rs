//! Building lines: a left part, a right part, and what to leave out when they do not fit.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Writes `line` at row `y` of `area` (counted from its top), cut at its right edge; outside of the area nothing.
pub fn put(buffer: &mut Buffer, area: Rect, y: u16, line: &Line<'_>) {
    let area = area.intersection(*buffer.area());
    if y < area.height && area.width > 0 {
        buffer.set_line(area.x, area.y + y, line, area.width);
    }
}

/// A full-width horizontal rule.
pub fn rule(buffer: &mut Buffer, area: Rect, style: Style) {
    put(buffer, area, 0, &Line::styled("─".repeat(area.width as usize), style));
}

/// `left` and, flush right, `right`; the right part goes first when the two do not fit into `width`.
pub fn split<'a>(left: Vec<Span<'a>>, right: Vec<Span<'a>>, width: usize) -> Line<'a> {
    let l: usize = left.iter().map(Span::width).sum();
    let r: usize = right.iter().map(Span::width).sum();
    let mut spans = left;
    if l + r + 2 <= width && r > 0 {
        spans.push(Span::raw(" ".repeat(width - l - r)));
        spans.extend(right);
    }
    Line::from(spans)
}
