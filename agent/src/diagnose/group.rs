//! One rule at work: its cases by process and destination, and the findings that they make.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::client::Clue;
use super::destination::{DestinationId, Destinations};
use super::rule::{Case, Concern, Look, Rule};
use super::telling::{UPDATE_EVERY, tell};
use super::thresholds::Thresholds;
use crate::model::{Code, CookieHash, Evidence, Finding, Mono, Owner, SocketId};
use crate::state::Socket;

/// Least time between two tellings of a finding whose sentence counts with the clock.
const RETELL_EVERY: Duration = Duration::from_secs(1);
/// The same for findings of many sockets, which cost more to tell.
const RETELL_MANY_EVERY: Duration = Duration::from_secs(10);
const MANY: usize = 64;
/// Cases of one finding, and of one rule, from which on the oldest gives way to the next if it is over: of a storm the
/// latest show what it is like, and all are counted. What still lasts does not give way; the sockets in the table bound
/// it.
const MAX_CASES: usize = 256;
const MAX_MEMBERS: usize = 16_384;
/// In a storm one case in this time is kept of a finding that has so many already, and the others are counted: taking
/// each in, only to give way to the next, was nearly a third of the instructions of all rules.
const KEEP_EVERY: Duration = Duration::from_millis(10);
/// How many of the oldest are looked at for one that is over.
const LOOK_FOR_OVER: usize = 16;
/// Endings kept per finding.
const MAX_ENDED: usize = 8;

/// What a finding is about: one per process and destination, as the rule asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub pid: Option<u32>,
    pub dest: DestinationId,
}

pub(super) struct Group<F> {
    pub id: u64,
    /// When the first case came.
    pub since: Mono,
    pub opened: Mono,
    pub cases: BTreeMap<SocketId, Case<F>>,
    /// How many cases gave way to later ones.
    pub shed: usize,
    /// When a case was last taken in.
    pub kept_at: Mono,
    pub ended: VecDeque<Evidence>,
    /// As told last, whether or not it was worth an update.
    pub current: Option<Arc<Finding>>,
    /// As announced last.
    pub announced: Option<Arc<Finding>>,
    pub announced_at: Mono,
    pub told_at: Mono,
    pub owner: Option<Owner>,
    /// Its cases changed since it was told last.
    pub dirty: bool,
    /// A telling or an update that the rate limits hold back, and until when.
    pub later: Option<Mono>,
}

impl<F> Group<F> {
    fn new(now: Mono) -> Self {
        Self {
            id: 0,
            since: now,
            opened: now,
            cases: BTreeMap::new(),
            shed: 0,
            kept_at: now,
            ended: VecDeque::new(),
            current: None,
            announced: None,
            announced_at: Mono(0),
            told_at: Mono(0),
            owner: None,
            dirty: true,
            later: None,
        }
    }

    /// Whether one more case that is over would only stand for the next.
    fn is_crowded(&self, now: Mono) -> bool {
        self.cases.len() >= MAX_CASES && now < self.kept_at.plus(KEEP_EVERY)
    }

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
    fn code(&self) -> Code;
    fn concern(&self) -> Concern;
    fn judges(&self, code: Code) -> bool;
    /// Looks at one socket; `had` tells whether it is a case already. Returns whether it is one now. Sockets whose cases
    /// gave way to it go to `shed`: they are not to be looked at again by this rule.
    fn examine(&mut self, cx: &Look<'_>, s: &Socket, dest: DestinationId, had: bool, shed: &mut Vec<SocketId>) -> bool;
    fn due(&self, cx: &Look<'_>, s: &Socket) -> Option<Mono>;
    /// The socket has left the table. Returns until when its case stays, if it does.
    fn gone(&mut self, now: Mono, id: SocketId, t: &Thresholds) -> Option<Mono>;
    /// Tells again what changed, and hands out what opened, changed materially or closed. Returns when some finding
    /// wants to be told although nothing happens to its sockets.
    fn refresh(&mut self, scene: &Scene<'_>, next_id: &mut u64, out: &mut Vec<Finding>) -> Option<Mono>;
    fn open(&self, out: &mut Vec<Arc<Finding>>);
}

pub struct Runner<R: Rule> {
    rule: R,
    groups: BTreeMap<Key, Group<R::Fact>>,
    member: HashMap<SocketId, Key, CookieHash>,
    /// Members in the order in which they came, those that left among them until there are too many.
    arrivals: VecDeque<SocketId>,
    /// Some group is dirty.
    dirty: bool,
    /// The earliest time at which a group wants to be told although nothing happens.
    next: Option<Mono>,
}

impl<R: Rule> Runner<R> {
    pub fn new(rule: R) -> Self {
        Self {
            rule,
            groups: BTreeMap::new(),
            member: HashMap::default(),
            arrivals: VecDeque::new(),
            dirty: false,
            next: None,
        }
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

    /// Makes room in `group` and in the whole rule.
    fn shed(&mut self, key: Key, t: &Thresholds, out: &mut Vec<SocketId>) {
        let over = |c: &Case<R::Fact>| self.rule.holds_until(&c.fact, t).is_some();
        let full = self.groups.get(&key).filter(|g| g.cases.len() > MAX_CASES);
        let oldest = match full {
            Some(group) => group.cases.values().take(LOOK_FOR_OVER).find(|c| over(c)).map(|c| (c.socket, key)),
            None if self.member.len() > MAX_MEMBERS => {
                let members = self.arrivals.iter().filter_map(|id| Some((*id, *self.member.get(id)?)));
                let is_over =
                    |(id, key): &(SocketId, Key)| self.groups.get(key).and_then(|g| g.cases.get(id)).is_some_and(over);
                members.take(LOOK_FOR_OVER).find(is_over)
            }
            None => None,
        };
        let Some((id, key)) = oldest else { return };
        self.member.remove(&id);
        if let Some(group) = self.groups.get_mut(&key) {
            group.cases.remove(&id);
            group.shed += 1;
            group.dirty = true;
        }
        out.push(id);
    }

    /// Takes those that left out of the queue: the oldest at once, the others when they are most of it.
    fn clear_arrivals(&mut self) {
        while self.arrivals.front().is_some_and(|id| !self.member.contains_key(id)) {
            self.arrivals.pop_front();
        }
        if self.arrivals.len() > 2 * self.member.len() + MANY {
            self.arrivals.retain(|id| self.member.contains_key(id));
        }
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
    fn code(&self) -> Code {
        R::CODE
    }

    fn concern(&self) -> Concern {
        R::CONCERN
    }

    fn judges(&self, code: Code) -> bool {
        R::judges(code)
    }

    fn examine(&mut self, cx: &Look<'_>, s: &Socket, dest: DestinationId, had: bool, shed: &mut Vec<SocketId>) -> bool {
        let Some(fact) = self.rule.look(cx, s) else {
            if had {
                self.remove(s.id, cx.now, Some(s));
            }
            return false;
        };
        let key = Key { pid: if R::PER_PROCESS { s.pid() } else { None }, dest };
        if !had
            && let Some(group) = self.groups.get_mut(&key)
            && group.is_crowded(cx.now)
            && self.rule.holds_until(&fact, cx.t).is_some()
        {
            group.shed += 1;
            group.dirty = true;
            self.dirty = true;
            shed.push(s.id);
            return false;
        }
        if had
            && let Some(old) = self.member.get(&s.id).copied()
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
        let new = self.member.insert(s.id, key).is_none();
        if new {
            self.arrivals.push_back(s.id);
            self.clear_arrivals();
        }
        let group = self.groups.entry(key).or_insert_with(|| Group::new(cx.now));
        if group.owner.is_none() {
            group.owner = s.owners.iter().min_by_key(|o| o.pid).cloned();
        }
        group.cases.insert(s.id, Case { socket: s.id, port: s.flow.map(|f| f.local.port()), fact });
        if new {
            group.kept_at = cx.now;
        }
        group.dirty = true;
        self.dirty = true;
        if group.cases.len() > MAX_CASES || self.member.len() > MAX_MEMBERS {
            self.shed(key, cx.t, shed);
        }
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

    fn refresh(&mut self, scene: &Scene<'_>, next_id: &mut u64, out: &mut Vec<Finding>) -> Option<Mono> {
        let now = scene.now;
        if !self.dirty && self.next.is_none_or(|t| t > now) {
            return self.next;
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
        self.next
    }

    fn open(&self, out: &mut Vec<Arc<Finding>>) {
        out.extend(self.groups.values().filter_map(|g| g.current.clone()));
    }
}

fn pause(cases: usize) -> Duration {
    if cases > MANY { RETELL_MANY_EVERY } else { RETELL_EVERY }
}
