//! The engine: looks at what changed and at what is due, and keeps the findings.
//!
//! What it costs is bounded by what happens: a healthy connection that moved data takes one hash look-up and a few
//! comparisons; rules run only on sockets that show something which concerns them, or whose time has come. Times are
//! kept in a queue, so that nothing is ever scanned. What it remembers is bounded by the table of sockets and by the
//! cases that the rules keep, however many sockets come and go.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::client::Clue;
use super::destination::{Destination, DestinationId, Destinations, IdleDeath, Learned};
use super::group::Scene;
use super::reset::{self, IDLE_AT_FIN, ResetVerdict};
use super::rule::Look;
use super::ruleset::RuleSet;
use super::stuck;
use super::thresholds::Thresholds;
use crate::model::{Code, Confidence, CookieHash, Finding, Mono, SocketId, TcpState};
use crate::state::{Socket, Table};

/// Every socket is looked at this often at least, so that the ones that left the table are noticed.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Processes whose command line is remembered.
const MAX_CLUES: usize = 65_536;
/// Entries of the queue per remembered socket from which on it is made anew: each new time leaves an old entry behind,
/// which only its own time would take away.
const QUEUE_PER_MEMO: usize = 4;
const QUEUE_LEAST: usize = 1_024;

#[derive(Clone, Copy, Debug, Default)]
struct Memo {
    dest: Option<DestinationId>,
    /// Whether `dest` was made with the remote name.
    named: bool,
    /// One bit per rule that holds this socket as a case, and per rule whose case of it gave way to later ones.
    cases: u32,
    shed: u32,
    /// It left the table; only its cases stay for a while.
    gone: bool,
    /// It is counted among its destination's open ones.
    open: bool,
    due: Mono,
    /// The connect was counted, or was before the agent's time.
    connected: bool,
    /// The last reset that was counted for its destination.
    reset_at: Option<Mono>,
    /// This socket's FIN was counted as a sample of the server's idle limit.
    fin_counted: Option<Mono>,
}

pub struct Engine {
    t: Thresholds,
    /// The shortest silence of a healthy connection that a rule has something to say of.
    silence: Duration,
    rules: RuleSet,
    memos: HashMap<SocketId, Memo, CookieHash>,
    due: BinaryHeap<Reverse<(Mono, SocketId)>>,
    dests: Destinations,
    clues: HashMap<u32, Clue>,
    /// Sockets to look at again because a neighbour changed.
    again: Vec<SocketId>,
    /// Sockets whose cases gave way to that of the one that is looked at, and to which rule's; empty between looks.
    gave_way: Vec<(SocketId, u32)>,
    /// The same of the rule that is asked.
    shed: Vec<SocketId>,
    /// The rules have looked at something since the findings were told last.
    worked: bool,
    next_id: u64,
    next_telling: Option<Mono>,
}

impl Engine {
    pub fn new(t: Thresholds) -> Self {
        Self {
            silence: t.app_waiting.min(t.no_keepalive_idle),
            t,
            rules: RuleSet::all(),
            memos: HashMap::default(),
            due: BinaryHeap::new(),
            dests: Destinations::default(),
            clues: HashMap::new(),
            again: Vec::new(),
            gave_way: Vec::new(),
            shed: Vec::new(),
            worked: false,
            next_id: 0,
            next_telling: None,
        }
    }

    /// Tells the engine what a process is, so that advice can name its own settings. Without it, `comm` decides.
    pub fn know_process(&mut self, pid: u32, clue: Clue) {
        if self.clues.len() < MAX_CLUES || self.clues.contains_key(&pid) {
            self.clues.insert(pid, clue);
        }
    }

    /// [`Self::look`], then [`Self::tell`].
    pub fn evaluate(&mut self, now: Mono, table: &Table, changed: &[SocketId]) -> Vec<Finding> {
        self.look(now, table, changed);
        self.tell(now, table)
    }

    /// Looks at the sockets that changed since the last call, or left the table: to be called before what changed can
    /// have left it. `now` must not go back.
    pub fn look(&mut self, now: Mono, table: &Table, changed: &[SocketId]) {
        self.dests.learn(table);
        for id in changed {
            self.worked |= match table.get(*id) {
                Some(s) => self.changed(now, s),
                None => self.gone(now, *id),
            };
        }
    }

    /// Looks at the sockets whose time has come; returns the findings that opened, changed materially or closed since
    /// the last call, the most important first. `now` must not go back.
    pub fn tell(&mut self, now: Mono, table: &Table) -> Vec<Finding> {
        let mut worked = std::mem::take(&mut self.worked);
        while let Some(Reverse((at, id))) = self.due.peek().copied() {
            if at > now {
                break;
            }
            self.due.pop();
            if self.memos.get(&id).is_none_or(|m| m.due != at) {
                continue;
            }
            worked = true;
            match table.get(id) {
                Some(s) => self.examine(now, s),
                None => {
                    self.gone(now, id);
                }
            }
        }
        // One round is enough: a second look changes nothing that the neighbours see.
        for id in std::mem::take(&mut self.again) {
            if let Some(s) = table.get(id) {
                self.examine(now, s);
            }
        }
        self.again.clear();
        if !worked && self.next_telling.is_none_or(|t| t > now) {
            return Vec::new();
        }
        let mut out = Vec::new();
        let scene = Scene { now, t: &self.t, dests: &self.dests, clues: &self.clues };
        self.rules.refresh(&scene, &mut self.next_id, &mut out);
        self.next_telling = self.rules.next_telling();
        out.sort_by_key(|f| Reverse(rank(f)));
        out
    }

    /// Open findings, the most important first, as of the last [`Self::evaluate`].
    pub fn open(&self) -> Vec<Arc<Finding>> {
        let mut all = self.rules.open();
        all.sort_by_key(|f| (Reverse(rank(f)), f.opened, f.id));
        all
    }

    /// What was learned of the destinations' idle limits: name and limits, in no order.
    pub fn learned(&self) -> impl Iterator<Item = (&str, &Learned)> {
        self.dests.iter().filter(|d| d.learned != Learned::default()).map(|d| (&*d.name, &d.learned))
    }

    /// When [`Self::evaluate`] has something to do although nothing changes; `None` = not before something does.
    pub fn next_due(&self) -> Option<Mono> {
        let due = self.due.peek().map(|Reverse((at, _))| *at);
        match (due, self.next_telling) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The quick way for a socket that shows nothing; true if the rules had to look.
    fn changed(&mut self, now: Mono, s: &Socket) -> bool {
        if let Some(m) = self.memos.get(&s.id)
            && m.cases == 0
            && m.connected
            && quiet(s)
            && let Some(dest) = m.dest
            && m.named == s.remote_name.is_some()
        {
            let m = *m;
            let d = self.dests.get_mut(dest);
            d.last_heard = d.last_heard.max(s.activity.last_heard);
            // From now on it may fall silent: the rules of time must look before the housekeeping does.
            let silence = d.learned.path_killed().map_or(self.silence, |k| k.min(self.silence));
            let last = s.activity.last_heard.max(s.activity.last_sent).unwrap_or(now);
            let due = last.plus(silence).max(now);
            if due < m.due {
                self.schedule(s.id, m, due);
            }
            return false;
        }
        self.examine(now, s);
        true
    }

    fn examine(&mut self, now: Mono, s: &Socket) {
        let mut memo = self.memos.get(&s.id).copied().unwrap_or_default();
        self.place(s, &mut memo);
        let Some(dest_id) = memo.dest else {
            // Without an address there is nobody to speak of; an event or a dump will bring it.
            self.schedule(s.id, memo, now.plus(HOUSEKEEPING));
            return;
        };
        let verdict = reset::judge(s, &self.t);
        if !memo.connected
            && let (Some(at), Some(pid), Some(flow)) = (s.activity.established_at, s.pid(), s.flow)
        {
            self.dests.note_port(pid, flow.remote.port(), at);
        }
        let stuck = self.meet(now, s, &mut memo, dest_id, verdict.as_ref());
        let port_connected = match (s.pid(), s.flow) {
            (Some(pid), Some(flow)) => self.dests.port_connected(pid, flow.remote.port()),
            _ => None,
        };
        let cx = Look {
            now,
            t: &self.t,
            port_connected,
            dest: self.dests.get(dest_id),
            reset: verdict.as_ref(),
            stuck: stuck.as_ref(),
        };
        let mut due = now.plus(HOUSEKEEPING);
        let mut left = (self.rules.asked.about(s, verdict.as_ref(), stuck.is_some()) | memo.cases) & !memo.shed;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let (is_case, again) = self.rules.examine(bit, &cx, s, dest_id, memo.cases & bit != 0, &mut self.shed);
            if is_case {
                memo.cases |= bit;
            } else {
                memo.cases &= !bit;
            }
            if let Some(at) = again
                && at > now
            {
                due = due.min(at);
            }
            self.gave_way.extend(self.shed.drain(..).map(|id| (id, bit)));
        }
        while let Some((id, bit)) = self.gave_way.pop() {
            if id == s.id {
                (memo.cases, memo.shed) = (memo.cases & !bit, memo.shed | bit);
            } else if let Some(m) = self.memos.get_mut(&id) {
                (m.cases, m.shed) = (m.cases & !bit, m.shed | bit);
                if m.gone && m.cases == 0 {
                    self.forget(id);
                }
            }
        }
        self.schedule(s.id, memo, due);
    }

    /// Puts the socket with its destination.
    fn place(&mut self, s: &Socket, memo: &mut Memo) {
        let named = s.remote_name.is_some();
        if memo.dest.is_some() && memo.named == named {
            return;
        }
        let Some(id) = self.dests.intern(s) else { return };
        if memo.dest == Some(id) {
            memo.named = named;
            return;
        }
        if let Some(old) = memo.dest {
            leave(self.dests.get_mut(old), s.id, std::mem::take(&mut memo.open));
        }
        self.dests.get_mut(id).sockets += 1;
        memo.dest = Some(id);
        memo.named = named;
    }

    /// Tells the destination what this socket shows, and decides how the socket is stuck in view of the others.
    fn meet(
        &mut self,
        now: Mono,
        s: &Socket,
        memo: &mut Memo,
        dest: DestinationId,
        verdict: Option<&ResetVerdict>,
    ) -> Option<stuck::Stuck> {
        let a = &s.activity;
        let d = self.dests.get_mut(dest);
        d.last_heard = d.last_heard.max(a.last_heard);
        if memo.open == s.is_closed() {
            memo.open = !memo.open;
            d.open = if memo.open { d.open + 1 } else { d.open.saturating_sub(1) };
        }
        if !memo.connected {
            memo.connected = a.established_at.is_some() || s.state == Some(TcpState::Established);
            if let Some(at) = a.established_at {
                d.note_connect(at);
            }
        }
        if let Some(survived) = a.longest_survived_idle {
            d.learned.has_survived(survived);
        }
        if let (Some(fin), Some(idle)) = (a.fin_received, a.idle_at_fin)
            && memo.fin_counted != Some(fin)
            && idle >= IDLE_AT_FIN
            && !a.outstanding_at_fin
            && a.app_closed_at.is_none_or(|c| c > fin)
        {
            memo.fin_counted = Some(fin);
            d.learned.server_closed(idle);
        }
        if let Some(v) = verdict
            && memo.reset_at != Some(v.at)
        {
            let again = memo.reset_at.replace(v.at).is_some();
            d.note_reset(v.at, v.code, again, self.t.wave_window);
            if v.code == Code::IdlePathReset
                && let Some(idle) = v.idle
            {
                d.learned.killed(idle);
            }
        }
        let stuck = stuck::judge(now, s, &self.t);
        let brief = stuck.as_ref().filter(|x| x.gave_up_at.is_none()).map(|x| x.brief(&self.t, s.tcp.rtt));
        if d.set_stuck(s.id, brief) {
            self.again.extend(d.stuck.keys().filter(|id| **id != s.id));
        }
        let stuck = stuck.map(|x| stuck::settle(x, d));
        if let Some(x) = &stuck
            && x.kind == stuck::Kind::IdlePath
            && let Some(gap) = x.idle_before
        {
            d.note_idle_death(IdleDeath { id: s.id, since: x.since, gap });
        }
        stuck
    }

    fn schedule(&mut self, id: SocketId, mut memo: Memo, due: Mono) {
        if memo.due != due {
            memo.due = due;
            self.due.push(Reverse((due, id)));
        }
        self.memos.insert(id, memo);
        if self.due.len() > self.memos.len() * QUEUE_PER_MEMO + QUEUE_LEAST {
            self.due = self.memos.iter().map(|(id, m)| Reverse((m.due, *id))).collect();
        }
    }

    /// The socket left the table: its cases go, except those that hold for a while. Whether it was known.
    fn gone(&mut self, now: Mono, id: SocketId) -> bool {
        let Some(memo) = self.memos.get(&id) else { return false };
        if memo.cases == 0 {
            self.forget(id);
            return true;
        }
        let memo = *memo;
        let mut cases = 0;
        let mut due = None;
        let mut left = memo.cases;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            if let Some(until) = self.rules.gone(bit, now, id, &self.t) {
                cases |= bit;
                due = Some(due.map_or(until, |d: Mono| d.min(until)));
            }
        }
        match due {
            // A time that is set already comes first and leads here again: no new one for each socket of a storm.
            Some(due) => {
                let due = if memo.due > now { due.min(memo.due) } else { due };
                self.schedule(id, Memo { cases, gone: true, ..memo }, due);
            }
            None => self.forget(id),
        }
        true
    }

    /// Nothing is left to say of a socket.
    fn forget(&mut self, id: SocketId) {
        let Some(memo) = self.memos.remove(&id) else { return };
        if let Some(dest) = memo.dest {
            leave(self.dests.get_mut(dest), id, memo.open);
        }
    }
}

/// The socket is no longer one of this destination's.
fn leave(d: &mut Destination, id: SocketId, open: bool) {
    d.sockets = d.sockets.saturating_sub(1);
    d.open = d.open.saturating_sub(u32::from(open));
    d.set_stuck(id, None);
}

/// A healthy, living connection: no rule but those of time has anything to say of it.
fn quiet(s: &Socket) -> bool {
    let a = &s.activity;
    s.state == Some(TcpState::Established)
        && s.closed_at.is_none()
        && a.retransmits_since_heard == 0
        && a.progress_retransmits == 0
        && a.fin_received.is_none()
        && a.zero_window_since.is_none()
        && s.last_reset_at.is_none()
        && s.tcp.probes.is_none_or(|p| p == 0)
}

/// Order of importance: what hangs or was cut before what is slow before what is at risk; then what is surer; then
/// what explains more.
fn rank(f: &Finding) -> (u8, Confidence, usize) {
    let class = match f.code {
        Code::ResetWave => 100,
        Code::PathOutage => 95,
        Code::IdlePathDead => 94,
        Code::MtuBlackHole => 93,
        Code::PeerGone => 90,
        Code::IdlePathReset => 88,
        Code::StaleReuse => 87,
        Code::InjectedReset => 86,
        Code::PeerAbort => 84,
        Code::ConnectTimeout => 82,
        Code::Refused => 80,
        Code::PeerNotReading => 75,
        Code::LocalAbort => 70,
        Code::LossyPath => 65,
        Code::AppWaiting => 60,
        Code::CloseWaitLeak => 50,
        Code::NoKeepalive => 40,
    };
    // A mere possibility ranks behind what is known of another failure, yet before what is only a risk.
    let doubt = if f.confidence == Confidence::Possible && class > 60 { 30 } else { 0 };
    (class - doubt, f.confidence, f.sockets.len())
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
