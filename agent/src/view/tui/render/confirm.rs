//! The question, in a box above everything else.

use ratatui::buffer::Buffer;
use ratatui::layout::{Margin, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Widget};

use super::layout::centred;
use super::line::put;
use crate::view::text;
use crate::view::tui::confirm::{Confirm, Wish};
use crate::view::tui::state::UiState;

pub fn draw(question: &Confirm, ui: &UiState, area: Rect, buffer: &mut Buffer) {
    let theme = ui.theme();
    let accent = if question.wish == Wish::Close { theme.bad() } else { theme.own() };
    let width = area.width.saturating_sub(4).min(76);
    let inner = width.saturating_sub(6) as usize;
    let mut lines: Vec<Line<'_>> = vec![Line::raw("")];
    for l in text::wrap(&question.question, inner) {
        lines.push(Line::styled(l, theme.strong()));
    }
    for effect in &question.effects {
        lines.push(Line::raw(""));
        lines.extend(text::wrap(effect, inner).into_iter().map(Line::raw));
    }
    lines.push(Line::raw(""));
    let keys = Line::from(vec![
        Span::styled(" y ", theme.badge(accent)),
        Span::raw(" yes     "),
        Span::styled(" n ", theme.badge(theme.plain())),
        Span::raw(" no"),
    ]);
    let place = centred(area, width, lines.len() as u16 + 4);
    Clear.render(place, buffer);
    let title = match question.wish {
        Wish::Keepalive => " force keepalive ",
        Wish::UserTimeout => " user timeout ",
        Wish::Close => " close ",
    };
    Block::bordered().border_type(BorderType::Rounded).border_style(accent).title(title).render(place, buffer);
    let text_area = place.inner(Margin { horizontal: 3, vertical: 1 });
    // The keys stay visible even where the effects do not fit.
    let room = text_area.height.saturating_sub(2);
    for (y, l) in lines.iter().take(room as usize).enumerate() {
        put(buffer, text_area, y as u16, l);
    }
    put(buffer, text_area, (lines.len() as u16).min(room), &keys);
}
