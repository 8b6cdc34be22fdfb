//! Segments and timers: what is sent, acknowledged and sent again.

use agent::model::*;

use super::super::script::Step;
use super::telling::total;
use super::{MSS, Sim};

impl Sim<'_> {
    pub(super) fn send(&mut self, now: f64, name: &str, bytes: u64) {
        let s = self.socks.get_mut(name).unwrap();
        let mut left = bytes;
        if s.out.is_empty() {
            s.first_sent = now;
        }
        while left > 0 {
            let n = left.min(u64::from(MSS));
            s.out.push(n as u32);
            s.segments += 1;
            left -= n;
        }
        s.bytes_sent += bytes;
        s.last_sent = now;
    }

    pub(super) fn acked(&mut self, now: f64, name: &str) {
        let s = self.socks.get_mut(name).unwrap();
        s.bytes_acked += s.out.drain(..).map(u64::from).sum::<u64>();
        s.last_ack = now + s.rtt;
        s.backoff = 0;
        s.retransmits = 0;
        s.probes = 0;
        s.tlp = false;
        s.next_timer = None;
    }

    pub(super) fn receive(&mut self, now: f64, name: &str, bytes: u64) {
        let s = self.socks.get_mut(name).unwrap();
        s.bytes_received += bytes;
        s.last_received = now;
        s.last_ack = now;
    }

    pub(super) fn send_lost(&mut self, now: f64, name: &str, bytes: u64, larger_than: Option<u32>) {
        self.send(now, name, bytes);
        let s = self.socks.get_mut(name).unwrap();
        s.swallow = larger_than;
        let probe = 2.0 * s.rtt + if s.out.len() == 1 { 0.2 } else { 0.002 };
        s.tlp = probe < s.base_rto;
        s.next_timer = Some(now + if s.tlp { probe } else { s.base_rto });
    }

    /// The timer of a socket runs out.
    pub(super) fn fire(&mut self, now: f64, name: &str) {
        let s = self.socks.get_mut(name).unwrap();
        if s.state == TcpState::SynSent {
            if s.retransmits >= 6 {
                return self.change(now, name, TcpState::Close);
            }
            s.retransmits += 1;
            s.next_timer = Some(now + f64::from(1 << s.retransmits));
            return self.retransmit(now, name, RetransmitKind::Syn, 0);
        }
        if s.out.is_empty() {
            return self.probe(now, name);
        }
        if s.tlp {
            s.tlp = false;
            s.next_timer = Some((s.first_sent + s.base_rto).max(now + s.base_rto));
            let tail = *s.out.last().unwrap();
            let passes = s.swallow.is_some_and(|max| tail <= max);
            let at = self.socks[name].out.len() - 1;
            self.retransmit(now, name, RetransmitKind::Tlp, at);
            if passes {
                // The tail gets through: a selective ACK comes back, nothing is acknowledged cumulatively.
                let s = self.socks.get_mut(name).unwrap();
                s.last_ack = now + s.rtt + 0.02;
                s.next_timer = Some(now + s.base_rto);
            }
            return;
        }
        if u32::from(s.retransmits) > s.retries2 || now - s.first_sent >= total(s.base_rto, s.retries2) {
            return self.change(now, name, TcpState::Close);
        }
        let rto = s.base_rto * f64::from(1u32 << s.backoff);
        s.retransmits += 1;
        self.retransmit_with(now, name, RetransmitKind::Rto, 0, rto);
        let s = self.socks.get_mut(name).unwrap();
        s.backoff += 1;
        s.next_timer = Some(now + (rto * 2.0).min(120.0));
    }

    pub(super) fn probe(&mut self, now: f64, name: &str) {
        let s = self.socks.get_mut(name).unwrap();
        let (_, interval, count) = s.keepalive.unwrap();
        if u32::from(s.probes) >= count {
            let step = Step { reason: Some("TCP_KEEPALIVE_TIMEOUT".into()), ..Default::default() };
            self.change(now, name, TcpState::Close);
            return self.reset(now, name, ResetDirection::Sent, &step);
        }
        s.probes += 1;
        s.next_timer = Some(now + f64::from(interval));
    }

    pub(super) fn retransmit(&mut self, now: f64, name: &str, how: RetransmitKind, segment: usize) {
        let rto = self.socks[name].base_rto;
        self.retransmit_with(now, name, how, segment, rto);
    }
}
