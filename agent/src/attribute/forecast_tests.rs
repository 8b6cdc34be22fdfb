use super::*;

fn ms(v: u64) -> Duration {
    Duration::from_millis(v)
}

fn secs(v: f64) -> Duration {
    Duration::from_secs_f64(v)
}

fn with_retries(retries2: u32) -> Sysctls {
    Sysctls { retries2, ..Sysctls::default() }
}

fn in_flight(rto_ms: u64) -> Input {
    Input { unacked: true, ..Input::new(TcpState::Established, ms(rto_ms)) }
}

/// The numbers of `ip-sysctl.rst` and of the kernel's model.
#[test]
fn the_model_is_the_kernels() {
    for (retries2, want) in [(5, 12.6), (6, 25.4), (8, 102.2), (9, 204.6), (15, 924.6)] {
        assert_eq!(model_timeout(retries2, MODEL_BASE, secs(120.0)), secs(want), "{retries2}");
    }
    assert_eq!(model_timeout(6, MODEL_BASE_SYN, secs(120.0)), secs(127.0));
    // A lowered cap bends the curve earlier: threshold log2(1000/200) = 2.
    assert_eq!(model_timeout(5, MODEL_BASE, secs(1.0)), secs(1.4 + 3.0));
    // No sysctl value makes it overflow.
    assert!(model_timeout(u32::MAX, MODEL_BASE, secs(120.0)) > secs(924.6));
}

/// RTO 204 ms, retries2 = 3: model 3.0 s. RTOs at 0.204, 0.612, 1.428, 3.06, 6.324: the first that lies 3.0 s or
/// more behind the first one (0.204) is the last.
#[test]
fn a_fresh_send_dies_at_the_first_expiry_past_the_model() {
    assert_eq!(gives_up_in(&in_flight(204), &with_retries(3)), Some(ms(204 + 408 + 816 + 1632 + 3264)));
}

#[test]
fn under_way_the_same_end_is_forecast() {
    let end = 204 + 408 + 816 + 1632 + 3264;
    // Just after each RTO, with what tcp_info says then.
    for (n, at, rto) in [(1u8, 204, 408), (2, 612, 816), (3, 1428, 1632), (4, 3060, 3264)] {
        let i = Input { retransmits: n, backoff: n, timer: Some(1), timer_in: Some(ms(rto)), ..in_flight(rto) };
        assert_eq!(gives_up_in(&i, &with_retries(3)), Some(ms(end - at)), "after RTO {n}");
        // Half way to the next.
        let half = Input { timer_in: Some(ms(rto / 2)), ..i };
        assert_eq!(gives_up_in(&half, &with_retries(3)), Some(ms(end - at - rto / 2)), "half way past RTO {n}");
    }
}

#[test]
fn default_retries_take_about_fifteen_minutes() {
    let t = gives_up_in(&in_flight(204), &with_retries(15)).unwrap();
    assert!((924.6..1050.0).contains(&t.as_secs_f64()), "{t:?}");
    // At the cap, with the first retransmit seen 700 s ago: 924.6 - 700 more, at a 120 s step.
    let i = Input {
        retransmits: 14,
        backoff: 14,
        timer_in: Some(ms(10_000)),
        since_first_retransmit: Some(secs(700.0)),
        ..in_flight(120_000)
    };
    assert_eq!(gives_up_in(&i, &with_retries(15)), Some(secs(10.0 + 120.0 * 2.0)));
}

#[test]
fn a_lowered_cap_is_used() {
    let s = Sysctls { retries2: 5, rto_max: secs(1.0), ..Sysctls::default() };
    // Model 4.4 s; RTOs at 0.2, 0.6, 1.4, 2.4, 3.4, 4.4, 5.4: 4.4 - 0.2 < 4.4, so 5.4.
    assert_eq!(gives_up_in(&in_flight(200), &s), Some(secs(5.4)));
}

#[test]
fn user_timeout_replaces_retries() {
    let i = Input { user_timeout: ms(5_000), ..in_flight(204) };
    // Counted from the first retransmit; the last timer is shortened to hit it.
    assert_eq!(gives_up_in(&i, &with_retries(15)), Some(ms(5_204)));
    let i = Input { user_timeout: ms(5_000), retransmits: 3, backoff: 3, timer_in: Some(ms(600)), ..in_flight(1632) };
    // First retransmit was 408 + 816 + (1632 - 600) ms ago.
    assert_eq!(gives_up_in(&i, &with_retries(15)), Some(ms(5_000 - 408 - 816 - 1032)));
    // Longer than retries2 would allow: it still replaces it.
    let i = Input { user_timeout: ms(60_000), ..in_flight(204) };
    assert_eq!(gives_up_in(&i, &with_retries(3)), Some(ms(60_204)));
    // Already past: the next expiry ends it.
    let i = Input {
        user_timeout: ms(1_000),
        retransmits: 4,
        backoff: 4,
        timer_in: Some(ms(300)),
        since_first_retransmit: Some(secs(9.0)),
        ..in_flight(3264)
    };
    assert_eq!(gives_up_in(&i, &with_retries(15)), Some(ms(300)));
}

#[test]
fn syn_retries_with_and_without_linear_timeouts() {
    let syn = Input::new(TcpState::SynSent, ms(1_000));
    assert_eq!(gives_up_in(&syn, &Sysctls::default()), Some(secs(127.0)), "before 6.5");
    let linear = Sysctls { syn_linear_timeouts: 4, ..Sysctls::default() };
    // SYNs at 0 1 2 3 4 5 7 11 19 35 67, given up at 131.
    assert_eq!(gives_up_in(&syn, &linear), Some(secs(131.0)));
    let later = Input { retransmits: 5, timer_in: Some(secs(2.0)), ..Input::new(TcpState::SynSent, secs(2.0)) };
    assert_eq!(gives_up_in(&later, &linear), Some(secs(126.0)), "just after the SYN at 5 s");
    let few = Sysctls { syn_retries: 2, syn_linear_timeouts: 1, ..Sysctls::default() };
    // SYNs at 0 1 2 4, but the model for 2 retries is 7 s: 4 + 4 = 8 is the first expiry.
    assert_eq!(gives_up_in(&syn, &few), Some(secs(8.0)));
    let short = Input { user_timeout: ms(2_500), ..syn };
    assert_eq!(gives_up_in(&short, &linear), Some(ms(2_500)));
}

#[test]
fn an_orphan_gets_eight_tries() {
    let i = Input { orphan: true, ..Input { unacked: true, ..Input::new(TcpState::FinWait1, ms(204)) } };
    let t = gives_up_in(&i, &Sysctls::default()).unwrap();
    // Model for 8: 102.2 s; 0.204 x (2^9 - 1) = 104.2 s is the first expiry past it.
    assert_eq!(t, ms(204 * 511));
}

#[test]
fn healthy_or_finished_sockets_have_no_end() {
    let idle = Input::new(TcpState::Established, ms(204));
    assert_eq!(gives_up_in(&idle, &Sysctls::default()), None);
    for state in [TcpState::Listen, TcpState::TimeWait, TcpState::Close, TcpState::FinWait2] {
        assert_eq!(gives_up_in(&Input { unacked: true, ..Input::new(state, ms(204)) }, &Sysctls::default()), None);
    }
    let answered = Input { timer: Some(TIMER_PROBE0), probes: 1, ..idle };
    assert_eq!(gives_up_in(&answered, &Sysctls::default()), None, "the peer answers each probe");
}

#[test]
fn unanswered_zero_window_probes_end_at_retries2() {
    let i = Input {
        timer: Some(TIMER_PROBE0),
        probes: 3,
        backoff: 3,
        timer_in: Some(ms(1_000)),
        ..Input::new(TcpState::Established, ms(200))
    };
    // Probes 4 and 5 follow at intervals 0.2 x 2^4 and 2^5, then the limit of 5 is met.
    assert_eq!(gives_up_in(&i, &with_retries(5)), Some(ms(1_000 + 3_200 + 6_400)));
}

#[test]
fn keepalive_probes_end_at_their_count() {
    let k = Keepalive { enabled: true, idle_s: 30, interval_s: 10, count: 3, user_timeout_ms: 0, set_by: None };
    let i = Input {
        timer: Some(TIMER_KEEPALIVE),
        probes: 1,
        timer_in: Some(secs(4.0)),
        keepalive: Some(k),
        last_ack: Some(secs(36.0)),
        ..Input::new(TcpState::Established, ms(204))
    };
    assert_eq!(gives_up_in(&i, &Sysctls::default()), Some(secs(24.0)));
    let k = Keepalive { user_timeout_ms: 45_000, ..k };
    assert_eq!(gives_up_in(&Input { keepalive: Some(k), ..i }, &Sysctls::default()), Some(secs(14.0)));
}

/// Seen on a kernel with HZ=250: with retries2 = 4 and RTO 204 ms the fifth expiry (6.12 s after the first in theory,
/// the limit being 6.2 s) came late enough to be the last.
#[test]
fn timers_fire_late_and_that_decides_at_the_edge() {
    let s = Sysctls { jiffy: ms(4), ..with_retries(4) };
    let t = gives_up_in(&in_flight(204), &s).unwrap();
    assert!((ms(6_400)..ms(6_700)).contains(&t), "{t:?}");
    assert_eq!(lateness(ms(200), &s), ms(2));
    assert_eq!(lateness(ms(408), &s), ms(16));
    assert_eq!(lateness(ms(3_264), &s), ms(128));
    assert_eq!(lateness(secs(120.0), &s), ms(1_024));
}
