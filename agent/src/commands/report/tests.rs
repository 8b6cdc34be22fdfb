use std::path::PathBuf;

use super::*;
use crate::model::{Component, Event, EventKind, Flow, Owner};
use crate::schema::samples;
use crate::state::{Table, TableConfig};
use crate::view::jsonl::{Options, Recorder, Target};
use crate::view::report::MAX_CHARS;

fn record(dir: &Path, name: &str, events: &[Event], redactor: Option<Redactor>) -> PathBuf {
    let path = dir.join(name);
    let mut recorder =
        Recorder::create(Target::File(path.clone()), Options { redactor, ..Options::default() }).unwrap();
    let mut table = Table::new(TableConfig::default());
    for e in events {
        table.apply(e);
        recorder.write(e, &table, &samples::clock()).unwrap();
    }
    recorder.finish().unwrap();
    path
}

#[test]
fn a_hang_behind_a_forgetful_nat_is_told_from_the_answer_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "hang.jsonl", &samples::hang(), None);
    let text = markdown(&make(&path, Some(Redactor::new(&[]))).unwrap());
    assert!(text.starts_with("## idle-path-dead: host-1.example:443\n"), "{text}");
    for part in [
        "How we know",
        "What to do",
        "### Sockets",
        "| ESTABLISHED |",
        "Timeline of host-1.example:443",
        "tcp\\_retries2",
        "### What was tried",
        "### Counts",
        "agent replay recording.jsonl --at",
        "<details>",
        "agent keepalive",
    ] {
        let plain = part.replace("\\_", "_");
        assert!(text.contains(part) || text.contains(&plain), "{part} is not in\n{text}");
    }
    assert!(text.chars().count() < MAX_CHARS);
    let open = text.matches("<details>").count();
    assert!(open >= 2 && open == text.matches("</details>").count());
    // Every row of a table has as many cells as its head.
    for block in text.split("\n\n").filter(|b| b.starts_with("| destination")) {
        let cells: Vec<usize> = block.lines().map(|l| l.replace("\\|", "").matches('|').count()).collect();
        assert!(cells.windows(2).all(|w| w[0] == w[1]), "{block}");
    }
}

#[test]
fn the_page_stands_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path(), "hang.jsonl", &samples::hang(), None);
    let page = html(&make(&path, Some(Redactor::new(&[]))).unwrap());
    for part in [
        "<svg",
        "class=\"retransmit\"",
        "idle</text>",
        "prefers-color-scheme: dark",
        "@media print",
        "default-src 'none'",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http://", "https://", "<script", "src=", "url(", "@import", "NaN", "inf"] {
        let hits: Vec<&str> =
            page.match_indices(outside).map(|(at, _)| &page[at.saturating_sub(40)..at + 20]).collect();
        assert!(hits.iter().all(|h| outside == "inf" && h.contains("info")), "{outside}: {hits:?}");
    }
}

#[test]
fn markup_in_names_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "<script>alert(1)</script>|`x`](http://evil.example/)\n# @all";
    let mut events = samples::hang();
    for e in &mut events {
        match &mut e.kind {
            EventKind::Socket(u) => u.remote_name = Some(evil.into()),
            EventKind::Session(s) => s.limits = vec![evil.into()],
            EventKind::Action(a) => a.error = Some(evil.into()),
            _ => {}
        }
    }
    let path = record(dir.path(), "evil.jsonl", &events, None);
    let report = make(&path, None).unwrap();
    let (page, text) = (html(&report), markdown(&report));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    // In a code block markup is text already.
    let outside: String = text.split("```").step_by(2).collect();
    assert!(!outside.contains("<script") && outside.contains("&lt;script&gt;"));
    assert!(!text.contains("\n# @all") && !outside.contains(" @all"));
    serde_json::from_str::<serde_json::Value>(&json(&report).unwrap()).unwrap();
}

/// `--redact` while recording, `report` in each format of the open recording, and both together.
#[test]
fn no_planted_secret_is_in_any_output() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = [
        "sk-ant-api03-PLANTED-key-0123456789",
        "alice",
        "203.0.113.77",
        "192.168.7.31",
        "2001:db8:77::31",
        "vault-7",
        "corp.internal",
        "zq-billing-daemon",
        "/home/alice/secret/project",
        "hunter2",
    ];
    let sentence = "connect 203.0.113.77:8443 from 192.168.7.31:51111 or [2001:db8:77::31]:443 (vault-7.corp.internal) with \
                    API_KEY=hunter2, Authorization: sk-ant-api03-PLANTED-key-0123456789 in /home/alice/secret/project by \
                    alice@vault-7.corp.internal, zq-billing-daemon";
    let mut events = samples::hang();
    let mut resets = samples::all();
    resets.retain(|e| matches!(e.kind, EventKind::Reset(_) | EventKind::Finding(_) | EventKind::Retransmit(_)));
    let at = events[events.len() / 2].at;
    resets.iter_mut().for_each(|e| e.at = at);
    let middle = events.len() / 2;
    events.splice(middle..middle, resets);
    let flow = Flow { local: "192.168.7.31:51111".parse().unwrap(), remote: "203.0.113.77:8443".parse().unwrap() };
    for e in &mut events {
        match &mut e.kind {
            EventKind::Session(s) => {
                s.command = [
                    "agent",
                    "run",
                    "--json",
                    "/home/alice/secret/project/r.jsonl",
                    "--",
                    "curl",
                    "-H",
                    "x-api-key: sk-ant-api03-PLANTED-key-0123456789",
                ]
                .map(str::to_owned)
                .into();
                s.targets.destinations = vec!["vault-7.corp.internal:8443".into(), "203.0.113.77".into()];
                s.targets.comms = vec!["zq-billing-daemon".into()];
                s.targets.cgroup = Some("/user.slice/user-alice.slice".into());
                s.limits = vec![sentence.into()];
                s.hooks[1].why_not = Some(sentence.into());
            }
            EventKind::Socket(u) => {
                u.flow = Some(flow);
                u.remote_name = Some("vault-7.corp.internal".into());
                let part = |name: &str, version: &str| Component { name: name.into(), version: version.into() };
                let program = [part("Node.js", "20.19.2"), part("@zq-billing-daemon/alice", "1.0.0+alice")].into();
                u.owners = Some(
                    [Owner { pid: 4182, comm: "zq-billing-daemon".into(), fd: Some(3), program: Some(program) }].into(),
                );
            }
            EventKind::Retransmit(r) => r.flow = Some(flow),
            EventKind::Reset(r) => {
                r.flow = Some(flow);
                r.origin_why = sentence.into();
                r.kernel_reason = Some(sentence.into());
            }
            EventKind::Finding(f) => {
                f.summary = sentence.into();
                f.destination = Some("vault-7.corp.internal:8443".into());
                f.advice = vec![sentence.into()];
            }
            EventKind::Action(a) => {
                a.error = Some(sentence.into());
                a.note = Some(sentence.into());
                a.remote = Some("203.0.113.77:8443".into());
            }
            EventKind::End(end) => end.reason = sentence.into(),
            _ => {}
        }
    }
    let open = record(dir.path(), "open.jsonl", &events, None);
    let closed = record(dir.path(), "closed.jsonl", &events, Some(Redactor::new(&[])));
    let raw = std::fs::read_to_string(&open).unwrap();
    for s in secrets {
        assert!(raw.contains(s), "the plant {s} must be in the open recording, or this test proves nothing");
    }
    let mut outputs = vec![("recording", std::fs::read_to_string(&closed).unwrap())];
    for (path, redactor) in [(&open, Some(Redactor::new(&[]))), (&closed, None), (&closed, Some(Redactor::new(&[])))] {
        let report = make(path, redactor).unwrap();
        outputs.push(("markdown", markdown(&report)));
        outputs.push(("html", html(&report)));
        outputs.push(("json", json(&report).unwrap()));
    }
    for (name, text) in outputs {
        assert!(text.contains("Node.js") && text.contains("20.19.2"), "{name}: the client is what a report is about");
        for s in secrets {
            if let Some(at) = text.to_lowercase().find(&s.to_lowercase()) {
                panic!("{s} is in the {name}: {}", &text[at.saturating_sub(100)..(at + 100).min(text.len())]);
            }
        }
    }
    // What the user keeps is there.
    let kept = markdown(&make(&open, Some(Redactor::new(&["vault-7.corp.internal".into()]))).unwrap());
    assert!(kept.contains("vault-7.corp.internal") && !kept.contains("192.168.7.31"));
}

#[test]
fn a_report_of_very_much_still_fits_an_issue() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = vec![samples::hang().remove(0)];
    for n in 0..400u64 {
        for mut e in samples::hang().into_iter().skip(1) {
            let id = |id: &mut crate::model::SocketId| id.0 = id.0 * 1_000 + n;
            match &mut e.kind {
                EventKind::Socket(u) => {
                    u.id.as_mut().map(id);
                    u.remote_name = Some(format!("{}-{n}.example.com", "long".repeat(40)).into());
                }
                EventKind::Retransmit(r) => {
                    r.socket.as_mut().map(id);
                }
                EventKind::Sample(s) => id(&mut s.socket),
                _ => continue,
            }
            events.push(e);
        }
    }
    events.sort_by_key(|e| e.at);
    let path = record(dir.path(), "much.jsonl", &events, None);
    let text = markdown(&make(&path, None).unwrap());
    assert!(text.chars().count() < MAX_CHARS, "{}", text.chars().count());
    assert!(text.contains("### Counts") && text.contains("agent replay"), "the parts that must be there are");
}

/// A recording of the demo's network, made with `--redact`: a client whose idle connection the NAT forgets, a server that
/// closes idle connections, and one that aborts.
#[test]
fn a_real_recording_gives_its_causes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/cgnat.jsonl");
    let report = make(&path, None).unwrap();
    assert!(report.redacted && report.remarks.is_empty(), "{:?}", report.remarks);
    let codes: Vec<&str> = report.findings.iter().map(|f| f.code.name()).collect();
    for code in ["idle-path-dead", "stale-reuse", "peer-abort"] {
        assert!(codes.contains(&code), "{code} is not among {codes:?}");
    }
    let text = markdown(&report);
    assert!(text.contains("kernel | 6.18.44") && text.contains("python3"), "{text}");
    // Commands can be copied: they are code, not text with back quotes.
    assert!(text.contains(": `agent close --pid 10187 --dst ") && !text.contains("\\`agent"), "{text}");
    let page = html(&report);
    assert!(page.contains("<code>agent close --pid 10187 --dst ") && !page.contains('`'));
}
