//! A socket in half the memory, for those that wait until their owners are known.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::model::{Family, Flow, SocketId, TcpMetrics, TcpState, canonical, mapped};
use crate::source::diag::DiagSocket;

/// Figures of 32 bits: what sock_diag gives, so nothing is lost.
const FIGURES: usize = 20;
const BYTES: usize = 3;

/// What [`DiagSocket`] holds, its optional figures side by side with one bit each for «known».
#[derive(Clone, Copy)]
pub struct Packed {
    id: u64,
    bytes: [u64; BYTES],
    figures: [u32; FIGURES],
    known: u32,
    interface: u32,
    uid: u32,
    inode: u32,
    receive_queue: u32,
    send_queue: u32,
    local: ([u8; 16], u16),
    remote: ([u8; 16], u16),
    state: TcpState,
    family: Family,
    timer_retransmits: u8,
    v6only: Option<bool>,
    mptcp: bool,
}

impl Packed {
    pub fn id(&self) -> SocketId {
        SocketId(self.id)
    }
}

impl From<&DiagSocket> for Packed {
    fn from(s: &DiagSocket) -> Self {
        let t = &s.tcp;
        let short = |n: Option<u64>| n.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let micros = |d: Option<Duration>| short(d.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)));
        let figures = [
            micros(t.rtt),
            micros(t.rto),
            t.backoff.map(u32::from),
            t.retransmits.map(u32::from),
            t.probes.map(u32::from),
            t.unacked_segments,
            short(t.unacked_bytes),
            short(t.send_queue_bytes),
            short(t.receive_queue_bytes),
            short(t.last_sent_ms),
            short(t.last_received_ms),
            short(t.last_ack_ms),
            t.data_segments_sent,
            t.data_segments_received,
            t.total_retransmits,
            t.send_mss,
            t.send_window_bytes,
            t.congestion_window,
            t.timer.map(u32::from),
            t.timer_ms,
        ];
        let bytes = [t.bytes_sent, t.bytes_received, t.bytes_acked];
        let all = figures.iter().map(Option::is_some).chain(bytes.iter().map(Option::is_some));
        let end = |a: SocketAddr| (mapped(a.ip()), a.port());
        Self {
            id: s.id.0,
            bytes: bytes.map(Option::unwrap_or_default),
            figures: figures.map(Option::unwrap_or_default),
            known: all.enumerate().fold(0, |bits, (n, known)| bits | u32::from(known) << n),
            interface: s.interface,
            uid: s.uid,
            inode: s.inode,
            receive_queue: s.receive_queue,
            send_queue: s.send_queue,
            local: end(s.flow.local),
            remote: end(s.flow.remote),
            state: s.state,
            family: s.family,
            timer_retransmits: s.timer_retransmits,
            v6only: s.v6only,
            mptcp: s.mptcp,
        }
    }
}

impl From<&Packed> for DiagSocket {
    fn from(p: &Packed) -> Self {
        let figure = |n: usize| (p.known >> n & 1 != 0).then(|| p.figures[n]);
        // All were made from a value of that size.
        let byte = |n: usize| figure(n).map(|v| v as u8);
        let long = |n: usize| figure(n).map(u64::from);
        let micros = |n: usize| long(n).map(Duration::from_micros);
        let bytes = |n: usize| (p.known >> (FIGURES + n) & 1 != 0).then(|| p.bytes[n]);
        let end = |(ip, port): ([u8; 16], u16)| SocketAddr::new(canonical(Ipv6Addr::from(ip).into()), port);
        DiagSocket {
            id: SocketId(p.id),
            family: p.family,
            flow: Flow { local: end(p.local), remote: end(p.remote) },
            state: p.state,
            interface: p.interface,
            uid: p.uid,
            inode: p.inode,
            timer_retransmits: p.timer_retransmits,
            receive_queue: p.receive_queue,
            send_queue: p.send_queue,
            tcp: TcpMetrics {
                rtt: micros(0),
                rto: micros(1),
                backoff: byte(2),
                retransmits: byte(3),
                probes: byte(4),
                unacked_segments: figure(5),
                unacked_bytes: long(6),
                send_queue_bytes: long(7),
                receive_queue_bytes: long(8),
                last_sent_ms: long(9),
                last_received_ms: long(10),
                last_ack_ms: long(11),
                data_segments_sent: figure(12),
                data_segments_received: figure(13),
                total_retransmits: figure(14),
                send_mss: figure(15),
                send_window_bytes: figure(16),
                congestion_window: figure(17),
                timer: byte(18),
                timer_ms: figure(19),
                bytes_sent: bytes(0),
                bytes_received: bytes(1),
                bytes_acked: bytes(2),
            },
            v6only: p.v6only,
            mptcp: p.mptcp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::samples;

    #[test]
    fn nothing_is_lost() {
        for tcp in [samples::metrics(), TcpMetrics::default()] {
            for (family, ends) in
                [(Family::V4, ["10.0.0.1:1", "192.0.2.1:443"]), (Family::V6, ["[fd00::1]:9", "[::]:0"])]
            {
                let s = DiagSocket {
                    id: SocketId(u64::MAX - 5),
                    family,
                    flow: Flow { local: ends[0].parse().unwrap(), remote: ends[1].parse().unwrap() },
                    state: TcpState::CloseWait,
                    interface: 2,
                    uid: 3,
                    inode: 4,
                    timer_retransmits: 5,
                    receive_queue: 6,
                    send_queue: u32::MAX,
                    tcp,
                    v6only: Some(true),
                    mptcp: true,
                };
                assert_eq!(DiagSocket::from(&Packed::from(&s)), s);
            }
        }
        assert!(size_of::<Packed>() * 2 <= size_of::<DiagSocket>() + 32, "{}", size_of::<Packed>());
    }
}
