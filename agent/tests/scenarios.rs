//! Golden scenarios: each file in `tests/scenarios` is played at each of its timings; the top finding's code, its
//! sockets and its numbers (within 10 %) must be those the file expects. docs/CONFUSION.md shows the whole table.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use agent::model::{Code, Confidence, Finding};
use support::script::{Script, Timing, parse};
use support::sim::Sim;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn scripts() -> Vec<(String, Script)> {
    let mut all: Vec<(String, Script)> = std::fs::read_dir(root().join("tests/scenarios"))
        .expect("tests/scenarios")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|x| x == "jsonl"))
        .map(|p| {
            let name = p.file_stem().expect("a name").to_string_lossy().into_owned();
            let script = parse(&name, &std::fs::read_to_string(&p).expect("readable"));
            (name, script)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!all.is_empty());
    all
}

struct Outcome {
    open: Vec<Arc<Finding>>,
    announced: Vec<Finding>,
    errors: Vec<String>,
}

fn run(script: &Script, timing: &Timing) -> Outcome {
    let head = &script.head;
    let mut sim = Sim::new(head);
    sim.play(&script.steps, timing, head.look_at.value(timing));
    let open = sim.engine.open();
    let mut errors = Vec::new();
    match (&head.expect, open.first()) {
        (None, _) => {
            for f in sim.announced.iter().filter(|f| f.confidence > Confidence::Possible) {
                if !head.also.iter().any(|c| c == f.code.name()) {
                    errors.push(format!("a false alarm: {} {}: {}", f.code, f.confidence.name(), f.summary));
                }
            }
        }
        (Some(code), None) => errors.push(format!("no finding; expected {code}")),
        (Some(code), Some(top)) => {
            if top.code.name() != code {
                errors.push(format!("top finding {} ({}); expected {code}", top.code, top.summary));
            } else {
                check(head, timing, &sim, top, &mut errors);
            }
            for f in &open {
                if f.code.name() != code && !head.also.iter().any(|c| c == f.code.name()) {
                    errors.push(format!("beside it {} {}: {}", f.code, f.confidence.name(), f.summary));
                }
            }
        }
    }
    for f in &sim.announced {
        sound(f, &mut errors);
    }
    Outcome { open, announced: sim.announced, errors }
}

fn check(head: &support::script::Head, timing: &Timing, sim: &Sim<'_>, top: &Finding, errors: &mut Vec<String>) {
    if let Some(c) = &head.confidence
        && top.confidence.name() != c
    {
        errors.push(format!("confidence {}; expected {c}: {}", top.confidence.name(), top.summary));
    }
    let want: Vec<_> = head.sockets.iter().map(|n| sim.id(n)).collect();
    if top.sockets != want {
        errors.push(format!("sockets {:?}; expected {:?}", top.sockets, want));
    }
    for (name, expr) in &head.numbers {
        let want = expr.value(timing);
        match top.numbers.get(name.as_str()) {
            None => errors.push(format!("no number {name}: {:?}", top.numbers)),
            Some(got) if (got - want).abs() <= want.abs() * 0.1 + 1e-9 => {}
            Some(got) => errors.push(format!("{name} = {got:.3}; expected {want:.3}: {}", top.summary)),
        }
    }
}

/// What holds of every finding.
fn sound(f: &Finding, errors: &mut Vec<String>) {
    if f.evidence.is_empty() {
        errors.push(format!("{} without evidence", f.code));
    }
    if f.rivals.is_empty() || f.advice.is_empty() {
        errors.push(format!("{} without rivals or advice", f.code));
    }
    if f.evidence.windows(2).any(|w| w[0].at > w[1].at) && f.status == agent::model::FindingStatus::Open {
        errors.push(format!("{}: evidence out of order", f.code));
    }
    for text in std::iter::once(&f.summary).chain(&f.advice).chain(&f.rivals) {
        if !text.ends_with('.') || text.contains("  ") {
            errors.push(format!("{}: not a sentence: {text}", f.code));
        }
    }
}

#[test]
fn every_scenario_names_its_cause() {
    let mut failed = Vec::new();
    for (name, script) in scripts() {
        assert!(script.head.timings.len() >= 3, "{name}: at least three timings");
        for timing in &script.head.timings {
            let outcome = run(&script, timing);
            for e in outcome.errors {
                failed.push(format!("{name} ({}) {timing:?}: {e}", script.head.scenario));
            }
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn every_code_has_two_scenarios() {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (_, script) in scripts() {
        *count.entry(script.head.expect.unwrap_or("healthy".into())).or_default() += 1;
    }
    for code in Code::ALL {
        assert!(count.get(code.name()).copied().unwrap_or(0) >= 2, "{code}: {count:?}");
    }
    assert!(count["healthy"] >= 5, "{count:?}");
}

/// No more updates than a person could read: a finding that only ages says nothing.
#[test]
fn findings_do_not_chatter() {
    for (name, script) in scripts() {
        for timing in &script.head.timings {
            let outcome = run(&script, timing);
            let seconds = script.head.look_at.value(timing);
            for id in outcome.announced.iter().map(|f| f.id).collect::<std::collections::BTreeSet<_>>() {
                let n = outcome.announced.iter().filter(|f| f.id == id).count();
                assert!(n as f64 <= 16.0 + seconds / 10.0, "{name} {timing:?}: {n} lines of finding {id}");
            }
            assert!(outcome.open.len() <= 4, "{name}");
        }
    }
}

/// The table of scenarios and codes. `UPDATE=1` writes the file.
#[test]
fn the_confusion_table_is_current() {
    let mut text = String::from(
        "# Scenarios and the findings they open\n\nMade by `cargo test -p agent --test scenarios` (with `UPDATE=1` it rewrites this file) from the scripts in\n`agent/tests/scenarios`, each at all of its timings. **T**: top finding at every timing; t: top at some; +: open beside it;\nlower-case p after it: no more than `possible`. An empty row opens nothing.\n\n",
    );
    let codes = Code::ALL;
    text.push_str("| scenario |");
    codes.iter().for_each(|c| text.push_str(&format!(" {c} |")));
    text.push_str("\n|---|");
    codes.iter().for_each(|_| text.push_str(":-:|"));
    text.push('\n');
    for (name, script) in scripts() {
        let outcomes: Vec<Outcome> = script.head.timings.iter().map(|t| run(&script, t)).collect();
        text.push_str(&format!("| {name} |"));
        for code in codes {
            let tops = outcomes.iter().filter(|o| o.open.first().is_some_and(|f| f.code == *code)).count();
            let open: Vec<Confidence> =
                outcomes.iter().flat_map(|o| o.open.iter().filter(|f| f.code == *code).map(|f| f.confidence)).collect();
            let mark = match (tops, open.iter().max()) {
                (_, None) => String::new(),
                (n, Some(c)) => {
                    let mark = if n == outcomes.len() {
                        "**T**"
                    } else if n > 0 {
                        "t"
                    } else {
                        "+"
                    };
                    format!("{mark}{}", if *c == Confidence::Possible { "p" } else { "" })
                }
            };
            text.push_str(&format!(" {mark} |"));
        }
        text.push('\n');
    }
    println!("{text}");
    let path = root().join("../docs/CONFUSION.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("docs")).expect("docs/");
        std::fs::write(&path, &text).expect("writable");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "docs/CONFUSION.md is not current: run this test with UPDATE=1 and look at the difference");
}
