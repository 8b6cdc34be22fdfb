//! What the agent gets to see of it: retransmit and reset events, samples.

use agent::model::*;

use super::super::script::Step;
use super::{FLOW_TTL, MSS, Sim, Sock, secs};

impl Sim<'_> {
    pub(super) fn retransmit_with(&mut self, now: f64, name: &str, how: RetransmitKind, segment: usize, rto: f64) {
        let s = self.socks.get_mut(name).unwrap();
        s.total_retrans += 1;
        s.segments += 1;
        s.last_sent = now;
        if self.head.samples_only {
            return;
        }
        let detail = TcpDetail { rto: Some(secs(rto)), segment_bytes: s.out.get(segment).copied(), ..detail(s, now) };
        let gives_up = give_up(s);
        let r = Retransmit {
            socket: Some(s.id),
            flow: Some(s.flow),
            netns: None,
            pid: None,
            state: Some(s.state),
            how,
            segments: 1,
            detail,
            gives_up_in: Some(secs(s.first_sent + gives_up - now)),
        };
        self.emit(now, EventKind::Retransmit(Box::new(r)));
    }

    pub(super) fn reset(&mut self, now: f64, name: &str, direction: ResetDirection, step: &Step) {
        if self.head.samples_only {
            return;
        }
        let s = &self.socks[name];
        let mut packet = PacketFacts::default();
        if direction == ResetDirection::Received && !self.head.no_provenance {
            packet.ttl = Some(step.ttl.unwrap_or(FLOW_TTL));
            packet.flow_ttl = (s.state != TcpState::SynSent).then_some(FLOW_TTL);
            packet.flow_ttl_max = packet.flow_ttl;
            packet.ip_id = step.ip_id;
            packet.flow_ip_id = Some(30_000);
            packet.seq_expected = Some(true);
            packet.with_ack = step.with_ack;
        }
        let origin = match direction {
            ResetDirection::Sent => ResetOrigin::Local,
            ResetDirection::Received => ResetOrigin::Unknown,
        };
        let mut detail = detail(s, now);
        if s.state == TcpState::SynSent {
            detail = TcpDetail::default();
        }
        let r = Reset {
            socket: Some(s.id),
            flow: Some(s.flow),
            netns: None,
            pid: None,
            direction,
            origin,
            origin_why: "".into(),
            state: Some(s.state),
            idle_before: None,
            kernel_reason: step.reason.clone().map(Into::into),
            packet,
            detail,
        };
        self.emit(now, EventKind::Reset(r.into()));
    }

    pub(super) fn sample(&mut self, now: f64, name: &str) {
        let s = &self.socks[name];
        if s.gone || s.state == TcpState::Close {
            return;
        }
        let ms = |t: f64| Some(((now - t).max(0.0) * 1e3) as u64);
        let timer = if s.zero_window {
            Some(4)
        } else if !s.out.is_empty() {
            Some(1)
        } else if s.probes > 0 || s.keepalive.is_some() {
            Some(2)
        } else {
            Some(0)
        };
        let unacked: u64 = s.out.iter().copied().map(u64::from).sum();
        let tcp = TcpMetrics {
            rtt: Some(secs(s.rtt)),
            rto: Some(secs(s.base_rto * f64::from(1u32 << s.backoff))),
            backoff: Some(s.backoff),
            retransmits: Some(s.retransmits),
            probes: Some(s.probes),
            unacked_segments: Some(s.out.len() as u32),
            unacked_bytes: Some(unacked),
            send_queue_bytes: Some(unacked + s.unsent),
            receive_queue_bytes: Some(0),
            last_sent_ms: ms(s.last_sent),
            last_received_ms: ms(s.last_received),
            last_ack_ms: ms(s.last_ack),
            bytes_sent: Some(s.bytes_sent),
            bytes_received: Some(s.bytes_received),
            bytes_acked: Some(s.bytes_acked),
            data_segments_sent: Some(s.segments),
            data_segments_received: Some((s.bytes_received / u64::from(MSS)) as u32),
            total_retransmits: Some(s.total_retrans),
            send_mss: Some(MSS),
            send_window_bytes: Some(if s.zero_window { 0 } else { 65_536 }),
            congestion_window: Some(10),
            timer,
            timer_ms: None,
        };
        let gives_up_in = (s.retransmits > 0 && !s.out.is_empty()).then(|| secs(s.first_sent + give_up(s) - now));
        let sample = Sample { socket: s.id, state: s.state, tcp, gives_up_in };
        self.emit(now, EventKind::Sample(Box::new(sample)));
    }
}

/// From the first send to the end: `tcp_syn_retries` 6 for a SYN.
fn give_up(s: &Sock) -> f64 {
    if s.state == TcpState::SynSent { 127.0 } else { total(s.base_rto, s.retries2) }
}

/// `tcp_model_timeout`: the hang with this RTO and `tcp_retries2`, without the cap of 120 s up to nine retries.
pub(super) fn total(rto: f64, retries2: u32) -> f64 {
    if retries2 <= 9 {
        f64::from((2u32 << retries2) - 1) * rto
    } else {
        f64::from((2u32 << 9) - 1) * rto + f64::from(retries2 - 9) * 120.0
    }
}

fn detail(s: &Sock, now: f64) -> TcpDetail {
    let unacked: u64 = s.out.iter().copied().map(u64::from).sum();
    TcpDetail {
        rtt: Some(secs(s.rtt)),
        rto: Some(secs(s.base_rto)),
        backoff: Some(s.backoff),
        retransmits: Some(s.retransmits),
        total_retransmits: Some(s.total_retrans),
        unacked_segments: Some(s.out.len() as u32),
        unacked_bytes: Some(unacked),
        send_queue_bytes: Some(unacked),
        bytes_sent: Some(s.bytes_sent),
        bytes_acked: Some(s.bytes_acked),
        bytes_received: Some(s.bytes_received),
        last_sent: Some(secs(now - s.last_sent)),
        last_received: Some(secs(now - s.last_received)),
        last_ack: Some(secs(now - s.last_ack)),
        segment_bytes: None,
        send_mss: Some(MSS),
        send_window_bytes: Some(65_536),
        user_timeout_ms: Some(0),
        keepalive: Some(s.keepalive.is_some()),
        probes: None,
    }
}
