//! One event of each kind with every field set, and one with every optional field absent: for the tests of the views.

use std::time::Duration;

use crate::model::*;

pub(crate) fn clock() -> WallClock {
    WallClock::new(1_795_453_200_000_000_000, Mono(0))
}

pub(crate) fn flow() -> Flow {
    Flow { local: "10.1.0.2:53072".parse().unwrap(), remote: "192.0.2.7:443".parse().unwrap() }
}

pub(crate) fn detail() -> TcpDetail {
    TcpDetail {
        rtt: Some(Duration::from_micros(31_000)),
        rto: Some(Duration::from_millis(231)),
        backoff: Some(3),
        retransmits: Some(4),
        total_retransmits: Some(9),
        unacked_segments: Some(2),
        unacked_bytes: Some(2_896),
        send_queue_bytes: Some(94_208),
        bytes_sent: Some(1 << 40),
        bytes_acked: Some(7),
        bytes_received: Some(0),
        last_sent: Some(Duration::from_millis(231)),
        last_received: Some(Duration::from_millis(302_000)),
        last_ack: Some(Duration::from_millis(301_969)),
        segment_bytes: Some(1448),
        send_mss: Some(1448),
        send_window_bytes: Some(65_535),
        user_timeout_ms: Some(0),
        keepalive: Some(false),
        probes: Some(2),
    }
}

pub(crate) fn metrics() -> TcpMetrics {
    TcpMetrics {
        rtt: Some(Duration::from_micros(31_250)),
        rto: Some(Duration::from_micros(231_250)),
        backoff: Some(1),
        retransmits: Some(1),
        probes: Some(0),
        unacked_segments: Some(1),
        unacked_bytes: Some(100),
        send_queue_bytes: Some(200),
        receive_queue_bytes: Some(0),
        last_sent_ms: Some(40),
        last_received_ms: Some(50),
        last_ack_ms: Some(60),
        bytes_sent: Some(1_000),
        bytes_received: Some(2_000),
        bytes_acked: Some(900),
        data_segments_sent: Some(10),
        data_segments_received: Some(20),
        total_retransmits: Some(1),
        send_mss: Some(1448),
        send_window_bytes: Some(64_000),
        congestion_window: Some(10),
        timer: Some(1),
        timer_ms: Some(150),
    }
}

pub(crate) fn reset() -> Reset {
    Reset {
        socket: Some(SocketId(0xfeed)),
        flow: Some(flow()),
        netns: Some(4_026_531_840),
        pid: Some(4182),
        direction: ResetDirection::Received,
        origin: ResetOrigin::Middlebox,
        origin_why: "TTL 64, the flow has 63 \"quoted\"\n".into(),
        state: Some(TcpState::Established),
        idle_before: Some(Duration::from_nanos(302_000_000_001)),
        kernel_reason: Some("TCP_STATE".into()),
        packet: PacketFacts {
            ttl: Some(64),
            flow_ttl: Some(63),
            flow_ttl_max: Some(63),
            ip_id: Some(0),
            flow_ip_id: Some(4242),
            seq_expected: Some(true),
            with_ack: Some(true),
            window: Some(0),
        },
        detail: detail(),
    }
}

pub(crate) fn empty_reset() -> Reset {
    Reset {
        socket: None,
        flow: None,
        netns: None,
        pid: None,
        direction: ResetDirection::Sent,
        origin: ResetOrigin::Unknown,
        origin_why: "".into(),
        state: None,
        idle_before: None,
        kernel_reason: None,
        packet: PacketFacts::default(),
        detail: TcpDetail::default(),
    }
}

pub(crate) fn retransmit() -> Retransmit {
    Retransmit {
        socket: Some(SocketId(u64::MAX)),
        flow: Some(Flow { local: "[fd00::2]:53072".parse().unwrap(), remote: "[2001:db8::7]:443".parse().unwrap() }),
        netns: Some(7),
        pid: Some(1),
        state: Some(TcpState::Established),
        how: RetransmitKind::Rto,
        segments: 3,
        detail: detail(),
        gives_up_in: Some(Duration::from_millis(924_600)),
    }
}

pub(crate) fn empty_retransmit() -> Retransmit {
    Retransmit {
        socket: None,
        flow: None,
        netns: None,
        pid: None,
        state: None,
        how: RetransmitKind::Unknown,
        segments: 1,
        detail: TcpDetail::default(),
        gives_up_in: None,
    }
}

fn program() -> std::sync::Arc<[Component]> {
    let part = |name: &str, version: &str| Component { name: name.into(), version: version.into() };
    [part("Node.js", "20.19.2"), part("@anthropic-ai/claude-code", "2.0.14")].into()
}

pub(crate) fn session() -> Session {
    Session {
        agent_version: "0.1.0".into(),
        kernel_release: "6.18.0".into(),
        arch: "x86_64".into(),
        command: vec!["agent".into(), "watch".into(), "--pid".into(), "4182".into()],
        targets: Targets {
            pids: vec![4182],
            tree: true,
            all: false,
            comms: vec!["node".into()],
            cgroup: Some("/user.slice".into()),
            destinations: vec!["api.example.com:443".into()],
        },
        hooks: vec![
            Hook { name: "tcp_send_reset".into(), backend: "tp_btf".into(), attached: true, why_not: None },
            Hook {
                name: "provenance".into(),
                backend: "cgroup_skb".into(),
                attached: false,
                why_not: Some("no cgroup2".into()),
            },
        ],
        sysctl: [("tcp_retries2".to_owned(), Some(15)), ("tcp_rto_max_ms".to_owned(), None)].into(),
        limits: vec!["no provenance".into()],
    }
}

pub(crate) fn socket_update() -> SocketUpdate {
    SocketUpdate {
        id: Some(SocketId(0xfeed)),
        family: Some(Family::V4),
        flow: Some(flow()),
        remote_name: Some("api.example.com".into()),
        netns: Some(4_026_531_840),
        owners: Some(
            [
                Owner { pid: 4182, comm: "node".into(), fd: Some(23), program: Some(program()) },
                Owner { pid: 4190, comm: "worker".into(), fd: None, program: None },
            ]
            .into(),
        ),
        direction: Some(Direction::Outgoing),
        state: Some(TcpState::Established),
        opened: Some(Mono(1_500_000_000)),
        keepalive: Some(Keepalive {
            enabled: true,
            idle_s: 30,
            interval_s: 10,
            count: 3,
            user_timeout_ms: 0,
            set_by: Some(SetBy::Application),
        }),
        counters: Some(Counters { retransmits: 1, rto: 1, ..Counters::default() }),
        mptcp: Some(false),
        destroyed: false,
    }
}

pub(crate) fn finding() -> Finding {
    Finding {
        id: 3,
        code: Code::IdlePathDead,
        confidence: Confidence::Likely,
        status: FindingStatus::Open,
        opened: Mono(5_000_000_000),
        sockets: vec![SocketId(0xfeed), SocketId(2)],
        pid: Some(4182),
        destination: Some("api.example.com:443".into()),
        summary: "3 sockets hang; the path forgot them after 4:51 idle".into(),
        evidence: vec![Evidence { at: Mono(4_000_000_000), text: "94 KiB sent after 302.0 s idle".into() }],
        rivals: vec!["peer down".into()],
        advice: vec!["agent keepalive --pid 4182 --idle 30s".into()],
        gives_up_in_s: Some(820.5),
        numbers: [("idle_s", 302.0), ("retransmits", 8.0)].into(),
    }
}

pub(crate) fn action() -> ActionRecord {
    let values = OptionValues { enabled: false, idle_s: 7200, interval_s: 75, count: 9, user_timeout_ms: 0 };
    ActionRecord {
        action: ActionKind::Keepalive,
        socket: Some(SocketId(0xfeed)),
        pid: Some(4182),
        fd: Some(23),
        method: Method::Pidfd,
        before: Some(values),
        after: Some(OptionValues { enabled: true, idle_s: 30, interval_s: 10, count: 3, ..values }),
        result: ActionResult::Applied,
        error: None,
        remote: Some("192.0.2.7:443".into()),
        note: Some("2,896 bytes are unacknowledged: keepalive cannot rescue them".into()),
    }
}

pub(crate) fn limits() -> IdleLimits {
    let ms = Duration::from_millis;
    IdleLimits {
        name: Some("api.example.com".into()),
        remote: "192.0.2.7:443".parse().unwrap(),
        server_closes: Some(IdleFigure { count: 4, median: ms(60_000), shortest: ms(59_900), spread: ms(200) }),
        path_drops: None,
        path_resets: None,
        resets: Some(IdleFigure { count: 1, median: ms(350_000), shortest: ms(350_000), spread: ms(0) }),
        survived: 12,
        longest_survivor: Some(ms(55_125)),
        pool_timeout: Some(ms(53_000)),
        keepalive_idle: Some(ms(116_000)),
    }
}

/// Every kind of event, in an order that a run could have.
pub(crate) fn all() -> Vec<Event> {
    let kinds = vec![
        EventKind::Session(Box::new(session())),
        EventKind::Socket(Box::new(socket_update())),
        EventKind::State(StateChange {
            socket: Some(SocketId(0xbeef)),
            flow: Some(flow()),
            netns: Some(1),
            family: None,
            from: TcpState::Close,
            to: TcpState::SynSent,
            pid: Some(4182),
            last: false,
        }),
        EventKind::State(StateChange {
            socket: None,
            flow: None,
            netns: None,
            family: None,
            from: TcpState::SynSent,
            to: TcpState::Close,
            pid: None,
            last: false,
        }),
        EventKind::Sample(Box::new(Sample {
            socket: SocketId(0xfeed),
            state: TcpState::Established,
            tcp: metrics(),
            gives_up_in: Some(Duration::from_millis(12_600)),
        })),
        EventKind::Sample(Box::new(Sample {
            socket: SocketId(0xbeef),
            state: TcpState::CloseWait,
            tcp: TcpMetrics::default(),
            gives_up_in: None,
        })),
        EventKind::Retransmit(Box::new(retransmit())),
        EventKind::Retransmit(Box::new(empty_retransmit())),
        EventKind::Reset(reset().into()),
        EventKind::Reset(empty_reset().into()),
        EventKind::Exit { pid: 4190 },
        EventKind::Finding(Box::new(finding())),
        EventKind::Action(Box::new(action())),
        EventKind::Limits(Box::new(limits())),
        EventKind::Lost(Lost { ring_full: 1, recursion_misses: 2, table_full: 3 }),
        EventKind::End(Box::new(End {
            reason: "interrupted".into(),
            duration: Duration::from_millis(61_500),
            totals: Totals { sockets: 2, retransmits: 4, resets_received: 1, resets_sent: 1, findings: 1, lost: 6 },
        })),
    ];
    (10u64..).zip(kinds).map(|(s, kind)| Event { at: Mono(s * 1_000_000_007), kind }).collect()
}

/// A connection that idles for 100 s behind a NAT that forgets it, and hangs: eight timeouts and no ACK. A second socket
/// to the same place gets its ACKs.
pub(crate) fn hang() -> Vec<Event> {
    let second = |s: f64| Mono((s * 1e9) as u64);
    let keepalive =
        Keepalive { enabled: false, idle_s: 7200, interval_s: 75, count: 9, user_timeout_ms: 0, set_by: None };
    let socket = |id: u64, port: u16| SocketUpdate {
        id: Some(SocketId(id)),
        family: Some(Family::V4),
        flow: Some(Flow { local: ([10, 1, 0, 2], port).into(), remote: ([198, 51, 100, 7], 443).into() }),
        remote_name: Some("api.example.com".into()),
        netns: Some(1),
        owners: Some([Owner { pid: 4182, comm: "node".into(), fd: Some(23), program: Some(program()) }].into()),
        direction: Some(Direction::Outgoing),
        state: Some(TcpState::Established),
        opened: Some(second(10.0)),
        keepalive: Some(keepalive),
        ..SocketUpdate::default()
    };
    let sample = |id: u64, sent: u64, received: u64, ages: (u64, u64), unacked: u64| Sample {
        socket: SocketId(id),
        state: TcpState::Established,
        tcp: TcpMetrics {
            rtt: Some(Duration::from_millis(31)),
            rto: Some(Duration::from_millis(231)),
            backoff: Some(0),
            retransmits: Some(0),
            unacked_segments: Some(u32::from(unacked > 0)),
            unacked_bytes: Some(unacked),
            send_queue_bytes: Some(unacked),
            receive_queue_bytes: Some(0),
            last_sent_ms: Some(ages.0),
            last_received_ms: Some(ages.1),
            last_ack_ms: Some(ages.1),
            bytes_sent: Some(sent),
            bytes_received: Some(received),
            bytes_acked: Some(sent - unacked),
            data_segments_sent: Some((sent / 1000) as u32),
            send_mss: Some(1448),
            send_window_bytes: Some(65_535),
            ..TcpMetrics::default()
        },
        gives_up_in: None,
    };
    let mut kinds = vec![(9.0, EventKind::Session(Box::new(session())))];
    for (id, port) in [(0xa1, 53_072), (0xa2, 53_080)] {
        kinds.push((11.0, EventKind::Socket(Box::new(socket(id, port)))));
        kinds.push((12.0, EventKind::Sample(Box::new(sample(id, 2_000, 5_000, (900, 850), 0)))));
    }
    for n in 1..=10 {
        let at = 12.0 + f64::from(n) * 10.0;
        let bytes = 2_000 + 500 * u64::try_from(n).unwrap_or(0);
        kinds.push((at, EventKind::Sample(Box::new(sample(0xa2, bytes, bytes * 2, (500, 450), 0)))));
    }
    let (mut at, mut rto) = (113.231, 0.231);
    for n in 0..8u8 {
        kinds.push((
            at,
            EventKind::Retransmit(Box::new(Retransmit {
                socket: Some(SocketId(0xa1)),
                flow: socket(0xa1, 53_072).flow,
                netns: Some(1),
                pid: Some(4182),
                state: Some(TcpState::Established),
                how: RetransmitKind::Rto,
                segments: 1,
                detail: TcpDetail {
                    rtt: Some(Duration::from_millis(31)),
                    rto: Some(Duration::from_secs_f64(rto)),
                    backoff: Some(n),
                    retransmits: Some(n),
                    total_retransmits: Some(u32::from(n) + 1),
                    unacked_segments: Some(1),
                    unacked_bytes: Some(900),
                    send_queue_bytes: Some(900),
                    bytes_sent: Some(2_900),
                    bytes_acked: Some(2_000),
                    bytes_received: Some(5_000),
                    last_sent: Some(Duration::from_secs_f64(rto)),
                    last_received: Some(Duration::from_secs_f64(at - 11.2)),
                    last_ack: Some(Duration::from_secs_f64(at - 11.1)),
                    segment_bytes: Some(900),
                    send_mss: Some(1448),
                    send_window_bytes: Some(65_535),
                    user_timeout_ms: Some(0),
                    keepalive: Some(false),
                    probes: Some(0),
                },
                gives_up_in: Some(Duration::from_secs_f64(924.6 - (at - 113.0))),
            })),
        ));
        rto *= 2.0;
        at += rto;
    }
    kinds
        .push((at - rto + 1.0, EventKind::Action(Box::new(ActionRecord { socket: Some(SocketId(0xa1)), ..action() }))));
    kinds.push((
        at - rto + 3.0,
        EventKind::End(Box::new(End {
            reason: "interrupted".into(),
            duration: Duration::from_secs_f64(at - rto + 3.0 - 9.0),
            totals: Totals { sockets: 2, retransmits: 8, findings: 1, ..Totals::default() },
        })),
    ));
    kinds.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    kinds.into_iter().map(|(s, kind)| Event { at: second(s), kind }).collect()
}
