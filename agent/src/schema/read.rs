//! Line → event. Tolerant of what later minor versions add; never trusts a length or a number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::Line;
use super::lines::{
    ActionLine, FindingLine, LimitsLine, ResetLine, RetransmitLine, SessionLine, SocketLine, StateLine,
};
use super::parts::{
    CountersPart, DetailPart, IdleFigurePart, KeepalivePart, OptionsPart, OwnerPart, PacketPart, TcpPart, Text,
    TotalsPart,
};
use super::wire::{Addr, Cookie, TcpState};
use crate::model::{
    ActionRecord, Code, Component, Counters, End, Event, EventKind, Evidence, Finding, Flow, Hook, IdleFigure,
    IdleLimits, Keepalive, Lost, Mono, OptionValues, Owner, PacketFacts, Reset, Retransmit, Sample, Session,
    SocketUpdate, StateChange, Targets, TcpDetail, TcpMetrics, Totals, WallClock, sanitize,
};

/// Why a line gave no event.
#[derive(Debug)]
pub enum ReadError {
    /// No JSON object, cut off, or a field of the wrong kind.
    Malformed(serde_json::Error),
    /// A type or a word of a later version.
    Unknown(String),
}

/// Of one program: a runtime, a library and what runs on it.
const MAX_COMPONENTS: usize = 4;

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(e) => write!(f, "no event line: {e}"),
            Self::Unknown(what) => write!(f, "of a later version: {what}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl<'a> Line<'a> {
    /// Reads one line.
    ///
    /// # Errors
    /// [`ReadError::Malformed`] for what is no line of this schema, [`ReadError::Unknown`] for a later version's type.
    pub fn parse(line: &'a [u8]) -> Result<Self, ReadError> {
        fn of<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, ReadError> {
            serde_json::from_slice(line).map_err(ReadError::Malformed)
        }
        let kind = match leading_type(line) {
            Some(kind) => std::borrow::Cow::Borrowed(kind),
            None => {
                #[derive(Deserialize)]
                struct Head {
                    r#type: String,
                }
                of::<Head>(line)?.r#type.into()
            }
        };
        Ok(match &*kind {
            "session" => Self::Session(Box::new(of(line)?)),
            "socket" => Self::Socket(Box::new(of(line)?)),
            "state" => Self::State(of(line)?),
            "retransmit" => Self::Retransmit(of(line)?),
            "reset" => Self::Reset(of(line)?),
            "sample" => Self::Sample(of(line)?),
            "exit" => Self::Exit(of(line)?),
            "finding" => Self::Finding(of(line)?),
            "action" => Self::Action(of(line)?),
            "limits" => Self::Limits(of(line)?),
            "lost" => Self::Lost(of(line)?),
            "end" => Self::End(of(line)?),
            other => return Err(ReadError::Unknown(format!("type '{}'", sanitize(clip(other, 40).as_bytes())))),
        })
    }

    /// The event of this line, in the time of `clock`.
    ///
    /// # Errors
    /// [`ReadError::Unknown`] where a word of a later version leaves nothing to say.
    pub fn event(&self, clock: &WallClock) -> Result<Event, ReadError> {
        let unknown = |what: &str| ReadError::Unknown(what.to_owned());
        let mono = |t: super::Time| clock.mono(t.0.into()).unwrap_or_default();
        let kind = match self {
            Self::Session(l) => EventKind::Session(Box::new(session(l))),
            Self::Socket(l) => EventKind::Socket(Box::new(socket(l, clock))),
            Self::State(l) => EventKind::State(state(l).ok_or_else(|| unknown("state"))?),
            Self::Retransmit(l) => EventKind::Retransmit(Box::new(retransmit(l))),
            Self::Reset(l) => EventKind::Reset(Box::new(reset(l).ok_or_else(|| unknown("direction"))?)),
            Self::Sample(l) => EventKind::Sample(Box::new(Sample {
                socket: l.socket.0,
                state: l.state.model().ok_or_else(|| unknown("state"))?,
                tcp: metrics(&l.tcp),
                gives_up_in: l.gives_up_in_s.map(|s| s.0),
            })),
            Self::Exit(l) => EventKind::Exit { pid: l.pid },
            Self::Finding(l) => EventKind::Finding(Box::new(
                finding(l, mono(l.time), clock)
                    .ok_or_else(|| unknown(&format!("finding '{}'", sanitize(clip(&l.code, 40).as_bytes()))))?,
            )),
            Self::Action(l) => EventKind::Action(Box::new(action(l).ok_or_else(|| unknown("action"))?)),
            Self::Limits(l) => EventKind::Limits(Box::new(limits(l))),
            Self::Lost(l) => EventKind::Lost(Lost {
                ring_full: cap(l.ring_full),
                recursion_misses: cap(l.recursion_misses),
                table_full: cap(l.table_full),
            }),
            Self::End(l) => EventKind::End(Box::new(End {
                reason: safe(&l.reason),
                duration: l.duration_s.0,
                totals: totals(l.totals),
            })),
        };
        Ok(Event { at: mono(self.time()), kind })
    }
}

/// The value of `"type"` if it stands first, as this program writes it: saves a pass over the line.
fn leading_type(line: &[u8]) -> Option<&str> {
    let rest = line.strip_prefix(b"{\"type\":\"")?;
    let end = rest.iter().take(32).position(|b| *b == b'"')?;
    std::str::from_utf8(&rest[..end]).ok().filter(|s| !s.contains('\\'))
}

fn clip(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// A recording may come from anyone: what a terminal would obey goes out here, once for all views.
fn safe(text: &str) -> String {
    sanitize(text.as_bytes())
}

fn safe_all(all: &[Text<'_>]) -> Vec<String> {
    all.iter().map(|t| safe(t)).collect()
}

fn session(l: &SessionLine<'_>) -> Session {
    Session {
        agent_version: safe(&l.agent_version),
        kernel_release: safe(&l.kernel_release),
        arch: safe(&l.arch),
        command: safe_all(&l.command),
        targets: Targets {
            pids: l.targets.pids.clone(),
            tree: l.targets.tree,
            all: l.targets.all,
            comms: safe_all(&l.targets.comms),
            cgroup: l.targets.cgroup.as_deref().map(safe),
            destinations: safe_all(&l.targets.destinations),
        },
        hooks: (l.hooks.iter())
            .map(|h| Hook {
                name: safe(&h.name),
                backend: safe(&h.backend),
                attached: h.attached,
                why_not: h.why_not.as_deref().map(safe),
            })
            .collect(),
        sysctl: l.sysctl.iter().map(|(k, v)| (safe(k), *v)).collect(),
        limits: safe_all(&l.limits),
    }
}

fn flow(local: Option<Addr>, remote: Option<Addr>) -> Option<Flow> {
    Some(Flow { local: local?.0, remote: remote?.0 })
}

fn socket(l: &SocketLine<'_>, clock: &WallClock) -> SocketUpdate {
    SocketUpdate {
        id: Some(l.socket.0),
        family: l.family.and_then(|f| f.model()),
        flow: flow(l.local, l.remote),
        remote_name: l.remote_name.as_deref().map(|n| safe(n).into()),
        netns: l.netns,
        // The fold takes owners as living ones: those of an orphan came with an earlier line and `exit`.
        owners: (!l.orphaned).then(|| l.owners.iter().map(owner).collect()),
        direction: l.direction.and_then(|d| d.model()),
        state: l.state.and_then(TcpState::model),
        opened: l.opened.and_then(|t| clock.mono(t.0.into())),
        keepalive: l.keepalive.map(keepalive),
        counters: Some(counters(l.counters)),
        mptcp: l.mptcp,
        destroyed: l.destroyed,
    }
}

fn owner(o: &OwnerPart<'_>) -> Owner {
    let program: Vec<Component> = (o.program.iter().take(MAX_COMPONENTS))
        .map(|c| Component { name: safe(&c.name).into(), version: safe(&c.version).into() })
        .collect();
    Owner { pid: o.pid, comm: safe(&o.comm).into(), fd: o.fd, program: (!program.is_empty()).then(|| program.into()) }
}

fn keepalive(k: KeepalivePart) -> Keepalive {
    Keepalive {
        enabled: k.enabled,
        idle_s: k.idle_s,
        interval_s: k.interval_s,
        count: k.count,
        user_timeout_ms: k.user_timeout_ms,
        set_by: k.set_by.and_then(|s| s.model()),
    }
}

/// Far beyond any real count, byte number or age (281 TB, 8,900 years in milliseconds), and far enough from the end of
/// `u64` that sums of a hostile recording's numbers stay sums.
const MOST: u64 = 1 << 48;

fn cap(n: u64) -> u64 {
    n.min(MOST)
}

fn counters(c: CountersPart) -> Counters {
    Counters {
        retransmits: cap(c.retransmits),
        rto: cap(c.rto),
        fast: cap(c.fast),
        tlp: cap(c.tlp),
        syn: cap(c.syn),
        resets_received: cap(c.resets_received),
        resets_sent: cap(c.resets_sent),
    }
}

fn totals(t: TotalsPart) -> Totals {
    Totals {
        sockets: cap(t.sockets),
        retransmits: cap(t.retransmits),
        resets_received: cap(t.resets_received),
        resets_sent: cap(t.resets_sent),
        findings: cap(t.findings),
        lost: cap(t.lost),
    }
}

fn state(l: &StateLine) -> Option<StateChange> {
    Some(StateChange {
        socket: l.socket.map(|c| c.0),
        flow: flow(l.local, l.remote),
        netns: l.netns,
        family: None,
        from: l.from.model()?,
        to: l.to.model()?,
        pid: l.pid,
        last: false,
    })
}

fn retransmit(l: &RetransmitLine) -> Retransmit {
    Retransmit {
        socket: l.socket.map(|c| c.0),
        flow: flow(l.local, l.remote),
        netns: l.netns,
        pid: l.pid,
        state: l.state.and_then(TcpState::model),
        how: l.kind.model().unwrap_or(crate::model::RetransmitKind::Unknown),
        segments: l.segments,
        detail: TcpDetail { backoff: l.backoff, ..detail(l.tcp.as_ref()) },
        gives_up_in: l.gives_up_in_s.map(|s| s.0),
    }
}

fn reset(l: &ResetLine<'_>) -> Option<Reset> {
    Some(Reset {
        socket: l.socket.map(|c| c.0),
        flow: flow(l.local, l.remote),
        netns: l.netns,
        pid: l.pid,
        direction: l.direction.model()?,
        origin: l.origin.model().unwrap_or(crate::model::ResetOrigin::Unknown),
        origin_why: l.origin_why.as_deref().map(safe).unwrap_or_default().into(),
        state: l.state.and_then(TcpState::model),
        idle_before: l.idle_before_s.map(|s| s.0),
        kernel_reason: l.kernel_reason.as_deref().map(|r| safe(r).into()),
        packet: packet(l.packet),
        detail: detail(l.tcp.as_ref()),
    })
}

fn packet(p: PacketPart) -> PacketFacts {
    PacketFacts {
        ttl: p.ttl,
        flow_ttl: p.flow_ttl,
        flow_ttl_max: p.flow_ttl_max,
        ip_id: p.ip_id,
        flow_ip_id: p.flow_ip_id,
        seq_expected: p.seq_expected,
        with_ack: p.with_ack,
        window: p.window,
    }
}

fn detail(d: Option<&DetailPart>) -> TcpDetail {
    let Some(d) = d else { return TcpDetail::default() };
    TcpDetail {
        rtt: d.rtt_us.map(cap).map(Duration::from_micros),
        rto: d.rto_us.map(cap).map(Duration::from_micros),
        backoff: d.backoff,
        retransmits: d.retransmits,
        total_retransmits: d.total_retransmits,
        unacked_segments: d.unacked_segments,
        unacked_bytes: d.unacked_bytes.map(cap),
        send_queue_bytes: d.send_queue_bytes.map(cap),
        bytes_sent: d.bytes_sent.map(cap),
        bytes_acked: d.bytes_acked.map(cap),
        bytes_received: d.bytes_received.map(cap),
        last_sent: d.last_sent_ms.map(cap).map(Duration::from_millis),
        last_received: d.last_received_ms.map(cap).map(Duration::from_millis),
        last_ack: d.last_ack_ms.map(cap).map(Duration::from_millis),
        segment_bytes: d.segment_bytes,
        send_mss: d.send_mss_bytes,
        send_window_bytes: d.send_window_bytes,
        user_timeout_ms: d.user_timeout_ms,
        keepalive: d.keepalive,
        probes: d.probes,
    }
}

fn metrics(t: &TcpPart) -> TcpMetrics {
    TcpMetrics {
        rtt: t.rtt_us.map(cap).map(Duration::from_micros),
        rto: t.rto_us.map(cap).map(Duration::from_micros),
        backoff: t.backoff,
        retransmits: t.retransmits,
        probes: t.probes,
        unacked_segments: t.unacked_segments,
        unacked_bytes: t.unacked_bytes.map(cap),
        send_queue_bytes: t.send_queue_bytes.map(cap),
        receive_queue_bytes: t.receive_queue_bytes.map(cap),
        last_sent_ms: t.last_sent_ms.map(cap),
        last_received_ms: t.last_received_ms.map(cap),
        last_ack_ms: t.last_ack_ms.map(cap),
        bytes_sent: t.bytes_sent.map(cap),
        bytes_received: t.bytes_received.map(cap),
        bytes_acked: t.bytes_acked.map(cap),
        data_segments_sent: t.data_segments_sent,
        data_segments_received: t.data_segments_received,
        total_retransmits: t.total_retransmits,
        send_mss: t.send_mss_bytes,
        send_window_bytes: t.send_window_bytes,
        congestion_window: t.congestion_window_segments,
        timer: t.timer,
        timer_ms: t.timer_ms,
    }
}

fn finding(l: &FindingLine<'_>, at: Mono, clock: &WallClock) -> Option<Finding> {
    let mono = |t: super::Time| clock.mono(t.0.into()).unwrap_or_default();
    let numbers: BTreeMap<&'static str, f64> =
        l.numbers.iter().filter_map(|(k, v)| Some((intern(k)?, (*v)?))).collect();
    Some(Finding {
        id: l.id,
        code: Code::from_name(&l.code)?,
        confidence: l.confidence.model()?,
        status: l.status.model()?,
        opened: l.opened.map_or(at, mono),
        sockets: l.sockets.iter().map(|Cookie(id)| *id).collect(),
        pid: l.pid,
        destination: l.destination.as_deref().map(safe),
        summary: safe(&l.summary),
        evidence: l.evidence.iter().map(|e| Evidence { at: mono(e.time), text: safe(&e.text) }).collect(),
        rivals: safe_all(&l.rivals),
        advice: safe_all(&l.advice),
        gives_up_in_s: l.gives_up_in_s,
        numbers,
    })
}

/// Names of a finding's numbers that are kept for the life of the process: the model wants `&'static str`. The rules use
/// a few dozen; a hostile recording gets no more than this many, the rest of its numbers are left out.
const MAX_NAMES: usize = 512;

fn intern(name: &str) -> Option<&'static str> {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return Some(known);
    }
    if names.len() >= MAX_NAMES || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    Some(kept)
}

fn limits(l: &LimitsLine<'_>) -> IdleLimits {
    let figure = |f: Option<IdleFigurePart>| {
        f.map(|f| IdleFigure {
            count: cap(f.count),
            median: f.median_s.0,
            shortest: f.shortest_s.0,
            spread: f.spread_s.0,
        })
    };
    IdleLimits {
        name: l.remote_name.as_deref().map(|n| safe(n).into()),
        remote: l.remote.0,
        server_closes: figure(l.server_closes),
        path_drops: figure(l.path_drops),
        path_resets: figure(l.path_resets),
        resets: figure(l.resets),
        survived: cap(l.survived),
        longest_survivor: l.longest_survivor_s.map(|s| s.0),
        pool_timeout: l.pool_timeout_s.map(|s| s.0),
        keepalive_idle: l.keepalive_idle_s.map(|s| s.0),
    }
}

fn action(l: &ActionLine<'_>) -> Option<ActionRecord> {
    let values = |o: OptionsPart| OptionValues {
        enabled: o.enabled,
        idle_s: o.idle_s,
        interval_s: o.interval_s,
        count: o.count,
        user_timeout_ms: o.user_timeout_ms,
    };
    Some(ActionRecord {
        action: l.action.model()?,
        socket: l.socket.map(|c| c.0),
        pid: l.pid,
        fd: l.fd,
        method: l.method.model()?,
        before: l.before.map(values),
        after: l.after.map(values),
        result: l.result.model()?,
        error: l.error.as_deref().map(safe),
        remote: l.remote.as_deref().map(safe),
        note: l.note.as_deref().map(safe),
    })
}
