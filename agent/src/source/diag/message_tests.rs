use super::*;

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut a = ((payload.len() + 4) as u16).to_ne_bytes().to_vec();
    a.extend_from_slice(&kind.to_ne_bytes());
    a.extend_from_slice(payload);
    a.resize(a.len().next_multiple_of(4), 0);
    a
}

fn body(family: i32, state: u8) -> Vec<u8> {
    let mut b = vec![0; DIAG_MSG_LEN];
    b[0] = family as u8;
    b[1] = state;
    b[2] = 1;
    b[3] = 5;
    b[4..6].copy_from_slice(&1234u16.to_be_bytes());
    b[6..8].copy_from_slice(&443u16.to_be_bytes());
    if family == libc::AF_INET {
        b[8..12].copy_from_slice(&[10, 0, 0, 1]);
        b[24..28].copy_from_slice(&[10, 0, 0, 2]);
    } else {
        b[8..24].copy_from_slice(&"::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets());
        b[24..40].copy_from_slice(&"::ffff:10.0.0.2".parse::<Ipv6Addr>().unwrap().octets());
    }
    for (at, v) in [(44, 0xdead_beef_u32), (48, 1), (52, 4200), (56, 7), (60, 1000), (64, 1000), (68, 99)] {
        b[at..at + 4].copy_from_slice(&v.to_ne_bytes());
    }
    b
}

fn info() -> Vec<u8> {
    let mut i = vec![0u8; 232];
    i[2] = 5;
    i[4] = 4;
    for (at, v) in [(8, 3_200_000u32), (44, 60), (52, 9000), (56, 8000), (68, 1500), (144, 100), (228, 65_000)] {
        i[at..at + 4].copy_from_slice(&v.to_ne_bytes());
    }
    i[200..208].copy_from_slice(&5000u64.to_ne_bytes());
    i
}

#[test]
fn a_whole_reply() {
    let mut b = body(libc::AF_INET, 1);
    b.extend(attribute(INET_DIAG_INFO, &info()));
    // 19 in linux/inet_diag.h, with NLA_F_NESTED.
    b.extend(attribute(19 | 0x8000, &attribute(INET_ULP_INFO_NAME, b"mptcp\0")));
    let s = parse_socket(&b).unwrap();
    assert_eq!(s.id, SocketId(0x1_dead_beef));
    assert_eq!(s.flow.local.to_string(), "10.0.0.1:1234");
    assert_eq!(s.flow.remote.to_string(), "10.0.0.2:443");
    assert_eq!((s.inode, s.uid, s.timer_retransmits), (99, 1000, 5));
    assert_eq!((s.tcp.timer, s.tcp.timer_ms), (Some(1), Some(4200)));
    assert_eq!(s.tcp.rto, Some(Duration::from_millis(3200)));
    assert_eq!(s.tcp.unacked_bytes, Some(900), "send queue less what was never sent");
    assert_eq!((s.tcp.bytes_sent, s.tcp.send_window_bytes), (Some(5000), Some(65_000)));
    assert!(s.mptcp);
}

#[test]
fn v4_mapped_is_an_ipv4_flow_of_an_ipv6_socket() {
    let mut b = body(libc::AF_INET6, 1);
    b.extend(attribute(INET_DIAG_SKV6ONLY, &[0]));
    let s = parse_socket(&b).unwrap();
    assert_eq!(s.family, Family::V6);
    assert_eq!(s.flow.remote.to_string(), "10.0.0.2:443");
    assert_eq!(s.v6only, Some(false));
}

#[test]
fn an_older_kernels_shorter_tcp_info_leaves_the_rest_unknown() {
    let full = info();
    for len in 0..full.len() {
        let mut b = body(libc::AF_INET, 1);
        b.extend(attribute(INET_DIAG_INFO, &full[..len]));
        let t = parse_socket(&b).unwrap().tcp;
        assert_eq!(t.rto.is_some(), len >= 12, "{len}");
        assert_eq!(t.unacked_bytes.is_some(), len >= 148, "{len}");
        assert_eq!(t.bytes_sent.is_some(), len >= 208, "{len}");
        assert_eq!(t.send_window_bytes, None, "{len}");
    }
}

#[test]
fn listeners_and_handshakes_have_no_made_up_ages() {
    let mut b = body(libc::AF_INET, 10);
    b.extend(attribute(INET_DIAG_INFO, &info()));
    let s = parse_socket(&b).unwrap();
    assert_eq!((s.tcp.rto, s.tcp.send_queue_bytes, s.send_queue), (None, None, 1000));
    b[1] = 2;
    let s = parse_socket(&b).unwrap();
    assert_eq!((s.tcp.last_sent_ms, s.tcp.send_window_bytes, s.tcp.retransmits), (None, None, Some(5)));
}

#[test]
fn every_cut_and_every_wrong_length_is_an_error_or_a_socket_never_a_panic() {
    let mut b = body(libc::AF_INET, 1);
    b.extend(attribute(INET_DIAG_INFO, &info()));
    for len in 0..b.len() {
        let cut = parse_socket(&b[..len]);
        assert_eq!(cut.is_ok(), len == DIAG_MSG_LEN, "{len}");
    }
    for len in [0u16, 1, 3, 241, u16::MAX] {
        let mut wrong = b.clone();
        wrong[DIAG_MSG_LEN..DIAG_MSG_LEN + 2].copy_from_slice(&len.to_ne_bytes());
        assert_eq!(parse_socket(&wrong), Err(Malformed("attribute length out of bounds")), "{len}");
    }
    let mut wrong = b.clone();
    wrong[0] = 1;
    assert_eq!(parse_socket(&wrong), Err(Malformed("family is neither IPv4 nor IPv6")));
    wrong[0] = 2;
    wrong[1] = 99;
    assert_eq!(parse_socket(&wrong), Err(Malformed("unknown TCP state")));
}

fn message(kind: u16, seq: u32, body: &[u8]) -> Vec<u8> {
    let mut m = ((NLMSG_HDRLEN + body.len()) as u32).to_ne_bytes().to_vec();
    m.extend_from_slice(&kind.to_ne_bytes());
    m.extend_from_slice(&[0, 0]);
    m.extend_from_slice(&seq.to_ne_bytes());
    m.extend_from_slice(&[0; 4]);
    m.extend_from_slice(body);
    m.resize(m.len().next_multiple_of(4), 0);
    m
}

#[test]
fn messages_of_a_datagram() {
    let mut d = message(SOCK_DIAG_BY_FAMILY, 7, b"abcde");
    d.extend(message(NLMSG_ERROR, 7, &(-libc::ENOENT).to_ne_bytes()));
    d.extend(message(NLMSG_DONE, 8, &[]));
    let got: Vec<_> = Messages::new(&d).map(Result::unwrap).collect();
    let want = [(7, Message::Socket(b"abcde")), (7, Message::Error(libc::ENOENT)), (8, Message::Done)];
    assert_eq!(got, want);
}

#[test]
fn malformed_datagrams_end() {
    for len in 1..NLMSG_HDRLEN {
        assert!(Messages::new(&vec![0; len]).all(|m| m.is_err()), "{len}");
    }
    for claimed in [0u32, 15, 100, u32::MAX] {
        let mut d = message(SOCK_DIAG_BY_FAMILY, 1, b"abcd");
        d[..4].copy_from_slice(&claimed.to_ne_bytes());
        let got: Vec<_> = Messages::new(&d).collect();
        assert_eq!(got, [Err(Malformed("message length out of bounds"))], "{claimed}");
    }
    let d = message(NLMSG_ERROR, 1, &[]);
    let got: Vec<_> = Messages::new(&d).collect();
    assert_eq!(got, [Err(Malformed("error without number"))]);
}
