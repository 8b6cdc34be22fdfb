//! The line that a replay adds: how far, how fast.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::line::put;
use crate::view::text;
use crate::view::tui::state::{Mode, UiState};

pub fn draw(ui: &UiState, area: Rect, buffer: &mut Buffer) {
    let Mode::Replay(r) = &ui.options.mode else { return };
    let theme = ui.theme();
    let width = area.width as usize;
    let ended = r.position >= r.length;
    let (shape, word) = match (ended, r.playing) {
        (true, _) => ("■", "end"),
        (false, true) => ("▶", "playing"),
        (false, false) => ("‖", "paused"),
    };
    let speed = if r.speed.is_finite() { format!("{}x", r.speed) } else { "max".into() };
    let left = format!(" {shape} {word:<7} {speed:<5} {} / {}  ", text::duration(r.position), text::duration(r.length));
    let name = format!("  {} ", text::cut_middle(&text::safe(&r.file), (width / 4).max(12)));
    let bar = width.saturating_sub(text::width(&left) + text::width(&name));
    let share = if r.length.is_zero() { 1.0 } else { r.position.as_secs_f64() / r.length.as_secs_f64() };
    let done = ((bar.saturating_sub(1)) as f64 * share.clamp(0.0, 1.0)) as usize;
    let mut spans = vec![Span::styled(left, theme.strong())];
    if bar >= 6 {
        spans.push(Span::raw("━".repeat(done)));
        spans.push(Span::styled("●", theme.strong()));
        spans.push(Span::styled("─".repeat(bar - done - 1), theme.faint()));
        spans.push(Span::styled(name, theme.faint()));
    }
    put(buffer, area, 0, &Line::from(spans));
}
