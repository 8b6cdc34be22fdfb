//! Event → line. Borrows everything: nothing is copied on the way to the serialiser.

use std::borrow::Cow;

use super::described::Described;
use super::lines::{
    ActionLine, EndLine, ExitLine, FindingLine, LimitsLine, LostLine, ResetLine, RetransmitLine, SampleLine,
    SessionLine, StateLine,
};
use super::parts::{
    CountersPart, DetailPart, EvidencePart, HookPart, IdleFigurePart, KeepalivePart, OptionsPart, PacketPart,
    TargetsPart, TcpPart, TotalsPart,
};
use super::wire::{Addr, Cookie, Seconds, Time};
use super::{Line, SCHEMA};
use crate::model::{
    Counters, Event, EventKind, IdleFigure, Keepalive, OptionValues, PacketFacts, TcpDetail, TcpMetrics, Totals,
    WallClock,
};
use crate::state::Socket;

/// What a line needs besides its event.
#[derive(Clone, Copy, Debug)]
pub struct LineContext<'a> {
    pub seq: u64,
    pub clock: &'a WallClock,
    /// The socket of a `socket` event, as the fold left it; the line is then the whole socket, not only the change.
    pub socket: Option<&'a Socket>,
    pub redacted: bool,
    pub part: u32,
}

impl<'a> Line<'a> {
    /// The line of `event`; `None` for a socket event without a cookie, which says nothing.
    pub fn new(event: &'a Event, cx: LineContext<'a>) -> Option<Self> {
        let seq = cx.seq;
        let time = Time::new(cx.clock, event.at);
        Some(match &event.kind {
            EventKind::Session(s) => Self::Session(Box::new(SessionLine {
                seq,
                time,
                schema: SCHEMA.into(),
                agent_version: s.agent_version.as_str().into(),
                kernel_release: s.kernel_release.as_str().into(),
                arch: s.arch.as_str().into(),
                command: texts(&s.command),
                targets: TargetsPart {
                    pids: s.targets.pids.clone(),
                    tree: s.targets.tree,
                    destinations: texts(&s.targets.destinations),
                    all: s.targets.all,
                    comms: texts(&s.targets.comms),
                    cgroup: s.targets.cgroup.as_deref().map(Cow::from),
                },
                hooks: (s.hooks.iter())
                    .map(|h| HookPart {
                        name: h.name.as_str().into(),
                        backend: h.backend.as_str().into(),
                        attached: h.attached,
                        why_not: h.why_not.as_deref().map(Cow::from),
                    })
                    .collect(),
                sysctl: s.sysctl.iter().map(|(k, v)| (k.as_str().into(), *v)).collect(),
                limits: texts(&s.limits),
                monotonic_ns: Some(event.at.0),
                redacted: cx.redacted,
                part: cx.part,
                started: None,
            })),
            EventKind::Socket(u) => {
                let described = match cx.socket {
                    Some(s) => Described::whole(s, event.at, u.destroyed),
                    None => Described::partial(u)?,
                };
                Self::Socket(Box::new(described.line(event.at, cx)))
            }
            EventKind::State(c) => Self::State(StateLine {
                seq,
                time,
                socket: c.socket.map(Cookie),
                from: c.from.into(),
                to: c.to.into(),
                pid: c.pid,
                local: c.flow.map(|f| Addr(f.local)),
                remote: c.flow.map(|f| Addr(f.remote)),
                netns: c.netns,
            }),
            EventKind::Retransmit(r) => Self::Retransmit(RetransmitLine {
                seq,
                time,
                socket: r.socket.map(Cookie),
                pid: r.pid,
                local: r.flow.map(|f| Addr(f.local)),
                remote: r.flow.map(|f| Addr(f.remote)),
                netns: r.netns,
                state: r.state.map(Into::into),
                kind: r.how.into(),
                backoff: r.detail.backoff,
                gives_up_in_s: r.gives_up_in.map(Seconds),
                segments: r.segments,
                tcp: DetailPart::new(&r.detail),
            }),
            EventKind::Reset(r) => Self::Reset(ResetLine {
                seq,
                time,
                socket: r.socket.map(Cookie),
                pid: r.pid,
                local: r.flow.map(|f| Addr(f.local)),
                remote: r.flow.map(|f| Addr(f.remote)),
                netns: r.netns,
                direction: r.direction.into(),
                origin: r.origin.into(),
                state: r.state.map(Into::into),
                idle_before_s: r.idle_before.map(Seconds),
                kernel_reason: r.kernel_reason.as_deref().map(Cow::from),
                packet: r.packet.into(),
                origin_why: (!r.origin_why.is_empty()).then(|| (&*r.origin_why).into()),
                tcp: DetailPart::new(&r.detail),
            }),
            EventKind::Sample(s) => Self::Sample(SampleLine {
                seq,
                time,
                socket: Cookie(s.socket),
                state: s.state.into(),
                tcp: s.tcp.into(),
                gives_up_in_s: s.gives_up_in.map(Seconds),
            }),
            EventKind::Exit { pid } => Self::Exit(ExitLine { seq, time, pid: *pid }),
            EventKind::Finding(f) => Self::Finding(FindingLine {
                seq,
                time,
                id: f.id,
                code: f.code.name().into(),
                confidence: f.confidence.into(),
                status: f.status.into(),
                opened: Some(Time::new(cx.clock, f.opened)),
                sockets: f.sockets.iter().copied().map(Cookie).collect(),
                pid: f.pid,
                destination: f.destination.as_deref().map(Cow::from),
                summary: f.summary.as_str().into(),
                evidence: (f.evidence.iter())
                    .map(|e| EvidencePart { time: Time::new(cx.clock, e.at), text: e.text.as_str().into() })
                    .collect(),
                rivals: texts(&f.rivals),
                advice: texts(&f.advice),
                gives_up_in_s: f.gives_up_in_s.filter(|s| s.is_finite()),
                numbers: (f.numbers.iter()).map(|(k, v)| (Cow::from(*k), v.is_finite().then_some(*v))).collect(),
            }),
            EventKind::Action(a) => Self::Action(ActionLine {
                seq,
                time,
                action: a.action.into(),
                socket: a.socket.map(Cookie),
                pid: a.pid,
                fd: a.fd,
                method: a.method.into(),
                before: a.before.map(Into::into),
                after: a.after.map(Into::into),
                result: a.result.into(),
                error: a.error.as_deref().map(Cow::from),
                remote: a.remote.as_deref().map(Cow::from),
                note: a.note.as_deref().map(Cow::from),
            }),
            EventKind::Limits(l) => {
                let figure = |f: Option<IdleFigure>| {
                    f.map(|f| IdleFigurePart {
                        count: f.count,
                        median_s: Seconds(f.median),
                        shortest_s: Seconds(f.shortest),
                        spread_s: Seconds(f.spread),
                    })
                };
                Self::Limits(LimitsLine {
                    seq,
                    time,
                    remote: Addr(l.remote),
                    remote_name: l.name.as_deref().map(Cow::from),
                    server_closes: figure(l.server_closes),
                    path_drops: figure(l.path_drops),
                    path_resets: figure(l.path_resets),
                    resets: figure(l.resets),
                    survived: l.survived,
                    longest_survivor_s: l.longest_survivor.map(Seconds),
                    pool_timeout_s: l.pool_timeout.map(Seconds),
                    keepalive_idle_s: l.keepalive_idle.map(Seconds),
                })
            }
            EventKind::Lost(l) => Self::Lost(LostLine {
                seq,
                time,
                ring_full: l.ring_full,
                recursion_misses: l.recursion_misses,
                table_full: l.table_full,
            }),
            EventKind::End(e) => Self::End(EndLine {
                seq,
                time,
                reason: e.reason.as_str().into(),
                duration_s: Seconds(e.duration),
                totals: e.totals.into(),
            }),
        })
    }
}

fn texts(all: &[String]) -> Vec<Cow<'_, str>> {
    all.iter().map(|s| Cow::from(s.as_str())).collect()
}

fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

impl DetailPart {
    /// `None` where nothing is known: the line then says `null` once.
    pub fn new(d: &TcpDetail) -> Option<Self> {
        (!d.is_empty()).then(|| Self {
            rtt_us: d.rtt.map(micros),
            rto_us: d.rto.map(micros),
            backoff: d.backoff,
            retransmits: d.retransmits,
            total_retransmits: d.total_retransmits,
            unacked_segments: d.unacked_segments,
            unacked_bytes: d.unacked_bytes,
            send_queue_bytes: d.send_queue_bytes,
            bytes_sent: d.bytes_sent,
            bytes_acked: d.bytes_acked,
            bytes_received: d.bytes_received,
            last_sent_ms: d.last_sent.map(millis),
            last_received_ms: d.last_received.map(millis),
            last_ack_ms: d.last_ack.map(millis),
            segment_bytes: d.segment_bytes,
            send_mss_bytes: d.send_mss,
            send_window_bytes: d.send_window_bytes,
            user_timeout_ms: d.user_timeout_ms,
            keepalive: d.keepalive,
            probes: d.probes,
        })
    }
}

impl From<TcpMetrics> for TcpPart {
    fn from(t: TcpMetrics) -> Self {
        Self {
            rtt_us: t.rtt.map(micros),
            rto_us: t.rto.map(micros),
            backoff: t.backoff,
            unacked_bytes: t.unacked_bytes,
            send_queue_bytes: t.send_queue_bytes,
            last_sent_ms: t.last_sent_ms,
            last_received_ms: t.last_received_ms,
            bytes_sent: t.bytes_sent,
            bytes_received: t.bytes_received,
            last_ack_ms: t.last_ack_ms,
            bytes_acked: t.bytes_acked,
            retransmits: t.retransmits,
            probes: t.probes,
            unacked_segments: t.unacked_segments,
            receive_queue_bytes: t.receive_queue_bytes,
            data_segments_sent: t.data_segments_sent,
            data_segments_received: t.data_segments_received,
            total_retransmits: t.total_retransmits,
            send_mss_bytes: t.send_mss,
            send_window_bytes: t.send_window_bytes,
            congestion_window_segments: t.congestion_window,
            timer: t.timer,
            timer_ms: t.timer_ms,
        }
    }
}

impl From<PacketFacts> for PacketPart {
    fn from(p: PacketFacts) -> Self {
        Self {
            ttl: p.ttl,
            flow_ttl: p.flow_ttl,
            ip_id: p.ip_id,
            seq_expected: p.seq_expected,
            flow_ttl_max: p.flow_ttl_max,
            flow_ip_id: p.flow_ip_id,
            with_ack: p.with_ack,
            window: p.window,
        }
    }
}

impl From<Keepalive> for KeepalivePart {
    fn from(k: Keepalive) -> Self {
        Self {
            enabled: k.enabled,
            idle_s: k.idle_s,
            interval_s: k.interval_s,
            count: k.count,
            user_timeout_ms: k.user_timeout_ms,
            set_by: k.set_by.map(Into::into),
        }
    }
}

impl From<OptionValues> for OptionsPart {
    fn from(o: OptionValues) -> Self {
        Self {
            enabled: o.enabled,
            idle_s: o.idle_s,
            interval_s: o.interval_s,
            count: o.count,
            user_timeout_ms: o.user_timeout_ms,
        }
    }
}

impl From<Counters> for CountersPart {
    fn from(c: Counters) -> Self {
        Self {
            retransmits: c.retransmits,
            rto: c.rto,
            fast: c.fast,
            tlp: c.tlp,
            syn: c.syn,
            resets_received: c.resets_received,
            resets_sent: c.resets_sent,
        }
    }
}

impl From<Totals> for TotalsPart {
    fn from(t: Totals) -> Self {
        Self {
            sockets: t.sockets,
            retransmits: t.retransmits,
            resets_received: t.resets_received,
            resets_sent: t.resets_sent,
            findings: t.findings,
            lost: t.lost,
        }
    }
}
