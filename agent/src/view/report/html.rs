//! One self-contained HTML file: no script, no request, light and dark, fit for print. `maud` escapes every value.

use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

use super::parts::{Table, spans};
use super::{Report, svg};
use crate::model::{Confidence, Finding, FindingStatus};

/// Nothing may be loaded, not even by mistake; `data:` is for the empty icon that keeps browsers from asking for one.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

pub fn html(r: &Report) -> String {
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                link rel="icon" href="data:,";
                title { (r.title()) }
                style { (PreEscaped(include_str!("report.css"))) }
            }
            body { main { (body(r)) } }
        }
    };
    page.into_string()
}

fn body(r: &Report) -> Markup {
    markup! {
        header {
            p.when {
                "agent " (r.snapshot.session.agent_version) " · " (r.date(r.start)) " to " (r.date(r.snapshot.at))
                " · " (crate::view::text::duration(r.snapshot.at.since(r.start)))
            }
            h1 { (r.title()) }
            p.headline { (r.headline()) }
            @if r.redacted { p.note { "Addresses, ports and names are pseudonyms; the same pseudonym is the same thing." } }
            @for remark in &r.remarks { p.note.warn { (remark) } }
        }
        @if let Some(f) = r.main() { (finding(r, f)) }
        section {
            h2 { "What happened on each socket" }
            @if r.sockets.is_empty() { p { "No socket was seen." } }
            @else {
                div.scroll { div.wide { (svg::lifelines(r)) } }
                (svg::legend())
            }
        }
        @if let Some(chart) = svg::over_time(r) {
            section { h2 { "Round-trip time and retransmits" } (chart) }
        }
        @if let Some(chart) = svg::histogram(&r.collected.idle) {
            section { h2 { "Idle time before resets" } (chart) }
        }
        @let others: Vec<_> = r.findings.iter().filter(|f| r.main().is_none_or(|m| m.id != f.id)).collect();
        @if !others.is_empty() {
            section.findings {
                h2 { "Also found" }
                @for f in others.iter().take(40) { (finding(r, f)) }
                @if others.len() > 40 { p { "and " (others.len() - 40) " more." } }
            }
        }
        section {
            h2 { "Sockets" }
            (table(&r.socket_table()))
            @if r.sockets_left_out > 0 { p.note { (r.sockets_left_out) " more had less to tell." } }
        }
        @if let Some(s) = r.worst() {
            section {
                h2 { "Timeline of " (s.destination()) " (socket " (s.id) "), UTC" }
                @if s.history.dropped > 0 { p.note { (s.history.dropped) " older entries are not kept." } }
                ol.timeline { @for h in super::parts::timeline(s) { li { time { (r.time(h.at)) } " " (h.text()) } } }
            }
        }
        @let destinations = r.destination_table(50);
        @if !destinations.rows.is_empty() { section { h2 { "Per destination" } (table(&destinations)) } }
        @let actions = r.action_table();
        section {
            h2 { "What was tried" }
            @if actions.rows.is_empty() { p { "Nothing was changed by agent in this time." } } @else { (table(&actions)) }
        }
        section.pairs {
            div { h2 { "Counts" } (pairs(&r.counts())) }
            div { h2 { "Environment" } (pairs(&r.environment())) }
        }
        @if let Some(file) = &r.source {
            section {
                h2 { "Look at it yourself" }
                pre { "agent replay " (file) " --at " (r.snapshot.clock.rfc3339(r.main().map_or(r.start, |f| f.opened))) "\nagent replay " (file) " --no-tui" }
            }
        }
    }
}

fn finding(r: &Report, f: &Finding) -> Markup {
    let grade = match f.confidence {
        Confidence::Certain => "certain",
        Confidence::Likely => "likely",
        Confidence::Possible => "possible",
    };
    let over = f.status == FindingStatus::Closed;
    markup! {
        article.finding.over[over] {
            h3 { code { (f.code) } " " span class={"grade " (grade)} { (grade) } @if over { span.grade { "over" } } " since " (r.time(f.opened)) }
            @if r.main().is_none_or(|m| m.id != f.id) { p { (prose(&f.summary)) } }
            @if !f.evidence.is_empty() {
                h4 { "How we know" }
                ol.timeline { @for e in &f.evidence { li { time { (r.time(e.at)) } " " (prose(&e.text)) } } }
            }
            @if !f.rivals.is_empty() { h4 { "Not excluded" } ul { @for t in &f.rivals { li { (prose(t)) } } } }
            @if !f.advice.is_empty() { h4 { "What to do" } ul.advice { @for t in &f.advice { li { (prose(t)) } } } }
        }
    }
}

/// A sentence of a finding: what it has in back quotes is code.
fn prose(text: &str) -> Markup {
    markup! {
        @for (n, part) in spans(text).into_iter().enumerate() {
            @if n % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn table(t: &Table) -> Markup {
    markup! {
        div.scroll {
            table {
                thead { tr { @for h in &t.head { th { (h) } } } }
                tbody { @for row in &t.rows { tr { @for cell in row { td { (cell) } } } } }
            }
        }
    }
}

fn pairs(rows: &[(String, String)]) -> Markup {
    markup! { dl { @for (name, value) in rows { dt { (name) } dd { (value) } } } }
}
