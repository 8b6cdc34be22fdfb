//! Decoded records to the program's own events: units, absences, and who may be called an owner.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use agent_common::{ABSENT, Offsets, Record, SockStats, TcpDetail as RawDetail, flag, kind, retransmit};

use foldhash::fast::RandomState;

use super::decode::Decoded;
use crate::memory::Spare;
use crate::model::{
    Counters, Event, EventKind, Family, Flow, Mono, PacketFacts, Reset, ResetDirection, ResetOrigin, Retransmit,
    RetransmitKind, SocketId, SocketUpdate, StateChange, TcpDetail, TcpState,
};

/// What a change of state begins as, so that each part is then written where it stays: to copy what was just put together
/// from small parts makes the processor wait.
const NO_CHANGE: StateChange = StateChange {
    socket: None,
    flow: None,
    netns: None,
    family: None,
    from: TcpState::Close,
    to: TcpState::Close,
    pid: None,
    last: false,
};

/// TCP header flag.
const ACK: u8 = 0x10;

/// What the conversion needs to know of the kernel.
#[derive(Debug)]
pub struct Converter {
    /// Members that are [`ABSENT`] are unknown in every record.
    pub offsets: Offsets,
    /// Nanoseconds of one jiffy.
    pub tick_ns: u64,
    /// Reset reasons by number.
    pub reasons: HashMap<u32, &'static str, RandomState>,
    /// Memory that is used again.
    pub spare: Spare<Reset>,
}

/// A child of a `--tree` target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    pub parent: u32,
    pub child: u32,
    pub at: Mono,
}

impl Converter {
    /// Appends what one record says; nothing for a kind that tracing does not write, or a state that no kernel we know
    /// has. `socket` is the record's cookie, or what the caller joined it to.
    ///
    /// Each kind is appended where it is made, by a function of its own: an event is long, and where several kinds are put
    /// together in one place the compiler moves it once more.
    pub fn convert(
        &mut self,
        d: Decoded<'_>,
        socket: Option<SocketId>,
        events: &mut Vec<Event>,
        forks: &mut Vec<Fork>,
    ) {
        let r = d.record;
        let at = Mono(r.ts);
        match r.kind {
            kind::RETRANSMIT | kind::RETRANSMIT_SYNACK => self.retransmit(d, socket, events),
            kind::RECEIVE_RESET | kind::SEND_RESET => self.reset(d, socket, events),
            kind::STATE => state(r, socket, events),
            kind::DESTROY if socket.is_some() => {
                let update = SocketUpdate {
                    id: socket,
                    counters: d.stats.map(counters),
                    destroyed: true,
                    ..SocketUpdate::default()
                };
                events.push(Event { at, kind: EventKind::Socket(Box::new(update)) });
            }
            kind::FORK => forks.push(Fork { parent: r.aux, child: r.pid, at }),
            kind::EXIT => events.push(Event { at, kind: EventKind::Exit { pid: r.pid } }),
            _ => {}
        }
    }

    #[inline(never)]
    fn retransmit(&self, d: Decoded<'_>, socket: Option<SocketId>, events: &mut Vec<Event>) {
        let r = d.record;
        let mut detail = TcpDetail::default();
        if let Some(raw) = d.detail {
            self.detail(r, raw, &mut detail);
        }
        let retransmit = Retransmit {
            socket,
            flow: flow(r),
            netns: netns(r),
            pid: None,
            state: TcpState::from_kernel(r.state),
            how: how(r.how),
            segments: r.aux,
            detail,
            gives_up_in: None,
        };
        events.push(Event { at: Mono(r.ts), kind: EventKind::Retransmit(Box::new(retransmit)) });
    }

    #[inline(never)]
    fn reset(&mut self, d: Decoded<'_>, id: Option<SocketId>, events: &mut Vec<Event>) {
        let r = d.record;
        let mut reset = self.spare.take(|| Reset::NONE);
        // Whatever was there before is written over.
        let Reset {
            socket,
            flow: ends,
            netns: namespace,
            pid,
            direction,
            origin,
            origin_why,
            state,
            idle_before,
            kernel_reason,
            packet: facts,
            detail,
        } = &mut *reset;
        *socket = id;
        *ends = flow(r);
        *namespace = netns(r);
        *pid = None;
        (*direction, *origin) = match r.kind {
            kind::SEND_RESET => (ResetDirection::Sent, ResetOrigin::Local),
            _ => (ResetDirection::Received, ResetOrigin::Unknown),
        };
        *origin_why = Cow::Borrowed("");
        *state = TcpState::from_kernel(r.state);
        *idle_before = None;
        *kernel_reason = self.reason(r);
        match d.detail {
            Some(raw) => {
                packet(r, raw, facts);
                self.detail(r, raw, detail);
            }
            None => (*facts, *detail) = (PacketFacts::NONE, TcpDetail::NONE),
        }
        events.push(Event { at: Mono(r.ts), kind: EventKind::Reset(reset) });
    }

    /// Takes the memory of a RST back that nobody needs any more.
    pub fn reuse(&mut self, reset: Box<Reset>) {
        self.spare.give(reset);
    }

    /// The reason's name in the running kernel; a number it has no name for as that number.
    fn reason(&self, r: &Record) -> Option<Cow<'static, str>> {
        if r.flags & flag::HAS_REASON == 0 {
            return None;
        }
        Some(self.reasons.get(&r.reason).map_or_else(|| r.reason.to_string().into(), |name| Cow::Borrowed(*name)))
    }

    fn jiffies(&self, n: u32) -> Duration {
        Duration::from_nanos(u64::from(n).saturating_mul(self.tick_ns))
    }

    /// Time since a jiffies stamp; 0 means never, and a stamp of the future is another CPU's clock.
    fn age(&self, now: u32, stamp: u32) -> Option<Duration> {
        if stamp == 0 {
            return None;
        }
        let ticks = now.wrapping_sub(stamp);
        Some(if ticks > i32::MAX as u32 { Duration::ZERO } else { self.jiffies(ticks) })
    }

    /// Writes all of `d`.
    fn detail(&self, r: &Record, x: &RawDetail, d: &mut TcpDetail) {
        let (o, now) = (&self.offsets, r.jiffies);
        let has = |members: &[u32]| !members.contains(&ABSENT);
        let micros = Duration::from_micros(u64::from(x.srtt_us_x8 >> 3));
        d.rtt = (has(&[o.tp_srtt_us]) && x.srtt_us_x8 != 0).then_some(micros);
        d.rto = (has(&[o.icsk_rto]) && x.rto != 0).then(|| self.jiffies(x.rto));
        d.backoff = has(&[o.icsk_backoff]).then_some(x.backoff);
        d.retransmits = has(&[o.icsk_retransmits]).then_some(x.retransmits);
        d.total_retransmits = has(&[o.tp_total_retrans]).then_some(x.total_retrans);
        d.unacked_segments = has(&[o.tp_packets_out]).then_some(x.packets_out);
        d.unacked_bytes = has(&[o.tp_snd_nxt, o.tp_snd_una]).then(|| distance(x.snd_una, x.snd_nxt));
        d.send_queue_bytes = has(&[o.tp_write_seq, o.tp_snd_una]).then(|| distance(x.snd_una, x.write_seq));
        d.bytes_sent = has(&[o.tp_bytes_sent]).then_some(x.bytes_sent);
        d.bytes_acked = has(&[o.tp_bytes_acked]).then_some(x.bytes_acked);
        d.bytes_received = has(&[o.tp_bytes_received]).then_some(x.bytes_received);
        d.last_sent = has(&[o.tp_lsndtime]).then(|| self.age(now, x.lsndtime)).flatten();
        // Before the first byte this stamp is when the connection was made.
        d.last_received = (has(&[o.icsk_lrcvtime, o.tp_bytes_received]) && x.bytes_received > 0)
            .then(|| self.age(now, x.lrcvtime))
            .flatten();
        d.last_ack = has(&[o.tp_rcv_tstamp]).then(|| self.age(now, x.rcv_tstamp)).flatten();
        d.segment_bytes = (has(&[o.skb_len]) && r.kind == kind::RETRANSMIT).then_some(x.skb_len);
        d.send_mss = (has(&[o.tp_mss_cache]) && x.mss_cache != 0).then_some(x.mss_cache);
        d.send_window_bytes = has(&[o.tp_snd_wnd]).then_some(x.snd_wnd);
        d.user_timeout_ms = has(&[o.icsk_user_timeout]).then_some(x.user_timeout_ms);
        d.keepalive = match x.keepalive {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        d.probes = has(&[o.icsk_probes_out]).then_some(x.probes_out);
    }
}

#[inline(never)]
fn state(r: &Record, socket: Option<SocketId>, events: &mut Vec<Event>) {
    let (from, to) = (TcpState::from_kernel(r.state), TcpState::from_kernel(r.new_state));
    let (Some(from), Some(to)) = (from, to) else { return };
    events.push(Event { at: Mono(r.ts), kind: EventKind::State(NO_CHANGE) });
    let Some(Event { kind: EventKind::State(c), .. }) = events.last_mut() else { return };
    c.socket = socket;
    c.flow = flow(r);
    c.netns = netns(r);
    c.family = family(r);
    (c.from, c.to) = (from, to);
    c.pid = (r.flags & flag::PID_IS_OWNER != 0 && r.pid != 0).then_some(r.pid);
    c.last = r.flags & flag::LAST != 0;
}

/// Bytes from one sequence number to a later one; 0 if it is not later (a socket that was reset).
fn distance(from: u32, to: u32) -> u64 {
    let n = to.wrapping_sub(from);
    if n > i32::MAX as u32 { 0 } else { u64::from(n) }
}

fn how(n: u8) -> RetransmitKind {
    match n {
        retransmit::RTO => RetransmitKind::Rto,
        retransmit::FAST => RetransmitKind::Fast,
        retransmit::TLP => RetransmitKind::Tlp,
        retransmit::SYN => RetransmitKind::Syn,
        retransmit::SYNACK => RetransmitKind::Synack,
        _ => RetransmitKind::Unknown,
    }
}

/// A socket's counts as the kernel's map has them.
pub fn counters(s: &SockStats) -> Counters {
    Counters {
        retransmits: s.retransmits.into(),
        rto: s.rto.into(),
        fast: s.fast.into(),
        tlp: s.tlp.into(),
        syn: s.syn.into(),
        resets_received: s.resets_received.into(),
        resets_sent: s.resets_sent.into(),
    }
}

/// Both ends; `None` where the kernel has already cleared them (at → CLOSE), or for a listener. A SYN has no local
/// port yet when the state changes.
#[inline(always)]
pub fn flow(r: &Record) -> Option<Flow> {
    let opening = r.kind == kind::STATE && TcpState::from_kernel(r.new_state) == Some(TcpState::SynSent);
    let flow = Flow { local: SocketAddr::new(ip(&r.saddr), r.sport), remote: SocketAddr::new(ip(&r.daddr), r.dport) };
    let complete = r.dport != 0 && (r.sport != 0 || opening) && !flow.remote.ip().is_unspecified();
    complete.then_some(flow)
}

/// An address of either family, as the kernel side writes both: v4-mapped, the IPv4 one's.
#[inline(always)]
fn ip(bytes: &[u8; 16]) -> IpAddr {
    const MAPPED: u128 = 0xffff << 32;
    let all = u128::from_be_bytes(*bytes);
    match all ^ MAPPED {
        v4 @ ..=0xffff_ffff => IpAddr::V4(Ipv4Addr::from_bits(v4 as u32)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(all)),
    }
}

/// Linux's numbers, of the socket: one of IPv6 may speak IPv4.
fn family(r: &Record) -> Option<Family> {
    match i32::from(r.family) {
        libc::AF_INET => Some(Family::V4),
        libc::AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

fn netns(r: &Record) -> Option<u32> {
    (r.netns != 0).then_some(r.netns)
}

/// Writes all of `p`.
fn packet(r: &Record, x: &RawDetail, p: &mut PacketFacts) {
    if r.flags & flag::HAS_PACKET == 0 {
        *p = PacketFacts::NONE;
        return;
    }
    let nonzero = |v: u8| (v != 0).then_some(v);
    // IPv6 has no IP ID.
    let v4 = ip(&r.daddr).is_ipv4();
    // A RST that answers a SYN is judged by its acknowledgement: there is no RCV.NXT yet.
    let handshake = TcpState::from_kernel(r.state) == Some(TcpState::SynSent);
    p.ttl = nonzero(x.ttl);
    p.flow_ttl = nonzero(x.flow_ttl);
    p.flow_ttl_max = nonzero(x.flow_ttl_max);
    p.ip_id = v4.then_some(x.ip_id);
    p.flow_ip_id = (v4 && x.flow_ttl != 0).then_some(x.flow_ip_id);
    p.seq_expected = (!handshake).then_some(x.seq == x.rcv_nxt);
    p.with_ack = Some(x.tcp_flags & ACK != 0);
    p.window = Some(x.window);
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
