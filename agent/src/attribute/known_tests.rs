use super::*;

fn owner(pid: u32, fd: Option<i32>) -> Owner {
    Owner { pid, comm: "c".into(), fd, program: None }
}

#[test]
fn owners_are_a_set_and_the_last_one_stays() {
    let mut k = Known::new(SocketId(1));
    assert!(k.add_owner(owner(7, None)), "from an event");
    assert!(k.add_owner(owner(7, Some(3))), "from a scan: replaces it");
    assert!(!k.add_owner(owner(7, Some(3))));
    assert!(k.add_owner(owner(7, Some(4))), "dup");
    assert!(k.add_owner(owner(9, Some(3))), "fork");
    assert_eq!(k.owners.len(), 3);
    assert!(k.remove_owner(7, Some(4)));
    assert!(k.remove_owner(7, None), "exit takes all of its descriptors");
    assert_eq!(*k.owners, [owner(9, Some(3))]);
    assert!(k.remove_owner(9, None));
    assert!(k.orphan);
    assert_eq!(*k.owners, [owner(9, None)], "its last name stays");
    assert!(!k.remove_owner(8, None));
}

#[test]
fn the_first_timeout_is_remembered_across_samples() {
    let mut k = Known::new(SocketId(1));
    let s = Sysctls { retries2: 3, ..Sysctls::default() };
    let mut t = TcpMetrics {
        rto: Some(Duration::from_millis(816)),
        backoff: Some(2),
        retransmits: Some(2),
        unacked_segments: Some(1),
        timer: Some(1),
        timer_ms: Some(816),
        ..TcpMetrics::default()
    };
    let at = Mono::from_secs_f64(100.0);
    let left = k.gives_up_in(TcpState::Established, &t, &s, at).unwrap();
    assert_eq!(left, Duration::from_millis(816 + 1632 + 3264));
    assert_eq!(k.first_rto, Some(at.minus(Duration::from_millis(408))));
    t.retransmits = Some(0);
    t.backoff = Some(0);
    t.unacked_segments = Some(0);
    assert_eq!(k.gives_up_in(TcpState::Established, &t, &s, at), None);
    assert_eq!(k.first_rto, None);
}

