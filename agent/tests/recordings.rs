//! Runs of the end-to-end scenarios against a real kernel, kept as `recordings/CODE/SCENARIO.jsonl` and replayed through
//! today's rules without root: the finding must be the one that was made live, about the same sockets, with the same
//! numbers. `recordings/README.md` says how they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::commands::replay::{Player, thresholds};
use agent::model::{Code, Confidence, EventKind, Finding, FindingStatus, Mono};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

/// (expected code, file), in order.
fn recordings() -> Vec<(String, PathBuf)> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        let mut all: Vec<_> = std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        all.sort();
        all
    };
    let dirs = entries(&root()).into_iter().filter(|p| p.is_dir());
    dirs.flat_map(|d| {
        let code = d.file_name().expect("a name").to_string_lossy().into_owned();
        entries(&d).into_iter().map(move |f| (code.clone(), f))
    })
    .collect()
}

/// Findings open at each moment, and those that were told live, as the recording has them.
#[derive(Default)]
struct Story {
    now: Vec<(Mono, Arc<Finding>)>,
    live: Vec<(Mono, Finding)>,
}

fn replay(file: &Path) -> Story {
    let rules = thresholds(Some(&root().join("thresholds.toml"))).expect("thresholds");
    let mut player = Player::open(file, rules, None).unwrap_or_else(|e| panic!("{}: {e:#}", file.display()));
    let mut story = Story::default();
    while let Some(step) = player.step().unwrap_or_else(|e| panic!("{}: {e:#}", file.display())) {
        let at = player.now();
        if let Some(EventKind::Finding(f)) = step.event.map(|e| e.kind)
            && f.status == FindingStatus::Open
        {
            story.live.push((at, *f));
        }
        story.now.extend(player.open_findings().into_iter().map(|f| (at, f)));
    }
    assert!(player.stats().remarks().is_empty(), "{}: {:?}", file.display(), player.stats().remarks());
    story
}

/// A run looks at its sockets ten times a second and again when something happens; the replay looks at other moments.
const MOMENT: Duration = Duration::from_millis(300);

/// What differs between a finding told live and one of today.
fn differences(then: &Finding, now: &Finding) -> Vec<String> {
    let mut out = Vec::new();
    if then.sockets != now.sockets {
        out.push(format!("sockets {:?}; live {:?}", now.sockets, then.sockets));
    }
    if then.confidence != now.confidence {
        out.push(format!("{}; live {}", now.confidence.name(), then.confidence.name()));
    }
    // What only the clock moves is not told anew by every rule.
    for (name, was) in then.numbers.iter().filter(|(name, _)| **name != "idle_now_s") {
        match now.numbers.get(name) {
            Some(is) if (is - was).abs() <= was.abs() * 0.1 + MOMENT.as_secs_f64() => {}
            is => out.push(format!("{name} = {is:?}; live {was}")),
        }
    }
    out
}

fn compare(code: &str, file: &Path) -> Vec<String> {
    let story = replay(file);
    let mut errors = Vec::new();
    let told: BTreeSet<Code> = story.live.iter().map(|(_, f)| f.code).collect();
    for (_, f) in story.now.iter().filter(|(_, f)| f.confidence > Confidence::Possible && !told.contains(&f.code)) {
        errors.push(format!("{} ({}) was not said live: {}", f.code, f.confidence.name(), f.summary));
    }
    if code != "healthy" && !story.live.iter().any(|(_, f)| f.code.name() == code) {
        errors.push(format!("no {code} was said live"));
    }
    let mut other = Vec::new();
    let tellings = story.live.iter().filter(|(_, f)| f.code.name() == code);
    for (at, then) in tellings.clone() {
        let near =
            story.now.iter().filter(|(t, f)| f.code == then.code && *t <= at.plus(MOMENT) && t.plus(MOMENT) >= *at);
        match near.map(|(_, f)| differences(then, f)).min_by_key(Vec::len) {
            None => other.push(format!("no {code} in the replay when it was said live: {}", then.summary)),
            Some(d) if d.is_empty() => {}
            Some(d) => other.push(format!("{}: {}", then.summary, d.join(", "))),
        }
    }
    // While sockets join by the millisecond, two looks may find different numbers of them; not twice.
    if other.len() > 1 || other.len() == tellings.count() {
        errors.append(&mut other);
    }
    errors
}

#[test]
fn the_rules_say_today_what_they_said_live() {
    let mut failed = Vec::new();
    for (code, file) in recordings() {
        let name = file.strip_prefix(root()).expect("below").display().to_string();
        failed.extend(compare(&code, &file).into_iter().map(|e| format!("{name}: {e}")));
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// At least two recordings of every code, of both address families.
#[test]
fn every_code_is_recorded() {
    let mut count: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let all = recordings();
    for (code, file) in &all {
        let v6 = file.to_string_lossy().contains("_v6");
        count.entry(code).or_default()[usize::from(v6)] += 1;
    }
    for code in Code::ALL {
        let [v4, v6] = count.get(code.name()).copied().unwrap_or_default();
        assert!(v4 >= 1 && v6 >= 1 && v4 + v6 >= 2, "{code}: {v4} of IPv4, {v6} of IPv6");
    }
    assert!(count.contains_key("healthy"), "{count:?}");
}
