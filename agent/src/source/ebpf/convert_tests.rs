use super::super::decode::Kept;
use super::*;

const NOW: u64 = 5_000_000_000;

fn converter() -> Converter {
    let mut offsets = vec![0; Offsets::PATHS.len()];
    offsets.iter_mut().enumerate().for_each(|(i, o)| *o = i as u32);
    Converter {
        offsets: Offsets::from_slice(&offsets).unwrap(),
        tick_ns: 4_000_000,
        reasons: [(14, "TCP_STATE")].into_iter().collect(),
        spare: Spare::default(),
    }
}

fn record(kind: u8) -> Record {
    let mapped = |d: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, d];
    Record {
        ts: NOW,
        kind,
        saddr: mapped(1),
        daddr: mapped(2),
        sport: 40_000,
        dport: 443,
        jiffies: 10_000,
        state: 1,
        netns: 7,
        pid: 42,
        ..Record::default()
    }
}

fn converted(d: &Kept, socket: Option<SocketId>) -> (Vec<Event>, Vec<Fork>) {
    let (mut events, mut forks) = (Vec::new(), Vec::new());
    converter().convert(d.decoded(), socket, &mut events, &mut forks);
    (events, forks)
}

fn event(d: &Kept) -> EventKind {
    let (mut events, forks) = converted(d, Some(SocketId(9)));
    let event = events.pop().unwrap();
    assert_eq!((event.at, events.len(), forks.len()), (Mono(NOW), 0, 0));
    event.kind
}

fn bare(record: Record) -> Kept {
    Kept { record, detail: None, stats: None }
}

#[test]
fn a_retransmit_has_units_and_never_a_pid() {
    let detail = RawDetail {
        srtt_us_x8: 8 * 1_500,
        rto: 51,
        snd_una: u32::MAX - 9,
        snd_nxt: 90,
        write_seq: 190,
        lsndtime: 9_950,
        lrcvtime: 9_000,
        keepalive: 255,
        ..RawDetail::default()
    };
    let r = Record { how: retransmit::TLP, aux: 3, ..record(kind::RETRANSMIT) };
    let EventKind::Retransmit(x) = event(&Kept { record: r, detail: Some(detail), stats: None }) else { panic!() };
    assert_eq!(
        (x.socket, x.pid, x.how, x.segments, x.netns),
        (Some(SocketId(9)), None, RetransmitKind::Tlp, 3, Some(7))
    );
    assert_eq!(x.flow.unwrap().remote.to_string(), "10.0.0.2:443");
    let d = x.detail;
    assert_eq!((d.rtt, d.rto), (Some(Duration::from_micros(1_500)), Some(Duration::from_millis(204))));
    assert_eq!((d.unacked_bytes, d.send_queue_bytes), (Some(100), Some(200)));
    assert_eq!(d.last_sent, Some(Duration::from_millis(200)));
    // No byte received yet: the stamp is the handshake's. No ACK stamp. Keepalive not known.
    assert_eq!((d.last_received, d.last_ack, d.keepalive), (None, None, None));
}

#[test]
fn members_that_the_kernel_lacks_are_unknown_not_zero() {
    let c = Converter { offsets: Offsets::NONE, ..converter() };
    let d = Kept { record: record(kind::RETRANSMIT), detail: Some(RawDetail::default()), stats: None };
    let mut detail = TcpDetail::default();
    c.detail(&d.record, d.detail.as_ref().unwrap(), &mut detail);
    assert_eq!(detail, TcpDetail { keepalive: Some(false), ..TcpDetail::default() });
}

#[test]
fn resets_carry_reason_and_packet_only_where_there_are_any() {
    let detail = RawDetail {
        seq: 77,
        rcv_nxt: 77,
        ttl: 64,
        flow_ttl: 63,
        flow_ttl_max: 63,
        tcp_flags: 0x14,
        ip_id: 5,
        ..RawDetail::default()
    };
    let flags = flag::HAS_PACKET | flag::HAS_DETAIL;
    let r = Record { flags, ..record(kind::RECEIVE_RESET) };
    let EventKind::Reset(x) = event(&Kept { record: r, detail: Some(detail), stats: None }) else { panic!() };
    assert_eq!((x.direction, x.origin), (ResetDirection::Received, ResetOrigin::Unknown));
    assert_eq!(
        x.packet,
        PacketFacts {
            ttl: Some(64),
            flow_ttl: Some(63),
            flow_ttl_max: Some(63),
            ip_id: Some(5),
            flow_ip_id: Some(0),
            seq_expected: Some(true),
            with_ack: Some(true),
            window: Some(0),
        }
    );
    assert_eq!(x.kernel_reason, None);

    for (number, name) in [(14, "TCP_STATE"), (99, "99")] {
        let r = Record { flags: flag::HAS_REASON, reason: number, ..record(kind::SEND_RESET) };
        let EventKind::Reset(x) = event(&bare(r)) else { panic!() };
        assert_eq!((x.direction, x.origin), (ResetDirection::Sent, ResetOrigin::Local));
        assert_eq!(x.kernel_reason.as_deref(), Some(name));
        assert_eq!(x.packet, PacketFacts::default());
    }
}

#[test]
fn a_pid_is_told_only_where_it_is_the_owner() {
    for (flags, pid) in [(0, None), (flag::PID_IS_OWNER, Some(42))] {
        let r = Record { flags, state: 7, new_state: 2, sport: 0, ..record(kind::STATE) };
        let EventKind::State(x) = event(&bare(r)) else { panic!() };
        assert_eq!((x.pid, x.from, x.to), (pid, TcpState::Close, TcpState::SynSent));
        assert!(x.flow.is_some(), "a SYN has a remote end but no port of its own yet");
    }
    let gone = Record { new_state: 7, sport: 0, ..record(kind::STATE) };
    let EventKind::State(x) = event(&bare(gone)) else { panic!() };
    assert_eq!(x.flow, None);
    let strange = Record { new_state: 99, ..record(kind::STATE) };
    assert_eq!(converted(&bare(strange), None), (vec![], vec![]));
}

#[test]
fn ends_forks_and_exits() {
    let stats = SockStats { retransmits: 4, rto: 1, syn: 3, resets_sent: 1, ..SockStats::default() };
    let d = Kept { record: record(kind::DESTROY), detail: None, stats: Some(stats) };
    let EventKind::Socket(u) = event(&d) else { panic!() };
    let expected = Counters { retransmits: 4, rto: 1, syn: 3, resets_sent: 1, ..Counters::default() };
    assert_eq!((u.id, u.counters, u.destroyed), (Some(SocketId(9)), Some(expected), true));
    assert_eq!(converted(&d, None), (vec![], vec![]));

    let fork = Record { pid: 43, aux: 42, ..record(kind::FORK) };
    let expected = Fork { parent: 42, child: 43, at: Mono(NOW) };
    assert_eq!(converted(&bare(fork), None), (vec![], vec![expected]));
    assert_eq!(event(&bare(record(kind::EXIT))), EventKind::Exit { pid: 42 });
}
