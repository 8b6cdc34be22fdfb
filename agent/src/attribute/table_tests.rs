use super::*;

fn flow(n: u16) -> Flow {
    Flow { local: ([10, 0, 0, 1], n).into(), remote: ([10, 0, 0, 2], 443).into() }
}

#[test]
fn a_flow_finds_its_socket_unless_it_is_ambiguous() {
    let mut t = Table::new(10);
    for (id, netns) in [(1, Some(100)), (2, Some(200))] {
        t.insert(Known { flow: Some(flow(1)), netns, ..Known::new(SocketId(id)) });
    }
    t.insert(Known { flow: Some(flow(2)), netns: Some(100), ..Known::new(SocketId(3)) });
    assert_eq!(t.of_flow(&flow(1), Some(200)), Some(SocketId(2)));
    assert_eq!(t.of_flow(&flow(1), None), None, "two namespaces, same addresses");
    assert_eq!(t.of_flow(&flow(2), None), Some(SocketId(3)));
    assert_eq!(t.of_flow(&flow(3), None), None);
}

#[test]
fn the_table_is_bounded_and_forgets_the_gone() {
    let mut t = Table::new(2);
    for id in 1..=3 {
        t.insert(Known { inode: id, flow: Some(flow(id as u16)), ..Known::new(SocketId(id)) });
    }
    assert_eq!((t.len(), t.full), (2, 1));
    t.set_gone(SocketId(1), Mono(0));
    t.expire(Mono(LINGER.as_nanos() as u64));
    assert_eq!(t.len(), 2, "late events still find it");
    t.expire(Mono(LINGER.as_nanos() as u64 + 1));
    assert_eq!((t.len(), t.of_inode(1).len(), t.of_flow(&flow(1), None)), (1, 0, None));
}

#[test]
fn a_storm_of_ended_sockets_turns_no_living_one_away() {
    let mut t = Table::new(32);
    assert!(t.insert(Known { flow: Some(flow(1)), inode: 7, ..Known::new(SocketId(1)) }));
    for n in 2..1_000 {
        let gone = Some(Mono(n));
        assert!(t.insert(Known { gone, flow: Some(flow(n as u16)), ..Known::new(SocketId(n)) }), "{n}");
    }
    assert_eq!(t.full, 0);
    assert_eq!(t.len(), 32);
    assert!(t.get(SocketId(1)).is_some(), "the living one stays");
    assert!(t.get(SocketId(999)).is_some() && t.get(SocketId(900)).is_none(), "the oldest left");
    assert!(t.by_flow.len() <= 32 && t.of_inode(7) == [SocketId(1)]);
    for n in 2_000..2_100 {
        t.insert(Known::new(SocketId(n)));
    }
    assert_eq!(t.len(), 32);
    assert!(t.full > 0, "a table full of living ones turns away, and says so");
}
