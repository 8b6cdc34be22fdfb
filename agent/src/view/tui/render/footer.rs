//! The last line: keys, or what is being typed, or what just happened.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::line::{put, split};
use crate::state::Snapshot;
use crate::view::text;
use crate::view::tui::keys::{self, Binding, Screen, UiAction};
use crate::view::tui::state::{Tone, UiState};

pub fn draw(ui: &UiState, snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let theme = ui.theme();
    let width = area.width as usize;
    if ui.typing.is_some() {
        let shown = text::plural(ui.rows.len(), "socket");
        let right =
            vec![Span::styled(format!("{shown} of {}   ⏎ keep  esc clear ", snapshot.sockets.len()), theme.faint())];
        let left = vec![
            Span::styled(" / ", theme.key()),
            Span::raw(text::safe(&ui.filter).into_owned()),
            Span::styled("▏", theme.strong()),
        ];
        return put(buffer, area, 0, &split(left, right, width));
    }
    if let Some(m) = &ui.message {
        let style = match m.tone {
            Tone::Done => theme.own(),
            Tone::Note => theme.strong(),
            Tone::Error => theme.bad(),
        };
        let text = text::safe(&m.text).into_owned();
        return put(buffer, area, 0, &Line::from(vec![Span::raw(" "), Span::styled(text, style)]));
    }
    let mut left = vec![Span::raw(" ")];
    let mut right = Vec::new();
    for b in fitting(ui.screen, ui.is_replay(), width.saturating_sub(1)) {
        let to = if matches!(b.action, UiAction::Help | UiAction::Quit) { &mut right } else { &mut left };
        to.extend(hint(b, ui));
        to.push(Span::raw("  "));
    }
    put(buffer, area, 0, &split(left, right, width));
}

/// A hint as two spans: the key, and what it does now.
pub fn hint(b: &Binding, ui: &UiState) -> [Span<'static>; 2] {
    let theme = ui.theme();
    let word = match b.action {
        UiAction::Pause if ui.paused.is_some() => "go on",
        UiAction::Help if ui.screen == Screen::Help => "back",
        _ => b.hint,
    };
    [Span::styled(b.label, theme.key()), Span::styled(format!(" {word}"), theme.faint())]
}

/// The hints that fit into `width`, in the table's order, the dispensable ones left out.
fn fitting(screen: Screen, replay: bool, width: usize) -> Vec<&'static Binding> {
    let mut all: Vec<(&Binding, u8)> = keys::hints(screen, replay, false).collect();
    let long = |l: &[(&Binding, u8)]| -> usize {
        l.iter().map(|(b, _)| text::width(b.label) + 1 + text::width(b.hint) + 2).sum::<usize>() + 2
    };
    while long(&all) > width {
        let Some(worst) = all.iter().map(|(_, p)| *p).max() else { break };
        match all.iter().rposition(|(_, p)| *p == worst) {
            Some(i) => all.remove(i),
            None => break,
        };
    }
    all.into_iter().map(|(b, _)| b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_quit_are_always_there() {
        for width in 40..200 {
            for replay in [false, true] {
                for screen in [Screen::Table, Screen::Detail, Screen::Findings, Screen::Help] {
                    let shown = fitting(screen, replay, width);
                    for a in [UiAction::Help, UiAction::Quit] {
                        assert!(shown.iter().any(|b| b.action == a), "{a:?} at {width} on {screen:?}");
                    }
                }
            }
        }
    }
}
