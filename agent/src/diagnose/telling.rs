//! From the cases of a group to its finding: when it is worth a word, and what changed materially.

use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::group::{Group, Key, Scene};
use super::rule::{Body, Case, Rule, Tell};
use crate::model::{Evidence, Finding, FindingStatus, Mono};

/// Least time between two updates of one finding, unless its confidence changes.
pub const UPDATE_EVERY: Duration = Duration::from_secs(1);
/// A count moved materially when it changed by this part of itself: what was told last is never further off ...
const MATERIAL_PART: f64 = 0.1;
/// ... a span of time, many of which grow by themselves, by this part ...
const MATERIAL_PART_OF_TIME: f64 = 0.25;
/// ... and by at least this much: milliseconds of drift are no news.
const MATERIAL_STEP: f64 = 0.5;
/// Numbers that the clock moves by itself.
const CLOCKED: [&str; 3] = ["gives_up_in_s", "waiting_s", "idle_now_s"];
/// Evidence and sockets of a finding: what a person can read. More is counted in `numbers`.
const MAX_EVIDENCE: usize = 24;
const MAX_SOCKETS: usize = 256;

/// Says again what a group of cases comes to, and hands it out if a person or a tool would want to hear it.
pub(super) fn tell<R: Rule>(
    rule: &R,
    key: Key,
    group: &mut Group<R::Fact>,
    scene: &Scene<'_>,
    next_id: &mut u64,
    out: &mut Vec<Finding>,
) {
    let now = scene.now;
    group.dirty = false;
    group.later = None;
    group.told_at = now;
    let dest = scene.dests.get(key.dest);
    let body = if group.cases.is_empty() {
        None
    } else {
        let comm = group.owner.as_ref().map_or("", |o| &o.comm);
        let pid = group.owner.as_ref().map(|o| o.pid);
        let cx = Tell {
            now,
            since: group.since,
            shed: group.shed,
            t: scene.t,
            destination: &dest.name,
            dest,
            client: Client::recognise(comm, pid.and_then(|p| scene.clues.get(&p))),
            process: group.owner.as_ref().map(|o| format!("{} ({})", o.comm, o.pid)),
        };
        let cases: Vec<Case<R::Fact>> = group.cases.values().cloned().collect();
        rule.tell(&cx, &cases)
    };
    let Some(body) = body else {
        close(group, now, out);
        return;
    };
    if group.current.is_none() {
        *next_id += 1;
        group.id = *next_id;
        group.opened = now;
    }
    let finding = Arc::new(frame::<R>(key, group, &dest.name, body));
    group.current = Some(finding.clone());
    let announce = match &group.announced {
        None => true,
        Some(old) if old.confidence != finding.confidence => true,
        Some(old) if material(old, &finding) || end_moved(old, &finding, now.since(group.announced_at)) => {
            if now >= group.announced_at.plus(UPDATE_EVERY) {
                true
            } else {
                group.later = Some(group.announced_at.plus(UPDATE_EVERY));
                false
            }
        }
        Some(_) => false,
    };
    if announce {
        group.announced = Some(finding.clone());
        group.announced_at = now;
        out.push((*finding).clone());
    }
}

fn frame<R: Rule>(key: Key, group: &Group<R::Fact>, destination: &str, mut body: Body) -> Finding {
    body.number("sockets", (group.cases.len() + group.shed) as f64);
    let pid = key.pid.or(group.owner.as_ref().map(|o| o.pid));
    let mut evidence = body.evidence;
    evidence.extend(group.ended.iter().cloned());
    evidence.sort_by_key(|e| e.at);
    if evidence.len() > MAX_EVIDENCE {
        // The beginning explains the cause, the end shows where it stands.
        evidence.drain(MAX_EVIDENCE / 2..evidence.len() - MAX_EVIDENCE / 2);
    }
    Finding {
        id: group.id,
        code: R::CODE,
        confidence: body.confidence,
        status: FindingStatus::Open,
        opened: group.opened,
        sockets: group.cases.keys().take(MAX_SOCKETS).copied().collect(),
        pid,
        destination: Some(destination.to_owned()),
        summary: body.summary,
        evidence,
        rivals: body.rivals,
        advice: typeable(body.advice, pid),
        gives_up_in_s: body.gives_up_in_s,
        numbers: body.numbers,
    }
}

/// Advice with the process filled in, so that its commands can be typed as they stand.
fn typeable(advice: Vec<String>, pid: Option<u32>) -> Vec<String> {
    let Some(pid) = pid else { return advice };
    advice.into_iter().map(|a| a.replace("--pid PID", &format!("--pid {pid}"))).collect()
}

/// Closes a finding: it keeps all it said, with how it ended.
fn close<F>(group: &mut Group<F>, now: Mono, out: &mut Vec<Finding>) {
    let Some(last) = group.current.take() else { return };
    group.announced = None;
    let mut finding = (*last).clone();
    finding.status = FindingStatus::Closed;
    finding.gives_up_in_s = None;
    match group.ended.is_empty() {
        true => finding.evidence.push(Evidence { at: now, text: "no longer so".into() }),
        false => finding.evidence.extend(group.ended.drain(..).filter(|e| !last.evidence.contains(e))),
    }
    out.push(finding);
}

/// Whether the kernel will give up at another time than was told (a sysctl or TCP_USER_TIMEOUT was changed).
fn end_moved(old: &Finding, new: &Finding, since: Duration) -> bool {
    let (Some(told), Some(left)) = (old.gives_up_in_s, new.gives_up_in_s) else { return false };
    let moved = (left - (told - since.as_secs_f64()).max(0.0)).abs();
    moved >= MATERIAL_STEP && moved >= told * MATERIAL_PART_OF_TIME
}

/// Whether a person or a tool would want to hear of the difference.
fn material(old: &Finding, new: &Finding) -> bool {
    if old.sockets != new.sockets || old.pid != new.pid {
        return true;
    }
    new.numbers.iter().any(|(name, value)| {
        if CLOCKED.contains(name) {
            return false;
        }
        old.numbers.get(name).is_none_or(|was| {
            let moved = (value - was).abs();
            let part = if name.ends_with("_s") { MATERIAL_PART_OF_TIME } else { MATERIAL_PART };
            moved >= MATERIAL_STEP && moved >= was.abs() * part
        })
    })
}
