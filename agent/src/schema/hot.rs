//! The lines that come in storms (`reset`, `retransmit`, `state`, `sample`, and a `socket` per connection), written by
//! hand. A test holds them to what the general serialiser writes.

use super::fields::{Clock, Fields, micros, millis};
use super::wire::Time;
use super::{KeepalivePart, Line, OwnerPart, SocketLine, TcpPart};
use crate::model::{Event, EventKind, PacketFacts, TcpDetail, WallClock};

/// Appends the line of `event`, without a line break. False, with nothing written, for the kinds that are rare.
pub fn write(out: &mut Vec<u8>, event: &Event, seq: u64, clock: &mut Clock, wall: &WallClock) -> bool {
    let name = match &event.kind {
        EventKind::State(_) => "state",
        EventKind::Retransmit(_) => "retransmit",
        EventKind::Reset(_) => "reset",
        EventKind::Sample(_) => "sample",
        _ => return false,
    };
    let mut w = Fields { out };
    w.raw(b"{\"type\":\"");
    w.raw(name.as_bytes());
    w.raw(b"\",\"seq\":");
    w.number(seq);
    w.raw(b",\"time\":\"");
    w.raw(clock.text(Time::new(wall, event.at)));
    w.raw(b"\",\"socket\":");
    match &event.kind {
        EventKind::State(c) => {
            w.cookie(c.socket);
            w.word(b",\"from\":", Some(c.from.name()));
            w.word(b",\"to\":", Some(c.to.name()));
            w.int(b",\"pid\":", c.pid);
            w.flow(c.flow);
            w.int(b",\"netns\":", c.netns);
        }
        EventKind::Retransmit(r) => {
            w.cookie(r.socket);
            w.int(b",\"pid\":", r.pid);
            w.flow(r.flow);
            w.int(b",\"netns\":", r.netns);
            w.word(b",\"state\":", r.state.map(|s| s.name()));
            w.word(b",\"kind\":", Some(super::RetransmitKind::from(r.how).text()));
            w.int(b",\"backoff\":", r.detail.backoff);
            w.seconds(b",\"gives_up_in_s\":", r.gives_up_in);
            w.int(b",\"segments\":", Some(r.segments));
            w.detail(&r.detail);
        }
        EventKind::Reset(r) => {
            w.cookie(r.socket);
            w.int(b",\"pid\":", r.pid);
            w.flow(r.flow);
            w.int(b",\"netns\":", r.netns);
            w.word(b",\"direction\":", Some(super::ResetDirection::from(r.direction).text()));
            w.word(b",\"origin\":", Some(super::ResetOrigin::from(r.origin).text()));
            w.word(b",\"state\":", r.state.map(|s| s.name()));
            w.seconds(b",\"idle_before_s\":", r.idle_before);
            w.text(b",\"kernel_reason\":", r.kernel_reason.as_deref());
            w.packet(&r.packet);
            if !r.origin_why.is_empty() {
                w.text(b",\"origin_why\":", Some(&r.origin_why));
            }
            w.detail(&r.detail);
        }
        EventKind::Sample(s) => {
            w.cookie(Some(s.socket));
            w.word(b",\"state\":", Some(s.state.name()));
            w.metrics(&s.tcp.into());
            w.seconds(b",\"gives_up_in_s\":", s.gives_up_in);
        }
        _ => {}
    }
    w.raw(b"}");
    true
}

/// Appends any line, without a line break.
///
/// # Errors
/// As `serde_json`: none that our own types can cause.
pub fn line(out: &mut Vec<u8>, line: &Line<'_>, clock: &mut Clock) -> serde_json::Result<()> {
    match line {
        Line::Socket(l) => {
            socket(out, l, clock);
            Ok(())
        }
        other => serde_json::to_writer(out, other),
    }
}

/// Appends a `socket` line, without a line break.
pub fn socket(out: &mut Vec<u8>, l: &SocketLine<'_>, clock: &mut Clock) {
    let mut w = Fields { out };
    w.int(b"{\"type\":\"socket\",\"seq\":", Some(l.seq));
    w.raw(b",\"time\":\"");
    w.raw(clock.text(l.time));
    w.raw(b"\",\"socket\":");
    w.cookie(Some(l.socket.0));
    w.word(b",\"family\":", l.family.map(|f| f.text()));
    w.raw(b",\"local\":");
    w.addr(l.local.map(|a| a.0));
    w.raw(b",\"remote\":");
    w.addr(l.remote.map(|a| a.0));
    w.text(b",\"remote_name\":", l.remote_name.as_deref());
    w.int(b",\"netns\":", l.netns);
    w.owners(&l.owners);
    w.word(b",\"direction\":", l.direction.map(|d| d.text()));
    w.word(b",\"state\":", l.state.map(|s| s.text()));
    w.raw(b",\"opened\":");
    match l.opened {
        // Not through the clock, which remembers one second: that of the line.
        Some(opened) => {
            w.raw(b"\"");
            w.raw(&opened.format());
            w.raw(b"\"");
        }
        None => w.null(),
    }
    w.seconds(b",\"idle_s\":", l.idle_s.map(|s| s.0));
    w.keepalive(l.keepalive.as_ref());
    let c = &l.counters;
    w.int(b",\"counters\":{\"retransmits\":", Some(c.retransmits));
    w.int(b",\"rto\":", Some(c.rto));
    w.int(b",\"fast\":", Some(c.fast));
    w.int(b",\"tlp\":", Some(c.tlp));
    w.int(b",\"syn\":", Some(c.syn));
    w.int(b",\"resets_received\":", Some(c.resets_received));
    w.int(b",\"resets_sent\":", Some(c.resets_sent));
    w.raw(b"}");
    w.metrics(&l.tcp);
    w.seconds(b",\"gives_up_in_s\":", l.gives_up_in_s.map(|s| s.0));
    w.flag(b",\"mptcp\":", l.mptcp);
    w.flag(b",\"orphaned\":", Some(l.orphaned));
    w.flag(b",\"destroyed\":", Some(l.destroyed));
    w.raw(b"}");
}

impl Fields<'_> {
    fn owners(&mut self, owners: &[OwnerPart<'_>]) {
        self.raw(b",\"owners\":[");
        for (n, o) in owners.iter().enumerate() {
            self.int(if n == 0 { b"{\"pid\":" } else { b",{\"pid\":" }, Some(o.pid));
            self.text(b",\"comm\":", Some(&o.comm));
            self.raw(b",\"fd\":");
            match o.fd.map(u64::try_from) {
                Some(Ok(fd)) => self.number(fd),
                // No descriptor is negative.
                Some(Err(_)) | None => self.null(),
            }
            for (n, part) in o.program.iter().enumerate() {
                let key: &[u8] = if n == 0 { b",\"program\":[{\"name\":" } else { b",{\"name\":" };
                self.text(key, Some(&part.name));
                self.text(b",\"version\":", Some(&part.version));
                self.raw(b"}");
            }
            self.raw(if o.program.is_empty() { b"}" } else { b"]}" });
        }
        self.raw(b"]");
    }

    fn keepalive(&mut self, k: Option<&KeepalivePart>) {
        self.raw(b",\"keepalive\":");
        let Some(k) = k else { return self.null() };
        self.flag(b"{\"enabled\":", Some(k.enabled));
        self.int(b",\"idle_s\":", Some(k.idle_s));
        self.int(b",\"interval_s\":", Some(k.interval_s));
        self.int(b",\"count\":", Some(k.count));
        self.int(b",\"user_timeout_ms\":", Some(k.user_timeout_ms));
        self.word(b",\"set_by\":", k.set_by.map(|s| s.text()));
        self.raw(b"}");
    }

    fn packet(&mut self, p: &PacketFacts) {
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

    fn detail(&mut self, d: &TcpDetail) {
        self.raw(b",\"tcp\":");
        if *d == TcpDetail::default() {
            return self.null();
        }
        self.raw(b"{");
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

    fn metrics(&mut self, t: &TcpPart) {
        self.int(b",\"tcp\":{\"rtt_us\":", t.rtt_us);
        self.int(b",\"rto_us\":", t.rto_us);
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
        self.known(b"\"send_mss_bytes\":", t.send_mss_bytes);
        self.known(b"\"send_window_bytes\":", t.send_window_bytes);
        self.known(b"\"congestion_window_segments\":", t.congestion_window_segments);
        self.known(b"\"timer\":", t.timer);
        self.known(b"\"timer_ms\":", t.timer_ms);
        self.raw(b"}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LineContext, Seconds, samples};
    use super::*;
    use crate::model::Mono;

    #[test]
    fn the_fast_writer_writes_what_serde_writes() {
        let wall = samples::clock();
        let mut clock = Clock::default();
        let mut fast = 0;
        for (seq, mut event) in (0u64..).zip(samples::all()) {
            // Twice in one second, then in another: the remembered text must follow.
            for at in [event.at, Mono(event.at.0 + 5), Mono(event.at.0 + 3_999_999_999)] {
                event.at = at;
                let mut out = Vec::new();
                if !write(&mut out, &event, seq, &mut clock, &wall) {
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
        let mut clock = Clock::default();
        let mut sockets = 0;
        for (seq, event) in (0u64..).zip(samples::all()) {
            let cx = LineContext { seq, clock: &wall, socket: None, redacted: false, part: 0 };
            let slow = Line::new(&event, cx).unwrap();
            let mut all = vec![slow.clone()];
            if let Line::Socket(l) = &slow {
                sockets += 1;
                let tcp: TcpPart = samples::metrics().into();
                let seconds = Some(Seconds(std::time::Duration::from_millis(12_600)));
                all.push(Line::Socket(Box::new(SocketLine {
                    tcp,
                    idle_s: seconds,
                    gives_up_in_s: seconds,
                    ..*l.clone()
                })));
                all.push(Line::Socket(Box::new(SocketLine {
                    orphaned: true,
                    destroyed: true,
                    mptcp: None,
                    ..*l.clone()
                })));
                let bare = br#"{"type":"socket","seq":0,"time":"2026-11-23T17:00:00.000000000Z","socket":"1"}"#;
                all.push(Line::parse(bare).unwrap());
                let hostile = OwnerPart { pid: 1, comm: "\"\\\u{1b}[2J".into(), fd: Some(0), program: Vec::new() };
                all.push(Line::Socket(Box::new(SocketLine { owners: vec![hostile], opened: None, ..*l.clone() })));
            }
            for slow in all {
                let mut fast = Vec::new();
                line(&mut fast, &slow, &mut clock).unwrap();
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
