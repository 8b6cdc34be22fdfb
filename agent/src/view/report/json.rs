//! The report as one JSON document. Findings and sockets have the fields of their lines in `agent.events/1`.

use serde::Serialize;
use serde_json::{Value, json};

use super::parts::share;
use super::{IdleHistogram, Report};
use crate::model::{Event, EventKind};
use crate::schema::{Described, Line, LineContext, Time};

/// # Errors
/// None in practice: everything in a report can be written as JSON.
pub fn json(r: &Report) -> serde_json::Result<String> {
    let clock = &r.snapshot.clock;
    let time = |at| Time::new(clock, at);
    let cx = LineContext { seq: 0, clock, socket: None, redacted: r.redacted, part: 0 };
    let line = |at, kind| -> Value {
        let event = Event { at, kind };
        bare(Line::new(&event, cx).as_ref().map(serde_json::to_value))
    };
    let findings: Vec<Value> =
        r.findings.iter().map(|f| line(r.snapshot.at, EventKind::Finding(Box::new((**f).clone())))).collect();
    let sockets: Vec<Value> = (r.sockets.iter())
        .map(|s| {
            let mut v = bare(Some(serde_json::to_value(Described::whole(s, r.snapshot.at, false).line(r.snapshot.at, cx))));
            v["timeline"] = s
                .history
                .iter()
                .map(|h| json!({ "time": time(h.at), "kind": format!("{:?}", h.kind()).to_lowercase(), "text": h.text() }))
                .collect();
            v["timeline_dropped"] = s.history.dropped.into();
            v
        })
        .collect();
    let destinations: Vec<Value> = (r.collected.destinations().into_iter().take(500))
        .map(|(name, d)| {
            json!({
                "destination": name, "sockets": d.sockets, "resets_received": d.resets_received,
                "resets_sent": d.resets_sent, "retransmits": d.retransmits, "segments_sent": d.segments,
                "retransmit_share_percent": share(d), "stalled_s": d.stalled.as_secs_f64(), "stalls": d.stalls,
                "longest_stall_s": d.longest_stall.as_secs_f64(),
            })
        })
        .collect();
    let idle: Vec<Value> = (r.collected.idle.buckets.iter().enumerate())
        .map(|(n, [peer, middlebox, unknown])| {
            json!({ "idle": IdleHistogram::label(n), "peer": peer, "middlebox": middlebox, "unknown": unknown })
        })
        .collect();
    let series: Vec<Value> = (r.collected.series.bins.iter())
        .map(|b| {
            json!({
                "rtt_us_mean": b.rtt_us_mean(), "rtt_us_max": b.rtt_us_mean().map(|_| b.rtt_us_max),
                "retransmits": b.retransmits, "resets_received": b.resets_received, "resets_sent": b.resets_sent,
            })
        })
        .collect();
    let actions: Vec<Value> =
        r.collected.actions.iter().map(|(at, a)| line(*at, EventKind::Action(Box::new(a.clone())))).collect();
    let t = &r.snapshot.totals;
    let l = &r.snapshot.lost;
    let document = Document {
        schema: "agent.report/1",
        redacted: r.redacted,
        source: r.source.as_deref(),
        remarks: &r.remarks,
        from: time(r.start),
        to: time(r.snapshot.at),
        headline: r.headline(),
        session: line(r.start, EventKind::Session(Box::new((*r.snapshot.session).clone()))),
        findings,
        sockets,
        sockets_left_out: r.sockets_left_out,
        destinations,
        idle_before_reset: idle,
        series: json!({ "bin_s": r.collected.series.width.as_secs_f64(), "bins": series }),
        actions,
        totals: json!({ "events": r.snapshot.events, "sockets": t.sockets, "retransmits": t.retransmits,
                        "resets_received": t.resets_received, "resets_sent": t.resets_sent }),
        lost: json!({ "ring_full": l.ring_full, "recursion_misses": l.recursion_misses, "table_full": l.table_full }),
    };
    serde_json::to_string_pretty(&document)
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    redacted: bool,
    source: Option<&'a str>,
    remarks: &'a [String],
    from: Time,
    to: Time,
    headline: String,
    session: Value,
    findings: Vec<Value>,
    sockets: Vec<Value>,
    sockets_left_out: u64,
    destinations: Vec<Value>,
    idle_before_reset: Vec<Value>,
    series: Value,
    actions: Vec<Value>,
    totals: Value,
    lost: Value,
}

/// A line without what only a recording needs.
fn bare(line: Option<serde_json::Result<Value>>) -> Value {
    let mut v = line.and_then(Result::ok).unwrap_or(Value::Null);
    if let Some(fields) = v.as_object_mut() {
        fields.remove("seq");
        fields.remove("type");
    }
    v
}
