//! Events in, facts out: what the rules rest on.

use std::time::Duration;

use crate::model::*;
use crate::state::{Socket, Table, TableConfig};

const ID: SocketId = SocketId(7);

fn at(s: f64) -> Mono {
    Mono::from_secs_f64(1_000.0 + s)
}

fn d(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

struct Fold(Table);

impl Fold {
    fn new() -> Self {
        Self(Table::new(TableConfig::default()))
    }

    fn apply(&mut self, s: f64, kind: EventKind) -> &mut Self {
        self.0.apply(&Event { at: at(s), kind });
        self
    }

    fn state(&mut self, s: f64, from: TcpState, to: TcpState) -> &mut Self {
        let c =
            StateChange { socket: Some(ID), flow: None, netns: None, family: None, from, to, pid: None, last: false };
        self.apply(s, EventKind::State(c))
    }

    /// An established connection since 0.
    fn open(&mut self) -> &mut Self {
        self.state(0.0, TcpState::Close, TcpState::SynSent);
        self.state(0.01, TcpState::SynSent, TcpState::Established)
    }

    /// Ages in seconds, as tcp_info would give them at `s`.
    fn sample(
        &mut self,
        s: f64,
        sent: f64,
        received: f64,
        ack: f64,
        change: impl FnOnce(&mut TcpMetrics),
    ) -> &mut Self {
        let ms = |t: f64| Some((t * 1e3).round() as u64);
        let mut tcp = TcpMetrics {
            rtt: Some(d(0.01)),
            rto: Some(d(0.21)),
            retransmits: Some(0),
            unacked_segments: Some(0),
            last_sent_ms: ms(sent),
            last_received_ms: ms(received),
            last_ack_ms: ms(ack),
            bytes_sent: Some(300),
            bytes_received: Some(900),
            bytes_acked: Some(301),
            ..Default::default()
        };
        change(&mut tcp);
        let state = self.socket().state.unwrap_or(TcpState::Established);
        self.apply(s, EventKind::Sample(Box::new(Sample { socket: ID, state, tcp, gives_up_in: None })))
    }

    fn retransmit(&mut self, s: f64, how: RetransmitKind, change: impl FnOnce(&mut Retransmit)) -> &mut Self {
        let detail = TcpDetail { rtt: Some(d(0.01)), rto: Some(d(0.21)), ..Default::default() };
        let mut r = Retransmit {
            socket: Some(ID),
            flow: None,
            netns: None,
            pid: None,
            state: Some(TcpState::Established),
            how,
            segments: 1,
            detail,
            gives_up_in: Some(d(900.0)),
        };
        change(&mut r);
        self.apply(s, EventKind::Retransmit(Box::new(r)))
    }

    fn socket(&self) -> &Socket {
        self.0.get(ID).expect("the socket")
    }
}

fn close(got: Option<Duration>, want: f64) {
    let got = got.expect("a duration").as_secs_f64();
    assert!((got - want).abs() < 0.05, "{got} instead of {want}");
}

#[test]
fn the_gap_before_the_first_retransmit_is_exact() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.8, 0.8, |_| {}).sample(2.0, 1.9, 1.8, 1.8, |_| {});
    // Sent at 30.2; the last sample is old, the retransmit's own ages are exact.
    f.retransmit(30.41, RetransmitKind::Rto, |r| {
        r.detail.last_ack = Some(d(30.21));
        r.detail.last_received = Some(d(30.21));
    });
    let a = f.socket().activity;
    close(a.idle_before, 30.0);
    assert_eq!((a.rto_since_heard, a.retransmits_since_heard), (1, 1));
    f.retransmit(30.83, RetransmitKind::Rto, |r| r.detail.last_ack = Some(d(30.63)));
    let a = f.socket().activity;
    assert_eq!(a.rto_since_heard, 2, "the same ACK, seen again, is no sign of life");
    close(a.idle_before, 30.0);
}

#[test]
fn a_probe_first_does_not_shift_the_send() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    // Two segments sent at 10.1: the probe comes after two round trips.
    f.retransmit(10.12, RetransmitKind::Tlp, |r| r.detail.unacked_segments = Some(2));
    f.retransmit(10.33, RetransmitKind::Rto, |_| {});
    let a = f.socket().activity;
    close(a.idle_before, 10.0);
    assert_eq!((a.rto_since_heard, a.retransmits_since_heard), (1, 2));
}

#[test]
fn a_retransmit_that_a_sample_saw_first_counts_once() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    f.retransmit(10.2, RetransmitKind::Rto, |_| {});
    f.sample(10.7, 0.1, 9.6, 9.6, |t| (t.unacked_segments, t.retransmits) = (Some(1), Some(2)));
    // Its event lay in the ring meanwhile.
    f.retransmit(10.6, RetransmitKind::Rto, |_| {});
    let a = f.socket().activity;
    assert_eq!((a.rto_since_heard, a.retransmits_since_heard), (2, 2));
    f.retransmit(11.4, RetransmitKind::Rto, |_| {});
    let a = f.socket().activity;
    assert_eq!((a.rto_since_heard, a.retransmits_since_heard), (3, 3));
}

#[test]
fn what_an_ack_sends_again_is_no_timeout() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    f.retransmit(10.2, RetransmitKind::Rto, |r| r.detail.retransmits = Some(1));
    assert_eq!(f.socket().activity.rto_since_heard, 1);
    // The retransmit's ACK came at once, and the kernel sends the rest; a loss of that makes the timer fire again.
    f.retransmit(10.201, RetransmitKind::Rto, |r| {
        (r.detail.retransmits, r.detail.last_ack, r.detail.bytes_acked) = (Some(0), Some(d(0.0)), Some(900));
        r.segments = 3;
    });
    assert_eq!(f.socket().activity.rto_since_heard, 0);
    f.retransmit(10.41, RetransmitKind::Rto, |r| {
        (r.detail.retransmits, r.detail.last_ack, r.detail.bytes_acked) = (Some(1), Some(d(0.209)), Some(900));
    });
    assert_eq!(f.socket().activity.rto_since_heard, 1, "one timeout, not two in a row");
}

#[test]
fn a_full_segment_that_was_lost_and_then_acknowledged_fits_the_path() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    let full = |acked| {
        move |r: &mut Retransmit| {
            (r.detail.bytes_acked, r.detail.segment_bytes, r.detail.send_mss) = (Some(acked), Some(1448), Some(1448));
        }
    };
    f.retransmit(10.2, RetransmitKind::Rto, full(101)).retransmit(10.6, RetransmitKind::Rto, full(101));
    assert_eq!(f.socket().activity.full_passed, None);
    // Less than a full segment is acknowledged: a small one that was before it.
    f.sample(11.0, 0.4, 0.9, 0.2, |t| t.bytes_acked = Some(500));
    assert_eq!(f.socket().activity.full_passed, None);
    f.retransmit(12.2, RetransmitKind::Fast, full(500));
    f.sample(13.0, 0.4, 0.9, 0.2, |t| t.bytes_acked = Some(1948));
    assert_eq!(f.socket().activity.full_passed, Some(1448));
}

#[test]
fn an_ack_ends_the_silence_and_counts_as_loss() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    f.retransmit(5.2, RetransmitKind::Rto, |_| {});
    f.sample(6.0, 0.8, 4.9, 0.7, |t| t.bytes_acked = Some(600));
    let a = f.socket().activity;
    assert_eq!((a.rto_since_heard, a.unanswered_since, a.progress_retransmits), (0, None, 1));
    // An interruption of several RTOs is no loss rate.
    for (i, s) in [10.2, 10.6, 11.4].into_iter().enumerate() {
        f.retransmit(s, RetransmitKind::Rto, |r| r.detail.backoff = Some(i as u8));
    }
    f.sample(12.0, 0.6, 9.9, 0.3, |t| t.bytes_acked = Some(900));
    assert_eq!(f.socket().activity.progress_retransmits, 1);
}

#[test]
fn an_answered_send_is_no_send_however_late_it_is_dated() {
    let mut f = Fold::new();
    // The second look dates the send 50 ms later, after its answer.
    f.open().sample(1.0, 0.9, 0.88, 0.88, |_| {}).sample(2.0, 1.85, 1.88, 1.88, |_| {});
    f.retransmit(10.33, RetransmitKind::Rto, |_| {});
    close(f.socket().activity.idle_before, 10.0);
}

#[test]
fn an_ack_from_before_the_send_answers_nothing_however_late_it_is_dated() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    f.retransmit(10.33, RetransmitKind::Rto, |_| {});
    // The same ACK, dated 80 ms later by a look that took its time.
    f.sample(11.0, 0.67, 10.82, 10.82, |t| (t.unacked_segments, t.retransmits) = (Some(1), Some(1)));
    let a = f.socket().activity;
    assert_eq!((a.rto_since_heard, a.acked_beside), (1, false));
    close(a.idle_before, 10.0);
    assert!(a.unanswered_since.is_some());
}

#[test]
fn the_idle_time_at_a_fin_is_refined_by_the_next_look() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    // An exchange at 1.5 that no sample saw before the FIN at 3.5.
    f.state(3.5, TcpState::Established, TcpState::CloseWait);
    close(f.socket().activity.idle_at_fin, 3.4);
    f.sample(4.0, 2.51, 2.5, 0.5, |t| t.bytes_sent = Some(600));
    let a = f.socket().activity;
    close(a.idle_at_fin, 2.0);
    assert!(!a.outstanding_at_fin);
}

#[test]
fn a_fin_instead_of_an_answer_is_told_apart() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.2, 0.9, 0.2, |_| {});
    f.state(3.0, TcpState::Established, TcpState::CloseWait);
    assert!(f.socket().activity.outstanding_at_fin);
}

#[test]
fn samples_alone_show_a_hang() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    // Sent at 20, retransmitted at 20.21, 20.63, 21.47; RTO now 1.68.
    f.sample(22.0, 0.53, 21.9, 21.9, |t| {
        t.retransmits = Some(3);
        t.backoff = Some(3);
        t.rto = Some(d(1.68));
        t.unacked_segments = Some(1);
    });
    let a = f.socket().activity;
    assert_eq!((a.rto_since_heard, a.retransmits_since_heard), (3, 3));
    close(a.idle_before, 19.9);
}

#[test]
fn a_look_at_an_idle_socket_is_no_news() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {}).sample(2.0, 1.9, 1.9, 1.9, |_| {});
    f.0.take_changed();
    f.sample(3.0, 2.9, 2.9, 2.9, |_| {}).sample(4.0, 3.901, 3.899, 3.9, |_| {});
    assert!(f.0.take_changed().is_empty());
    f.sample(5.0, 0.1, 0.1, 0.1, |t| t.bytes_sent = Some(900));
    assert_eq!(f.0.take_changed(), [ID]);
}

#[test]
fn what_was_sent_since_the_last_answer() {
    let mut f = Fold::new();
    f.open().sample(0.5, 0.4, 0.0, 0.4, |t| (t.bytes_sent, t.bytes_received) = (Some(700), Some(0)));
    assert_eq!(f.socket().activity.sent_since_received, Some(700), "never an answer: all of it");
    f.sample(1.5, 1.4, 0.5, 0.5, |t| t.bytes_sent = Some(700));
    assert_eq!(f.socket().activity.sent_since_received, Some(0));
    f.sample(2.5, 0.2, 1.5, 0.2, |t| t.bytes_sent = Some(739));
    assert_eq!(f.socket().activity.sent_since_received, Some(39));
}

#[test]
fn large_segments_lost_and_small_ones_not() {
    let mut f = Fold::new();
    f.open().sample(1.0, 0.9, 0.9, 0.9, |_| {});
    let full = |r: &mut Retransmit| (r.detail.segment_bytes, r.detail.send_mss) = (Some(1448), Some(1448));
    f.retransmit(2.02, RetransmitKind::Tlp, |r| (r.detail.segment_bytes, r.detail.send_mss) = (Some(200), Some(1448)));
    // A selective ACK for the tail: heard, no progress.
    f.retransmit(2.25, RetransmitKind::Rto, |r| {
        full(r);
        r.detail.last_ack = Some(d(0.2));
        r.detail.bytes_acked = Some(301);
    });
    f.retransmit(2.67, RetransmitKind::Rto, full);
    let a = f.socket().activity;
    assert_eq!((a.full_retransmits, a.small_retransmits, a.acked_beside), (2, 0, true));
    f.sample(3.0, 0.3, 2.9, 0.1, |t| t.bytes_acked = Some(3_000));
    let a = f.socket().activity;
    assert_eq!((a.full_retransmits, a.acked_beside), (0, false));
}

#[test]
fn a_zero_window_begins_with_the_last_send() {
    let mut f = Fold::new();
    f.open().sample(5.0, 1.0, 4.9, 0.2, |t| {
        t.timer = Some(4);
        t.send_queue_bytes = Some(50_000);
    });
    assert_eq!(f.socket().activity.zero_window_since, Some(at(4.0)));
    f.sample(6.0, 2.0, 5.9, 0.2, |t| t.timer = Some(4));
    assert_eq!(f.socket().activity.zero_window_since, Some(at(4.0)));
    f.sample(7.0, 0.1, 6.9, 0.1, |_| {});
    assert_eq!(f.socket().activity.zero_window_since, None);
    // Shut at two looks, but more was acknowledged in between: it is not the same full buffer.
    f.sample(8.0, 0.3, 7.9, 0.1, |t| (t.timer, t.bytes_acked) = (Some(4), Some(1_000)));
    f.sample(9.0, 0.4, 8.9, 0.1, |t| (t.timer, t.bytes_acked) = (Some(4), Some(9_000)));
    assert_eq!(f.socket().activity.zero_window_since, Some(at(8.6)));
}

#[test]
fn the_received_reset_counts_not_the_answer_to_it() {
    let mut f = Fold::new();
    let reset = |direction| Reset {
        socket: Some(ID),
        flow: None,
        netns: None,
        pid: None,
        direction,
        origin: ResetOrigin::Unknown,
        origin_why: "".into(),
        state: None,
        idle_before: None,
        kernel_reason: None,
        packet: PacketFacts::default(),
        detail: TcpDetail::default(),
    };
    f.open().apply(2.0, EventKind::Reset(reset(ResetDirection::Received).into()));
    f.apply(2.1, EventKind::Reset(reset(ResetDirection::Sent).into()));
    let last = f.socket().last_reset.get().cloned().expect("a reset");
    assert_eq!((last.direction, last.state), (ResetDirection::Received, Some(TcpState::Established)));
    assert_eq!(f.socket().last_reset_at, Some(at(2.0)));
}

#[test]
fn who_closed_is_remembered() {
    let mut f = Fold::new();
    f.open().state(1.0, TcpState::Established, TcpState::FinWait1).state(1.1, TcpState::FinWait1, TcpState::Close);
    assert_eq!(f.socket().activity.app_closed_at, Some(at(1.0)));
    let mut f = Fold::new();
    f.open().state(9.0, TcpState::Established, TcpState::Close);
    assert_eq!(f.socket().activity.app_closed_at, None);
    assert!(f.socket().is_closed());
}
