//! The pictures: a lifeline per socket, idle times before resets, round-trip time and retransmits over time.
//!
//! Colours come from the page's style sheet, so that they follow light and dark; every mark also has its own shape, and a
//! `title` with its time and words.

use std::time::Duration;

use maud::{Markup, html};

use super::series::EDGES;
use super::{IdleHistogram, Report};
use crate::model::Mono;
use crate::state::{HistoryKind, Socket};
use crate::view::text::{countdown, duration};

const WIDTH: f64 = 1_000.0;
/// Where time begins: the destination's name stands before it.
const LEFT: f64 = 190.0;
const RIGHT: f64 = WIDTH - 16.0;
const ROW: f64 = 34.0;
const LIFELINES: usize = 24;
/// A silence worth showing as one.
const GAP: Duration = Duration::from_secs(2);

/// Maps times to the width of a picture.
struct Axis {
    start: Mono,
    end: Mono,
    left: f64,
}

impl Axis {
    fn new(r: &Report, left: f64) -> Self {
        // A recording of one instant still has a width.
        let end = r.snapshot.at.max(r.start.plus(Duration::from_secs(1)));
        Self { start: r.start, end, left }
    }

    fn x(&self, at: Mono) -> f64 {
        let whole = self.end.since(self.start).as_secs_f64();
        let part = at.min(self.end).since(self.start).as_secs_f64() / whole;
        round(self.left + part * (RIGHT - self.left))
    }

    /// Round steps of which at most eight fit.
    fn ticks(&self) -> Vec<(f64, String)> {
        const STEPS: [u64; 15] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 86_400];
        let whole = self.end.since(self.start).as_secs().max(1);
        let step = STEPS.into_iter().find(|s| whole / s <= 8).unwrap_or(whole / 8);
        (0..=whole / step)
            .map(|n| (self.x(self.start.plus(Duration::from_secs(n * step))), duration(Duration::from_secs(n * step))))
            .collect()
    }

    fn draw(&self, bottom: f64) -> Markup {
        html! {
            @for (x, label) in self.ticks() {
                line.grid x1=(x) x2=(x) y1="0" y2=(bottom) {}
                text.axis x=(x) y=(bottom + 15.0) text-anchor="middle" { (label) }
            }
        }
    }
}

fn round(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// One line per socket, the worst first.
pub fn lifelines(r: &Report) -> Markup {
    let axis = Axis::new(r, LEFT);
    let shown = &r.sockets[..r.sockets.len().min(LIFELINES)];
    let bottom = shown.len() as f64 * ROW + 6.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", bottom + 22.0)) role="img" aria-label="what happened on each socket over time" {
            (axis.draw(bottom))
            @for (n, s) in shown.iter().enumerate() {
                (lifeline(r, s, &axis, n as f64 * ROW + ROW / 2.0 + 4.0))
            }
        }
    }
}

fn lifeline(r: &Report, s: &Socket, axis: &Axis, y: f64) -> Markup {
    let begin = s.opened.unwrap_or(s.first_seen).max(r.start);
    let end = s.closed_at.unwrap_or(r.snapshot.at);
    // What shows that the connection was used: silences lie between.
    let mut used: Vec<(Mono, bool)> = (s.history.iter())
        .filter(|h| !matches!(h.kind(), HistoryKind::Finding | HistoryKind::Keepalive | HistoryKind::Action))
        .map(|h| (h.at, h.kind() == HistoryKind::Retransmit))
        .chain([(begin, false), (end, false)])
        .chain(s.activity.last_heard.map(|at| (at, false)))
        .filter(|(at, _)| (begin..=end).contains(at))
        .collect();
    used.sort_unstable();
    used.dedup();
    // A timeout that nothing from the peer followed yet: the silence after it is waiting, not idleness.
    let heard = s.activity.last_heard;
    let waits = |a: (Mono, bool), b: Mono| a.1 && heard.is_none_or(|h| h <= a.0 || h > b);
    let local = s.flow.map(|f| format!(":{}", f.local.port())).unwrap_or_default();
    let name = cut(&s.destination(), 27);
    html! {
        g {
            title { (s.destination()) " from " (s.flow.map(|f| f.local.to_string()).unwrap_or_default()) ", socket " (s.id) }
            text.name x="0" y=(y - 1.0) { (name) }
            text.axis x="0" y=(y + 11.0) { "from " (local) }
        }
        @for pair in used.windows(2) {
            @let (a, b) = (pair[0].0, pair[1].0);
            @let waiting = waits(pair[0], b);
            @let silent = b.since(a) >= GAP && !waiting;
            line class=(if waiting { "waiting" } else if silent { "idle" } else { "alive" }) x1=(axis.x(a)) x2=(axis.x(b)) y1=(y) y2=(y) {}
            @if silent && axis.x(b) - axis.x(a) > 46.0 {
                text.gap x=(round((axis.x(a) + axis.x(b)) / 2.0)) y=(y - 4.0) text-anchor="middle" { (countdown(b.since(a))) " idle" }
            }
        }
        @for h in s.history.iter() {
            @if (r.start..=r.snapshot.at).contains(&h.at) {
                g { title { (r.time(h.at)) " " (h.text()) } (mark(h.kind(), &h.text(), axis.x(h.at), y)) }
            }
        }
        @if let Some(at) = s.closed_at {
            line.closed x1=(axis.x(at)) x2=(axis.x(at)) y1=(y - 7.0) y2=(y + 7.0) {}
        }
        @else if let Some(at) = s.gives_up_at {
            text.stuck x=(RIGHT) y=(y - 5.0) text-anchor="end" { "gives up in " (duration(at.since(r.snapshot.at))) }
        }
    }
}

fn mark(kind: HistoryKind, text: &str, x: f64, y: f64) -> Markup {
    let at = |dx: f64, dy: f64| format!("{},{}", round(x + dx), round(y + dy));
    match kind {
        HistoryKind::Opened => html! { line.open x1=(x) x2=(x) y1=(y - 6.0) y2=(y + 6.0) {} },
        HistoryKind::Sent => {
            html! { polygon.sent points=(format!("{} {} {}", at(-4.0, -2.0), at(4.0, -2.0), at(0.0, -9.0))) {} }
        }
        HistoryKind::Received => {
            html! { polygon.received points=(format!("{} {} {}", at(-4.0, 2.0), at(4.0, 2.0), at(0.0, 9.0))) {} }
        }
        HistoryKind::Retransmit => {
            // Later timeouts are bigger: backoff can be seen.
            let backoff = text.split("backoff ").nth(1).and_then(|b| b.parse::<u8>().ok()).unwrap_or(0);
            html! { circle.retransmit cx=(x) cy=(y) r=(2.5 + f64::from(backoff.min(10)) * 0.35) {} }
        }
        HistoryKind::Reset => html! {
            path.reset d=(format!("M{} L{} M{} L{}", at(-5.0, -5.0), at(5.0, 5.0), at(-5.0, 5.0), at(5.0, -5.0))) {}
        },
        HistoryKind::State if text.contains("CLOSE_WAIT") || text.contains("FIN_WAIT1") => html! {
            polygon.fin points=(format!("{} {} {} {}", at(0.0, -5.0), at(5.0, 0.0), at(0.0, 5.0), at(-5.0, 0.0))) {}
        },
        HistoryKind::Action | HistoryKind::Keepalive => {
            html! { rect.action x=(round(x - 4.0)) y=(round(y - 4.0)) width="8" height="8" {} }
        }
        HistoryKind::State | HistoryKind::Finding | HistoryKind::Closed => html! {},
    }
}

/// The shapes and what they mean.
pub fn legend() -> Markup {
    let entry = |picture: Markup, words: &str| {
        html! { span { svg.key viewBox="0 0 20 20" aria-hidden="true" { (picture) } (words) } }
    };
    html! {
        p.legend {
            (entry(mark(HistoryKind::Sent, "", 10.0, 15.0), "data sent"))
            (entry(mark(HistoryKind::Received, "", 10.0, 5.0), "data received"))
            (entry(html! { line.idle x1="1" x2="19" y1="10" y2="10" {} }, "idle"))
            (entry(html! { line.waiting x1="1" x2="19" y1="10" y2="10" {} }, "no ACK"))
            (entry(mark(HistoryKind::Retransmit, "backoff 6", 10.0, 10.0), "retransmit (bigger: more backoff)"))
            (entry(mark(HistoryKind::State, "CLOSE_WAIT", 10.0, 10.0), "FIN"))
            (entry(mark(HistoryKind::Reset, "", 10.0, 10.0), "RST"))
            (entry(mark(HistoryKind::Action, "", 10.0, 10.0), "agent or keepalive"))
            (entry(html! { line.closed x1="10" x2="10" y1="3" y2="17" {} }, "opened, closed"))
        }
    }
}

/// How long connections had been idle before they were reset; `None` if none was.
pub fn histogram(h: &IdleHistogram) -> Option<Markup> {
    if h.total() == 0 {
        return None;
    }
    const HEIGHT: f64 = 150.0;
    let most = h.buckets.iter().map(|b| b.iter().sum::<u64>()).max().unwrap_or(1).max(1) as f64;
    let step = WIDTH / (EDGES.len() + 1) as f64;
    Some(html! {
        div.scroll { div.wide { svg viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + 40.0)) role="img" aria-label="idle time before resets" {
            line.base x1="0" x2=(WIDTH) y1=(HEIGHT + 14.0) y2=(HEIGHT + 14.0) {}
            @for (n, bucket) in h.buckets.iter().enumerate() {
                @let x = round(n as f64 * step + 8.0);
                @let total = bucket.iter().sum::<u64>();
                (stack(bucket, x, step - 16.0, HEIGHT / most, HEIGHT + 14.0))
                @if total > 0 {
                    text.value x=(round(x + step / 2.0 - 8.0)) y=(round(HEIGHT + 10.0 - total as f64 * HEIGHT / most)) text-anchor="middle" { (total) }
                }
                text.axis x=(round(x + step / 2.0 - 8.0)) y=(HEIGHT + 32.0) text-anchor="middle" { (IdleHistogram::label(n)) }
            }
        } } }
        p.legend {
            span { i.dot.peer {} "from the peer" } span { i.dot.middlebox {} "from a middlebox" } span { i.dot.unknown {} "not known" }
        }
    })
}

fn stack(parts: &[u64; 3], x: f64, width: f64, scale: f64, bottom: f64) -> Markup {
    let mut y = bottom;
    let mut bars = Vec::new();
    for (n, class) in parts.iter().zip(["peer", "middlebox", "unknown"]) {
        let height = *n as f64 * scale;
        y -= height;
        if *n > 0 {
            bars.push((class, round(y), round(height)));
        }
    }
    html! { @for (class, y, height) in bars { rect class=(class) x=(x) y=(y) width=(round(width)) height=(height) { } } }
}

/// Mean and highest round-trip time as a line and an area, retransmits as bars below, resets as marks.
pub fn over_time(r: &Report) -> Option<Markup> {
    let s = &r.collected.series;
    if s.bins.is_empty() {
        return None;
    }
    const RTT: f64 = 120.0;
    const BARS: f64 = 70.0;
    const LOW: f64 = RTT + BARS + 34.0;
    let axis = Axis::new(r, 70.0);
    let start = s.start().unwrap_or(r.start);
    let middle = |n: usize| axis.x(start.plus(s.width * n as u32 + s.width / 2));
    let top = s.bins.iter().map(|b| b.rtt_us_max).max().unwrap_or(0).max(1) as f64;
    let most = s.bins.iter().map(|b| b.retransmits).max().unwrap_or(0).max(1);
    let y = |us: u64| round(14.0 + RTT - us as f64 / top * RTT);
    let points = |of: &dyn Fn(&super::Bin) -> u64| -> String {
        let known = s.bins.iter().enumerate().filter(|(_, b)| b.rtt_us_mean().is_some());
        known.map(|(n, b)| format!("{},{}", middle(n), y(of(b)))).collect::<Vec<_>>().join(" ")
    };
    let bar = ((RIGHT - 70.0) / s.bins.len() as f64 * 0.8).clamp(1.5, 14.0);
    Some(html! {
        div.scroll { div.wide { svg viewBox=(format!("0 0 {WIDTH} {}", LOW + 22.0)) role="img" aria-label="round-trip time and retransmits over time" {
            (axis.draw(LOW))
            text.axis x="0" y="20" { "RTT " (crate::view::text::latency(Duration::from_micros(top as u64))) }
            text.axis x="0" y=(14.0 + RTT) { "0" }
            line.base x1="70" x2=(RIGHT) y1=(14.0 + RTT) y2=(14.0 + RTT) {}
            polyline.rtt-max points=(points(&|b| b.rtt_us_max)) {}
            polyline.rtt points=(points(&|b| b.rtt_us_mean().unwrap_or(0))) {}
            text.axis x="0" y=(RTT + 44.0) { "retrans " (most) }
            line.base x1="70" x2=(RIGHT) y1=(LOW - 4.0) y2=(LOW - 4.0) {}
            @for (n, b) in s.bins.iter().enumerate() {
                @if b.retransmits > 0 {
                    @let height = round((b.retransmits as f64 / most as f64 * BARS).max(1.5));
                    rect.retransmit x=(round(middle(n) - bar / 2.0)) y=(round(LOW - 4.0 - height)) width=(round(bar)) height=(height) {
                        title { (b.retransmits) " segments retransmitted" }
                    }
                }
                @if b.resets_received + b.resets_sent > 0 {
                    g { title { (b.resets_received) " RST received, " (b.resets_sent) " sent" } (mark(HistoryKind::Reset, "", middle(n), RTT + 26.0)) }
                }
            }
        } } }
        p.legend {
            span { i.dot.rtt {} "mean RTT" } span { i.dot.rtt-max {} "highest RTT" } span { i.dot.retransmit {} "segments retransmitted" } span { "× RST" }
            span { "one point: " (duration(s.width)) }
        }
    })
}

fn cut(text: &str, chars: usize) -> String {
    crate::view::text::cut_middle(text, chars).into_owned()
}
