//! A small model of a client's TCP, as exact as the rules need: which events fire when, with which details, and what
//! a sample each second shows. Kernel facts behind it: `lsndtime` moves with retransmits, a FIN moves neither data
//! time stamp, RTO doubles, a tail-loss probe comes first, keepalive's end sends a RST.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent::diagnose::{Engine, Thresholds};
use agent::model::*;
use agent::state::{Table, TableConfig};

use super::script::{Head, Step, Timing, unfold};

mod segments;
mod telling;

/// The first instant: long after boot, so that ages never reach below zero.
const START: f64 = 100_000.0;
const MSS: u32 = 1_448;
const FLOW_TTL: u8 = 63;

pub fn mono(s: f64) -> Mono {
    Mono::from_secs_f64(START + s)
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s.max(0.0))
}

#[derive(Clone, Debug)]
struct Sock {
    id: SocketId,
    flow: Flow,
    state: TcpState,
    rtt: f64,
    base_rto: f64,
    retries2: u32,
    backoff: u8,
    retransmits: u8,
    probes: u8,
    total_retrans: u32,
    /// Sizes of the unacknowledged segments, oldest first.
    out: Vec<u32>,
    unsent: u64,
    first_sent: f64,
    bytes_sent: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segments: u32,
    last_sent: f64,
    last_received: f64,
    last_ack: f64,
    keepalive: Option<(u32, u32, u32)>,
    next_timer: Option<f64>,
    tlp: bool,
    zero_window: bool,
    gone: bool,
    swallow: Option<u32>,
}

pub struct Sim<'a> {
    head: &'a Head,
    pub table: Table,
    pub engine: Engine,
    socks: BTreeMap<String, Sock>,
    /// Everything the engine announced.
    pub announced: Vec<Finding>,
    next_id: u64,
    owners: HashMap<u32, Arc<str>>,
}

impl<'a> Sim<'a> {
    pub fn new(head: &'a Head) -> Self {
        Self {
            head,
            table: Table::new(TableConfig::default()),
            engine: Engine::new(Thresholds::default()),
            socks: BTreeMap::new(),
            announced: Vec::new(),
            next_id: 0x100,
            owners: HashMap::new(),
        }
    }

    pub fn id(&self, name: &str) -> SocketId {
        self.socks.get(name).unwrap_or_else(|| panic!("no socket {name}")).id
    }

    /// Plays the steps up to `until`, with a sample of every socket each second.
    pub fn play(&mut self, steps: &[super::script::Step], t: &Timing, until: f64) {
        let script = super::script::Script { head: self.head.clone(), steps: steps.to_vec() };
        let all = unfold(&script, t);
        let mut next = 0;
        let mut tick = 0.37;
        loop {
            let step_at = all.get(next).map_or(f64::INFINITY, |s| s.0);
            let timer = self
                .socks
                .iter()
                .filter_map(|(n, s)| s.next_timer.map(|at| (at, n.clone())))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let timer_at = timer.as_ref().map_or(f64::INFINITY, |t| t.0);
            let now = step_at.min(timer_at).min(tick);
            if now > until {
                break;
            }
            if step_at <= now {
                let (_, name, step) = &all[next];
                next += 1;
                self.step(now, name, step);
            } else if timer_at <= now {
                self.fire(now, &timer.unwrap().1);
            } else {
                for name in self.socks.keys().cloned().collect::<Vec<_>>() {
                    self.sample(now, &name);
                }
                self.table.expire(mono(now));
                tick += 1.0;
            }
            self.evaluate(now);
        }
        self.evaluate(until);
    }

    fn evaluate(&mut self, now: f64) {
        let changed = self.table.take_changed();
        self.announced.extend(self.engine.evaluate(mono(now), &self.table, &changed));
    }

    fn emit(&mut self, now: f64, kind: EventKind) {
        self.table.apply(&Event { at: mono(now), kind });
    }

    fn change(&mut self, now: f64, name: &str, to: TcpState) {
        let s = self.socks.get_mut(name).unwrap();
        let (id, from) = (s.id, s.state);
        s.state = to;
        if to == TcpState::Close {
            s.gone = true;
            s.next_timer = None;
        }
        if self.head.samples_only {
            if to == TcpState::Close {
                let u = SocketUpdate { id: Some(id), destroyed: true, ..Default::default() };
                self.emit(now, EventKind::Socket(Box::new(u)));
            }
            return;
        }
        let change =
            StateChange { socket: Some(id), flow: None, netns: None, family: None, from, to, pid: None, last: false };
        self.emit(now, EventKind::State(change));
    }

    fn step(&mut self, now: f64, name: &str, step: &Step) {
        let bytes = step.bytes.unwrap_or(300);
        match step.r#do.as_str() {
            "connect" => self.connect(now, name, step),
            "syn" => {
                self.open(now, name, step);
                let s = self.socks.get_mut(name).unwrap();
                s.base_rto = 1.0;
                s.out = vec![0];
                s.first_sent = now;
                s.next_timer = Some(now + 1.0);
            }
            "refused" => {
                self.open(now, name, step);
                self.reset(now + 0.001, name, ResetDirection::Received, step);
                self.change(now + 0.001, name, TcpState::Close);
            }
            "request" => {
                self.send(now, name, bytes);
                self.acked(now, name);
            }
            "response" => self.receive(now, name, bytes),
            "exchange" => {
                self.send(now, name, bytes);
                self.acked(now, name);
                let rtt = self.socks[name].rtt;
                self.receive(now + rtt.max(0.005), name, 5 * bytes);
            }
            // Sent into a path that swallows it, or everything above a size.
            "send_lost" => self.send_lost(now, name, bytes, step.larger_than),
            "lose_one" => {
                self.send(now, name, bytes);
                self.retransmit(now + self.socks[name].rtt, name, RetransmitKind::Fast, 0);
                self.acked(now + 2.0 * self.socks[name].rtt, name);
            }
            "tail_loss_probe" => {
                self.send(now, name, bytes);
                let wait = 2.0 * self.socks[name].rtt + 0.2;
                self.retransmit(now + wait, name, RetransmitKind::Tlp, 0);
                self.acked(now + wait + self.socks[name].rtt, name);
                self.receive(now + wait + 2.0 * self.socks[name].rtt, name, bytes);
            }
            "send" => self.send(now, name, bytes),
            "ack" => self.acked(now, name),
            "zero_window" => {
                self.send(now, name, 60_000);
                self.acked(now, name);
                let s = self.socks.get_mut(name).unwrap();
                s.zero_window = true;
                s.unsent = bytes;
            }
            "window_opens" => {
                let s = self.socks.get_mut(name).unwrap();
                s.zero_window = false;
                s.unsent = 0;
                self.acked(now, name);
            }
            "fin" => {
                self.socks.get_mut(name).unwrap().last_ack = now;
                self.change(now, name, TcpState::CloseWait);
            }
            "close" => {
                let to =
                    if self.socks[name].state == TcpState::CloseWait { TcpState::LastAck } else { TcpState::FinWait1 };
                self.change(now, name, to);
                if to == TcpState::FinWait1 {
                    self.change(now + 0.001, name, TcpState::FinWait2);
                }
                self.change(now + 0.002, name, TcpState::Close);
            }
            "rst" => {
                self.reset(now, name, ResetDirection::Received, step);
                self.change(now, name, TcpState::Close);
            }
            "send_rst" => {
                self.change(now, name, TcpState::Close);
                self.reset(now, name, ResetDirection::Sent, step);
            }
            // The peer is gone: keepalive probes stay unanswered.
            "vanish" => {
                let s = self.socks.get_mut(name).unwrap();
                let (idle, ..) = s.keepalive.expect("vanish needs keepalive");
                s.next_timer = Some(s.last_ack.max(s.last_received) + f64::from(idle));
            }
            "keepalive" => {
                self.socks.get_mut(name).unwrap().keepalive = step.keepalive;
                self.update(now, name);
            }
            other => panic!("no step {other}"),
        }
    }

    fn open(&mut self, now: f64, name: &str, step: &Step) {
        let id = SocketId(self.next_id);
        self.next_id += 1;
        let port = 40_000 + self.next_id as u16;
        let remote = step.to.as_deref().unwrap_or("203.0.113.9:443").parse().unwrap();
        let local = if matches!(remote, std::net::SocketAddr::V6(_)) {
            (std::net::Ipv6Addr::LOCALHOST, port).into()
        } else {
            ([10, 0, 0, 2], port).into()
        };
        let rtt = step.rtt_ms.unwrap_or(1.0) / 1e3;
        let sock = Sock {
            id,
            flow: Flow { local, remote },
            state: TcpState::Close,
            rtt,
            base_rto: (0.2 + rtt).max(0.2),
            retries2: step.retries2.unwrap_or(15),
            backoff: 0,
            retransmits: 0,
            probes: 0,
            total_retrans: 0,
            out: Vec::new(),
            unsent: 0,
            first_sent: now,
            bytes_sent: 0,
            bytes_acked: 1,
            bytes_received: 0,
            segments: 0,
            last_sent: now,
            last_received: now,
            last_ack: now,
            keepalive: step.keepalive,
            next_timer: None,
            tlp: false,
            zero_window: false,
            gone: false,
            swallow: None,
        };
        self.socks.insert(name.into(), sock);
        let pid = step.pid.unwrap_or(4182);
        let comm: Arc<str> = step.comm.as_deref().unwrap_or("node").into();
        self.owners.insert(pid, comm.clone());
        if step.incoming {
            self.change(now, name, TcpState::SynRecv);
        } else if !step.old {
            self.change(now, name, TcpState::SynSent);
        }
        let u = SocketUpdate {
            id: Some(id),
            family: Some(Family::V4),
            flow: Some(Flow { local, remote }),
            owners: Some([Owner { pid, comm, fd: Some(9), program: None }].into()),
            state: step.old.then_some(TcpState::Established),
            ..Default::default()
        };
        self.emit(now, EventKind::Socket(Box::new(u)));
        self.update(now, name);
    }

    fn update(&mut self, now: f64, name: &str) {
        let s = &self.socks[name];
        let (enabled, (idle_s, interval_s, count)) = (s.keepalive.is_some(), s.keepalive.unwrap_or((7200, 75, 9)));
        let keepalive = Keepalive { enabled, idle_s, interval_s, count, user_timeout_ms: 0, set_by: None };
        let u = SocketUpdate { id: Some(s.id), keepalive: Some(keepalive), ..Default::default() };
        self.emit(now, EventKind::Socket(Box::new(u)));
    }

    fn connect(&mut self, now: f64, name: &str, step: &Step) {
        self.open(now, name, step);
        if step.old {
            self.socks.get_mut(name).unwrap().state = TcpState::Established;
        } else {
            self.change(now + self.socks[name].rtt, name, TcpState::Established);
        }
        let s = self.socks.get_mut(name).unwrap();
        s.last_ack = now + s.rtt;
        s.last_received = now + s.rtt;
    }
}
