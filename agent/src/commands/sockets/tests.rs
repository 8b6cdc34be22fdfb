use std::time::Duration;

use super::*;
use crate::model::{Family, Flow, Owner, SocketId, TcpMetrics};
use crate::source::diag::DiagSocket;

fn row(port: u16, state: TcpState, tcp: TcpMetrics) -> Row {
    Row {
        socket: DiagSocket {
            id: SocketId(u64::from(port)),
            family: Family::V4,
            flow: Flow { local: ([10, 0, 0, 1], port).into(), remote: ([192, 0, 2, 1], 443).into() },
            state,
            interface: 0,
            uid: 0,
            inode: 1,
            timer_retransmits: 0,
            receive_queue: 0,
            send_queue: 0,
            tcp,
            v6only: None,
            mptcp: false,
        },
        netns: 1,
        owners: vec![Owner { pid: 41, comm: "node".into(), fd: Some(7), program: None }],
        direction: Some(Direction::Outgoing),
        keepalive: Some(Keepalive {
            enabled: false,
            idle_s: 7200,
            interval_s: 75,
            count: 9,
            user_timeout_ms: 0,
            set_by: None,
        }),
        remote_name: None,
        gives_up_in: None,
    }
}

fn idle(s: u64) -> TcpMetrics {
    TcpMetrics {
        last_sent_ms: Some(s * 1000),
        last_received_ms: Some(s * 1000),
        last_ack_ms: Some(s * 1000),
        rtt: Some(Duration::from_millis(31)),
        send_queue_bytes: Some(0),
        total_retransmits: Some(0),
        timer: Some(0),
        ..TcpMetrics::default()
    }
}

#[test]
fn the_stuck_one_comes_first_and_columns_align() {
    let stuck = TcpMetrics {
        retransmits: Some(5),
        total_retransmits: Some(6),
        unacked_bytes: Some(96_256),
        send_queue_bytes: Some(96_256),
        last_sent_ms: Some(1_000),
        backoff: Some(4),
        timer: Some(1),
        timer_ms: Some(3_200),
        ..idle(90)
    };
    let mut second = row(5002, TcpState::Established, stuck);
    second.gives_up_in = Some(Duration::from_secs(302));
    let mut out = Vec::new();
    print(&mut out, vec![row(5001, TcpState::Established, idle(2)), second]).unwrap();
    let text = String::from_utf8(out).unwrap();
    let want = "\
DESTINATION       LOCAL          STATE        OWNER         KEEPALIVE  IDLE   RTT  SENDQ  RETR  TIMER               GIVES UP  WRONG
192.0.2.1:443  →  10.0.0.1:5002  ESTABLISHED  node/41 fd 7  off        0:01  31ms   94Ki   5/6  retransmit 3.2s b4      5:02  5 RTOs unanswered, 94Ki stuck, no ACK for 1:30
192.0.2.1:443  →  10.0.0.1:5001  ESTABLISHED  node/41 fd 7  off        0:02  31ms      0     0  -                          -
2 sockets, 1 with something wrong
";
    assert_eq!(text, want, "\n{text}");
}

#[test]
fn each_complaint_has_its_words_and_healthy_sockets_none() {
    let say = |state, tcp: TcpMetrics| wrong(&row(1, state, tcp)).join("; ");
    assert_eq!(say(TcpState::Established, idle(5)), "");
    assert_eq!(say(TcpState::Established, idle(60)), "no keepalive");
    assert_eq!(say(TcpState::CloseWait, idle(60)), "closed by the peer 1:00 ago, still open here");
    assert_eq!(say(TcpState::SynSent, TcpMetrics { retransmits: Some(2), ..idle(0) }), "no answer to 3 SYNs");
    assert_eq!(
        say(TcpState::Established, TcpMetrics { probes: Some(3), timer: Some(2), ..idle(5) }),
        "3 keepalive probes unanswered"
    );
    assert_eq!(
        say(TcpState::Established, TcpMetrics { send_window_bytes: Some(0), send_queue_bytes: Some(9), ..idle(5) }),
        "the peer's window is full"
    );
    assert_eq!(
        say(TcpState::Established, TcpMetrics { receive_queue_bytes: Some(2048), ..idle(6) }),
        "2.0Ki not read by the application"
    );
}

#[test]
fn names_cannot_steer_the_terminal() {
    let mut r = row(1, TcpState::Established, idle(1));
    r.remote_name = Some("a\u{1b}[2J".into());
    let mut out = Vec::new();
    print(&mut out, vec![r]).unwrap();
    assert!(!out.contains(&0x1b));
}
