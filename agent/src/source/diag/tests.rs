//! Against the running kernel, in the test's own network namespace (that of the machine): loopback sockets only.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::model::{DestPrefix, Family, TcpState};

fn diag() -> Diag {
    Diag::open(&NetNs::own().unwrap()).unwrap()
}

fn cookie(s: &TcpStream) -> SocketId {
    SocketId(rustix::net::sockopt::socket_cookie(s).unwrap())
}

fn pair(listen: &str) -> (TcpStream, TcpStream) {
    let l = TcpListener::bind(listen).unwrap();
    let a = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let b = l.accept().unwrap().0;
    (a, b)
}

#[test]
fn dump_and_look_up_agree_for_both_families() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let (mut a, _b) = pair(listen);
        a.write_all(b"unread").unwrap();
        let mut diag = diag();
        let mut found = None;
        diag.dump(&Query::default(), |s| {
            if s.id == cookie(&a) {
                found = Some(s);
            }
        })
        .unwrap();
        let s = found.unwrap_or_else(|| panic!("{listen}: not in the dump"));
        assert_eq!((s.flow.local, s.flow.remote), (a.local_addr().unwrap(), a.peer_addr().unwrap()));
        assert_eq!(s.state, TcpState::Established);
        assert_eq!(s.tcp.bytes_sent, Some(6));
        assert!(s.tcp.rto.is_some() && s.inode != 0);
        let again = diag.get(&s.flow, s.interface, s.id).unwrap().unwrap();
        assert_eq!((again.id, again.inode, again.family), (s.id, s.inode, s.family));
        assert_eq!(diag.get(&s.flow, 0, SocketId(1)).unwrap(), None, "another's cookie");
        assert_eq!(diag.malformed(), 0);
    }
}

#[test]
fn a_dual_stack_socket_has_an_ipv4_flow_and_is_found_by_it() {
    let (a, b) = pair("[::]:0");
    drop(a);
    let l = TcpListener::bind("[::]:0").unwrap();
    let a = TcpStream::connect(("127.0.0.1", l.local_addr().unwrap().port())).unwrap();
    let accepted = l.accept().unwrap().0;
    drop(b);
    let mut diag = diag();
    let flow = Flow { local: a.peer_addr().unwrap(), remote: a.local_addr().unwrap() };
    let s = diag.get(&flow, 0, cookie(&accepted)).unwrap().unwrap();
    assert_eq!((s.family, s.flow), (Family::V6, flow));
}

#[test]
fn the_kernel_filters_destinations() {
    let (a, _b) = pair("127.0.0.1:0");
    let remote = a.peer_addr().unwrap();
    let ids = |prefixes: &[DestPrefix]| {
        let filter = destination_filter(prefixes);
        let mut ids = Vec::new();
        diag().dump(&Query { filter: &filter, ..Query::default() }, |s| ids.push((s.id, s.flow.remote))).unwrap();
        ids
    };
    let hit = DestPrefix::host(remote.ip(), remote.port());
    let miss = DestPrefix::host([192, 0, 2, 1].into(), 0);
    let found = ids(&[miss, hit]);
    assert!(found.iter().all(|(_, r)| *r == remote), "{found:?}");
    assert!(found.iter().any(|(id, _)| *id == cookie(&a)));
    assert_eq!(ids(&[miss]), []);
}

#[test]
fn a_namespace_of_its_own_is_entered_by_that_thread_only() {
    let own = NetNs::own().unwrap();
    assert_eq!(NetNs::of_pid(std::process::id()).unwrap().inode(), own.inode());
    assert!(own.inside(|| Ok(7)).is_ok_and(|n| n == 7));
}
