//! Markdown for an issue: the answer first, the long parts folded.

use std::fmt::Write as _;

use super::Report;
use super::parts::{Table, spans};
use crate::model::{Finding, FindingStatus};
use crate::view::text::plural;

/// An issue of the large forges takes 65,536 characters; this leaves room for the user's own words.
pub const MAX_CHARS: usize = 60_000;
/// Room that the parts which are always there may take together; folded parts share the rest.
const ROWS_SHOWN: usize = 10;
const ROWS_FOLDED: usize = 40;
const FINDINGS_SHOWN: usize = 5;

/// The report as Markdown, shorter than [`MAX_CHARS`].
pub fn markdown(r: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "## {}\n\n**{}**\n", escape(&clip(&r.title(), 200)), prose(&r.headline(), 800));
    let _ = writeln!(
        out,
        "Seen by `agent` {} from {} to {} ({}).{}\n",
        code(&r.snapshot.session.agent_version),
        r.date(r.start),
        r.date(r.snapshot.at),
        crate::view::text::duration(r.snapshot.at.since(r.start)),
        if r.redacted {
            " Addresses, ports and names are pseudonyms; the same pseudonym is the same thing."
        } else {
            ""
        },
    );
    for remark in r.remarks.iter().take(10) {
        let _ = writeln!(out, "> {}\n", escape(&clip(remark, 300)));
    }
    if let Some(f) = r.main() {
        finding(&mut out, r, f, 3);
    }
    let others: Vec<_> = r.findings.iter().filter(|f| r.main().is_none_or(|m| m.id != f.id)).collect();
    if !others.is_empty() {
        let _ = writeln!(out, "### Also found\n");
        for f in others.iter().take(FINDINGS_SHOWN) {
            let over = if f.status == FindingStatus::Closed { ", over" } else { "" };
            let _ = writeln!(out, "- `{}` ({}{over}): {}", f.code, f.confidence.name(), prose(&f.summary, 500));
        }
        if others.len() > FINDINGS_SHOWN {
            let _ = writeln!(out, "- and {} more below", others.len() - FINDINGS_SHOWN);
        }
        out.push('\n');
    }

    let sockets = r.socket_table();
    let _ = writeln!(out, "### Sockets\n");
    if sockets.rows.is_empty() {
        let _ = writeln!(out, "None was seen.\n");
    } else {
        table(&mut out, &sockets, 0..ROWS_SHOWN);
    }

    // What has to be there, before what may be long.
    let mut tail = String::new();
    let _ = writeln!(tail, "### Counts\n");
    pairs(&mut tail, &r.counts());
    let actions = r.action_table();
    let _ = writeln!(tail, "### What was tried\n");
    if actions.rows.is_empty() {
        let _ = writeln!(tail, "Nothing was changed by `agent` in this time.\n");
    } else {
        table(&mut tail, &actions, 0..20);
        let more = actions.rows.len().saturating_sub(20) as u64 + r.collected.actions_left_out;
        if more > 0 {
            let _ = writeln!(tail, "… and {more} more.\n");
        }
    }
    let _ = writeln!(tail, "### Look at it yourself\n");
    match &r.source {
        Some(file) => {
            let at = r.main().map(|f| f.opened).unwrap_or(r.start);
            let _ = writeln!(
                tail,
                "The recording is `{}` (attach it: made with `--redact` it holds pseudonyms only). `agent` needs no root for it:\n\n\
                 ```\nagent replay {} --at {}\nagent replay {} --no-tui\n```\n",
                code(file),
                code(file),
                r.snapshot.clock.rfc3339(at),
                code(file),
            );
        }
        None => {
            let _ = writeln!(
                tail,
                "This is one moment of a live watch. To record: `agent watch --pid PID --json FILE --redact`, then\n\
                 `agent replay FILE`.\n"
            );
        }
    }

    let mut folds: Vec<(String, String)> = Vec::new();
    if let Some(s) = r.worst() {
        let mut text = String::from("```\n");
        if s.history.dropped > 0 {
            let _ = writeln!(text, "({} older entries are not kept)", s.history.dropped);
        }
        for h in super::parts::timeline(s) {
            let _ = writeln!(text, "{}  {}", r.time(h.at), code(&clip(&h.text(), 300)));
        }
        text.push_str("```\n");
        folds.push((format!("Timeline of {} (socket {}), UTC", s.destination(), s.id), text));
    }
    let mut environment = String::new();
    pairs(&mut environment, &r.environment());
    folds.push(("Environment".into(), environment));
    let destinations = r.destination_table(ROWS_FOLDED);
    if !destinations.rows.is_empty() {
        let mut text = String::new();
        table(&mut text, &destinations, 0..ROWS_FOLDED);
        folds.push(("Per destination".into(), text));
    }
    if sockets.rows.len() > ROWS_SHOWN {
        let mut text = String::new();
        table(&mut text, &sockets, ROWS_SHOWN..ROWS_SHOWN + ROWS_FOLDED);
        if r.sockets_left_out > 0 {
            let _ = writeln!(text, "{} more had less to tell.\n", plural(r.sockets_left_out as usize, "socket"));
        }
        folds.push((format!("More sockets ({})", sockets.rows.len() - ROWS_SHOWN), text));
    }
    for f in others.iter().take(20) {
        let mut text = String::new();
        finding(&mut text, r, f, 4);
        folds.push((format!("{} ({}): evidence and advice", f.code, f.confidence.name()), text));
    }

    let mut left_out = 0;
    for (summary, text) in folds {
        let fold = format!("<details><summary>{}</summary>\n\n{text}\n</details>\n\n", escape(&clip(&summary, 200)));
        // 200: the line that says what was left out.
        if out.chars().count() + fold.chars().count() + tail.chars().count() + 200 < MAX_CHARS {
            out.push_str(&fold);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        let _ = writeln!(out, "{left_out} longer parts are left out to fit an issue; the HTML report has them.\n");
    }
    out.push_str(&tail);
    // The parts above are bounded one by one; should they still be too long together, the end goes.
    if out.chars().count() >= MAX_CHARS { clip(&out, MAX_CHARS - 100) + "\n\n… cut to fit an issue\n" } else { out }
}

fn finding(out: &mut String, r: &Report, f: &Finding, level: usize) {
    let over = if f.status == FindingStatus::Closed { ", over by the end" } else { "" };
    let _ = writeln!(
        out,
        "{} `{}`, {}, since {}{over}\n",
        "#".repeat(level),
        f.code,
        f.confidence.name(),
        r.time(f.opened)
    );
    if level > 3 {
        let _ = writeln!(out, "{}\n", prose(&f.summary, 800));
    }
    for (head, rows) in [
        ("How we know", f.evidence.iter().map(|e| format!("`{}` {}", r.time(e.at), prose(&e.text, 400))).collect()),
        ("Not excluded", f.rivals.iter().map(|t| prose(t, 400)).collect::<Vec<_>>()),
        ("What to do", f.advice.iter().map(|t| prose(t, 600)).collect()),
    ] {
        if !rows.is_empty() {
            let _ = writeln!(out, "{head}:\n");
            for row in rows.iter().take(12) {
                let _ = writeln!(out, "- {row}");
            }
            out.push('\n');
        }
    }
}

fn table(out: &mut String, t: &Table, rows: std::ops::Range<usize>) {
    let _ = writeln!(out, "| {} |", t.head.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(t.head.len()));
    for row in t.rows.iter().skip(rows.start).take(rows.len()) {
        let cells: Vec<String> = row.iter().map(|c| escape(&clip(c, 120))).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out.push('\n');
}

fn pairs(out: &mut String, rows: &[(String, String)]) {
    let _ = writeln!(out, "| | |\n|---|---|");
    for (name, value) in rows.iter().take(80) {
        let _ = writeln!(out, "| {} | {} |", escape(&clip(name, 100)), escape(&clip(value, 500)));
    }
    out.push('\n');
}

fn clip(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

/// A sentence of a finding: what it has in back quotes is code, nothing else is markup.
fn prose(text: &str, chars: usize) -> String {
    let text = clip(text, chars);
    let part = |(n, part): (usize, &str)| if n % 2 == 1 { format!("`{}`", code(part)) } else { escape(part) };
    spans(&text).into_iter().enumerate().map(part).collect()
}

/// Text in which nothing is markup: no table is broken, no tag opened, nobody mentioned, no issue linked.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut before = ' ';
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '[' | ']' | '|' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            // Inside a word an underscore is no emphasis, and the names of options stay readable.
            '_' if !before.is_alphanumeric() => out.push_str("\\_"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            '#' => out.push_str("&#35;"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
        before = c;
    }
    out
}

/// Text inside back quotes or a code block.
fn code(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == '`' {
                '\''
            } else if c.is_control() {
                ' '
            } else {
                c
            }
        })
        .collect()
}
