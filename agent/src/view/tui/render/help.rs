//! Help: the key table, what shapes and colours mean, and the whole truth about this run.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::document::Document;
use super::header;
use crate::state::{Snapshot, Socket};
use crate::view::text;
use crate::view::tui::keys::{BINDINGS, Group};
use crate::view::tui::state::UiState;

/// Columns of a key or sign before what it means.
const KEY: usize = 10;

pub fn lines(ui: &UiState, snapshot: &Snapshot, width: u16) -> Vec<Line<'static>> {
    let theme = ui.theme();
    let mut d = Document::new(width, theme);
    for group in Group::ALL {
        let list: Vec<_> =
            BINDINGS.iter().filter(|b| b.group == group && b.available(ui.is_replay()) && !b.help.is_empty()).collect();
        if list.is_empty() {
            continue;
        }
        d.heading(group.title());
        for b in list {
            d.paragraph(3, &text::left(b.label, KEY), theme.key(), b.help, theme.plain());
        }
    }
    d.heading("Signs");
    let mut sign = |shape: &str, style: Style, meaning: &str| {
        d.paragraph(3, &text::left(shape, KEY), style, meaning, theme.plain());
    };
    sign("●", theme.bad(), "Red: a connection hangs, or was reset.");
    sign("▲", theme.risk(), "Yellow: at risk; nothing is broken yet, or it is not sure.");
    sign("✓", theme.own(), "Green: the agent's own doing, such as keepalive that it set.");
    sign("dim", theme.faint(), "Closed sockets: they stay for a while, then leave.");
    sign("← →", theme.plain(), "A reset that was received, or sent by this host; then who made it. ? is not known.");
    let slot = Socket::SPARK_SLOT.as_secs();
    let spark =
        format!("Retransmitted segments of the last {} s, {slot} s each; each step is twice as many.", slot * 8);
    sign("▁▃█", theme.plain(), &spark);
    sign("IDLE", theme.plain(), "Time since anything was sent or received.");
    sign("GIVES UP", theme.plain(), "Time until the kernel ends a connection whose data nobody acknowledges.");
    session(&mut d, ui, snapshot);
    d.lines
}

fn session(d: &mut Document, ui: &UiState, snapshot: &Snapshot) {
    let theme = ui.theme();
    let s = &snapshot.session;
    let t = &snapshot.totals;
    d.heading("This run");
    let mut facts: Vec<(&str, String, Style)> = vec![
        ("targets", header::targets(ui, snapshot), theme.plain()),
        ("kernel", format!("{} {}", s.kernel_release, s.arch), theme.plain()),
        ("agent", s.agent_version.clone(), theme.plain()),
        (
            "totals",
            format!(
                "{}, {} retransmitted, {} received, {} sent",
                text::plural(t.sockets as usize, "socket"),
                text::plural(t.retransmits as usize, "segment"),
                text::plural(t.resets_received as usize, "reset"),
                text::count(t.resets_sent)
            ),
            theme.plain(),
        ),
    ];
    facts.retain(|f| !f.1.trim().is_empty());
    d.facts(&facts);
    let alerts = header::alerts(ui, snapshot);
    if !alerts.is_empty() {
        d.heading("What this run cannot see, or has not seen");
        for (grave, text) in alerts {
            d.paragraph(3, "! ", if grave { theme.bad() } else { theme.risk() }, &text, theme.plain());
        }
    }
    if !s.hooks.is_empty() {
        d.heading("Hooks");
        for h in &s.hooks {
            let (mark, style) = if h.attached { ("✓", theme.own()) } else { ("✗", theme.risk()) };
            d.line(Line::from(vec![
                Span::raw("   "),
                Span::styled(format!("{mark} "), style),
                Span::raw(text::left(&text::safe(&h.name), 34)),
                Span::styled(text::safe(&h.backend).into_owned(), theme.faint()),
            ]));
        }
    }
    if !s.sysctl.is_empty() {
        d.heading("sysctls that decide how long a hang lasts");
        for (name, value) in &s.sysctl {
            let value = value.map_or_else(|| "not on this kernel".into(), |v| v.to_string());
            d.line(Line::from(vec![Span::raw(format!("   {}", text::left(&text::safe(name), 36))), Span::raw(value)]));
        }
    }
}
