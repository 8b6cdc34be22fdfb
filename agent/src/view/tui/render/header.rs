//! First line: whom we watch, with what, since when, and what was lost. Second line, only if there is something to
//! admit: lost events, what came up during the run, limits, missing hooks.

use std::collections::BTreeMap;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::line::put;
use crate::state::Snapshot;
use crate::view::text;
use crate::view::tui::state::{Mode, UiState};

pub fn draw(ui: &UiState, snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let theme = ui.theme();
    let width = area.width as usize;
    let name = match ui.options.mode {
        Mode::Live => " agent  ",
        Mode::Replay(_) => " agent replay  ",
    };
    let who = targets(ui, snapshot);
    let need = text::width(name) + text::width(&who).min(46);
    // From all there is to say to what must never be missing, until the target can be read.
    let right = (0..4)
        .map(|level| facts(ui, snapshot, level))
        .find(|spans| need + spans.iter().map(Span::width).sum::<usize>() + 2 <= width)
        .unwrap_or_else(|| facts(ui, snapshot, 4));
    let room = width.saturating_sub(text::width(name) + right.iter().map(Span::width).sum::<usize>() + 2);
    let left = vec![
        Span::styled(name, theme.strong()),
        Span::styled(text::cut_middle(&who, room).into_owned(), theme.strong()),
    ];
    put(buffer, area, 0, &super::line::split(left, right, width));
}

/// The right side of the header, shorter with each level.
fn facts(ui: &UiState, snapshot: &Snapshot, level: u8) -> Vec<Span<'static>> {
    let theme = ui.theme();
    let mut parts = Vec::new();
    if ui.paused.is_some() {
        parts.push(Span::styled(" PAUSED ", theme.badge(theme.plain())));
    }
    let (base, provenance) = backend(snapshot);
    match level {
        0 | 1 => parts.push(Span::styled(format!("{base}{provenance}"), theme.faint())),
        2 | 3 => parts.push(Span::styled(base, theme.faint())),
        _ => {}
    }
    if level == 0 {
        parts.push(Span::styled(format!("{} events", text::count(snapshot.events)), theme.faint()));
    }
    let lost = snapshot.lost.total();
    if lost > 0 {
        parts.push(Span::styled(format!(" {} lost ", text::count(lost)), theme.badge(theme.bad())));
    } else if level <= 2 {
        parts.push(Span::styled("0 lost", theme.faint()));
    }
    if level <= 3 {
        parts.push(Span::raw(snapshot.clock.local_time(snapshot.at)));
    }
    let gap = if level <= 1 { "   " } else { "  " };
    let mut spans = Vec::new();
    for p in parts {
        if !spans.is_empty() {
            spans.push(Span::raw(gap));
        }
        spans.push(p);
    }
    spans.push(Span::raw(" "));
    spans
}

/// `claude (4182 +3) → api.anthropic.com:443`.
pub fn targets(ui: &UiState, snapshot: &Snapshot) -> String {
    let t = &snapshot.session.targets;
    let mut names: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for pid in &t.pids {
        names.entry(name_of(ui, *pid).unwrap_or("pid")).or_default().push(*pid);
    }
    let others = ui.rows.names.keys().filter(|p| !t.pids.contains(p)).count();
    let mut parts: Vec<String> = names
        .into_iter()
        .map(|(name, pids)| {
            let list = match pids.as_slice() {
                [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a} {b} {c} +{}", rest.len()),
                few => few.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
            };
            let children = if t.tree && others > 0 { format!(" +{others}") } else { String::new() };
            format!("{} ({list}{children})", text::safe(name))
        })
        .collect();
    parts.extend(t.comms.iter().map(|c| text::safe(c).into_owned()));
    parts.extend(t.cgroup.iter().map(|c| format!("cgroup {}", text::safe(c))));
    if t.all || parts.is_empty() {
        parts = vec!["every process".into()];
    }
    let who = parts.join(", ");
    match t.destinations.as_slice() {
        [] => who,
        all => format!("{who} → {}", all.iter().map(|d| text::safe(d)).collect::<Vec<_>>().join(", ")),
    }
}

pub fn name_of(ui: &UiState, pid: u32) -> Option<&str> {
    ui.rows.names.get(&pid).map(|n| &**n).or_else(|| ui.options.target_names.get(&pid).map(String::as_str))
}

/// `tp_btf`, `+provenance`: where the events come from.
fn backend(snapshot: &Snapshot) -> (&'static str, &'static str) {
    let hooks = &snapshot.session.hooks;
    let attached = |backend: &str| hooks.iter().any(|h| h.attached && h.backend == backend);
    let base = ["tp_btf", "tracepoint", "sock_diag"].into_iter().find(|b| attached(b));
    let base = match base {
        Some("sock_diag") => "sock_diag polling",
        Some(b) => b,
        None if hooks.is_empty() => "starting",
        None => "no hooks",
    };
    let provenance = hooks.iter().any(|h| h.attached && h.backend == "cgroup_skb");
    (base, if provenance { "+provenance" } else { "" })
}

/// Everything that this run cannot see or has not seen, the gravest first; the flag says: events were lost.
pub fn alerts(ui: &UiState, snapshot: &Snapshot) -> Vec<(bool, String)> {
    let mut all = Vec::new();
    let lost = snapshot.lost;
    if lost.total() > 0 {
        let parts: Vec<String> = [
            (lost.ring_full, "ring full"),
            (lost.recursion_misses, "nested in the kernel"),
            (lost.table_full, "kernel table full"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, why)| format!("{} {why}", text::count(n)))
        .collect();
        all.push((true, format!("details lost: {}; the counts stay exact", parts.join(", "))));
    }
    if snapshot.table_full > 0 {
        all.push((true, format!("{} sockets not shown: table full (--max-sockets)", text::count(snapshot.table_full))));
    }
    all.extend(ui.notes.iter().map(|n| (false, text::safe(n).into_owned())));
    all.extend(snapshot.session.limits.iter().map(|l| (false, text::safe(l).into_owned())));
    for h in snapshot.session.hooks.iter().filter(|h| !h.attached) {
        let why = h.why_not.as_deref().unwrap_or("not attached");
        all.push((false, format!("{} missing: {}", text::safe(&h.name), text::safe(why))));
    }
    all
}

pub fn has_alert(ui: &UiState, snapshot: &Snapshot) -> bool {
    !ui.notes.is_empty()
        || snapshot.lost.total() > 0
        || snapshot.table_full > 0
        || !snapshot.session.limits.is_empty()
        || snapshot.session.hooks.iter().any(|h| !h.attached)
}

pub fn draw_alert(ui: &UiState, snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let all = alerts(ui, snapshot);
    let theme = ui.theme();
    let width = area.width as usize;
    let style = |grave: bool| -> Style { if grave { theme.bad() } else { theme.risk() } };
    let mut spans = vec![Span::styled(" ! ", theme.strong())];
    let mut used = 3;
    for (i, (grave, sentence)) in all.iter().enumerate() {
        let rest = all.len() - i;
        let note = if rest > 1 { format!("  +{} more: ?", rest - 1) } else { String::new() };
        let separator = if i > 0 { " · " } else { "" };
        let whole = used + text::width(separator) + text::width(sentence) + text::width(&note) < width;
        if !whole && i > 0 {
            spans.push(Span::styled(format!("  +{rest} more: ?"), theme.faint()));
            break;
        }
        let room = width.saturating_sub(used + text::width(&note) + 1);
        let shown = text::cut(sentence, room).into_owned();
        used += text::width(separator) + text::width(&shown);
        spans.push(Span::styled(separator, theme.faint()));
        spans.push(Span::styled(shown, style(*grave)));
        if !whole {
            spans.push(Span::styled(note, theme.faint()));
            break;
        }
    }
    put(buffer, area, 0, &Line::from(spans));
}
