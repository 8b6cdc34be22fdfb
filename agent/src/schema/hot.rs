//! The lines that come in storms (`reset`, `retransmit`, `state`, `sample`, and a `socket` per connection), written by
//! hand. A test holds them to what the general serialiser writes.

use super::described::Described;
use super::fields::{Fields, micros, millis};
use super::recent::Recent;
use super::wire::Time;
use crate::model::{
    Counters, Event, EventKind, Flow, Keepalive, Mono, Owner, PacketFacts, ResetDirection, TcpDetail, TcpMetrics,
    TcpState, WallClock,
};

/// Appends the line of `event`, without a line break. False, with nothing written, for the kinds that are rare.
pub fn write(out: &mut Vec<u8>, event: &Event, seq: u64, recent: &mut Recent, wall: &WallClock) -> bool {
    out.reserve(ROOM);
    let mut w = Fields { out };
    match &event.kind {
        EventKind::State(_) => w.raw(b"{\"type\":\"state\",\"seq\":"),
        EventKind::Retransmit(_) => w.raw(b"{\"type\":\"retransmit\",\"seq\":"),
        EventKind::Reset(_) => w.raw(b"{\"type\":\"reset\",\"seq\":"),
        EventKind::Sample(_) => w.raw(b"{\"type\":\"sample\",\"seq\":"),
        _ => return false,
    }
    let time = Time::new(wall, event.at);
    match &event.kind {
        EventKind::State(c) => {
            recent.begin(&mut w, seq, time, c.socket);
            let change = &mut recent.changes[usize::from(c.to != TcpState::Close)];
            change.put(&mut w, &(c.from, c.to, c.pid), |(from, to, pid), w| {
                w.word(b",\"from\":\"", Some(from.name()));
                w.word(b",\"to\":\"", Some(to.name()));
                w.int(b",\"pid\":", *pid);
            });
            w.flow(c.flow, recent);
            w.netns(c.netns, recent);
        }
        EventKind::Retransmit(r) => {
            recent.begin(&mut w, seq, time, r.socket);
            w.int(b",\"pid\":", r.pid);
            w.flow(r.flow, recent);
            w.netns(r.netns, recent);
            w.word(b",\"state\":\"", r.state.map(|s| s.name()));
            w.word(b",\"kind\":\"", Some(super::RetransmitKind::from(r.how).text()));
            w.int(b",\"backoff\":", r.detail.backoff);
            w.seconds(b",\"gives_up_in_s\":", r.gives_up_in);
            w.int(b",\"segments\":", Some(r.segments));
            w.detail(&r.detail, recent);
        }
        EventKind::Reset(r) => {
            recent.begin(&mut w, seq, time, r.socket);
            w.int(b",\"pid\":", r.pid);
            w.flow(r.flow, recent);
            w.netns(r.netns, recent);
            let whose = &mut recent.resets[usize::from(r.direction != ResetDirection::Received)];
            whose.put(&mut w, &(r.direction, r.origin, r.state), |(direction, origin, state), w| {
                w.word(b",\"direction\":\"", Some(super::ResetDirection::from(*direction).text()));
                w.word(b",\"origin\":\"", Some(super::ResetOrigin::from(*origin).text()));
                w.word(b",\"state\":\"", state.map(|s| s.name()));
            });
            w.seconds(b",\"idle_before_s\":", r.idle_before);
            match r.kernel_reason.as_deref() {
                Some(reason) => recent.reason.put(&mut w, reason, |r, w| w.text(REASON, Some(r))),
                None => w.word(REASON, None),
            }
            w.packet(&r.packet, recent);
            if !r.origin_why.is_empty() {
                recent.why.put(&mut w, &r.origin_why, |why, w| w.text(b",\"origin_why\":\"", Some(why)));
            }
            w.detail(&r.detail, recent);
        }
        EventKind::Sample(s) => {
            recent.begin(&mut w, seq, time, Some(s.socket));
            w.word(b",\"state\":\"", Some(s.state.name()));
            w.metrics(Some(&s.tcp), recent);
            w.seconds(b",\"gives_up_in_s\":", s.gives_up_in);
        }
        _ => {}
    }
    w.raw(b"}");
    true
}

const REASON: &[u8] = b",\"kernel_reason\":\"";

/// More than most lines take: their pieces then find their room at once.
const ROOM: usize = 1_024;

/// Appends a `socket` line, without a line break.
pub fn socket(out: &mut Vec<u8>, d: &Described<'_>, at: Mono, seq: u64, recent: &mut Recent, wall: &WallClock) {
    out.reserve(ROOM);
    let mut w = Fields { out };
    w.raw(b"{\"type\":\"socket\",\"seq\":");
    recent.begin(&mut w, seq, Time::new(wall, at), Some(d.id));
    w.word(b",\"family\":\"", d.family.map(|f| super::Family::from(f).text()));
    match (d.local, d.remote) {
        (Some(local), Some(remote)) => w.flow(Some(Flow { local, remote }), recent),
        (local, remote) => w.ends(local, remote),
    }
    w.text(b",\"remote_name\":\"", d.remote_name);
    w.netns(d.netns, recent);
    if recent.listing {
        w.owners(d.owners);
    } else {
        recent.owners.put(&mut w, d.owners, |o, w| w.owners(o));
    }
    w.word(b",\"direction\":\"", d.direction.map(|d| super::Direction::from(d).text()));
    w.word(b",\"state\":\"", d.state.map(|s| s.name()));
    match d.opened {
        Some(opened) => recent.time(&mut w, b",\"opened\":", Time::new(wall, opened)),
        None => w.raw(b",\"opened\":null"),
    }
    w.seconds(b",\"idle_s\":", d.idle);
    w.keepalive(d.keepalive);
    w.counters(&d.counters, recent);
    w.metrics(d.tcp, recent);
    match (d.gives_up_in, d.mptcp, d.orphaned, d.destroyed) {
        // As most end.
        (None, Some(false), false, false) => {
            w.raw(b",\"gives_up_in_s\":null,\"mptcp\":false,\"orphaned\":false,\"destroyed\":false}");
        }
        _ => {
            w.seconds(b",\"gives_up_in_s\":", d.gives_up_in);
            w.flag(b",\"mptcp\":", d.mptcp);
            w.flag(b",\"orphaned\":", Some(d.orphaned));
            w.flag(b",\"destroyed\":", Some(d.destroyed));
            w.raw(b"}");
        }
    }
}

impl Fields<'_> {
    fn owners(&mut self, owners: &[Owner]) {
        self.raw(b",\"owners\":[");
        for (n, o) in owners.iter().enumerate() {
            self.int(if n == 0 { b"{\"pid\":" } else { b",{\"pid\":" }, Some(o.pid));
            self.text(b",\"comm\":\"", Some(&o.comm));
            self.raw(b",\"fd\":");
            match o.fd.map(u64::try_from) {
                Some(Ok(fd)) => self.number(fd),
                // No descriptor is negative.
                Some(Err(_)) | None => self.null(),
            }
            let program = o.program.as_deref().unwrap_or_default();
            for (n, part) in program.iter().enumerate() {
                let key: &[u8] = if n == 0 { b",\"program\":[{\"name\":\"" } else { b",{\"name\":\"" };
                self.text(key, Some(&part.name));
                self.text(b",\"version\":\"", Some(&part.version));
                self.raw(b"}");
            }
            self.raw(if program.is_empty() { b"}" } else { b"]}" });
        }
        self.raw(b"]");
    }

    fn keepalive(&mut self, k: Option<Keepalive>) {
        let Some(k) = k else { return self.raw(b",\"keepalive\":null") };
        self.flag(b",\"keepalive\":{\"enabled\":", Some(k.enabled));
        self.int(b",\"idle_s\":", Some(k.idle_s));
        self.int(b",\"interval_s\":", Some(k.interval_s));
        self.int(b",\"count\":", Some(k.count));
        self.int(b",\"user_timeout_ms\":", Some(k.user_timeout_ms));
        self.word(b",\"set_by\":\"", k.set_by.map(|s| super::SetBy::from(s).text()));
        self.raw(b"}");
    }

    fn counters(&mut self, c: &Counters, recent: &mut Recent) {
        if *c == Counters::default() {
            // One piece instead of fourteen for most of all sockets.
            return self.raw(
                b",\"counters\":{\"retransmits\":0,\"rto\":0,\"fast\":0,\"tlp\":0,\"syn\":0,\
                  \"resets_received\":0,\"resets_sent\":0}",
            );
        }
        recent.counters.put(self, c, |c, w| w.counted(c));
    }

    fn counted(&mut self, c: &Counters) {
        self.int(b",\"counters\":{\"retransmits\":", Some(c.retransmits));
        self.int(b",\"rto\":", Some(c.rto));
        self.int(b",\"fast\":", Some(c.fast));
        self.int(b",\"tlp\":", Some(c.tlp));
        self.int(b",\"syn\":", Some(c.syn));
        self.int(b",\"resets_received\":", Some(c.resets_received));
        self.int(b",\"resets_sent\":", Some(c.resets_sent));
        self.raw(b"}");
    }

    fn packet(&mut self, p: &PacketFacts, recent: &mut Recent) {
        if *p == PacketFacts::default() {
            // One that this host sent.
            return self.raw(b",\"packet\":{\"ttl\":null,\"flow_ttl\":null,\"ip_id\":null,\"seq_expected\":null}");
        }
        recent.packet.put(self, p, |p, w| w.seen(p));
    }

    fn seen(&mut self, p: &PacketFacts) {
        self.int(b",\"packet\":{\"ttl\":", p.ttl);
        self.int(b",\"flow_ttl\":", p.flow_ttl);
        self.int(b",\"ip_id\":", p.ip_id);
        self.flag(b",\"seq_expected\":", p.seq_expected);
        self.known(b"\"flow_ttl_max\":", p.flow_ttl_max);
        self.known(b"\"flow_ip_id\":", p.flow_ip_id);
        if p.with_ack.is_some() {
            self.flag(b",\"with_ack\":", p.with_ack);
        }
        self.known(b"\"window\":", p.window);
        self.raw(b"}");
    }

    fn detail(&mut self, d: &TcpDetail, recent: &mut Recent) {
        if d.is_empty() {
            return self.raw(b",\"tcp\":null");
        }
        recent.detail.put(self, d, |d, w| w.told(d));
    }

    fn told(&mut self, d: &TcpDetail) {
        self.raw(b",\"tcp\":{");
        self.known(b"\"rtt_us\":", d.rtt.map(micros));
        self.known(b"\"rto_us\":", d.rto.map(micros));
        self.known(b"\"backoff\":", d.backoff);
        self.known(b"\"retransmits\":", d.retransmits);
        self.known(b"\"total_retransmits\":", d.total_retransmits);
        self.known(b"\"unacked_segments\":", d.unacked_segments);
        self.known(b"\"unacked_bytes\":", d.unacked_bytes);
        self.known(b"\"send_queue_bytes\":", d.send_queue_bytes);
        self.known(b"\"bytes_sent\":", d.bytes_sent);
        self.known(b"\"bytes_acked\":", d.bytes_acked);
        self.known(b"\"bytes_received\":", d.bytes_received);
        self.known(b"\"last_sent_ms\":", d.last_sent.map(millis));
        self.known(b"\"last_received_ms\":", d.last_received.map(millis));
        self.known(b"\"last_ack_ms\":", d.last_ack.map(millis));
        self.known(b"\"segment_bytes\":", d.segment_bytes);
        self.known(b"\"send_mss_bytes\":", d.send_mss);
        self.known(b"\"send_window_bytes\":", d.send_window_bytes);
        self.known(b"\"user_timeout_ms\":", d.user_timeout_ms);
        if d.keepalive.is_some() {
            self.comma();
            self.flag(b"\"keepalive\":", d.keepalive);
        }
        self.known(b"\"probes\":", d.probes);
        self.raw(b"}");
    }

    fn metrics(&mut self, t: Option<&TcpMetrics>, recent: &mut Recent) {
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
        recent.metrics.put(self, t, |t, w| w.measured(t));
    }

    fn measured(&mut self, t: &TcpMetrics) {
        self.int(b",\"tcp\":{\"rtt_us\":", t.rtt.map(micros));
        self.int(b",\"rto_us\":", t.rto.map(micros));
        self.int(b",\"backoff\":", t.backoff);
        self.int(b",\"unacked_bytes\":", t.unacked_bytes);
        self.int(b",\"send_queue_bytes\":", t.send_queue_bytes);
        self.int(b",\"last_sent_ms\":", t.last_sent_ms);
        self.int(b",\"last_received_ms\":", t.last_received_ms);
        self.int(b",\"bytes_sent\":", t.bytes_sent);
        self.int(b",\"bytes_received\":", t.bytes_received);
        self.known(b"\"last_ack_ms\":", t.last_ack_ms);
        self.known(b"\"bytes_acked\":", t.bytes_acked);
        self.known(b"\"retransmits\":", t.retransmits);
        self.known(b"\"probes\":", t.probes);
        self.known(b"\"unacked_segments\":", t.unacked_segments);
        self.known(b"\"receive_queue_bytes\":", t.receive_queue_bytes);
        self.known(b"\"data_segments_sent\":", t.data_segments_sent);
        self.known(b"\"data_segments_received\":", t.data_segments_received);
        self.known(b"\"total_retransmits\":", t.total_retransmits);
        self.known(b"\"send_mss_bytes\":", t.send_mss);
        self.known(b"\"send_window_bytes\":", t.send_window_bytes);
        self.known(b"\"congestion_window_segments\":", t.congestion_window);
        self.known(b"\"timer\":", t.timer);
        self.known(b"\"timer_ms\":", t.timer_ms);
        self.raw(b"}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Line, LineContext, samples};
    use super::*;

    #[test]
    fn the_fast_writer_writes_what_serde_writes() {
        let wall = samples::clock();
        let mut recent = Recent::default();
        let mut fast = 0;
        for (seq, mut event) in (0u64..).zip(samples::all()) {
            // Twice in one second, then in another: the remembered text must follow.
            for at in [event.at, Mono(event.at.0 + 5), Mono(event.at.0 + 3_999_999_999)] {
                event.at = at;
                let mut out = Vec::new();
                if !write(&mut out, &event, seq, &mut recent, &wall) {
                    assert!(out.is_empty());
                    continue;
                }
                fast += 1;
                let cx = LineContext { seq, clock: &wall, socket: None, redacted: false, part: 0 };
                let slow = serde_json::to_string(&Line::new(&event, cx).unwrap()).unwrap();
                let fast = String::from_utf8(out).unwrap();
                // The text is the same but for the last digit of seconds, where serde goes through a float.
                assert_eq!(keys(&fast), keys(&slow));
                assert_eq!(Line::parse(fast.as_bytes()).unwrap(), Line::parse(slow.as_bytes()).unwrap(), "{fast}");
            }
        }
        assert_eq!(fast, 8 * 3);
    }

    #[test]
    fn socket_lines_too() {
        let wall = samples::clock();
        let (mut recent, mut listing) = (Recent::default(), Recent::listing());
        let mut sockets = 0;
        for (seq, event) in (0u64..).zip(samples::all()) {
            let EventKind::Socket(update) = &event.kind else { continue };
            sockets += 1;
            let plain = Described::partial(update).unwrap();
            let half = Some(Duration::from_millis(12_600));
            let hostile = [Owner { pid: 1, comm: "\"\\\u{1b}[2J".into(), fd: Some(0), program: None }];
            let counters = Counters { retransmits: 12, resets_sent: 1, ..Counters::default() };
            let metrics = samples::metrics();
            let bare = Described {
                family: None,
                local: None,
                remote: None,
                remote_name: None,
                netns: None,
                owners: &[],
                direction: None,
                state: None,
                opened: None,
                keepalive: None,
                mptcp: None,
                ..plain.clone()
            };
            let all = [
                Described { tcp: Some(&metrics), idle: half, gives_up_in: half, ..plain.clone() },
                Described { orphaned: true, destroyed: true, counters, ..plain.clone() },
                Described { owners: &hostile, opened: Some(Mono(5)), ..plain.clone() },
                bare,
                plain,
            ];
            for (d, watched) in all.iter().flat_map(|d| [(d, true), (d, false)]) {
                let recent = if watched { &mut recent } else { &mut listing };
                let cx = LineContext { seq, clock: &wall, socket: None, redacted: false, part: 0 };
                let mut fast = Vec::new();
                socket(&mut fast, d, event.at, seq, recent, &wall);
                let slow = Line::Socket(Box::new(d.line(event.at, cx)));
                let (fast, slow) = (String::from_utf8(fast).unwrap(), serde_json::to_string(&slow).unwrap());
                assert_eq!(keys(&fast), keys(&slow));
                assert_eq!(Line::parse(fast.as_bytes()).unwrap(), Line::parse(slow.as_bytes()).unwrap(), "{fast}");
            }
        }
        assert_eq!(sockets, 1);
    }

    /// The keys in their order.
    fn keys(json: &str) -> Vec<&str> {
        json.split('"').skip(1).step_by(2).collect()
    }
}
