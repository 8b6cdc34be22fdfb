//! The lines that come in storms (`reset`, `retransmit`, `state`, `sample`), written by hand into a reused buffer: about
//! a third of what the general serialiser costs. A test holds both to the same output.

use std::net::SocketAddr;
use std::time::Duration;

use super::wire::{TIME_LEN, Time};
use crate::model::{Event, EventKind, Flow, PacketFacts, SocketId, TcpDetail, TcpMetrics, WallClock};

/// Formats event times; remembers the text of the current second.
#[derive(Debug)]
pub struct Clock {
    second: i64,
    text: [u8; TIME_LEN],
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: 0, text: Time(0).format() }
    }
}

impl Clock {
    fn text(&mut self, time: Time) -> &[u8; TIME_LEN] {
        let second = time.0.div_euclid(1_000_000_000);
        if second != self.second {
            self.second = second;
            self.text = time.format();
        } else {
            let mut n = time.0.rem_euclid(1_000_000_000) as u32;
            for slot in self.text[20..29].iter_mut().rev() {
                *slot = b'0' + (n % 10) as u8;
                n /= 10;
            }
        }
        &self.text
    }
}

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
            w.metrics(&s.tcp);
            w.seconds(b",\"gives_up_in_s\":", s.gives_up_in);
        }
        _ => {}
    }
    w.raw(b"}");
    true
}

struct Fields<'a> {
    out: &'a mut Vec<u8>,
}

impl Fields<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn number(&mut self, n: u64) {
        self.raw(itoa::Buffer::new().format(n).as_bytes());
    }

    fn null(&mut self) {
        self.raw(b"null");
    }

    fn cookie(&mut self, id: Option<SocketId>) {
        let Some(SocketId(mut n)) = id else { return self.null() };
        let mut text = *b"\"0000000000000000\"";
        let mut at = 17;
        loop {
            at -= 1;
            text[at] = b"0123456789abcdef"[(n & 15) as usize];
            n >>= 4;
            if n == 0 {
                break;
            }
        }
        text[at - 1] = b'"';
        self.raw(&text[at - 1..]);
    }

    fn int<N: Into<u64>>(&mut self, key: &[u8], n: Option<N>) {
        self.raw(key);
        match n {
            Some(n) => self.number(n.into()),
            None => self.null(),
        }
    }

    /// A word of ours: nothing in it needs escaping.
    fn word(&mut self, key: &[u8], word: Option<&str>) {
        self.raw(key);
        let Some(word) = word else { return self.null() };
        self.raw(b"\"");
        self.raw(word.as_bytes());
        self.raw(b"\"");
    }

    fn text(&mut self, key: &[u8], text: Option<&str>) {
        self.raw(key);
        let Some(text) = text else { return self.null() };
        if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
            self.raw(b"\"");
            self.raw(text.as_bytes());
            self.raw(b"\"");
        } else if serde_json::to_writer(&mut *self.out, text).is_err() {
            // Writing a string into memory cannot fail; an empty one keeps the line whole all the same.
            self.raw(b"\"\"");
        }
    }

    fn flow(&mut self, flow: Option<Flow>) {
        self.raw(b",\"local\":");
        self.addr(flow.map(|f| f.local));
        self.raw(b",\"remote\":");
        self.addr(flow.map(|f| f.remote));
    }

    fn addr(&mut self, addr: Option<SocketAddr>) {
        use std::io::Write as _;
        match addr {
            None => self.null(),
            Some(SocketAddr::V4(a)) => {
                self.raw(b"\"");
                for (n, octet) in a.ip().octets().into_iter().enumerate() {
                    if n > 0 {
                        self.raw(b".");
                    }
                    self.number(octet.into());
                }
                self.raw(b":");
                self.number(a.port().into());
                self.raw(b"\"");
            }
            Some(a) => {
                // Into memory: cannot fail.
                let _ = write!(self.out, "\"{a}\"");
            }
        }
    }

    /// Exact to the nanosecond, without a float on the way.
    fn seconds(&mut self, key: &[u8], d: Option<Duration>) {
        self.raw(key);
        let Some(d) = d else { return self.null() };
        self.number(d.as_secs());
        let mut n = d.subsec_nanos();
        let mut text = *b".000000000";
        for slot in text[1..].iter_mut().rev() {
            *slot = b'0' + (n % 10) as u8;
            n /= 10;
        }
        let end = text.iter().rposition(|b| *b != b'0').unwrap_or(0).max(1);
        self.raw(&text[..=end]);
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

    fn flag(&mut self, key: &[u8], b: Option<bool>) {
        self.raw(key);
        self.raw(match b {
            Some(true) => b"true",
            Some(false) => b"false",
            None => b"null",
        });
    }

    /// A field that is left out where it is unknown; a comma unless it is the first of its object.
    fn known<N: Into<u64>>(&mut self, key: &[u8], n: Option<N>) {
        if let Some(n) = n {
            self.comma();
            self.raw(key);
            self.number(n.into());
        }
    }

    fn comma(&mut self) {
        if self.out.last() != Some(&b'{') {
            self.raw(b",");
        }
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

    fn metrics(&mut self, t: &TcpMetrics) {
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

fn micros(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000_000).saturating_add(d.subsec_micros().into())
}

fn millis(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000).saturating_add(d.subsec_millis().into())
}

#[cfg(test)]
mod tests {
    use super::super::{Line, LineContext, samples};
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

    /// The keys in their order.
    fn keys(json: &str) -> Vec<&str> {
        json.split('"').skip(1).step_by(2).collect()
    }

    #[test]
    fn cookies_and_seconds_at_their_ends() {
        let mut out = Vec::new();
        let mut w = Fields { out: &mut out };
        w.cookie(Some(SocketId(0)));
        w.cookie(Some(SocketId(u64::MAX)));
        w.seconds(b" ", Some(Duration::ZERO));
        w.seconds(b" ", Some(Duration::from_nanos(1)));
        w.seconds(b" ", Some(Duration::from_millis(12_600)));
        assert_eq!(out, b"\"0\"\"ffffffffffffffff\" 0.0 0.000000001 12.6");
    }
}
