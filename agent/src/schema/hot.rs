//! The lines that come in storms (`reset`, `retransmit`, `state`, `sample`, and a `socket` per connection), written by
//! hand. A test holds them to what the general serialiser writes.

use std::net::SocketAddr;

use super::alike::{Own, OwnFlow};
use super::described::Described;
use super::fields::{micros, millis};
use super::kinds::{Kept, same_reset};
use super::recent::{Parts, Recent};
use super::room::{Fields, Written, append};
use super::wire::Time;
use crate::model::{
    Counters, Event, EventKind, Flow, Keepalive, Mono, Owner, PacketFacts, Reset, ResetDirection, Retransmit, Sample,
    StateChange, TcpDetail, TcpMetrics, TcpState, WallClock,
};

/// Appends the line of `event`, without a line break. False, with nothing written, for the kinds that are rare.
pub fn write(out: &mut Vec<u8>, event: &Event, seq: u64, recent: &mut Recent, wall: &WallClock) -> bool {
    let time = Time::new(wall, event.at);
    let Recent { parts, digits, states, resets, .. } = recent;
    match &event.kind {
        EventKind::State(c) => {
            let flow = OwnFlow::of(both(&c.flow));
            let own = Own { seq, time, socket: c.socket, flow, opened: None, idle: None };
            let key = (c.from, c.to, c.pid, c.netns);
            let last = &mut states[usize::from(c.to != TcpState::Close)];
            last.append(out, &own, digits, |k| *k == key, || key, |w| state(w, c, seq, time, parts));
        }
        EventKind::Reset(r) => {
            let flow = OwnFlow::of(both(&r.flow));
            let own = Own { seq, time, socket: r.socket, flow, opened: None, idle: None };
            let last = &mut resets[usize::from(r.direction != ResetDirection::Received)];
            last.append(out, &own, digits, |k| same_reset(k, r), || Reset::clone(r), |w| reset(w, r, seq, time, parts));
        }
        EventKind::Retransmit(r) => append(out, |w| retransmit(w, r, seq, time, parts)),
        EventKind::Sample(s) => append(out, |w| sample(w, s, seq, time, parts)),
        _ => return false,
    }
    true
}

fn both(flow: &Option<Flow>) -> Option<(&SocketAddr, &SocketAddr)> {
    flow.as_ref().map(|f| (&f.local, &f.remote))
}

fn state<'a>(w: Fields<'a>, c: &StateChange, seq: u64, time: Time, recent: &mut Parts) -> Written<'a> {
    recent
        .begin(w.raw(b"{\"type\":\"state\",\"seq\":")?, seq, time, c.socket)?
        .word(b",\"from\":\"", Some(c.from.name()))?
        .word(b",\"to\":\"", Some(c.to.name()))?
        .int(b",\"pid\":", c.pid)?
        .flow(both(&c.flow), recent)?
        .netns(c.netns, recent)?
        .raw(b"}")
}

fn retransmit<'a>(w: Fields<'a>, r: &Retransmit, seq: u64, time: Time, recent: &mut Parts) -> Written<'a> {
    let w = recent.begin(w.raw(b"{\"type\":\"retransmit\",\"seq\":")?, seq, time, r.socket)?;
    w.int(b",\"pid\":", r.pid)?
        .flow(both(&r.flow), recent)?
        .netns(r.netns, recent)?
        .word(b",\"state\":\"", r.state.map(|s| s.name()))?
        .word(b",\"kind\":\"", Some(super::RetransmitKind::from(r.how).text()))?
        .int(b",\"backoff\":", r.detail.backoff)?
        .seconds(b",\"gives_up_in_s\":", r.gives_up_in)?
        .int(b",\"segments\":", Some(r.segments))?
        .detail(&r.detail, recent)?
        .raw(b"}")
}

fn reset<'a>(w: Fields<'a>, r: &Reset, seq: u64, time: Time, recent: &mut Parts) -> Written<'a> {
    let mut w = recent
        .begin(w.raw(b"{\"type\":\"reset\",\"seq\":")?, seq, time, r.socket)?
        .int(b",\"pid\":", r.pid)?
        .flow(both(&r.flow), recent)?
        .netns(r.netns, recent)?
        .word(b",\"direction\":\"", Some(super::ResetDirection::from(r.direction).text()))?
        .word(b",\"origin\":\"", Some(super::ResetOrigin::from(r.origin).text()))?
        .word(b",\"state\":\"", r.state.map(|s| s.name()))?
        .seconds(b",\"idle_before_s\":", r.idle_before)?
        .text(b",\"kernel_reason\":\"", r.kernel_reason.as_deref())?
        .packet(&r.packet)?;
    if !r.origin_why.is_empty() {
        w = w.text(b",\"origin_why\":\"", Some(&r.origin_why))?;
    }
    w.detail(&r.detail, recent)?.raw(b"}")
}

fn sample<'a>(w: Fields<'a>, s: &Sample, seq: u64, time: Time, recent: &mut Parts) -> Written<'a> {
    recent
        .begin(w.raw(b"{\"type\":\"sample\",\"seq\":")?, seq, time, Some(s.socket))?
        .word(b",\"state\":\"", Some(s.state.name()))?
        .metrics(Some(&s.tcp), recent)?
        .seconds(b",\"gives_up_in_s\":", s.gives_up_in)?
        .raw(b"}")
}

/// Appends a `socket` line, without a line break.
pub fn socket(out: &mut Vec<u8>, d: &Described<'_>, at: Mono, seq: u64, recent: &mut Recent, wall: &WallClock) {
    let (time, opened) = (Time::new(wall, at), d.opened.map(|opened| Time::new(wall, opened)));
    let Recent { parts, digits, sockets, .. } = recent;
    if parts.listing {
        append(out, |w| described(w, d, seq, time, opened, parts));
        return;
    }
    let flow = OwnFlow::of(d.local.zip(d.remote));
    let own = Own { seq, time, socket: Some(d.id), flow, opened, idle: d.idle };
    let last = &mut sockets[usize::from(d.state == Some(TcpState::Close))];
    last.append(out, &own, digits, |k| k.is_of(d), || Kept::of(d), |w| described(w, d, seq, time, opened, parts));
}

fn described<'a>(
    w: Fields<'a>,
    d: &Described<'_>,
    seq: u64,
    time: Time,
    opened: Option<Time>,
    recent: &mut Parts,
) -> Written<'a> {
    let w = recent.begin(w.raw(b"{\"type\":\"socket\",\"seq\":")?, seq, time, Some(d.id))?;
    let mut w = w.word(b",\"family\":\"", d.family.map(|f| super::Family::from(f).text()))?;
    w = match (d.local, d.remote) {
        (Some(local), Some(remote)) => w.flow(Some((local, remote)), recent)?,
        (local, remote) => w.ends(local, remote)?,
    };
    w = w
        .text(b",\"remote_name\":\"", d.remote_name)?
        .int(b",\"netns\":", d.netns)?
        .owners(d.owners)?
        .word(b",\"direction\":\"", d.direction.map(|d| super::Direction::from(d).text()))?
        .word(b",\"state\":\"", d.state.map(|s| s.name()))?;
    w = match opened {
        Some(opened) => recent.time(w, b",\"opened\":", opened)?,
        None => w.raw(b",\"opened\":null")?,
    };
    w.seconds(b",\"idle_s\":", d.idle)?
        .keepalive(d.keepalive)?
        .counters(d.counters, recent)?
        .metrics(d.tcp, recent)?
        .seconds(b",\"gives_up_in_s\":", d.gives_up_in)?
        .flag(b",\"mptcp\":", d.mptcp)?
        .flag(b",\"orphaned\":", Some(d.orphaned))?
        .flag(b",\"destroyed\":", Some(d.destroyed))?
        .raw(b"}")
}

impl<'a> Fields<'a> {
    fn owners(self, owners: &[Owner]) -> Written<'a> {
        let mut w = self.raw(b",\"owners\":[")?;
        for (n, o) in owners.iter().enumerate() {
            w = w.int(if n == 0 { b"{\"pid\":" } else { b",{\"pid\":" }, Some(o.pid))?;
            w = w.text(b",\"comm\":\"", Some(&o.comm))?.raw(b",\"fd\":")?;
            w = match o.fd.map(u64::try_from) {
                Some(Ok(fd)) => w.number(fd)?,
                // No descriptor is negative.
                Some(Err(_)) | None => w.null()?,
            };
            let program = o.program.as_deref().unwrap_or_default();
            for (n, part) in program.iter().enumerate() {
                let key: &[u8] = if n == 0 { b",\"program\":[{\"name\":\"" } else { b",{\"name\":\"" };
                w = w.text(key, Some(&part.name))?.text(b",\"version\":\"", Some(&part.version))?.raw(b"}")?;
            }
            w = w.raw(if program.is_empty() { b"}" } else { b"]}" })?;
        }
        w.raw(b"]")
    }

    fn keepalive(self, k: Option<&Keepalive>) -> Written<'a> {
        let Some(k) = k else { return self.raw(b",\"keepalive\":null") };
        self.flag(b",\"keepalive\":{\"enabled\":", Some(k.enabled))?
            .int(b",\"idle_s\":", Some(k.idle_s))?
            .int(b",\"interval_s\":", Some(k.interval_s))?
            .int(b",\"count\":", Some(k.count))?
            .int(b",\"user_timeout_ms\":", Some(k.user_timeout_ms))?
            .word(b",\"set_by\":\"", k.set_by.map(|s| super::SetBy::from(s).text()))?
            .raw(b"}")
    }

    fn counters(self, c: &Counters, recent: &mut Parts) -> Written<'a> {
        if *c == Counters::NONE {
            // One piece instead of fourteen for most of all sockets.
            return self.raw(
                b",\"counters\":{\"retransmits\":0,\"rto\":0,\"fast\":0,\"tlp\":0,\"syn\":0,\
                  \"resets_received\":0,\"resets_sent\":0}",
            );
        }
        recent.counters.put(self, c, |c, w| w.counted(c))
    }

    fn counted(self, c: &Counters) -> Written<'a> {
        self.int(b",\"counters\":{\"retransmits\":", Some(c.retransmits))?
            .int(b",\"rto\":", Some(c.rto))?
            .int(b",\"fast\":", Some(c.fast))?
            .int(b",\"tlp\":", Some(c.tlp))?
            .int(b",\"syn\":", Some(c.syn))?
            .int(b",\"resets_received\":", Some(c.resets_received))?
            .int(b",\"resets_sent\":", Some(c.resets_sent))?
            .raw(b"}")
    }

    fn packet(self, p: &PacketFacts) -> Written<'a> {
        let mut w = self
            .int(b",\"packet\":{\"ttl\":", p.ttl)?
            .int(b",\"flow_ttl\":", p.flow_ttl)?
            .int(b",\"ip_id\":", p.ip_id)?
            .flag(b",\"seq_expected\":", p.seq_expected)?
            .known(b",\"flow_ttl_max\":", p.flow_ttl_max)?
            .known(b",\"flow_ip_id\":", p.flow_ip_id)?;
        if p.with_ack.is_some() {
            w = w.flag(b",\"with_ack\":", p.with_ack)?;
        }
        w.known(b",\"window\":", p.window)?.raw(b"}")
    }

    fn detail(self, d: &TcpDetail, recent: &mut Parts) -> Written<'a> {
        if d.is_empty() {
            return self.raw(b",\"tcp\":null");
        }
        recent.detail.put(self, d, |d, w| w.told(d))
    }

    fn told(self, d: &TcpDetail) -> Written<'a> {
        let mut first = true;
        let first = &mut first;
        let mut w = self
            .raw(b",\"tcp\":{")?
            .member(first, b",\"rtt_us\":", d.rtt.map(micros))?
            .member(first, b",\"rto_us\":", d.rto.map(micros))?
            .member(first, b",\"backoff\":", d.backoff)?
            .member(first, b",\"retransmits\":", d.retransmits)?
            .member(first, b",\"total_retransmits\":", d.total_retransmits)?
            .member(first, b",\"unacked_segments\":", d.unacked_segments)?
            .member(first, b",\"unacked_bytes\":", d.unacked_bytes)?
            .member(first, b",\"send_queue_bytes\":", d.send_queue_bytes)?
            .member(first, b",\"bytes_sent\":", d.bytes_sent)?
            .member(first, b",\"bytes_acked\":", d.bytes_acked)?
            .member(first, b",\"bytes_received\":", d.bytes_received)?
            .member(first, b",\"last_sent_ms\":", d.last_sent.map(millis))?
            .member(first, b",\"last_received_ms\":", d.last_received.map(millis))?
            .member(first, b",\"last_ack_ms\":", d.last_ack.map(millis))?
            .member(first, b",\"segment_bytes\":", d.segment_bytes)?
            .member(first, b",\"send_mss_bytes\":", d.send_mss)?
            .member(first, b",\"send_window_bytes\":", d.send_window_bytes)?
            .member(first, b",\"user_timeout_ms\":", d.user_timeout_ms)?;
        if d.keepalive.is_some() {
            w = w.flag(behind(first, b",\"keepalive\":"), d.keepalive)?;
        }
        w.member(first, b",\"probes\":", d.probes)?.raw(b"}")
    }

    /// A known field of an object that may begin with it.
    fn member<N: Into<u64>>(self, first: &mut bool, key: &[u8], n: Option<N>) -> Written<'a> {
        match n {
            Some(n) => self.int(behind(first, key), Some(n)),
            None => Some(self),
        }
    }

    fn metrics(self, t: Option<&TcpMetrics>, recent: &mut Parts) -> Written<'a> {
        let Some(t) = t.filter(|t| !t.is_empty()) else {
            return self.raw(
                b",\"tcp\":{\"rtt_us\":null,\"rto_us\":null,\"backoff\":null,\"unacked_bytes\":null,\
                  \"send_queue_bytes\":null,\"last_sent_ms\":null,\"last_received_ms\":null,\"bytes_sent\":null,\
                  \"bytes_received\":null}",
            );
        };
        if recent.listing {
            return self.measured(t);
        }
        recent.metrics.put(self, t, |t, w| w.measured(t))
    }

    fn measured(self, t: &TcpMetrics) -> Written<'a> {
        self.int(b",\"tcp\":{\"rtt_us\":", t.rtt.map(micros))?
            .int(b",\"rto_us\":", t.rto.map(micros))?
            .int(b",\"backoff\":", t.backoff)?
            .int(b",\"unacked_bytes\":", t.unacked_bytes)?
            .int(b",\"send_queue_bytes\":", t.send_queue_bytes)?
            .int(b",\"last_sent_ms\":", t.last_sent_ms)?
            .int(b",\"last_received_ms\":", t.last_received_ms)?
            .int(b",\"bytes_sent\":", t.bytes_sent)?
            .int(b",\"bytes_received\":", t.bytes_received)?
            .known(b",\"last_ack_ms\":", t.last_ack_ms)?
            .known(b",\"bytes_acked\":", t.bytes_acked)?
            .known(b",\"retransmits\":", t.retransmits)?
            .known(b",\"probes\":", t.probes)?
            .known(b",\"unacked_segments\":", t.unacked_segments)?
            .known(b",\"receive_queue_bytes\":", t.receive_queue_bytes)?
            .known(b",\"data_segments_sent\":", t.data_segments_sent)?
            .known(b",\"data_segments_received\":", t.data_segments_received)?
            .known(b",\"total_retransmits\":", t.total_retransmits)?
            .known(b",\"send_mss_bytes\":", t.send_mss)?
            .known(b",\"send_window_bytes\":", t.send_window_bytes)?
            .known(b",\"congestion_window_segments\":", t.congestion_window)?
            .known(b",\"timer\":", t.timer)?
            .known(b",\"timer_ms\":", t.timer_ms)?
            .raw(b"}")
    }
}

/// The key without its comma if it is the first of its object.
fn behind<'k>(first: &mut bool, key: &'k [u8]) -> &'k [u8] {
    if std::mem::take(first) { &key[1..] } else { key }
}

#[cfg(test)]
#[path = "hot_tests.rs"]
mod tests;
