//! Two recordings side by side: before and after a fix.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::report::{Collector, Destination};
use super::text::{count, duration, plural};
use crate::model::Totals;

/// What is compared of one recording.
#[derive(Debug)]
pub struct Side {
    pub collected: Collector,
    pub totals: Totals,
    /// Causes found, by code.
    pub findings: BTreeMap<&'static str, u64>,
    pub remarks: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    pub resets: u64,
    pub resets_per_hour: Option<f64>,
    pub stalled_s: f64,
    pub stalls: u64,
    pub longest_stall_s: f64,
    pub retransmits: u64,
    pub retransmit_share_percent: Option<f64>,
    pub sockets: u64,
}

impl Rates {
    fn of(d: &Destination, span: Duration) -> Self {
        let hours = span.as_secs_f64() / 3_600.0;
        let resets = d.resets_received + d.resets_sent;
        Self {
            resets,
            resets_per_hour: (hours > 0.0).then(|| resets as f64 / hours),
            stalled_s: d.stalled.as_secs_f64(),
            stalls: d.stalls,
            longest_stall_s: d.longest_stall.as_secs_f64(),
            retransmits: d.retransmits,
            retransmit_share_percent: (d.segments > 0).then(|| d.retransmits as f64 * 100.0 / d.segments as f64),
            sockets: d.sockets,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub destination: String,
    pub before: Option<Rates>,
    pub after: Option<Rates>,
}

#[derive(Debug, Serialize)]
pub struct Diff {
    pub schema: &'static str,
    pub before_s: f64,
    pub after_s: f64,
    /// Over all destinations.
    pub total: Row,
    /// The ones with most trouble first.
    pub destinations: Vec<Row>,
    /// Code and how often it was found, before and after.
    pub findings: Vec<(String, u64, u64)>,
    pub remarks: Vec<String>,
}

/// Compares the recordings destination by destination.
pub fn diff(before: &Side, after: &Side) -> Diff {
    let rates = |side: &Side| -> BTreeMap<String, Rates> {
        let span = side.collected.span();
        side.collected.destinations().into_iter().map(|(n, d)| (n.to_owned(), Rates::of(d, span))).collect()
    };
    let (mut a, mut b) = (rates(before), rates(after));
    let names: std::collections::BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
    let mut destinations: Vec<Row> =
        (names.into_iter()).map(|n| Row { before: a.remove(&n), after: b.remove(&n), destination: n }).collect();
    let trouble = |r: &Row| {
        let of = |x: &Option<Rates>| x.as_ref().map_or(0.0, |x| x.resets as f64 + x.stalled_s + x.retransmits as f64);
        of(&r.before).max(of(&r.after))
    };
    destinations.sort_by(|x, y| trouble(y).total_cmp(&trouble(x)).then_with(|| x.destination.cmp(&y.destination)));
    let codes: std::collections::BTreeSet<&str> =
        before.findings.keys().chain(after.findings.keys()).copied().collect();
    let findings = (codes.into_iter())
        .map(|c| {
            let n = |side: &Side| side.findings.get(c).copied().unwrap_or(0);
            (c.to_owned(), n(before), n(after))
        })
        .collect();
    let remarks = (before.remarks.iter().map(|r| format!("before: {r}")))
        .chain(after.remarks.iter().map(|r| format!("after: {r}")))
        .collect();
    Diff {
        schema: "agent.diff/1",
        before_s: before.collected.span().as_secs_f64(),
        after_s: after.collected.span().as_secs_f64(),
        total: Row { destination: "all".into(), before: Some(total(before)), after: Some(total(after)) },
        destinations,
        findings,
        remarks,
    }
}

/// Resets and retransmits of the whole are the kernel's exact totals, not the sum of what was seen in detail.
fn total(side: &Side) -> Rates {
    let mut sum = Destination::default();
    for (_, d) in side.collected.destinations() {
        sum.sockets += d.sockets;
        sum.segments += d.segments;
        sum.stalled += d.stalled;
        sum.stalls += d.stalls;
        sum.longest_stall = sum.longest_stall.max(d.longest_stall);
    }
    sum.resets_received = side.totals.resets_received;
    sum.resets_sent = side.totals.resets_sent;
    sum.retransmits = side.totals.retransmits;
    Rates::of(&sum, side.collected.span())
}

/// Destinations that the text shows.
const SHOWN: usize = 20;

impl Diff {
    /// For a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let span = |s: f64| duration(Duration::from_secs_f64(s));
        let _ = writeln!(out, "before: {}   after: {}\n", span(self.before_s), span(self.after_s));
        let mut rows = vec![
            ["DESTINATION", "", "RESETS/H", "STALLED", "STALLS", "LONGEST", "RETRANS", "OF SEGMENTS", "SOCKETS"]
                .map(str::to_owned),
        ];
        for row in std::iter::once(&self.total).chain(self.destinations.iter().take(SHOWN)) {
            for (label, rates, name) in [("before", &row.before, row.destination.as_str()), ("after", &row.after, "")] {
                let Some(r) = rates else {
                    rows.push([name, label, "-", "-", "-", "-", "-", "-", "0"].map(str::to_owned));
                    continue;
                };
                rows.push([
                    name.to_owned(),
                    label.to_owned(),
                    r.resets_per_hour.map_or("-".into(), |n| format!("{n:.1}")),
                    format!("{:.1} s", r.stalled_s),
                    count(r.stalls),
                    format!("{:.1} s", r.longest_stall_s),
                    count(r.retransmits),
                    r.retransmit_share_percent.map_or("-".into(), |p| format!("{p:.2} %")),
                    count(r.sockets),
                ]);
            }
        }
        let widths: Vec<usize> =
            (0..9).map(|c| rows.iter().map(|r| super::text::width(&r[c])).max().unwrap_or(0)).collect();
        for row in &rows {
            let cells: Vec<String> = (row.iter().zip(&widths).enumerate())
                .map(|(c, (cell, w))| if c < 2 { super::text::left(cell, *w) } else { super::text::right(cell, *w) })
                .collect();
            let _ = writeln!(out, "{}", cells.join("  ").trim_end());
        }
        if self.destinations.len() > SHOWN {
            let _ = writeln!(out, "and {} more", plural(self.destinations.len() - SHOWN, "destination"));
        }
        if !self.findings.is_empty() {
            let _ = writeln!(out, "\ncauses found, before → after");
            for (code, a, b) in &self.findings {
                let _ = writeln!(out, "  {code:<18} {a} → {b}");
            }
        }
        let _ = writeln!(out, "\n{}", self.verdict());
        for remark in &self.remarks {
            let _ = writeln!(out, "note: {remark}");
        }
        out
    }

    /// One sentence on stalls and resets.
    fn verdict(&self) -> String {
        let (Some(a), Some(b)) = (&self.total.before, &self.total.after) else { return String::new() };
        let change = |what: &str, a: f64, b: f64, unit: &str| {
            if a == 0.0 && b == 0.0 {
                format!("no {what} in either")
            } else if b == 0.0 {
                format!("{what} gone (was {a:.1}{unit})")
            } else if a == 0.0 {
                format!("{what} new ({b:.1}{unit})")
            } else {
                format!("{what} from {a:.1} to {b:.1}{unit}")
            }
        };
        format!(
            "{}; {}",
            change("stalls", a.stalled_s, b.stalled_s, " s"),
            change("resets", a.resets_per_hour.unwrap_or(0.0), b.resets_per_hour.unwrap_or(0.0), " an hour"),
        )
    }
}
