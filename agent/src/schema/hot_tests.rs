use std::net::SocketAddr;
use std::time::Duration;

use super::super::{Line, LineContext, samples};
use super::*;
use crate::model::{ResetOrigin, SocketId};

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
            same(&fast, &slow);
        }
    }
    assert_eq!(fast, 8 * 3);
}

#[test]
fn a_reset_that_differs_in_one_thing_is_told_anew() {
    let wall = samples::clock();
    let plain = Reset {
        socket: Some(SocketId(7)),
        flow: None,
        netns: Some(1),
        pid: Some(2),
        direction: ResetDirection::Received,
        origin: ResetOrigin::Unknown,
        origin_why: "why".into(),
        state: Some(TcpState::Established),
        idle_before: None,
        kernel_reason: None,
        packet: PacketFacts::default(),
        detail: TcpDetail::default(),
    };
    let change = |change: fn(&mut Reset)| {
        let mut reset = plain.clone();
        change(&mut reset);
        reset
    };
    let changed = [
        change(|r| r.netns = None),
        change(|r| r.pid = None),
        change(|r| r.direction = ResetDirection::Sent),
        change(|r| r.origin = ResetOrigin::Peer),
        change(|r| r.origin_why = "because".into()),
        change(|r| r.origin_why = "".into()),
        change(|r| r.state = None),
        change(|r| r.idle_before = Some(Duration::from_millis(1_500))),
        change(|r| r.kernel_reason = Some("NO_SOCKET".into())),
        change(|r| r.kernel_reason = Some("\"\u{1b}".to_owned().into())),
        change(|r| r.packet.ttl = Some(64)),
        change(|r| r.detail.backoff = Some(3)),
    ];
    let mut recent = Recent::default();
    for (seq, reset) in (0u64..).zip(changed.iter().flat_map(|r| [&plain, r, r, &plain])) {
        let event = Event { at: Mono(5), kind: EventKind::Reset(Box::new(reset.clone())) };
        let mut fast = Vec::new();
        assert!(write(&mut fast, &event, seq, &mut recent, &wall));
        let cx = LineContext { seq, clock: &wall, socket: None, redacted: false, part: 0 };
        let slow = serde_json::to_string(&Line::new(&event, cx).unwrap()).unwrap();
        same(std::str::from_utf8(&fast).unwrap(), &slow);
    }
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
        let keepalive =
            Keepalive { enabled: true, idle_s: 60, interval_s: 10, count: 3, user_timeout_ms: 0, set_by: None };
        // As one ends, and what differs from it in one thing.
        let ended = Described {
            id: SocketId(0x1f),
            opened: Some(Mono(event.at.0 - 5)),
            tcp: Some(&metrics),
            counters: &counters,
            keepalive: None,
            gives_up_in: None,
            mptcp: Some(false),
            orphaned: false,
            destroyed: false,
            state: Some(TcpState::Close),
            ..plain.clone()
        };
        let other = TcpMetrics { total_retransmits: Some(9), ..metrics };
        let all = [
            ended.clone(),
            Described { tcp: Some(&other), ..ended.clone() },
            Described { counters: &Counters::NONE, ..ended.clone() },
            Described { tcp: None, counters: &Counters::NONE, ..ended.clone() },
            Described { netns: Some(5), ..ended.clone() },
            Described { owners: &hostile, ..ended.clone() },
            Described { direction: None, ..ended.clone() },
            Described { state: Some(TcpState::SynSent), ..ended.clone() },
            Described { gives_up_in: half, ..ended.clone() },
            Described { mptcp: Some(true), ..ended.clone() },
            Described { mptcp: None, ..ended.clone() },
            Described { orphaned: true, ..ended.clone() },
            Described { destroyed: true, ..ended.clone() },
            Described { keepalive: Some(&keepalive), ..ended.clone() },
            Described { family: None, ..ended.clone() },
            Described { remote_name: None, ..ended.clone() },
            Described { remote_name: Some("another"), ..ended.clone() },
            Described { local: None, ..ended.clone() },
            Described { remote: None, ..ended.clone() },
            Described { local: None, remote: None, ..ended.clone() },
            Described { opened: None, ..ended.clone() },
            Described { idle: None, ..ended.clone() },
            ended,
            Described { tcp: Some(&metrics), idle: half, gives_up_in: half, ..plain.clone() },
            Described { orphaned: true, destroyed: true, counters: &counters, ..plain.clone() },
            Described { owners: &hostile, opened: Some(Mono(5)), ..plain.clone() },
            bare,
            plain,
        ];
        // One end or the other, one open state or another, after two that are copied.
        let one = Described { local: None, ..all[0].clone() };
        let syn = Described { state: Some(TcpState::SynSent), ..all[0].clone() };
        let in_turn = [
            (&one, Described { remote: None, ..all[0].clone() }),
            (&syn, Described { state: Some(TcpState::Established), ..all[0].clone() }),
        ];
        let in_turn = in_turn.iter().flat_map(|(d, other)| [(*d, true), (*d, true), (other, true)]);
        // Each after two of the first, which is then the line that is copied.
        let first = &all[0];
        for (d, watched) in
            all.iter().flat_map(|d| [(first, true), (first, true), (d, true), (d, false)]).chain(in_turn)
        {
            let recent = if watched { &mut recent } else { &mut listing };
            let cx = LineContext { seq, clock: &wall, socket: None, redacted: false, part: 0 };
            let mut fast = Vec::new();
            socket(&mut fast, d, event.at, seq, recent, &wall);
            let slow = Line::Socket(Box::new(d.line(event.at, cx)));
            let (fast, slow) = (String::from_utf8(fast).unwrap(), serde_json::to_string(&slow).unwrap());
            same(&fast, &slow);
        }
    }
    assert_eq!(sockets, 1);
}

/// The keys in their order.
fn keys(json: &str) -> Vec<&str> {
    json.split('"').skip(1).step_by(2).collect()
}

/// Ends as they differ in a storm, and as they seldom do.
fn flows() -> Vec<Option<Flow>> {
    let ports = [37_164, 37_165, 9, 0, 65_535, 1_024].map(|port| format!("127.0.0.1:{port}"));
    let mut all = vec![None];
    for (local, remote) in [(0, "127.0.0.1:9"), (1, "127.0.0.1:9"), (2, "127.0.0.1:9"), (3, "127.0.0.1:9")]
        .into_iter()
        .chain([(0, "127.0.0.1:37164"), (5, "127.0.0.1:443"), (4, "10.0.0.1:443"), (4, "[::1]:443")])
    {
        let remote: SocketAddr = remote.parse().unwrap();
        let local = if remote.is_ipv6() { "[::1]:40000" } else { &ports[local] };
        all.push(Some(Flow { local: local.parse().unwrap(), remote }));
    }
    all
}

/// Number, time and cookie of lines that come one after the other: each of them gets longer or shorter at some time.
fn steps() -> impl Iterator<Item = (u64, Mono, Option<SocketId>)> + Clone {
    let seqs = [7, 8, 9, 10, 11, 12, 99, 100, 99_999_998, 99_999_999, 100_000_000, 100_000_001, 5, 6];
    let cookies = [Some(0xe), Some(0xf), Some(0x10), Some(0x11), Some(u64::from(u32::MAX)), Some(1 << 32), None, None];
    (0..200).map(move |n: usize| {
        let id = cookies[n / 3 % cookies.len()].map(SocketId);
        (seqs[n % seqs.len()], Mono(n as u64 * 30_000_007), id)
    })
}

#[test]
fn lines_alike_are_those_that_serde_writes() {
    let wall = samples::clock();
    let samples = samples::all();
    let mut told: Vec<EventKind> = samples
        .into_iter()
        .map(|e| e.kind)
        .filter(|k| matches!(k, EventKind::State(_) | EventKind::Reset(_)))
        .collect();
    assert_eq!(told.len(), 4);
    // One after the other many times, then in turn.
    told = told.iter().flat_map(|k| std::iter::repeat_n(k, 200)).chain(told.iter().cycle().take(50)).cloned().collect();
    let flows = flows();
    let mut recent = Recent::default();
    for (n, (mut kind, (seq, at, id))) in told.into_iter().zip(steps().cycle()).enumerate() {
        let ends = flows[n / 2 % flows.len()];
        match &mut kind {
            EventKind::State(c) => (c.socket, c.flow) = (id, ends),
            EventKind::Reset(r) => {
                (r.socket, r.flow) = (id, ends);
            }
            _ => {}
        }
        let event = Event { at, kind };
        let mut fast = Vec::new();
        assert!(write(&mut fast, &event, seq, &mut recent, &wall));
        let cx = LineContext { seq, clock: &wall, socket: None, redacted: false, part: 0 };
        let slow = serde_json::to_string(&Line::new(&event, cx).unwrap()).unwrap();
        same(&String::from_utf8(fast).unwrap(), &slow);
    }
}

#[test]
fn sockets_alike_too() {
    let wall = samples::clock();
    let metrics = samples::metrics();
    let owners = [Owner { pid: 1, comm: "\"local\":\"idle_s\":".into(), fd: Some(0), program: None }];
    let begun = Described {
        id: SocketId(1),
        family: None,
        local: None,
        remote: None,
        remote_name: None,
        netns: Some(3),
        owners: &owners,
        direction: None,
        state: Some(TcpState::SynSent),
        opened: None,
        idle: None,
        keepalive: None,
        counters: &Counters::NONE,
        tcp: None,
        gives_up_in: None,
        mptcp: Some(false),
        orphaned: false,
        destroyed: false,
    };
    let ended = Described { state: Some(TcpState::Close), tcp: Some(&metrics), ..begun.clone() };
    let flows = flows();
    let mut recent = Recent::default();
    let idle = [0, 5_000_000_000, 17_000, 119_774, 119_700, 999_999_999].map(Duration::from_nanos);
    for (n, (seq, at, id)) in steps().cycle().take(2_000).enumerate() {
        let ends = &flows[n / 4 % flows.len()];
        let mut d = if n % 40 < 20 { begun.clone() } else { ended.clone() };
        d.id = id.unwrap_or(SocketId(9));
        d.local = ends.as_ref().map(|f| &f.local).filter(|_| n % 29 > 0);
        d.remote = ends.as_ref().map(|f| &f.remote);
        d.idle = idle.get(n / 2 % 7).copied();
        d.opened = [Some(at), Some(Mono(at.0.saturating_sub(40_000))), Some(Mono(1)), None][n / 5 % 4];
        let cx = LineContext { seq, clock: &wall, socket: None, redacted: false, part: 0 };
        let mut fast = Vec::new();
        socket(&mut fast, &d, at, seq, &mut recent, &wall);
        let slow = serde_json::to_string(&Line::Socket(Box::new(d.line(at, cx)))).unwrap();
        same(&String::from_utf8(fast).unwrap(), &slow);
    }
}

/// The text is the same but for the last digit of seconds, where serde goes through a float.
fn same(fast: &str, slow: &str) {
    assert_eq!(keys(fast), keys(slow));
    assert_eq!(Line::parse(fast.as_bytes()).unwrap(), Line::parse(slow.as_bytes()).unwrap(), "{fast}");
}
