//! One rule at work: its cases by process and destination, and the findings that they make.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Clue};
use super::destination::{DestinationId, Destinations};
use super::rule::{Body, Case, Look, Rule, Tell};
use super::thresholds::Thresholds;
use crate::model::{CookieHash, Evidence, Finding, FindingStatus, Mono, Owner, SocketId};
use crate::state::Socket;

/// Least time between two updates of one finding, unless its confidence changes.
const UPDATE_EVERY: Duration = Duration::from_secs(1);
/// Least time between two tellings of a finding whose sentence counts with the clock.
const RETELL_EVERY: Duration = Duration::from_secs(1);
/// The same for findings of many sockets, which cost more to tell.
const RETELL_MANY_EVERY: Duration = Duration::from_secs(10);
const MANY: usize = 64;
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
/// Endings kept per finding.
const MAX_ENDED: usize = 8;

/// What a finding is about: one per process and destination, as the rule asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub pid: Option<u32>,
    pub dest: DestinationId,
}

struct Group<F> {
    id: u64,
    opened: Mono,
    cases: BTreeMap<SocketId, Case<F>>,
    ended: VecDeque<Evidence>,
    /// As told last, whether or not it was worth an update.
    current: Option<Arc<Finding>>,
    /// As announced last.
    announced: Option<Arc<Finding>>,
    announced_at: Mono,
    told_at: Mono,
    owner: Option<Owner>,
    /// Its cases changed since it was told last.
    dirty: bool,
    /// A telling or an update that the rate limits hold back, and until when.
    later: Option<Mono>,
}

impl<F> Group<F> {
    /// When it wants to be told although nothing happens to its sockets.
    fn wants(&self, clocked: bool) -> Option<Mono> {
        let retell = (clocked && self.current.is_some()).then(|| self.told_at.plus(pause(self.cases.len())));
        match (self.later, retell) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Until when a large finding rests: each telling goes through all of its cases.
    fn rests_until(&self, now: Mono) -> Option<Mono> {
        let until = self.told_at.plus(UPDATE_EVERY);
        (self.cases.len() > MANY && self.current.is_some() && now < until).then_some(until)
    }
}

/// What refreshing needs to know besides the cases.
pub struct Scene<'a> {
    pub now: Mono,
    pub t: &'a Thresholds,
    pub dests: &'a Destinations,
    pub clues: &'a HashMap<u32, Clue>,
}

/// A rule without its types, for the engine.
pub trait AnyRule: Send {
    #[cfg(test)]
    fn code(&self) -> crate::model::Code;
    /// Looks at one socket; `had` tells whether it is a case already. Returns whether it is one now.
    fn examine(&mut self, cx: &Look<'_>, s: &Socket, dest: DestinationId, had: bool) -> bool;
    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono>;
    /// The socket has left the table. Returns until when its case stays, if it does.
    fn gone(&mut self, now: Mono, id: SocketId, t: &Thresholds) -> Option<Mono>;
    /// Tells again what changed, and hands out what opened, changed materially or closed.
    fn refresh(&mut self, scene: &Scene<'_>, next_id: &mut u64, out: &mut Vec<Finding>);
    fn open(&self, out: &mut Vec<Arc<Finding>>);
    /// When some finding wants to be told although nothing happens to its sockets.
    fn next_telling(&self) -> Option<Mono>;
}

pub struct Runner<R: Rule> {
    rule: R,
    groups: BTreeMap<Key, Group<R::Fact>>,
    member: HashMap<SocketId, Key, CookieHash>,
    /// Some group is dirty.
    dirty: bool,
    /// The earliest time at which a group wants to be told although nothing happens.
    next: Option<Mono>,
}

impl<R: Rule> Runner<R> {
    pub fn new(rule: R) -> Self {
        Self { rule, groups: BTreeMap::new(), member: HashMap::default(), dirty: false, next: None }
    }

    fn remove(&mut self, id: SocketId, now: Mono, socket: Option<&Socket>) {
        let Some(key) = self.member.remove(&id) else { return };
        let Some(group) = self.groups.get_mut(&key) else { return };
        if let Some(case) = group.cases.remove(&id) {
            let text = format!("{}: {}", case.name(), self.rule.outcome(now, &case.fact, socket));
            if group.ended.len() == MAX_ENDED {
                group.ended.pop_front();
            }
            group.ended.push_back(Evidence { at: now, text });
        }
        group.dirty = true;
        self.dirty = true;
    }

    /// The process became known after the case was opened: the group goes with it rather than closing and opening
    /// again under another number.
    fn rename(&mut self, old: Key, new: Key) {
        if old.pid.is_none()
            && !self.groups.contains_key(&new)
            && let Some(group) = self.groups.remove(&old)
        {
            for id in group.cases.keys() {
                self.member.insert(*id, new);
            }
            self.groups.insert(new, group);
        }
    }
}

impl<R: Rule + Send> AnyRule for Runner<R>
where
    R::Fact: Send,
{
    #[cfg(test)]
    fn code(&self) -> crate::model::Code {
        R::CODE
    }

    fn examine(&mut self, cx: &Look<'_>, s: &Socket, dest: DestinationId, had: bool) -> bool {
        let Some(fact) = self.rule.look(cx, s) else {
            if had {
                self.remove(s.id, cx.now, Some(s));
            }
            return false;
        };
        let key = Key { pid: if R::PER_PROCESS { s.pid() } else { None }, dest };
        if let Some(old) = self.member.get(&s.id).copied()
            && old != key
        {
            self.rename(old, key);
            if self.member.get(&s.id) != Some(&key) {
                if let Some(group) = self.groups.get_mut(&old) {
                    group.cases.remove(&s.id);
                    group.dirty = true;
                }
                self.member.remove(&s.id);
            }
        }
        self.member.insert(s.id, key);
        let group = self.groups.entry(key).or_insert_with(|| Group {
            id: 0,
            opened: cx.now,
            cases: BTreeMap::new(),
            ended: VecDeque::new(),
            current: None,
            announced: None,
            announced_at: Mono(0),
            told_at: Mono(0),
            owner: None,
            dirty: true,
            later: None,
        });
        if group.owner.is_none() {
            group.owner = s.owners.iter().min_by_key(|o| o.pid).cloned();
        }
        group.cases.insert(s.id, Case { socket: s.id, port: s.flow.map(|f| f.local.port()), fact });
        group.dirty = true;
        self.dirty = true;
        true
    }

    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono> {
        self.rule.due(cx, s)
    }

    fn gone(&mut self, now: Mono, id: SocketId, t: &Thresholds) -> Option<Mono> {
        let key = self.member.get(&id)?;
        let fact = &self.groups.get(key)?.cases.get(&id)?.fact;
        if let Some(until) = self.rule.holds_until(fact, t)
            && until > now
        {
            return Some(until);
        }
        self.remove(id, now, None);
        None
    }

    fn refresh(&mut self, scene: &Scene<'_>, next_id: &mut u64, out: &mut Vec<Finding>) {
        let now = scene.now;
        if !self.dirty && self.next.is_none_or(|t| t > now) {
            return;
        }
        self.dirty = false;
        self.next = None;
        let (rule, groups, next) = (&self.rule, &mut self.groups, &mut self.next);
        let clocked = rule.clocked();
        groups.retain(|key, group| {
            if group.dirty || group.wants(clocked).is_some_and(|t| t <= now) {
                match group.rests_until(now) {
                    Some(until) => group.later = Some(until),
                    None => tell(rule, *key, group, scene, next_id, out),
                }
            }
            if let Some(at) = group.wants(clocked) {
                *next = Some(next.map_or(at, |n| n.min(at)));
            }
            !group.cases.is_empty()
        });
    }

    fn open(&self, out: &mut Vec<Arc<Finding>>) {
        out.extend(self.groups.values().filter_map(|g| g.current.clone()));
    }

    fn next_telling(&self) -> Option<Mono> {
        self.next
    }
}

fn pause(cases: usize) -> Duration {
    if cases > MANY { RETELL_MANY_EVERY } else { RETELL_EVERY }
}

fn tell<R: Rule>(
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
    body.number("sockets", group.cases.len() as f64);
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
